"""What the forest plot shows."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from nh2st_graph import DataError, pl

BLUE, ORANGE = "#0072B2", "#E69F00"


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "variant": ["full", "ridge", "worse", "same", "broken"],
            "role": ["base", "reference", "variant", "variant", "variant"],
            "pcc_mean_difference": [np.nan, -0.03, -0.02, 0.001, np.nan],
            "pcc_mean_low": [np.nan, -0.04, -0.03, -0.004, np.nan],
            "pcc_mean_high": [np.nan, -0.02, -0.01, 0.006, np.nan],
            "pcc_partial_difference": [np.nan, np.nan, 0.01, 0.002, np.nan],
            "pcc_partial_low": [np.nan, np.nan, 0.005, -0.001, np.nan],
            "pcc_partial_high": [np.nan, np.nan, 0.015, 0.005, np.nan],
        }
    )


def points(ax: plt.Axes, marker: str = "o") -> list[tuple[float, float, str, bool]]:
    """Difference, height, colour and whether it is filled, of every point drawn."""
    lines = [line for line in ax.lines if line.get_marker() == marker and len(line.get_xdata())]
    return [
        (line.get_xdata()[0], line.get_ydata()[0], line.get_color(), line.get_markerfacecolor() != "white")
        for line in lines
    ]


def intervals(ax: plt.Axes) -> list[tuple[float, float]]:
    lines = [line for line in ax.lines if line.get_marker() == "None" and line.get_color() != "black"]
    return [tuple(line.get_xdata()) for line in lines]


def labels(ax: plt.Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def test_a_point_and_an_interval_for_each_score_hollow_where_it_crosses_the_base(table):
    ax = pl.forest(table)
    assert [point[0::2] + point[3:] for point in points(ax)] == [
        (-0.02, BLUE, True),
        (0.001, BLUE, False),
        (0.01, ORANGE, True),
        (0.002, ORANGE, False),
    ]
    assert intervals(ax) == [(-0.03, -0.01), (-0.004, 0.006), (-0.04, -0.02), (0.005, 0.015), (-0.001, 0.005)]
    assert [line.get_xdata()[0] for line in ax.lines if line.get_color() == "black"] == [0]  # the base
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mean r", "mean r given depth"]


def test_rows_stand_in_order_references_last_and_the_base_is_named_at_the_axis(table):
    ax = pl.forest(table)
    assert labels(ax) == ["worse", "same", "broken", "ridge"]
    assert ax.yaxis.get_inverted()  # the first on top
    assert ax.get_xlabel().startswith("difference from full in Pearson r over spots\n")
    ((difference, height, _, filled),) = points(ax, "D")
    assert (difference, filled) == (-0.03, True)
    assert height == ax.get_yticks()[3]  # one score alone stands in the middle of its row
    worse = [point[1] for point in points(ax) if point[0] in (-0.02, 0.01)]
    assert np.mean(worse) == pytest.approx(ax.get_yticks()[0])
    assert worse[0] < worse[1]


def test_numbers_are_written_beside(table):
    texts = [text.get_text().replace("\N{MINUS SIGN}", "-") for text in pl.forest(table).texts]
    assert texts == [
        "mean r [95 % interval]",
        "-0.0200 [-0.0300, -0.0100]",
        "+0.0010 [-0.0040, +0.0060]",
        "no result",
        "-0.0300 [-0.0400, -0.0200]",
    ]
    assert not pl.forest(table, numbers=False).texts


def test_what_all_are_compared_with_is_named_and_not_measured_against_itself(table):
    table.loc[1, [f"pcc_mean_{what}" for what in ("difference", "low", "high")]] = 0.0
    written = [text.get_text() for text in pl.forest(table, base="the best baseline").texts]
    assert "the best baseline itself" in written
    assert not [text for text in written if "0.0000 [" in text]


def test_rows_are_variants_of_a_base_or_methods(table):
    assert pl.forest(table).get_ylabel() == "variant"
    assert pl.forest(table[table["role"] != "base"], base="ridge").get_ylabel() == "method"


def test_one_score_needs_no_legend(table):
    ax = pl.forest(table, scores={"pcc_partial": "given depth"})
    assert ax.get_legend() is None
    assert len(points(ax)) == 2
    assert ax.texts[0].get_text() == "given depth [95 % interval]"


def test_draws_where_it_is_told(table):
    _, axes = plt.subplots(1, 2)
    assert pl.forest(table, ax=axes[1]) is axes[1]
    assert not axes[0].lines


def test_nothing_to_draw_is_an_error(table):
    for nothing in (table[table["role"] == "base"], table[["variant", "role"]]):
        with pytest.raises(DataError, match="no difference to draw"):
            pl.forest(nothing)
    with pytest.raises(DataError, match="the table lacks role; give the table of a study"):
        pl.forest(table.drop(columns="role"))


def test_the_axis_calls_the_base_as_it_is_told(table):
    assert pl.forest(table, base="the best baseline").get_xlabel().startswith("difference from the best baseline in ")
    assert pl.forest(table[1:]).get_xlabel().startswith("difference from the base in ")
