"""What the maps of a section show: which spots where, and how familiar they are."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData
from matplotlib.figure import Figure

from nh2st_graph import DataError, pl

from .drawn import DIAMETER, SCALE, centres_and_widths


def test_section_shows_every_spot_as_a_ring_on_the_image(prediction: AnnData) -> None:
    ax = pl.section(prediction)
    centres, widths = centres_and_widths(ax)
    np.testing.assert_allclose(centres, prediction.obsm["spatial"] * SCALE, atol=0.01)
    np.testing.assert_allclose(widths, DIAMETER * SCALE, rtol=1e-3)
    assert len(ax.collections[0].get_facecolor()) == 0
    assert ax.get_title() == "section C6: 30 spots"
    np.testing.assert_array_equal(ax.images[0].get_array(), prediction.uns["spatial"]["C6"]["images"]["hires"])


@pytest.mark.parametrize("shape", [(), (1,), (2,)], ids=["flat", "one channel", "with alpha"])
def test_a_grey_image_is_drawn_in_grey(prediction: AnnData, shape: tuple[int, ...]) -> None:
    images = prediction.uns["spatial"]["C6"]["images"]
    grey = images["hires"][..., 0]
    images["hires"] = np.stack([grey] * shape[0], axis=2) if shape else grey
    np.testing.assert_array_equal(pl.section(prediction).images[0].get_array(), np.stack([grey] * 3, axis=2))
    prediction.obs["value"] = 1.0
    assert pl.spot_values(prediction, "value").images[0].get_array().shape == grey.shape


def test_small_spots_are_a_veil_through_which_the_image_is_seen(prediction: AnnData) -> None:
    factors, ax = prediction.uns["spatial"]["C6"]["scalefactors"], pl.section(prediction)
    across = max(abs(np.diff(ax.get_xlim())[0]), abs(np.diff(ax.get_ylim())[0])) / SCALE
    for share, veiled in ((1 / 200, False), (1 / 400, True)):
        factors["spot_diameter_fullres"] = share * across
        for axes in (None, plt.subplots(figsize=(12, 2))[1]):  # whatever the size on paper
            (spots,) = pl.section(prediction, ax=axes).collections
            assert (not spots.get_linewidth()[0]) == veiled
            assert (len(spots.get_facecolor()) and spots.get_facecolor()[0, 3] == 0.35) == veiled


def test_view_ends_with_the_image_but_never_hides_a_spot(prediction: AnnData) -> None:
    ax = pl.section(prediction)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    height, width = prediction.uns["spatial"]["C6"]["images"]["hires"].shape[:2]
    assert left >= 0
    assert top >= 0
    assert right <= width
    assert bottom <= height
    prediction.obsm["spatial"][3] = -900, 100
    assert pl.section(prediction).get_xlim()[0] <= -900 * SCALE


def test_a_section_without_an_image_is_one_line_and_leaves_no_figure(prediction: AnnData) -> None:
    del prediction.uns["spatial"]["C6"]["images"]
    with pytest.raises(DataError, match=r"'C6'.*no image 'hires'"):
        pl.section(prediction)
    assert not plt.get_fignums()


def test_the_cut_of_unfamiliar_spots_can_be_chosen(judged: AnnData) -> None:
    ax = pl.section(judged, unfamiliar=2)
    assert len(ax.collections[1].get_offsets()) == 30
    assert ax.get_title() == "section C6: 30 spots\norange: 100 % of spots, unlike training (familiarity < 2)"


@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
def test_colours_are_those_of_the_finite_values(prediction: AnnData, odd: float) -> None:
    prediction.obs["score"] = np.linspace(0, 1, 30)
    prediction.obs.loc[prediction.obs_names[7], "score"] = odd
    (spots,) = pl.spot_values(prediction, "score").collections
    finite = prediction.obs["score"][np.isfinite(prediction.obs["score"])]
    np.testing.assert_allclose(spots.get_clim(), np.percentile(finite, [2, 98]))
    assert spots.get_array().mask.tolist() == [i == 7 for i in range(30)]


def test_only_real_numbers_are_drawn(prediction: AnnData) -> None:
    prediction.obs["wave"], prediction.obs["age"] = 1j, np.timedelta64(1, "D")
    for column in ("wave", "age"):
        with pytest.raises(DataError, match=f"no column of numbers '{column}'"):
            pl.spot_values(prediction, column)


def test_familiarity_is_a_map_from_0_to_1(judged: AnnData) -> None:
    ax = pl.familiarity(judged)
    np.testing.assert_allclose(ax.collections[0].get_array(), judged.obs["familiarity"])
    assert ax.collections[0].get_clim() == (0, 1)
    assert len(ax.collections[1].get_offsets()) == 2
    del judged.obs["familiarity"]
    with pytest.raises(DataError, match=r"'C6'.*familiarity"):
        pl.familiarity(judged)


def test_section_draws_where_it_is_told(prediction: AnnData) -> None:
    figure = Figure()  # not one of pyplot's
    ax = figure.add_subplot()
    assert pl.section(prediction, ax=ax) is ax
    assert not plt.get_fignums()
