"""Plot differences between methods with their intervals."""

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
from nh2st_graph.read import documented

__all__ = ["forest"]

#: Distance between the points of one method, and between methods and references, in rows.
_SPACING, _GAP = 0.34, 0.6


@documented
def forest(
    table: pd.DataFrame,
    *,
    scores: Mapping[str, str] | None = None,
    base: str | None = None,
    numbers: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the difference of each method from a base, as a point with an interval for each score.

    A hollow point has an interval that crosses 0, so that the difference may be chance.

    Parameters
    ----------
    table
        A row for each method, from top to bottom. Columns are ``variant`` (its name), ``role`` (``base``, ``variant``
        or ``reference``), and for each score ``{score}_difference``, ``{score}_low`` and ``{score}_high``. References
        are diamonds below the methods. A method without a difference has a name and no point.
    scores
        Scores to draw, with their names in the legend; by default ``pcc_mean`` and ``pcc_partial``.
    base
        Name of the base on the axis; by default that of the row with this role.
    numbers
        Write the difference and interval of the first score on the right.
    %(ax)s

    Returns
    -------
    The axes.

    Raises
    ------
    DataError
        If the table lacks a column, has no row but the base, or none of the scores.
    """
    missing = [name for name in ("role", "variant") if name not in table]
    if missing:
        raise DataError(f"the table lacks {', '.join(missing)}; give the table of a study (ng.study.run_study)")
    known = {score: label for score, label in (scores or SCORES).items() if f"{score}_difference" in table}
    drawn = table[table["role"] != "base"].sort_values("role", key=lambda role: role == "reference", kind="stable")
    if not known or drawn.empty:
        raise DataError("no difference to draw; give rows besides the base, and columns such as pcc_mean_difference")
    is_reference = (drawn["role"] == "reference").to_numpy()
    rows = np.arange(len(drawn)) + _GAP * is_reference
    ax = given_or_new(ax, 8.5, 1.5 + 0.42 * len(drawn))
    ax.axvline(0, color="black", linewidth=0.9, zorder=1)
    places = _places(drawn, list(known), rows)
    for i, (score, label) in enumerate(known.items()):
        _draw_points(ax, drawn, score, places[i], COLOURS[i % len(COLOURS)], label)
    if numbers:
        score, label = next(iter(known.items()))
        _write_numbers(ax, drawn, score, label, rows, base)
    finish(ax, grid="x")
    finish_rows(ax, rows, drawn["variant"].tolist(), "variant" if table["role"].eq("base").any() else "method")
    for label_text, reference in zip(ax.get_yticklabels(), is_reference, strict=True):
        label_text.set_color(GREY if reference else "black")
    ax.set_ylim(rows[-1] + 0.6, -0.6)
    named = table.loc[table["role"] == "base", "variant"]
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel(
        f"difference from {base or (named.iloc[0] if len(named) else 'the base')} in {PEARSON}\n"
        "(mean over sections and genes; hollow: 95 % interval includes 0)"
    )
    ax.margins(x=0.08)
    if len(known) > 1:
        legend_above(ax, ncols=len(known))
    return ax


def _places(table: pd.DataFrame, scores: list[str], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Place the points around the row of their method, ``(n_scores, n_methods)``; a single point is on the row."""
    there = np.array([np.isfinite(table[f"{score}_difference"].to_numpy(dtype=np.float64)) for score in scores])
    before, number = np.cumsum(there, axis=0) - there, there.sum(axis=0)
    return rows + (before - (number - 1) / 2) * _SPACING


def _draw_points(
    ax: Axes, table: pd.DataFrame, score: str, places: NDArray[np.float64], colour: str, label: str
) -> None:
    mean, low, high = (table[f"{score}_{what}"].to_numpy(dtype=np.float64) for what in ("difference", "low", "high"))
    clear = (low > 0) | (high < 0)
    # An empty line for the legend, since the points of the rows differ in shape and filling.
    ax.plot([], [], "o-", color=colour, label=label)
    for i in np.flatnonzero(np.isfinite(mean)):
        ax.plot([low[i], high[i]], [places[i]] * 2, color=colour, linewidth=1.6, zorder=2, solid_capstyle="butt")
        marker = "D" if table["role"].iloc[i] == "reference" else "o"
        filling = colour if clear[i] else "white"
        ax.plot(mean[i], places[i], marker, color=colour, markerfacecolor=filling, markersize=6, zorder=3)


def _write_numbers(
    ax: Axes, table: pd.DataFrame, score: str, label: str, rows: NDArray[np.float64], base: str | None
) -> None:
    right = blended_transform_factory(ax.transAxes, ax.transData)
    ax.text(1.02, 1.02, f"{label} [95 % interval]", transform=ax.transAxes, va="bottom", fontsize="small", color=GREY)
    for row, (_, values) in zip(rows, table.iterrows(), strict=True):
        # Adding 0 removes the sign of a zero.
        mean, low, high = (round(float(values[f"{score}_{what}"]), 4) + 0.0 for what in ("difference", "low", "high"))
        text = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" if np.isfinite(mean) else "no result"
        if mean == low == high == 0:
            text = f"{base or 'the base'} itself"
        ax.text(1.02, row, text.replace("-", "\N{MINUS SIGN}"), transform=right, va="center", fontsize="small")
