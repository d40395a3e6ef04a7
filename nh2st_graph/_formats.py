"""Formats of what the package writes: earlier ones are read, and what a later version wrote is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from packaging.version import InvalidVersion, Version

from nh2st_graph import __version__
from nh2st_graph._errors import NH2STGraphError

__all__ = ["check_format", "stamp"]

#: The version of a source tree that was never installed, which nobody can compare.
_UNKNOWN = "0+unknown"


def stamp(format: int) -> dict[str, Any]:
    """Say what writes a file: ``format`` and ``version``."""
    return {"format": format, "version": __version__}


def check_format(
    where: str, about: Mapping[str, Any], reads: int, error: type[NH2STGraphError], otherwise: str = "write it again"
) -> None:
    """Refuse what a later version wrote: it may mean something that this one does not know.

    Parameters
    ----------
    where
        What an error names first: the kind of file and its path.
    about
        What the file says: ``format`` and ``version``. A file of before there were formats has neither.
    reads
        The format that this version writes; it reads all before it.
    error
        Class of the error.
    otherwise
        What to do about a format that is none.

    Raises
    ------
    NH2STGraphError
        If format or version is later than this version's, or is none.
    """
    format = about.get("format")
    version = None if about.get("version") is None else " ".join(str(about["version"]).split())
    number = 0 if isinstance(format, bool) or not isinstance(format, Integral) else int(format)
    release, own = _release(version), _release(__version__)
    later = release is not None and own is not None and release > own
    if number > reads or later:
        todo = f"install nh2st-graph {version}" if later else "install a later version"
    elif ("format" in about and number < 1) or (version is not None and release is None and version != _UNKNOWN):
        todo = otherwise
    else:
        return
    written = f"written in format {format!r}" if "format" in about else "written"
    by = version or "of an unknown version"
    raise error(
        f"{where}: {written} by nh2st-graph {by}; this is version {__version__}, which reads format {reads}: {todo}"
    )


def _release(version: str | None) -> Version | None:
    """Read a version; None if it is none, or unknown."""
    try:
        return Version(version) if version not in {None, _UNKNOWN} else None
    except InvalidVersion:
        return None
