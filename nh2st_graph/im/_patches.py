"""Cut patches of a physical size around spots, so that scans of any resolution show the same tissue."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from PIL import Image

from nh2st_graph._errors import ConfigError, setting
from nh2st_graph._files import is_count, positive
from nh2st_graph.im._stain import Recolour, Reference, SlideColours, StainChange
from nh2st_graph.read import SpatialObject, documented, one_section
from nh2st_graph.section import Key, check_section, full_image, open_image, section_name
from nh2st_graph.slide import Box, Slide

__all__ = ["PatchCutter", "microns_per_pixel", "patch_cutter", "patches", "resampling"]

#: Colour of a patch beyond the border of the image: that of glass.
WHITE = (255, 255, 255)


#: Reach of the widest of Pillow's filters (MKS2021), in pixels of the coarser of the two images.
_REACH = 4.5
#: Patches that get the colours of a reference at a time.
_RECOLOURED = 32


class PatchCutter:
    """Cut the square around each spot out of an open slide, from the coarsest level that is fine enough.

    Parameters
    ----------
    slide
        The open slide or image.
    centres
        Spot centres, ``(n_spots, 2)``, x then y, in pixels of the full resolution.
    side
        Side of a patch, in pixels of the full resolution; may be a fraction.
    recolour
        Brings the colours of patches to a stain reference.
    """

    def __init__(
        self, slide: Slide, centres: NDArray[np.float64], side: float, recolour: Recolour | None = None
    ) -> None:
        self.slide = slide
        self.centres = centres
        self.side = side
        self.recolour = recolour

    def __len__(self) -> int:
        return len(self.centres)

    def level(self, size_px: int) -> int:
        """Level of the slide that patches of ``size_px`` pixels are cut from."""
        return self.slide.level_for(self.side / size_px)

    def stack(
        self, rows: Sequence[int] | NDArray[np.integer], size_px: int, resample: Image.Resampling
    ) -> NDArray[np.uint8]:
        """Cut the patches of several spots, ``(n, size_px, size_px, 3)``, in the colours of the reference."""
        patches = np.stack([self.cut(int(row), size_px, resample) for row in rows])
        return patches if self.recolour is None else self.recolour(patches, self.centres[rows], self.side)

    def cut(self, index: int, size_px: int, resample: Image.Resampling) -> NDArray[np.uint8]:
        """Cut the patch of spot ``index`` in its own colours and resample it to ``(size_px, size_px, 3)``.

        The box keeps its sub-pixel position, and downsampling is antialiased (Pillow widens the kernel). The patch is
        the same however the slide is stored and read: Pillow is given the same window of pixels and the same box in it.
        """
        level = self.level(size_px)
        factor = self.slide.downsamples[level]
        x, y = self.centres[index] / factor
        half = self.side / factor / 2
        # Pillow takes a box in single precision. Rounded here, the box lies at the same place in every window.
        sides: list[float] = np.array([x - half, y - half, x + half, y + half], dtype=np.float32).tolist()
        left, top, right, bottom = sides
        width, height = self.slide.sizes[level]
        over_the_border = left < 0 or top < 0 or right > width or bottom > height
        # The filter reads beyond the box: with this margin a window gives the same as the whole image.
        margin = 0 if over_the_border else math.ceil(_REACH * max(1.0, 2 * half / size_px))
        window = _whole((left, top, right, bottom), margin)
        if not over_the_border:
            window = _inside(window, (width, height))
        source = self._window(level, window)
        # Resample one axis at a time. Pillow would begin with the longer axis of the window and round in between, so
        # that the patch would depend on the shape of the window.
        across_box = (left - window[0], 0, right - window[0], source.height)
        across = source.resize((size_px, source.height), resample, box=across_box)
        whole = across.resize((size_px, size_px), resample, box=(0, top - window[1], size_px, bottom - window[1]))
        return np.asarray(whole, dtype=np.uint8)

    def _window(self, level: int, window: Box) -> Image.Image:
        """Read exactly a window of a level, white beyond the border of the image."""
        inside = _inside(window, self.slide.sizes[level])
        source, (left, top) = self.slide.region(level, inside)
        covered = (inside[0] - left, inside[1] - top, inside[2] - left, inside[3] - top)
        part = source if covered == (0, 0, *source.size) else source.crop(covered)
        if inside == window:
            return part
        canvas = Image.new("RGB", (window[2] - window[0], window[3] - window[1]), WHITE)
        canvas.paste(part, (inside[0] - window[0], inside[1] - window[1]))
        return canvas


def _whole(box: tuple[float, float, float, float], margin: int = 0) -> Box:
    """Find the smallest box of whole pixels around a box, with a margin on each side."""
    return (
        math.floor(box[0]) - margin,
        math.floor(box[1]) - margin,
        math.ceil(box[2]) + margin,
        math.ceil(box[3]) + margin,
    )


def _inside(box: Box, size: tuple[int, int]) -> Box:
    """Return the part of a box that lies on an image."""
    return max(box[0], 0), max(box[1], 0), min(box[2], size[0]), min(box[3], size[1])


def resampling(name: str) -> Image.Resampling:
    """Find Pillow's resampling filter by its name, such as ``"bicubic"``.

    Raises
    ------
    ConfigError
        If Pillow has no filter of this name.
    """
    try:
        return Image.Resampling[name.upper()]
    except KeyError:
        known = ", ".join(r.name.lower() for r in Image.Resampling)
        raise ConfigError(f"{setting('interpolation', name)} is not known; known: {known}") from None


def microns_per_pixel(adata: AnnData) -> float:
    """Resolution of the section's full-resolution image, in um per pixel."""
    return full_image(adata).microns_per_pixel


def patch_side(adata: AnnData, patch_um: float, slide: Slide) -> float:
    """Side of a patch in full-resolution pixels.

    Raises
    ------
    ConfigError
        If a patch of this size is smaller than a pixel or larger than the image.
    """
    scale = microns_per_pixel(adata)
    if positive(patch_um) is None:
        raise ConfigError(f"{setting('features.patch_um', patch_um)}; give a size in um above 0")
    side = patch_um / scale
    where = (
        f"section {section_name(adata)!r}: {setting('features.patch_um', patch_um)} is {side:.3g} px "
        f"({scale:.3g} um per px)"
    )
    if side < 1:
        raise ConfigError(f"{where}, less than one pixel; give at least {scale:.3g} um, or a finer scan")
    width, height = slide.sizes[0]
    if side > max(width, height):
        raise ConfigError(
            f"{where}, more than the whole image ({width} x {height} px); "
            f"check metadata['{Key.library.microns_per_pixel}'] or give a smaller patch"
        )
    return side


def patch_cutter(adata: AnnData, patch_um: float, slide: Slide, recolour: Recolour | None = None) -> PatchCutter:
    """Make the cutter of a section's patches, from its open image.

    Raises
    ------
    ConfigError
        As :func:`patch_side` does.
    """
    centres = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    return PatchCutter(slide, centres, patch_side(adata, patch_um, slide), recolour)


@documented
def patches(
    adata: SpatialObject,
    patch_um: float = 224.0,
    size_px: int = 224,
    indices: Sequence[int] | NDArray[np.integer] | None = None,
    *,
    interpolation: str = "bicubic",
    stain: Reference | StainChange | None = None,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Cut the patches of a section one after another.

    Parameters
    ----------
    adata
        One section with a full-resolution image and its resolution; an AnnData of several sections; or SpatialData.
    patch_um
        Side of a patch on the tissue, in um.
    size_px
        Side of a returned patch, in pixels.
    indices
        Rows of the spots to cut patches of, in this order; all by default.
    interpolation
        Pillow's resampling filter.
    stain
        Reference of :func:`stain_reference` that the colours of patches are brought to, or a :class:`StainJitter`.
    %(library_key)s
    %(library_id)s
    %(table_key)s

    Returns
    -------
    An iterator of RGB patches, ``(size_px, size_px, 3)`` uint8, centred on their spots, and white beyond the border of
    the image. The image is open from the first patch to the last. A tiled TIFF, or a slide that OpenSlide reads, is
    read window by window, from the coarsest level that is fine enough; any other image is loaded once.

    Raises
    ------
    ConfigError
        If a size is not above 0, or the patch is smaller than a pixel or larger than the image.
    DataError
        If the section breaks the contract.
    ImageError
        If the image is missing, cut off, or does not cover the spots.
    """
    section = one_section(adata, library_key=library_key, library_id=library_id, table_key=table_key)
    with open_image(check_section(section)) as slide:
        patch_side(section, patch_um, slide)
    if not is_count(size_px):
        raise ConfigError(f"{setting('size_px', size_px)}; give a whole number of pixels above 0")
    filter_ = resampling(interpolation)
    rows = [int(i) for i in (range(section.n_obs) if indices is None else indices)]

    def cut() -> Iterator[NDArray[np.uint8]]:
        with open_image(section) as slide:
            recolour = None if stain is None else Recolour(SlideColours(section, slide), stain)
            cutter = patch_cutter(section, patch_um, slide, recolour)
            # Colours are looked up for many patches at a time.
            step = 1 if recolour is None else _RECOLOURED
            for start in range(0, len(rows), step):
                yield from cutter.stack(rows[start : start + step], size_px, filter_)

    return cut()
