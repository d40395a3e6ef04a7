from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from nh2st_graph import ConfigError, ModelError
from nh2st_graph.im import TransformersEncoder, check_encoders, make_encoders, refuse_places

from .small_recipes import FACTS

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "patch_size": 8,
    "image_size": 32,
}
MEAN, STD = [0.7, 0.5, 0.6], [0.2, 0.25, 0.2]
PATCHES = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)


def vit():
    return transformers.ViTModel(transformers.ViTConfig(**SMALL), add_pooling_layer=False)


def dinov2():
    return transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, use_swiglu_ffn=True))


def registers():
    return transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**SMALL, num_register_tokens=4))


def clip():
    words = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    words |= {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "projection_dim": 8}
    config = transformers.CLIPConfig(vision_config=SMALL | {"projection_dim": 8}, text_config=words, projection_dim=8)
    return transformers.CLIPModel(config)


@pytest.fixture
def save(tmp_path):
    """Write a small model with weights of a seed, as its authors would."""

    def write(make, name: str = "model", processor: bool = True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = make().eval()
        model.save_pretrained(tmp_path / name)
        if processor:
            size = {"height": 32, "width": 32}
            images = transformers.ViTImageProcessor(size=size, image_mean=MEAN, image_std=STD, resample=3)
            images.save_pretrained(tmp_path / name)
        return model, tmp_path / name

    return write


def normalised(patches: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((patches / 255 - np.array(MEAN)) / np.array(STD)).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize(("make", "prefix"), [(vit, 1), (dinov2, 1), (registers, 5)])
def test_pooled_tokens_equal_those_of_the_library(make, prefix, save):
    model, folder = save(make)
    with torch.inference_mode():
        tokens = model(pixel_values=normalised(PATCHES)).last_hidden_state
    parts = {"cls": tokens[:, 0], "mean": tokens[:, prefix:].mean(dim=1)}
    for pooling in ("cls", "cls+mean"):
        encoder = TransformersEncoder(f"{folder}?pooling={pooling}", "cpu")
        wanted = torch.cat([parts[part] for part in pooling.split("+")], dim=1)
        np.testing.assert_allclose(encoder.encode(PATCHES), wanted.numpy(), rtol=1e-4, atol=1e-5)
    assert (encoder.input_size, encoder.interpolation) == (32, "bicubic")
    assert encoder.normalisation == {"mean": MEAN, "std": STD}
    assert encoder.um_per_px is None


def test_images_of_a_model_of_images_and_texts(save):
    model, folder = save(clip)
    encoder = TransformersEncoder(str(folder), "cpu")
    with torch.inference_mode():
        seen = model.vision_model(pixel_values=normalised(PATCHES))
        wanted = model.visual_projection(seen.pooler_output)
    np.testing.assert_allclose(encoder.encode(PATCHES), wanted.numpy(), rtol=1e-4, atol=1e-5)
    tokens = TransformersEncoder(f"{folder}?pooling=cls", "cpu")
    np.testing.assert_allclose(tokens.encode(PATCHES), seen.last_hidden_state[:, 0].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [vit, dinov2, clip])
def test_another_size_resamples_positions(make, save):
    _, folder = save(make)
    own = TransformersEncoder(f"{folder}?pooling=cls", "cpu")
    larger = TransformersEncoder(f"{folder}?pooling=cls&size=48", "cpu")
    assert larger.encode(np.tile(PATCHES, (1, 2, 2, 1))[:, :48, :48]).shape == (3, 16)
    assert larger.fingerprint["weights"] == own.fingerprint["weights"]
    assert larger.fingerprint != own.fingerprint


def test_fingerprints_repeat_though_a_head_is_missing(save):
    _, folder = save(vit)  # AutoModel adds a pooler, whose weights nobody has trained
    first, second = (TransformersEncoder(f"{folder}?pooling=cls", "cpu") for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.fingerprint != TransformersEncoder(f"{folder}?pooling=mean", "cpu").fingerprint
    with pytest.raises(ConfigError, match=r"lack pooler\.dense"):
        TransformersEncoder(f"{folder}?pooling=model", "cpu")
    json.dumps(first.fingerprint)


def test_a_recipe_is_loaded_from_a_file(save, own_recipes):
    model, folder = save(clip)
    vision = "CLIPVisionModelWithProjection"
    facts = {"source": "transformers", "architecture": vision, "arguments": SMALL | {"projection_dim": 8}}
    own_recipes("small", **FACTS | facts | {"pooling": "model", "input_size": 32, "embedding_size": 8})
    (encoder,) = make_encoders(f"small@{folder / 'model.safetensors'}", "cpu")
    with torch.inference_mode():
        wanted = model.visual_projection(model.vision_model(pixel_values=normalised(PATCHES)).pooler_output)
    np.testing.assert_allclose(encoder.encode(PATCHES), wanted.numpy(), rtol=1e-4, atol=1e-5)
    assert (encoder.name, encoder.um_per_px) == (f"small@{folder / 'model.safetensors'}", 0.5)
    first, second = (make_encoders("small@random", "cpu")[0] for _ in range(2))
    assert encoder.fingerprint != first.fingerprint == second.fingerprint
    state = load_file(folder / "model.safetensors")
    save_file(
        {key: value for key, value in state.items() if "visual_projection" not in key}, folder / "less.safetensors"
    )
    with pytest.raises(ConfigError, match=r"belong to another model \(they lack visual_projection.weight\)"):
        make_encoders(f"small@{folder / 'less.safetensors'}", "cpu")


def test_tokens_without_a_pooling_are_refused_before_weights_are_read(save):
    _, folder = save(dinov2)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"gives 17 tokens for a patch.*\?pooling=cls"):
        TransformersEncoder(str(folder), "cpu")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        TransformersEncoder(f"{folder}?pooling=cls", "cpu")


def test_statistics_that_nobody_knows(save):
    _, folder = save(vit, processor=False)
    with pytest.raises(ConfigError, match=r"nothing says which images.*size=224&mean="):
        TransformersEncoder(f"{folder}?pooling=cls", "cpu")
    encoder = TransformersEncoder(f"{folder}?pooling=cls&size=32&mean=0.5/0.5/0.5&std=0.5/0.5/0.5", "cpu")
    assert encoder.n_features == 16


def test_weights_of_another_size(save):
    _, folder = save(vit)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 24}))
    with pytest.raises(ConfigError, match="belong to another model") as error:
        TransformersEncoder(f"{folder}?pooling=cls", "cpu")
    assert "\n" not in str(error.value)


def test_a_pickle_with_more_than_tensors(save):
    _, folder = save(vit)
    (folder / "model.safetensors").unlink()
    torch.save({"weights": Path("x")}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="it holds more than tensors") as error:
        TransformersEncoder(f"{folder}?pooling=cls", "cpu")
    assert "weights_only" not in str(error.value)


def test_code_of_a_repository_does_not_run_unasked(save, tmp_path):
    _, folder = save(vit)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ConfigError, match=r"is code of .*, which is not run; .*\?remote_code=true"):
        TransformersEncoder(f"{folder}?pooling=cls", "cpu")
    assert not (tmp_path / "ran").exists()


def test_what_a_name_leads_to(tmp_path):
    for name, place in (
        (f"hf:{tmp_path}?pooling=cls", f"the folder {tmp_path}"),
        ("hf:org/name", "the hub's repository org/name"),
    ):
        with pytest.raises(ModelError, match=f", and {place} is not opened"):
            refuse_places(name)
    check_encoders("hf:org/name@v1?pooling=cls")
    with pytest.raises(ConfigError, match="neither a folder nor a repository"):
        check_encoders("hf:phikon")
