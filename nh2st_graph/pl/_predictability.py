"""Plot which genes can be read from images."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from nh2st_graph._errors import DataError
from nh2st_graph.pl._style import BLUE, GREY, ORANGE, PEARSON, finish, legend_above

__all__ = ["predictability"]

_PALE = "0.75"
_NEEDED = ("readable", "pcc", "pcc_partial", "low", "high", "chance", "ceiling")
#: Genes that are named where there are more than a figure holds the names of.
_NAMED, _MOST_NAMES = 12, 60
#: Distance of names on the axis of r, the lowest of them, and their distance from the points and the diagonal.
_HEIGHT, _LOWEST, _FREE = 0.045, 0.3, 0.04
#: Characters of a line below an axis.
_LINE = 84


def predictability(genes: pd.DataFrame) -> Figure:
    """Draw the genes of :func:`nh2st_graph.tl.predictability` in order, and their r beside their noise ceiling.

    Parameters
    ----------
    genes
        A row for each gene: ``readable``, ``pcc``, ``pcc_partial``, ``low``, ``high``, ``chance`` and ``ceiling``, as
        in :attr:`nh2st_graph.tl.Predictability.genes`. A gene without scores is left out.

    Returns
    -------
    The figure. On the left, each gene's held-out r given depth with its 95 % interval, the best first, readable genes
    in colour, what chance reaches, and the noise ceiling of its r above it. On the right, r against the noise ceiling.

    Raises
    ------
    DataError
        If it is no table, a column is missing, or no gene has a score.
    """
    if not isinstance(genes, pd.DataFrame):
        raise DataError(f"{type(genes).__name__} is no table; give the genes of ng.tl.predictability (its .genes)")
    missing = [name for name in _NEEDED if name not in genes]
    if missing:
        raise DataError(f"genes lack {', '.join(missing)}; give the genes of ng.tl.predictability")
    shown = genes.dropna(subset=["pcc_partial"]).sort_values("pcc_partial", ascending=False, kind="stable")
    if shown.empty:
        raise DataError("no gene has a held-out score to draw; give genes that vary in a section")
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), width_ratios=(1.7, 1), layout="constrained")
    readable = shown["readable"].to_numpy(dtype=bool)
    _ranked(left, shown, readable)
    _beside_ceiling(right, shown, readable)
    return figure


def _ranked(ax: Axes, genes: pd.DataFrame, readable: NDArray[np.bool_]) -> None:
    rank = np.arange(len(genes))
    low, high, r = (genes[name].to_numpy(dtype=np.float64) for name in ("low", "high", "pcc_partial"))
    size = float(np.clip(400 / len(genes), 3, 24))
    ax.scatter(rank, genes["ceiling"], size, color=GREY, marker="_", linewidths=0.9, zorder=1)
    ax.scatter(rank, genes["chance"], size, color=ORANGE, marker="_", linewidths=0.9, zorder=2)
    for of, colour in ((~readable, _PALE), (readable, BLUE)):
        ax.vlines(
            rank[of], low[of], high[of], color=colour, linewidth=float(np.clip(250 / len(genes), 0.5, 2)), alpha=0.6
        )
        ax.scatter(rank[of], r[of], size, color=colour, zorder=3)
    ax.axhline(0, color="black", linewidth=0.8)
    if len(genes) <= _MOST_NAMES:
        ax.set_xticks(rank, [str(gene) for gene in genes.index], rotation=90, fontsize="small")
        ax.set_xlabel("gene")
    else:
        ax.set_xlabel("genes, the best first")
        best = ", ".join(str(gene) for gene in genes.index[readable][:_NAMED])
        if best:
            more = int(readable.sum()) - _NAMED
            text = textwrap.fill(f"best: {best}" + (f" and {more} more" if more > 0 else ""), _LINE)
            ax.text(0, -0.14, text, transform=ax.transAxes, va="top", fontsize="small")
    ax.set_ylabel(f"held-out {PEARSON}, given depth")
    ax.margins(x=0.01)
    finish(ax, grid="y")
    _legend(ax, readable)


def _legend(ax: Axes, readable: NDArray[np.bool_]) -> None:
    dots = [(BLUE, f"can be read ({readable.sum()} of {len(readable)})"), (_PALE, "not beyond chance")]
    handles = [Line2D([], [], color=colour, marker="o", markersize=4, label=label) for colour, label in dots]
    dashes = [(ORANGE, "chance reaches"), (GREY, "noise ceiling of r")]
    handles += [Line2D([], [], color=colour, marker="_", linestyle="none", label=label) for colour, label in dashes]
    legend_above(ax, ncols=4, handles=handles)


def _beside_ceiling(ax: Axes, genes: pd.DataFrame, readable: NDArray[np.bool_]) -> None:
    ceiling, r = genes["ceiling"].to_numpy(dtype=np.float64), genes["pcc"].to_numpy(dtype=np.float64)
    for of, colour in ((~readable, _PALE), (readable, BLUE)):
        ax.scatter(ceiling[of], r[of], 12, color=colour, zorder=2)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, zorder=1)
    ax.axhline(0, color="black", linewidth=0.8)
    for place, at in _free(ceiling, r, readable).items():
        line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
        ax.annotate(
            str(genes.index[place]),
            (ceiling[place], r[place]),
            at,
            ha="right",
            va="center",
            fontsize="x-small",
            arrowprops=line,
        )
    ax.set(xlabel="noise ceiling of r", ylabel=f"held-out {PEARSON}", xlim=(-0.02, 1.02))
    finish(ax, grid="both")


def _free(
    x: NDArray[np.float64], y: NDArray[np.float64], readable: NDArray[np.bool_]
) -> dict[int, tuple[float, float]]:
    """Find where the names of the readable genes with the highest r end: left of the diagonal and of all points there.

    An r is seldom above its ceiling, so that it is free there.
    """
    best = [int(place) for place in np.argsort(-y, kind="stable") if readable[place] and np.isfinite(x[place])][:_NAMED]
    heights, lowest = {}, _LOWEST
    for place in reversed(best):  # first up, where names would run into each other, and then down below the end
        heights[place] = max(float(y[place]), lowest)
        lowest = heights[place] + _HEIGHT
    found, highest = {}, 1.0
    for place in best:
        height = min(heights[place], highest)
        highest = height - _HEIGHT
        near = (np.abs(y - height) < _HEIGHT) & np.isfinite(x)
        found[place] = (float(min([height, *x[near]])) - _FREE, height)
    return found
