from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import nh2st_graph as ng
from nh2st_graph import ConfigError
from nh2st_graph.im import Encoder, SquidpyEncoder, recipes, register_encoder
from nh2st_graph.im._blocks import Block, make_blocks, off_scale, sizes_in_um
from nh2st_graph.section import Key, check_section

SUMMARY, TIMM = "squidpy:summary", "timm:test_resnet@random"


class Trained(Encoder):
    """An encoder that was trained at 0.5 um per px."""

    input_size, um_per_px = 32, 0.5
    normalisation: dict = {}  # noqa: RUF012

    def __init__(self, rest: str, device: str = "cpu") -> None:
        self.name, self.fingerprint = f"trained:{rest}", {"encoder": "trained", "rest": rest}

    def encode(self, patches):
        return patches.mean(axis=(1, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def _registered(own_encoders):
    register_encoder("trained")(Trained)


def features(adata, encoder, *args, **options):
    ng.im.features(adata, encoder, *args, progress=False, device="cpu", **options)
    return adata.obsm[Key.obsm.image].copy(), adata.uns[Key.uns.image]


def test_blocks_are_side_by_side_each_with_its_patch(make_section, tmp_path):
    adata = make_section()
    found, about = features(adata, [(SUMMARY, 56), (TIMM, 100), SUMMARY])
    parts = [features(adata, name, size)[0] for name, size in ((SUMMARY, 56), (TIMM, 100), (SUMMARY, 224))]
    np.testing.assert_array_equal(found, np.hstack(parts))
    features(adata, [(SUMMARY, 56), (TIMM, 100), SUMMARY])
    check_section(adata, need=("features",))
    adata.write_h5ad(tmp_path / "section.h5ad")
    for entry in (about, ad.read_h5ad(tmp_path / "section.h5ad").uns[Key.uns.image]):
        assert list(entry["patch_um"]) == [56.0, 100.0, 224.0]
        assert list(entry["encoders"]) == [SUMMARY, TIMM, SUMMARY]
        assert list(entry["n_features"]) == [15, 96, 15]
        assert len(set(entry["cache_key"])) == 3
        names = list(entry["feature_names"])
        assert len(set(names)) == len(names) == 126
        assert (names[0], names[-1]) == ("summary_ch-0_quantile-0.9 (56um)", "summary_ch-2_std (224um)")
        assert names[15] == "timm:test_resnet_0"


def test_one_scale_is_one_number(make_section):
    adata = make_section()
    both, about = features(adata, [(SUMMARY, 80), (TIMM, 80)])
    same, plain = features(adata, f"{SUMMARY},{TIMM}", 80)
    np.testing.assert_array_equal(both, same)
    assert about["patch_um"] == plain["patch_um"] == 80.0
    assert list(about["cache_key"]) == list(plain["cache_key"])


def test_each_block_has_its_own_cache(make_section, own_cache, monkeypatch):
    adata = make_section()
    features(adata, [(SUMMARY, 56), (SUMMARY, 112)])
    assert len(list(own_cache.iterdir())) == 2
    monkeypatch.setattr(SquidpyEncoder, "encode", None)
    features(adata, [(SUMMARY, 112)])
    features(adata, [(SUMMARY, 112), (SUMMARY, 56)])


def test_an_encoder_of_several_scales_is_made_once():
    blocks = make_blocks([(TIMM, 56), (SUMMARY, 10), (TIMM, 112)], device="cpu")
    assert blocks[0].encoder is blocks[2].encoder
    assert [block.patch_um for block in blocks] == [56.0, 10.0, 112.0]


class TestAuto:
    def test_is_the_field_that_the_encoder_was_trained_at(self, make_section):
        adata = make_section(0.5)
        assert features(adata, "trained:a", "auto")[1]["patch_um"] == 16.0
        assert list(features(adata, [("trained:a", "auto"), SUMMARY], 64)[1]["patch_um"]) == [16.0, 64.0]
        assert features(adata, [Trained("b")], "auto")[1]["patch_um"] == 16.0

    @pytest.mark.parametrize(
        ("name", "size"),
        [
            ("uni2-h", 112.0),
            ("uni2-h@gone.pth", 112.0),
            ("uni2-h?size=448", 224.0),
            ("timm:hf-hub:MahmoodLab/UNI2-h", 112.0),
            ("hf:owkin/phikon@main", 112.0),
            ("conch", 256.0),
        ],
    )
    def test_is_known_by_name_without_weights(self, name, size):
        assert sizes_in_um([(name, "auto"), ("anything", 5)]) == [size, 5.0]

    @pytest.mark.parametrize("name", ["timm:resnet18", SUMMARY, "pixels:4", "timm:hf-hub:some/one", "plip"])
    def test_is_refused_where_the_scale_is_unknown(self, make_section, name):
        with pytest.raises(ConfigError, match=rf"patch_um='auto': .*{name} was trained at is unknown; give a number"):
            ng.im.features(make_section(), name, "auto")


class TestNotes:
    def said(self, caplog):
        return [record.getMessage() for record in caplog.records]

    def test_a_patch_of_another_scale(self, make_section, caplog):
        features(make_section(0.5), "trained:a", 32)
        assert self.said(caplog) == ["a patch of 32 um into 32 px is 1 um per px; trained:a was trained at 0.5 (16 um)"]

    def test_a_slide_that_is_coarser(self, make_section, caplog):
        sections = ad.concat(
            [make_section(0.8, name=name) for name in ("S1", "S2")], uns_merge="unique", index_unique="-"
        )
        features(sections, "trained:a", 16, library_key="section")
        (said,) = self.said(caplog)
        assert "section 'S1' has 0.8 um per px, coarser than 0.5, at which trained:a was trained" in said

    @pytest.mark.parametrize(("encoder", "size"), [("trained:a", 16), ("trained:a", 16.5), (SUMMARY, 224)])
    def test_nothing_is_said_where_scales_agree_or_are_unknown(self, make_section, caplog, encoder, size):
        features(make_section(0.5), encoder, size)
        assert self.said(caplog) == []


@pytest.mark.parametrize("name", ["virchow2", "virchow2@weights.bin", "hf:paige-ai/Virchow2", "lazyslide:virchow2"])
def test_an_encoder_of_several_resolutions_takes_any_of_them(name):
    encoder = Trained("a")
    encoder.name = name
    assert recipes()["virchow2"].also_um_per_px == (0.25, 1.0, 2.0)
    assert [bool([*off_scale([Block(encoder, 32 * scale)])]) for scale in (0.25, 0.5, 0.7, 1.0)] == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        ([(SUMMARY, 56), (SUMMARY, 56.0)], "squidpy:summary' occurs twice at 56 um"),
        ([], "names none"),
        ([("squidpi:summary", 56)], "did you mean 'squidpy'"),
        ([(SUMMARY, -1)], "patch_um=-1; give a size in um above 0"),
        ([(SUMMARY, 0)], "patch_um=0; give a size in um above 0"),
        ([(SUMMARY, "big")], "patch_um='big'; give a size in um"),
    ],
)
def test_bad_blocks(make_section, encoder, says):
    with pytest.raises(ConfigError, match=says):
        ng.im.features(make_section(), encoder)


@pytest.mark.parametrize("size", [0, -3.0, np.nan])
def test_no_size_is_taken_for_the_default(make_section, size):
    with pytest.raises(ConfigError, match=rf"patch_um={size}; give a size in um above 0"):
        ng.im.features(make_section(), SUMMARY, size)
