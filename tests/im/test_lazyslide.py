from __future__ import annotations

import numpy as np
import pytest
import torch

from nh2st_graph import ConfigError, ModelError
from nh2st_graph.im import LazySlideEncoder, check_encoders, refuse_places

lazyslide_models = pytest.importorskip("lazyslide_models")

PATCHES = np.random.default_rng(0).integers(0, 255, (3, 160, 160, 3), dtype=np.uint8)


@pytest.fixture
def small(monkeypatch):
    """A tile encoder in LazySlide's registry whose weights need no download."""
    registry = lazyslide_models.MODEL_REGISTRY
    monkeypatch.setattr(registry, "_data", dict(registry._data))

    @lazyslide_models.register(key="small", task=lazyslide_models.ModelTask.vision)
    class Small(lazyslide_models.TimmModel):
        transform_kws = {"interpolation": "bilinear", "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.3, 0.2)}  # noqa: RUF012

        def __init__(self, model_path=None, token=None):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                super().__init__("test_vit", pretrained=False)

    return Small


def test_features_are_those_of_lazyslide_itself(small):
    encoder = LazySlideEncoder("small", "cpu")
    model = small()
    images = torch.stack([model.get_transform()(patch) for patch in PATCHES])
    np.testing.assert_allclose(encoder.encode(PATCHES), model.encode_image(images).numpy(), rtol=1e-4, atol=1e-5)
    assert (encoder.input_size, encoder.interpolation) == (160, "bilinear")
    assert encoder.normalisation == {"mean": [0.7, 0.5, 0.6], "std": [0.2, 0.3, 0.2]}
    assert encoder.n_features == 64


def test_fingerprints_tell_models_sizes_and_transforms_apart(small):
    plain = LazySlideEncoder("small", "cpu").fingerprint
    assert LazySlideEncoder("small", "cpu").fingerprint == plain
    assert LazySlideEncoder("small?size=128", "cpu").fingerprint != plain
    small.transform_kws = small.transform_kws | {"std": (0.3, 0.3, 0.3)}
    assert LazySlideEncoder("small", "cpu").fingerprint != plain


def test_names_that_encode_no_tiles():
    for name, message in [("unni", "no model 'unni'; did you mean 'uni'"), ("instanseg", "does not encode tiles")]:
        with pytest.raises(ConfigError, match=message):
            LazySlideEncoder(name, "cpu")


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("nh2st_graph.im._lazyslide.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"needs LazySlide.*nh2st-graph\[wsi\]"):
        check_encoders("lazyslide:uni")


def test_a_model_that_asks_the_hub_is_not_followed_on_the_word_of_a_file():
    with pytest.raises(ModelError, match=r", and the hub's repository of LazySlide's uni is not opened"):
        refuse_places("lazyslide:uni?size=224")
