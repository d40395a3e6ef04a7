"""Calls of high and low spots: the rate of false ones, and a slow formulation."""

from __future__ import annotations

import numpy as np
import pytest

from nh2st_graph.confidence import CHANCES, Calibration, HeldOut, call_tables, called


def part(rng: np.random.Generator, name: str, n: int = 500, genes: int = 20, worth: float = 1.5) -> HeldOut:
    predicted = rng.normal(size=(n, genes))
    observed = worth * predicted + rng.normal(size=(n, genes)) + 5
    depth, blocks, pos = np.ones(n), np.zeros(n, dtype=np.int64), rng.uniform(size=(n, 2))
    return HeldOut(name, "", name, predicted, observed, depth, blocks, pos)


def held_out(seed: int, n_units: int = 4, **how) -> list[HeldOut]:
    rng = np.random.default_rng(seed)
    return [part(rng, f"S{i}", **how) for i in range(n_units)]


@pytest.mark.parametrize("level", [0.05, 0.1, 0.3])
def test_false_calls_are_as_rare_as_is_said(level):
    tables = call_tables(Calibration.fit(held_out(0)))
    false, n_called = {1: [], -1: []}, 0
    for new in held_out(1, n_units=3):
        for gene in range(new.predicted.shape[1]):
            codes = called(new.predicted[:, gene], tables.high[gene], tables.low[gene], level)
            above = new.observed[:, gene] > tables.cut[gene]
            n_called += np.abs(codes).sum()
            for side, wrong in ((1, ~above), (-1, above)):
                false[side].append(np.mean(wrong[codes == side]) if (codes == side).any() else 0.0)
    assert n_called > 1000
    for side in (1, -1):
        assert np.mean(false[side]) <= level + 0.02


def test_predictions_of_noise_are_not_called():
    tables = call_tables(Calibration.fit(held_out(2, worth=0.0)))
    new = held_out(3, n_units=1, worth=0.0)[0]
    codes = [called(new.predicted[:, g], tables.high[g], tables.low[g], 0.1) for g in range(new.predicted.shape[1])]
    assert np.mean([np.any(each) for each in codes]) < 0.3


def test_tables_are_chances_counted_one_by_one():
    calibration = Calibration.fit(held_out(4, n=60, genes=2))
    tables = call_tables(calibration)
    for gene in range(2):
        by_unit = []
        for unit in range(calibration.n_units):
            own = calibration.unit_of[gene] == unit
            predicted, false = calibration.predicted[gene, own], calibration.observed[gene, own] <= tables.cut[gene]
            counted = [(np.sum((predicted >= p) & false) + 1) / (len(predicted) + 1) for p in predicted]
            smallest = [[p for p, c in zip(predicted, counted, strict=True) if c <= chance] for chance in CHANCES]
            by_unit.append([min(there, default=np.inf) for there in smallest])
        np.testing.assert_array_equal(tables.high[gene], np.max(by_unit, axis=0).astype(np.float32))


def test_what_is_not_finite_is_not_called():
    tables = call_tables(Calibration.fit(held_out(5)))
    assert not called(np.full(10, np.nan), tables.high[0], tables.low[0], 0.2).any()
    assert not called(np.empty(0), tables.high[0], tables.low[0], 0.2).any()
