"""How a command ends: in words for a person, as one JSON object for a machine, or without a word."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nh2st_graph import __version__
from nh2st_graph._progress import be_quiet

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["AsJson", "Quiet", "conclude", "one_command"]


class _Warnings(logging.Handler):
    """Keep what the package warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning."""
        self.messages.append(record.getMessage().removeprefix("warning: "))


@dataclass
class _Output:
    """What the options of the command that runs ask for."""

    warnings: _Warnings = field(default_factory=_Warnings)
    stdout: TextIO | None = None
    quiet: bool = False

    def as_json(self, value: bool) -> None:
        """Keep standard output for the object: what any library prints goes to standard error."""
        if value and self.stdout is None:
            self.stdout, sys.stdout = sys.stdout, sys.stderr

    def quietly(self, value: bool) -> None:
        """Show warnings and errors alone."""
        if value:
            self.quiet = True
            be_quiet(True)


_now = _Output()


@contextmanager
def one_command() -> Iterator[None]:
    """Forget at the end of a command what its options asked for."""
    global _now
    own = logging.getLogger("nh2st_graph")
    _now = _Output()
    own.addHandler(_now.warnings)
    try:
        yield
    finally:
        own.removeHandler(_now.warnings)
        be_quiet(False)
        if _now.stdout is not None:
            sys.stdout = _now.stdout
        _now = _Output()


def conclude(words: Callable[[], object], facts: Callable[[], Mapping[str, Any]]) -> None:
    """End a command: print its result in words, or with ``--json`` as one object, or with ``--quiet`` not at all.

    Parameters
    ----------
    words
        Prints the result for a person.
    facts
        Gives the result for a machine; paths and numbers of numpy may be in it. NaN is written as null.
    """
    if _now.stdout is not None:
        found = {"version": __version__, **facts(), "warnings": _now.warnings.messages}
        print(json.dumps(_plain(found), indent=2, allow_nan=False), file=_now.stdout)
    elif not _now.quiet:
        words()


def _plain(value: Any) -> Any:
    """Turn what came of numpy, pandas and paths into what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if hasattr(value, "tolist"):  # of numpy and pandas
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value if value is None or isinstance(value, str | bool | int) else str(value)


AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        callback=lambda value: _now.as_json(value),
        is_eager=True,
        help="Print one JSON object at the end, and nothing else on standard output.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", callback=lambda value: _now.quietly(value), is_eager=True, help="Show warnings and errors alone."
    ),
]
