"""Means over sections, and the paired bootstrap."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from nh2st_graph import DataError, metrics


def table(values: np.ndarray) -> pd.DataFrame:
    n_sections, n_genes = values.shape
    return pd.DataFrame(values, [f"S{i}" for i in range(n_sections)], [f"g{j}" for j in range(n_genes)])


def test_bootstrap_equals_drawing_in_a_loop() -> None:
    rng = np.random.default_rng(0)
    a, b = table(rng.normal(0.3, 0.2, (4, 50))), table(rng.normal(0.2, 0.2, (4, 50)))
    difference = (a - b).to_numpy()
    draws = []
    for _ in range(4000):
        rows, columns = rng.integers(0, 4, 4), rng.integers(0, 50, 50)
        draws.append(difference[np.ix_(rows, columns)].mean())
    result = metrics.paired_bootstrap(a, b, n_boot=4000)
    assert result.mean == pytest.approx(difference.mean())
    np.testing.assert_allclose([result.low, result.high], np.quantile(draws, [0.025, 0.975]), atol=0.006)


def test_bootstrap_pairs_by_name_and_repeats() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(0.2, 0.3, (5, 200))
    a, b = table(base + 0.02), table(base)
    result = metrics.paired_bootstrap(a, b.sample(frac=1, random_state=0).iloc[:, ::-1])
    # the spread between genes (0.3) is far above the gain; only pairing makes it visible
    assert result.mean == pytest.approx(0.02)
    np.testing.assert_allclose([result.low, result.high], 0.02)
    noisy = table(base + rng.normal(0.02, 0.1, base.shape))
    assert metrics.paired_bootstrap(noisy, b, seed=3) == metrics.paired_bootstrap(noisy, b, seed=3)
    assert metrics.paired_bootstrap(noisy, b, seed=3) != metrics.paired_bootstrap(noisy, b, seed=4)


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    n_repeats, covered = 150, 0
    zero = table(np.zeros((12, 60)))
    for _ in range(n_repeats):
        sections, genes = rng.normal(0, 0.1, (12, 1)), rng.normal(0, 0.1, (1, 60))
        result = metrics.paired_bootstrap(
            table(0.05 + sections + genes + rng.normal(0, 0.1, (12, 60))), zero, n_boot=400
        )
        covered += result.low <= 0.05 <= result.high
    assert covered / n_repeats > 0.86


def test_bootstrap_leaves_out_missing_pairs() -> None:
    a, b = table(np.full((2, 3), 0.5)), table(np.full((2, 3), 0.4))
    a.iloc[0, 0] = np.nan
    b.iloc[1, 2] = np.nan
    result = metrics.paired_bootstrap(a, b)
    np.testing.assert_allclose([result.mean, result.low, result.high], 0.1)
    with pytest.raises(DataError, match="no section and gene"):
        metrics.paired_bootstrap(a * np.nan, b)


def test_bootstrap_refuses_unpaired_tables() -> None:
    a = table(np.zeros((2, 3)))
    with pytest.raises(DataError, match="same genes"):
        metrics.paired_bootstrap(a, a.iloc[:, 1:])
    with pytest.raises(DataError, match="same sections"):
        metrics.paired_bootstrap(a, a.rename(index={"S0": "S9"}))


def test_aggregate_over_sections() -> None:
    result = metrics.aggregate(
        {
            "C3": {"pcc_mean": 0.1, "pcc_heg50": None, "n_spots": 180, "mse": None},
            "C4": {"pcc_mean": 0.3, "pcc_heg50": 0.4, "n_spots": 182, "mse": None},
        }
    )
    assert result["mean"] == {"pcc_mean": pytest.approx(0.2), "pcc_heg50": 0.4, "n_spots": 181, "mse": None}
    assert result["std"]["pcc_mean"] == pytest.approx(np.std([0.1, 0.3], ddof=1))
    assert result["std"]["pcc_heg50"] is None
    json.dumps(result, allow_nan=False)
