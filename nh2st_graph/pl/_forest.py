"""Differences between methods, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from nh2st_graph._errors import DataError
from nh2st_graph.metrics import SCORES
from nh2st_graph.pl._style import COLOURS, GREY, PEARSON, finish, finish_rows, given_or_new, legend_above

__all__ = ["forest"]

#: Rows between the points of one method, and between methods and references.
_SPACING, _GAP = 0.34, 0.6


def forest(
    table: pd.DataFrame,
    *,
    scores: Mapping[str, str] | None = None,
    base: str | None = None,
    numbers: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw how far each method is from a base, a point with its interval for each score, the base at a line.

    An interval that crosses the line is drawn hollow: such a difference may be chance.

    Parameters
    ----------
    table
        One row a method, top to bottom. Columns ``variant`` (its name), ``role`` (``base``, ``variant`` or
        ``reference``: drawn as diamonds, below the rest), and for each score ``{score}_difference``, ``{score}_low``
        and ``{score}_high``. A method without a difference is named and has no point.
    scores
        Which scores, and what the legend calls them; ``pcc_mean`` and ``pcc_partial`` where None.
    base
        What the axis calls the base; where None the name of the row of that role.
    numbers
        Write the first score's difference and interval at the right.
    ax
        Where to draw; a new figure where None.

    Returns
    -------
    The axes.

    Raises
    ------
    DataError
        If the table has no row beside the base, or none of the scores.
    """
    known = {score: label for score, label in (scores or SCORES).items() if f"{score}_difference" in table}
    drawn = table[table["role"] != "base"].sort_values("role", key=lambda role: role == "reference", kind="stable")
    if not known or drawn.empty:
        raise DataError("no difference to draw; give rows beside the base, and columns such as pcc_mean_difference")
    is_reference = (drawn["role"] == "reference").to_numpy()
    rows = np.arange(len(drawn)) + _GAP * is_reference
    ax = given_or_new(ax, 8.5, 1.5 + 0.42 * len(drawn))
    ax.axvline(0, color="black", linewidth=0.9, zorder=1)
    places = _places(drawn, list(known), rows)
    for i, (score, label) in enumerate(known.items()):
        _draw_points(ax, drawn, score, places[i], COLOURS[i % len(COLOURS)], label)
    if numbers:
        score, label = next(iter(known.items()))
        _write_numbers(ax, drawn, score, label, rows)
    finish(ax, grid="x")
    finish_rows(ax, rows, drawn["variant"].tolist(), "method")
    for label_text, reference in zip(ax.get_yticklabels(), is_reference, strict=True):
        label_text.set_color(GREY if reference else "black")
    ax.set_ylim(rows[-1] + 0.6, -0.6)
    named = table.loc[table["role"] == "base", "variant"]
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel(
        f"difference from {base or (named.iloc[0] if len(named) else 'the base')} in {PEARSON}\n"
        "(mean over sections and genes, 95 % interval; hollow: it crosses 0)"
    )
    ax.margins(x=0.08)
    if len(known) > 1:
        legend_above(ax, ncols=len(known))
    return ax


def _places(table: pd.DataFrame, scores: list[str], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Heights of the points, ``(n_scores, n_methods)``: around a method's row, in the middle where there is but one."""
    there = np.array([np.isfinite(table[f"{score}_difference"].to_numpy(dtype=np.float64)) for score in scores])
    before, number = np.cumsum(there, axis=0) - there, there.sum(axis=0)
    return rows + (before - (number - 1) / 2) * _SPACING


def _draw_points(
    ax: Axes, table: pd.DataFrame, score: str, places: NDArray[np.float64], colour: str, label: str
) -> None:
    mean, low, high = (table[f"{score}_{what}"].to_numpy(dtype=np.float64) for what in ("difference", "low", "high"))
    clear = (low > 0) | (high < 0)
    # For the legend: the rows' own points differ in shape and filling.
    ax.plot([], [], "o-", color=colour, label=label)
    for i in np.flatnonzero(np.isfinite(mean)):
        ax.plot([low[i], high[i]], [places[i]] * 2, color=colour, linewidth=1.6, zorder=2, solid_capstyle="butt")
        marker = "D" if table["role"].iloc[i] == "reference" else "o"
        filling = colour if clear[i] else "white"
        ax.plot(mean[i], places[i], marker, color=colour, markerfacecolor=filling, markersize=6, zorder=3)


def _write_numbers(ax: Axes, table: pd.DataFrame, score: str, label: str, rows: NDArray[np.float64]) -> None:
    right = blended_transform_factory(ax.transAxes, ax.transData)
    ax.text(1.02, 1.02, f"{label} [95 % interval]", transform=ax.transAxes, va="bottom", fontsize="small", color=GREY)
    for row, (_, values) in zip(rows, table.iterrows(), strict=True):
        # Adding 0 takes the sign from a zero.
        mean, low, high = (round(float(values[f"{score}_{what}"]), 4) + 0.0 for what in ("difference", "low", "high"))
        text = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" if np.isfinite(mean) else "no result"
        ax.text(1.02, row, text.replace("-", "\N{MINUS SIGN}"), transform=right, va="center", fontsize="small")
