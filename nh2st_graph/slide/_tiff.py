"""Read TIFFs with tifffile: by windows, of which only the tiles underneath are decoded and some kept, or whole."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nh2st_graph._errors import ImageError
from nh2st_graph.slide._base import Box, Slide
from nh2st_graph.slide._colour import stored_box, turned
from nh2st_graph.slide._layout import EXPORT, Layout, UnreadableError
from nh2st_graph.slide._limits import check_held, check_windows
from nh2st_graph.slide._log import tifffile_said
from nh2st_graph.slide._pages import OwnReaderError, ScenesError, tiff_layout
from nh2st_graph.slide._pillow import HeldImage
from nh2st_graph.slide._segments import DAMAGE, grid, segment, window
from nh2st_graph.slide._wsi import EXTRA, has_extra

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

__all__ = ["TiffSlide", "open_tiff"]

#: Bytes of decoded tiles to keep. Spots are read row by row, and two rows of spots share tiles.
KEPT_BYTES = 2**29

#: Striped images of up to this many pixels are held whole: a strip runs across the image, a window does not.
_HELD_PIXELS = 2**28

#: A strip of more bytes than this holds so much of the image that windows save nothing.
_STRIP_BYTES = 2**26

#: So does a tile of more than this.
_TILE_BYTES = 2**28


class TiffSlide(Slide):
    """A TIFF of tiles or strips, with the smaller copies of the image in the same file.

    Parameters
    ----------
    path
        The file.
    file
        The same file, open; the slide closes it.
    layout
        Which of its pages are the slide, and how they are shown.

    Attributes
    ----------
    n_decoded
        Number of tiles decoded so far.
    """

    layout: Layout

    def __init__(self, path: Path, file: TiffFile, layout: Layout) -> None:
        self.path, self.layout, self.microns_per_pixel = path, layout, layout.microns_per_pixel
        self.sizes = [level.size for level in layout.levels]
        self.n_decoded = 0
        self._file = file
        self._pages = [level.page for level in layout.levels if level.page is not None]
        self._kept: OrderedDict[tuple[int, int], NDArray[np.uint8] | None] = OrderedDict()
        self._kept_bytes = 0

    @property
    def in_windows(self) -> bool:
        """Whether windows of the slide save decoding the rest of it."""
        return _in_windows(self._pages[0])

    def check(self) -> None:
        """Refuse it by the sizes that its pages declare.

        Raises
        ------
        ImageError
            If it declares too many pixels.
        """
        for page, size in zip(self._pages, self.sizes, strict=True):
            (check_windows if _in_windows(page) else check_held)(self.path, size)

    def region(self, level: int, box: Box) -> tuple[Image.Image, tuple[int, int]]:
        """Assemble the box from its tiles; see :meth:`Slide.region`."""
        stored = stored_box(box, self.sizes[level], self.layout.orientation)
        pixels = window(self._pages[level], stored, lambda index: self._decoded(level, index))
        shown = turned(pixels, self.layout.orientation)
        return Image.fromarray(np.ascontiguousarray(shown)), box[:2]

    def whole(self) -> Image.Image:
        """Decode the full resolution, one row of tiles or strips in memory at a time."""
        check_held(self.path, self.sizes[0])
        orientation = self.layout.orientation
        image = Image.new("RGB", self.sizes[0])
        page = self._pages[0]
        stored_width, stored_height = int(page.imagewidth), int(page.imagelength)
        _, rows, *_ = grid(page)
        for top in range(0, stored_height, rows):
            box = 0, top, stored_width, min(top + rows, stored_height)
            shown = turned(window(page, box, lambda index: self._decoded(0, index)), orientation)
            image.paste(Image.fromarray(np.ascontiguousarray(shown)), _shown_corner(box, self.sizes[0], orientation))
        return image

    def close(self) -> None:
        """Close the file and free its tiles."""
        self._kept.clear()
        self._file.close()

    def _decoded(self, level: int, index: int) -> NDArray[np.uint8] | None:
        """Return a tile as RGB, ``(height, width, 3)``; None if the file leaves it out."""
        key = (level, index)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        tile = self._kept[key] = segment(self._pages[level], self.layout.levels[level].colour, index)
        if tile is None:
            return None
        self.n_decoded += 1
        self._kept_bytes += tile.nbytes
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            dropped = self._kept.popitem(last=False)[1]
            self._kept_bytes -= 0 if dropped is None else dropped.nbytes
        return tile


def open_tiff(path: Path, scene: str | None = None) -> Slide | None:
    """Open a TIFF: by windows if it has tiles or thin strips, else whole.

    Parameters
    ----------
    path
        The file.
    scene
        Name or number of an image in it; the largest by default.

    Returns
    -------
    The slide; None if tifffile cannot read the file, or only the extra ``[wsi]``, which is there, reads its format.

    Raises
    ------
    ImageError
        If its pixels cannot be shown rightly, it declares too many of them, or it has several images of equal standing,
        or none of that name.
    """
    slide = _open(path, scene)
    if slide is None:
        return None
    try:
        slide.check()
    except ImageError:
        slide.close()
        raise
    if slide.in_windows:
        return slide
    slide.close()

    def decode(_: int | None) -> Image.Image:
        with tifffile_said():  # it was said when the file was opened first
            again = _open(path, scene)
        if again is None:
            raise ImageError(f"image {path} was changed while it was read; try again")
        try:
            return again.whole()
        finally:
            again.close()

    return HeldImage(path, slide.layout, decode)


def _in_windows(page: TiffPage) -> bool:
    width, height, *_ = grid(page)
    n_bytes = width * height * page.samplesperpixel
    if page.is_tiled:
        return n_bytes <= _TILE_BYTES
    small = page.imagewidth * page.imagelength <= _HELD_PIXELS
    return not small and n_bytes <= _STRIP_BYTES


def _open(path: Path, scene: str | None) -> TiffSlide | None:
    from tifffile import TiffFile, TiffFileError

    try:
        file = TiffFile(path)
    except (TiffFileError, *DAMAGE):
        return None
    try:
        return TiffSlide(path, file, tiff_layout(file, scene))
    except UnreadableError as error:
        file.close()
        raise ImageError(f"image {path} holds {error}; {EXPORT}") from None
    except ScenesError as error:
        file.close()
        raise ImageError(f"image {path} {error}") from None
    except OwnReaderError as error:
        file.close()
        if scene is None and has_extra():
            return None
        raise ImageError(
            f"image {path} is a scan in the format {error}, whose tiles its own reader places; {EXTRA}, or export it "
            "as a tiled TIFF"
        ) from None
    except ImageError:
        file.close()
        raise
    except (TiffFileError, *DAMAGE):
        file.close()
        return None


def _shown_corner(box: Box, size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Find where the upper left corner of a stored box is in the image as it is shown, of this width and height."""
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    stored_size = size[::-1] if orientation >= 5 else size
    return stored_box(box, stored_size, inverse)[:2]
