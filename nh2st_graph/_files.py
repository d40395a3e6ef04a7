"""Files: written atomically, in folders with one owner, of a known format; and JSON that others wrote."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from packaging.version import InvalidVersion, Version

from nh2st_graph import __version__
from nh2st_graph._errors import DataError, NH2STGraphError, RunError, setting

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = [
    "ENVIRONMENT",
    "as_number",
    "cache_root",
    "check_format",
    "check_place",
    "is_count",
    "is_left_over",
    "make_folder",
    "on_disk",
    "one_at_a_time",
    "owned",
    "owned_new",
    "parse_json",
    "positive",
    "read_text",
    "stamp",
    "write_text",
    "written_aside",
]

#: Environment variable with a cache folder, instead of the user's.
ENVIRONMENT = "NH2ST_GRAPH_CACHE"

#: File by which a process owns a folder, and the seconds that another one waits: a killed process needs some to end.
LOCK, _WAIT = ".lock", 2.0

#: Seconds between two looks at a lock that may be held for minutes; how often a folder is made that others remove.
_POLL, _TRIES = 0.2, 100

#: End of the name of a file that is being written.
_PART = ".part"

#: Errors of a disk, and what to do.
_ROOM, _OTHER = "make room there", "make it writable, or choose another folder"
_DISK = {
    errno.ENOSPC: ("the disk is full", _ROOM),
    errno.EDQUOT: ("your share of the disk is used up", _ROOM),
    errno.EFBIG: ("files may not be that large there", _ROOM),
    errno.EROFS: ("the disk is read-only", _OTHER),
    errno.EACCES: ("it is read-only for you", _OTHER),
    errno.EPERM: ("it may not be changed", _OTHER),
}


def cache_root() -> Path:
    """Find the cache folder: the one in the environment variable, or that of the user."""
    import pooch

    return Path(os.environ.get(ENVIRONMENT) or pooch.os_cache("nh2st_graph")).expanduser()


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Say in our words that the disk is full or read-only where a block writes.

    Raises
    ------
    RunError
        If it is. What was written under its name before is complete.
    """
    try:
        with _without_echoes(path):
            yield
    except NH2STGraphError:
        raise
    except Exception as error:  # HDF5 and safetensors have classes of their own
        found = _of_disk(error, path)
        if found is None:
            raise
        raise RunError(f"{path} cannot be written: {found[0]}; {found[1]}, and repeat the command") from error


@contextmanager
def _without_echoes(path: Path) -> Iterator[None]:
    """Print no traceback for each object of HDF5 that cannot be closed on a full disk: the error itself says it."""
    with _LOCK:
        if not _WRITTEN:
            _HOOKS[:] = [sys.excepthook, sys.unraisablehook]
            sys.excepthook, sys.unraisablehook = _printed, _unraisable
        _WRITTEN.append(path)
    try:
        yield
    finally:
        with _LOCK:  # threads may end in another order than they began
            _WRITTEN.remove(path)
            if not _WRITTEN:
                sys.excepthook, sys.unraisablehook = _HOOKS


#: What is being written by all threads, and the hooks that were there before the first began.
_LOCK, _WRITTEN, _HOOKS = threading.Lock(), list[Path](), list[Any]()


def _is_echo(error: BaseException | None) -> bool:
    return isinstance(error, Exception) and any(_of_disk(error, path) is not None for path in _WRITTEN)


def _printed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not _is_echo(error):
        _HOOKS[0](kind, error, trace)


def _unraisable(about: sys.UnraisableHookArgs) -> None:
    if not _is_echo(about.exc_value):
        _HOOKS[1](about)


def _of_disk(error: Exception, path: Path) -> tuple[str, str] | None:
    """Find what a disk refused, and what to do; None if the error is no disk's, or of a file elsewhere."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None:  # libraries in C and Rust write the system's words into theirs
        number = next((each for each in _DISK if os.strerror(each) in str(error)), None)
    named = error.filename if isinstance(error, OSError) else None
    if named is not None:
        place = Path(os.fsdecode(named)).absolute()
        if not place.is_relative_to(path.absolute().parent) and place not in path.absolute().parents:
            return None
    elif number in {errno.EACCES, errno.EPERM} and os.access(path.absolute().parent, os.W_OK):
        return None  # it speaks of another file
    return None if number is None else _DISK.get(number)


def make_folder(folder: Path, file: Path | None = None) -> None:
    """Make a folder, and those above it, where they are not there.

    Parameters
    ----------
    folder
        The folder.
    file
        The file that is to be written into it, if an error is to name that.

    Raises
    ------
    RunError
        If it cannot be made.
    """
    for again in reversed(range(_TRIES)):
        try:
            with on_disk(file or folder):
                folder.mkdir(parents=True, exist_ok=True)
            return
        except OSError as error:
            if again and isinstance(error, FileNotFoundError | FileExistsError):
                continue  # another process may have removed what was found a moment ago
            above = next(each for each in (folder, *folder.absolute().parents) if each.exists())
            said = f"{above} is a file" if not above.is_dir() else str(error.strerror)
            what = f"folder {folder} cannot be made" if file is None else f"{file} cannot be written"
            raise RunError(f"{what}: {said}; give another path") from None


@contextmanager
def written_aside(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Write a file or folder to a temporary path beside it, and rename it at the end of the block.

    The path thus has the old content or the new, never a part of it, also after a power failure: a file is on the disk
    before it is renamed. A block that fails or is interrupted leaves nothing. An old folder, or a link to one, is moved
    out of the way, and removed once the new one is there. A missing folder above the path is made.

    Parameters
    ----------
    path
        The file or folder.
    folder
        Whether it is a folder.

    Yields
    ------
    The path to write to.

    Raises
    ------
    RunError
        If a folder is there in place of a file, or a file in place of a folder above it, or the disk is full or
        read-only.
    """
    if path.is_dir() and not folder:
        raise RunError(f"{path} is a folder; give the path of a file")
    make_folder(path.parent, path)
    aside, old = (path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_PART}") for _ in range(2))
    with on_disk(path):
        try:
            yield aside
            if aside.is_file():
                _as_any_file(aside)
                with aside.open("rb+") as handle:
                    os.fsync(handle.fileno())
            elif path.is_dir():
                path.replace(old)
            aside.replace(path)
        finally:
            with suppress(OSError):  # it hides no error of the block
                if old.is_dir() and not path.exists():
                    old.replace(path)
                for each in (aside, old):
                    shutil.rmtree(each, ignore_errors=True)
                    each.unlink(missing_ok=True)  # a file or link, which that leaves


def _as_any_file(path: Path) -> None:
    """Let those read a file who may read what this process writes; safetensors writes files for their owner alone."""
    if path.stat().st_mode & 0o077 == 0:
        mask = os.umask(0o077)
        os.umask(mask)
        path.chmod(0o666 & ~mask)


def is_left_over(folder: Path) -> bool:
    """Whether a folder holds nothing, or what a process leaves that is killed before it writes its first file."""
    return folder.is_dir() and all(
        each.name == LOCK or (each.name.startswith(".") and each.name.endswith(_PART)) for each in folder.iterdir()
    )


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
    if path.exists():
        return
    if not os.access(above, os.W_OK):
        raise RunError(f"{path} cannot be written: {above} is read-only for you; give another as {setting('out')}")
    try:  # some systems of files let nobody make anything, and say otherwise
        Path(tempfile.mkdtemp(prefix=".", suffix=_PART, dir=above)).rmdir()
    except OSError as error:
        said = error.strerror
        raise RunError(
            f"{path} cannot be written: nothing can be made in {above} ({said}); give another as {setting('out')}"
        ) from None


def read_text(path: Path, what: str, cure: str) -> str:
    """Read a text file in UTF-8 that a user wrote.

    Parameters
    ----------
    path
        The file.
    what
        What an error calls it, such as ``"gene panel"`` or ``"regions"``.
    cure
        What an error says to do.

    Raises
    ------
    DataError
        If it is missing, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{what} {path} {'do' if what.endswith('s') else 'does'} not exist; {cure}") from None
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "not a text file"
        raise DataError(f"{what} {path} cannot be read: {said}; {cure}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def owned_new(folder: Path, what: str) -> Iterator[None]:
    """Make a folder if it is not there, and own it as :func:`owned` does; if it stays empty, remove it again."""
    with _made(folder), owned(folder, what):
        yield


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder if it is not there; if it stays empty, remove it again."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    make_folder(folder)
    try:
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
        with on_disk(folder):
            lock.acquire(timeout=_WAIT)
    except Timeout:
        raise RunError(
            f"{what} {folder} is in use by another process; wait until it has ended, or use another folder"
        ) from None
    try:
        yield
    finally:
        _release_lock(lock)


@contextmanager
def one_at_a_time(path: Path, wait: Callable[[], object]) -> Iterator[None]:
    """Let one process at a time do what a block does; the others wait.

    The operating system keeps the lock, and releases it if its holder dies. Where no lock can be kept, as in a
    read-only folder, nobody waits.

    Parameters
    ----------
    path
        File of the lock, which is there while a block runs.
    wait
        Called before this process waits for another.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    with ExitStack() as stack:
        said = False
        while not lock.is_locked:
            try:
                stack.enter_context(_made(path.parent))
                lock.acquire(timeout=-1 if said else 0, poll_interval=_POLL)
            except Timeout:
                wait()
                said = True
            except (FileNotFoundError, FileExistsError):  # another process has just removed the folder, which was empty
                continue
            except (RunError, OSError, NotImplementedError):
                break
        stack.callback(_release_lock, lock)
        yield


def _release_lock(lock: BaseFileLock) -> None:
    """Release a lock; its file goes with the last block of its holder."""
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


def as_number(value: object) -> float:
    """Give a value as a float; NaN, which no bound holds for, if it is no real number, such as a number in quotes."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def positive(value: object) -> float | None:
    """Give a value as a float if it is a finite number above 0; else None."""
    number = as_number(value)
    return number if 0 < number < math.inf else None


def is_count(value: object, least: int = 1) -> bool:
    """Whether a value is a whole number, and not below the least."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least


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
