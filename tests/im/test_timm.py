from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from nh2st_graph import ConfigError
from nh2st_graph.im import TimmEncoder

MODEL = "test_resnet"
PATCHES = np.random.default_rng(0).integers(0, 255, (5, 160, 160, 3), dtype=np.uint8)


def new_model(seed: int, num_classes: int = 10) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(MODEL, num_classes=num_classes).eval()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Weights as timm saves them, the classifier included."""
    path = tmp_path / "weights.safetensors"
    save_file(new_model(1).state_dict(), path)
    return path


def test_equals_timms_own_preprocessing_and_pooled_features(checkpoint):
    model = new_model(1)
    config = timm.data.resolve_model_data_config(model) | {"crop_pct": 1.0}
    transform = timm.data.create_transform(**config, is_training=False)
    batch = torch.stack([transform(Image.fromarray(p)) for p in PATCHES])
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(batch), pre_logits=True).numpy()
    encoder = TimmEncoder(f"{MODEL}@{checkpoint}", "cpu")
    np.testing.assert_allclose(encoder.encode(PATCHES), expected, rtol=1e-4, atol=1e-5)


def test_preprocessing_follows_timms_configuration():
    encoder = TimmEncoder(f"{MODEL}@random", "cpu")
    assert (encoder.input_size, encoder.interpolation) == (160, "bilinear")
    assert encoder.normalisation == {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert TimmEncoder("test_vit@random", "cpu").interpolation == "bicubic"
    assert encoder.n_features == 96


def test_a_row_depends_on_its_own_patch_alone():
    encoder = TimmEncoder(f"{MODEL}@random", "cpu")
    together = encoder.encode(PATCHES)
    alone = np.concatenate([encoder.encode(PATCHES[i : i + 1]) for i in range(len(PATCHES))])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert together.dtype == np.float32
    assert np.ptp(together, axis=0).max() > 0


def test_random_weights_are_the_same_each_time_and_leave_the_random_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = TimmEncoder(f"{MODEL}@random", "cpu")
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(one.encode(PATCHES), TimmEncoder(f"{MODEL}@random", "cpu").encode(PATCHES))


def test_the_fingerprint_is_of_the_weights_and_not_of_their_path(checkpoint, tmp_path):
    first = TimmEncoder(f"{MODEL}@{checkpoint}", "cpu").fingerprint
    copy = tmp_path / "copy.pth"
    torch.save(new_model(1).state_dict(), copy)
    assert TimmEncoder(f"{MODEL}@{copy}", "cpu").fingerprint == first
    save_file(new_model(2).state_dict(), checkpoint)
    assert TimmEncoder(f"{MODEL}@{checkpoint}", "cpu").fingerprint != first
    json.dumps(first)


def test_a_folder_as_on_the_hub(tmp_path):
    save_file(new_model(3).state_dict(), tmp_path / "model.safetensors")
    config = {"input_size": [3, 96, 96], "mean": [0.1] * 3, "std": [0.2] * 3, "interpolation": "bicubic"}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": MODEL, "num_classes": 10, "pretrained_cfg": config | {"classifier": "fc"}})
    )
    encoder = TimmEncoder(f"local-dir:{tmp_path}", "cpu")
    assert (encoder.input_size, encoder.interpolation) == (96, "bicubic")
    assert encoder.normalisation == {"mean": [0.1] * 3, "std": [0.2] * 3}
    weights = encoder.network.state_dict()["conv1.0.weight"]
    assert torch.equal(weights, new_model(3).state_dict()["conv1.0.weight"])


@pytest.mark.parametrize("name", [MODEL, "hf-hub:organisation/model"])
def test_weights_without_a_network(name, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=f"encoder='timm:{name}': .*@WEIGHTS") as error:
        TimmEncoder(name, "cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnett18", "timm has no model 'resnett18'; nearest: .*resnet18"),
        ("resnet18.a1", "no pretrained weights for 'resnet18.a1'; did you mean .*'resnet18.a1_in1k'"),
        ("resnet18.nope@random", "no pretrained weights for 'resnet18.nope'"),
        ("coatnet_0_224", "no pretrained weights for 'coatnet_0_224'; give a local file"),
        (f"{MODEL}@nowhere.safetensors", "checkpoint nowhere.safetensors does not exist"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ConfigError, match=message):
        TimmEncoder(name, "cpu")


def test_checkpoints_that_do_not_fit(checkpoint, tmp_path):
    state = new_model(1).state_dict()
    lacking = {k: v for k, v in state.items() if k != "conv1.0.weight"}
    save_file(lacking, tmp_path / "lacking.safetensors")
    save_file(state | {"extra.weight": torch.zeros(2)}, tmp_path / "besides.safetensors")
    save_file(state | {"conv1.0.weight": torch.zeros(2)}, tmp_path / "shape.safetensors")
    for name, message in [
        ("lacking", "another model.* lacks 'conv1.0.weight'"),
        ("besides", "another model.* has 'extra.weight'"),
        ("shape", "another model.*size mismatch"),
    ]:
        with pytest.raises(ConfigError, match=message) as error:
            TimmEncoder(f"{MODEL}@{tmp_path / name}.safetensors", "cpu")
        assert "\n" not in str(error.value)


def test_unreadable_checkpoints_and_no_code_from_them(checkpoint, tmp_path):
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    torch.save(new_model(1), tmp_path / "module.pth")  # a pickled object: loading it would run code
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for path in [checkpoint, *(tmp_path / f"{name}.pth" for name in ("module", "tensor", "text"))]:
        with pytest.raises(ConfigError, match="cannot be read") as error:
            TimmEncoder(f"{MODEL}@{path}", "cpu")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_devices_that_are_not_there(device):
    with pytest.raises(ConfigError, match=f"device='{device}'"):
        TimmEncoder(f"{MODEL}@random", device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_mixed_precision_on_cuda_stays_close():
    cpu, cuda = (TimmEncoder(f"{MODEL}@random", device) for device in ("cpu", "cuda"))
    a, b = cpu.encode(PATCHES), cuda.encode(PATCHES)
    assert b.dtype == np.float32
    assert np.abs(a - b).max() < 0.05 * np.abs(a).max()
    assert cpu.fingerprint != cuda.fingerprint
