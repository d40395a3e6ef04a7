"""Write files atomically, give a folder one owner, and find the cache folder."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nh2st_graph._errors import RunError, setting

__all__ = ["ENVIRONMENT", "cache_root", "check_place", "owned", "owned_new", "write_text", "written_aside"]

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
