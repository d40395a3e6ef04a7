"""Opening section images: their size, a thumbnail for plots, and the full resolution once."""

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

#: Above this many pixels, three bytes each, holding an image is a matter of gigabytes.
_MANY_PIXELS = 2**29


class _NoLimit:
    """Lifts Pillow's limit on pixels, which a section scan exceeds.

    Pillow checks it when it opens a file and, of a TIFF, again when it decodes. It is one for the process, so the first
    that needs it lifted lifts it, and the last puts it back; they do not wait for each other.
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
    """Open with Pillow, without its limit on pixels while the block runs, closed at the end."""
    if not path.is_file():
        raise ImageError(f"image {path} does not exist; give the full-resolution image of the section")
    with _no_limit:
        try:
            handle = Image.open(path)
        except UnidentifiedImageError:
            raise ImageError(f"image {path} is not an image that can be read (JPEG, PNG or TIFF expected)") from None
        except OSError as error:
            raise ImageError(f"image {path} cannot be opened: {error}") from error
        with handle:
            try:
                yield handle
            except (OSError, SyntaxError, EOFError) as error:
                raise ImageError(f"image {path} is cut off or damaged ({error}); copy or download it again") from error


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of an image in pixels, without decoding it.

    Raises
    ------
    ImageError
        If the file is missing or not an image.
    """
    return image_info(path)[0]


def image_info(path: str | Path) -> tuple[tuple[int, int], dict[Any, Any]]:
    """Width and height of an image in pixels, and what else its header says (Pillow's ``info``).

    Raises
    ------
    ImageError
        If the file is missing or not an image.
    """
    with _open(Path(path)) as image:
        return image.size, dict(image.info)


def thumbnail(path: str | Path, max_side: int = 2000) -> tuple[NDArray[np.uint8], float]:
    """Decode an image at reduced size, for plots.

    Parameters
    ----------
    path
        The full-resolution image. JPEG files are decoded at reduced scale, so that the full
        image is never in memory.
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
    """Hold the full-resolution RGB image while the block runs, once, and let go of it after.

    Yields
    ------
    The decoded image. Cut regions out of it (``crop``, ``resize(box=...)``) rather than turning it
    into an array, which would hold it a second time.

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
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _rgb(image: Image.Image) -> Image.Image:
    """To RGB, transparency over white (glass), as slide images mean it."""
    if image.mode == "RGB":
        return image
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


class HeldImage(Slide):
    """An image without windows (JPEG, PNG, a TIFF in one piece): decoded at the first region, and held until closed.

    Parameters
    ----------
    path
        The file.
    size
        Width and height in pixels.
    microns_per_pixel
        Its scale, where the file gives one.
    """

    def __init__(self, path: Path, size: tuple[int, int], microns_per_pixel: float | None = None) -> None:
        self.path, self.sizes, self.microns_per_pixel = path, [size], microns_per_pixel
        self._held = ExitStack()
        self._image: Image.Image | None = None

    def region(self, level: int, box: Box) -> tuple[Image.Image, tuple[int, int]]:
        """Give the whole image; see :meth:`Slide.region`."""
        del level, box
        if self._image is None:
            width, height = self.sizes[0]
            if width * height > _MANY_PIXELS:
                logger.warning(
                    "%s is not tiled, so that all of its %d x %d px (%.1f GB) are decoded at once; "
                    "a tiled TIFF needs a fraction of that",
                    self.path,
                    width,
                    height,
                    width * height * 3 / 1e9,
                )
            self._image = self._held.enter_context(open_full(self.path))
        return self._image, (0, 0)

    def thumbnail(self, max_side: int = 2000) -> tuple[NDArray[np.uint8], float]:
        """Decode at reduced size where the format can; see :meth:`Slide.thumbnail`."""
        return thumbnail(self.path, max_side)

    def close(self) -> None:
        """Let go of the image."""
        self._held.close()
