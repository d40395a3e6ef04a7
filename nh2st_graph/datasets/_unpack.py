"""Unpack archives of public data sets: known folders and plain files alone, up to a limit, all or nothing."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from shutil import copyfileobj

from nh2st_graph._errors import DataError, reason
from nh2st_graph._files import written_aside
from nh2st_graph.read import open_packed

__all__ = ["unpack"]

#: The most bytes and files of an archive. Space Ranger's ``spatial/`` has 30 MB in ten files.
_MOST_BYTES, _MOST_FILES = 2**29, 1000


def unpack(archive: Path, folder: Path, digest: str) -> None:
    """Unpack one folder of a tar archive, atomically.

    Parameters
    ----------
    archive
        A ``.tar.gz``.
    folder
        Where the archive's folder of this name comes to be; nothing is done if it exists.
    digest
        SHA-256 of the archive as it was published.

    Raises
    ------
    DataError
        If the archive is damaged, or not the published one; if it holds anything but files in this folder, such as a
        link or a path that leads out of it; or if it is larger than any such archive.
    """
    if folder.is_dir():
        return
    again = "remove it, so that it is fetched again"
    try:
        with archive.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise DataError(f"{archive} differs from the published archive; {again}")
        # As a stream, of which no more is unpacked than is read.
        with (
            open_packed(archive, 2 * _MOST_BYTES) as packed,
            tarfile.open(fileobj=packed, mode="r|") as files,
            written_aside(folder, folder=True) as aside,
        ):
            aside.mkdir()
            for member, path in _checked(archive, files, folder.name):
                place = aside / path
                place.parent.mkdir(parents=True, exist_ok=True)
                content = files.extractfile(member)
                assert content is not None
                with content, place.open("xb") as made:
                    copyfileobj(content, made)
            if not any(aside.iterdir()):
                raise DataError(f"{archive} holds no {folder.name}/; {again}")
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise DataError(f"{archive} cannot be unpacked ({reason(error)}); {again}") from error


def _checked(archive: Path, files: tarfile.TarFile, name: str) -> Iterator[tuple[tarfile.TarInfo, PurePosixPath]]:
    """Give the files of an archive with their paths in its folder; refuse everything else."""
    there, size = set[PurePosixPath](), 0
    for member in files:
        path = PurePosixPath(member.name)
        inside = path.parts[:1] == (name,) and ".." not in path.parts and "\\" not in member.name
        what = None
        if not inside:
            what = f"{member.name!r}, which is not in {name}/"
        elif not (member.isreg() or member.isdir()):
            what = f"{member.name!r}, which is a link, or no file"
        elif member.isreg() and (path in there or len(path.parts) < 2):
            what = f"{member.name!r} twice, or as a file and a folder"
        size += member.size
        if what is None and (size > _MOST_BYTES or len(there) >= _MOST_FILES):
            what = f"more than {_MOST_BYTES:,} bytes, or than {_MOST_FILES:,} files"
        if what is not None:
            raise DataError(f"{archive} holds {what}; nothing is unpacked: remove it, so that it is fetched again")
        if member.isreg():
            there.add(path)
            yield member, PurePosixPath(*path.parts[1:])
