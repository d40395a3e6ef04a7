"""The project's own exceptions: one line each that says what, where, and what to do.

The command line turns every :class:`NH2STGraphError` into that line and exit code 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class NH2STGraphError(Exception):
    """Base of everything this package raises on purpose."""


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
    """What an exception says, on one line of 200 characters at most; its class where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """Say which known names are close to ``name``.

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
    A half sentence: ``"did you mean 'grid'?"``, or all known names where none is close.
    """
    choices = sorted(known)
    close = get_close_matches(name, choices, n=n, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "known: " + ", ".join(choices)
