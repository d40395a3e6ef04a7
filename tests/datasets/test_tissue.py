from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import KDTree

from nh2st_graph.datasets._tissue import (
    DOMAINS,
    FIRST_SPOT_UM,
    LATTICE_UM,
    PITCH_UM,
    Tissue,
    _at,
    grow_tissue,
    smooth_field,
)


@pytest.fixture(scope="module")
def tissue() -> Tissue:
    return grow_tissue(np.random.default_rng(1), 14, 12)


def test_size_holds_the_array_with_equal_margins(tissue: Tissue) -> None:
    height, width = tissue.size_um
    assert height == pytest.approx(13 * PITCH_UM + 2 * FIRST_SPOT_UM, abs=LATTICE_UM)
    assert width == pytest.approx(11 * PITCH_UM + 2 * FIRST_SPOT_UM, abs=LATTICE_UM)


def test_domains_are_shares_and_all_occur(tissue: Tissue) -> None:
    np.testing.assert_allclose(tissue.domains.sum(axis=0), 1, atol=1e-5)
    assert tissue.domains.min() >= 0
    assert (tissue.domains.mean(axis=(1, 2)) > 0.02).all()


def test_borders_between_domains_are_smooth(tissue: Tissue) -> None:
    steps = [np.abs(np.diff(tissue.domains, axis=axis)).max() for axis in (1, 2)]
    assert max(steps) < 0.5


def test_outline_leaves_glass_at_the_rim_and_tissue_in_the_middle(tissue: Tissue) -> None:
    rim = np.concatenate([tissue.cover[[0, -1]].ravel(), tissue.cover[:, [0, -1]].ravel()])
    assert rim.max() == 0
    height, width = tissue.cover.shape
    middle = tissue.cover[height // 4 : -height // 4, width // 4 : -width // 4]
    assert middle.min() == 1


def test_fields_lose_their_correlation_within_one_pitch() -> None:
    # White noise smoothed by a Gaussian of width s has the correlation exp(-d^2 / (4 s^2)) at distance d.
    field = smooth_field(np.random.default_rng(0), (700, 700), 70.0)
    step = round(PITCH_UM / LATTICE_UM)
    r = np.corrcoef(field[:, :-step].ravel(), field[:, step:].ravel())[0, 1]
    assert r == pytest.approx(np.exp(-((step * LATTICE_UM) ** 2) / (4 * 70.0**2)), abs=0.06)
    assert field.mean() == pytest.approx(0, abs=1e-3)
    assert field.std() == pytest.approx(1, abs=1e-3)


def test_nuclei_follow_their_domain(tissue: Tissue) -> None:
    mix = _at(tissue.domains, tissue.nuclei.x, tissue.nuclei.y)
    names = list(DOMAINS)
    radius = np.sqrt(tissue.nuclei.long * tissue.nuclei.short)
    stretch = tissue.nuclei.long / tissue.nuclei.short
    area_mm2 = (tissue.domains > 0.8).sum(axis=(1, 2)) * LATTICE_UM**2 * 1e-6
    number, size, shape = {}, {}, {}
    for i, name in enumerate(names):
        inside = mix[i] > 0.8
        number[name] = inside.sum() / area_mm2[i]
        size[name] = np.median(radius[inside])
        shape[name] = np.median(stretch[inside])
    assert number["immune"] > number["tumour"] > number["stroma"] > number["fat"]
    assert size["tumour"] > 1.2 * max(size["stroma"], size["immune"])
    assert shape["stroma"] > 1.5 * max(shape["tumour"], shape["immune"])


def test_no_nucleus_lies_in_a_hole(tissue: Tissue) -> None:
    holes = tissue.holes
    nuclei = KDTree(np.stack([tissue.nuclei.x, tissue.nuclei.y], axis=1))
    radius = np.sqrt(holes.long * holes.short)
    assert not nuclei.query_ball_point(np.stack([holes.x, holes.y], axis=1), radius, return_length=True).any()


def test_joined_ellipses_keep_order(tissue: Tissue) -> None:
    some = tissue.nuclei[np.arange(5)]
    both = some + tissue.holes
    assert len(both) == 5 + len(tissue.holes)
    np.testing.assert_array_equal(both[np.arange(5)].x, some.x)
    np.testing.assert_array_equal(both[np.arange(5, len(both))].density, tissue.holes.density)
