"""Large sections, whose values stay sparse or on disk, get what small ones get; each section here counts as large."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from nh2st_graph import tl
from nh2st_graph.models import BASELINES, make_baseline
from nh2st_graph.nn import Rows
from nh2st_graph.train import dense_graph


@pytest.fixture
def every_section_is_large(monkeypatch) -> None:
    for name in ("_prepare", "_large", "_batches"):
        monkeypatch.setattr(f"nh2st_graph.train.{name}.LARGE", 1)
    monkeypatch.setattr("nh2st_graph.tl._evaluate.LARGE", 20)
    monkeypatch.setattr("nh2st_graph.metrics._scores._NUMBERS", 1)
    monkeypatch.setattr("nh2st_graph.metrics._scores._LEAST_GENES", 3)


@pytest.fixture
def small(tiny_run, tiny_sections) -> Data:
    """The graph of the section as a small one."""
    return tiny_run.model.preparation.prepare(tiny_sections["S3"]).measured


def test_prediction_embeddings_and_explanations(tiny_run, tiny_sections, monkeypatch):
    model, small = tiny_run.model, tiny_sections["S3"].copy()
    expected = tl.predict(small, model)
    tl.embed(small, model)
    tl.explain(small, model)
    monkeypatch.setattr("nh2st_graph.train._prepare.LARGE", 1)
    large = tiny_sections["S3"].copy()
    np.testing.assert_allclose(tl.predict(large, model).X, expected.X, rtol=1e-4, atol=1e-5)
    tl.embed(large, model)
    tl.explain(large, model)
    np.testing.assert_allclose(large.obsm["X_nh2st_image"], small.obsm["X_nh2st_image"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(large.obsm["X_nh2st_gene"], small.obsm["X_nh2st_gene"], rtol=1e-3, atol=1e-4)


def test_targets_are_those_of_the_dense_section(small, tiny_run, tiny_sections, every_section_is_large):
    held = tiny_run.model.preparation.prepare(tiny_sections["S3"]).measured
    assert isinstance(held.y, Rows)
    large = dense_graph(held)
    for key in ("x", "y", "counts", "library"):
        torch.testing.assert_close(large[key], small[key], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_learn_and_predict(name, small, tiny_run, tiny_sections, every_section_is_large):
    large = tiny_run.model.preparation.prepare(tiny_sections["S3"]).measured
    predicted = []
    for graph in (small, large):
        baseline = make_baseline(name)
        baseline.fit([graph])
        predicted.append(np.asarray(baseline.predict(graph)))
    np.testing.assert_allclose(predicted[1], predicted[0], rtol=1e-3, atol=1e-3)


def test_a_run_from_end_to_end(tiny_config, tiny_sections, every_section_is_large, monkeypatch):
    config = tiny_config.override(["train.max_epochs=1", "train.refit=false"])
    train = {name: tiny_sections[name] for name in ("S1", "S2")}
    model = tl.fit(train, config)
    scores = tl.evaluate({"S3": tiny_sections["S3"]}, model, train)
    assert scores.predictions["S3"].layers["observed"].dtype == np.float32
    monkeypatch.undo()
    expected = tl.evaluate({"S3": tiny_sections["S3"]}, model, train)
    # The noise ceiling alone is of fewer spots.
    columns = [name for name in expected.per_gene if not name.startswith("ceiling")]
    found, wanted = (each.per_gene[columns].astype(float) for each in (scores, expected))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
    assert scores.metrics["protocol"] == expected.metrics["protocol"]
    assert np.isfinite(scores.per_gene["ceiling"]).all()
    assert not scores.per_gene["ceiling"].equals(expected.per_gene["ceiling"])


def test_a_prediction_shares_nothing_with_its_section(tiny_run, tiny_sections):
    section = tl.predict(tiny_sections["S3"], tiny_run.model)  # it has a graph and an image
    section.X, section.var = None, section.var[[]]
    before = section.copy()
    found = tl.predict(section, tiny_run.model)
    found.obsm["spatial"][:] = 0
    found.obsp["spatial_connectivities"].data[:] = 0
    next(iter(found.uns["spatial"].values()))["scalefactors"]["tissue_hires_scalef"] = 0
    np.testing.assert_array_equal(section.obsm["spatial"], before.obsm["spatial"])
    assert (section.obsp["spatial_connectivities"] != before.obsp["spatial_connectivities"]).nnz == 0
    assert section.uns["spatial"].keys() == before.uns["spatial"].keys()
    for name, entry in section.uns["spatial"].items():
        assert entry["scalefactors"] == before.uns["spatial"][name]["scalefactors"]
