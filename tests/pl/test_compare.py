"""What the figures that compare methods show."""

from __future__ import annotations

import itertools
from statistics import fmean, median, quantiles

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from nh2st_graph import DataError, pl

BLUE, ORANGE = "#0072B2", "#E69F00"


@pytest.fixture
def per_gene() -> pd.DataFrame:
    """Two methods with three seeds and a baseline with one, on three sections of four genes; ``a`` lacks a section."""
    rng = np.random.default_rng(0)
    rows = [
        {"split": "s", "fold": "f", "method": method, "section": section, "seed": seed, "gene": gene}
        for method, sections, seeds in (("a", "XY", 3), ("b", "XYZ", 3), ("baseline", "XYZ", 1))
        for section, seed, gene in itertools.product(sections, range(seeds), ("g1", "g2", "g3", "g4"))
    ]
    numbers = {name: rng.uniform(-0.2, 0.9, len(rows)) for name in ("pcc", "pcc_partial", "ceiling")}
    return pd.DataFrame(rows).assign(**numbers)


def by_hand(table: pd.DataFrame, method: str, gene: str, score: str) -> float:
    """Mean over the sections that both have, of the mean over seeds, found by going through the rows."""
    found: dict[str, list[float]] = {}
    for row in table.to_dict("records"):
        if (row["method"], row["gene"]) == (method, gene) and row["section"] in "XY":
            found.setdefault(row["section"], []).append(row[score])
    return fmean(fmean(values) for values in found.values())


@pytest.mark.parametrize("score", ["pcc", "pcc_partial"])
def test_a_point_is_a_genes_mean_over_the_sections_of_both_seeds_first(per_gene, score):
    # one seed of one section less: seeds are averaged before sections
    table = per_gene.drop(index=per_gene.index[0:4])
    ax = pl.gene_scatter(table, "a", "baseline", score=score)
    (points,) = ax.collections
    expected = [[by_hand(table, method, f"g{i}", score) for method in ("a", "baseline")] for i in (1, 2, 3, 4)]
    np.testing.assert_allclose(points.get_offsets(), expected)
    np.testing.assert_allclose(points.get_array(), table.groupby("gene")["ceiling"].mean())
    name = {"pcc": "Pearson r", "pcc_partial": "Pearson r given depth"}[score]
    assert (ax.get_xlabel(), ax.get_ylabel()) == (f"{name}: a", f"{name}: baseline")
    assert points.colorbar.ax.get_ylabel() == "noise ceiling of r"


def test_genes_above_and_below_the_line_are_counted_and_coloured(per_gene):
    exact = per_gene.assign(pcc=per_gene["gene"].map({"g1": 0.1, "g2": 0.2, "g3": 0.3, "g4": 0.4}))
    higher = (exact["method"] == "b") & exact["gene"].isin(["g1", "g2"])
    lower = (exact["method"] == "b") & (exact["gene"] == "g3")
    exact["pcc"] += 0.1 * higher - 0.1 * lower
    ax = pl.gene_scatter(exact, "a", "b", colour="better")
    assert [text.get_text() for text in ax.texts] == ["b better: 2 of 4 genes", "a better: 1 of 4 genes"]
    colours = [to_hex(colour) for colour in ax.collections[0].get_facecolors()]
    assert [colour.upper() for colour in colours[:3]] == [BLUE, BLUE, ORANGE]
    assert colours[3] == to_hex("0.5")
    assert ax.get_xlim() == ax.get_ylim()
    (line,) = ax.lines
    assert line.get_slope() == 1
    assert line.get_xy1() == (0, 0)


def test_it_draws_where_it_is_told_and_needs_no_more_than_methods_and_genes(per_gene):
    ax = pl.gene_scatter(per_gene, "a", "b").figure.subplots()
    plain = per_gene[per_gene["section"] == "X"][["method", "gene", "pcc"]]
    assert pl.gene_scatter(plain, "a", "b", colour="better", ax=ax) is ax


@pytest.mark.parametrize(
    ("a", "b", "colour", "message"),
    [
        ("a", "c", "ceiling", r"no method 'c' in the table; known: a, b, baseline"),
        ("a", "a", "ceiling", "two different methods"),
        ("a", "b", "ceiling", "no column 'ceiling'.*colour='better'"),
        ("a", "other", "better", "no section and gene with 'pcc' in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(per_gene, a, b, colour, message):
    other = per_gene[per_gene["section"] == "Z"].assign(method="other")
    known = per_gene if b == "c" else pd.concat([per_gene, other])
    with pytest.raises(DataError, match=message):
        pl.gene_scatter(known.drop(columns="ceiling"), a, b, colour=colour)


def curve(method: str, fold: str, epochs: int, shift: float = 0.0, per_epoch: int = 10) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    values = {"val_pcc": shift + 0.01 * epoch, "val_loss": 1.1 - shift - 0.01 * epoch}
    return pd.DataFrame({"method": method, "fold": fold, "epoch": epoch, "step": per_epoch * epoch, **values})


@pytest.mark.parametrize("per_epoch", [1, 10, 400])
@pytest.mark.parametrize("epochs", [2, 4, 60, 3000])
def test_steps_are_whole_numbers_on_an_axis_of_any_length(per_epoch, epochs):
    figure = pl.learning_curves(curve("a", "f", epochs, per_epoch=per_epoch))
    figure.draw_without_rendering()
    for ax in figure.axes:
        low, high = ax.get_xlim()
        shown = [tick.get_text() for tick in ax.get_xticklabels(which="both") if tick.get_text()]
        ticks = {text: float(text.replace(",", "")) for text in shown}
        assert len([x for x in ticks.values() if low <= x <= high]) >= 1
        assert all(x == int(x) for x in ticks.values())


@pytest.fixture
def curves() -> pd.DataFrame:
    """``a`` has three curves, of 2, 4 and 6 epochs; ``b`` has one, whose epochs have twice the steps."""
    lengths = {"one": 2, "two": 4, "three": 6}
    parts = [curve("a", fold, length, 0.1 * i) for i, (fold, length) in enumerate(lengths.items())]
    return pd.concat([*parts, curve("b", "one", 3, per_epoch=20)], ignore_index=True)


def test_a_line_is_the_median_while_half_of_the_curves_go_on(curves):
    r, loss = pl.learning_curves(curves).axes
    for ax, score, sign in ((r, "val_pcc", 1), (loss, "val_loss", -1)):
        a, b = ax.lines
        np.testing.assert_array_equal(a.get_xdata(), [10, 20, 30, 40])  # of six: one alone would speak for three
        folds = [part[score].tolist() for _, part in curves[curves["method"] == "a"].groupby("fold")]
        there = {epoch: [fold[min(epoch, len(fold)) - 1] for fold in folds] for epoch in (1, 2, 3, 4)}
        np.testing.assert_allclose(a.get_ydata(), [median(values) for values in there.values()])
        np.testing.assert_array_equal(b.get_xdata(), [20, 40, 60])
        np.testing.assert_allclose(sign * b.get_ydata(), sign * curves.loc[curves["method"] == "b", score])
        band = ax.collections[0].get_paths()[0].vertices
        for epoch, values in there.items():
            heights = band[band[:, 0] == 10 * epoch, 1]
            first, _, third = quantiles(values, n=4, method="inclusive")
            assert (heights.min(), heights.max()) == pytest.approx((first, third))


def test_a_curve_that_stops_does_not_make_the_line_jump():
    """Two folds of one level each; the lower one is stopped first."""
    line = pl.learning_curves(pd.concat([curve("a", "low", 2), curve("a", "high", 6, 0.5)])).axes[0].lines[0]
    assert np.abs(np.diff(line.get_ydata())).max() < 0.011


def test_curves_of_unequal_epochs_meet_at_the_same_steps():
    """One fold has 10 steps in an epoch, another 15: a line over epochs would run back where the longer one ends."""
    line = pl.learning_curves(pd.concat([curve("a", "one", 3), curve("a", "two", 2, per_epoch=15)])).axes[0].lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [10, 15, 20, 30])
    first, second = (
        np.interp([15, 20, 30], [10, 20, 30], [0.01, 0.02, 0.03]),
        np.interp([15, 20, 30], [15, 30], [0.01, 0.02]),
    )
    np.testing.assert_allclose(line.get_ydata(), [0.01, *(first + second) / 2])


def test_axes_say_what_they_are_and_steps_are_logarithmic(curves):
    figure = pl.learning_curves(curves)
    assert [ax.get_xscale() for ax in figure.axes] == ["log", "log"]
    names = [ax.get_ylabel() for ax in figure.axes]
    assert names == ["held-out Pearson r, mean over genes", "held-out mean squared error"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_no_two_of_many_methods_look_alike():
    many = pd.concat([curve(f"m{i}", "f", 2) for i in range(20)])
    lines = pl.learning_curves(many).axes[0].lines
    assert len({(line.get_color(), str(line._dash_pattern)) for line in lines}) == 20


def test_errors_of_the_first_steps_do_not_rule_the_axis(curves):
    wild = curves.assign(val_loss=curves["val_loss"].where(curves["epoch"] > 1, 100))
    _, loss = pl.learning_curves(wild).axes
    assert max(loss.lines[0].get_ydata()) == 100
    low, high = loss.get_ylim()
    least = min(path.vertices[:, 1].min() for band in loss.collections for path in band.get_paths())
    assert 0.9 * least < low < least < 1.08 < high < 3


def test_what_was_not_logged_has_no_panel_and_nothing_is_an_error(curves):
    (only,) = pl.learning_curves(curves.assign(val_loss=np.nan)).axes
    assert only.get_ylabel() == "held-out Pearson r, mean over genes"
    single = pl.learning_curves(curves[curves["epoch"] == 1]).axes[0]
    assert all(line.get_marker() == "o" for line in single.lines)
    for nothing in (curves.iloc[:0], curves.drop(columns=["val_pcc", "val_loss"])):
        with pytest.raises(DataError, match="no held-out score to draw"):
            pl.learning_curves(nothing)
