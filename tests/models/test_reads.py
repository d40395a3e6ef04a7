from __future__ import annotations

import pytest

from nh2st_graph import ConfigError
from nh2st_graph.config import FORMATS
from nh2st_graph.models import find_method, known_methods
from nh2st_graph.models._reads import METHODS, check_encoder, setting_names
from nh2st_graph.read import known_formats


def test_names_that_are_known_without_torch_are_those_of_the_registries():
    assert set(METHODS) <= set(known_methods())
    own = {name for name in known_methods() if name in METHODS or ":" not in name}
    assert set(METHODS) == {name for name in own if not name.startswith("test")}
    assert set(FORMATS) - {"synthetic"} <= set(known_formats())


@pytest.mark.parametrize("name", METHODS)
def test_settings_that_are_known_without_torch_are_those_of_the_classes(name):
    settings = find_method(name).Settings
    assert setting_names(name) == {*settings.model_fields, *settings.renamed}


@pytest.mark.parametrize(
    ("name", "encoder", "more"),
    [
        ("histogene", "pixels:112", {}),
        ("histogene", "timm:resnet18", {"model.input": "features"}),
        ("hist2st", "pixels:112", {}),
        ("egn", "pixels:256,timm:resnet50", {}),
        ("egn", "timm-map:resnet18", {"model.input": "features"}),
        ("triplex", "timm-map:resnet18", {}),
        ("triplex", "timm:resnet18", {"model.target_tokens": 1}),
        ("bleep", "squidpy:summary", {}),
        ("nh2st_graph", "pixels:8", {}),
    ],
)
def test_what_fits(name, encoder, more):
    check_encoder({"model.name": name, "features.encoder": encoder, **more})


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("histogene", ["pixels:112"]),
        ("egn", [["pixels:256", 77], {"encoder": "timm:resnet50"}]),
        ("triplex", [{"encoder": "timm-map:resnet18", "patch_um": "auto"}]),
    ],
)
def test_blocks_take_the_place_of_the_encoder(name, blocks):
    keys = {"model.name": name, "features.encoder": "squidpy:summary"}
    check_encoder({**keys, "features.encoders": blocks})
    with pytest.raises(ConfigError, match=name):
        check_encoder({**keys, "features.encoders": ["squidpy:texture"]})
    with pytest.raises(ConfigError, match=name):
        check_encoder({**keys, "features.encoders": None})


@pytest.mark.parametrize(
    ("name", "encoder", "more", "cure"),
    [
        ("histogene", None, {}, "pixels:112"),
        ("hist2st", "timm:resnet18", {}, "pixels:112"),
        ("hggep", "squidpy:summary", {}, "pixels:112"),
        ("egn", "timm:resnet18", {}, "pixels:256,timm:resnet50"),
        ("egn", "timm:resnet18", {"model.input": "features"}, "timm-map:resnet18"),
        ("triplex", "squidpy:summary", {}, "timm-map:resnet18"),
    ],
)
def test_what_does_not_fit_names_an_encoder_that_does(name, encoder, more, cure):
    keys = {"model.name": name, **({} if encoder is None else {"features.encoder": encoder}), **more}
    with pytest.raises(ConfigError) as error:
        check_encoder(keys)
    assert name in str(error.value)
    assert cure in str(error.value)
