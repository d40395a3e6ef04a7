"""Several encoders and scales in one model: learned from, saved, predicted with, and refused where they are others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.torch import save_file

import nh2st_graph as ng
from nh2st_graph import ConfigError, ModelError, tl
from nh2st_graph.im import Encoder, TimmEncoder, register_encoder

from ..prepared import complete_section

SCALES = "features.encoders=[[squidpy:summary, 56], [squidpy:summary, 112]]"
MARK = 1000.0


class Trained(Encoder):
    """An encoder that was trained at 0.5 um per px."""

    name, input_size, um_per_px = "trained:a", 8, 2.0
    normalisation: dict = {}  # noqa: RUF012
    fingerprint: dict = {"encoder": "trained"}  # noqa: RUF012

    def encode(self, patches):
        return patches.mean(axis=(1, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def _own(own_encoders, monkeypatch, tmp_path):
    register_encoder("trained")(lambda rest, device: Trained())
    monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def ridge(quick_config):
    """Fits in no time."""
    return quick_config.override(["model.name=ridge_neighbours", "train.folds=2"])


@pytest.fixture
def sections(few_spots):
    return {name: section.copy() for name, section in few_spots.items()}


def fitted(sections, config):
    return tl.fit([sections["S1"], sections["S2"]], config)


def test_features_of_a_section_are_those_of_its_blocks(sections, tiny_config):
    both = complete_section(sections["S1"], tiny_config.override([SCALES]))
    parts = [complete_section(sections["S1"], tiny_config.change({"features.patch_um": um})) for um in (56, 112)]
    assert_array_equal(both.obsm["X_image"], np.hstack([part.obsm["X_image"] for part in parts]))


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (SCALES, True),
        ("features.encoders=[[squidpy:summary, 112], [squidpy:summary, 56]]", False),
        ("features.encoders=[[squidpy:summary, 56], [squidpy:summary, 100]]", False),
        ("features.encoders=[[squidpy:summary, 56]]", False),
        ("features.encoder=squidpy:summary", False),
        ("features.views=4", False),
    ],
)
def test_stored_features_are_used_where_their_blocks_are_the_same(sections, tiny_config, change, kept):
    config = tiny_config.override([SCALES])
    done = complete_section(sections["S1"], config)
    done.obsm["X_image"] += MARK
    again = complete_section(done, config.override([change]))
    assert bool((again.obsm["X_image"] > MARK / 2).all()) == kept


def test_stored_features_of_other_weights_are_seen(sections, tiny_config, caplog):
    config = tiny_config.override([SCALES])
    done = complete_section(sections["S1"], config)
    known = done.uns["X_image"]["made_from"]
    known["encoders"][1] = json.dumps({**json.loads(known["encoders"][1]), "input_size": 113})
    complete_section(done, config)
    assert "encoder (input_size: 113 -> 112)" in caplog.text


def test_a_saved_model_predicts_with_its_blocks(sections, ridge, tmp_path):
    model = fitted(sections, ridge.override([SCALES]))
    model.save(tmp_path / "model")
    again = ng.load(tmp_path / "model")
    assert again.config.features.blocks == [("squidpy:summary", 56.0), ("squidpy:summary", 112.0)]
    expected, found = tl.predict(sections["S3"], model), tl.predict(sections["S3"], again)
    assert_array_equal(found.X, expected.X)
    assert found.uns["nh2st_prediction"]["encoder"] == "squidpy:summary at 56 um, squidpy:summary at 112 um"


def test_the_size_that_auto_was_is_kept(sections, ridge, tmp_path):
    model = fitted(sections, ridge.override(["features.encoder=trained:a", "features.patch_um=auto"]))
    assert model.config.features.patch_um == 16.0
    model.save(tmp_path)
    assert json.loads((tmp_path / "model.json").read_text())["config"]["features"]["patch_um"] == 16.0
    both = fitted(sections, ridge.override(["features.encoders=[[trained:a, auto], squidpy:summary]"]))
    assert both.config.features.blocks == [("trained:a", 16.0), ("squidpy:summary", 112.0)]


def test_an_error_names_the_key_that_was_given(sections, ridge, tmp_path):
    block = "{encoder: timm:test_vit@random, size: abc}"
    config = ridge.override([f"features.encoders=[[squidpy:summary, 56], {block}]"])
    for call in (lambda: tl.fit([sections["S1"]], config), lambda: tl.check_run(config, tmp_path / "run")):
        with pytest.raises(ConfigError) as error:
            call()
        assert error.value.at("key").startswith("features.encoders=timm:test_vit@random?size=abc: size=abc")
        assert str(error.value).startswith("encoders='timm:test_vit@random?size=abc'")


def test_auto_needs_a_scale_before_anything_is_read(sections, ridge, tmp_path):
    config = ridge.override(["features.patch_um=auto"])
    for call in (lambda: tl.fit([sections["S1"]], config), lambda: tl.train_run(config, tmp_path / "run")):
        with pytest.raises(ConfigError, match=r"patch_um='auto': .* squidpy:summary was trained at is unknown"):
            call()
    assert not (tmp_path / "run").exists()


def test_other_scales_than_in_training_of_the_encoder_are_said_once(sections, ridge, caplog):
    model = fitted(sections, ridge.override(["features.encoder=trained:a", "features.patch_um=32"]))
    said = [record.getMessage() for record in caplog.records if "trained at" in record.getMessage()]
    assert said == ["a patch of 32 um into 8 px is 4 um per px; trained:a was trained at 2 (16 um)"]
    caplog.clear()
    tl.predict(sections["S3"], model)
    assert "trained at" not in caplog.text, "a fact of the model"


def test_weights_of_two_scales_that_have_moved_are_named_once(sections, ridge, tmp_path):
    weights, moved = tmp_path / "weights.safetensors", tmp_path / "moved.safetensors"
    save_file(TimmEncoder("test_resnet@random", "cpu").network.state_dict(), weights)
    name = f"timm:test_resnet@{weights}"
    model = fitted(sections, ridge.override([f"features.encoders=[['{name}', 56], squidpy:summary, ['{name}', 112]]"]))
    model.save(tmp_path / "model")
    expected = tl.predict(sections["S3"], model).X
    weights.rename(moved)
    section, name = sections["S3"], f"timm:test_resnet@{moved}"

    def found(**options):
        return tl.predict(section, ng.load(tmp_path / "model", **options)).X

    with pytest.raises(ModelError, match="trust=True"):
        found()
    assert_allclose(found(encoder=f"{name},squidpy:summary"), expected, rtol=1e-5)
    for other in (name, f"squidpy:summary,{name}", f"{name},squidpy:histogram"):
        with pytest.raises(ModelError, match="is not the one that the model was trained with"):
            found(encoder=other)


def test_a_run_keeps_and_reports_blocks(ridge, tmp_path):
    encoders = "features.encoders=[[trained:a, auto], [squidpy:summary, 112]]"
    config = ridge.override([encoders, "evaluate.figures=false"])
    run = tl.train_run(config, tmp_path / "run")
    stored = tl._folder.stored_config(run.folder)
    assert stored.features.blocks == [("trained:a", 16.0), ("squidpy:summary", 112.0)]
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics["protocol"]["encoder"] == "trained:a at 16 um, squidpy:summary at 112 um"
    tl._folder.check_begun(config, run.folder, resume=True)
