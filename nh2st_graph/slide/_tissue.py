"""Find the tissue of a slide, as a mask at low resolution."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nh2st_graph._errors import ConfigError, setting
from nh2st_graph._files import as_number
from nh2st_graph.slide._base import Slide
from nh2st_graph.slide._wsi import WsiSlide

__all__ = ["TissueMask", "check_share", "find_tissue", "tissue_mask"]

#: Bounds of Otsu's threshold on saturation. A lower one would split glass on a slide without tissue; a higher one would
#: split pale from strong tissue on an image without glass.
_SATURATION = (0.05, 0.15)

#: Darker pixels are no stain at low resolution, but ink, the frame of the scan, or areas that were not scanned.
_BLACK = 0.15

#: Blur before the threshold, and diameter of the smallest piece or hole, in um.
_BLUR_UM = 10.0
_PIECE_UM = 200.0

#: LazySlide reads a level as a whole; a level of this many pixels takes 200 MB.
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
        """Compute the share of tissue in the square around each centre; beyond the slide there is no tissue.

        Parameters
        ----------
        centres
            ``(n, 2)``, x then y, in full-resolution pixels.
        side
            Side of the square, in full-resolution pixels.

        Returns
        -------
        ``(n,)``, from 0 to 1; a mask pixel that lies partly in the square counts in part.
        """
        from scipy.ndimage import map_coordinates

        # Summed-area table: the area is bilinear between corners, so interpolation is exact.
        area = np.zeros(np.array(self.mask.shape) + 1)
        area[1:, 1:] = self.mask.cumsum(axis=0).cumsum(axis=1)
        rows_columns = centres[:, ::-1].T * self.scale
        half = side * self.scale / 2

        def before(down: float, right: float) -> NDArray[np.float64]:
            corner = rows_columns + np.array([[down], [right]])
            return np.asarray(map_coordinates(area, corner, order=1, mode="nearest"))

        covered = before(half, half) - before(-half, half) - before(half, -half) + before(-half, -half)
        return np.clip(covered / (2 * half) ** 2, 0.0, 1.0)


def check_share(min_tissue: float) -> None:
    """Refuse a smallest share of tissue that is no share.

    Raises
    ------
    ConfigError
        If it is not from 0 to 1.
    """
    if not 0 <= as_number(min_tissue) <= 1:
        raise ConfigError(f"{setting('min_tissue', min_tissue)}; give a share from 0 to 1")


def tissue_mask(image: NDArray[np.uint8], microns_per_pixel: float) -> NDArray[np.bool_]:
    """Find tissue on a small image of a slide: pixels that are coloured and not black.

    The saturation is blurred and cut at Otsu's threshold, within bounds. Pieces smaller than a disc of 200 um are taken
    for dirt, and holes of that size for tears.

    Parameters
    ----------
    image
        ``(height, width, 3)``, RGB.
    microns_per_pixel
        Resolution of this image.

    Returns
    -------
    ``(height, width)``, true on tissue; all false if the slide is empty.
    """
    from scipy.ndimage import label
    from skimage.filters import gaussian, threshold_otsu

    # NumPy reduces three values at a time ten times slower than two whole channels.
    channels = np.moveaxis(image, -1, 0)
    lightest, darkest = reduce(np.maximum, channels), reduce(np.minimum, channels)
    saturation = 1 - darkest / np.maximum(lightest, 1)
    smooth = gaussian(np.where(lightest / 255.0 < _BLACK, 0.0, saturation), _BLUR_UM / microns_per_pixel)
    otsu = threshold_otsu(smooth) if np.ptp(smooth) else 0.0
    threshold = float(np.clip(otsu, *_SATURATION))
    smallest = np.pi / 4 * (_PIECE_UM / microns_per_pixel) ** 2

    pieces, _ = label(smooth > threshold)
    large = np.bincount(pieces.ravel()) >= smallest
    large[0] = False
    mask = np.asarray(large[pieces])
    glass, n = label(~mask)
    fill = np.bincount(glass.ravel(), minlength=n + 1) < smallest
    # What reaches the border of the image is no hole.
    for border in (glass[0], glass[-1], glass[:, 0], glass[:, -1]):
        fill[border] = False
    fill[0] = False
    return np.asarray(mask | fill[glass])


def find_tissue(slide: Slide, microns_per_pixel: float, max_side: int = 2000) -> tuple[TissueMask, NDArray[np.uint8]]:
    """Find the tissue of a slide.

    LazySlide does it if it is installed and can read the slide, else :func:`tissue_mask`.

    Parameters
    ----------
    slide
        The open slide.
    microns_per_pixel
        Its full resolution.
    max_side
        Longest side, in pixels, of the small image that is searched.

    Returns
    -------
    The mask, and the small RGB image, ``(height, width, 3)``.
    """
    image, scale = slide.thumbnail(max_side)
    if isinstance(slide, WsiSlide) and importlib.util.find_spec("lazyslide") is not None:
        level = slide.level_for(max(1.0, 1 / scale))
        width, height = slide.sizes[level]
        if width * height <= _WHOLE_LEVEL_PIXELS:
            return TissueMask(_by_lazyslide(slide, level, image.shape[:2]), scale), image
    return TissueMask(tissue_mask(image, microns_per_pixel / scale), scale), image


def _by_lazyslide(slide: WsiSlide, level: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Find tissue on a level with LazySlide, and draw its outlines on a mask of a height and width."""
    import lazyslide

    key, wsi = "nh2st_tissue", slide.wsi
    # LazySlide multiplied its outlines by one factor for both axes, which is off on narrow slides: back to the level.
    scale = np.array(shape[::-1]) / slide.sizes[level] / wsi.properties.level_downsample[level]
    lazyslide.pp.find_tissues(wsi, level=level, key_added=key)
    mask = np.zeros(shape, dtype=bool)
    if key not in wsi.shapes:
        return mask

    def drawn(ring: Any) -> NDArray[np.bool_]:
        canvas = Image.new("1", (shape[1], shape[0]))
        # Pillow counts from the centre of the first pixel, outlines from its corner.
        corners = np.asarray(ring.coords)[:, :2] * scale - 0.5
        ImageDraw.Draw(canvas).polygon(list(map(tuple, corners)), fill=1)
        return np.asarray(canvas)

    for outline in wsi.shapes[key].geometry:
        piece = drawn(outline.exterior)
        for hole in outline.interiors:
            piece = piece & ~drawn(hole)
        mask |= piece
    return mask
