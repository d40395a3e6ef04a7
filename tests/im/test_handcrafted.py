"""Colour, stain and texture: the numbers of skimage, whatever the batch is and however the patch lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import entropy
from skimage.color import rgb2hed, rgb2hsv
from skimage.feature import graycomatrix, graycoprops
from skimage.transform import downscale_local_mean

import nh2st_graph as ng
from nh2st_graph import ConfigError
from nh2st_graph.im import HandcraftedEncoder, make_encoders
from nh2st_graph.section import Key

Patches = NDArray[np.uint8]

ENCODER = HandcraftedEncoder()
NOISE = np.random.default_rng(0).integers(0, 256, (19, 112, 112, 3), dtype=np.uint8)
#: Where a stain's histogram and texture end.
TOPS = {"haematoxylin": 0.4, "eosin": 0.05}


def columns(patches: Patches, encoder: HandcraftedEncoder = ENCODER) -> dict[str, NDArray[np.float32]]:
    return dict(zip(encoder.feature_names, encoder.encode(patches).T, strict=True))


def near(actual: NDArray[np.float32], expected: object, atol: float = 0.0) -> None:
    np.testing.assert_allclose(actual, np.array(expected), rtol=2e-6, atol=atol)


def grey(patches: Patches) -> NDArray[np.float64]:
    return np.array([np.asarray(Image.fromarray(patch).convert("L")) for patch in patches], dtype=float)


def steps(patches: Patches) -> dict[str, NDArray[np.float64]]:
    """Grey and the stains of skimage, in whole steps."""
    haematoxylin, eosin, _ = np.moveaxis(rgb2hed(patches), -1, 0)
    return {
        "haematoxylin": np.rint(haematoxylin.clip(0, 0.7996) * 2560),
        "eosin": np.rint(eosin.clip(0, 0.1999) * 10240),
        "grey": grey(patches),
    }


@pytest.fixture(scope="module")
def tissue(her2st_crops: Path) -> Patches:
    """Two parts of a section of each patient."""
    found = []
    for name in ("B4", "C6"):
        image = np.asarray(
            Image.open(her2st_crops / "data" / "ST-imgs" / name[0] / name / f"{name}.jpg").convert("RGB")
        )
        found += [image[top : top + 112, top : top + 112] for top in (60, 180)]
    return np.stack(found)


# The numbers of other libraries


def test_colour(tissue):
    found = columns(tissue)
    hue, saturation, _ = np.moveaxis(rgb2hsv(tissue), -1, 0)
    for name, channel in zip(("red", "green", "blue"), np.moveaxis(tissue, -1, 0), strict=True):
        flat = channel.reshape(len(tissue), -1)
        near(found[f"colour_{name}_mean"], flat.mean(axis=1))
        near(found[f"colour_{name}_std"], flat.std(axis=1))
        for quantile in (0.1, 0.5, 0.9):
            expected = np.quantile(flat, quantile, axis=1, method="inverted_cdf")
            near(found[f"colour_{name}_quantile-{quantile}"], expected)
        shares = [np.histogram(each, bins=10, range=(0, 256))[0] / 112**2 for each in flat]
        near(np.stack([found[f"colour_{name}_bin-{i}"] for i in range(10)], axis=1), shares)
    near(found["colour_saturation_mean"], 255 * saturation.mean(axis=(1, 2)), atol=1)
    coloured = np.ptp(tissue, axis=-1) >= 10
    from_green = np.where(coloured, (hue - 1 / 3) % 1, 0.5)
    near(found["colour_hue_mean"], 255 * from_green.mean(axis=(1, 2)), atol=1)
    near(found["colour_hue_std"], 255 * from_green.std(axis=(1, 2)), atol=1)


def test_stain(tissue):
    found = columns(tissue)
    stains = np.moveaxis(rgb2hed(tissue), -1, 0).reshape(3, len(tissue), -1)
    for name, values, step in zip(("haematoxylin", "eosin", "residual"), stains, (2560, 10240, 10240), strict=True):
        near(found[f"stain_{name}_mean"], values.mean(axis=1), atol=0.1 / step)
        near(found[f"stain_{name}_std"], values.std(axis=1), atol=0.1 / step)
        for quantile in (0.1, 0.5, 0.9):
            expected = np.quantile(values, quantile, axis=1, method="inverted_cdf")
            near(found[f"stain_{name}_quantile-{quantile}"], expected, atol=0.51 / step)
    for name in ("haematoxylin", "eosin"):
        values = stains[0 if name == "haematoxylin" else 1]
        shares = [
            np.histogram(each.clip(max=TOPS[name]), bins=10, range=(0, TOPS[name]))[0] / 112**2 for each in values
        ]
        # A step of the count may lie on either side of the bin's border.
        near(np.stack([found[f"stain_{name}_bin-{i}"] for i in range(10)], axis=1), shares, atol=0.02)
    near(found["stain_nuclei"], (stains[0] > 0.1).mean(axis=1), atol=2e-3)
    near(found["stain_white"], (tissue.min(axis=-1) >= 210).mean(axis=(1, 2)))


def test_disc_and_ring(tissue):
    found = columns(tissue)
    y, x = np.mgrid[:112, :112] - 55.5
    radius = np.hypot(x, y)
    haematoxylin = rgb2hed(tissue)[..., 0]
    disc, ring = haematoxylin[:, radius < 28], haematoxylin[:, (radius >= 28) & (radius < 56)]
    for what, function in (("mean", np.mean), ("std", np.std)):
        expected = function(disc, axis=1) - function(ring, axis=1)
        near(found[f"stain_haematoxylin_{what}_disc-ring"], expected, atol=1e-4)
    spot = np.full((1, 112, 112, 3), 255, dtype=np.uint8)
    spot[:, radius < 28] = (60, 50, 120)
    found = columns(spot)
    assert found["stain_nuclei_disc-ring"] == -found["stain_white_disc-ring"] == 1
    assert found["stain_nuclei"] == pytest.approx((radius < 28).mean())


@pytest.mark.parametrize("name", ["haematoxylin", "eosin", "grey"])
def test_cooccurrence(tissue, name):
    found = columns(tissue, HandcraftedEncoder("texture"))
    of_a_level = {"haematoxylin": 32, "eosin": 16, "grey": 8}[name]
    levels = (steps(tissue)[name] // of_a_level).clip(max=31).astype(np.uint8)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    counts = [graycomatrix(each, [1, 2, 4], angles, levels=32, symmetric=True).sum(axis=3) for each in levels]
    for i, distance in enumerate((1, 2, 4)):
        pooled = [each[:, :, [i], None] for each in counts]
        for what in ("contrast", "dissimilarity", "homogeneity", "correlation", "energy"):
            expected = [graycoprops(each, what)[0, 0] for each in pooled]
            # Single precision puts a stain on the other side of a level now and then.
            np.testing.assert_allclose(found[f"texture_{name}_{what}_dist-{distance}"], expected, rtol=2e-3)
        expected = [entropy(each.ravel()) for each in pooled]
        np.testing.assert_allclose(found[f"texture_{name}_entropy_dist-{distance}"], expected, rtol=2e-3)


@pytest.mark.parametrize("scale", [1, 2])
def test_patterns(scale):
    """Against the definition: at most two changes around the circle, and how many neighbours reach the centre."""
    means = downscale_local_mean(grey(NOISE[:2]), (1, scale, scale))
    _, height, width = means.shape
    around = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    beside = [means[:, y : height - 2 + y, x : width - 2 + x] for y, x in around]
    reach = np.stack(beside) >= means[:, 1:-1, 1:-1]
    changes = (reach != np.roll(reach, 1, axis=0)).sum(axis=0)
    kinds = np.where(changes <= 2, reach.sum(axis=0), 9)
    found = columns(NOISE[:2], HandcraftedEncoder("texture"))
    for kind in range(10):
        near(found[f"texture_grey_pattern-{kind}_scale-{scale}"], (kinds == kind).mean(axis=(1, 2)))


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_gradient(tissue, scale):
    found = columns(tissue, HandcraftedEncoder("texture"))
    for name, top in (("haematoxylin", 1024), ("grey", 256)):
        means = downscale_local_mean(steps(tissue)[name] / top, (1, scale, scale))
        length = np.hypot(*np.gradient(means, axis=(1, 2)))[:, 1:-1, 1:-1]
        np.testing.assert_allclose(found[f"texture_{name}_gradient-mean_scale-{scale}"], length.mean((1, 2)), rtol=1e-4)
        np.testing.assert_allclose(found[f"texture_{name}_gradient-std_scale-{scale}"], length.std((1, 2)), rtol=1e-4)


# What must not matter


def test_a_row_depends_on_its_own_patch_alone(tissue):
    patches = np.concatenate([tissue, NOISE])
    together = ENCODER.encode(patches)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(together[::-1], ENCODER.encode(patches[::-1]))
    for i in range(6):
        np.testing.assert_array_equal(together[i : i + 1], ENCODER.encode(patches[i : i + 1]))
    assert ENCODER.encode(patches[:0]).shape == (0, 255)


def test_turned_and_mirrored_patches_have_the_same_features(tissue):
    expected = ENCODER.encode(tissue)
    for turns in range(4):
        turned = np.rot90(tissue, turns, axes=(1, 2))
        near(ENCODER.encode(turned), expected)
        near(ENCODER.encode(turned[:, :, ::-1]), expected)


def test_blank_and_constant_patches_give_numbers():
    colours = np.stack(np.meshgrid(*[[0, 127, 255]] * 3), axis=-1).reshape(-1, 1, 1, 3)
    values = ENCODER.encode(np.broadcast_to(colours, (27, 112, 112, 3)).astype(np.uint8))
    assert np.isfinite(values).all()
    found = dict(zip(ENCODER.feature_names, values.T, strict=True))
    assert all((column == 0).all() for name, column in found.items() if "std" in name or name.endswith("disc-ring"))
    assert all((column == 1).all() for name, column in found.items() if "correlation" in name or "energy" in name)
    assert all((column == 0).all() for name, column in found.items() if "entropy" in name or "gradient" in name)


# Names and parts


def test_every_column_has_its_name_and_parts_have_one_order():
    parts = [HandcraftedEncoder(part) for part in ("colour", "stain", "texture")]
    assert [part.n_features for part in parts] == [75, 74, 106]
    assert [name for part in parts for name in part.feature_names] == ENCODER.feature_names
    assert len(set(ENCODER.feature_names)) == ENCODER.n_features == 255
    np.testing.assert_array_equal(np.hstack([part.encode(NOISE[:3]) for part in parts]), ENCODER.encode(NOISE[:3]))
    one, other = HandcraftedEncoder("texture+colour"), HandcraftedEncoder("colour+texture")
    assert one.fingerprint == other.fingerprint != ENCODER.fingerprint
    np.testing.assert_array_equal(one.encode(NOISE[:2]), other.encode(NOISE[:2]))


def test_the_prefix_alone_is_all_parts():
    (bare,) = make_encoders("handcrafted")
    assert isinstance(bare, HandcraftedEncoder)
    assert (bare.name, bare.fingerprint) == (ENCODER.name, ENCODER.fingerprint)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("handcrafted:color", "encoder='handcrafted:color'.*'colour'"),
        ("handcrafted:stain+stain", "'stain' occurs twice"),
        ("handcrafted:", "names no encoder"),
        ("handcrafted?size=64", "'handcrafted' takes no options"),
        ("auto?size=64", "'auto' takes no options"),
        ("handcrafted:stain?size=64", "takes no option 'size'"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(ConfigError, match=message):
        make_encoders(name)


def test_three_scales_of_a_section(make_section):
    adata = make_section()
    ng.im.features(adata, [("handcrafted:stain", 28), ("handcrafted:stain", 56), ("handcrafted:stain", 112)])
    assert adata.obsm[Key.obsm.image].shape == (9, 3 * 74)
    assert len(set(adata.uns[Key.uns.image]["feature_names"])) == 3 * 74
