"""Make a section of a slide without spots, on the lattice that a model learned on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from anndata import AnnData

from nh2st_graph.im import Lattice, virtual_spots
from nh2st_graph.section import Key
from nh2st_graph.tl._order import data_first
from nh2st_graph.tl._regions import excluded
from nh2st_graph.train import FittedModel

if TYPE_CHECKING:
    from nh2st_graph.tl._regions import Place

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
    exclude: Place | None = None,
    patient: str | None = None,
) -> AnnData:
    """Make a section of a slide, with virtual spots on the lattice of the model, for :func:`predict`.

    Parameters
    ----------
    slide
        See :func:`nh2st_graph.im.virtual_spots`.
    model
        A model of :func:`fit` or :func:`nh2st_graph.load`.
    microns_per_pixel
        Resolution of the slide, in um per pixel. The default is that of the file.
    pitch_um
        Distance from a spot to the nearest, in um. The default is that of the training sections.
    spot_um
        Diameter of a spot, in um. The default is that of the training sections.
    min_tissue
        Share of a spot's patch that must be tissue.
    exclude
        Regions without spots, such as folds and ink; see :func:`crop`.
    patient
        Whose slide it is. A patient of training is predicted, and believed, as one; without a name it is a new one.

    Raises
    ------
    ConfigError, DataError, ImageError
        As :func:`nh2st_graph.im.virtual_spots` does.

    Examples
    --------
    Predict a slide without genes and spots with a saved model:

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
            "the model does not know the lattice of its training sections; spots of %.4g um are laid %.4g um apart, as "
            "on Visium or as given",
            lattice.spot_um,
            lattice.pitch_um,
        )
    section = virtual_spots(
        slide,
        pitch_um=lattice.pitch_um,
        spot_um=lattice.spot_um,
        layout=lattice.layout,
        patch_um=model.config.features.smallest_patch_um,
        min_tissue=min_tissue,
        microns_per_pixel=microns_per_pixel,
    )
    if patient is not None:
        section.obs[Key.obs.patient] = pd.Categorical([patient] * section.n_obs)
    return excluded(section, exclude)
