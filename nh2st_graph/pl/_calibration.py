"""Plot how many measured values intervals held, against how many they were to hold."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from nh2st_graph.pl._style import BLUE, GREY, ORANGE, finish, given_or_new

__all__ = ["calibration"]

_MEAN = "measured"


def calibration(curve: pd.DataFrame, tests: pd.DataFrame | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw nominal against measured coverage of intervals.

    Parameters
    ----------
    curve
        Of :meth:`nh2st_graph.confidence.Calibration.curve`: a row for each level, ``measured`` and each held-out
        unit's own share.
    tests
        The same for test sections, a column each.
    ax
        Axes to draw in; new ones if None.

    Returns
    -------
    The axes. Held-out units are thin grey lines and their mean a blue one; test sections are orange. On the dashed
    line, intervals hold what they are to hold; above it, they are wider than needed.
    """
    ax = given_or_new(ax, 5, 4.4)
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=0.8)
    units = curve.drop(columns=_MEAN)
    for i, name in enumerate(units):
        ax.plot(curve.index, units[name], color="0.65", linewidth=0.8, label=None if i else "each held-out part")
    ax.plot(curve.index, curve[_MEAN], color=BLUE, linewidth=1.8, label="mean of held-out parts")
    for i, name in enumerate(tests if tests is not None else []):
        assert tests is not None
        label = None if i else (f"test section {name}" if tests.shape[1] == 1 else "each test section")
        ax.plot(tests.index, tests[name], color=ORANGE, marker="o", markersize=3.5, linewidth=1.2, label=label)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="level of the intervals", ylabel="share of measured values within")
    ax.set_aspect("equal")
    ax.legend(frameon=False, loc="upper left", fontsize="small")
    finish(ax, grid="both")
    return ax
