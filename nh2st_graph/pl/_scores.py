"""Plots of scores: their distribution over genes, and methods side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from nh2st_graph._errors import DataError
from nh2st_graph.metrics import GENE_SCORES, SCORES
from nh2st_graph.pl._style import COLOURS, PEARSON, finish, finish_rows, given_or_new, legend_above
from nh2st_graph.read import documented

__all__ = ["pcc_histogram", "score_bars"]

_BIN = 0.025
_HATCH = "////"


@documented
def pcc_histogram(
    per_gene: pd.DataFrame | Mapping[str, pd.Series],
    *,
    ceiling: pd.Series | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the distribution of r over genes, with an outline and a dashed line at the mean for each method.

    Parameters
    ----------
    per_gene
        r by gene of each method, as a mapping or as the columns of a table, of which the first is filled; or the
        per-gene table of :class:`~nh2st_graph.metrics.Scores`, of which r and r given depth are drawn.
    ceiling
        Noise ceiling by gene (:func:`~nh2st_graph.metrics.noise_ceiling`), drawn in grey.
    %(ax)s

    Returns
    -------
    The axes.

    Raises
    ------
    DataError
        If there is nothing to draw.
    """
    methods = {name: r.dropna().to_numpy(dtype=np.float64) for name, r in _by_method(per_gene).items()}
    reach = np.array([]) if ceiling is None else ceiling.dropna().to_numpy(dtype=np.float64)
    if not methods or not all(map(len, methods.values())):
        raise DataError("no per-gene r to draw; give at least one value for each method")
    ax = given_or_new(ax, 7, 4)
    bins = _bins(np.concatenate([*methods.values(), reach]))
    if len(reach):
        ax.hist(reach, bins, color="0.85", zorder=0, label=f"noise ceiling (mean {reach.mean():.3f})")
        ax.axvline(reach.mean(), color="0.6", linestyle="--", zorder=1)
    for i, (name, r) in enumerate(methods.items()):
        colour, label = COLOURS[i % len(COLOURS)], f"{name} (mean {r.mean():.3f})"
        mean = ax.axvline(r.mean(), color=colour, linestyle="--", linewidth=1.2, zorder=4)
        if np.ptp(r) == 0:  # of a constant prediction, one bar of all genes would flatten every other method
            mean.set_label(label)
            continue
        if i == 0:
            ax.hist(r, bins, color=colour, alpha=0.35, zorder=2)
        ax.hist(r, bins, histtype="step", color=colour, linewidth=1.6, zorder=3, label=label)
    ax.set(xlabel=PEARSON, ylabel="number of genes")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    legend_above(ax, ncols=2)
    finish(ax)
    return ax


@documented
def score_bars(
    table: pd.DataFrame,
    *,
    spread: pd.DataFrame | None = None,
    references: Collection[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw mean r and mean r given depth as a pair of bars for each method.

    Parameters
    ----------
    table
        Methods as index, from top to bottom; columns ``pcc_mean`` and ``pcc_partial``, of which one may be missing.
        Other columns are ignored.
    spread
        Standard deviations over sections, with the same names, drawn as error bars.
    references
        Names of rows that are references and no methods, such as depth alone, since they read the test section's
        genes; their bars are hatched.
    %(ax)s

    Returns
    -------
    The axes.

    Raises
    ------
    DataError
        If the table has neither column, or no rows.
    """
    scores = [name for name in SCORES if name in table]
    if not scores or table.empty:
        raise DataError(f"no score to draw; give methods as rows and any of {', '.join(SCORES)} as columns")
    ax = given_or_new(ax, 7, 1.2 + 0.5 * len(table))
    height, rows = 0.8 / len(scores), np.arange(len(table))
    for i, score in enumerate(scores):
        values = table[score].to_numpy(dtype=np.float64)
        error = None if spread is None else spread[score].reindex(table.index).to_numpy(dtype=np.float64)
        offset = (i - (len(scores) - 1) / 2) * height
        bars = ax.barh(rows + offset, values, height, xerr=error, color=COLOURS[i], ecolor="0.3", capsize=2)
        bars.set_label(SCORES[score])
        ax.bar_label(bars, [f"{v:.3f}" if np.isfinite(v) else "" for v in values], padding=4, fontsize="small")
        for bar, method in zip(bars, table.index, strict=True):
            if method in references:
                bar.set(facecolor="none", edgecolor=COLOURS[i], hatch=_HATCH)
    finish_rows(
        ax, rows, table.index.tolist(), "model, baseline or reference" if {*references} & {*table.index} else "method"
    )
    ax.axvline(0, color="black", linewidth=0.8)
    ax.margins(x=0.12)
    ax.set_ylim(len(table) - 0.5, -0.5)
    error_bars = "" if spread is None else "\n(error bars: standard deviation over sections)"
    ax.set_xlabel(f"{PEARSON}, mean over genes{error_bars}")
    handles, _ = ax.get_legend_handles_labels()
    if set(references) & set(table.index):
        handles.append(Patch(facecolor="none", edgecolor="0.3", hatch=_HATCH, label="reference (reads the test genes)"))
    legend_above(ax, ncols=3, handles=handles)
    return ax


def _bins(values: NDArray[np.float64]) -> list[float]:
    """Make bin edges that cover the values; 0 is an edge, so that no bin mixes signs."""
    first, last = np.floor(values.min() / _BIN), np.ceil(values.max() / _BIN)
    return (np.arange(first, last + 1.5) * _BIN).tolist()


def _by_method(per_gene: pd.DataFrame | Mapping[str, pd.Series]) -> dict[str, pd.Series]:
    if isinstance(per_gene, pd.DataFrame) and "pcc" in per_gene:
        return {label: per_gene[column] for column, label in GENE_SCORES.items() if column in per_gene}
    return {str(name): values for name, values in per_gene.items()}
