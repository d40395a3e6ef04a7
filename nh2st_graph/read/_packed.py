"""Read packed files up to a limit: a file of some kB can hold terabytes of zeros."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from nh2st_graph._errors import DataError

__all__ = ["MOST_BYTES", "open_packed"]

#: The most bytes that a packed file may hold. The largest tables of counts that are passed on as text hold 0.5e9.
MOST_BYTES = 2**32


class _Buffer(Protocol):
    """What ``readinto`` fills."""

    def __len__(self) -> int: ...
    def __setitem__(self, key: slice, value: bytes, /) -> None: ...


class _Limited(io.RawIOBase):
    """A stream that ends with an error where it is longer than it may be."""

    def __init__(self, stream: BinaryIO, path: Path, most: int) -> None:
        self.stream, self.path, self.most, self.left = stream, path, most, most

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def readinto(self, buffer: _Buffer) -> int:  # type: ignore[override] # typeshed's buffer has no length
        """Fill a buffer, and count."""
        content = self.stream.read(len(buffer))
        self.left -= len(content)
        if self.left < 0:
            raise DataError(
                f"{self.path} holds more than {self.most:,} bytes when it is unpacked, which no file of this kind "
                "does; if it is right, unpack it yourself"
            )
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Close the file, too."""
        self.stream.close()
        super().close()


def open_packed(path: Path, most: int = MOST_BYTES) -> BinaryIO:
    """Open a file that ends in ``.gz`` as what is packed in it, up to a limit; any other file as it is.

    Parameters
    ----------
    path
        The file.
    most
        The most bytes that may be packed in it. Reading further raises a :class:`DataError`.
    """
    if path.suffix != ".gz":
        return path.open("rb")
    return io.BufferedReader(_Limited(cast(BinaryIO, gzip.open(path)), path, most), 2**18)
