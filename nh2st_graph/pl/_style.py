"""The common style of figures: colours, names of scores, axes, maps and colour bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

from nh2st_graph.section import CLASS_COLOURS

__all__ = [
    "BLUE",
    "COLOURS",
    "DIVERGING",
    "EXPRESSION",
    "GREY",
    "HALO",
    "ORANGE",
    "PEARSON",
    "SEQUENTIAL",
    "colour_bar",
    "finish",
    "finish_map",
    "finish_rows",
    "given_or_new",
    "legend_above",
]

COLOURS = (*CLASS_COLOURS, "#000000")
BLUE, ORANGE = COLOURS[:2]
#: Colour of references, and of remarks beside a column.
GREY = "0.4"
SEQUENTIAL, DIVERGING = "viridis", "coolwarm"
#: Outline that keeps text legible on an image or among points.
HALO = [withStroke(linewidth=2.5, foreground="white")]

PEARSON = "Pearson r over spots"
#: Expression and its unit, by ``data.normalize``; CP10k: counts per ten thousand.
EXPRESSION = {
    "total": "expression\nlog(1 + CP10k)",
    "panel": "expression\nlog(1 + CP10k of panel)",
    "residuals": "expression\nPearson residual",
}


def given_or_new(ax: Axes | None, width: float, height: float) -> Axes:
    """Give the axes to draw in: those of the caller, or those of a new figure with a size in inches."""
    # A constrained layout leaves too little room beside a map, whose aspect ratio is fixed.
    return plt.subplots(figsize=(width, height), layout="compressed")[1] if ax is None else ax


def finish(ax: Axes, *, grid: Literal["x", "y", "both"] | None = None) -> None:
    """Remove the frame, and draw grid lines behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        ax.grid(axis=grid, color="0.92")
        ax.set_axisbelow(True)


def finish_rows(ax: Axes, rows: ArrayLike, names: Sequence[object], label: str, **font: Any) -> None:
    """Name rows from top to bottom; ``label`` is the name of the axis, such as "method"."""
    ax.set_yticks(rows, [str(name) for name in names], **font)
    ax.set_ylabel(label)
    ax.invert_yaxis()
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)


def finish_map(ax: Axes) -> None:
    """Give a map a thin frame and no axes: it has a scale bar, and positions on a slide have no meaning."""
    ax.xaxis.set_visible(False)
    ax.yaxis.set_visible(False)
    ax.spines[:].set(color="0.7", linewidth=0.8)


def colour_bar(ax: Axes, shown: ScalarMappable, label: str, **options: Any) -> Colorbar:
    """Draw a colour bar beside axes and as tall as they are."""
    bar = ax.figure.colorbar(shown, cax=ax.inset_axes((1.03, 0.0, 0.04, 1.0)), **options)
    bar.outline.set_visible(False)
    bar.set_label(label)
    return bar


def legend_above(ax: Axes, ncols: int, handles: Sequence[Artist] | None = None) -> None:
    """Draw a legend above axes, where it hides no data; it may extend over the names of rows."""
    known = ax.get_legend_handles_labels()[0] if handles is None else handles
    ax.legend(
        handles=known,
        frameon=False,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=ncols,
        fontsize="small",
        columnspacing=1.4,
        handlelength=1.8,
    )
