"""Plots of what a model takes from the neighbourhood, on the tissue and by gene."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Circle
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph._errors import DataError, nearest, setting
from nh2st_graph._files import is_count
from nh2st_graph.pl._maps import _RINGS, _add_circles, _add_values, _aspect, _draw_image, _drawable
from nh2st_graph.pl._style import (
    BLUE,
    DIVERGING,
    HALO,
    ORANGE,
    PEARSON,
    colour_bar,
    finish_rows,
    given_or_new,
)
from nh2st_graph.read import SpatialObject, documented, one_section
from nh2st_graph.section import Key, section_name, spot_centres

__all__ = ["attention", "neighbour_gain", "neighbour_share"]

#: Smallest upper end of the colours, as a multiple of 1 / degree, so that uniform attention looks uniform.
_LEAST_RANGE = 1.5
#: Share of the edges beyond the range of the colours.
_BEYOND = 0.02
#: Width of the widest wedge, in diameters of a spot.
_WEDGE = 0.7
#: Largest number of neighbours whose attention is written beside them.
_MOST_NUMBERS = 18
#: Width of a map with its colour bar, and without it, in inches.
_WIDTH, _MAP_WIDTH = 7.0, 5.7


class _Edges(NamedTuple):
    """Edges of a section's attention: reading spot, read spot, weight, and weight as a multiple of 1 / degree."""

    reader: NDArray[np.intp]
    read: NDArray[np.intp]
    weight: NDArray[np.float64]
    relative: NDArray[np.float64]


@documented
def attention(
    adata: SpatialObject,
    spot: str | None = None,
    *,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
    explain_key: str = Key.prefix,
    ax: Axes | None = None,
) -> Axes:
    """Draw where a model looks in the neighbourhood of one spot, or of all spots.

    Parameters
    ----------
    adata
        A section after :func:`nh2st_graph.tl.explain`.
    spot
        Name of a spot whose surroundings are drawn: a wedge points from each neighbour to the spot, as wide as the
        attention, which is also written at the neighbour. By default all edges of the section are drawn, and the half
        of an edge next to a spot shows what this spot reads. Colours show attention as a multiple of 1 / degree, which
        is the plain mean over neighbours.
    %(library_key)s
    %(library_id)s
    %(table_key)s
    explain_key
        ``key_added`` of :func:`nh2st_graph.tl.explain`.
    %(ax)s

    Returns
    -------
    The axes, in pixels of the image in ``uns["spatial"]``, y downwards, with a scale bar in um.

    Raises
    ------
    DataError
        If the section was not explained or has no image, or the spot is unknown or has no neighbour.
    """
    adata = one_section(adata, library_key=library_key, library_id=library_id, table_key=table_key)
    key = Key.under(Key.obsp.attention, explain_key)
    edges = _edges(adata, key)
    _drawable(adata)
    if spot is None:
        return _all_edges(adata, edges, given_or_new(ax, _WIDTH, _height(adata)))
    if spot not in adata.obs_names:
        raise DataError(f"section {section_name(adata)!r}: no spot {spot!r}; {nearest(spot, adata.obs_names)}")
    if adata.obs_names.get_loc(spot) not in edges.reader:
        raise DataError(f"section {section_name(adata)!r}: spot {spot!r} has no neighbour; choose another")
    return _one_spot(adata, edges, spot, key, given_or_new(ax, _WIDTH, _MAP_WIDTH + 0.3))


@documented
def neighbour_share(
    adata: SpatialObject,
    *,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
    explain_key: str = Key.prefix,
    ax: Axes | None = None,
) -> Axes:
    """Draw the share of each spot's prediction that comes from its neighbourhood.

    Parameters
    ----------
    adata
        A section after :func:`nh2st_graph.tl.explain`.
    %(library_key)s
    %(library_id)s
    %(table_key)s
    explain_key
        ``key_added`` of :func:`nh2st_graph.tl.explain`.
    %(ax)s

    Returns
    -------
    The axes, in pixels of the image in ``uns["spatial"]``, y downwards, with a scale bar in um. Colours are from 0 to 1
    in every section, so that maps can be compared.

    Raises
    ------
    DataError
        If the section was not explained or has no image.
    """
    adata = one_section(adata, library_key=library_key, library_id=library_id, table_key=table_key)
    key = Key.under(Key.obs.neighbour_share, explain_key)
    if key not in adata.obs:
        raise DataError(_not_explained(adata, f"obs['{key}']"))
    _drawable(adata)
    ax = given_or_new(ax, _WIDTH, _height(adata))
    share = adata.obs[key]
    _draw_image(adata, ax, alpha=0.5, img_cmap="gray")
    shown = _add_values(adata, ax, share.to_numpy(), Normalize(0, 1))
    colour_bar(ax, shown, "share of the prediction from the neighbourhood")
    ax.set_title(f"section {section_name(adata)}: mean share {share.mean():.2f}")
    return ax


@documented
def neighbour_gain(
    adata: SpatialObject,
    *,
    n: int = 10,
    library_key: str | None = None,
    library_id: str | None = None,
    table_key: str | None = None,
    explain_key: str = Key.prefix,
    ax: Axes | None = None,
) -> Axes:
    """Draw the genes whose prediction gains most and least by the neighbour branch.

    Parameters
    ----------
    adata
        A section after :func:`nh2st_graph.tl.explain`, with all genes of the panel measured.
    n
        Number of genes at each end.
    %(library_key)s
    %(library_id)s
    %(table_key)s
    explain_key
        ``key_added`` of :func:`nh2st_graph.tl.explain`.
    %(ax)s

    Returns
    -------
    The axes, with a bar for each gene, sorted by the gain in Pearson r; beside it are r without and with the branch.

    Raises
    ------
    DataError
        If the section was not explained, its genes were not measured, or ``n`` is no number of genes.
    """
    adata = one_section(adata, library_key=library_key, library_id=library_id, table_key=table_key)
    key = Key.under(Key.uns.explain, explain_key)
    table = adata.uns.get(key, {}).get(Key.explain.gene_gain)
    if table is None:
        raise DataError(_not_explained(adata, f"uns['{key}']"))
    if "gain" not in table:
        raise DataError(
            f"section {section_name(adata)!r}: no gain without measured genes; see the column 'change' of "
            f"uns['{key}']['{Key.explain.gene_gain}'] for the effect of the branch on each prediction"
        )
    if not is_count(n, least=0):
        raise DataError(f"{setting('n', n)}; give a number of genes")
    n = max(1, n)
    ranked = table.sort_index().sort_values("gain", ascending=False, kind="stable")
    all_shown = len(ranked) <= 2 * n
    shown = ranked if all_shown else pd.concat([ranked.iloc[:n], ranked.iloc[-n:]])
    ax = given_or_new(ax, 7, 1.3 + 0.24 * len(shown))
    gain = shown["gain"].to_numpy(dtype=np.float64)
    rows = np.arange(len(shown)) + (0.0 if all_shown else 0.8 * (np.arange(len(shown)) >= n))
    bars = ax.barh(rows, gain, 0.75, color=np.where(gain >= 0, BLUE, ORANGE))
    # "z" removes the sign of 0.00.
    labels = [f"{row.pcc_without:z.3f} \N{RIGHTWARDS ARROW} {row.pcc:z.3f}" for row in shown.itertuples()]
    ax.bar_label(bars, [text.replace("-", "\N{MINUS SIGN}") for text in labels], padding=4, fontsize="small")
    finish_rows(ax, rows, shown.index.tolist(), "gene", fontsize="small")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.margins(x=0.3, y=0.02)
    ax.set_xlabel(f"gain in {PEARSON} by the neighbour branch\n(numbers: r without and with the branch)")
    which = f"all {len(ranked)} genes" if all_shown else f"{n} best and {n} worst of {len(ranked)} genes"
    mean = f"{ranked['gain'].mean():+z.3f}".replace("-", "\N{MINUS SIGN}")
    ax.set_title(f"section {section_name(adata)}: {which}, mean gain {mean}")
    return ax


def _all_edges(adata: AnnData, edges: _Edges, ax: Axes) -> Axes:
    _draw_image(adata, ax, alpha=0.5, img_cmap="gray")
    centres = _centres(adata)
    reader, read = centres[edges.reader], centres[edges.read]
    halves = np.stack([reader, (reader + read) / 2], axis=1)
    lines = LineCollection(list(halves), array=edges.relative, linewidths=1.6, capstyle="butt", **_colours(edges))
    ax.add_collection(lines, autolim=False)
    _relative_bar(ax, lines)
    ax.set_title(f"section {section_name(adata)}: attention of each spot, on its half of the edge")
    return ax


def _one_spot(adata: AnnData, edges: _Edges, spot: str, key: str, ax: Axes) -> Axes:
    i, centres, diameter = adata.obs_names.get_loc(spot), _centres(adata), _diameter(adata)
    mine = edges.reader == i
    weight, centre, around = edges.weight[mine], centres[i], centres[edges.read[mine]]
    _draw_image(adata, ax, alpha=1.0)
    _add_circles(adata, ax, **_RINGS)
    wedges = PolyCollection(
        list(_wedges(around, centre, _WEDGE * diameter * weight / weight.max(), diameter / 2)),
        array=edges.relative[mine],
        edgecolors="black",
        linewidths=0.8,
        **_colours(edges),
    )
    ax.add_collection(wedges, autolim=False)
    ax.add_patch(Circle(tuple(centre), diameter / 2, facecolor="none", edgecolor="black", linewidth=2.5))
    if len(weight) <= _MOST_NUMBERS:
        to_itself = sparse.csr_matrix(adata.obsp[key])[i, i]
        places, values = (around, weight) if not to_itself else (np.vstack([around, centre]), [*weight, to_itself])
        for place, value in zip(places, values, strict=True):
            ax.annotate(f"{value:.2f}", tuple(place), ha="center", va="center", fontsize="small", path_effects=HALO)
    shown = np.vstack([around, centre])
    low, high = shown.min(axis=0) - 1.5 * diameter, shown.max(axis=0) + 1.5 * diameter
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(high[1], low[1])
    _relative_bar(ax, wedges)
    ax.set_title(f"section {section_name(adata)}: attention of spot {spot} over its {len(weight)} neighbours")
    return ax


def _colours(edges: _Edges) -> dict[str, Any]:
    """Choose the colours of relative attention: grey at 1, and few edges beyond the ends."""
    distance = np.abs(np.log(edges.relative))
    factor = float(np.exp(np.quantile(distance, 1 - _BEYOND))) if len(distance) else 1.0
    factor = max(factor, _LEAST_RANGE)
    return {"cmap": DIVERGING, "norm": LogNorm(1 / factor, factor)}


def _relative_bar(ax: Axes, shown: ScalarMappable) -> None:
    bar = colour_bar(ax, shown, "attention relative to the plain mean (1 / degree)", extend="both")
    low, high = shown.get_clim()
    ticks = np.geomspace(low, high, 5)
    bar.minorticks_off()
    bar.set_ticks(ticks.tolist(), labels=[f"{tick:.2f}" for tick in ticks])


def _wedges(
    around: NDArray[np.float64], centre: NDArray[np.float64], width: NDArray[np.float64], radius: float
) -> NDArray[np.float64]:
    """Make triangles from the rims of spots, ``width`` wide, to a tip at the rim of one spot, ``(n, 3, 2)``."""
    step = centre - around
    along = step / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), np.finfo(float).tiny)
    across = along[:, ::-1] * [-1, 1] * (width[:, None] / 2)
    base, tip = around + radius * along, centre - radius * along
    return np.stack([base - across, base + across, tip], axis=1)


def _edges(adata: AnnData, key: str) -> _Edges:
    if key not in adata.obsp:
        raise DataError(_not_explained(adata, f"obsp['{key}']") + "; the model's neighbour branch has to use attention")
    matrix = sparse.csr_matrix(adata.obsp[key])
    degree = np.diff(matrix.indptr)
    reader = np.repeat(np.arange(adata.n_obs), degree)
    weight = matrix.data.astype(np.float64)
    # The diagonal, a spot's attention to itself, counts in the degree and is not drawn.
    edge = reader != matrix.indices
    # Colours are logarithmic, and a weight may underflow to zero.
    relative = np.maximum(weight * degree[reader], np.finfo(float).tiny)
    return _Edges(*(values[edge] for values in (reader, matrix.indices, weight, relative)))


def _not_explained(adata: AnnData, missing: str) -> str:
    return f"section {section_name(adata)!r}: no {missing}; run ng.tl.explain(adata, model) first"


def _height(adata: AnnData) -> float:
    """Compute the height of a map of a whole section with its title, in inches."""
    return _MAP_WIDTH * _aspect(adata) + 0.3


def _centres(adata: AnnData) -> NDArray[np.float64]:
    """Give spot centres in pixels of the drawn image, ``(n_spots, 2)``."""
    return spot_centres(adata) * _scale(adata)


def _diameter(adata: AnnData) -> float:
    """Give the diameter of a spot in pixels of the drawn image."""
    return _drawable(adata).spot_diameter * _scale(adata)


def _scale(adata: AnnData) -> float:
    return _drawable(adata).hires_scale
