"""Intervals: coverage on units that did not set them, a slow formulation, and what few units guarantee."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph.confidence import Calibration, HeldOut, units_of


def part(rng, n=400, genes=5, *, section="A", patient="", shift=0.0, noise=1.0, name="") -> HeldOut:
    """Draw a held-out part whose errors grow with the prediction, and whose level differs by ``shift``."""
    predicted = rng.gamma(2.0, 1.0, size=(n, genes))
    observed = predicted + shift + noise * (0.2 + 0.3 * predicted) * rng.normal(size=(n, genes))
    return HeldOut(
        section=section,
        patient=patient,
        part=name or section,
        predicted=predicted.astype(np.float32),
        observed=np.maximum(observed, 0).astype(np.float32),
        depth=rng.integers(500, 2000, n).astype(np.float32),
        blocks=np.arange(n) * 16 // n,
        pos=rng.uniform(0, 100, size=(n, 2)).astype(np.float32),
    )


def parts(seed=0, n_units=6, spread=0.3, **how) -> list[HeldOut]:
    rng = np.random.default_rng(seed)
    return [part(rng, section=f"S{i}", shift=rng.normal(0, spread), **how) for i in range(n_units)]


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_new_sections_have_as_much_within_as_is_said(level):
    calibration = Calibration.fit(parts(n_units=12))
    held = []
    for new in parts(seed=1, n_units=30):
        low, high = calibration.intervals(new.predicted, level)
        held.append(np.mean((new.observed >= low) & (new.observed <= high)))
    assert np.mean(held) == pytest.approx(level, abs=0.04)
    assert calibration.coverage(level).measured == pytest.approx(level, abs=0.02)


def test_high_and_low_predictions_have_intervals_of_their_own_width():
    calibration = Calibration.fit(parts(n_units=8, spread=0.0))
    new = parts(seed=2, n_units=1, n=4000, spread=0.0)[0]
    low, high = calibration.intervals(new.predicted, 0.9)
    inside = (new.observed >= low) & (new.observed <= high)
    for gene in range(new.predicted.shape[1]):
        thirds = np.array_split(np.argsort(new.predicted[:, gene]), 3)
        assert all(0.82 < inside[third, gene].mean() < 0.97 for third in thirds)
        width = (high - low)[:, gene]
        assert width[thirds[2]].mean() > 1.5 * width[thirds[0]].mean()


def test_the_middle_of_a_third_has_the_quantiles_of_its_errors():
    """The slow formulation: at the median prediction of a third, its own quantiles; each unit counts as much."""
    one = parts(n_units=1, n=900, genes=1)[0]
    calibration = Calibration.fit(
        [HeldOut(**{**vars(one), "part": name}) for name in ("band1", "band2")], least=None, seed=0
    )
    predicted, errors = calibration.predicted[0], (calibration.observed - calibration.predicted)[0]
    level = 0.6
    own = float(np.interp(level, np.maximum.accumulate(calibration.measured.mean(axis=0)), _levels(calibration)))
    own = own if own <= level else level + (own - level) / 2
    for third in np.array_split(np.arange(len(predicted)), 3):
        middle = np.median(predicted[third])
        low, high = calibration.intervals(np.array([[middle]]), level)
        inside = np.mean((errors[third] >= low[0, 0] - middle - 1e-5) & (errors[third] <= high[0, 0] - middle + 1e-5))
        assert own - 1e-6 <= inside <= own + 4 / len(third) + 1e-6


def _levels(calibration):
    levels = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99])
    assert calibration.measured.shape[1] == len(levels)
    return levels


def test_few_units_guarantee_little_and_it_says_so():
    few, many = (Calibration.fit(parts(n_units=n)).coverage(0.9) for n in (2, 50))
    assert few.guaranteed <= 2 / 3
    assert many.guaranteed > 0.85
    assert few.n_units == 2
    assert "2 sections" in str(few)
    assert "hold only" in str(replace(few, measured=0.6))
    assert "were set to hold 89%" in str(replace(few, measured=0.89))


@pytest.mark.parametrize("n_units", [2, 3, 5])
def test_a_new_section_has_what_is_guaranteed_however_far_sections_differ(n_units):
    """Of units that have nothing in common, the lowest and the highest are outside of what the others span."""
    held, guaranteed = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shifts = rng.uniform(20, 120, size=(n_units + 1, 40))
        *of, new = [part(rng, 60, 40, section=f"S{i}", shift=shift, noise=0.1) for i, shift in enumerate(shifts)]
        calibration = Calibration.fit(of, least=None)
        low, high = calibration.intervals(new.predicted, 0.9)
        held.append(np.mean((new.observed >= low) & (new.observed <= high)))
        guaranteed.append(calibration.coverage(0.9).guaranteed)
    assert np.mean(guaranteed) < np.mean(held) < (n_units - 1) / (n_units + 1) + 0.1


def test_sections_that_differ_widen_intervals():
    alike, apart = (Calibration.fit(parts(n_units=5, spread=s)) for s in (0.0, 1.0))
    at = parts(seed=3, n_units=1)[0].predicted
    width = [np.mean(np.subtract(*each.intervals(at, 0.9)[::-1])) for each in (alike, apart)]
    assert width[1] > 1.5 * width[0]


def test_units_are_patients_then_sections_then_bands():
    rng = np.random.default_rng(0)
    of = [part(rng, section=s, patient=p, name=n) for s, p, n in (("A", "x", "1"), ("B", "x", "2"), ("C", "y", "3"))]
    assert units_of(of) == ("patient", ["x", "x", "y"])
    assert units_of(of[:2]) == ("section", ["A", "B"])
    assert units_of([part(rng, name="band1"), part(rng, name="band2")]) == ("band", ["band1", "band2"])
    nobody = [part(rng, section="A"), part(rng, section="B")]
    assert units_of(nobody)[0] == "section"


def test_what_is_saved_gives_the_same_intervals():
    calibration = Calibration.fit(parts())
    again = Calibration.restore(*calibration.state())
    at = parts(seed=4)[0].predicted
    for one, other in zip(calibration.intervals(at, 0.8), again.intervals(at, 0.8), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.coverage(0.8) == calibration.coverage(0.8)


@given(seed=st.integers(0, 10_000), level=st.floats(0.5, 0.98))
def test_intervals_hold_their_prediction_order_and_bounds(seed, level):
    rng = np.random.default_rng(seed)
    of = [part(rng, n=int(rng.integers(20, 60)), genes=2, section=f"S{i}") for i in range(int(rng.integers(2, 5)))]
    calibration = Calibration.fit(of)
    at = np.linspace(-1, 20, 50)[:, None].repeat(2, axis=1)
    low, high = calibration.intervals(at, level)
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()
    assert (low >= 0).all()
    assert (high >= low).all()
    wider_low, wider_high = calibration.intervals(at, 0.99)
    assert (wider_low <= low + 1e-6).all()
    assert (wider_high >= high - 1e-6).all()


def test_spots_in_another_order_give_the_same_intervals():
    of = parts(n=300, n_units=3)
    rng = np.random.default_rng(5)
    shuffled = []
    for each in of:
        order = rng.permutation(len(each.depth))
        rows = {name: getattr(each, name)[order] for name in ("predicted", "observed", "depth", "blocks", "pos")}
        shuffled.append(HeldOut(each.section, each.patient, each.part, **rows))
    at = parts(seed=6)[0].predicted
    for one, other in zip(*(Calibration.fit(each).intervals(at, 0.9) for each in (of, shuffled)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("n_units", [2, 3, 5])
def test_few_units_are_neither_short_nor_long_on_average(n_units):
    """Over many small cohorts: two sections alone would set intervals that are far too narrow, or far too wide."""
    held = []
    for seed in range(12):
        calibration = Calibration.fit(parts(seed=seed, n_units=n_units, n=200))
        for new in parts(seed=100 + seed, n_units=4, n=200):
            low, high = calibration.intervals(new.predicted, 0.9)
            held.append(np.mean((new.observed >= low) & (new.observed <= high)))
    assert 0.86 < np.mean(held) < 0.95


def test_the_curve_names_each_unit():
    curve = Calibration.fit(parts(n_units=3)).curve()
    assert list(curve) == ["measured", "section 1", "section 2", "section 3"]
    assert np.abs(curve["measured"] - curve.index).max() < 0.05
