"""Show what a command does and says, and handle Ctrl-C in one that can be resumed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import typer

from nh2st_graph._progress import LogHandler, PhaseHandler, phase, phases

__all__ = ["interruptible", "shown_messages", "silent", "working"]


@contextmanager
def working(resumable: bool = False) -> Iterator[None]:
    """Show from now on that the command works; show nothing any more after the block.

    It begins with the import of torch and the rest, which takes many seconds on a slow machine.

    Parameters
    ----------
    resumable
        On Ctrl-C, say how to go on.
    """
    phase("loading PyTorch and other libraries")
    try:
        with interruptible() if resumable else nullcontext():
            yield
    finally:
        phase()


@contextmanager
def silent() -> Iterator[None]:
    """Show errors alone, in a process beside the one that is watched."""
    phase()
    logging.disable(logging.WARNING)
    phases.disabled = True
    try:
        yield
    finally:
        phases.disabled = False
        logging.disable(logging.NOTSET)


@contextmanager
def interruptible() -> Iterator[None]:
    """Run work that can be resumed: on Ctrl-C, say how to go on.

    Raises
    ------
    typer.Exit
        With code 130 on Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        phase()
        typer.echo("interrupted; go on with the same command and --resume", err=True)
        raise typer.Exit(130) from None


@contextmanager
def shown_messages(debug: bool, as_process: bool) -> Iterator[None]:
    """Show messages of the package, one line each, and warnings of other packages; as a process also what it does."""
    handler, shown = LogHandler(), PhaseHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith("nh2st_graph"))
    root, own = logging.getLogger(), logging.getLogger("nh2st_graph")
    before = own.level
    own.setLevel(logging.DEBUG if debug else logging.INFO)
    # Some packages have their own handlers, and set their level on import.
    for noisy in ("squidpy", "spatialdata._logging", "timm"):
        logging.getLogger(noisy).addFilter(_only_warnings)
    root.addHandler(handler)
    if as_process:
        phases.setLevel(logging.DEBUG)
        phases.addHandler(shown)
    try:
        yield
    finally:
        phases.removeHandler(shown)
        shown.close()
        root.removeHandler(handler)
        own.setLevel(before)


def _only_warnings(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
