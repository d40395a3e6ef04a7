"""Where a slide has tissue: a mask at low resolution, and how much of a square it covers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nh2st_graph.slide._base import Slide
from nh2st_graph.slide._wsi import WsiSlide

__all__ = ["TissueMask", "find_tissue", "tissue_mask"]

#: Bounds of Otsu's threshold on saturation. Below, it would part glass from glass on a slide without tissue; above,
#: pale tissue from strong on an image without glass.
_SATURATION = (0.05, 0.15)

#: Darker than any stain at low resolution: ink, the frame of the scan, and what a scanner left out.
_BLACK = 0.15

#: Blur before the threshold, and the smallest piece or hole, as a disc of this diameter, in um.
_BLUR_UM = 10.0
_PIECE_UM = 200.0

#: LazySlide reads a level as a whole; one of this many pixels is 200 MB.
_WHOLE_LEVEL_PIXELS = 2**26


@dataclass(frozen=True)
class TissueMask:
    """Tissue at low resolution.

    Attributes
    ----------
    mask
        ``(height, width)`` bool, true on tissue.
    scale
        Mask pixels per full-resolution pixel.
    """

    mask: NDArray[np.bool_]
    scale: float

    def fraction(self, centres: NDArray[np.float64], side: float) -> NDArray[np.float64]:
        """Share of the square around each place that is tissue; what lies beyond the slide is none.

        Parameters
        ----------
        centres
            ``(n, 2)``, x then y, in full-resolution pixels.
        side
            Of the square, in full-resolution pixels.

        Returns
        -------
        ``(n,)``, from 0 to 1, with parts of mask pixels counted as parts.
        """
        from scipy.ndimage import map_coordinates

        # Tissue above and left of each corner; between corners it is bilinear, exactly.
        area = np.zeros(np.array(self.mask.shape) + 1)
        area[1:, 1:] = self.mask.cumsum(axis=0).cumsum(axis=1)
        rows_columns = centres[:, ::-1].T * self.scale
        half = side * self.scale / 2

        def before(down: float, right: float) -> NDArray[np.float64]:
            corner = rows_columns + np.array([[down], [right]])
            return np.asarray(map_coordinates(area, corner, order=1, mode="nearest"))

        covered = before(half, half) - before(-half, half) - before(half, -half) + before(-half, -half)
        return np.clip(covered / (2 * half) ** 2, 0.0, 1.0)


def tissue_mask(image: NDArray[np.uint8], microns_per_pixel: float) -> NDArray[np.bool_]:
    """Find tissue on a small image of a slide: what is coloured and not black.

    Otsu's threshold on the saturation, blurred, within bounds; pieces and holes smaller than a disc of 200 um count as
    dirt and tears.

    Parameters
    ----------
    image
        ``(height, width, 3)``, RGB.
    microns_per_pixel
        Of this image.

    Returns
    -------
    ``(height, width)``; all false where the slide is empty.
    """
    from scipy.ndimage import binary_fill_holes, label
    from skimage.filters import gaussian, threshold_otsu

    value = image.max(axis=-1) / 255.0
    saturation = 1 - image.min(axis=-1) / np.maximum(image.max(axis=-1), 1)
    smooth = gaussian(np.where(value < _BLACK, 0.0, saturation), _BLUR_UM / microns_per_pixel)
    otsu = threshold_otsu(smooth) if np.ptp(smooth) else 0.0
    threshold = float(np.clip(otsu, *_SATURATION))
    smallest = np.pi / 4 * (_PIECE_UM / microns_per_pixel) ** 2

    def without_small(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        pieces, _ = label(mask)
        large = np.bincount(pieces.ravel()) >= smallest
        large[0] = False
        return np.asarray(large[pieces])

    mask = without_small(smooth > threshold)
    holes = np.asarray(binary_fill_holes(mask)) & ~mask
    return mask | (holes & ~without_small(holes))


def find_tissue(slide: Slide, microns_per_pixel: float, max_side: int = 2000) -> tuple[TissueMask, NDArray[np.uint8]]:
    """Find the tissue of a slide.

    By LazySlide where it is installed and opened the slide, else by :func:`tissue_mask`.

    Parameters
    ----------
    slide
        The open slide.
    microns_per_pixel
        Of its full resolution.
    max_side
        Longest side of the image that tissue is looked for on, in pixels.

    Returns
    -------
    The mask, and the small RGB image under it, ``(height, width, 3)``.
    """
    image, scale = slide.thumbnail(max_side)
    if isinstance(slide, WsiSlide) and importlib.util.find_spec("lazyslide") is not None:
        level = slide.level_for(max(1.0, 1 / scale))
        width, height = slide.sizes[level]
        if width * height <= _WHOLE_LEVEL_PIXELS:
            return TissueMask(_by_lazyslide(slide.wsi, level, image.shape[:2], scale), scale), image
    return TissueMask(tissue_mask(image, microns_per_pixel / scale), scale), image


def _by_lazyslide(wsi: Any, level: int, shape: tuple[int, ...], scale: float) -> NDArray[np.bool_]:
    """Let LazySlide find tissue on a level, and draw its outlines, which are in full-resolution pixels."""
    import lazyslide
    from skimage.draw import polygon2mask

    key = "nh2st_tissue"
    lazyslide.pp.find_tissues(wsi, level=level, key_added=key)
    mask = np.zeros(shape, dtype=bool)
    if key not in wsi.shapes:
        return mask

    def drawn(ring: Any) -> NDArray[np.bool_]:
        # Rows before columns; a pixel's centre lies half a pixel inside of it.
        return np.asarray(polygon2mask(shape, np.asarray(ring.coords)[:, 1::-1] * scale - 0.5))

    for outline in wsi.shapes[key].geometry:
        piece = drawn(outline.exterior)
        for hole in outline.interiors:
            piece &= ~drawn(hole)
        mask |= piece
    return mask
