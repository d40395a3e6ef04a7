"""Check that positions, the array's pitch and um per pixel of a section agree."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData

from nh2st_graph._errors import DataError, setting
from nh2st_graph._files import positive
from nh2st_graph.section._access import section_name
from nh2st_graph.section._array import (
    CHESSBOARD_NEIGHBOUR_UM,
    SQUARE_PITCH_UM,
    VISIUM_PITCH_UM,
    fit_array,
    neighbour_distance,
)
from nh2st_graph.section._keys import Key
from nh2st_graph.section._library import library, library_id

__all__ = ["check_pitch", "report_pitch"]

logger = logging.getLogger("nh2st_graph")

#: Resolutions that differ by less agree: spot diameters and arrays are measured with such errors.
_AGREE = 0.05

#: A larger factor is no error of measurement: positions are of another image than um per pixel.
_APART = 1.25


#: Spots of no array are narrower than this share of their distance.
_NARROWEST = 0.3


class _Pitch(NamedTuple):
    """Distance of adjacent spots in um, by the array and by positions and resolution."""

    array_um: float
    measured_um: float
    microns_per_pixel: float
    scaled_by: str | None

    @property
    def factor(self) -> float:
        return self.measured_um / self.array_um

    @property
    def agrees(self) -> bool:
        return abs(1 / self.factor - 1) <= _AGREE


def check_pitch(adata: AnnData, size: tuple[int, int] | None = None, factors: Mapping[str, Any] | None = None) -> None:
    """Refuse a section whose positions are in pixels of another image than its um per pixel.

    Adjacent spots of a hexagonal array (Visium) are 100 um apart, those of other arrays as far as the metadata say. For
    square arrays without such metadata, only a scale factor of the section is looked for.

    Parameters
    ----------
    adata
        A section that passed the checks of names and positions. Without array positions or a resolution, nothing is
        checked.
    size
        Width and height of the image, in pixels.
    factors
        The scale factors that its file had; by default those of the section.

    Raises
    ------
    DataError
        If the two differ by more than a quarter, or by one of the scale factors; or if spots of a square array are
        wider than they are apart, and a scale factor explains it.
    """
    pitch = _pitch(adata, factors)
    if pitch is None:
        _check_overlap(adata, factors)
    if pitch is None or pitch.agrees or (pitch.scaled_by is None and 1 / _APART <= pitch.factor <= _APART):
        return
    factor, by = pitch.factor, f" ({pitch.scaled_by})" if pitch.scaled_by else ""
    spatial = f"obsm['{Key.obsm.spatial}']"
    moved = f"multiply {spatial} by {1 / factor:.4g}"
    scale = setting("data.options.microns_per_pixel", float(f"{pitch.microns_per_pixel / factor:.4g}"))
    largest = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64).max(axis=0) / factor
    fits = factor < 1 and (size is None or bool((largest < size).all()))
    cures = (
        f"{spatial} looks like pixels of a smaller image: {moved}; or, if um per pixel is wrong, give {scale}"
        if fits
        else f"give um per pixel of the image that positions are measured on: {scale}; or, if it is right, {moved}"
    )
    raise DataError(
        f"section {section_name(adata)!r}: adjacent spots are {pitch.array_um:g} um apart on the array, but "
        f"{pitch.measured_um:.4g} um by positions and {pitch.microns_per_pixel:.4g} um per pixel, a factor of "
        f"{factor:.3g}{by}; {cures} (an array of another pitch states it in metadata['{Key.library.array_pitch}'])"
    )


def report_pitch(adata: AnnData, by: str = "its metadata") -> None:
    """Warn if positions and array give another resolution than the section states, by less than is refused.

    Also if spots are wider than they are apart, and their pitch is unknown: no array has such spots.

    Parameters
    ----------
    adata
        A section that passed the checks.
    by
        What the stated resolution comes from.
    """
    pitch = _pitch(adata)
    if pitch is not None and not pitch.agrees:
        logger.warning(
            "section %r: %.3f um per pixel by %s, %.3f by the array's pitch of %g um; check the first",
            section_name(adata),
            pitch.microns_per_pixel,
            by,
            pitch.microns_per_pixel / pitch.factor,
            pitch.array_um,
        )
    overlap = _overlap(adata) if pitch is None else None
    if overlap is not None:
        logger.warning(
            "section %r: spots are %.4g px wide and %.4g px apart%s; if positions are in pixels of a smaller image, "
            "bring them to those of the full-resolution one",
            section_name(adata),
            overlap.diameter,
            overlap.apart,
            " on the array" if overlap.on_array else "",
        )


class _Overlap(NamedTuple):
    """Spots that are wider than they are apart, in pixels."""

    diameter: float
    apart: float
    on_array: bool


def _overlap(adata: AnnData) -> _Overlap | None:
    if library_id(adata) is None or Key.obsm.spatial not in adata.obsm:
        return None
    diameter, array = library(adata).spot_diameter, fit_array(adata)
    apart = neighbour_distance(np.asarray(adata.obsm[Key.obsm.spatial], np.float64)) if array is None else array.pitch
    # Bins of Visium HD touch. Without an array, distances vary, and cells have no one diameter.
    wide = diameter is not None and diameter > (_APART if array is None else 1 + _AGREE) * apart > 0
    return _Overlap(diameter, apart, array is not None) if wide and diameter is not None else None


def _check_overlap(adata: AnnData, factors: Mapping[str, Any] | None) -> None:
    """Refuse spots of an array of unknown pitch that are wider than they are apart, if a scale factor explains it."""
    overlap = _overlap(adata)
    if overlap is None or not overlap.on_array:
        return
    for name, value in (library(adata).scalefactors if factors is None else factors).items():
        scale = positive(value) if name.endswith("scalef") else None
        if scale is None or scale >= 1:
            continue
        if _NARROWEST <= scale * overlap.diameter / overlap.apart <= 1 + _AGREE:
            raise DataError(
                f"section {section_name(adata)!r}: spots are {overlap.diameter:.4g} px wide and {overlap.apart:.4g} px "
                f"apart on the array, as if positions were multiplied by {scale:.4g} ({name}); multiply "
                f"obsm['{Key.obsm.spatial}'] by {1 / scale:.4g}; or, if they are right, correct "
                f"scalefactors['{Key.library.spot_diameter}']"
            )


def _pitch(adata: AnnData, factors: Mapping[str, Any] | None = None) -> _Pitch | None:
    if library_id(adata) is None or Key.obsm.spatial not in adata.obsm:
        return None
    found = library(adata)
    array = fit_array(adata) if found.microns_per_pixel else None
    if array is None or not found.microns_per_pixel:
        return None
    # By the area of a spot, which both axes determine; a hexagonal array has one spot on every second position.
    pitch = np.sqrt(4 * array.column * array.row / np.sqrt(3)) if array.hexagonal else array.pitch
    measured = float(pitch) * found.microns_per_pixel
    usual = VISIUM_PITCH_UM if array.hexagonal else CHESSBOARD_NEIGHBOUR_UM if array.chessboard else SQUARE_PITCH_UM
    expected = found.array_pitch_um or usual
    scaled_by = _scaled_by(measured / expected, found.scalefactors if factors is None else factors)
    # Square arrays have many pitches (Visium HD, DBiT-seq); that a scale factor makes it a usual one is no chance.
    if not array.hexagonal and found.array_pitch_um is None and scaled_by is None:
        return None
    return _Pitch(expected, measured, found.microns_per_pixel, scaled_by)


def _scaled_by(factor: float, factors: Mapping[str, Any]) -> str | None:
    """Name the scale factor that positions were multiplied by."""
    for name, value in factors.items():
        scale = positive(value) if name.endswith("scalef") else None
        if scale is not None and scale < 1 - 2 * _AGREE and abs(factor / scale - 1) <= _AGREE / 2:
            return str(name)
    return None
