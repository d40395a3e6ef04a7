"""Slides without genes: the lattice that a model learned on, and a slide as a section on it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from anndata import AnnData

from nh2st_graph.gr import lattice_neighbours, spot_pitch
from nh2st_graph.im import Lattice, virtual_spots
from nh2st_graph.section import Key, library
from nh2st_graph.train._model import FittedModel

__all__ = ["slide_section", "training_lattice"]

logger = logging.getLogger("nh2st_graph")


def training_lattice(sections: Iterable[AnnData]) -> Lattice | None:
    """Tell how spots lie on sections: medians of their pitch and diameter, and the layout of most of them.

    Returns
    -------
    The lattice; None where no section has a scale and a spot diameter.
    """
    known = []
    for section in sections:
        entries = section.uns.get(Key.uns.spatial, {})
        if len(entries) != 1 or section.n_obs < 2:
            continue
        entry = library(section)
        scale = entry.get(Key.library.metadata, {}).get(Key.library.microns_per_pixel)
        diameter = entry.get(Key.library.scalefactors, {}).get(Key.library.spot_diameter)
        if scale and diameter:
            known.append((spot_pitch(section) * scale, diameter * scale, lattice_neighbours(section) == 6))
    if not known:
        return None
    pitch, diameter, hexagonal = np.median(np.array(known, dtype=float), axis=0)
    return Lattice(float(pitch), float(diameter), "hex" if hexagonal > 0.5 else "grid")


def slide_section(
    model: FittedModel,
    slide: str | Path,
    *,
    microns_per_pixel: float | None = None,
    pitch_um: float | None = None,
    spot_um: float | None = None,
    min_tissue: float = 0.5,
) -> AnnData:
    """Make a section of a slide, with virtual spots as the model knows them; :func:`predict` goes on from it.

    Parameters
    ----------
    model
        From :func:`fit` or :func:`nh2st_graph.load`.
    slide
        See :func:`nh2st_graph.im.virtual_spots`.
    microns_per_pixel
        Scale of the slide; that of the file by default.
    pitch_um
        From a spot to the nearest, in um; that of the training sections by default.
    spot_um
        Diameter of a spot, in um; that of the training sections by default.
    min_tissue
        Share of a spot's patch that must be tissue.

    Raises
    ------
    ConfigError, DataError, ImageError
        As :func:`nh2st_graph.im.virtual_spots` does.

    Examples
    --------
    A slide without genes and without spots, and a model that was saved:

    >>> import nh2st_graph as ng
    >>> model = ng.load("model")
    >>> slide = ng.tl.slide_section(model, "slide.tif")
    >>> expression = ng.tl.predict(model, slide)
    """
    known = model.lattice or Lattice()
    lattice = Lattice(
        known.pitch_um if pitch_um is None else pitch_um,
        known.spot_um if spot_um is None else spot_um,
        known.layout,
    )
    if model.lattice is None:
        logger.warning(
            "the model does not know the lattice of its training sections; as on Visium, and as given, spots of %g um "
            "lie %g um apart",
            lattice.spot_um,
            lattice.pitch_um,
        )
    return virtual_spots(
        slide,
        pitch_um=lattice.pitch_um,
        spot_um=lattice.spot_um,
        layout=lattice.layout,
        patch_um=model.config.features.patch_um,
        min_tissue=min_tissue,
        microns_per_pixel=microns_per_pixel,
    )
