"""Read tiled TIFFs by windows with tifffile: only the tiles under a window are decoded, and some are kept."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import error as zlib_error

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nh2st_graph._errors import ImageError, reason
from nh2st_graph.slide._base import Box, Slide
from nh2st_graph.slide._pillow import HeldImage
from nh2st_graph.slide._resolution import aperio_scale, dots_scale, ome_scale

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

__all__ = ["TiffSlide", "open_tiff"]

#: Bytes of decoded tiles to keep. Spots are read row by row, and two rows of spots share tiles.
KEPT_BYTES = 2**29

#: Striped images of up to this many pixels are held whole: a strip runs across the image, a window does not.
_HELD_PIXELS = 2**28

#: A strip of more bytes than this holds so much of the image that windows save nothing.
_STRIP_BYTES = 2**26

_JPEG = frozenset({6, 7, 34892, 33007})

#: Photometric tags of grey, RGB and YCbCr; palettes and inks would be read as wrong colours.
_COLOURS = frozenset({1, 2, 6})

#: Errors of tifffile and the codecs on a damaged file; those of imagecodecs are RuntimeErrors.
_DAMAGE = (OSError, EOFError, KeyError, IndexError, ValueError, TypeError, RuntimeError, struct.error, zlib_error)


class TiffSlide(Slide):
    """A TIFF of tiles or thin strips, with the smaller copies of the image in the same file.

    Parameters
    ----------
    path
        The file.
    file
        The same file, open; the slide closes it.
    pages
        Levels, the full resolution first.
    microns_per_pixel
        Its resolution, if the file states one.

    Attributes
    ----------
    n_decoded
        Number of tiles decoded so far.
    """

    def __init__(self, path: Path, file: TiffFile, pages: Sequence[TiffPage], microns_per_pixel: float | None) -> None:
        self.path, self.microns_per_pixel = path, microns_per_pixel
        self.sizes = [(int(page.imagewidth), int(page.imagelength)) for page in pages]
        self.n_decoded = 0
        self._file, self._pages = file, pages
        self._kept: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()
        self._kept_bytes = 0

    def region(self, level: int, box: Box) -> tuple[Image.Image, tuple[int, int]]:
        """Assemble the box from its tiles; see :meth:`Slide.region`."""
        left, top, right, bottom = box
        page = self._pages[level]
        tile_width, tile_height = _tile(page)
        across = -(-int(page.imagewidth) // tile_width)
        # A file may leave out tiles without tissue: white is the colour of glass.
        pixels = np.full((bottom - top, right - left, 3), 255, dtype=np.uint8)
        for row in range(top // tile_height, -(-bottom // tile_height)):
            for column in range(left // tile_width, -(-right // tile_width)):
                tile = self._decoded(level, row * across + column)
                x, y = column * tile_width, row * tile_height
                source = tile[max(top - y, 0) : bottom - y, max(left - x, 0) : right - x]
                below, beside = max(y - top, 0), max(x - left, 0)
                pixels[below : below + source.shape[0], beside : beside + source.shape[1]] = source
        return Image.fromarray(pixels), (left, top)

    def close(self) -> None:
        """Close the file and free its tiles."""
        self._kept.clear()
        self._file.close()

    def _decoded(self, level: int, index: int) -> NDArray[np.uint8]:
        """Return a tile as RGB, ``(height, width, 3)``; without rows if the file leaves it out."""
        key = (level, index)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        tile = self._kept[key] = self._decode(self._pages[level], index)
        self._kept_bytes += tile.nbytes
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return tile

    def _decode(self, page: TiffPage, index: int) -> NDArray[np.uint8]:
        try:
            n_bytes = page.databytecounts[index]
            if n_bytes == 0:
                return np.empty((0, 0, 3), dtype=np.uint8)
            options: dict[str, Any] = {"_fullsize": page.is_tiled}
            if page.compression in _JPEG:
                options |= {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
            decode, handle = page.decode, page.parent.filehandle
            # Seek last: the first access to an attribute of the page moves the file position.
            handle.seek(page.dataoffsets[index])
            decoded, _, shape = decode(handle.read(n_bytes), index, **options)
            self.n_decoded += 1
            return _rgb(np.asarray(decoded).reshape(shape[1:] if len(shape) == 4 else shape))
        except _DAMAGE as error:
            raise ImageError(
                f"image {self.path} is cut off or damaged ({reason(error)}); copy or download it again"
            ) from error


def open_tiff(path: Path) -> Slide | None:
    """Open a TIFF: by windows if it has tiles or thin strips, else whole.

    Returns
    -------
    The slide; None if tifffile cannot read the file.

    Raises
    ------
    ImageError
        If the image is not 8-bit grey or colour.
    """
    from tifffile import TiffFile, TiffFileError

    try:
        file = TiffFile(path)
    except (TiffFileError, *_DAMAGE):
        return None
    try:
        pages = _levels(file)
        scale = _scale(file, pages[0])
        windows = _in_windows(pages[0])
        if windows:
            _check_pixels(path, file, pages[0])
    except ImageError:
        file.close()
        raise
    except (TiffFileError, *_DAMAGE):
        file.close()
        return None
    if windows:
        return TiffSlide(path, file, pages, scale)
    file.close()
    return HeldImage(path, (int(pages[0].imagewidth), int(pages[0].imagelength)), scale)


def _levels(file: TiffFile) -> list[TiffPage]:
    """Find the pages of the largest image and its smaller copies, the largest first; label and macro are left out."""
    firsts = [level.pages[0] for series in file.series for level in series.levels]
    pages = [page.aspage() for page in firsts if page is not None]
    first = max(pages, key=lambda page: page.imagewidth * page.imagelength)
    width, height = int(first.imagewidth), int(first.imagelength)
    levels = {(width, height): first}
    for page in pages:
        w, h = int(page.imagewidth), int(page.imagelength)
        same_view = abs(w * height - h * width) <= max(width, height)
        if same_view and page.is_tiled == first.is_tiled and page.samplesperpixel == first.samplesperpixel:
            levels.setdefault((w, h), page)
    return [levels[size] for size in sorted(levels, reverse=True)]


def _in_windows(page: TiffPage) -> bool:
    if page.is_tiled:
        return True
    width, height = _tile(page)
    small = page.imagewidth * page.imagelength <= _HELD_PIXELS
    return not small and width * height * page.samplesperpixel <= _STRIP_BYTES


def _check_pixels(path: Path, file: TiffFile, page: TiffPage) -> None:
    """Refuse an image that is not 8-bit grey or colour."""
    planes = next((len(series) for series in file.series if series.pages[0] is page), 1)
    in_one = page.planarconfig == 1 and planes == 1
    if page.dtype == np.uint8 and page.photometric in _COLOURS and page.samplesperpixel in {1, 3, 4} and in_one:
        return
    what = f"{page.dtype}, {page.samplesperpixel} samples a pixel, {planes} planes, photometric {int(page.photometric)}"
    raise ImageError(f"image {path} holds {what}; export it as an RGB image of 8 bits")


def _scale(file: TiffFile, page: TiffPage) -> float | None:
    """Read um per pixel: from formats that state it, else from the resolution tags."""
    stated = aperio_scale(page.description) or ome_scale(file.ome_metadata if file.is_ome else None)
    if stated or "XResolution" not in page.tags:
        return stated
    unit_um = {2: 25_400.0, 3: 10_000.0}.get(int(page.resolutionunit))
    return dots_scale(page.resolution, unit_um) if unit_um else None


def _tile(page: TiffPage) -> tuple[int, int]:
    if page.is_tiled:
        return int(page.tilewidth), int(page.tilelength)
    return int(page.imagewidth), int(page.rowsperstrip)


def _rgb(tile: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert grey to RGB, and put transparent pixels on white."""
    if tile.shape[-1] == 1:
        return np.repeat(tile, 3, axis=-1)
    if tile.shape[-1] == 4:
        share = tile[..., 3:].astype(np.float32) / 255
        return np.rint(tile[..., :3] * share + 255 * (1 - share)).astype(np.uint8)
    return tile
