"""Open images with Pillow: their size, a thumbnail for plots, and the full resolution."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from nh2st_graph._errors import ImageError
from nh2st_graph.slide._base import Box, Slide

__all__ = ["HeldImage", "content_hash", "image_info", "image_size", "open_full", "thumbnail"]

logger = logging.getLogger("nh2st_graph")

#: An image with more pixels than this, of three bytes each, takes gigabytes.
_MANY_PIXELS = 2**29


class _NoLimit:
    """Lift Pillow's limit on the number of pixels, which scans of sections exceed.

    Pillow checks the limit when it opens a file, and again when it decodes a TIFF. The limit belongs to the process, so
    the first user lifts it and the last one restores it. Users do not wait for each other.
    """

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                Image.MAX_IMAGE_PIXELS = self._limit


_no_limit = _NoLimit()


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """Open an image with Pillow while the block runs, without the limit on pixels."""
    if not path.is_file():
        raise ImageError(f"image {path} does not exist; give the full-resolution image of the section")
    with _no_limit:
        try:
            handle = Image.open(path)
        except UnidentifiedImageError:
            raise ImageError(f"image {path} cannot be read as an image; give a JPEG, PNG or TIFF") from None
        except OSError as error:
            raise ImageError(f"image {path} cannot be opened ({error}); check that it can be read") from error
        with handle:
            try:
                yield handle
            except (OSError, SyntaxError, EOFError) as error:
                raise ImageError(f"image {path} is cut off or damaged ({error}); copy or download it again") from error


def image_size(path: str | Path) -> tuple[int, int]:
    """Read the width and height of an image in pixels, without decoding it.

    Raises
    ------
    ImageError
        If the file is missing or not an image.
    """
    return image_info(path)[0]


def image_info(path: str | Path) -> tuple[tuple[int, int], dict[Any, Any]]:
    """Read the width and height of an image in pixels, and the rest of its header (Pillow's ``info``).

    Raises
    ------
    ImageError
        If the file is missing or not an image.
    """
    with _open(Path(path)) as image:
        return image.size, dict(image.info)


def thumbnail(path: str | Path, max_side: int = 2000) -> tuple[NDArray[np.uint8], float]:
    """Decode an image at reduced size for plots.

    Parameters
    ----------
    path
        The full-resolution image. A JPEG is decoded at reduced size, so that the full image is never in memory.
    max_side
        Longest side of the result, in pixels.

    Returns
    -------
    The RGB image, ``(height, width, 3)``, and its scale: thumbnail pixels per full-resolution pixel.

    Raises
    ------
    ImageError
        If the file is missing, not an image, or cut off.
    """
    with _open(Path(path)) as image:
        full = max(image.size)
        image.draft("RGB", (max_side, max_side))
        image.load()
        small = _rgb(image)
        small.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        return np.asarray(small, dtype=np.uint8), max(small.size) / full


@contextmanager
def open_full(path: str | Path) -> Iterator[Image.Image]:
    """Decode a full-resolution image to RGB, and hold it while the block runs.

    Yields
    ------
    The decoded image. Cut regions out of it (``crop``, ``resize(box=...)``): an array of it would be a second copy.

    Raises
    ------
    ImageError
        If the file is missing, not an image, or cut off.
    """
    with _open(Path(path)) as image:
        image.load()
        decoded = _rgb(image)
    try:
        yield decoded
    finally:
        decoded.close()


def content_hash(path: str | Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB, with transparent pixels on white, the colour of glass."""
    if image.mode == "RGB":
        return image
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


class HeldImage(Slide):
    """An image without tiles (JPEG, PNG, TIFF in one piece): decoded for the first region, and held until closed.

    Parameters
    ----------
    path
        The file.
    size
        Width and height in pixels.
    microns_per_pixel
        Its resolution, if the file states one.
    """

    def __init__(self, path: Path, size: tuple[int, int], microns_per_pixel: float | None = None) -> None:
        self.path, self.sizes, self.microns_per_pixel = path, [size], microns_per_pixel
        self._held = ExitStack()
        self._image: Image.Image | None = None

    def region(self, level: int, box: Box) -> tuple[Image.Image, tuple[int, int]]:
        """Return the whole image; see :meth:`Slide.region`."""
        del level, box
        if self._image is None:
            width, height = self.sizes[0]
            if width * height > _MANY_PIXELS:
                logger.warning(
                    "%s is not tiled, so all of its %d x %d px (%.1f GB) are decoded at once; "
                    "a tiled TIFF needs a fraction of that memory",
                    self.path,
                    width,
                    height,
                    width * height * 3 / 1e9,
                )
            self._image = self._held.enter_context(open_full(self.path))
        return self._image, (0, 0)

    def thumbnail(self, max_side: int = 2000) -> tuple[NDArray[np.uint8], float]:
        """Decode at reduced size, if the format can; see :meth:`Slide.thumbnail`."""
        return thumbnail(self.path, max_side)

    def close(self) -> None:
        """Free the image."""
        self._held.close()
