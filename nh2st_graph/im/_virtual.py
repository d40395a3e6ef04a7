"""Make a section without genes from a slide: virtual spots on its tissue, laid out as an array."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import ConfigError, DataError, nearest, setting
from nh2st_graph._files import positive
from nh2st_graph.section import Key, changed_entry, check_section, library_entry, unknown_patient
from nh2st_graph.slide import check_share, chosen_scale, find_tissue, image_name, open_slide, report_size, scale_advice

__all__ = ["Lattice", "Layout", "virtual_spots"]

logger = logging.getLogger("nh2st_graph")

Layout = Literal["grid", "hex"]


@dataclass(frozen=True)
class Lattice:
    """How virtual spots lie on tissue; by default as on Visium's array.

    One array covers the whole slide, as in training data, so that rows and columns mean the same in every piece of
    tissue. (LazySlide's own tiles are squares of whole pixels and start anew at each piece.)

    Attributes
    ----------
    pitch_um
        Distance from a spot to the nearest other spot, in um.
    spot_um
        Diameter of a spot, in um.
    layout
        ``grid``: rows and columns; ``hex``: rows that are shifted by half a pitch, so that a spot has six neighbours.

    Raises
    ------
    ConfigError
        If a length is not above 0, or the layout is unknown.
    """

    pitch_um: float = 100.0
    spot_um: float = 55.0
    layout: Layout = "hex"

    def __post_init__(self) -> None:
        for name in ("pitch_um", "spot_um"):
            value = getattr(self, name)
            if positive(value) is None:
                raise ConfigError(f"{setting(name, value)}; give a length in um above 0")
        if self.layout not in get_args(Layout):
            raise ConfigError(f"{setting('layout', self.layout)}; {nearest(str(self.layout), get_args(Layout))}")

    def places(self, width_um: float, height_um: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Lay the lattice over a rectangle, the first spot half a pitch from its corner.

        Returns
        -------
        Array positions, ``(n, 2)``, row then column, numbered as in ST or Visium (where a row has either the even or
        the odd columns); and centres in um, ``(n, 2)``, x then y. Spots are in row-major order.
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
        inside = (centres < (width_um, height_um)).all(axis=1)  # rounding may put the last spots on the edge
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
    """Make a section without genes from a slide, with virtual spots on its tissue.

    Parameters
    ----------
    slide
        A JPEG, PNG, TIFF or ``.svs`` file; with the extra ``[wsi]``, any format of OpenSlide. See :func:`open_slide`.
    pitch_um
        Distance from a spot to the nearest other spot, in um; by default that of Visium. Use the lattice that a model
        was trained on, ``model.lattice``, for its predictions.
    spot_um
        Diameter of a spot, in um.
    layout
        ``"grid"`` (rows and columns, as in ST) or ``"hex"`` (as in Visium).
    patch_um
        Side of the square around a spot in which tissue is looked for, in um; by default the pitch.
    min_tissue
        Smallest share of tissue in this square, from 0 to 1. With 0, spots cover the whole slide.
    microns_per_pixel
        Resolution of the slide in um per pixel; by default that of the file.
    section
        Name of the section; by default that of the file. Its patient is unknown.

    Returns
    -------
    The section: 0 genes; ``obs["section"]``, ``obs["patient"]``, ``obs["array_row"]``, ``obs["array_col"]``;
    ``obsm["spatial"]`` in full-resolution pixels; ``uns["spatial"]`` with an image for plots and the metadata. Names of
    spots hold row and column, and sort in row-major order.

    Raises
    ------
    ConfigError
        If an argument is out of range.
    DataError
        If the resolution is unknown, or the slide has no tissue.
    ImageError
        If the slide is missing or damaged, or no installed reader opens its format.
    """
    path, lattice = Path(slide), Lattice(pitch_um, spot_um, layout)
    check_share(min_tissue)
    around = pitch_um if patch_um is None else patch_um
    if positive(around) is None:
        raise ConfigError(f"{setting('patch_um', patch_um)}; give a size in um above 0")
    with open_slide(path) as opened:
        scale = chosen_scale(f"slide {path}", opened.microns_per_pixel, microns_per_pixel, scale_advice(opened))
        width, height = opened.sizes[0]
        report_size(f"slide {path}", opened.sizes[0], scale)
        if pitch_um < scale:
            raise ConfigError(f"slide {path}: {setting('pitch_um', pitch_um)} is less than a pixel ({scale:.4g} um)")
        array, centres_um = lattice.places(width * scale, height * scale)
        tissue, image = find_tissue(opened, scale)
    centres = centres_um / scale
    share = tissue.fraction(centres, around / scale)
    kept = share >= min_tissue if min_tissue else np.ones(len(share), dtype=bool)
    if not kept.any():
        raise DataError(
            f"slide {path}: no tissue found (none of {len(share)} places has {min_tissue:.0%} of tissue; "
            f"{tissue.mask.mean():.1%} of the slide is tissue); check um per pixel ({scale:g}), or lower "
            f"{setting('min_tissue')} (0 covers the whole slide)"
        )
    name = section or image_name(path)
    adata = AnnData(obs=_spots(name, array[kept]))
    adata.obsm[Key.obsm.spatial] = centres[kept]
    entry = library_entry(path, scale, spot_um / scale, (image, tissue.scale))
    adata.uns[Key.uns.spatial] = {name: changed_entry(entry, array_pitch_um=float(pitch_um))}
    logger.info("slide %s: %d spots on tissue, %.4g um apart", path, adata.n_obs, pitch_um)
    return check_section(adata, need=("image",))


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
