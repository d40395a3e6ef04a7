"""Fine-tuning: the encoder learns with the rest, and is part of what is saved, loaded and predicted with."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pytest
import torch

import nh2st_graph as ng
from nh2st_graph import tl
from nh2st_graph.nn import PatchEncoder
from nh2st_graph.train import patch_encoder

from ..prepared import complete_section


@pytest.fixture(scope="module")
def sections(tiny_sections):
    """Three sections of sixteen spots: each patch passes through the encoder several times."""
    return {name: section[:16].copy() for name, section in tiny_sections.items()}


@pytest.fixture(scope="module")
def config(tiny_config, sections, tmp_path_factory):
    root = tmp_path_factory.mktemp("sections")
    for name, section in sections.items():
        ng.read.write_h5ad(section, root / f"{name}.h5ad")
    small = [
        "data.format=h5ad",
        f"data.root={root}",
        "features.encoder=timm:test_resnet@random",
        "features.finetune=true",
        "model.n_components=4",
        "train.max_epochs=1",
        "train.refit=false",
        "train.folds=2",
        "train.ema_decay=0.5",
        "train.batch_spots=8",
        "evaluate.baselines=false",
        "evaluate.figures=false",
    ]
    return tiny_config.override(small)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A run whose encoder was fine-tuned for one epoch. Shared: change nothing."""
    return tl.train_run(config, tmp_path_factory.mktemp("runs") / "finetuned")


def test_the_encoder_learned_and_its_statistics_did_not(run, config):
    encoder, start = run.model.module.patch_encoder, patch_encoder(config.features, trained=True)
    assert isinstance(encoder, PatchEncoder)
    before, after = start.model.state_dict(), encoder.model.state_dict()
    learned = {name for name, _ in encoder.model.named_parameters()}
    for name, value in after.items():
        assert torch.equal(value, before[name]) is (name not in learned), name
    assert any("running_mean" in name for name in set(after) - learned)


def test_features_are_scaled_by_the_training_sections_before_training(run, config, sections):
    raw = np.vstack([complete_section(sections[name], config).obsm["X_image"] for name in ("S1", "S2")])
    encoder = run.model.module.patch_encoder
    np.testing.assert_allclose(encoder.feature_mean.numpy(), raw.mean(axis=0), rtol=1e-4, atol=1e-6)
    varies = raw.std(axis=0) > 1e-5
    assert varies.sum() > 30
    np.testing.assert_allclose(encoder.feature_std.numpy()[varies], raw.std(axis=0)[varies], rtol=1e-3)
    assert (encoder.feature_std[raw.std(axis=0) == 0] == 1).all()


def test_the_run_folder_is_a_normal_one(run):
    names = {path.name for path in run.outputs()}
    tables = {"metrics.json", "metrics_per_gene.csv", "genes.csv"}
    assert names == {"model.safetensors", "log.csv", "report.html", "predictions", *tables}
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert np.isfinite(metrics["sections"]["S3"]["pcc_mean"])
    assert np.isfinite(run.model.log["train_loss"]).all()


def test_a_saved_model_predicts_the_same_bits(run, sections):
    expected = tl.predict(sections["S3"], run.model)
    loaded = ng.load(run.folder)
    assert isinstance(loaded.module.patch_encoder, PatchEncoder)
    np.testing.assert_array_equal(tl.predict(sections["S3"], loaded).X, expected.X)
    stored = anndata.read_h5ad(run.folder / "predictions" / "S3.h5ad")
    np.testing.assert_array_equal(np.asarray(stored[expected.obs_names].X), expected.X)


def test_the_image_is_what_is_predicted_from(run, sections, config):
    """Patches reach the prediction; the features that were computed from them beforehand do not."""
    model = run.model
    graph = model.preparation.prepare(sections["S3"]).graph
    assert graph.patches.shape == (graph.num_nodes, 160, 160, 3)
    assert graph.patches.dtype == torch.uint8
    with torch.no_grad():
        side = model.module(graph.patches, graph.edge_index, graph.edge_attr)
        graph.x = graph.x + 1
        again = model.module(model.module.image_input(graph), graph.edge_index, graph.edge_attr)
        other = model.module(255 - graph.patches, graph.edge_index, graph.edge_attr)
    assert torch.equal(side.expression, again.expression)
    assert not torch.allclose(side.expression, other.expression)


@pytest.mark.parametrize("finetune", [False, True])
def test_feature_maps_are_fitted_saved_and_loaded(finetune, config, sections, tmp_path):
    wanted = config.override(
        ["features.encoder=timm-map:test_resnet@random", f"features.finetune={finetune}", "features.standardize=none"]
    )
    model = tl.fit([sections[name][:8].copy() for name in ("S1", "S2")], wanted)
    assert model.n_features == 96 * 5 * 5
    model.save(tmp_path)
    loaded = ng.load(tmp_path)
    assert (loaded.module.patch_encoder is not None) is finetune
    few = sections["S3"][:8].copy()
    np.testing.assert_array_equal(tl.predict(few, loaded).X, tl.predict(few, model).X)
    if finetune:
        assert (loaded.module.patch_encoder.feature_mean == 0).all(), "read as they come"
