"""Whole slides and pictures alike: levels, windows and scale, without the full resolution in memory where it can be."""

from __future__ import annotations

import importlib.util
import logging
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nh2st_graph._errors import ImageError, reason
from nh2st_graph._image import image_info, open_full, thumbnail
from nh2st_graph._scale import dots_scale, plausible_scale

__all__ = ["HeldPicture", "Slide", "WsiSlide", "open_slide", "or_extra", "slide_size"]

logger = logging.getLogger("nh2st_graph")

#: ``(left, top, right, bottom)`` in pixels of a level.
Box = tuple[int, int, int, int]

EXTRA = 'pip install "nh2st-graph[wsi]"'

#: Of scanners, read by OpenSlide. Aperio's is a TIFF that is read without it as well.
_APERIO = ".svs"
_BY_OPENSLIDE = (_APERIO, ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".svslide", ".bif", ".czi", ".dcm", ".dicom")

#: Of scanners as well: wsidata reads them with one more package.
_BY_OTHERS = {".isyntax": "pyisyntax", ".vsi": "scyjava"}

_OF_SCANNERS = frozenset({*_BY_OPENSLIDE, *_BY_OTHERS})

#: Above this many pixels, three bytes each, holding a picture is a matter of gigabytes.
_MANY_PIXELS = 2**29

#: A picture that is made smaller is read in bands of this many pixels.
_BAND_PIXELS = 2**25


class Slide(ABC):
    """An open picture: a pyramid of one or more levels, of which windows are read.

    Attributes
    ----------
    path
        The file.
    sizes
        Width and height of each level in pixels, the full resolution first.
    microns_per_pixel
        Scale of the full resolution as the file gives it; None where it gives none.
    """

    path: Path
    sizes: list[tuple[int, int]]
    microns_per_pixel: float | None

    @abstractmethod
    def region(self, level: int, box: Box) -> tuple[Image.Image, tuple[int, int]]:
        """Give an RGB picture that covers a box inside of a level, and the place of its first pixel on the level."""

    @cached_property
    def downsamples(self) -> list[float]:
        """Full-resolution pixels along a pixel of each level. Sizes are rounded, and factors whole as a rule."""
        width, height = self.sizes[0]
        factors = []
        for w, h in self.sizes:
            whole = round(width / w)
            fits = abs(width / whole - w) < 1 and abs(height / whole - h) < 1
            factors.append(float(whole) if fits else (width / w + height / h) / 2)
        return factors

    def level_for(self, downsample: float) -> int:
        """Find the coarsest level that is at least as fine as asked; half a percent less counts as rounding."""
        return max(i for i, factor in enumerate(self.downsamples) if i == 0 or factor <= 1.005 * downsample)

    def thumbnail(self, max_side: int = 2000) -> tuple[NDArray[np.uint8], float]:
        """Make a small picture of the whole, ``(height, width, 3)``, and say how many of its pixels are one of ours.

        Read in bands from the coarsest level that is fine enough, so that memory does not grow with the slide.
        """
        full = max(self.sizes[0])
        level = self.level_for(max(1.0, full / max_side))
        width, height = self.sizes[level]
        factor = max(1.0, max(width, height) / max_side)
        small = Image.new("RGB", (max(1, round(width / factor)), max(1, round(height / factor))))
        rows = max(1, int(_BAND_PIXELS / (width * factor)))
        for top in range(0, small.height, rows):
            bottom = min(top + rows, small.height)
            edges = top * height / small.height, bottom * height / small.height
            box = (0, math.floor(edges[0]), width, math.ceil(edges[1]))
            source, (left, above) = self.region(level, box)
            part = (-left, edges[0] - above, width - left, edges[1] - above)
            small.paste(source.resize((small.width, bottom - top), Image.Resampling.BOX, box=part), (0, top))
        return np.asarray(small, dtype=np.uint8), max(small.size) / full

    def close(self) -> None:  # noqa: B027 - a slide may have nothing to close
        """Let go of the file."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, sizes={self.sizes})"


class HeldPicture(Slide):
    """A picture without windows (JPEG, PNG, a TIFF in one piece): decoded at the first region, and held until closed.

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
        self._picture: Image.Image | None = None

    def region(self, level: int, box: Box) -> tuple[Image.Image, tuple[int, int]]:
        """Give the whole picture; see :meth:`Slide.region`."""
        del level, box
        if self._picture is None:
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
            self._picture = self._held.enter_context(open_full(self.path))
        return self._picture, (0, 0)

    def thumbnail(self, max_side: int = 2000) -> tuple[NDArray[np.uint8], float]:
        """Decode at reduced size where the format can; see :meth:`Slide.thumbnail`."""
        return thumbnail(self.path, max_side)

    def close(self) -> None:
        """Let go of the picture."""
        self._held.close()


class WsiSlide(Slide):
    """A slide that wsidata opens: OpenSlide's formats, and those of the other readers that it finds installed.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    wsi
        What wsidata and LazySlide work on.

    Raises
    ------
    ImageError
        If none of wsidata's readers opens it.
    """

    def __init__(self, path: Path) -> None:
        from wsidata import open_wsi

        self.path = path
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The image is not pyramidal")  # windows are read all the same
                # No store: nothing is written beside the slide.
                self.wsi: Any = open_wsi(path, store=None)
            self._reader = self.wsi.reader
            about = self._reader.properties
        except Exception as error:  # each reader has its own
            package = _BY_OTHERS.get(path.suffix.lower())
            advice = f"pip install {package}" if package else "copy it again"
            raise ImageError(
                f"slide {path}: no installed reader opens it ({reason(error)}); {advice}, or export it as a tiled TIFF"
            ) from error
        self.sizes = [(int(width), int(height)) for height, width in about.level_shape]
        self.microns_per_pixel = plausible_scale(about.mpp)

    def region(self, level: int, box: Box) -> tuple[Image.Image, tuple[int, int]]:
        """Read the box; see :meth:`Slide.region`. OpenSlide wants its corner at full resolution."""
        left, top, right, bottom = box
        factor = self.downsamples[level]
        corner = round(left * factor), round(top * factor)
        try:
            pixels = self._reader.get_region(*corner, right - left, bottom - top, level=level)
        except Exception as error:  # each reader has its own
            raise ImageError(f"slide {self.path} is cut off or damaged ({reason(error)}); copy it again") from error
        return Image.fromarray(np.ascontiguousarray(pixels[..., :3], dtype=np.uint8)), (left, top)

    def close(self) -> None:
        """Close the reader."""
        self._reader.detach_reader()


@contextmanager
def open_slide(path: str | Path) -> Iterator[Slide]:
    """Open a slide or picture while the block runs.

    Parameters
    ----------
    path
        JPEG, PNG, or TIFF (tiled and pyramidal ones, OME and Aperio's ``.svs`` among them, are read by windows); with
        the extra ``[wsi]``, what OpenSlide reads: ``.svs``, ``.ndpi``, ``.mrxs``, ``.scn``, ..., and TIFFs of scanners
        that tell their scale, or open, in its way only (Philips, Ventana, Leica).

    Yields
    ------
    The slide.

    Raises
    ------
    ImageError
        If the file is missing, damaged, or of a format that no installed reader opens.
    """
    slide = _open(Path(path))
    try:
        yield slide
    finally:
        slide.close()


def slide_size(path: str | Path) -> tuple[int, int]:
    """Width and height of a slide or picture at full resolution, without decoding it.

    Raises
    ------
    ImageError
        As :func:`open_slide` does.
    """
    with open_slide(path) as slide:
        return slide.sizes[0]


def _open(path: Path) -> Slide:
    if not path.is_file():
        raise ImageError(f"image {path} does not exist; give the full-resolution picture of the section")
    suffix = path.suffix.lower()
    of_scanner = suffix in _OF_SCANNERS
    if of_scanner and _has_extra():
        return WsiSlide(path)
    if (not of_scanner or suffix == _APERIO) and _is_tiff(path):
        slide = _open_tiff(path)
        if slide is not None:
            return slide
    if of_scanner:
        packages = f"{EXTRA} {_BY_OTHERS.get(suffix, '')}".rstrip()
        raise ImageError(f"slide {path}: no installed reader opens {suffix}; {packages}")
    try:
        size, info = image_info(path)
    except ImageError as error:
        raise ImageError(f"{error}{or_extra(path)}") from None
    return HeldPicture(path, size, dots_scale(info.get("dpi")))


def _open_tiff(path: Path) -> Slide | None:
    """Open by tifffile; by the extra where that cannot, or where only the extra knows the scale."""
    from nh2st_graph._tiff import open_tiff

    plain = open_tiff(path)
    if not _has_extra() or (plain is not None and plain.microns_per_pixel is not None):
        return plain
    try:
        by_extra = WsiSlide(path)
    except ImageError:
        return plain
    if plain is None:
        return by_extra
    # Of a scanner whose tags only its own reader knows: that places its tiles and levels too.
    chosen, other = (plain, by_extra) if by_extra.microns_per_pixel is None else (by_extra, plain)
    other.close()
    return chosen


def or_extra(path: Path) -> str:
    """Advice to end an error with: the extra, where it is not installed and may know more of a file."""
    if _has_extra() or not _is_tiff(path):
        return ""
    return f"; if a scanner wrote this TIFF, its own reader may know more: {EXTRA}"


def _has_extra() -> bool:
    return importlib.util.find_spec("wsidata") is not None


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}
