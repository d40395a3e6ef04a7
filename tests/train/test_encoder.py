"""The patch encoder of a configuration, and the patches that it is to read."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from nh2st_graph import ConfigError, im
from nh2st_graph.config import FeaturesConfig
from nh2st_graph.datasets import synthetic_tissue
from nh2st_graph.im import TimmEncoder, TimmMapEncoder
from nh2st_graph.train import patch_encoder, section_patches

MODEL = "test_resnet"
PATCHES = np.random.default_rng(0).integers(0, 255, (4, 160, 160, 3), dtype=np.uint8)


def features(encoder=f"timm:{MODEL}@random", **settings):
    return FeaturesConfig(**{"encoder": encoder, "finetune": True} | settings)


def test_there_is_none_where_the_encoder_is_not_trained():
    assert patch_encoder(features(finetune=False), trained=True) is None
    assert patch_encoder(FeaturesConfig(), trained=True) is None


@torch.no_grad()
@pytest.mark.parametrize(("prefix", "plain"), [("timm", TimmEncoder), ("timm-map", TimmMapEncoder)])
def test_it_starts_with_the_weights_and_the_pixel_scale_of_the_plain_encoder(prefix, plain):
    encoder = patch_encoder(features(f"{prefix}:{MODEL}@random"), trained=True).eval()
    expected = plain(f"{MODEL}@random", "cpu").encode(PATCHES)
    assert encoder.feature_mean.shape == (expected.shape[1],)
    torch.testing.assert_close(encoder(torch.from_numpy(PATCHES)), torch.from_numpy(expected))
    assert all(weight.requires_grad for weight in encoder.parameters())


@torch.no_grad()
def test_a_map_is_timms_last_feature_map_flattened():
    encoder = patch_encoder(features(f"timm-map:{MODEL}@random"), trained=True).eval()
    images = (torch.from_numpy(PATCHES).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    feature_map = TimmEncoder(f"{MODEL}@random", "cpu").network.forward_features(images)
    assert feature_map.shape == (4, 96, 5, 5)
    torch.testing.assert_close(encoder(torch.from_numpy(PATCHES)), feature_map.flatten(start_dim=1))
    pooled = patch_encoder(features(), trained=True).eval()(torch.from_numpy(PATCHES))
    torch.testing.assert_close(encoder(torch.from_numpy(PATCHES)).unflatten(1, (96, 25)).mean(dim=2), pooled)


@pytest.mark.parametrize(("standardize", "scales"), [("section", True), ("train", True), ("none", False)])
def test_features_are_scaled_unless_they_are_to_be_read_as_they_come(standardize, scales):
    encoder = patch_encoder(features(standardize=standardize), trained=True)
    encoder.set_scale(torch.randn(9, 96) + 5)
    assert bool((encoder.feature_mean != 0).all()) is scales
    assert bool((encoder.feature_std != 1).all()) is scales


def test_the_weights_to_be_loaded_into_are_not_looked_for(tmp_path):
    """A file of weights, or the network, may be gone where a fine-tuned model is used."""
    path = tmp_path / "weights.safetensors"
    torch.manual_seed(1)
    save_file(timm.create_model(MODEL, num_classes=0).state_dict(), path)
    name = f"timm:{MODEL}@{path}"
    trained = patch_encoder(features(name), trained=True)
    path.unlink()
    with pytest.raises(ConfigError, match="does not exist"):
        patch_encoder(features(name), trained=True)
    empty = patch_encoder(features(name), trained=False)
    assert not torch.equal(empty.model.conv1[0].weight, trained.model.conv1[0].weight)
    empty.load_state_dict(trained.state_dict())
    assert torch.equal(empty.eval()(torch.from_numpy(PATCHES)), trained.eval()(torch.from_numpy(PATCHES)))
    assert patch_encoder(features("timm:resnet18"), trained=False).feature_mean.shape == (512,)


def test_a_model_that_is_named_by_its_folder_is_made_from_it_again(tmp_path):
    """As on the hub: its architecture is known from nowhere else."""
    save_file(timm.create_model(MODEL).state_dict(), tmp_path / "model.safetensors")
    pretrained = {"input_size": [3, 96, 96], "mean": [0.1] * 3, "std": [0.2] * 3, "classifier": "fc"}
    about = {"architecture": MODEL, "num_classes": 1000, "pretrained_cfg": pretrained}
    (tmp_path / "config.json").write_text(json.dumps(about))
    name = f"timm:local-dir:{tmp_path}"
    trained, empty = (patch_encoder(features(name), trained=trained) for trained in (True, False))
    empty.load_state_dict(trained.state_dict())
    patches = torch.from_numpy(PATCHES[:, :96, :96])
    assert torch.equal(empty.eval()(patches), trained.eval()(patches))


def test_patches_are_those_that_features_were_computed_from(tmp_path):
    sections = synthetic_tissue(n_sections=1, folder=tmp_path, n_rows=6, n_cols=6)
    section = sections["S1"][:5].copy()
    config = features(patch_um=100.0)
    im.features(section, config.encoder, config.patch_um, device="cpu", cache=False)
    patches = section_patches(section, config)
    assert patches.dtype == np.uint8
    np.testing.assert_array_equal(patches, list(im.patches(section, 100.0, 160, interpolation="bilinear")))
    encoder = patch_encoder(config, trained=True).eval()
    with torch.no_grad():
        found = encoder(torch.from_numpy(patches)).numpy()
    np.testing.assert_allclose(found, section.obsm["X_image"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_one_that_waits_for_weights_is_built_like_that_of_training(tmp_path):
    """Options of the name stay, and the size that a file of weights told."""
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model("test_vit", num_classes=0, img_size=96)
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    given = features(f"timm:test_vit@{tmp_path / 'vit.safetensors'}?pooling=cls+mean")
    trained = patch_encoder(given, trained=True)
    (tmp_path / "vit.safetensors").unlink()
    waiting = patch_encoder(given, trained=False, size=96)
    waiting.load_state_dict(trained.state_dict())
    patches = torch.from_numpy(PATCHES[:, :96, :96].copy())
    torch.testing.assert_close(waiting.eval()(patches), trained.eval()(patches))
    assert waiting.eval()(patches).shape == (4, 128)
