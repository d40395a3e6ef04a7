"""Blocks of features: how they are written, and what they mean."""

from __future__ import annotations

import pytest

from nh2st_graph import ConfigError
from nh2st_graph.config import Config, FeaturesConfig, parse_yaml


def blocks(text: str, **others) -> FeaturesConfig:
    return Config().change({"features.encoders": parse_yaml(text), **others}).features


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[uni2-h]", [("uni2-h", 224.0)]),
        (
            "[[uni2-h, 112], [uni2-h, auto], squidpy:summary]",
            [("uni2-h", 112.0), ("uni2-h", "auto"), ("squidpy:summary", 224.0)],
        ),
        ("[{encoder: uni2-h, patch_um: 56}, {encoder: uni2-h}]", [("uni2-h", 56.0), ("uni2-h", 224.0)]),
        ("[{encoder: h, pooling: cls+mean, size: 448}]", [("h?pooling=cls+mean&size=448", 224.0)]),
        (
            "[{encoder: h, mean: [0.7, 0.5, 0.6], precision: float32}]",
            [("h?mean=0.7/0.5/0.6&precision=float32", 224.0)],
        ),
        ("[{encoder: 'h?size=448', remote_code: true}]", [("h?size=448&remote_code=true", 224.0)]),
    ],
)
def test_forms_of_blocks(text, expected):
    features = blocks(text)
    assert features.blocks == expected
    assert features.encoder == ",".join(name for name, _ in expected)
    again = Config.parse(parse_yaml(Config(features=features).to_yaml())).features
    assert again == features


def test_without_blocks_encoder_and_patch_are_those_of_before():
    features = FeaturesConfig(encoder="a, b", patch_um=112)
    assert features.blocks == [("a", 112.0), ("b", 112.0)]
    assert features.names == features.described == features.encoder == "a, b"
    assert FeaturesConfig(encoder="a", patch_um="auto").blocks == [("a", "auto")]
    assert FeaturesConfig(encoder="a").patch_um == 224


def test_an_encoder_of_several_scales_has_one_name():
    features = blocks("[[a, 56], [b, 56], [a, 112]]", **{"features.views": 8})
    assert features.names == "a,b"
    assert features.smallest_patch_um == 56
    assert features.described == "a at 56 um, b at 56 um, a at 112 um, 8 views"


def test_the_later_of_encoder_and_blocks_counts():
    config = Config().override(["features.encoder=a", "features.encoders=[[b, 56]]"])
    assert config.features.blocks == [("b", 56.0)]
    assert config.override(["features.encoder=c"]).features.blocks == [("c", 224.0)]
    assert config.override(["features.encoders=null", "features.patch_um=9"]).features.blocks == [("b", 9.0)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["features.encoder=a"], [("a", 224.0)]),
        (["features.encoder='a,b'", "features.patch_um=auto"], [("a", 3.0), ("b", 3.0)]),
        (["features.encoder='a,b'", "features.patch_um=auto"], [("a", 3.0), ("b", 4.0)]),
        (["features.encoders=[[a, auto], [b, 7], c]"], [("a", 3.0), ("b", 7.0), ("c", 224.0)]),
        ([], [("a", 112.0)]),
        (["features.patch_um=auto"], [("a", 112.0), ("a", 224.0)]),
    ],
)
def test_blocks_take_the_place_of_auto(changes, expected):
    config = Config().override(changes)
    found = config.with_blocks(expected)
    assert found.features.blocks == expected
    assert found.features.patch_um != "auto"
    assert found.with_blocks(expected) is found
    assert Config.parse(parse_yaml(found.to_yaml())) == found


class TestAuto:
    def test_is_the_default_with_scales_of_its_own(self):
        assert FeaturesConfig() == FeaturesConfig(encoder="auto", patch_um=None)
        assert FeaturesConfig().blocks == FeaturesConfig(patch_um="auto").blocks == [("auto", "auto")]
        assert FeaturesConfig(patch_um=56).blocks == [("auto", 56.0)]

    def test_stands_beside_other_encoders(self):
        expected = [("auto", "auto"), ("a", 224.0)]
        assert FeaturesConfig(encoder="auto,a").blocks == blocks("[auto, a]").blocks == expected

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            (["features.encoder=a"], ("a", 224.0)),
            (["features.encoder=a", "features.encoder=auto"], ("auto", "auto")),
            (["features.encoder=a", "features.patch_um=56"], ("a", 56.0)),
            (["features.patch_um=56", "features.encoder=auto"], ("auto", 56.0)),
        ],
    )
    def test_is_left_and_taken_by_a_change(self, changes, expected):
        assert Config().override(changes).features.blocks == [expected]

    def test_a_change_to_it_forgets_the_size_of_the_encoder_before(self):
        config = Config().override(["features.encoder=a", "features.patch_um=56"])
        assert config.override(["features.encoder=auto"]).features == FeaturesConfig()

    @pytest.mark.parametrize("encoder", ["auto", "squidpy:summary+texture+histogram"])
    def test_a_default_says_nothing_of_embeddings(self, encoder):
        """The second was the default of earlier versions, whose models have it written down."""
        for size in (None, 224.0):
            assert FeaturesConfig(encoder=encoder, patch_um=size, embeddings="obsm:a").stated == (None, None)
        assert FeaturesConfig(encoder="uni2-h", patch_um=112, embeddings="obsm:a").stated == ("uni2-h", 112.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("features.encoders=[]", r"features.encoders = \[\]; give at least 1"),
        ("features.encoders=[[a]]", r"\['a'\] is not a name and a size"),
        ("features.encoders=[{encodr: a}]", "unknown key 'encodr'; did you mean 'encoder'"),
        ("features.encoders=[{patch_um: 3}]", "features.encoders.0.encoder is missing"),
        ("features.encoders=[[a, -1]]", "patch_um = -1; give a size in um above 0, or auto"),
        ("features.encoders=[[a, 5], [a, 5.0]]", "names a at 5 um twice"),
        ("features.encoders=['a,b']", "'a,b' joins encoders"),
        ("features.patch_um=own", "patch_um = 'own'; give a size in um above 0, or auto"),
        ("features.patch_um=.inf", "patch_um = inf; give a size"),
        ("features.views=3", "features.views = 3; allowed: 1, 4 or 8"),
    ],
)
def test_bad_values(change, says):
    with pytest.raises(ConfigError, match=says):
        Config().override([change])


@pytest.mark.parametrize("encoder", ["pixels:4", "squidpy:summary,timm-map:resnet18"])
def test_places_of_a_patch_have_no_views(encoder):
    with pytest.raises(
        ConfigError, match=r"features\.views = 4: features of (pixels|timm-map):.*set features\.views to 1"
    ):
        Config().override([f"features.encoder='{encoder}'", "features.views=4"])


@pytest.mark.parametrize("change", ["features.views=4", "features.encoders=[[timm:a, 5], [timm:a, 6]]"])
def test_one_encoder_on_one_patch_is_fine_tuned(change):
    base = Config().override(["features.encoder=timm:a", "features.finetune=true"])
    assert base.override(["features.encoders=[[timm:a, 5]]"]).features.finetune
    with pytest.raises(ConfigError, match=r"features\.finetune = true trains one encoder on one patch"):
        base.override([change])


@pytest.mark.parametrize(
    "beside", [{"stain": "macenko"}, {"finetune": True, "encoder": "timm:resnet18"}, {"stain_jitter": 0}]
)
def test_views_in_other_stains_are_refused_beside_what_they_do_not_go_with(beside):
    assert Config.parse({"features": {"stain_views": 3}}).features.stain_jitter == 0.1
    with pytest.raises(ConfigError, match=rf"features\.{next(iter(beside))}"):
        Config.parse({"features": {"stain_views": 3, **beside}})
