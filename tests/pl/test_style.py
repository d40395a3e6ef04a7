"""Every figure says what its axes, colours and lengths are, and nothing in it is cut off."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_scalebar.scalebar import ScaleBar

from nh2st_graph import pl

GENES = [f"g{i}" for i in range(40)]
METHODS = ["NH2ST-Graph", "ridge, own + neighbours", "(reference) true neighbours' mean"]


def per_gene() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame([{"method": method, "section": "A", "gene": gene} for method in METHODS for gene in GENES])
    return rows.assign(**{name: rng.uniform(-0.2, 0.9, len(rows)) for name in ("pcc", "pcc_partial", "ceiling")})


def by_method() -> dict[str, pd.Series]:
    return {str(name): part.set_index("gene")["pcc"] for name, part in per_gene().groupby("method")}


def scores() -> pd.DataFrame:
    return pd.DataFrame({"pcc_mean": [0.22, 0.2, 0.23], "pcc_partial": [0.14, 0.11, 0.1]}, index=METHODS)


def differences() -> pd.DataFrame:
    table = pd.DataFrame({"variant": ["full", *METHODS], "role": ["base", "variant", "variant", "reference"]})
    for score, middle in (("pcc_mean", 0.02), ("pcc_partial", -0.01)):
        values = {"difference": middle, "low": middle - 0.01, "high": middle + 0.02}
        table = table.assign(**{f"{score}_{what}": value for what, value in values.items()})
    return table


def log() -> pd.DataFrame:
    epoch = np.arange(1, 6)
    losses = dict.fromkeys(("train_loss", "val_loss", "contrast_spot", "contrast_neighbourhood"), 2 - 0.1 * epoch)
    scores = {"val_pcc": 0.1 * epoch, "contrast_spot_chance": 5}
    return pd.DataFrame({"epoch": epoch, "step": 3 * epoch, **losses, **scores})


def coverage() -> pd.DataFrame:
    levels = pd.Index([0.5, 0.9], name="level")
    return pd.DataFrame({"measured": [0.5, 0.88], "section 1": 0.4, "section 2": 0.9}, index=levels)


def readable() -> pd.DataFrame:
    genes = per_gene().drop_duplicates("gene").set_index("gene")
    r = genes["pcc_partial"]
    return genes.assign(low=r - 0.1, high=r + 0.1, chance=0.1, readable=genes["pcc"] > 0.4)


def judged(section: AnnData) -> AnnData:
    """A section that says how familiar its spots are, and how far its genes can be believed."""
    section.obs["familiarity"] = np.linspace(0, 1, section.n_obs)
    section.var["held_out_pcc"], section.var["reliable"] = 0.25, False
    section.X[:, 4] = np.nan
    return section


#: How each public function is called, in the ways in which it draws different things.
DRAWN: dict[str, list[Callable[[AnnData], Axes | Figure]]] = {
    "attention": [pl.attention, lambda section: pl.attention(section, "2x2")],
    "calibration": [lambda _: pl.calibration(coverage(), coverage()[["section 1"]])],
    "familiarity": [lambda section: pl.familiarity(judged(section))],
    "forest": [
        lambda _: pl.forest(differences()),
        lambda _: pl.forest(differences(), scores={"pcc_partial": "mean r given depth"}, base="the best baseline"),
    ],
    "gene_maps": [
        lambda section: pl.gene_maps(section, ["g3", "g4"]),
        lambda section: pl.gene_maps(judged(section), ["g3", "g4"]),
    ],
    "gene_scatter": [
        lambda _: pl.gene_scatter(per_gene(), *METHODS[:2]),
        lambda _: pl.gene_scatter(per_gene(), *METHODS[:2], score="pcc_partial", colour="better"),
    ],
    "learning_curves": [lambda _: pl.learning_curves(pd.concat([log().assign(method=name) for name in METHODS]))],
    "neighbour_gain": [pl.neighbour_gain, lambda section: pl.neighbour_gain(section, n=1)],
    "neighbour_share": [pl.neighbour_share],
    "pcc_histogram": [
        lambda _: pl.pcc_histogram(by_method(), ceiling=per_gene().groupby("gene")["ceiling"].mean()),
        lambda _: pl.pcc_histogram(per_gene()),
    ],
    "predictability": [lambda _: pl.predictability(readable())],
    "score_bars": [lambda _: pl.score_bars(scores(), spread=scores() / 9, references=METHODS[2:])],
    "section": [pl.section, lambda section: pl.section(judged(section), unfamiliar=0.5)],
    "spot_values": [lambda section: pl.spot_values(judged(section), "familiarity", unfamiliar=0.5)],
    "training_curves": [lambda _: pl.training_curves(log(), selected=3)],
}
NO_FIGURE = {"fold_curves", "save", "unfamiliar_spots"}


@pytest.mark.parametrize("name", [name for name in pl.__all__ if name not in NO_FIGURE])
def test_axes_and_colours_are_named_and_nothing_is_cut_off(name: str, explained: AnnData) -> None:
    explained.uns["nh2st_prediction"] = {"normalize": "total"}
    for draw in DRAWN[name]:
        shown = draw(explained)
        figure = shown if isinstance(shown, Figure) else shown.figure
        figure.draw_without_rendering()
        for ax in figure.axes:
            check_axes(ax)
            check_colours(ax)
        box = figure.get_tightbbox()
        assert (box.min >= 0).all()
        assert (box.max <= figure.get_size_inches()).all()


def check_axes(ax: Axes) -> None:
    """Both axes have a name, or those of a map are not there and a scale bar is."""
    axes = (ax.xaxis, ax.yaxis)
    if ax.images:
        assert scale_bar(ax).units == "um"
        assert not any(axis.get_visible() for axis in axes)
    else:
        assert all(axis.get_visible() and axis.label.get_visible() and axis.label.get_text() for axis in axes)
        assert not ax.spines["top"].get_visible()


def check_colours(ax: Axes) -> None:
    """What is coloured by numbers has a colour bar with a name."""
    for shown in ax.collections:
        if shown.get_array() is not None:
            assert shown.colorbar.ax in ax.child_axes
            assert shown.colorbar.ax.get_ylabel()


def scale_bar(ax: Axes) -> ScaleBar:
    (bar,) = (artist for artist in ax.artists if isinstance(artist, ScaleBar))
    return bar


def test_every_public_function_is_drawn_or_draws_nothing() -> None:
    assert {*DRAWN, *NO_FIGURE} == {*pl.__all__}


def test_a_map_whose_scale_is_not_known_has_a_bar_in_pixels(prediction: AnnData) -> None:
    del prediction.uns["spatial"]["C6"]["metadata"]["microns_per_pixel"]
    ax = pl.section(prediction)
    ax.figure.draw_without_rendering()
    bar = scale_bar(ax)
    assert bar.units == "px"
    assert bar.dx == pytest.approx(10)  # of the full image, in one of that which is drawn
    assert bar.scale_formatter(2, "kpx") == "2000 px"


def test_a_colour_bar_is_as_tall_as_its_axes() -> None:
    _, ax = plt.subplots(figsize=(4, 2))
    pl.gene_scatter(per_gene(), *METHODS[:2], ax=ax)
    ax.set_aspect("equal")
    (bar,) = (shown.colorbar for shown in ax.collections if shown.get_array() is not None)
    ax.figure.draw_without_rendering()
    axes, beside = ax.get_window_extent(), bar.ax.get_window_extent()
    assert (beside.y0, beside.y1) == pytest.approx((axes.y0, axes.y1))
    assert beside.x0 > axes.x1
    assert bar.ax.get_ylabel().startswith("noise ceiling of ")


def test_rows_are_named_from_top_to_bottom(explained: AnnData) -> None:
    ax = pl.neighbour_gain(explained)
    ax.figure.draw_without_rendering()
    gain = explained.uns["nh2st_explain"]["gene_gain"]["gain"]
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert gain[names].is_monotonic_decreasing
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert all(above.y0 > below.y1 for above, below in pairwise(boxes))
    assert ax.get_ylabel() == "gene"
