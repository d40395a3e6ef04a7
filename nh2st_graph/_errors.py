"""The exceptions of the package. A message is one line that says what, where, and what to do.

The command line turns every :class:`NH2STGraphError` into that line and exit code 2. Here are also names that a room
loads late, and its earlier ones.
"""

from __future__ import annotations

import ast
import importlib
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import lazy_loader

#: Who reads an error: a caller in Python, the author of a configuration, or a user of the shell.
Level = Literal["argument", "key", "flag"]

#: Keys of what a format's reader takes; the command ``prepare`` has one flag for all of them.
_OPTIONS = "data.options."

#: Stands among the names of flags if the command has no ``--set``.
NO_SET = "no set"

#: The version in which earlier names go away.
_UNTIL = "0.2"

#: Most names that are listed where none is close: a section has thousands of genes and spots.
_KNOWN = 60

_SETTING = re.compile("\x02(.*?)\x1f(.*?)\x1f(.*?)\x03", re.DOTALL)


class NH2STGraphError(Exception):
    """Base of all errors that this package raises on purpose.

    A message names settings by :func:`setting`. ``str(error)`` then shows them as arguments, and :meth:`at` as keys of
    a configuration or flags of a command.
    """

    def __str__(self) -> str:
        return self.at("argument")

    def at(self, level: Level, flags: Collection[str] = ()) -> str:
        """Write the message for a reader.

        Parameters
        ----------
        level
            The reader: how to name settings.
        flags
            Names of the arguments that have a flag of their own. Other keys are shown as ``--set KEY=VALUE``, or, if
            :data:`NO_SET` is among the names, without that flag.
        """
        return _SETTING.sub(lambda found: _named(found[1], found[2], found[3], level, flags), super().__str__())


class RenamedWarning(FutureWarning):
    """An earlier name of a key, argument or function, which works until the next minor version."""


def late_names(room: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make ``__getattr__``, ``__dir__`` and ``__all__`` of a room whose names load on first use, by its stub.

    The names for users are the stub's ``__all__``. What it imports beside them is for other rooms.

    Parameters
    ----------
    room, file
        ``__name__`` and ``__file__`` of the room.
    """
    load, _, _ = lazy_loader.attach_stub(room, file)
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    (public,) = [ast.literal_eval(each.value) for each in stub.body if isinstance(each, ast.Assign)]
    return load, public.copy, public


def earlier_names(
    room: str, names: Mapping[str, str], otherwise: Callable[[str], Any] | None = None
) -> Callable[[str], Any]:
    """Make a room's ``__getattr__``, which gives earlier public names with a :class:`RenamedWarning`.

    Parameters
    ----------
    room
        Full name of the room.
    names
        Where each object is now, by its earlier name: the name that the room has for it, or ``"_file.name"`` where it
        is not public any more.
    otherwise
        The room's own ``__getattr__``, if it has one.
    """

    def get(name: str) -> Any:
        if name not in names:
            if otherwise is not None:
                return otherwise(name)
            raise AttributeError(f"module {room!r} has no attribute {name!r}")
        file, _, now = names[name].rpartition(".")
        what = f"is not public any more, and goes away in version {_UNTIL}" if file else f"is now {now}"
        until = "" if file else f"; the earlier name is read until version {_UNTIL}"
        warnings.warn(f"{room}.{name} {what}{until}", RenamedWarning, stacklevel=2)
        return getattr(importlib.import_module(f"{room}.{file}" if file else room), now)

    return get


class ConfigError(NH2STGraphError):
    """A configuration key or value that cannot be used."""


class DataError(NH2STGraphError):
    """A section, or a file of one, that breaks the section contract."""


class ImageError(DataError):
    """An image that is missing, unreadable, cut off, or does not cover the spots."""


class ModelError(NH2STGraphError):
    """A model folder that cannot be loaded, or a model used on data that it does not fit."""


class RunError(NH2STGraphError):
    """A run folder that exists already, is missing, or is not a run."""


def reason(error: BaseException) -> str:
    """Shorten an exception to one line of at most 200 characters; without a message, to its class."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def shortened(value: object) -> str:
    """Write a value of any kind into a message, on one line of at most 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def listed(names: Iterable[object], most: int = 5) -> str:
    """List names in a message, the first of many: ``a, b, c, d, e and 3 more``."""
    given = [str(name) for name in names]
    return ", ".join(given[:most]) + (f" and {len(given) - most:,} more" if len(given) > most else "")


#: Keys whose argument is the part of the configuration that they are in: ``model="bleep"``.
_OF_PART = {"model.name": "model"}


def setting(name: str, value: Any = None, *, argument: str | None = None) -> str:
    """Mark a setting in an error message, so that :meth:`NH2STGraphError.at` can name it for the reader.

    Parameters
    ----------
    name
        An argument (``"resume"``), or a dotted key of a configuration (``"data.panel"``).
    value
        Its value, or the value to give; not shown if None.
    argument
        The argument for a key, if it is not the key's last word, nor the part that it is in.
    """
    argument = argument or _OF_PART.get(name, name.rpartition(".")[2])
    return f"\x02{name}\x1f{argument}\x1f{'' if value is None else repr(value)}\x03"


def is_about(error: Exception, part: str) -> bool:
    """Say whether an error names a setting of a part of the configuration (``"data.options"``)."""
    return bool(error.args) and f"\x02{part}." in str(error.args[0])


@contextmanager
def said_of(given: str, meant: str, *, when: bool = True) -> Iterator[None]:
    """Name another setting in errors of ours: the one that the caller gave, in place of the one that it stands for.

    Parameters
    ----------
    given, meant
        Dotted keys.
    when
        Whether the caller gave it.
    """
    try:
        yield
    except NH2STGraphError as error:
        found = [setting(key).removesuffix("\x03") for key in (meant, given)]
        if not when or found[0] not in error.args[0]:
            raise
        raise type(error)(error.args[0].replace(*found)) from error


def _named(name: str, argument: str, value: str, level: Level, flags: Collection[str]) -> str:
    plain = value.strip("'").lower() if value in {"True", "False", "None"} else value.strip("'")
    if level == "key" and "." in name:
        return f"{name}={plain}" if value else name
    if level == "flag" and argument in flags:
        word = argument.replace("_", "-")
        if value == "False":
            return f"--no-{word}"
        return f"--{word}" if value in {"", "True"} else f"--{word} {plain}"
    if level == "flag" and name.startswith(_OPTIONS) and "option" in flags:
        return f"--option {argument}={plain}" if value else f"--option {argument}"
    if level == "flag" and "." in name and NO_SET in flags:
        if not name.startswith(_OPTIONS):
            return f"{name}={plain}" if value else name
        word = f"{argument}={plain}" if value else argument
        return f"{word} (prepare takes it: --option {word})"
    if level == "flag" and "." in name:
        return f"--set {name}={plain}" if value else name
    return f"{argument}={value}" if value else argument


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """Suggest known names that are close to ``name``.

    Parameters
    ----------
    name
        The unknown name.
    known
        The names that exist.
    n
        How many close names to give at most.

    Returns
    -------
    The end of a sentence: ``"did you mean 'grid'?"``, or the known names if none is close, the first of many.
    """
    choices = sorted(known)
    close = [choice for choice in choices if choice.casefold() == name.casefold()][:n]
    close = close or get_close_matches(name, choices, n=n, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + listed(choices, _KNOWN)
