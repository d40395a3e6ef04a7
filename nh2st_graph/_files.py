"""Files: written atomically, in folders with one owner, of a known format; and JSON that others wrote."""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from nh2st_graph import __version__
from nh2st_graph._errors import NH2STGraphError, RunError, setting

__all__ = [
    "ENVIRONMENT",
    "cache_root",
    "check_format",
    "check_place",
    "owned",
    "owned_new",
    "parse_json",
    "positive",
    "stamp",
    "write_text",
    "written_aside",
]

#: Environment variable with a cache folder, instead of the user's.
ENVIRONMENT = "NH2ST_GRAPH_CACHE"

#: File by which a process owns a folder, and the seconds that another one waits: a killed process needs some to end.
LOCK, _WAIT = ".lock", 2.0


def cache_root() -> Path:
    """Find the cache folder: the one in the environment variable, or that of the user."""
    import pooch

    return Path(os.environ.get(ENVIRONMENT) or pooch.os_cache("nh2st_graph")).expanduser()


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Write a file or folder to a temporary path beside it, and rename it at the end of the block.

    The path thus has the old content or the new, never a part of it, also after a power failure: a file is on the disk
    before it is renamed. A block that fails or is interrupted leaves nothing. A folder cannot replace another: remove
    the old one at the end of the block.

    Yields
    ------
    The path to write to.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield aside
        if aside.is_file():
            with aside.open("rb+") as handle:
                os.fsync(handle.fileno())
        aside.replace(path)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Refuse a file or folder to be written below something that is no folder, or where nothing may be written.

    Raises
    ------
    RunError
        If it cannot be written there.
    """
    path = path.expanduser().absolute()
    above = next(parent for parent in path.parents if parent.exists())
    if not above.is_dir():
        raise RunError(f"{path} cannot be written: {above} is a file; give another as {setting('out')}")
    if not os.access(above, os.W_OK) and not path.exists():
        raise RunError(f"{path} cannot be written: {above} is read-only for you; give another as {setting('out')}")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def owned_new(folder: Path, what: str) -> Iterator[None]:
    """Make a folder if it is not there, and own it as :func:`owned` does; if it stays empty, remove it again."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with owned(folder, what):
            yield
    finally:
        with suppress(OSError):  # it is not empty
            for each in made:
                each.rmdir()


@contextmanager
def owned(folder: Path, what: str) -> Iterator[None]:
    """Own a folder while the block runs, so that no second process writes into it.

    The operating system keeps the lock, and releases it if its holder dies. Its file is there while the block runs. A
    block may own a folder that an outer block of the same thread owns.

    Parameters
    ----------
    folder
        A folder that exists.
    what
        What an error calls it, such as ``"run folder"``.

    Raises
    ------
    RunError
        If another process, or another thread, owns the folder.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder.resolve() / LOCK, is_singleton=True)
    try:
        lock.acquire(timeout=_WAIT)
    except Timeout:
        raise RunError(
            f"{what} {folder} is in use by another process; wait until it has ended, or use another folder"
        ) from None
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            # Still locked: who opened the file before will find that it has no name any more, and try again.
            with suppress(OSError):
                Path(lock.lock_file).unlink()
        lock.release()


#: Digits of the largest floating-point number; a whole number of more of them is infinite.
_DIGITS = 309


def parse_json(text: str | bytes) -> Any:
    """Read a value from JSON, in which every number fits a float: larger ones are infinite.

    Raises
    ------
    ValueError
        If the text is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _whole(digits: str) -> int | float:
    if len(digits.lstrip("-")) < _DIGITS:
        return int(digits)
    return -math.inf if digits.startswith("-") else math.inf


def positive(value: object) -> float | None:
    """Give a value as a float if it is a finite number above 0; else None."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if 0 < number < math.inf else None


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
