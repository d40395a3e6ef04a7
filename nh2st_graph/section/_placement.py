"""Check that spots lie on the tissue of their image, and guess what is wrong with their coordinates if they do not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from PIL import Image

from nh2st_graph._errors import DataError, ImageError, setting
from nh2st_graph._files import positive
from nh2st_graph.section._access import in_tissue, section_name
from nh2st_graph.section._array import neighbour_distance
from nh2st_graph.section._keys import Key
from nh2st_graph.section._library import Library, full_image, library
from nh2st_graph.slide import Slide, TissueMask, tissue_mask

__all__ = ["check_on_tissue", "likely_mistake"]

logger = logging.getLogger("nh2st_graph")

Floats = NDArray[np.float64]

#: Longest side, in pixels, of the small image that is searched for tissue.
_SIDE = 1000

#: Fewer spots than this may lie on or off tissue by chance.
_FEW_SPOTS = 20

#: Another reading of the coordinates is believed if it puts this share of spots on tissue (_MOST), and if its share on
#: tissue and its overlap exceed those of the given coordinates by this much (_CLEARLY). A larger difference would miss
#: swapped sections of some breast tumours (80 % of spots still on tissue, where 97 % should be); a smaller one would
#: come close to good sections in fatty tissue (90 %).
_MOST, _CLEARLY = 0.8, 0.15

#: Spots that fill this share of a rectangle are a whole array, not cut to the tissue and maybe with background spots.
#: Then few spots of a good section may lie on tissue, and another reading must exceed by more to be believed.
_FULL, _CLEARLY_FULL = 0.9, 0.5

#: Readings whose overlaps with the tissue differ by less than this are equal; the one with fewer mistakes is named.
_EQUAL = 0.02

#: Usual factors of a wrong scale, besides those that the section names.
_POWERS = (2.0, 4.0, 8.0, 16.0)


def check_on_tissue(adata: AnnData, slide: Slide) -> None:
    """Check that the spots of a section lie on tissue; the image must cover them. See ``im.check_placement``."""
    spots = _placed(adata, slide)
    if spots is None or spots.on_tissue > 1 - _CLEARLY:
        return
    where = f"section {section_name(adata)!r}: {spots.on_tissue:.0%} of {len(spots.centres)} spots lie on tissue"
    mistake = _mistake(spots, adata, slide)
    if mistake is not None:
        raise ImageError(
            f"{where}; {mistake}; or, for an image that is not H&E, leave this check out: "
            f"{setting('features.check_placement', False)}"
        )
    if spots.coefficient < 0.5:
        logger.warning("%s; check obsm['%s'] against the image", where, Key.obsm.spatial)


def likely_mistake(adata: AnnData, slide: Slide) -> str | None:
    """Guess what is wrong with coordinates outside of the image, and how to correct them; None without a guess."""
    with suppress(DataError):
        spots = _placed(adata, slide)
        return None if spots is None else _mistake(spots, adata, slide)
    return None


class _Spots:
    """Spots on the tissue mask of their image.

    Attributes
    ----------
    mask
        Tissue mask, ``(height, width)``.
    centres
        ``(n_spots, 2)``, x then y, in pixels of the mask.
    pitch
        Distance from a spot to the nearest one, in pixels of the mask.
    inside, on_tissue
        Shares of the spots that lie on the image, and on tissue.
    """

    def __init__(self, mask: NDArray[np.bool_], centres: Floats, pitch: float) -> None:
        self.mask, self.centres, self.pitch = mask, centres, pitch
        pixels = np.floor(np.clip(centres, -1, mask.shape[::-1])).astype(np.intp)
        within = ((pixels >= 0) & (pixels < mask.shape[::-1])).all(axis=1)
        self._columns, self._rows = pixels[within].T
        self.inside = float(within.mean())
        self.on_tissue = float(mask[self._rows, self._columns].sum() / len(centres))

    @cached_property
    def footprint(self) -> NDArray[np.bool_]:
        """Discs around the spots. Three quarters of the pitch leave no gap on square and hexagonal arrays."""
        from scipy.ndimage import distance_transform_edt

        apart = np.ones(self.mask.shape, dtype=bool)
        apart[self._rows, self._columns] = False
        return np.asarray(distance_transform_edt(apart) <= 0.75 * self.pitch) if self.inside else ~apart

    @cached_property
    def iou(self) -> float:
        """Intersection of footprint and tissue over their union; the union includes discs beyond the image."""
        both = float((self.footprint & self.mask).sum())
        return both / (self.footprint.sum() / self.inside + self.mask.sum() - both) if self.inside else 0.0

    @cached_property
    def coefficient(self) -> float:
        """Overlap coefficient: the larger of the share of spots on tissue and the share of tissue under spots."""
        return max(self.on_tissue, float((self.footprint & self.mask).sum() / self.mask.sum()))

    @cached_property
    def fill(self) -> float:
        """Share of the rectangle around the spots that their footprint covers."""
        box = (slice(each.min(), each.max() + 1) for each in (self._rows, self._columns))
        return float(self.footprint[tuple(box)].mean())


class _Reading(NamedTuple):
    """Coordinates with a likely mistake undone; undoing it multiplied them by ``factor``."""

    centres: Floats
    factor: float
    mistake: str
    remedy: str


def _placed(adata: AnnData, slide: Slide) -> _Spots | None:
    """Put the spots of a section on its tissue mask; None if there are few spots, or no tissue is found."""
    centres = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    inside = in_tissue(adata)
    if inside is not None and inside.any():
        centres = centres[inside]
    if len(centres) < _FEW_SPOTS:
        return None
    tissue = _find_tissue(adata, slide)
    if not tissue.mask.any():
        return None
    centres = centres * tissue.scale
    return _Spots(tissue.mask, centres, neighbour_distance(centres))


def _mistake(given: _Spots, adata: AnnData, slide: Slide) -> str | None:
    """Describe a reading of the coordinates that is clearly better, and how to correct them; None without one."""
    outside = given.inside < 1
    clearly = _CLEARLY_FULL if not outside and given.fill > _FULL else _CLEARLY
    better: list[tuple[_Spots, _Reading]] = []
    for reading in _readings(given, _known_factors(adata, slide)):
        spots = _Spots(given.mask, reading.centres, given.pitch * reading.factor)
        # The footprint takes longer, so the spots are compared first.
        if spots.on_tissue < max(_MOST, given.on_tissue + _CLEARLY) or spots.iou < given.iou + clearly:
            continue
        # An array may be larger than the tissue, but not larger than the image.
        if outside or spots.coefficient >= given.coefficient + _CLEARLY:
            better.append((spots, reading))
    if not better:
        return None
    most = max(spots.iou for spots, _ in better)
    spots, reading = next(each for each in better if each[0].iou >= most - _EQUAL)
    return f"{reading.mistake} ({spots.on_tissue:.0%} would be on tissue): {reading.remedy}"


def _readings(given: _Spots, factors: dict[str, float]) -> Iterator[_Reading]:
    """Yield other readings of the coordinates, those with fewer mistakes first."""
    key, swapped = f"obsm['{Key.obsm.spatial}']", given.centres[:, ::-1]
    swap = f"swap the columns of {key}"
    yield _Reading(swapped, 1.0, "x and y look swapped", swap)
    # This factor puts the spots as far from the image's corner as the tissue.
    squares = (np.argwhere(given.mask) + 0.5) ** 2, given.centres**2
    fitted = float(np.sqrt(squares[0].sum(axis=1).mean() / squares[1].sum(axis=1).mean()))
    for each in (factors, {f"about {fitted:.2g}": fitted}):
        for by, factor in each.items():
            scaled = f"scaled by {1 / factor:.2g}"
            yield _Reading(given.centres * factor, factor, f"coordinates look {scaled}", f"multiply {key} by {by}")
        for by, factor in each.items():
            scaled = f"scaled by {1 / factor:.2g}"
            yield _Reading(
                swapped * factor, factor, f"x and y look swapped and {scaled}", f"{swap} and multiply it by {by}"
            )
    for axis, name, side in ((0, "x", "width"), (1, "y", "height")):
        mirrored = given.centres.copy()
        mirrored[:, axis] = given.mask.shape[1 - axis] - mirrored[:, axis]
        yield _Reading(mirrored, 1.0, f"{name} looks mirrored", f"take {key}[:, {axis}] from the image's {side}")


def _find_tissue(adata: AnnData, slide: Slide) -> TissueMask:
    """Find tissue on a small copy of the image."""
    image, scale = _stored_copy(library(adata), slide.sizes[0]) or slide.thumbnail(_SIDE)
    return TissueMask(tissue_mask(image, full_image(adata).microns_per_pixel / scale), scale)


def _stored_copy(found: Library, size: tuple[int, int]) -> tuple[NDArray[np.uint8], float] | None:
    """Return the section's small copy and its scale, if it fits the image: then no slide is decoded."""
    image, scale = found.hires, found.hires_scale
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,)):
        return None
    small = np.array(image.shape[1::-1])
    if scale is None or (np.abs(np.array(size) * scale - small) > 1 + 0.01 * small).any():
        return None
    shrink = max(1, round(small.max() / _SIDE))
    return np.asarray(Image.fromarray(image).reduce(shrink), dtype=np.uint8), scale / shrink


def _known_factors(adata: AnnData, slide: Slide) -> dict[str, float]:
    """List factors that coordinates may lack, by their names in messages."""
    given = {name: value for name, value in library(adata).scalefactors.items() if name.endswith("scalef")}
    given[Key.library.microns_per_pixel] = full_image(adata).microns_per_pixel
    unnamed = (*slide.downsamples[1:], *_POWERS)
    factors: dict[str, float] = {}
    for name, value in given.items():
        if (scale := positive(value)) is not None:
            factors[f"{1 / scale:.4g} (1 / {name})"] = 1 / scale
            factors[f"{scale:.4g} ({name})"] = scale
    for factor in unnamed:
        factors |= {f"{factor:.4g}": factor, f"{1 / factor:.4g}": 1 / factor}
    return factors
