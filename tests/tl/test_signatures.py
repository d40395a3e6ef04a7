"""Scores of gene sets, on the genes that can be read."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from numpy.testing import assert_allclose
from scipy import sparse

from nh2st_graph import DataError, tl


@pytest.fixture
def prediction() -> AnnData:
    """Forty genes of like expression, thirty of them reliable; the first five share a pattern."""
    rng = np.random.default_rng(0)
    values = rng.normal(3, 0.1, (60, 40)).astype(np.float32)
    values[:, :5] += rng.normal(0, 1, (60, 1))
    made = AnnData(values, obs={"section": ["S"] * 60})
    made.var_names = [f"G{i}" for i in range(40)]
    made.var["reliable"] = np.arange(40) < 30
    made.var["held_out_pcc_partial"] = np.linspace(0.9, 0.1, 40)
    return made


def test_a_score_is_the_mean_of_the_reliable_genes_beside_that_of_others(prediction):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    found = tl.score_signatures(prediction, {"mine": ["G3", "G0", "G1", "G35", "ELSEWHERE"]})
    row = found.loc["mine"]
    assert (row["n_genes"], row["n_predicted"], row["n_reliable"]) == (5, 4, 3)
    assert row["held_out_pcc_partial"] == pytest.approx(prediction.var["held_out_pcc_partial"].iloc[[0, 1, 3]].mean())
    assert row["genes"] == "G0, G1, G3"
    score = prediction.obs[row["column"]].to_numpy()
    mean = prediction[:, ["G0", "G1", "G3"]].X.mean(axis=1)
    assert np.corrcoef(score, mean)[0, 1] > 0.9
    assert abs(score.mean()) < 0.5, "that of other genes is taken off"
    assert (np.random.get_state()[1] == state).all(), "draws of others stay what they were"  # noqa: NPY002
    again = prediction.copy()
    tl.score_signatures(again, {"mine": ["G0", "G1", "G3"]}, key_added="second")
    assert_allclose(again.obs["second_mine"], score)


def test_values_may_be_sparse_and_are_in_memory(prediction, tmp_path):
    sets = {"mine": ["G0", "G1", "G3"]}
    other = prediction.copy()
    other.X = sparse.csr_matrix(other.X)
    assert tl.score_signatures(other, sets).equals(tl.score_signatures(prediction, sets))
    assert_allclose(other.obs["signature_mine"], prediction.obs["signature_mine"], rtol=1e-4)
    prediction.write_h5ad(tmp_path / "p.h5ad")
    with pytest.raises(DataError, match="to_memory"):
        tl.score_signatures(ad.read_h5ad(tmp_path / "p.h5ad", backed="r"), sets)
    with pytest.raises(DataError, match="dict is no prediction"):
        tl.score_signatures({"S": prediction}, sets)


def test_what_cannot_be_read_has_no_score_and_a_reason(prediction):
    sets = {"few": ["G0", "G38", "G39"], "none": ["X", "Y"], "all": [f"G{i}" for i in range(30)]}
    found = tl.score_signatures(prediction, sets)
    assert not [name for name in prediction.obs if name.startswith("signature_")]
    assert "fewer than 2" in found.loc["few", "reason"]
    assert found.loc["none", "n_predicted"] == 0
    assert "no other reliable gene" in found.loc["all", "reason"]


def test_a_gene_that_is_not_predicted_is_not_scored(prediction):
    prediction.X[:, 0] = np.nan
    found = tl.score_signatures(prediction, {"mine": ["G0", "G1", "G2"]})
    assert found.loc["mine", "genes"] == "G1, G2"
    assert found.loc["mine", "n_predicted"] == 2
    assert prediction.obs["signature_mine"].notna().all()


def test_refuses_what_is_no_set_and_predictions_without_evidence(prediction):
    for wrong in (["G0", "G1"], {"mine": "G0"}):
        with pytest.raises(DataError, match="gene_sets"):
            tl.score_signatures(prediction, wrong)
    del prediction.var["reliable"]
    with pytest.raises(DataError, match="section 'S' does not say which genes are reliable"):
        tl.score_signatures(prediction, {"mine": ["G0", "G1"]})
