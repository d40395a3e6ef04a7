"""A slide without genes as a section: virtual spots on its tissue, laid out as on an array."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import ConfigError, DataError, nearest
from nh2st_graph.section import Key, check_section, library_entry, unknown_patient
from nh2st_graph.slide import find_tissue, open_slide, or_extra

__all__ = ["Lattice", "Layout", "virtual_spots"]

logger = logging.getLogger("nh2st_graph")

Layout = Literal["grid", "hex"]

#: A scale that is given and one that the file has agree within this share, or the user hears of it.
_AGREE = 0.05


@dataclass(frozen=True)
class Lattice:
    """How spots lie on tissue; by default as on Visium's array.

    One array over the whole slide, as those of training are, so that rows and columns mean the same in every piece of
    tissue; LazySlide's own tiles start anew at each piece, in squares of whole pixels.

    Attributes
    ----------
    pitch_um
        From a spot to the nearest, in um.
    spot_um
        Diameter of a spot, in um.
    layout
        Rows and columns (``grid``), or rows that are half a pitch apart sideways, six neighbours each (``hex``).

    Raises
    ------
    ConfigError
        If a length is not above 0, or the layout unknown.
    """

    pitch_um: float = 100.0
    spot_um: float = 55.0
    layout: Layout = "hex"

    def __post_init__(self) -> None:
        for name in ("pitch_um", "spot_um"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} = {value!r}; give a length in um, above 0")
        if self.layout not in get_args(Layout):
            raise ConfigError(f"layout = {self.layout!r}; {nearest(str(self.layout), get_args(Layout))}")

    def places(self, width_um: float, height_um: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Lay the lattice over a rectangle, the first spot half a pitch from its corner.

        Returns
        -------
        Array positions, ``(n, 2)``, row then column, numbered as ST's or Visium's (where the columns of a row are the
        even or the odd ones); and centres in um, ``(n, 2)``, x then y. Row after row.
        """
        across, down = self.pitch_um, self.pitch_um
        if self.layout == "hex":
            across, down = across / 2, down * math.sqrt(3) / 2
        columns = max(0, math.ceil((width_um - self.pitch_um / 2) / across))
        rows = max(0, math.ceil((height_um - self.pitch_um / 2) / down))
        array = np.indices((rows, columns)).reshape(2, -1).T
        if self.layout == "hex":
            array = array[array.sum(axis=1) % 2 == 0]
        centres = self.pitch_um / 2 + array[:, ::-1] * np.array([across, down])
        inside = (centres < (width_um, height_um)).all(axis=1)  # rounding may put the last ones on the edge
        return array[inside], centres[inside]


def virtual_spots(
    slide: str | Path,
    *,
    pitch_um: float = 100.0,
    spot_um: float = 55.0,
    layout: Layout = "hex",
    patch_um: float | None = None,
    min_tissue: float = 0.5,
    microns_per_pixel: float | None = None,
    section: str | None = None,
) -> AnnData:
    """Make a section without genes out of a slide: spots laid over its tissue.

    Parameters
    ----------
    slide
        JPEG, PNG, TIFF or ``.svs``; with the extra ``[wsi]`` also what OpenSlide reads. See :func:`open_slide`.
    pitch_um
        From a spot to the nearest, in um; those of Visium by default. A model is at home on the lattice that it was
        trained on: ``model.lattice``.
    spot_um
        Diameter of a spot, in um.
    layout
        ``"grid"`` (rows and columns, as ST) or ``"hex"`` (as Visium).
    patch_um
        Side of the square around a spot that is looked at for tissue, in um; the pitch by default.
    min_tissue
        Share of that square that must be tissue, from 0 to 1. With 0, spots cover the whole slide.
    microns_per_pixel
        Scale of the slide; that of the file by default, which this overrides.
    section
        Name of the section; the file's by default. Its patient is not known.

    Returns
    -------
    The section: 0 genes; ``obs["section"]``, ``obs["patient"]``, ``obs["array_row"]``, ``obs["array_col"]``;
    ``obsm["spatial"]`` in full-resolution pixels; ``uns["spatial"]`` with an image for plots and the metadata. Spots
    are named by row and column, so that their order by name is that of reading the slide.

    Raises
    ------
    ConfigError
        If an argument is out of range.
    DataError
        If nothing says how many um a pixel is, or there is no tissue.
    ImageError
        If the slide is missing, damaged, or of a format that no installed reader opens.
    """
    path, lattice = Path(slide), Lattice(pitch_um, spot_um, layout)
    if not 0 <= min_tissue <= 1:
        raise ConfigError(f"min_tissue = {min_tissue!r}; give a share from 0 to 1")
    with open_slide(path) as opened:
        scale = chosen_scale(f"slide {path}", opened.microns_per_pixel, microns_per_pixel, or_extra(path))
        width, height = opened.sizes[0]
        if pitch_um < scale:
            raise ConfigError(f"slide {path}: pitch_um = {pitch_um:g} is less than a pixel of {scale:g} um; give more")
        array, centres_um = lattice.places(width * scale, height * scale)
        tissue, image = find_tissue(opened, scale)
    centres = centres_um / scale
    share = tissue.fraction(centres, (patch_um or pitch_um) / scale)
    kept = share >= min_tissue if min_tissue else np.ones(len(share), dtype=bool)
    if not kept.any():
        raise DataError(
            f"slide {path}: no tissue found (of {len(share)} places none has {min_tissue:.0%} of tissue; "
            f"{tissue.mask.mean():.1%} of the slide is tissue); check um per pixel ({scale:g}), or give a lower share "
            "of tissue (min_tissue, --min-tissue), 0 for the whole slide"
        )
    name = section or path.name.partition(".")[0]
    adata = AnnData(obs=_spots(name, array[kept]))
    adata.obsm[Key.obsm.spatial] = centres[kept]
    adata.uns[Key.uns.spatial] = {name: library_entry(path, scale, spot_um / scale, (image, tissue.scale))}
    logger.info("slide %s: %d spots on tissue, %g um apart", path, adata.n_obs, pitch_um)
    return check_section(adata, need=("image",))


def chosen_scale(where: str, found: Any, given: float | None, advice: str = "") -> float:
    """Um per pixel, as given or as the file says.

    Parameters
    ----------
    where
        What it is the scale of.
    found
        What the file says, number or not; None where it says nothing.
    given
        What the user says.
    advice
        How else the scale may be had.

    Raises
    ------
    ConfigError
        If a scale is given that is none.
    DataError
        If there is no scale.
    """
    if given is None:
        if found is None:
            raise DataError(
                f"{where}: the file does not say how many um a pixel is; "
                f"give it (microns_per_pixel, --microns-per-pixel){advice}"
            )
        return found
    if not (math.isfinite(given) and given > 0):
        raise ConfigError(f"microns_per_pixel = {given!r}; give um per pixel, above 0")
    if isinstance(found, Real) and not abs(float(found) - given) <= _AGREE * given:
        logger.warning("%s: the file says %.4g um per pixel; taken is %.4g, as given", where, found, given)
    return float(given)


def _spots(name: str, array: NDArray[np.intp]) -> pd.DataFrame:
    digits = len(str(int(array.max())))
    return pd.DataFrame(
        {
            Key.obs.section: pd.Categorical([name] * len(array)),
            Key.obs.patient: pd.Categorical([unknown_patient(name)] * len(array)),
            Key.obs.array_row: array[:, 0],
            Key.obs.array_col: array[:, 1],
        },
        index=[f"{name}_{row:0{digits}}x{column:0{digits}}" for row, column in array],
    )
