from __future__ import annotations

import hashlib
import json
from pathlib import Path
from unittest import mock

import huggingface_hub
import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from nh2st_graph import ConfigError
from nh2st_graph.im import TimmEncoder, make_encoders

from .small_recipes import FACTS, model

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


@pytest.mark.parametrize("n_patches", [0, 1, 15, 16, 17, 40])
def test_batches_of_any_size_give_a_row_for_each_patch_in_order(n_patches):
    encoder = TimmEncoder(f"{MODEL}@random", "cpu")
    patches = np.random.default_rng(1).integers(0, 255, (n_patches, 32, 32, 3), dtype=np.uint8)
    given = encoder.encode(patches)
    assert (given.shape, given.dtype) == ((n_patches, encoder.n_features), np.float32)
    with torch.inference_mode():
        for patch, row in zip(patches, given, strict=True):
            image = (torch.from_numpy(patch).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
            np.testing.assert_allclose(row, encoder.network(image)[0].numpy(), rtol=1e-4, atol=1e-5)


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


def test_what_timm_cannot_make_of_a_folder_is_said_of_the_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": MODEL, "no_such_key": 1}))
    with pytest.raises(ConfigError, match=r"its pretrained weights cannot be loaded \(.*no_such_key"):
        TimmEncoder(f"local-dir:{tmp_path}", "cpu")


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
    with pytest.raises(
        ConfigError, match=r"module.pth cannot be read \(it holds more than tensors: [\w., ]+ and \d+ more\);"
    ) as error:
        TimmEncoder(f"{MODEL}@{tmp_path}/module.pth", "cpu")
    assert "weights_only" not in str(error.value)


def test_weights_of_another_model_are_refused_before_it_is_made(tmp_path):
    """Which takes seconds and gigabytes if the model is large."""
    save_file(new_model(1).state_dict(), tmp_path / "small.safetensors")
    with (
        mock.patch("nh2st_graph.im._timm.create", side_effect=AssertionError("it is made")),
        pytest.raises(ConfigError, match="belongs to another model"),
    ):
        TimmEncoder(f"test_vit@{tmp_path}/small.safetensors", "cpu")


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


#: Hashes of fingerprints without the versions of libraries, which must stay: cached features depend on them.
GOLDEN = {
    "timm:test_resnet@random": "465af8310f0e30c77af1e7c15edf18b63df63053dd2218f05428433a0698ffd1",
    "timm-map:test_resnet@random": "463727a87b75617cf06911919a07aa99da870dc12968a3c98476e00ebfd20a36",
    "timm:resnet18@random": "e6e5361a8cdbde376dfd476151132e9ff849678bb443a92f1bba75f982f356ad",
    "timm-map:resnet18@random": "c27b4126f92ef55038658697cdb94689257c659c0fccffe648b4382cb5f67294",
    "timm:test_vit@random": "b0b6387eb8896b70957853bdd1e49886ae81d9b9a86dc32ed361fad8ac52e6f0",
    "squidpy:summary+texture+histogram": "40f31eae8544d728dad4fdf08b833a4f8f2832cd1f6e7436c327867fc8214eec",
    "squidpy:histogram": "3cac06a8f57c61f3d141c2dbb9a4627482361ed1aa44104f318f8afc37f0a180",
    "pixels:112": "2ea5fd0f924d29991cf62ee9b7ae096d37ed131751935eced7e9518fa66d05ee",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_fingerprints_stay_as_they_were(name):
    (encoder,) = make_encoders(name, "cpu")
    known = {key: value for key, value in encoder.fingerprint.items() if key != "versions"}
    assert hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest() == GOLDEN[name]


def test_asking_for_something_new_changes_the_fingerprint():
    plain = TimmEncoder("test_vit@random", "cpu").fingerprint
    for option in ("pooling=mean", "size=96", "mean=0.1/0.1/0.1", "std=0.1/0.1/0.1", "precision=bfloat16"):
        assert TimmEncoder(f"test_vit@random?{option}", "cpu").fingerprint != plain, option


@pytest.mark.parametrize(("pooling", "global_pool"), [("cls", "token"), ("mean", "avg")])
def test_pooled_tokens_equal_timms_own(pooling, global_pool, tmp_path, own_recipes):
    expected = model(global_pool=global_pool)
    save_file(expected.state_dict(), tmp_path / "vit.safetensors")
    own_recipes("small", **FACTS | {"arguments": {"global_pool": global_pool}, "pooling": pooling})
    (encoder,) = make_encoders(f"small@{tmp_path / 'vit.safetensors'}?mean=0/0/0&std=1/1/1", "cpu")
    with torch.inference_mode():
        wanted = expected(torch.from_numpy(PATCHES).permute(0, 3, 1, 2) / 255)
    np.testing.assert_allclose(encoder.encode(PATCHES), wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_the_size_of_a_checkpoint_is_told_by_its_positions(tmp_path):
    small = model(img_size=96)
    save_file(small.state_dict(), tmp_path / "vit.safetensors")
    encoder = TimmEncoder(f"test_vit@{tmp_path / 'vit.safetensors'}", "cpu")
    assert encoder.input_size == 96
    assert torch.equal(encoder.network.state_dict()["pos_embed"], small.state_dict()["pos_embed"])
    larger = TimmEncoder(f"test_vit@{tmp_path / 'vit.safetensors'}?size=128", "cpu")
    resampled = timm.layers.resample_abs_pos_embed(small.state_dict()["pos_embed"], (8, 8))
    torch.testing.assert_close(larger.network.state_dict()["pos_embed"], resampled)
    assert larger.encode(PATCHES[:, :128, :128]).shape == (5, 64)
    assert larger.fingerprint != encoder.fingerprint


def test_a_network_without_positions_takes_any_size(checkpoint):
    encoder = TimmEncoder(f"{MODEL}@{checkpoint}?size=96", "cpu")
    assert (encoder.input_size, encoder.encode(PATCHES[:, :96, :96]).shape) == (96, (5, 96))


def test_the_statistics_of_a_file_are_those_that_it_tells(tmp_path, caplog):
    state, told = (
        new_model(1).state_dict(),
        {"mean": [0.7, 0.5, 0.6], "std": [0.2, 0.3, 0.2], "input_size": [3, 96, 96]},
    )
    save_file(state, tmp_path / "a.safetensors", metadata={"pretrained_cfg": json.dumps(told)})
    torch.save({"state_dict": state, "pretrained_cfg": told}, tmp_path / "b.pth")
    (tmp_path / "beside").mkdir()
    save_file(state, tmp_path / "beside" / "c.safetensors")
    config = {"architecture": MODEL, "pretrained_cfg": told}
    (tmp_path / "beside" / "config.json").write_text(json.dumps(config))
    for file in ("a.safetensors", "b.pth", "beside/c.safetensors"):
        encoder = TimmEncoder(f"{MODEL}@{tmp_path / file}", "cpu")
        assert encoder.normalisation == {"mean": [0.7, 0.5, 0.6], "std": [0.2, 0.3, 0.2]}
        assert encoder.input_size == 96
    assert not caplog.records
    (tmp_path / "beside" / "config.json").write_text(json.dumps(config | {"architecture": "resnet50"}))
    encoder = TimmEncoder(f"{MODEL}@{tmp_path / 'beside/c.safetensors'}?std=0.3/0.3/0.3", "cpu")
    assert encoder.normalisation == {"mean": [0.5] * 3, "std": [0.3] * 3}
    (said,) = [record.getMessage() for record in caplog.records]
    assert "mean 0.5/0.5/0.5 and std 0.3/0.3/0.3" in said
    assert "?mean=" in said


def test_known_statistics_need_no_word(checkpoint, caplog):
    TimmEncoder(f"{MODEL}@{checkpoint}?mean=0.1/0.1/0.1&std=0.2/0.2/0.2", "cpu")
    TimmEncoder(f"{MODEL}.r160_in1k@{checkpoint}", "cpu")
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_resnet@{}?pooling=mean", "pooling=mean, and test_resnet gives no tokens"),
        ("test_vit@{}?size=100", "takes no images of 100 px .*give another size"),
        ("naflexvit_base_patch16_gap@{}?pooling=cls", "no class token; give pooling=mean"),
    ],
)
def test_outputs_are_refused_before_weights_are_read(name, message, tmp_path):
    (tmp_path / "empty.pth").write_bytes(b"")  # reading it would be another error
    with pytest.raises(ConfigError, match=message) as error:
        TimmEncoder(name.format(tmp_path / "empty.pth"), "cpu")
    assert "\n" not in str(error.value)


def test_tokens_without_a_pooling_name_the_option(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "architecture": "test_vit",
                "num_classes": 0,
                "model_args": {"global_pool": ""},
                "pretrained_cfg": {"input_size": [3, 160, 160]},
            }
        )
    )
    save_file(model().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"gives \(101, 64\) for a patch.*\?pooling=cls"):
        TimmEncoder(f"local-dir:{tmp_path}", "cpu")
    encoder = TimmEncoder(f"local-dir:{tmp_path}?pooling=cls+mean", "cpu")
    assert encoder.n_features == 128


def test_weights_of_another_architecture_are_no_matter_of_the_network(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "test_vit", "num_classes": 0, "pretrained_cfg": {"num_classes": 0}})
    )
    save_file(model(init_values=1e-5).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(
        ConfigError, match=r"belongs to another model.*ls1\.gamma.*name an encoder of the table"
    ) as error:
        TimmEncoder(f"local-dir:{tmp_path}", "cpu")
    assert "network" not in str(error.value)


def test_weights_that_are_missing_are_not_left_random(tmp_path):
    """Which timm would do here without a word, since the classifier is dropped."""
    config = {"architecture": "test_vit", "num_classes": 10, "pretrained_cfg": {"num_classes": 10}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = model(num_classes=10).state_dict()
    save_file({key: value for key, value in state.items() if key != "norm.weight"}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"lacks 'norm.weight'"):
        TimmEncoder(f"local-dir:{tmp_path}", "cpu")
    save_file(state, tmp_path / "model.safetensors")
    assert TimmEncoder(f"local-dir:{tmp_path}", "cpu").n_features == 64
