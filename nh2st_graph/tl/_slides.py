"""Slides without genes: the lattice that a model learned on, and a slide as a section on it."""

from __future__ import annotations

import logging
from pathlib import Path

from anndata import AnnData

from nh2st_graph.im import Lattice, virtual_spots
from nh2st_graph.tl._order import data_first
from nh2st_graph.train import FittedModel

__all__ = ["slide_section"]

logger = logging.getLogger("nh2st_graph")


def slide_section(
    slide: str | Path,
    model: FittedModel,
    *,
    microns_per_pixel: float | None = None,
    pitch_um: float | None = None,
    spot_um: float | None = None,
    min_tissue: float = 0.5,
) -> AnnData:
    """Make a section of a slide, with virtual spots as the model knows them; :func:`predict` goes on from it.

    Parameters
    ----------
    slide
        See :func:`nh2st_graph.im.virtual_spots`.
    model
        From :func:`fit` or :func:`nh2st_graph.load`.
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
    >>> slide = ng.tl.slide_section("slide.tif", model)
    >>> expression = ng.tl.predict(slide, model)
    """
    slide, model = data_first("slide_section", slide, model)
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
