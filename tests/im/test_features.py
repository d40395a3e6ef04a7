from __future__ import annotations

import inspect
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import save_file

import nh2st_graph as ng
from nh2st_graph import ConfigError, DataError, ImageError
from nh2st_graph.config import FeaturesConfig
from nh2st_graph.im import Encoder, SquidpyEncoder, TimmEncoder
from nh2st_graph.section import Key, check_section, full_image
from nh2st_graph.slide import open_full

from ..real import SHRINK

SQUIDPY = "squidpy:summary"
TIMM = "timm:test_resnet@random"


def image_features(adata: ad.AnnData, encoder: str = SQUIDPY, **options) -> np.ndarray:
    ng.im.features(adata, encoder, progress=False, device="cpu", **options)
    return adata.obsm[Key.obsm.image].copy()


@pytest.fixture
def encoded(monkeypatch) -> list[str]:
    """Names of the encoders whose ``encode`` ran, one for each batch."""
    calls: list[str] = []

    def spy(kind: type[Encoder]) -> None:
        original = kind.encode

        def encode(self, patches):
            calls.append(self.name)
            return original(self, patches)

        monkeypatch.setattr(kind, "encode", encode)

    spy(SquidpyEncoder)
    spy(TimmEncoder)
    return calls


def test_writes_the_contract_and_survives_a_file(make_section, tmp_path):
    adata = make_section()
    assert ng.im.features(adata, f"{TIMM},{SQUIDPY}", progress=False, device="cpu") is None
    values = adata.obsm[Key.obsm.image]
    assert values.shape == (9, 96 + 15)
    assert values.dtype == np.float32
    check_section(adata, need=("features",))
    adata.write_h5ad(tmp_path / "section.h5ad")
    back = ad.read_h5ad(tmp_path / "section.h5ad")
    for about in (adata.uns[Key.uns.image], back.uns[Key.uns.image]):
        assert about["encoder"] == f"{TIMM},{SQUIDPY}"
        assert about["patch_um"] == 224.0
        assert list(about["input_size"]) == [160, 112]
        assert list(about["n_features"]) == [96, 15]
        assert [len(key) for key in about["cache_key"]] == [64, 64]
        assert about["normalisation"]["0"]["interpolation"] == "bilinear"
        np.testing.assert_array_equal(about["normalisation"]["0"]["mean"], [0.5] * 3)
        assert list(about["normalisation"]["1"]) == ["interpolation"]
        assert about["feature_names"][0] == "timm:test_resnet_0"
        assert about["feature_names"][-1] == "summary_ch-2_std"


def test_defaults_are_what_a_model_asks_for():
    """So that a fit need not compute again what was computed before."""
    wanted, ours = FeaturesConfig(), inspect.signature(ng.im.features).parameters
    assert (ours["encoder"].default, ours["patch_um"].default) == (wanted.encoder, wanted.patch_um)
    assert inspect.signature(ng.im.patches).parameters["patch_um"].default == FeaturesConfig(encoder="a").patch_um


def test_copy_and_key_added(make_section):
    adata = make_section()
    copy = ng.im.features(adata, SQUIDPY, key_added="X_colour", progress=False, copy=True)
    assert "X_colour" in copy.obsm
    assert "X_colour" in copy.uns
    assert not adata.obsm.keys() & {"X_colour", Key.obsm.image}


def test_joined_encoders_are_side_by_side(make_section):
    adata = make_section()
    both = image_features(adata, f"{SQUIDPY},{TIMM}")
    np.testing.assert_array_equal(both, np.hstack([image_features(adata, e) for e in (SQUIDPY, TIMM)]))


@pytest.mark.parametrize("encoder", [SQUIDPY, TIMM])
def test_features_of_a_spot_depend_on_its_own_patch(make_section, encoder):
    adata = make_section()
    expected = image_features(adata, encoder, cache=False)
    for batch_size in (1, 4):
        np.testing.assert_allclose(
            image_features(adata, encoder, cache=False, batch_size=batch_size), expected, rtol=1e-4, atol=1e-5
        )
    some = adata[[6, 2]].copy()
    np.testing.assert_allclose(image_features(some, encoder, cache=False), expected[[6, 2]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cache", [None, False])
@pytest.mark.parametrize("encoder", [SQUIDPY, TIMM])
def test_permuting_the_spots_permutes_the_rows_exactly(make_section, encoder, cache):
    adata = make_section()
    expected = image_features(adata, encoder, cache=cache, batch_size=4)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    permuted = image_features(adata[order].copy(), encoder, cache=cache, batch_size=4)
    np.testing.assert_array_equal(permuted, expected[order])


def test_the_second_run_reads(make_section, encoded, own_cache):
    adata = make_section()
    first = image_features(adata, f"{SQUIDPY},{TIMM}")
    assert set(encoded) == {SQUIDPY, TIMM}
    assert len(list(own_cache.iterdir())) == 2
    encoded.clear()
    np.testing.assert_array_equal(image_features(adata[::-1].copy(), f"{TIMM},{SQUIDPY}")[::-1, 96:], first[:, :15])
    assert encoded == []
    image_features(adata, cache=False)
    assert encoded == [SQUIDPY]


def test_only_the_encoder_that_is_new_runs(make_section, encoded):
    adata = make_section()
    image_features(adata, SQUIDPY)
    encoded.clear()
    image_features(adata, f"{SQUIDPY},{TIMM}")
    assert set(encoded) == {TIMM}


def test_what_changes_the_features_is_computed_again(make_section, encoded, tmp_path):
    adata = make_section()
    image_features(adata)

    def runs(adata: ad.AnnData, encoder: str = SQUIDPY, **options) -> bool:
        encoded.clear()
        image_features(adata, encoder, **options)
        return bool(encoded)

    assert not runs(adata)
    assert runs(adata, patch_um=100.0)
    assert runs(adata, "squidpy:histogram")
    assert runs(adata, cache=tmp_path / "elsewhere")
    moved = adata.copy()
    moved.obsm[Key.obsm.spatial] += 3.0
    assert runs(moved)
    path = full_image(adata).path
    with Image.open(path) as image:
        darker = image.point(lambda v: v // 2)
    darker.save(path)
    assert runs(adata)
    assert not runs(adata)


def test_other_weights_are_computed_again(make_section, encoded, tmp_path):
    adata, path = make_section(), tmp_path / "weights.safetensors"
    weights = TimmEncoder("test_resnet@random", "cpu").network.state_dict()
    save_file(weights, path)
    first = image_features(adata, f"timm:test_resnet@{path}")
    save_file({k: v * 1.1 if v.is_floating_point() else v for k, v in weights.items()}, path)
    encoded.clear()
    assert not np.array_equal(image_features(adata, f"timm:test_resnet@{path}"), first)
    assert encoded


def test_encoders_that_are_shared_keep_their_weights(make_section, encoded, tmp_path):
    """A file that changes meanwhile changes nothing; encoders that are made anew have the new weights."""
    section, other = make_section(), make_section(name="S2")
    path = tmp_path / "weights.safetensors"
    weights = TimmEncoder("test_resnet@random", "cpu").network.state_dict()
    changed = {k: v * 1.1 if v.is_floating_point() else v for k, v in weights.items()}
    save_file(weights, path)
    encoders = ng.im.make_encoders(f"timm:test_resnet@{path}", "cpu")
    first = image_features(section, encoders)
    save_file(changed, path)
    np.testing.assert_array_equal(image_features(other, encoders), first)
    key = other.uns[Key.uns.image]["cache_key"][0]
    encoded.clear()
    assert not np.array_equal(image_features(other, f"timm:test_resnet@{path}"), first)
    assert encoded, "what was cached is of the former weights"
    assert other.uns[Key.uns.image]["cache_key"][0] != key


def test_a_damaged_cache_is_computed_again(make_section, encoded, own_cache):
    adata = make_section()
    first = image_features(adata)
    (file,) = own_cache.iterdir()
    file.write_bytes(file.read_bytes()[:-8])
    encoded.clear()
    np.testing.assert_array_equal(image_features(adata), first)
    assert encoded
    encoded.clear()
    image_features(adata)
    assert not encoded


def test_one_spot(make_section):
    assert image_features(make_section(centres_um=np.array([[50.0, 60.0]]))).shape == (1, 15)


def test_scans_of_any_resolution_give_like_features(make_section):
    fine, coarse = (image_features(make_section(scale)) for scale in (0.5, 3.0))
    np.testing.assert_allclose(fine, coarse, atol=3)


def test_quiet_where_there_is_no_terminal(make_section, capfd):
    ng.im.features(make_section(), SQUIDPY, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "S1" not in err


def test_bad_input(make_section, own_cache):
    adata = make_section()
    with pytest.raises(ConfigError, match="batch_size=0"):
        ng.im.features(adata, SQUIDPY, batch_size=0)
    with pytest.raises(ConfigError, match="less than one pixel"):
        ng.im.features(adata, SQUIDPY, 0.1)
    path = Path(full_image(adata).path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(ImageError, match="cut off or damaged"):
        ng.im.features(adata, SQUIDPY, progress=False)
    path.unlink()
    with pytest.raises(ImageError, match="does not exist"):
        ng.im.features(adata, SQUIDPY)
    del adata.uns[Key.uns.spatial]
    with pytest.raises(DataError, match="has 0 libraries"):
        ng.im.features(adata, SQUIDPY)
    assert Key.obsm.image not in adata.obsm
    assert not own_cache.exists()


def test_real_tissue(make_section, her2st_crops):
    """A crop of a HER2+ section: its features, also of a pretrained network, describe the tissue under each spot."""
    folder, scale = her2st_crops / "data", 0.69 * SHRINK
    spots = pd.read_csv(folder / "ST-spotfiles" / "C6_selection.tsv", sep="\t")
    spots = spots[spots.x.between(13, 15) & spots.y.between(17, 19)]
    with open_full(next((folder / "ST-imgs" / "C" / "C6").glob("*.jpg"))) as full:
        left, top = spots.pixel_x.min() - 15, spots.pixel_y.min() - 15  # the outer patches reach beyond
        box = (left, top, spots.pixel_x.max() + 15, spots.pixel_y.max() + 15)
        image = np.asarray(full.crop(tuple(int(v) for v in box)))
    centres = spots[["pixel_x", "pixel_y"]].to_numpy(float) - [int(left), int(top)]
    adata = make_section(scale, centres * scale, image)
    values = image_features(adata, "squidpy:summary+texture+histogram,efficientnet-lite0", patch_um=112.0)
    assert values.shape == (7, 105 + 1280)
    assert np.isfinite(values).all()
    alike = np.corrcoef(values[:, 105:])  # one tissue, but no two patches are the same
    assert 0.2 < alike[~np.eye(7, dtype=bool)].mean() < 0.95
    names = list(adata.uns[Key.uns.image]["feature_names"])
    half = 56 / scale
    inside = ((centres > half) & (centres < np.array(image.shape[1::-1]) - half)).all(axis=1)
    assert 0 < inside.sum() < 7
    for x, y, value in zip(*centres[inside].T, values[inside], strict=True):
        patch = image[round(y - half) : round(y + half), round(x - half) : round(x + half)]
        means = [value[names.index(f"summary_ch-{c}_mean")] for c in range(3)]
        np.testing.assert_allclose(means, patch.mean(axis=(0, 1)), atol=1)


def test_large_features_of_several_blocks_are_mapped_from_one_file(make_section, tmp_path, monkeypatch):
    adata, cache = make_section(), tmp_path / "cache"
    blocks = [(SQUIDPY, 112), (SQUIDPY, 224)]
    expected = image_features(adata, blocks, cache=cache)
    monkeypatch.setattr("nh2st_graph.im._features.MAPPED_BYTES", 1)
    monkeypatch.setattr("nh2st_graph.im._cache.MAPPED_BYTES", 1)
    for _ in range(2):
        assert (image_features(adata, blocks, cache=cache) == expected).all()
        assert isinstance(adata.obsm[Key.obsm.image].base, np.memmap)
        assert len(list(cache.iterdir())) == 3
    adata.write_h5ad(tmp_path / "section.h5ad")
    assert (ad.read_h5ad(tmp_path / "section.h5ad").obsm[Key.obsm.image] == expected).all()
    # Spots in another order than that of the file, and no cache, have their features in memory.
    other = adata[::-1].copy()
    assert (image_features(other, blocks, cache=cache) == expected[::-1]).all()
    assert (image_features(adata, blocks, cache=False) == expected).all()
