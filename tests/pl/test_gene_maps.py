"""What the maps of genes show: which genes, which spots where, on what range."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from anndata import AnnData
from matplotlib.figure import Figure
from matplotlib_scalebar.scalebar import ScaleBar
from scipy import sparse

from nh2st_graph import DataError, pl

from .drawn import DIAMETER, MICRONS_PER_PIXEL, SCALE, centres_and_widths


def rows_of(figure: Figure, n_columns: int = 3) -> list[list[plt.Axes]]:
    maps = [ax for ax in figure.axes if ax.images]
    return [maps[i : i + n_columns] for i in range(0, len(maps), n_columns)]


def names_of(rows: list[list[plt.Axes]]) -> list[str]:
    """What stands at the left of each row."""
    return [row[0].texts[0].get_text() for row in rows]


def test_best_median_and_worst_gene_by_r(prediction: AnnData) -> None:
    figure = pl.gene_maps(prediction)
    rows = rows_of(figure)
    assert names_of(rows) == ["best\ng0", "median\ng4", "worst\ng8"]
    assert [ax.get_title() for ax in rows[0]] == ["H&E", "observed", "predicted, r = 1.00"]
    assert rows[2][2].get_title() == "predicted, r = -1.00"
    assert "C6" in figure.get_suptitle()


def test_r_of_the_run_is_used_where_it_is_there(prediction: AnnData) -> None:
    prediction.var["pcc"] = np.arange(9) / 10
    rows = rows_of(pl.gene_maps(prediction, n=2))
    assert names_of(rows) == ["best\ng8", "best\ng7", "median\ng5", "median\ng4", "worst\ng1", "worst\ng0"]
    assert rows[0][2].get_title() == "predicted, r = 0.80"


def test_maps_hold_the_values_at_the_spots_at_the_assays_size(prediction: AnnData) -> None:
    (row,) = rows_of(pl.gene_maps(prediction, ["g3"]))
    assert not row[0].collections  # the tissue alone
    for ax, values in ((row[1], prediction[:, "g3"].layers["observed"]), (row[2], prediction[:, "g3"].X)):
        np.testing.assert_allclose(ax.collections[0].get_array(), values.ravel(), rtol=1e-6)
        centres, widths = centres_and_widths(ax)
        np.testing.assert_allclose(centres, prediction.obsm["spatial"] * SCALE, atol=0.01)
        np.testing.assert_allclose(widths, DIAMETER * SCALE, rtol=1e-3)


def test_maps_are_of_the_prediction_whatever_else_has_the_name_of_the_gene(prediction: AnnData) -> None:
    expected = prediction[:, "g3"].X.ravel().copy()
    prediction.raw = prediction.copy()
    prediction.raw.X[:] = 0
    prediction.obs["g3"] = 0.0
    (row,) = rows_of(pl.gene_maps(prediction, ["g3"]))
    np.testing.assert_allclose(row[2].collections[0].get_array(), expected, rtol=1e-6)


def test_each_map_has_its_own_robust_range_and_named_colour_bar(prediction: AnnData) -> None:
    prediction.layers["observed"][0, 3] = 1000  # one spot must not flatten the map
    (row,) = rows_of(pl.gene_maps(prediction, ["g3"]))
    for ax, values in ((row[1], prediction[:, "g3"].layers["observed"]), (row[2], prediction[:, "g3"].X)):
        spots = ax.collections[0]
        np.testing.assert_allclose(spots.get_clim(), np.percentile(values, [2, 98]), rtol=1e-5)
        assert spots.colorbar.ax.get_ylabel() == "log-expression"
        assert spots.colorbar.extend == "both"
        assert spots.get_cmap().name == "viridis"


@pytest.mark.parametrize(
    ("normalize", "unit", "times"),
    [
        ("total", "log(1 + CP10k)", 9),  # an image larger than what is drawn of it
        ("panel", "log(1 + CP10k of panel)", 1),
        ("residuals", "Pearson residual", 1),
    ],
)
def test_colours_have_the_unit_that_was_predicted(prediction: AnnData, normalize: str, unit: str, times: int) -> None:
    entry = prediction.uns["spatial"]["C6"]
    entry["images"]["hires"] = np.kron(entry["images"]["hires"], np.ones((times, times, 1), np.uint8))
    entry["scalefactors"]["tissue_hires_scalef"] *= times
    prediction.uns["nh2st_prediction"] = {"normalize": normalize}
    for ax in rows_of(pl.gene_maps(prediction, ["g3"]))[0][1:]:
        assert ax.collections[0].colorbar.ax.get_ylabel() == f"expression\n{unit}"


def test_constant_and_rare_genes_keep_a_range(prediction: AnnData) -> None:
    prediction.X[:, 3] = 2.0
    (row,) = rows_of(pl.gene_maps(prediction, ["g3"]))
    assert row[2].collections[0].get_clim() == (1.5, 2.5)
    assert row[2].get_title() == "predicted, r = 0.00"
    many = ad.concat([prediction] * 7, index_unique="-", uns_merge="first")
    many.X[:, 3] = 0.0
    many.X[7, 3] = 5.0
    (row,) = rows_of(pl.gene_maps(many, ["g3"]))
    assert row[2].collections[0].get_clim() == (0, 5)


def test_y_points_down_and_scale_bar_is_in_um(prediction: AnnData) -> None:
    (row,) = rows_of(pl.gene_maps(prediction, ["g3"]))
    for ax in row:
        bottom, top = ax.get_ylim()
        assert bottom > top
        assert ax.get_aspect() == 1
        (bar,) = [artist for artist in ax.artists if isinstance(artist, ScaleBar)]
        assert bar.dx == pytest.approx(MICRONS_PER_PIXEL / SCALE)
        assert bar.units == "um"


def test_unmeasured_section_shows_named_genes_only(prediction: AnnData) -> None:
    del prediction.layers["observed"]
    (row,) = rows_of(pl.gene_maps(prediction, ["g3"]), n_columns=2)
    assert [ax.get_title() for ax in row] == ["H&E", "predicted"]
    with pytest.raises(DataError, match="give genes"):
        pl.gene_maps(prediction)


def test_unmeasured_section_has_its_image_once(prediction: AnnData) -> None:
    del prediction.layers["observed"]
    image, *maps = (ax for ax in pl.gene_maps(prediction, ["g3", "g1", "g0"]).axes if ax.images)
    assert (image.get_title(), len(image.collections)) == ("H&E", 0)
    assert [ax.get_title() for ax in maps] == ["g3, predicted", "g1, predicted", "g0, predicted"]
    for ax, gene in zip(maps, ["g3", "g1", "g0"], strict=True):
        np.testing.assert_allclose(ax.collections[0].get_array(), prediction[:, gene].X.ravel(), rtol=1e-6)


def test_sparse_layers_draw_the_same(prediction: AnnData) -> None:
    expected = [ax.collections[0].get_array() for ax in rows_of(pl.gene_maps(prediction, ["g3"]))[0][1:]]
    prediction.layers["observed"] = sparse.csr_matrix(prediction.layers["observed"])
    assert names_of(rows_of(pl.gene_maps(prediction)))[0] == "best\ng0"
    drawn = [ax.collections[0].get_array() for ax in rows_of(pl.gene_maps(prediction, ["g3"]))[0][1:]]
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize(("n_genes", "expected"), [(1, ["best\ng0"]), (2, ["best\ng0", "worst\ng1"])])
def test_few_genes_are_drawn_once_each(prediction: AnnData, n_genes: int, expected: list[str]) -> None:
    rows = rows_of(pl.gene_maps(prediction[:, :n_genes].copy(), n=3))
    assert names_of(rows) == expected


def test_genes_without_an_r_are_drawn_by_name(prediction: AnnData) -> None:
    prediction.var["pcc"] = np.nan
    assert names_of(rows_of(pl.gene_maps(prediction, n=2))) == ["g0", "g1"]


def test_bad_input_is_one_line_and_leaves_no_figure(prediction: AnnData) -> None:
    with pytest.raises(DataError, match=r"'C6'.*gene 'G3' .*g3"):
        pl.gene_maps(prediction, ["G3"])
    with pytest.raises(DataError, match="genes is empty"):
        pl.gene_maps(prediction, [])
    twice = prediction.copy()
    twice.var_names = ["g1", *twice.var_names[1:]]
    with pytest.raises(DataError, match="'C6': several genes are named 'g1'"):
        pl.gene_maps(twice, ["g1"])
    del prediction.uns["spatial"]["C6"]["images"]
    with pytest.raises(DataError, match=r"'C6'.*no image 'hires'"):
        pl.gene_maps(prediction)
    assert not plt.get_fignums()


class TestImputed:
    """What was measured is not held to be predicted."""

    @pytest.fixture
    def imputed(self, prediction: AnnData) -> AnnData:
        """The measured half of the spots has its measured values, and ``g8`` was measured everywhere."""
        told = np.zeros(prediction.shape, dtype=bool)
        told[::2], told[:, 8] = True, True
        prediction.X = np.where(told, prediction.layers["observed"], prediction.X)
        prediction.layers["measured"] = told
        return prediction

    def test_r_is_of_the_spots_that_were_not_measured(self, imputed: AnnData) -> None:
        rest = imputed[1::2]
        r = np.corrcoef(rest.X[:, 4], rest.layers["observed"][:, 4])[0, 1]
        (maps,) = rows_of(pl.gene_maps(imputed, ["g4"]))
        assert maps[2].get_title() == f"imputed, r = {r:.2f} where not measured"

    def test_a_gene_that_was_measured_everywhere_has_none(self, imputed: AnnData) -> None:
        (maps,) = rows_of(pl.gene_maps(imputed, ["g8"]))
        assert maps[2].get_title() == "imputed"
        assert "best\ng8" not in names_of(rows_of(pl.gene_maps(imputed)))

    def test_without_observed_maps_it_is_called_imputed_too(self, imputed: AnnData) -> None:
        del imputed.layers["observed"]
        figure = pl.gene_maps(imputed, ["g0", "g1"])
        assert [ax.get_title() for ax in figure.axes if ax.images][1:] == ["g0, imputed", "g1, imputed"]


class TestTrust:
    """What a prediction says of itself is drawn."""

    def test_the_title_says_what_held_out_tissue_said_of_the_gene(self, judged: AnnData) -> None:
        rows = rows_of(pl.gene_maps(judged, ["g0", "g4"]))
        assert [row[2].get_title() for row in rows] == [
            "predicted, r = 1.00\nheld-out r = 0.90",
            "predicted, r = 0.00\nheld-out r = 0.40, not reliable",
        ]
        assert rows[0][1].get_title() == "observed"

    def test_predicted_spots_unlike_training_are_hatched(self, judged: AnnData) -> None:
        figure = pl.gene_maps(judged, ["g3"])
        (row,) = rows_of(figure)
        assert len(row[1].collections) == 1, "what was measured is as good as it was"
        _, over = row[2].collections
        assert over.get_hatch()
        np.testing.assert_allclose(over.get_offsets(), judged.obsm["spatial"][:2] * SCALE)
        assert "hatched: 6.67 % of spots, unlike training (familiarity < 0.01)" in figure.get_suptitle()

    def test_the_cut_can_be_chosen(self, judged: AnnData) -> None:
        (row,) = rows_of(pl.gene_maps(judged, ["g3"], unfamiliar=0))
        assert len(row[2].collections) == 1

    def test_a_gene_that_is_not_predicted_has_no_spots(self, judged: AnnData) -> None:
        judged.X[:, 4] = np.nan
        (row,) = rows_of(pl.gene_maps(judged, ["g4"]))
        assert not row[2].collections
        assert "not predicted" in row[2].texts[0].get_text()
        assert row[2].get_title() == "predicted"
        assert "median\ng4" not in names_of(rows_of(pl.gene_maps(judged, n=3)))

    def test_a_spot_without_a_value_does_not_take_the_range(self, judged: AnnData) -> None:
        judged.X[0, 3] = np.nan
        (row,) = rows_of(pl.gene_maps(judged, ["g3"]))
        assert np.isfinite(row[2].collections[0].get_clim()).all()
