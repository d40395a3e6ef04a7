"""The interface of an open slide: levels, windows and resolution."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nh2st_graph.slide._layout import Layout
from nh2st_graph.slide._limits import check_held

__all__ = ["Box", "Slide"]

#: ``(left, top, right, bottom)`` in pixels of a level.
Box = tuple[int, int, int, int]

#: A thumbnail is made from bands of this many pixels.
_BAND_PIXELS = 2**25


class Slide(ABC):
    """An open image: a pyramid of one or more levels, read by windows.

    Attributes
    ----------
    path
        The file.
    sizes
        Width and height of each level in pixels, the full resolution first.
    microns_per_pixel
        Resolution of the first level as the file states it; None if it does not.
    layout
        What the image is by the statements of its file; None if only a scanner's own reader knows it.
    scan_origin
        Upper left corner of what was scanned, x then y, in full-resolution pixels. OpenSlide counts pixels of some
        scanners (.mrxs, .scn) from the corner of the glass; QuPath counts from this corner.
    """

    path: Path
    sizes: list[tuple[int, int]]
    microns_per_pixel: float | None
    layout: Layout | None = None
    scan_origin: tuple[int, int] = (0, 0)

    @abstractmethod
    def region(self, level: int, box: Box) -> tuple[Image.Image, tuple[int, int]]:
        """Read an RGB image that covers a box of a level, and the position of its first pixel on that level."""

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the file, and of how its pixels are read if that is not the common way, in hexadecimal."""
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        if self.layout is not None:
            digest.update(self.layout.reading.encode())
        return digest.hexdigest()

    @cached_property
    def downsamples(self) -> list[float]:
        """Full-resolution pixels per pixel of each level, along one axis.

        Level sizes are rounded, so a whole factor is taken where it fits.
        """
        width, height = self.sizes[0]
        factors = []
        for w, h in self.sizes:
            whole = round(width / w)
            fits = abs(width / whole - w) < 1 and abs(height / whole - h) < 1
            factors.append(float(whole) if fits else (width / w + height / h) / 2)
        return factors

    def level_for(self, downsample: float) -> int:
        """Find the coarsest level that is fine enough; half a percent too coarse counts as rounding."""
        return max(i for i, factor in enumerate(self.downsamples) if i == 0 or factor <= 1.005 * downsample)

    def thumbnail(self, max_side: int = 2000) -> tuple[NDArray[np.uint8], float]:
        """Make a small image of the whole slide.

        It is made in bands from the coarsest level that is fine enough, so that memory does not grow with the slide.

        Parameters
        ----------
        max_side
            Longest side of the result, in pixels.

        Returns
        -------
        The RGB image, ``(height, width, 3)``, and its scale: thumbnail pixels per full-resolution pixel.
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

    def whole(self) -> Image.Image:
        """Decode the full resolution, of which the caller is the owner."""
        check_held(self.path, self.sizes[0])
        return self.region(0, (0, 0, *self.sizes[0]))[0]

    def close(self) -> None:  # noqa: B027 - a slide may have nothing to close
        """Close the file."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, sizes={self.sizes})"
