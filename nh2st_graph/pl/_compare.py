"""Plots that compare methods: gene by gene, and during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from nh2st_graph._errors import DataError, nearest, setting
from nh2st_graph.metrics import GENE_SCORES
from nh2st_graph.pl._style import (
    BLUE,
    COLOURS,
    HALO,
    ORANGE,
    SEQUENTIAL,
    colour_bar,
    finish,
    given_or_new,
)
from nh2st_graph.read import documented

__all__ = ["gene_scatter", "learning_curves"]

#: With more methods than colours, the colours repeat with other dashes.
_DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (4, 1.5)), (0, (1, 1)))
_PANELS = {"val_pcc": "held-out Pearson r, mean over genes", "val_loss": "held-out mean squared error"}
#: Columns that a score belongs to beside the gene; seeds are averaged.
_UNIT = ["split", "fold", "section"]
_RUN = ["split", "fold", "seed", "stage"]


@documented
def gene_scatter(
    per_gene: pd.DataFrame,
    a: str,
    b: str,
    *,
    score: Literal["pcc", "pcc_partial"] = "pcc",
    colour: Literal["ceiling", "better"] = "ceiling",
    ax: Axes | None = None,
) -> Axes:
    """Draw r of each gene by two methods, with the line of equality.

    Parameters
    ----------
    per_gene
        A row for each run, test section and gene: ``method``, ``gene``, the score, and any of ``split``, ``fold``,
        ``section`` and ``seed``. Scores are averaged over seeds, then over the sections that both methods scored.
    a, b
        Names of the methods on the x axis and on the y axis.
    score
        ``pcc``, or ``pcc_partial`` for r given depth.
    colour
        ``ceiling`` colours genes by the mean of the column ``ceiling``, an estimate of the r of a perfect predictor;
        ``better`` by the method that is better.
    %(ax)s

    Returns
    -------
    The axes.

    Raises
    ------
    DataError
        If a method is unknown, the two share no section and gene, or the column ``ceiling`` is missing.
    """
    means = _paired_means(per_gene, a, b, score)
    ax = given_or_new(ax, 5.9 if colour == "ceiling" else 5.0, 5)
    x, y = means[a].to_numpy(), means[b].to_numpy()
    if colour == "ceiling":
        if "ceiling" not in per_gene:
            raise DataError(f"per_gene has no column 'ceiling' to colour by; give {setting('colour', 'better')}")
        ceiling = per_gene.groupby("gene")["ceiling"].mean().reindex(means.index)
        points = ax.scatter(x, y, 12, ceiling, cmap=SEQUENTIAL, vmin=0, vmax=1, zorder=3)
        colour_bar(ax, points, f"noise ceiling of {GENE_SCORES['pcc']}")
    else:
        ax.scatter(x, y, 12, np.select([y > x, y < x], [BLUE, ORANGE], "0.5"), zorder=3)
    low, high = min(x.min(), y.min(), 0.0), max(x.max(), y.max(), 0.0)
    room = 0.04 * (high - low or 1.0)
    ax.set(xlim=(low - room, high + room), ylim=(low - room, high + room), aspect="equal")
    ax.axline((0, 0), slope=1, color="0.4", linewidth=0.9, zorder=2)
    above, below = (y > x).sum(), (y < x).sum()
    corner: dict[str, Any] = {"transform": ax.transAxes, "path_effects": HALO, "zorder": 4}
    ax.text(0.02, 0.98, f"{b} better: {above} of {len(x)} genes", ha="left", va="top", **corner)
    ax.text(0.98, 0.02, f"{a} better: {below} of {len(x)} genes", ha="right", va="bottom", **corner)
    ax.set(xlabel=f"Pearson {GENE_SCORES[score]}: {a}", ylabel=f"Pearson {GENE_SCORES[score]}: {b}")
    finish(ax, grid="both")
    return ax


def _paired_means(per_gene: pd.DataFrame, a: str, b: str, score: str) -> pd.DataFrame:
    """Compute the mean score of each gene by both methods, ``(n_genes, 2)``, over the sections that both scored."""
    for name in (a, b):
        if name not in set(per_gene["method"]):
            raise DataError(f"no method {name!r} in the table; {nearest(name, set(per_gene['method']))}")
    if a == b:
        raise DataError(f"a and b are both {a!r}; give two different methods")
    rows = per_gene[per_gene["method"].isin([a, b])]
    unit = [key for key in _UNIT if key in rows]
    pairs = rows.pivot_table(index=[*unit, "gene"], columns="method", values=score, aggfunc="mean", observed=True)
    pairs = pairs.reindex(columns=[a, b]).dropna()
    if pairs.empty:
        raise DataError(f"{a!r} and {b!r} have no section and gene with {score!r} in common")
    return pairs.groupby("gene").mean()


def learning_curves(curves: pd.DataFrame) -> Figure:
    """Draw held-out r and held-out error against optimiser steps, with a line for each method.

    A line is the median over folds and seeds at each step, and its band is the middle half of them. Both end where
    fewer than half of the curves continue; a curve that was stopped earlier keeps its last score. A method whose line
    still rises at its end was not trained long enough. Errors far above the final level of all methods, such as those
    of the first steps, are cut off.

    Parameters
    ----------
    curves
        A row for each epoch of each curve: ``method``, ``epoch``, ``step``, any of ``val_pcc`` and ``val_loss``, and
        any of ``split``, ``fold``, ``seed`` and ``stage`` to distinguish the curves of a method. Give the curves of one
        split, since held-out scores of different splits cannot be averaged.

    Returns
    -------
    The figure, with a panel for r and one for the error, as far as there are values.

    Raises
    ------
    DataError
        If there is nothing to draw.
    """
    panels = {score: label for score, label in _PANELS.items() if score in curves and curves[score].notna().any()}
    if not panels:
        raise DataError("no held-out score to draw; give rows with val_pcc or val_loss")
    methods = list(dict.fromkeys(curves["method"]))
    size = (5.2 * len(panels) + 2.4, max(4.0, 0.8 + 0.26 * len(methods)))
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    for ax, (score, label) in zip(axes[0], panels.items(), strict=True):
        known = curves[curves[score].notna() & (curves["step"] > 0)]
        lines = {str(method): _median_curve(known[known["method"] == method], score) for method in methods}
        _draw_lines(ax, lines)
        if score == "val_loss":
            _cut_off(ax, [line for line in lines.values() if len(line)])
        ax.set(xscale="log", xlabel="optimiser steps", ylabel=label)
        _number_steps(ax)
        finish(ax, grid="both")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside right center", handlelength=3)
    return figure


def _number_steps(ax: Axes) -> None:
    """Write steps as whole numbers, 20 and not 2x10^1; on a short axis too."""
    first, last = ax.get_xlim()
    subs = (1.0,) if last / first > 1e3 else (1.0, 2.0, 5.0) if last / first > 10 else (1.0, 2.0, 3.0, 4.0, 5.0, 7.0)
    ax.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _median_curve(curves: pd.DataFrame, score: str) -> pd.DataFrame:
    """Average the curves of a method, as long as half of them continue: ``step``, ``middle``, ``low`` and ``high``.

    Curves are interpolated between their epochs, since an epoch of more sections has more steps. If stopped curves were
    left out, the line would jump to the level of the others.
    """
    run = [key for key in _RUN if key in curves]
    parts = [part for _, part in curves.groupby(run)] if run else [curves]
    steps = np.unique(curves["step"].to_numpy(dtype=np.float64))
    values = np.full((len(parts), len(steps)), np.nan)
    going_on = np.zeros(len(steps))
    for row, part in zip(values, parts, strict=True):
        ordered = part.sort_values("step")
        row[:] = np.interp(steps, ordered["step"], ordered[score], left=np.nan)
        going_on += np.isfinite(row) & (steps <= ordered["step"].max())
    kept = 2 * going_on >= len(parts)
    low, middle, high = np.nanpercentile(values[:, kept], [25, 50, 75], axis=0)
    return pd.DataFrame({"step": steps[kept], "middle": middle, "low": low, "high": high})


def _draw_lines(ax: Axes, lines: Mapping[str, pd.DataFrame]) -> None:
    for i, (method, line) in enumerate(lines.items()):
        colour, dash = COLOURS[i % len(COLOURS)], _DASHES[i // len(COLOURS) % len(_DASHES)]
        marker = "o" if len(line) == 1 else None  # a line of one epoch would be invisible
        ax.plot(line["step"], line["middle"], color=colour, linestyle=dash, marker=marker, label=method)
        ax.fill_between(line["step"], line["low"], line["high"], color=colour, alpha=0.1, linewidth=0)


def _cut_off(ax: Axes, lines: Sequence[pd.DataFrame]) -> None:
    """Limit the axis of the error to a little above the median of the worst method."""
    usual = max(line["middle"].median() for line in lines)
    least = min(line["low"].min() for line in lines)
    top = usual + (usual - least) / 2
    if least < top < ax.get_ylim()[1]:
        ax.set_ylim(least - 0.05 * (top - least), top)
