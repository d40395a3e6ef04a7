"""What the score plots show."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from nh2st_graph import DataError, pl


@pytest.fixture
def r() -> pd.Series:
    return pd.Series(np.random.default_rng(0).normal(0.2, 0.1, 300))


def legend(ax: plt.Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def dashed(ax: plt.Axes) -> list[float]:
    return [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"]


def counts(ax: plt.Axes, label: str) -> np.ndarray:
    """Heights of the outline with a label, one a bin."""
    (patch,) = [patch for patch in ax.patches if patch.get_label() == label]
    return patch.get_xy()[1:-1:2, 1]


def test_histogram_counts_every_gene_and_marks_the_means(r: pd.Series) -> None:
    ax = pl.pcc_histogram({"model": r, "ridge": r - 0.05})
    assert legend(ax) == [f"model (mean {r.mean():.3f})", f"ridge (mean {r.mean() - 0.05:.3f})"]
    assert counts(ax, legend(ax)[0]).sum() == 300
    assert counts(ax, legend(ax)[1]).sum() == 300
    np.testing.assert_allclose(dashed(ax), [r.mean(), r.mean() - 0.05])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Pearson r over spots", "number of genes")


def test_histogram_bins_have_an_edge_at_zero(r: pd.Series) -> None:
    ax = pl.pcc_histogram({"model": pd.concat([r, pd.Series([-0.31, 0.99, 1.0])])})
    outline = next(patch for patch in ax.patches if patch.get_label().startswith("model"))
    edges = np.unique(outline.get_xy()[:, 0])
    assert 0 in edges
    assert edges[0] <= -0.31
    assert edges[-1] >= 1.0
    np.testing.assert_allclose(np.diff(edges), 0.025)


def test_histogram_of_a_constant_method_is_a_line_that_flattens_nothing(r: pd.Series) -> None:
    ax = pl.pcc_histogram({"model": r, "training mean": r * 0})
    assert "training mean (mean 0.000)" in legend(ax)
    assert ax.get_ylim()[1] < 100
    assert 0 in dashed(ax)


def test_histogram_of_a_section_table_shows_depth_and_ceiling(r: pd.Series) -> None:
    table = pd.DataFrame({"pcc": r, "pcc_partial": r / 2, "mse": 1.0})
    ax = pl.pcc_histogram(table, ceiling=r + 0.3)
    assert [label.split(" (")[0] for label in legend(ax)] == ["noise ceiling", "r", "r given depth"]
    assert r.mean() + 0.3 == pytest.approx(dashed(ax)[0])


def test_histogram_draws_where_it_is_told_and_refuses_nothing(r: pd.Series) -> None:
    _, ax = plt.subplots()
    assert pl.pcc_histogram({"model": r}, ax=ax) is ax
    for nothing in ({}, {"model": pd.Series([np.nan])}):
        with pytest.raises(DataError, match="no per-gene r"):
            pl.pcc_histogram(nothing)


@pytest.fixture
def table() -> pd.DataFrame:
    methods = ["NH2ST-Graph", "ridge", "depth oracle"]
    return pd.DataFrame({"pcc_mean": [0.22, 0.2, 0.23], "pcc_partial": [0.14, 0.11, None], "mse": 1.0}, index=methods)


def test_bars_have_the_scores_as_lengths_and_texts(table: pd.DataFrame) -> None:
    ax = pl.score_bars(table, references=["depth oracle"])
    first, second = ax.containers
    np.testing.assert_allclose([bar.get_width() for bar in first], table["pcc_mean"])
    np.testing.assert_allclose([bar.get_width() for bar in second][:2], [0.14, 0.11])
    assert [text.get_text() for text in ax.texts] == ["0.220", "0.200", "0.230", "0.140", "0.110", ""]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(table.index)
    assert ax.yaxis.get_inverted()  # the first method on top
    assert [bar.get_y() for bar in first] == sorted(bar.get_y() for bar in first)
    assert ax.get_xlabel() == "Pearson r over spots, mean over genes"
    assert legend(ax) == ["mean r", "mean r given depth", "reference (reads the test genes)"]


def test_references_are_hatched_and_methods_are_not(table: pd.DataFrame) -> None:
    bars = pl.score_bars(table, references=["depth oracle"]).containers[0]
    assert [bar.get_hatch() for bar in bars] == [None, None, "////"]
    assert bars[2].get_facecolor() == to_rgba("none")
    assert legend(pl.score_bars(table.drop("depth oracle"), references=["depth oracle"])) == [
        "mean r",
        "mean r given depth",
    ]


def test_spread_is_joined_by_name(table: pd.DataFrame) -> None:
    spread = pd.DataFrame({"pcc_mean": [0.03, 0.01]}, index=["ridge", "NH2ST-Graph"])
    ax = pl.score_bars(table[["pcc_mean"]], spread=spread)
    segments = [segment for segment in ax.collections[0].get_segments() if len(segment)]  # none for the oracle
    segments = [np.ptp(segment[:, 0]) for segment in segments]
    np.testing.assert_allclose(segments, [0.02, 0.06])
    assert ax.get_xlabel().endswith("(error bars: standard deviation over sections)")


def test_bars_without_scores_are_refused(table: pd.DataFrame) -> None:
    for nothing in (table[["mse"]], table.iloc[:0]):
        with pytest.raises(DataError, match="no score to draw"):
            pl.score_bars(nothing)
