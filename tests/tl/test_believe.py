"""What a prediction says of itself: in its file, through a saved model, and by calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_array_equal
from scipy import sparse

import nh2st_graph as ng
from nh2st_graph import DataError, ModelError, tl
from nh2st_graph.confidence import Confidence
from nh2st_graph.section import targets
from nh2st_graph.tl import FittedModel, Run

from ..evidence import EVIDENCE


@pytest.fixture(scope="module")
def prediction(tiny_run: Run, tiny_sections: dict[str, AnnData]) -> AnnData:
    return tl.predict(tiny_sections["S3"], tiny_run.model)


def test_each_gene_has_its_evidence(prediction: AnnData):
    assert set(EVIDENCE) <= set(prediction.var)
    assert (prediction.var["n_sections"] == 2).all()
    about = prediction.uns["nh2st_prediction"]
    assert about["coverage"]["level"] == 0.9
    assert about["coverage"]["n_units"] == 2
    assert about["coverage"]["guaranteed"] == 0, "S1 and S2 are of one patient, and S3 is of another"
    assert about["coverage"]["to_another_patient"]


def test_intervals_hold_the_prediction_and_most_of_the_measurement(prediction: AnnData, tiny_run, tiny_sections):
    lower, upper, sd = (prediction.layers[name] for name in ("lower", "upper", "sd"))
    assert (lower >= 0).all()
    assert (upper >= lower).all()
    assert (sd >= 0).all()
    assert sd.any()
    observed = targets(tiny_sections["S3"], tiny_run.model.genes, **tiny_run.model.config.data.target)
    inside = (observed.loc[prediction.obs_names] >= lower) & (observed.loc[prediction.obs_names] <= upper)
    assert inside.to_numpy().mean() > 0.75


def test_a_saved_model_says_the_same(prediction: AnnData, tiny_run: Run, tiny_sections, tmp_path: Path):
    tiny_run.model.save(tmp_path)
    again = tl.predict(tiny_sections["S3"], ng.load(tmp_path))
    for name in ("lower", "upper", "sd"):
        assert_array_equal(again.layers[name], prediction.layers[name])
    assert again.var.equals(prediction.var)
    assert_array_equal(again.varm["call_high"], prediction.varm["call_high"])
    (tmp_path / "folds.safetensors").unlink()
    without = tl.predict(tiny_sections["S3"], ng.load(tmp_path))
    assert set(without.layers) - {None} == {"lower", "upper", "observed"}


def test_genes_of_the_test_section_reach_none_of_it(prediction: AnnData, tiny_run: Run, tiny_sections):
    section = tiny_sections["S3"].copy()
    section.X = section.X[:, ::-1].copy()
    other = tl.predict(section, tiny_run.model)
    for name in ("lower", "upper", "sd"):
        assert_array_equal(other.layers[name], prediction.layers[name])
    assert other.var.equals(prediction.var)


def test_layers_are_left_out_on_request(tiny_run: Run, tiny_sections):
    small = tl.predict(tiny_sections["S3"], tiny_run.model, intervals=False)
    assert set(small.layers) - {None} == {"observed"}
    assert set(EVIDENCE) <= set(small.var)


def test_genes_are_chosen_by_name_and_by_worth(prediction: AnnData, tiny_run: Run, tiny_sections):
    first, second = tiny_run.model.genes[:2]
    chosen = tl.predict(tiny_sections["S3"], tiny_run.model, genes=[second, first])
    assert list(chosen.var_names) == [first, second]
    reliable = prediction.var_names[prediction.var["reliable"]]
    model = with_reliable(tiny_run.model, tiny_run.model.genes[2:4])
    found = tl.predict(tiny_sections["S3"], model, genes="reliable")
    assert set(found.var_names) == set(tiny_run.model.genes[2:4])
    assert len(reliable) <= len(tiny_run.model.genes)
    for names in (np.array([second, first]), pd.Index([second, first]), pd.Series([second, first]), (second, first)):
        assert list(tl.predict(tiny_sections["S3"], tiny_run.model, genes=names).var_names) == [first, second]


@pytest.mark.parametrize(
    ("genes", "says"),
    [(["XYZ"], "does not predict 'XYZ'"), ([], "names no gene"), (3, "genes=3 is no list of genes")],
)
def test_genes_that_cannot_be_kept_are_refused_before_anything_is_predicted(
    tiny_run: Run, tiny_sections, caplog, genes, says
):
    caplog.set_level("INFO")
    with pytest.raises(ModelError, match=says):
        tl.predict(tiny_sections["S3"], tiny_run.model, genes=genes)
    assert "predicted as of" not in caplog.text


def with_reliable(model: FittedModel, genes: list[str], *, new: bool = True) -> FittedModel:
    """Give a model with the genes that are said to be reliable; without ``new``, for training patients alone."""
    assert model.confidence is not None
    found = []
    for evidence in (model.confidence.new, model.confidence.known):
        if evidence is not None:
            said = genes if new or evidence is not model.confidence.new else []
            table = evidence.genes.assign(reliable=evidence.genes.index.isin(said))
            evidence = replace(evidence, genes=table)
        found.append(evidence)
    confidence = Confidence(found[0], found[1], model.confidence.detected, model.confidence.n_patients)
    return replace(model, confidence=confidence)


def test_no_reliable_gene_is_an_error_that_says_why(tiny_run: Run, tiny_sections, tmp_path, caplog):
    caplog.set_level("INFO")
    model = with_reliable(tiny_run.model, [])
    with pytest.raises(ModelError, match="S3"):
        tl.predict(tiny_sections["S3"], model, genes="reliable")
    assert model.confidence is not None
    only_known = with_reliable(tiny_run.model, model.genes, new=False)
    only_known.save(tmp_path / "model")
    stranger = tiny_sections["S3"].copy()
    stranger.obs["patient"] = "of nobody"
    stranger.write_h5ad(tmp_path / "S3.h5ad")
    for predict in (
        lambda: tl.predict(stranger, only_known, genes="reliable"),
        lambda: tl.predict_run(tmp_path / "model", [tmp_path / "S3.h5ad"], tmp_path / "out", genes="reliable"),
    ):
        with pytest.raises(
            ModelError, match="no gene is reliable for section 'S3', since no held-out tissue is known to speak for its"
        ):
            predict()
    assert "predicted as of" not in caplog.text, "it is refused before anything is predicted"
    with pytest.raises(ModelError, match="earlier version"):
        tl.predict(tiny_sections["S3"], replace(tiny_run.model, confidence=None), genes="reliable")
    stranger.obs["patient"] = 3  # is refused for itself
    with pytest.raises(DataError, match="must be categorical"):
        tl.predict(stranger, only_known, genes="reliable")


def test_a_folder_without_a_reliable_gene_is_refused_before_anything_is_predicted(tiny_run: Run, tmp_path):
    with_reliable(tiny_run.model, []).save(tmp_path / "model")
    with pytest.raises(ModelError, match="genes='reliable'"):
        tl.check_prediction(tmp_path / "model", [tmp_path / "none.h5ad"], tmp_path / "out", genes="reliable")


def test_a_model_of_before_predicts_without_evidence(tiny_run: Run, tiny_sections, prediction: AnnData):
    earlier = tl.predict(tiny_sections["S3"], replace(tiny_run.model, confidence=None, folds=()))
    assert_array_equal(earlier.X, prediction.X)
    assert set(earlier.layers) - {None} == {"observed"}
    with pytest.raises(DataError):
        tl.call(earlier, earlier.var_names[0])


def test_genes_that_were_barely_measured_are_nan(tiny_run: Run, tiny_sections, caplog):
    assert tiny_run.model.confidence is not None
    few = tiny_run.model.confidence.detected.copy()
    few[3] = 9
    model = replace(tiny_run.model, confidence=replace(tiny_run.model.confidence, detected=few))
    found = tl.predict(tiny_sections["S3"], model)
    blank = np.isnan(found.X).any(axis=0)
    assert list(np.flatnonzero(blank)) == [3]
    assert np.isnan(found.layers["lower"][:, 3]).all()
    assert tiny_run.model.genes[3] in caplog.text
    assert not found.var["nh2st_varies"].iloc[3]
    train = {name: tiny_sections[name] for name in model.train_sections}
    scored = tl.evaluate({"S3": tiny_sections["S3"]}, model, train).predictions["S3"]  # as a run writes it
    assert scored.var["nh2st_varies"].equals(found.var["nh2st_varies"])
    caplog.clear()
    assert tl.predict(tiny_sections["S3"], model, genes=model.genes[:2]).n_vars == 2
    assert not caplog.text, "it was not asked for"


def test_calls_are_of_spots_and_can_be_kept(prediction: AnnData):
    best = prediction.var["held_out_pcc_partial"].idxmax()
    found = tl.call(prediction, best, level=0.5, unreliable=True, key_added="high_or_low")
    assert list(found.index) == list(prediction.obs_names)
    assert (prediction.obs["high_or_low"] == found).all()
    assert set(found.cat.categories) == {"high", "low", "not called"}
    high = prediction.to_df().loc[found == "high", best]
    assert high.empty or high.min() >= prediction.to_df().loc[found != "high", best].max()
    with pytest.raises(DataError, match="level"):
        tl.call(prediction, best, level=0.0)
    with pytest.raises(DataError, match="XYZ"):
        tl.call(prediction, "XYZ")
    with pytest.raises(DataError, match=r"gene=\[.*\] is no name; give one gene"):
        tl.call(prediction, [best])
    with pytest.raises(DataError, match="key_added='patient' is a column that says what a section is"):
        tl.call(prediction, best, key_added="patient")
    with pytest.raises(DataError, match="NoneType is no prediction"):
        tl.call(None, best)


def test_calls_are_the_same_of_values_that_are_sparse(prediction: AnnData):
    gene = prediction.var["held_out_pcc_partial"].idxmax()
    calls = tl.call(prediction, gene, unreliable=True)
    for form in (sparse.csr_matrix, sparse.csc_matrix):
        other = prediction.copy()
        other.X = form(other.X)
        assert list(tl.call(other, gene, unreliable=True)) == list(calls)


def test_a_gene_that_is_not_reliable_is_not_called(tiny_run: Run, tiny_sections, caplog):
    found = tl.predict(tiny_sections["S3"], with_reliable(tiny_run.model, []))
    gene = found.var["held_out_pcc_partial"].idxmax()
    assert (tl.call(found, gene, level=0.9) == "not called").all()
    assert gene in caplog.text
    assert (tl.call(found, gene, level=0.9, unreliable=True) != "not called").any()


def test_several_sections_keep_what_calls_rest_on(tiny_run: Run, tiny_sections):
    import anndata as ad

    both = ad.concat(
        {name: tiny_sections[name] for name in ("S2", "S3")}, label="part", uns_merge="unique", index_unique="-"
    )
    both.obs["part"] = both.obs["part"].astype("category")
    found = tl.predict(both, tiny_run.model, library_key="part")
    assert set(EVIDENCE) <= set(found.var)
    assert found.layers["lower"].shape == found.shape
    tl.call(found, found.var_names[0])


@pytest.mark.parametrize("change", ["model.name=ridge", "model.closed_form=false"])
def test_a_method_that_predicts_all_patients_alike_is_judged_by_whose_slide_it_is(change, tiny_config, tiny_sections):
    config = tiny_config.override([change, "train.max_epochs=1"])
    model = tl.fit({name: tiny_sections[name] for name in ("S1", "S2")}, config)
    confidence = model.confidence
    assert confidence is not None
    assert confidence.known is not None
    assert confidence.known.calibration is confidence.new.calibration
    own, other = (tl.predict(tiny_sections[name], model) for name in ("S1", "S3"))
    told = [each.uns["nh2st_prediction"] for each in (own, other)]
    assert [about["evidence"] for about in told] == ["training patients", "new patients"]
    assert [about["coverage"]["to_another_patient"] for about in told] == [False, True]
    above = own.var["held_out_low"] > own.var["held_out_chance"].clip(lower=0)
    assert list(own.var["reliable"]) == list(above)
    assert own.var["reliable"].any() == (change == "model.name=ridge"), "an epoch teaches the network nothing"
    assert not other.var["reliable"].any()
