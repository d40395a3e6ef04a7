"""Fetch files of public data sets, check them, and continue an interrupted download."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nh2st_graph._errors import DataError
from nh2st_graph._files import cache_root

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["data_folder", "fetch_file", "file_list"]

_GIT = "git:"
_CHUNK_BYTES = 2**18

#: The most bytes of a file; the largest image of the public sections has 3 GB.
_MOST_BYTES = 2**34


def data_folder(name: str) -> Path:
    """Find the cache folder of a data set."""
    return cache_root() / "datasets" / name


def file_list(name: str) -> dict[str, list[str]]:
    """Read a data set's list of files: the first word of each line, with its other words."""
    text = (files(__package__) / f"{name}.txt").read_text(encoding="utf-8")
    lines = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {section: words for section, *words in lines}


def fetch_file(url: str, path: Path, digest: str | None = None, *, instead: str, progress: bool = True) -> Path:
    """Fetch a file with pooch, unless it exists.

    A partial download stays in ``{name}.part``, and a later call fetches the rest only. The file gets its name when it
    is complete and its checksum is right; an existing file is not checked again.

    Parameters
    ----------
    url
        Address of the file.
    path
        Where to save it.
    digest
        ``sha256:...``, or ``git:...`` for git's hash of the file (the SHA-1 of its size and bytes); None if unknown.
    instead
        What a user without network can do, for the error.
    progress
        Show a progress bar.

    Raises
    ------
    DataError
        If the file cannot be fetched, differs from the published one, or is larger than any of these.
    """
    if path.is_file():
        return path
    import pooch

    def download(url: str, output_file: str, _: Any) -> None:
        part = path.with_name(f"{path.name}.part")
        _fetch_rest(url, part, progress)
        if digest and digest.startswith(_GIT) and _git_name(part) != digest.removeprefix(_GIT):
            part.unlink()
            raise ValueError("wrong checksum")
        part.replace(output_file)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _warnings_only(pooch.get_logger()):
            known = None if digest is None or digest.startswith(_GIT) else digest
            pooch.retrieve(url, known, path.name, path.parent, downloader=download)
    except (OSError, ValueError) as error:
        raise DataError(f"{url} cannot be fetched ({_reason(error)}); {instead}") from None
    return path


def _fetch_rest(url: str, part: Path, progress: bool) -> None:
    """Fetch the rest of a partial file; after a broken connection try again, as long as each attempt brings more."""
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            return _append(url, part, progress)
        except OSError as error:
            status = _status(error)
            if status == 416 and before:  # longer than the server's file, so it is no part of it
                part.unlink()
            elif status is not None or not part.is_file() or part.stat().st_size <= before:
                raise


def _append(url: str, part: Path, progress: bool) -> None:
    import pooch

    with _Limited(part, url) as file:

        def begin(response: Any, *_: Any, **__: Any) -> None:
            if response.status_code == 200:  # a server without ranges sends the whole file
                file.truncate(0)

        # Ranges count bytes of the file itself, so it must not be compressed on the way.
        headers = {"Range": f"bytes={file.tell()}-", "Accept-Encoding": "identity"}
        fetch = pooch.HTTPDownloader(
            progressbar=progress, chunk_size=_CHUNK_BYTES, headers=headers, hooks={"response": begin}
        )
        fetch(url, file, None)


class _Limited(io.FileIO):
    """A file that is removed with an error once it is longer than any may be."""

    def __init__(self, path: Path, url: str) -> None:
        super().__init__(path, "ab")
        self.path, self.url = path, url

    def write(self, content: Buffer) -> int:
        """Append bytes."""
        if self.tell() + len(memoryview(content)) > _MOST_BYTES:
            self.path.unlink()
            raise DataError(
                f"{self.url} sends more than {_MOST_BYTES:,} bytes, which no file of a data set has; it is not kept"
            )
        return super().write(content)


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _git_name(path: Path) -> str:
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(_CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    """Give the cause of a network error in a few words."""
    if isinstance(error, ValueError):
        return "its content differs from the published file"
    if status := _status(error):
        return f"the server answers {status}"
    if isinstance(error, ConnectionError) or type(error).__module__.startswith("requests"):
        return "no connection"
    return " ".join(str(error).split())[:160]


@contextmanager
def _warnings_only(log: logging.Logger) -> Iterator[None]:
    """Hide pooch's advice to note checksums."""
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)
