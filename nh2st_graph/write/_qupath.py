"""Write a prediction as GeoJSON: spots as detections that QuPath opens over the slide."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph import __version__
from nh2st_graph._errors import DataError, nearest, setting
from nh2st_graph._files import written_aside
from nh2st_graph.confidence import best_reliable, call
from nh2st_graph.read import SpatialObject, documented, one_section
from nh2st_graph.section import CLASS_COLOURS, Key, section_name, slide_origin, spot_centres
from nh2st_graph.write._values import (
    checked_classes,
    chosen,
    dense,
    drawn_library,
    familiar_words,
    measured_columns,
    refuse_twice,
    unit,
    with_values,
)

__all__ = ["write_qupath"]

#: Corners of the polygon that stands for a circle, which GeoJSON does not have.
_CORNERS = 16
#: Percentiles at the ends of the colours, so that one outlier does not take all of them.
_ROBUST = (2.0, 98.0)
#: Colours of classes; the last would be too pale in a figure, and black too dark on a slide.
_COLOURS = (*CLASS_COLOURS, "#F0E442")
_RESOLUTION = "um per px"
#: Figures of a written number: more than its error, and short files.
_FIGURES = 5


@documented
def write_qupath(
    prediction: SpatialObject,
    path: str | Path,
    *,
    genes: str | Sequence[str] | None = None,
    color_by: str | None = None,
    class_by: str | None = None,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
) -> None:
    """Write a prediction as GeoJSON that QuPath opens over the slide (File > Import objects from file).

    Each spot is a detection: a circle of the spot's diameter (16 corners), with the name of the spot, its colour, and
    these measurements: the predicted genes, ``GENE lower`` and ``GENE upper`` where the prediction has intervals, all
    numbers of ``obs`` such as ``familiarity``, and the resolution, ``um per px``. QuPath colours the detections by any
    of them (Measure > Show measurement maps). Coordinates are in full-resolution pixels, counted as QuPath does: from
    the corner of the scanned area where the scanner's file states one (.mrxs, .scn).

    Parameters
    ----------
    prediction
        A prediction of :func:`nh2st_graph.tl.predict`.
    %(written_path)s A file, ``.geojson``.
    %(genes)s A gene that is NaN in some spot is left out, and a message names it.
    color_by
        Gene, or column of numbers in ``obs``, by which detections are coloured (viridis, from the 2nd to the 98th
        percentile). None takes the best reliable gene, or the familiarity, unless ``class_by`` is given.
    %(class_by)s One of them classifies the detections. None takes ``annotation``, if it is there; else where the best
        reliable gene is called high or low (:func:`nh2st_graph.tl.call`); else what familiarity says in words.
    %(library_key)s
    %(library_id)s
    %(table_key)s

    Raises
    ------
    DataError
        If a gene or column is not there, a gene has the name of a column that is written, no gene has values, or the
        diameter of spots is not known.
    RunError
        If something else is there under this path, or nothing can be written there.

    Examples
    --------
    >>> import nh2st_graph as ng
    >>> model = ng.load("model")
    >>> prediction = ng.tl.predict(ng.tl.slide_section("slide.tif", model), model)
    >>> ng.write_qupath(prediction, "slide.geojson", genes=["ERBB2", "KRT8"], color_by="ERBB2")
    """
    section = one_section(prediction, library_key=library_key, library_id=library_id, table_key=table_key, image=False)
    colours, legend = _colours(section, color_by, class_by)
    classes = _classes(_classification(section, class_by), section.n_obs)
    features = _features(section, with_values(section, genes, "QuPath"), colours, classes)
    about = {"written_by": f"nh2st_graph {__version__}", "section": section_name(section), "values": unit(section)}
    head = json.dumps({"type": "FeatureCollection", "nh2st_graph": {**about, **legend}})
    with written_aside(Path(path)) as aside, aside.open("w", encoding="utf-8") as file:
        # One feature after the other: all of a large slide in memory would take many times its prediction.
        file.write(f'{head[:-1]}, "features": [')
        for i, feature in enumerate(features):
            file.write(",\n" if i else "\n")
            file.write(feature)
        file.write("\n]}\n")


def _features(
    section: AnnData, some: AnnData, colours: NDArray[np.uint8] | None, classes: list[dict[str, Any] | None]
) -> Iterator[str]:
    """Write the feature of each spot."""
    found, diameter = drawn_library(section)
    centres = spot_centres(section) - slide_origin(section)
    angles = np.linspace(0, 2 * np.pi, _CORNERS + 1)
    circle = diameter / 2 * np.column_stack([np.cos(angles), np.sin(angles)])
    circle[-1] = circle[0]
    names, values = _measurements(section, some)
    resolution = {} if found.microns_per_pixel is None else {_RESOLUTION: found.microns_per_pixel}
    space = uuid.uuid5(uuid.NAMESPACE_URL, section_name(section))
    for i, spot in enumerate(map(str, section.obs_names)):
        properties: dict[str, Any] = {"objectType": "detection", "name": spot}
        if colours is not None:
            properties["color"] = colours[i].tolist()
        if classes[i] is not None:
            properties["classification"] = classes[i]
        row = _rounded(values[i])
        numbers = dict(zip(names, row.tolist(), strict=True))
        if not np.isfinite(row).all():  # JSON has no NaN; QuPath takes a measurement that is not there for one
            numbers = {name: value for name, value in numbers.items() if np.isfinite(value)}
        properties["measurements"] = numbers | resolution
        geometry = {"type": "Polygon", "coordinates": [(centres[i] + circle).round(2).tolist()]}
        feature = {
            "type": "Feature",
            "id": str(uuid.uuid5(space, spot)),
            "geometry": geometry,
            "properties": properties,
        }
        yield json.dumps(feature, separators=(",", ":"))


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round numbers to the figures that are written."""
    with np.errstate(divide="ignore"):
        digits = _FIGURES - 1 - np.floor(np.log10(np.abs(values)))
    scale = 10.0 ** np.clip(np.where(np.isfinite(digits), digits, 0), -300, 15)
    rounded: NDArray[np.float64] = np.round(values * scale) / scale
    return rounded


def _measurements(section: AnnData, some: AnnData) -> tuple[list[str], NDArray[np.float64]]:
    """Give names of measurements, and ``(n_spots, n_measurements)``."""
    columns = measured_columns(section)
    names, parts = [*columns], [section.obs[columns].to_numpy(dtype=np.float64, na_value=np.nan)]
    genes = list(map(str, some.var_names))
    for layer, form in ((None, "{}"), (Key.layers.lower, "{} lower"), (Key.layers.upper, "{} upper")):
        if layer is None or layer in some.layers:
            names += [form.format(gene) for gene in genes]
            parts.append(dense(some, layer).astype(np.float64))
    refuse_twice(section, [*names, _RESOLUTION])
    return names, np.hstack(parts)


def _colours(
    section: AnnData, color_by: str | None, class_by: str | None
) -> tuple[NDArray[np.uint8] | None, dict[str, Any]]:
    """Colour spots, ``(n_spots, 3)``, and say by what; None where there is nothing to colour them by."""
    import matplotlib

    if color_by is None:
        if class_by is not None:
            return None, {}
        there = [*best_reliable(section.var, 1), *section.obs.columns.intersection([Key.obs.familiarity])]
        if not there:
            return None, {}
        color_by = there[0]
    if color_by in section.var_names:
        values = dense(chosen(section, color_by))[:, 0].astype(np.float64)
    elif color_by in measured_columns(section):
        values = section.obs[color_by].to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        known = [*section.var_names, *measured_columns(section)]
        raise DataError(
            f"section {section_name(section)!r}: {setting('color_by', color_by)} is no gene and no column of numbers "
            f"in obs; {nearest(color_by, known)}"
        )
    if not np.isfinite(values).any():
        return None, {}
    low, high = np.nanpercentile(values, _ROBUST)
    share = np.nan_to_num(np.clip((values - low) / ((high - low) or 1.0), 0, 1))
    shades = matplotlib.colormaps["viridis"](share, bytes=True)
    legend = {"color_by": color_by, "color_range": [round(float(low), _FIGURES), round(float(high), _FIGURES)]}
    return np.asarray(shades[:, :3], dtype=np.uint8), legend


def _classification(section: AnnData, class_by: str | None) -> pd.Series | None:
    """Find the class of each spot; None where nothing says any."""
    if class_by is None and Key.obs.annotation in section.obs:
        class_by = Key.obs.annotation
    if class_by is not None:
        return section.obs[checked_classes(section, class_by)[0]]
    best = best_reliable(section.var, 1)
    return call(section, best[0]).map(lambda word: f"{best[0]} {word}") if best else familiar_words(section)


def _classes(named: pd.Series | None, n_spots: int) -> list[dict[str, Any] | None]:
    """Give QuPath's classification of each spot."""
    if named is None:
        return [None] * n_spots
    column = pd.Categorical(named.astype("category"))
    classes = [
        {"name": str(name), "color": [int(_COLOURS[i % len(_COLOURS)][at : at + 2], 16) for at in (1, 3, 5)]}
        for i, name in enumerate(column.categories)
    ]
    return [None if code < 0 else classes[code] for code in column.codes]
