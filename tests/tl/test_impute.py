"""Measured spots and genes inform the others, and nothing else does; predictions from the image stay what they are."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from nh2st_graph import DataError, ModelError, load, tl
from nh2st_graph.metrics import downstream_scores
from nh2st_graph.section import targets
from nh2st_graph.tl import FittedModel

from ..prepared import complete_section
from .test_predict import with_other_genes


@pytest.fixture(scope="module")
def model(tiny_run) -> FittedModel:
    return tiny_run.model


@pytest.fixture(scope="module")
def section(tiny_sections, tiny_config) -> AnnData:
    return complete_section(tiny_sections["S3"], tiny_config)


@pytest.fixture(scope="module")
def some(section) -> np.ndarray:
    """A quarter of the spots."""
    return np.random.default_rng(0).permutation(section.n_obs) < section.n_obs // 4


def counted(section: AnnData, counts: np.ndarray) -> AnnData:
    other = section.copy()
    other.X = sparse.csr_matrix(counts.astype(np.float32))
    return other


def test_measured_spots_keep_what_was_measured_and_move_others(model, section, some):
    image, filled = tl.predict(section, model), tl.impute(section, model, measured=some)
    observed = targets(section[some].copy(), model.genes, **model.config.data.target)
    assert_array_equal(filled[some].X, observed.to_numpy(np.float32))
    assert not np.array_equal(filled[~some].X, image[~some].X)
    assert_array_equal(filled.obsm["spatial"], image.obsm["spatial"])


def test_the_output_says_what_it_is(model, section, some, tmp_path):
    filled = tl.impute(section, model, measured=some)
    about = filled.uns["nh2st_prediction"]
    assert (about["mode"], about["measured_spots"], about["measured_genes"]) == ("imputed", some.sum(), filled.n_vars)
    assert_array_equal(filled.layers["measured"], np.broadcast_to(some[:, None], filled.shape))
    assert_array_equal(filled.obs["nh2st_measured"], some.astype(float))
    assert_allclose(filled.var["nh2st_measured"], some.mean())
    image = tl.predict(section, model)
    assert image.uns["nh2st_prediction"]["mode"] == "image"
    assert about["origin"] != image.uns["nh2st_prediction"]["origin"]
    assert not {"lower", "upper", "sd"} & filled.layers.keys(), "intervals are of predictions from the image"
    assert "reliable" not in filled.var
    filled.write_h5ad(tmp_path / "filled.h5ad")
    assert ad.read_h5ad(tmp_path / "filled.h5ad").uns["nh2st_prediction"]["mode"] == "imputed"


def test_its_spots_are_not_called(model, section, some):
    with pytest.raises(DataError, match="is imputed, and no evidence"):
        tl.call(tl.impute(section, model, measured=some), model.genes[0])


def test_nothing_of_it_stays_in_a_prediction_from_the_image(model, section, some):
    filled = tl.impute(section, model, measured=some)
    assert "nh2st_measured" in filled.obs
    assert "nh2st_measured" not in tl.predict(filled, model).obs


def test_what_was_measured_is_not_scored(model, section, some):
    with pytest.raises(DataError, match="would be compared with itself"):
        downstream_scores(tl.impute(section, model, measured=some))
    nothing = tl.impute(section, model, measured=np.zeros(section.n_obs, dtype=bool))
    prediction = tl.predict(section, model)
    nothing.layers["observed"] = prediction.layers["observed"]
    assert downstream_scores(nothing) == downstream_scores(prediction)


def test_of_what_was_not_measured_no_bit_is_read(model, section, some):
    """Not even the depth of the other spots."""
    expected = tl.impute(section, model, measured=some).X
    counts, rng = section.X.toarray(), np.random.default_rng(1)
    for other in (rng.poisson(9.0, counts.shape), np.zeros_like(counts), np.full(counts.shape, np.nan)):
        changed = counted(section, np.where(some[:, None], counts, other))
        assert_array_equal(tl.impute(changed, model, measured=some).X, expected)
    moved = tl.impute(counted(section, counts * 3 + 1), model, measured=some).X
    assert not np.array_equal(moved[~some], expected[~some]), "what was measured is read"


def test_of_genes_that_were_not_measured_no_bit_is_read(model, section):
    genes, rng = model.genes[:5], np.random.default_rng(1)
    expected = tl.impute(section, model, measured=genes)
    counts, given = section.X.toarray(), section.var_names.isin(genes)
    changed = counted(section, np.where(given, counts, rng.poisson(9.0, counts.shape)))
    found = tl.impute(changed, model, measured=genes)
    assert_array_equal(found.X, expected.X)
    alone = tl.impute(section[:, genes].copy(), model, measured=genes)
    assert_array_equal(alone.X, expected.X)
    assert_array_equal(found.layers["measured"], np.broadcast_to(np.isin(model.genes, genes), found.shape))


def test_with_nothing_measured_it_is_the_prediction_from_the_image(model, section):
    nothing = np.zeros(section.n_obs, dtype=bool)
    filled = tl.impute(section, model, measured=nothing)
    assert_array_equal(filled.X, tl.predict(section, model).X)
    assert filled.uns["nh2st_prediction"]["mode"] == "imputed"
    assert not filled.layers["measured"].any()


def test_with_everything_measured_it_is_the_measurement(model, section):
    filled = tl.impute(section, model, measured=np.ones(section.n_obs, dtype=bool))
    assert_array_equal(filled.X, tl.predict(section, model).layers["observed"])
    assert "observed" not in filled.layers, "what is not said to be measured is not read, and not shown"


def test_genes_that_are_read_are_not_said_to_be_left_out(model, section, some, caplog):
    counts = section.X.toarray().astype(float)
    counts[~some] = np.nan
    tl.impute(counted(section, counts), model, measured=some)
    few = model.genes[:3]
    tl.impute(section[:, few].copy(), model, measured=few)
    assert "genes are not used" not in caplog.text
    tl.predict(section[:, few].copy(), model)
    assert "genes are not used, for it lacks" in caplog.text


def test_a_measured_spot_without_counts_is_not_measured(model, section, some, caplog):
    spot = int(np.flatnonzero(some)[0])
    counts = np.asarray(section.X.toarray())
    counts[spot] = 0
    empty = counted(section, counts)
    others = some.copy()
    others[spot] = False
    found, expected = (tl.impute(empty, model, measured=each) for each in (some, others))
    np.testing.assert_array_equal(found.X, expected.X)
    assert not found.layers["measured"][spot].any()
    assert "1 spots that are measured have no counts" in caplog.text
    assert empty.obs_names[spot] in caplog.text


def test_the_order_of_spots_decides_nothing(model, section, some):
    expected = tl.impute(section, model, measured=some)
    order = np.random.default_rng(3).permutation(section.n_obs)
    shuffled = section[order].copy()
    for measured in (some[order], pd.Series(some, section.obs_names)):
        found = tl.impute(shuffled, model, measured=measured)
        assert list(found.obs_names) == list(shuffled.obs_names)
        assert_array_equal(found.X, expected.X[order])


def test_a_table_says_both(model, section, some):
    """Whole spots as a table are whole spots; some genes of some spots are these alone."""
    rows = np.broadcast_to(some[:, None], section.shape)
    expected = tl.impute(section, model, measured=some).X
    assert_array_equal(tl.impute(section, model, measured=rows).X, expected)
    table = pd.DataFrame(rows, section.obs_names, section.var_names).iloc[::-1]
    assert_array_equal(tl.impute(section, model, measured=table).X, expected)
    part = table[model.genes[:5]]
    filled = tl.impute(section, model, measured=part)
    assert_array_equal(filled.layers["measured"], some[:, None] & np.isin(model.genes, part.columns))


def test_several_sections_in_one(model, tiny_sections):
    both = ad.concat({name: tiny_sections[name] for name in ("S2", "S3")}, index_unique="-", uns_merge="unique")
    measured = np.random.default_rng(0).random(both.n_obs) < 0.3
    found = tl.impute(both, model, measured=measured, library_key="section")
    inside = (both.obs["section"] == "S3").to_numpy()
    alone = tl.impute(tiny_sections["S3"], model, measured=measured[inside])
    assert_array_equal(found[inside].X, alone.X)
    assert_allclose(found.var["nh2st_measured"], measured.mean())


def test_a_saved_model_imputes_the_same(model, section, some, tmp_path):
    model.save(tmp_path)
    assert_array_equal(tl.impute(section, load(tmp_path), measured=some).X, tl.impute(section, model, measured=some).X)


def test_a_model_that_saw_masked_genes_predicts_the_same_bits_whatever_the_genes(model, section, some):
    assert model.imputation is not None, "it has learned from masked genes"
    expected = tl.predict(section, replace(model, imputation=None)).X
    for what, other in {"the same": section, **with_other_genes(section)}.items():
        assert_array_equal(tl.predict(other, model, intervals=False).X, expected, err_msg=what)
    tl.impute(section, model, measured=some)
    assert_array_equal(tl.predict(section, model, intervals=False).X, expected)


def test_an_estimator_of_one_section_learns_it_too(tiny_sections, tiny_config, section, some):
    """From held-out bands."""
    train = complete_section(tiny_sections["S1"], tiny_config)
    fitted = tl.fit([train], tiny_config.override(["model.name=ridge", "data.normalize=panel", "data.log_base=10"]))
    assert_allclose(fitted.imputation.shares.sum(), 1.0, rtol=1e-6)
    expected = tl.predict(section, fitted, intervals=False).X
    filled = tl.impute(section, fitted, measured=some)
    assert not np.array_equal(filled[~some].X, expected[~some])
    whole = tl.impute(section, fitted, measured=fitted.genes)
    observed = tl.predict(section, fitted, intervals=False).layers["observed"]
    assert_allclose(whole.X, observed, rtol=1e-5, atol=1e-6)
    assert_array_equal(tl.predict(section[:, :0].copy(), fitted, intervals=False).X, expected)


class TestRefusals:
    @pytest.mark.parametrize(
        ("measured", "words"),
        [
            ([True, False], "measured has shape"),
            (np.ones(5), "measured has shape"),
            ("EPCAM", "measured='EPCAM'"),
            (["no such gene"], "no gene no such gene"),
            (pd.Series([True], ["elsewhere"]), "spots of the section"),
            (pd.DataFrame({"no such gene": [True]}), "spots of the section"),
        ],
    )
    def test_of_what_does_not_fit(self, model, section, measured, words):
        with pytest.raises(DataError, match=words):
            tl.impute(section, model, measured=measured)

    def test_of_a_table_of_numbers(self, model, section):
        table = pd.DataFrame(1.0, section.obs_names, section.var_names)
        with pytest.raises(DataError, match="True and False"):
            tl.impute(section, model, measured=table)
        with pytest.raises(DataError, match="genes of the section"):
            tl.impute(section, model, measured=table.rename(columns={section.var_names[0]: "other"}))

    def test_of_counts_that_are_none(self, model, section, some):
        for wrong in (section.X.toarray() + 0.5, np.full(section.shape, np.nan)):
            with pytest.raises(DataError, match=r"section 'S3': X"):
                tl.impute(counted(section, wrong), model, measured=some)

    def test_of_genes_outside_the_panel(self, model, section):
        others = [gene for gene in section.var_names if gene not in model.genes][:2]
        with pytest.raises(DataError, match=r"no measured gene.*measured"):
            tl.impute(section, model, measured=others)

    @pytest.mark.parametrize("change", ["data.smooth=3x3", "data.normalize=residuals"])
    def test_of_some_genes_where_targets_need_all(self, model, section, change):
        other = replace(model, config=model.config.override([change]))
        with pytest.raises(ModelError, match=change.replace("data.", "").replace("=", "='")):
            tl.impute(section, other, measured=model.genes[:5])
        spots = np.arange(section.n_obs) % 2 == 0
        assert np.isfinite(tl.impute(section, other, measured=spots).X).all()

    def test_of_a_model_without_masked_genes(self, model, section, some):
        with pytest.raises(ModelError, match="masked genes"):
            tl.impute(section, replace(model, imputation=None), measured=some)
