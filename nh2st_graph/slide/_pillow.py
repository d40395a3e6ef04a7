"""Decode images with Pillow, and hold images that are decoded as a whole."""

from __future__ import annotations

import logging
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from nh2st_graph._errors import ImageError, reason
from nh2st_graph.slide._base import Box, Slide
from nh2st_graph.slide._colour import Colour
from nh2st_graph.slide._layout import EXPORT, Layout, UnreadableError, pillow_layout
from nh2st_graph.slide._limits import check_held

__all__ = ["HeldImage", "open_plain"]

logger = logging.getLogger("nh2st_graph")

#: An image with more pixels than this, of three bytes each, takes gigabytes.
_MANY_PIXELS = 2**29

#: Errors of Pillow on a damaged file.
_DAMAGE = (OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, struct.error, zlib.error)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
def _open(path: Path) -> Iterator[ImageFile]:
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
        except _DAMAGE as error:
            raise ImageError(f"image {path} is damaged ({reason(error)}); copy or download it again") from error
        with handle:
            try:
                yield handle
            except _DAMAGE as error:
                raise ImageError(
                    f"image {path} is cut off or damaged ({reason(error)}); copy or download it again"
                ) from error


def open_plain(path: Path) -> HeldImage:
    """Open an image that is no TIFF: JPEG, PNG, and what else Pillow reads.

    Raises
    ------
    ImageError
        If the file is missing or no image, declares too many pixels, or its pixels cannot be shown rightly.
    """
    with _open(path) as image:
        check_held(path, image.size)
        try:
            layout = pillow_layout(image)
        except UnreadableError as error:
            raise ImageError(f"image {path} holds {error}; {EXPORT}") from None
    return HeldImage(path, layout, partial(_decode, path, layout))


def _decode(path: Path, layout: Layout, max_side: int | None) -> Image.Image:
    """Decode an image to RGB as it is shown, and as small as its format allows if that is enough."""
    with _open(path) as image:
        if max_side is not None:
            image.draft("RGB", (max_side, max_side))
        wide = image.format == "PNG" and ";16" in str(image.tile)
        image.load()
        if wide:
            _check_range(image, path)
        rgb = _rgb(image)
        turn = _TURNS.get(layout.orientation)
        return rgb if turn is None else rgb.transpose(turn)


def _check_range(image: Image.Image, path: Path) -> None:
    """Refuse 16 bits of which few are used: a camera kept 10, 12 or 14 bits in them, and the file does not say it."""
    bands = image.getextrema()
    colours = bands[: 1 if image.mode == "LA" else 3] if isinstance(bands[0], tuple) else (bands,)
    highest = max(int(high) for _, high in colours)
    top = 2**16 - 1 if image.mode.startswith("I") else 255
    if highest <= top // 4:
        share = round(highest / top * (2**16 - 1))
        raise ImageError(
            f"image {path} holds uint16, whose values end at about {share} of 65535, and does not say how many bits "
            f"are used; {EXPORT}"
        )


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB, with transparent pixels on white, the colour of glass."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # grey of 16 bits
        grey = Colour("grey", 16, 2**16 - 1).rgb(np.asarray(image)[..., None])
        return Image.fromarray(grey)
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
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
    layout
        What it shows.
    decode
        Decodes it to RGB, as it is shown; given a length, maybe only so small that its longest side still has it.
    """

    layout: Layout

    def __init__(self, path: Path, layout: Layout, decode: Callable[[int | None], Image.Image]) -> None:
        self.path, self.layout, self.sizes = path, layout, [layout.size]
        self.microns_per_pixel = layout.microns_per_pixel
        self._decode = decode
        self._image: Image.Image | None = None

    def region(self, level: int, box: Box) -> tuple[Image.Image, tuple[int, int]]:
        """Return the whole image; see :meth:`Slide.region`."""
        del level, box
        if self._image is None:
            self._image = self.whole()
        return self._image, (0, 0)

    def whole(self) -> Image.Image:
        """Decode the image, of which the caller is the owner."""
        check_held(self.path, self.sizes[0])
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
        return self._decode(None)

    def thumbnail(self, max_side: int = 2000) -> tuple[NDArray[np.uint8], float]:
        """Decode at reduced size, if the format can; see :meth:`Slide.thumbnail`."""
        small = self._decode(max_side)
        small.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        return np.asarray(small, dtype=np.uint8), max(small.size) / max(self.sizes[0])

    def close(self) -> None:
        """Free the image."""
        if self._image is not None:
            self._image.close()
