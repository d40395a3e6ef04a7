"""Draws of other stains."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.progress import Progress
from skimage.color import hed_from_rgb, rgb_from_hed

import nh2st_graph as ng
from nh2st_graph import ConfigError, ImageError
from nh2st_graph._progress import console
from nh2st_graph.im import StainJitter, jitter_stain
from nh2st_graph.im._blocks import make_blocks
from nh2st_graph.im._features import view_features
from nh2st_graph.im._jitter import JITTERS
from nh2st_graph.im._stain import SlideColours, coarse_tissue, fitted_reference, stain_digest
from nh2st_graph.section import Key, open_image

from .test_stain import UM, scan

ENCODER = "squidpy:summary"


@pytest.fixture(scope="module")
def tissue(shared_data) -> NDArray[np.uint8]:
    return scan(shared_data, "C3")[40:140, 60:190]


@pytest.fixture
def section(make_section, tissue) -> AnnData:
    """A part of a real section, mostly tissue."""
    y, x = np.mgrid[20 : len(tissue) - 19 : 16, 20 : tissue.shape[1] - 19 : 16]
    return make_section(UM, np.stack([x.ravel(), y.ravel()], axis=1) * UM, tissue, "C3")


def features(section: AnnData, jitter: StainJitter | None) -> NDArray[np.float32]:
    done = ng.im.features(section, ENCODER, 64.0, stain=jitter, check_placement=False, progress=False, copy=True)
    return done.obsm[Key.obsm.image]


@pytest.mark.parametrize("kind", JITTERS)
def test_strength_0_changes_nothing(section, kind):
    assert np.array_equal(features(section, StainJitter(kind, 0, 5)), features(section, None))


@pytest.mark.parametrize("kind", JITTERS)
def test_a_draw_follows_from_its_seed_alone(section, kind):
    first, again, other = (jitter_stain(section, StainJitter(kind, 0.1, seed), 60) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", JITTERS)
def test_glass_stays_as_it_is_and_tissue_keeps_its_structure(section, tissue, kind):
    with open_image(section) as slide:
        mask = coarse_tissue(slide, UM).mask
    assert 0.3 < mask.mean() < 0.98
    plain, other = tissue.astype(int), jitter_stain(section, StainJitter(kind, 0.1, 3), max(tissue.shape)).astype(int)
    assert other.shape == plain.shape
    assert np.array_equal(other[~mask], plain[~mask])
    change = other[mask] - plain[mask]
    assert 2 < np.abs(change).mean() < 40
    assert np.corrcoef(other[mask].sum(axis=1), plain[mask].sum(axis=1))[0, 1] > 0.98


@pytest.mark.parametrize("kind", JITTERS)
def test_features_of_a_view_keep_their_order_of_spots(section, kind):
    """What one draw for a whole section changes is mostly the mean, which standardising by section takes out."""
    own, view = (features(section, jitter).astype(float) for jitter in (None, StainJitter(kind, 0.1, 4)))
    spread = own.std(axis=0)
    r = [np.corrcoef(a, b)[0, 1] for a, b, sd in zip(own.T, view.T, spread, strict=True) if sd > 0]
    assert not np.allclose(own, view)
    assert np.median(r) > 0.98


@given(
    st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=20),
    st.floats(0.01, 0.9),
    st.integers(0, 2**32),
)
def test_hed_changes_amounts_of_stains_as_the_formula_says(colours, strength, seed):
    """Colour by colour, with loops, and densities as they are defined."""
    factor, shift = np.random.default_rng(seed).uniform(-strength, strength, (2, 3))
    given_ = np.array(colours, dtype=np.uint8)
    found = StainJitter("hed", strength, seed).colour_map(None)(given_)
    for before, after in zip(given_, found, strict=True):
        density = [np.log10(256 / (float(value) + 1)) for value in before]
        amounts = [sum(density[c] * hed_from_rgb[c, k] for c in range(3)) for k in range(3)]
        amounts = [a * (1 + f) + s / 4 for a, f, s in zip(amounts, factor, shift, strict=True)]
        light = [256 / 10 ** sum(amounts[k] * rgb_from_hed[k, c] for k in range(3)) - 1 for c in range(3)]
        assert np.abs(after - np.clip(light, 0, 255)).max() <= 0.5 + 1e-6


def test_macenko_shifts_hues_and_reinhard_mean_and_spread(section):
    """Measured by squidpy on the section as it was recoloured; each draw is some of the width of its distribution."""
    for kind, name in (("reinhard", "mu"), ("macenko", "stain_matrix")):
        own = ng.im.stain_reference(section, kind)
        with open_image(section) as slide:
            colours = SlideColours(section, slide)
            drawn = StainJitter(kind, 0.1, 7).colour_map(colours)(colours.pixels)
        other = fitted_reference(drawn, kind, "C3")
        change = np.abs(getattr(other, name) - getattr(own, name))
        width = 0.1 * (own.sigma if kind == "reinhard" else 0.6)
        assert (change < 1.2 * width).all()
        assert change.max() > 0.01


def test_views_are_those_of_each_draw_and_cached_beside_the_features(section, tmp_path):
    section = section[::4].copy()
    jitters = [StainJitter(kind, 0.1, i) for i, kind in enumerate(JITTERS)]
    blocks = make_blocks([("squidpy:summary", 64.0), ("squidpy:histogram", 40.0)])
    bar = Progress(console=console(), disable=True)
    with open_image(section) as slide:
        views = view_features(section, slide, blocks, jitters, bar=bar, cache=tmp_path)
        assert len(list(tmp_path.glob("*.safetensors"))) == 6
        assert np.array_equal(view_features(section, slide, blocks, jitters, bar=bar, cache=tmp_path), views)
    assert Key.obsm.image not in section.obsm
    for i, jitter in enumerate(jitters):
        ng.im.features(
            section, [("squidpy:summary", 64.0), ("squidpy:histogram", 40.0)], stain=jitter, check_placement=False,
            progress=False, cache=False,
        )  # fmt: skip
        assert np.array_equal(section.obsm[Key.obsm.image], views[:, i])
        assert section.uns[Key.uns.image]["stain"] == {
            "kind": jitter.kind, "strength": 0.1, "seed": i, "method": "jitter",
        }  # fmt: skip


def test_every_number_of_a_draw_is_part_of_the_cache_key():
    draws = [StainJitter(k, s, seed) for k in JITTERS for s in (0.1, 0.2) for seed in (0, 1)]
    assert len({stain_digest(each) for each in draws}) == len(draws)
    assert stain_digest(StainJitter("hed", 0.1, 3)) == stain_digest(StainJitter("hed", 0.1, 3))


@pytest.mark.parametrize(
    ("values", "named"), [(("hde", 0.1, 0), "hde"), (("hed", -0.1, 0), "strength"), (("hed", 1.0, 0), "strength")]
)
def test_refuses_what_is_no_draw(values, named):
    with pytest.raises(ConfigError, match=named):
        StainJitter(*values)


def test_refuses_an_image_without_tissue(make_section):
    blank = make_section(UM, np.array([[200.0, 200.0]]), np.full((100, 100, 3), 245, np.uint8), "blank")
    with pytest.raises(ImageError, match="blank"):
        jitter_stain(blank, StainJitter())
