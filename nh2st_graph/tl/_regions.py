"""Keep the spots of a section that lie in regions, or outside of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import ConfigError, DataError, ImageError, setting
from nh2st_graph.read import Regions, regions
from nh2st_graph.section import Key, libraries, library, refuse_backed, section_name, slide_origin
from nh2st_graph.slide import slide_size

if TYPE_CHECKING:
    from nh2st_graph.read._regions import Shapes

    Place: TypeAlias = str | Path | Shapes

__all__ = ["annotated", "check_regions", "crop", "excluded", "in_roi"]

logger = logging.getLogger("nh2st_graph")

_SECTION = "{section}"


def check_regions(n_inputs: int, **places: Place | None) -> None:
    """Refuse files of regions that cannot be read, or that are given for several inputs at once.

    Parameters
    ----------
    n_inputs
        Number of sections and slides.
    places
        Files by the argument; a path with ``{section}`` in it stands for one file a section, which is read later.

    Raises
    ------
    ConfigError, DataError
        If one cannot be used.
    """
    for name, place in places.items():
        if place is None or (isinstance(place, str | Path) and _SECTION in str(place)):
            continue
        if n_inputs > 1:
            raise ConfigError(
                f"{setting(name, str(place))} is one file for {n_inputs} inputs, and each has its own regions; give "
                f"one input, or a path with {_SECTION} in it"
            )
        regions(place)


def crop(adata: AnnData, *, roi: Place | None = None, exclude: Place | None = None) -> AnnData:
    """Keep the spots of a section or prediction whose centres lie in regions drawn on the slide.

    Crop a prediction by ``roi``, not the section before it: features are standardised over the spots of a section, and
    spots read their neighbours, so that numbers would depend on how a region was drawn. ``exclude`` is for what is to
    have no part in that, such as folds and ink: crop the section before it is predicted.

    Parameters
    ----------
    adata
        One section, or a prediction.
    roi
        The regions to keep, in full-resolution pixels: GeoJSON, as QuPath exports annotations (``{section}`` in the
        path stands for the name of the section), or shapes; see :func:`nh2st_graph.read.regions`.
    exclude
        The same of the regions to leave out.

    Returns
    -------
    A copy; with ``roi``, ``obs["annotation"]`` names the region of each spot: its class, or name. Of regions that lie
    in each other, it is the smallest.

    Raises
    ------
    ConfigError
        If there are no regions.
    DataError
        If a file cannot be used, no spot is left, or the AnnData is in backed mode.

    Examples
    --------
    >>> import nh2st_graph as ng
    >>> model = ng.load("model")
    >>> slide = ng.tl.slide_section("slide.tif", model, exclude="folds.geojson")
    >>> tumour = ng.tl.crop(ng.tl.predict(slide, model), roi="tumour.geojson")
    """
    if roi is None and exclude is None:
        raise ConfigError(f"no regions are given; give {setting('roi')}, {setting('exclude')}, or both")
    refuse_backed(adata)
    left = excluded(adata, exclude)
    return left.copy() if roi is None else in_roi(annotated(left, roi))


def excluded(adata: AnnData, exclude: Place | None) -> AnnData:
    """Leave out the spots in regions.

    Raises
    ------
    DataError
        If the file cannot be used, or no spot is left.
    """
    if exclude is None:
        return adata
    drawn, number = _numbered(adata, exclude, "exclude")
    outside = number < 0
    if outside.all():
        logger.warning("%s", _all_outside(adata, drawn))
    if not outside.any():
        raise DataError(
            f"section {section_name(adata)!r}: all {adata.n_obs} spots lie in the regions of {drawn.source} "
            f"({setting('exclude')}), and none is left; draw smaller ones"
        )
    logger.info("section %r: %d of %d spots are excluded", section_name(adata), (~outside).sum(), adata.n_obs)
    return adata[outside].copy()


def annotated(adata: AnnData, roi: Place) -> AnnData:
    """Name the region of each spot in a copy's ``obs["annotation"]``; spots outside have none.

    Raises
    ------
    DataError
        If the file cannot be used, or no spot lies in a region.
    """
    drawn, number = _numbered(adata, roi, "roi")
    if (number < 0).all():
        raise DataError(_all_outside(adata, drawn))
    names = np.array([*drawn.names, None], dtype=object)[number]
    found = adata.copy()
    found.obs[Key.obs.annotation] = pd.Categorical(names, categories=sorted(set(drawn.names)))
    logger.info("section %r: %d of %d spots lie in regions", section_name(adata), (number >= 0).sum(), adata.n_obs)
    return found


def in_roi(adata: AnnData) -> AnnData:
    """Keep the spots of an annotated section that have an annotation."""
    return adata[adata.obs[Key.obs.annotation].notna().to_numpy()].copy()


def _numbered(adata: AnnData, place: Place, argument: Literal["roi", "exclude"]) -> tuple[Regions, NDArray[np.intp]]:
    """Read regions, and find the region of each spot."""
    name = section_name(adata)
    try:
        file = str(place).replace(_SECTION, name) if isinstance(place, str | Path) else place
        drawn = regions(file, origin=slide_origin(adata))
    except DataError as error:
        raise DataError(f"section {name!r}, {setting(argument)}: {error.args[0]}") from None
    return drawn, drawn.at(np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)[:, :2])


def _all_outside(adata: AnnData, drawn: Regions) -> str:
    """Say where the regions are, and where the spots and the slide."""
    spots = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    return (
        f"section {section_name(adata)!r}: none of its {adata.n_obs} spots lies in the regions of {drawn.source} "
        f"({_extent(drawn.bounds)}); {_size(adata)}its spots are at {_extent([*spots.min(axis=0), *spots.max(axis=0)])}"
        "; draw the regions on this slide, and export them in pixels of its full resolution"
    )


def _size(adata: AnnData) -> str:
    source = library(adata).source if libraries(adata) else None
    try:
        width, height = slide_size(source or "")
    except ImageError:
        return ""
    return f"the slide is {width} x {height} px, "


def _extent(bounds: Sequence[float]) -> str:
    left, top, right, bottom = (round(float(end)) for end in bounds)
    return f"x {left} to {right}, y {top} to {bottom} px"
