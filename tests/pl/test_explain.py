"""What the images of attention, shares and gains show is what was written."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib_scalebar.scalebar import ScaleBar
from scipy import sparse

from nh2st_graph import DataError, pl

SCALE, RADIUS = 0.1, 14.5 / 2
#: The inner spot that is looked at, and the one that has no neighbour.
SPOT, ALONE = "2x2", "5x4"


def bar_of(shown: plt.cm.ScalarMappable) -> plt.Axes:
    return shown.colorbar.ax


class TestAllEdges:
    def test_have_the_colour_of_what_a_spot_reads_at_its_half(self, explained: AnnData) -> None:
        ax = pl.attention(explained)
        (lines,) = ax.collections  # no spots
        matrix = explained.obsp["nh2st_attention"].toarray()
        reader, read = matrix.nonzero()
        centres = explained.obsm["spatial"] * SCALE
        segments = np.array(lines.get_segments())
        np.testing.assert_allclose(segments[:, 0], centres[reader])
        np.testing.assert_allclose(segments[:, 1], (centres[reader] + centres[read]) / 2)
        degree = (matrix > 0).sum(axis=1)
        np.testing.assert_allclose(lines.get_array(), matrix[reader, read] * degree[reader], rtol=1e-6)
        low, high = lines.get_clim()
        assert low * high == pytest.approx(1)
        beyond = (lines.get_array() < low) | (lines.get_array() > high)
        assert 0 < beyond.mean() < 0.03
        assert bar_of(lines).get_ylabel() == "attention relative to the plain mean (1 / degree)"
        assert [tick.get_text() for tick in bar_of(lines).get_yticklabels()][2] == "1.00"
        assert ax.get_title() == "section C6: attention of each spot, on its half of the edge"

    def test_even_attention_looks_even(self, explained: AnnData) -> None:
        matrix = explained.obsp["nh2st_attention"]
        matrix.data[:] = (1.001 / np.repeat(np.diff(matrix.indptr), np.diff(matrix.indptr))).astype(np.float32)
        (lines,) = pl.attention(explained).collections
        assert lines.get_clim() == pytest.approx((1 / 1.5, 1.5))
        lines.update_scalarmappable()
        np.testing.assert_allclose(
            lines.get_colors(), np.tile(plt.get_cmap("coolwarm")(0.5), (matrix.nnz, 1)), atol=0.02
        )

    def test_a_weight_of_zero_has_the_lowest_colour(self, explained: AnnData) -> None:
        explained.obsp["nh2st_attention"].data[3] = 0
        (lines,) = pl.attention(explained).collections
        lines.update_scalarmappable()
        np.testing.assert_allclose(lines.get_colors()[3], plt.get_cmap("coolwarm")(0.0))

    def test_without_edges_draw_the_tissue(self, explained: AnnData) -> None:
        explained.obsp["nh2st_attention"] = sparse.csr_matrix((30, 30), dtype=np.float32)
        ax = pl.attention(explained)
        ax.figure.canvas.draw()
        assert len(ax.collections[0].get_segments()) == 0

    def test_what_a_spot_pays_itself_is_no_edge_but_one_to_choose_from(self, explained: AnnData) -> None:
        edges = explained.obsp["nh2st_attention"].toarray()
        degree = (edges > 0).sum(axis=1)
        with_loops = edges * 0.8 + np.diag(0.2 * (degree > 0))
        explained.obsp["nh2st_attention"] = sparse.csr_matrix(with_loops)
        (lines,) = pl.attention(explained).collections
        reader, read = edges.nonzero()
        np.testing.assert_allclose(lines.get_array(), 0.8 * edges[reader, read] * (degree[reader] + 1), rtol=1e-6)
        texts = [text.get_text() for text in pl.attention(explained, SPOT).texts]
        assert len(texts) == 5
        assert texts[-1] == "0.20"


class TestOneSpot:
    @pytest.fixture
    def weights(self, explained: AnnData) -> pd.Series:
        row = explained.obsp["nh2st_attention"].toarray()[explained.obs_names.get_loc(SPOT)]
        return pd.Series(row, explained.obs_names)[row > 0]

    def test_has_a_wedge_from_each_neighbour_as_wide_as_its_attention(
        self, explained: AnnData, weights: pd.Series
    ) -> None:
        ax = pl.attention(explained, SPOT)
        rings, wedges = ax.collections
        assert len(rings.get_offsets()) == 30
        assert list(weights.index) == ["2x1", "1x2", "3x2", "2x3"]
        np.testing.assert_allclose(wedges.get_array(), weights * 4, rtol=1e-6)
        centre = explained[SPOT].obsm["spatial"][0] * SCALE
        widths = []
        for path, name in zip(wedges.get_paths(), weights.index, strict=True):
            left, right, tip = path.vertices[:3]
            neighbour = explained[name].obsm["spatial"][0] * SCALE
            assert np.linalg.norm(tip - centre) == pytest.approx(RADIUS)
            assert np.linalg.norm((left + right) / 2 - neighbour) == pytest.approx(RADIUS)
            towards = (centre - neighbour) / np.linalg.norm(centre - neighbour)
            np.testing.assert_allclose(tip, centre - RADIUS * towards)
            assert (right - left) @ towards == pytest.approx(0, abs=1e-9)
            widths.append(np.linalg.norm(right - left))
        np.testing.assert_allclose(widths, 0.7 * 2 * RADIUS * weights / weights.max(), rtol=1e-6)

    def test_has_its_numbers_and_name(self, explained: AnnData, weights: pd.Series) -> None:
        ax = pl.attention(explained, SPOT)
        assert [text.get_text() for text in ax.texts] == [f"{weight:.2f}" for weight in weights]
        places = explained[weights.index].obsm["spatial"] * SCALE
        np.testing.assert_allclose([text.xy for text in ax.texts], places)
        assert ax.get_title() == "section C6: attention of spot 2x2 over its 4 neighbours"
        (ring,) = ax.patches
        np.testing.assert_allclose(ring.center, explained[SPOT].obsm["spatial"][0] * SCALE)
        assert ring.radius == pytest.approx(RADIUS)

    def test_is_drawn_in_the_colours_of_its_section_and_near_by(self, explained: AnnData) -> None:
        near, whole = pl.attention(explained, SPOT), pl.attention(explained)
        assert near.collections[-1].get_clim() == whole.collections[-1].get_clim()
        (left, right), (bottom, top) = near.get_xlim(), near.get_ylim()
        assert bottom > top
        inside = [left < x < right and top < y < bottom for x, y in explained.obsm["spatial"] * SCALE]
        assert set(explained.obs_names[inside]) == {f"{x}x{y}" for x in (1, 2, 3) for y in (1, 2, 3)}

    def test_of_many_neighbours_has_no_numbers(self, explained: AnnData) -> None:
        everyone = (np.ones((30, 30)) - np.eye(30)) / 29
        explained.obsp["nh2st_attention"] = sparse.csr_matrix(everyone)
        ax = pl.attention(explained, SPOT)
        assert len(ax.collections[-1].get_paths()) == 29
        assert not ax.texts


def test_share_is_a_map_from_0_to_1(explained: AnnData) -> None:
    ax = pl.neighbour_share(explained)
    (spots,) = ax.collections
    share = explained.obs["nh2st_neighbour_share"]
    np.testing.assert_allclose(spots.get_array(), share)
    assert spots.get_clim() == (0, 1)
    assert bar_of(spots).get_ylabel() == "share of the prediction from the neighbourhood"
    assert ax.get_title() == f"section C6: mean share {share.mean():.2f}"


def test_y_points_down_and_scale_bar_is_in_um(explained: AnnData) -> None:
    for ax in (pl.attention(explained), pl.attention(explained, SPOT), pl.neighbour_share(explained)):
        bottom, top = ax.get_ylim()
        assert bottom > top
        assert ax.get_aspect() == 1
        assert ax.images, "the H&E"
        (bar,) = [artist for artist in ax.artists if isinstance(artist, ScaleBar)]
        assert bar.dx == pytest.approx(6.9)
        assert bar.units == "um"


class TestGain:
    def test_shows_the_genes_from_both_ends(self, explained: AnnData) -> None:
        ax = pl.neighbour_gain(explained, n=2)
        assert [tick.get_text() for tick in ax.get_yticklabels()] == ["g8", "g7", "g1", "g0"]
        np.testing.assert_allclose([bar.get_width() for bar in ax.patches], [0.4, 0.3, -0.3, -0.4])
        colours = [to_rgb(bar.get_facecolor()) for bar in ax.patches]
        assert colours[0] == colours[1] != colours[2] == colours[3]
        assert [text.get_text() for text in ax.texts] == [
            "0.100 → 0.500",
            "0.200 → 0.500",
            "0.800 → 0.500",
            "0.900 → 0.500",
        ]
        assert ax.yaxis_inverted()
        assert ax.get_xlabel().startswith("gain in Pearson r over spots")
        assert ax.get_title() == "section C6: 2 best and 2 worst of 9 genes, mean gain +0.000"

    @pytest.mark.parametrize("n", [5, 100])
    def test_shows_few_genes_once_each(self, explained: AnnData, n: int) -> None:
        ax = pl.neighbour_gain(explained, n=n)
        assert [tick.get_text() for tick in ax.get_yticklabels()] == [f"g{i}" for i in range(8, -1, -1)]
        assert ax.get_title() == "section C6: all 9 genes, mean gain +0.000"

    def test_has_one_gene_from_each_end_at_least(self, explained: AnnData) -> None:
        assert [tick.get_text() for tick in pl.neighbour_gain(explained, n=0).get_yticklabels()] == ["g8", "g0"]


def test_bad_input_is_one_line_and_leaves_no_figure(explained: AnnData) -> None:
    with pytest.raises(DataError, match=r"'C6'.*no spot '2X2'; did you mean '2x2'"):
        pl.attention(explained, "2X2")
    with pytest.raises(DataError, match=r"'C6'.*spot '5x4' has no neighbour"):
        pl.attention(explained, ALONE)
    del explained.uns["nh2st_explain"]["gene_gain"]["gain"]
    with pytest.raises(DataError, match=r"'C6'.*no gain without measured genes.*'change'"):
        pl.neighbour_gain(explained)
    del explained.uns["spatial"]["C6"]["images"]
    for draw in (pl.attention, pl.neighbour_share):
        with pytest.raises(DataError, match="no image 'hires'"):
            draw(explained)
    del explained.obsp["nh2st_attention"], explained.obs["nh2st_neighbour_share"], explained.uns["nh2st_explain"]
    for draw in (pl.attention, pl.neighbour_share, pl.neighbour_gain):
        with pytest.raises(DataError, match=r"'C6'.*run ng\.tl\.explain\("):
            draw(explained)
    assert not plt.get_fignums()


def test_draws_where_it_is_told(explained: AnnData) -> None:
    for draw in (
        pl.attention,
        lambda *given, **more: pl.attention(*given, SPOT, **more),
        pl.neighbour_share,
        pl.neighbour_gain,
    ):
        ax = Figure().add_subplot()  # not one of pyplot's
        assert draw(explained, ax=ax) is ax
    assert not plt.get_fignums()
