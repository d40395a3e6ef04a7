from __future__ import annotations

import numpy as np
import pytest

from nh2st_graph import ConfigError, DataError
from nh2st_graph.im import Encoder, features, make_encoders, register_encoder
from nh2st_graph.im._encoders import needs_network, other_kinds, outside_places

from .small_recipes import FACTS


class Mean(Encoder):
    input_size = 8
    normalisation: dict = {}  # noqa: RUF012

    def __init__(self, rest: str, device: str) -> None:
        self.name = f"mean:{rest}"
        self.device = device
        self.fingerprint = {"encoder": "mean"}

    def encode(self, patches):
        return patches.mean(axis=(1, 2)).astype(np.float32)


@pytest.fixture
def registry(own_encoders):
    register_encoder("mean")(Mean)


@pytest.mark.usefixtures("registry")
def test_a_registered_encoder_is_made_by_name():
    (encoder,) = make_encoders("mean:rgb", "cpu")
    assert isinstance(encoder, Mean)
    assert (encoder.name, encoder.device) == ("mean:rgb", "cpu")
    assert encoder.n_features == 3
    assert encoder.feature_names == ["mean:rgb_0", "mean:rgb_1", "mean:rgb_2"]
    assert repr(encoder) == "Mean('mean:rgb', input_size=8)"


@pytest.mark.usefixtures("registry")
def test_joined_encoders_keep_their_order():
    names = [e.name for e in make_encoders("squidpy:summary+texture , mean:a,mean:b")]
    assert names == ["squidpy:summary+texture", "mean:a", "mean:b"]


@pytest.mark.usefixtures("registry")
def test_one_that_does_not_say_what_it_opens_may_open_what_its_name_says():
    assert outside_places("squidpy:summary,pixels:4,timm:resnet18,mean:file") == ["file"]


def test_what_names_lead_to(own_recipes, tmp_path):
    own_recipes("small", **FACTS)
    assert outside_places("small,small@weights.pth,small@random,uni2-h,phikon") == ["the file weights.pth"]
    for name in ("efficientnet-lite0", "efficientnet-lite2"):
        assert outside_places(name) == []
        assert not needs_network(name)
    assert needs_network("small")
    assert needs_network("phikon?size=112")
    assert not needs_network("small@weights.pth,small@random?size=96")
    assert needs_network("hf:org/name?pooling=cls")
    assert not needs_network(f"hf:{tmp_path}")
    known = {"encoder": "timm", "architecture": "test_vit"}
    assert other_kinds("small", [known]) == []
    assert other_kinds("small", [known | {"architecture": "resnet18"}]) == ["architecture: resnet18 -> test_vit"]
    assert other_kinds("phikon", [known]) == ["encoder: timm -> hf"]


@pytest.mark.usefixtures("registry")
def test_registering_again_warns():
    with pytest.warns(UserWarning, match="'mean' is registered again"):
        register_encoder("mean")(Mean)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("squidpi:summary", "unknown encoder 'squidpi:summary'; .*did you mean 'squidpy'"),
        ("resnet18", r"write PREFIX:NAME, such as 'timm:resnet18' \(prefixes: handcrafted, hf, lazyslide, pixels, "),
        ("uni2", "unknown encoder 'uni2'; nearest in the table of encoders: uni, uni2-h"),
        ("squidpy:summary?size=4", "takes no option 'size'; leave it out"),
        ("timm-map:resnet18?pooling=cls", "takes no option 'pooling'; known: mean, precision, size, std"),
        ("", "unknown encoder ''"),
        ("squidpy:summary,", "unknown encoder ''"),
        ("timm:", "'timm:' names no encoder; write timm:NAME"),
        ("squidpy:summary,squidpy:summary", "'squidpy:summary' occurs twice"),
    ],
)
def test_bad_names(names, message):
    with pytest.raises(ConfigError, match=message):
        make_encoders(names)


@pytest.mark.parametrize(
    ("names", "known", "other"),
    [
        ("squidpy:summary", [{"encoder": "squidpy"}], []),
        ("squidpy:summary, pixels:4", [{"encoder": "squidpy"}, {"encoder": "pixels"}], []),
        ("squidpy:summary,pixels:4", [{"encoder": "pixels"}, {"encoder": "squidpy"}], ["encoder: pixels", "squidpy"]),
        ("squidpy:summary,pixels:4", [{"encoder": "squidpy"}], ["1 encoders -> 2"]),
        ("timm:resnet18.tv_in1k@gone.pth", [{"encoder": "timm", "architecture": "resnet18"}], []),
        ("timm:resnet50", [{"encoder": "timm", "architecture": "resnet18"}], ["architecture: resnet18 -> resnet50"]),
        ("timm-map:resnet18", [{"encoder": "timm", "architecture": "resnet18"}], ["encoder: timm -> timm-map"]),
        ("timm:hf-hub:some/one", [{"encoder": "timm", "architecture": "resnet18"}], []),
        ("timm:tf_efficientnet_b0_ns", [{"encoder": "timm", "architecture": "tf_efficientnet_b0"}], []),
    ],
)
def test_names_may_contradict_fingerprints(names, known, other):
    said = ", ".join(other_kinds(names, known))
    assert bool(said) == bool(other)
    assert all(part in said for part in other)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_neither_used_nor_kept(make_section, own_cache, monkeypatch, value):
    def encode(self, patches):
        means = patches.mean(axis=(1, 2)).astype(np.float32)
        means[2, 1] = value
        return means

    monkeypatch.setattr(Mean, "encode", encode)
    with pytest.raises(DataError, match=rf"section 'S1'.* encoder mean:a .* {value}, feature 1 of spot 'S1-2'\)"):
        features(make_section(), "mean:a", patch_um=50)
    assert not list(own_cache.glob("*"))
