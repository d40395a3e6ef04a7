"""Scores against scipy, explicit loops and explicit least squares."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import pearsonr

from nh2st_graph import DataError, metrics

SUMMARY_KEYS = {
    "pcc_mean",
    "pcc_partial",
    "pcc_heg50",
    "pcc_hpg50",
    "pcc_top50_by_test",
    "pcc_top50_by_test_shuffled",
    "mse",
    "mae",
    "n_spots",
    "n_genes",
    "n_constant_predicted",
    "n_constant_observed",
}


def frame(values: np.ndarray) -> pd.DataFrame:
    n_spots, n_genes = values.shape
    return pd.DataFrame(values, [f"s{i:03d}" for i in range(n_spots)], [f"g{j:03d}" for j in range(n_genes)])


@pytest.fixture
def section() -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Prediction, measurement and total counts of 60 spots and 80 genes, depth in both."""
    rng = np.random.default_rng(1)
    depth = rng.negative_binomial(3, 0.001, 60)
    signal = rng.normal(size=(60, 80)) + np.log1p(depth)[:, None]
    observed = frame(signal + rng.normal(size=signal.shape))
    predicted = frame(0.3 * signal + rng.normal(size=signal.shape))
    return predicted, observed, pd.Series(depth, observed.index)


def residual(values: np.ndarray, covariate: np.ndarray) -> np.ndarray:
    design = np.column_stack([np.ones_like(covariate), covariate])
    out = np.empty_like(values, dtype=np.float64)
    for gene in range(values.shape[1]):
        solution, *_ = np.linalg.lstsq(design, values[:, gene], rcond=None)
        out[:, gene] = values[:, gene] - design @ solution
    return out


@given(
    values=arrays(np.int64, (2, 12, 3), elements=st.integers(-1000, 1000)),
    offset=st.floats(-1e4, 1e4),
    scale=st.sampled_from([1e-100, 1e-3, 1.0, 1e100]),
)
def test_pearson_equals_scipy_gene_by_gene(values: np.ndarray, offset: float, scale: float) -> None:
    a, b = values + offset
    expected = [
        pearsonr(a[:, gene], b[:, gene]).statistic if np.ptp(values[:, :, gene], axis=1).all() else 0.0
        for gene in range(3)
    ]
    # scipy is given the plain values: r does not depend on the scale
    np.testing.assert_allclose(metrics.pearson(a * scale, b * scale), expected, atol=1e-8)


@given(arrays(np.float64, (2, 7, 4), elements=st.floats(-1e300, 1e300)))
def test_pearson_is_bounded_and_symmetric(values: np.ndarray) -> None:
    a, b = values
    r = metrics.pearson(a, b)
    assert ((r >= -1) & (r <= 1)).all()
    np.testing.assert_array_equal(r, metrics.pearson(b, a))


def test_pearson_keeps_its_digits_on_a_large_offset() -> None:
    rng = np.random.default_rng(0)
    a, b = (1e8 + 1e-4 * rng.normal(size=(2, 500, 5))).astype(np.float64)
    centred = [(side - np.float64(1e8)).astype(np.longdouble) for side in (a, b)]  # exact: same exponent
    da, db = (side - side.mean(axis=0) for side in centred)
    exact = (da * db).sum(axis=0) / np.sqrt((da**2).sum(axis=0) * (db**2).sum(axis=0))
    np.testing.assert_allclose(metrics.pearson(a, b), exact.astype(np.float64), rtol=1e-9, atol=1e-13)


def test_constant_columns_score_zero_and_are_counted() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 4))
    flat = values.copy()
    flat[:, 1] = 0.1  # its mean over 30 spots is not exactly 0.1
    flat[:, 2] = 0.0
    r = metrics.pearson(flat, values)
    np.testing.assert_allclose(r, [1, 0, 0, 1])
    assert metrics.n_constant(flat) == 2
    assert metrics.n_constant(values) == 0


def test_float32_constant_but_for_its_last_bits_is_constant() -> None:
    rng = np.random.default_rng(0)
    collapsed = np.full((200, 3), 1.7, dtype=np.float32)
    wobble = np.nextafter(collapsed, np.float32(2), dtype=np.float32)
    collapsed = np.where(rng.random(collapsed.shape) < 0.5, collapsed, wobble)
    assert len(np.unique(collapsed)) == 2
    np.testing.assert_array_equal(metrics.pearson(collapsed, rng.normal(size=collapsed.shape)), 0)
    assert metrics.n_constant(collapsed) == 3
    # the same numbers, had they been meant in float64, do vary
    assert metrics.n_constant(collapsed.astype(np.float64)) == 0


def test_nan_is_not_hidden() -> None:
    a = np.arange(12.0).reshape(6, 2)
    b = a.copy()
    b[0, 1] = np.nan
    r = metrics.pearson(a, b)
    assert r[0] == pytest.approx(1)
    assert np.isnan(r[1])


def test_one_spot_scores_zero() -> None:
    np.testing.assert_array_equal(metrics.pearson([[1.0, 2.0]], [[3.0, 4.0]]), 0)


@pytest.mark.parametrize("score", [metrics.pearson, metrics.mse, metrics.mae])
def test_shapes_must_agree(score) -> None:
    with pytest.raises(DataError, match=r"\(3, 2\) and \(2, 3\)"):
        score(np.zeros((3, 2)), np.zeros((2, 3)))
    with pytest.raises(DataError, match="without spots"):
        score(np.zeros((0, 2)), np.zeros((0, 2)))


@given(
    values=arrays(np.int64, (2, 15, 3), elements=st.integers(-50, 50)),
    covariate=arrays(np.int64, 15, elements=st.integers(0, 10_000)),
)
def test_partial_pearson_equals_correlation_of_least_squares_residuals(values, covariate) -> None:
    covariate = np.log1p(covariate)
    left, right = (residual(side, covariate) for side in values)
    varies = (np.abs(left).max(axis=0) > 1e-9) & (np.abs(right).max(axis=0) > 1e-9)
    expected = [np.corrcoef(left[:, g], right[:, g])[0, 1] if varies[g] else 0.0 for g in range(3)]
    np.testing.assert_allclose(metrics.partial_pearson(*values, covariate), expected, atol=1e-7)


@given(
    slope=st.floats(1e-9, 1e3) | st.floats(-1e3, -1e-9),
    intercept=st.floats(-1e3, 1e3),
    offset=st.floats(-100, 100),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 1000),
)
def test_affine_function_of_the_covariate_leaves_exactly_nothing(slope, intercept, offset, dtype, seed) -> None:
    rng = np.random.default_rng(seed)
    covariate = np.log1p(rng.negative_binomial(2, 0.001, 150)) + offset
    predicted = (intercept + slope * covariate).astype(dtype)[:, None]
    observed = rng.normal(size=(150, 1)) + predicted
    np.testing.assert_array_equal(metrics.partial_pearson(predicted, observed, covariate), 0)


def test_partial_pearson_with_a_constant_covariate_is_pearson() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 20, 3))
    np.testing.assert_allclose(metrics.partial_pearson(a, b, np.full(20, 7.3)), metrics.pearson(a, b), atol=1e-14)
    with pytest.raises(DataError, match=r"covariate has shape \(19,\)"):
        metrics.partial_pearson(a, b, np.zeros(19))


def test_errors_equal_loops() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 11, 3)).astype(np.float32)
    for gene in range(3):
        differences = [float(x) - float(y) for x, y in zip(a[:, gene], b[:, gene], strict=True)]
        assert metrics.mse(a, b)[gene] == pytest.approx(sum(d * d for d in differences) / 11)
        assert metrics.mae(a, b)[gene] == pytest.approx(sum(abs(d) for d in differences) / 11)


def test_section_scores_equal_their_definitions(section) -> None:
    predicted, observed, depth = section
    predicted = predicted.assign(g005=1.0)
    observed = observed.assign(g006=0.0, g005=observed["g005"])
    heg50, hpg50 = list(observed.columns[:50]), ["g007", "g008"]
    scores = metrics.score_section(predicted, observed, depth=depth, heg50=heg50, hpg50=hpg50)

    constant = {"g005", "g006"}
    r = pd.Series({g: 0.0 if g in constant else pearsonr(predicted[g], observed[g]).statistic for g in observed})
    np.testing.assert_allclose(scores.per_gene["pcc"], r, atol=1e-12)
    assert set(scores.summary) == SUMMARY_KEYS
    assert scores.summary["pcc_mean"] == pytest.approx(r.mean())
    assert scores.summary["pcc_heg50"] == pytest.approx(r[heg50].mean())
    assert scores.summary["pcc_hpg50"] == pytest.approx(r[hpg50].mean())
    assert scores.summary["pcc_top50_by_test"] == pytest.approx(r.nlargest(50).mean())
    assert scores.summary["pcc_partial"] == pytest.approx(
        metrics.partial_pearson(predicted, observed, np.log1p(depth)).mean()
    )
    assert scores.summary["mse"] == pytest.approx(((predicted - observed) ** 2).to_numpy().mean())
    assert scores.summary["mae"] == pytest.approx((predicted - observed).abs().to_numpy().mean())
    assert (scores.summary["n_spots"], scores.summary["n_genes"]) == (60, 80)
    assert scores.summary["n_constant_predicted"] == scores.summary["n_constant_observed"] == 1
    assert scores.per_gene.index[scores.per_gene["constant_predicted"]].tolist() == ["g005"]
    assert scores.per_gene.index[scores.per_gene["constant_observed"]].tolist() == ["g006"]
    np.testing.assert_allclose(scores.per_gene["mean_observed"], observed.mean())
    json.dumps(scores.summary, allow_nan=False)


def test_order_of_spots_and_genes_changes_nothing(section) -> None:
    predicted, observed, depth = section
    rng = np.random.default_rng(3)
    expected = metrics.score_section(predicted, observed, depth=depth)
    shuffled = metrics.score_section(
        predicted.sample(frac=1, random_state=1).sample(frac=1, axis=1, random_state=2),
        observed.iloc[rng.permutation(len(observed))],
        depth=depth.sample(frac=1, random_state=5),
    )
    assert shuffled.summary == expected.summary
    pd.testing.assert_frame_equal(shuffled.per_gene, expected.per_gene)


@pytest.mark.parametrize("threads", [1, 2])
def test_many_spots_are_scored_some_genes_at_a_time_with_the_same_scores(section, threads, monkeypatch) -> None:
    predicted, observed, depth = section
    expected = metrics.score_section(predicted, observed, depth=depth)
    monkeypatch.setattr("nh2st_graph.metrics._scores._NUMBERS", 60 * 7)
    monkeypatch.setattr("nh2st_graph.metrics._scores._LEAST_GENES", 5)
    monkeypatch.setattr("nh2st_graph.metrics._scores._SPOTS", 13)
    found = metrics.score_section(predicted, observed, depth=depth, threads=threads)
    assert found.summary == expected.summary
    pd.testing.assert_frame_equal(found.per_gene, expected.per_gene, check_exact=True)
    with pytest.raises(DataError, match="threads=0; give at least 1"):
        metrics.score_section(predicted, observed, depth=depth, threads=0)
    predicted.iloc[59, 79] = np.nan
    with pytest.raises(DataError, match="predicted has values that are not finite"):
        metrics.score_section(predicted, observed, depth=depth, threads=threads)


def test_best_genes_by_test_are_high_on_noise_and_the_shuffled_value_says_so() -> None:
    rng = np.random.default_rng(0)
    noise, observed = (frame(rng.normal(size=(180, 600))) for _ in range(2))
    depth = pd.Series(1000, observed.index)
    summary = metrics.score_section(noise, observed, depth=depth).summary
    assert abs(summary["pcc_mean"]) < 0.02
    assert summary["pcc_top50_by_test"] > 0.1
    assert summary["pcc_top50_by_test_shuffled"] == pytest.approx(summary["pcc_top50_by_test"], abs=0.02)
    good = metrics.score_section(observed, observed, depth=depth).summary
    assert good["pcc_top50_by_test"] == pytest.approx(1)
    assert good["pcc_top50_by_test_shuffled"] < 0.25


def test_gene_subsets_use_what_there_is(section) -> None:
    predicted, observed, depth = section
    scores = metrics.score_section(predicted, observed, depth=depth, heg50=["g001", "absent"], hpg50=["absent"])
    assert scores.summary["pcc_heg50"] == pytest.approx(scores.per_gene.loc["g001", "pcc"])
    assert scores.summary["pcc_hpg50"] is None
    few = metrics.score_section(predicted.iloc[:, :7], observed.iloc[:, :7], depth=depth)
    assert few.summary["pcc_top50_by_test"] == pytest.approx(few.summary["pcc_mean"])
    assert few.summary["pcc_heg50"] is None


def test_depth_oracle_is_depth_and_nothing_but_depth(section) -> None:
    _, observed, depth = section
    scores = metrics.depth_oracle(depth.sample(frac=1, random_state=0), observed)
    expected = [pearsonr(np.log1p(depth), observed[gene]).statistic for gene in observed]
    np.testing.assert_allclose(scores.per_gene["pcc"], expected, atol=1e-12)
    assert scores.summary["pcc_partial"] == 0
    assert scores.summary["mse"] is None
    assert scores.summary["mae"] is None
    assert set(scores.summary) == SUMMARY_KEYS


def test_disagreeing_input_is_refused_in_one_line(section) -> None:
    predicted, observed, depth = section
    bad = [
        ((predicted.iloc[1:], observed, depth), "same spots: 1 are in one only .*'s000'"),
        ((predicted.iloc[:, 1:], observed, depth), "same genes: 1 are in one only .*'g000'"),
        ((predicted, observed, depth.iloc[2:]), "depth and observed do not hold the same spots: 2"),
        ((predicted, observed.set_axis(["s000", *observed.index[:-1]]), depth), "'s000' more than once"),
        ((predicted * np.nan, observed, depth), "predicted has values that are not finite"),
        ((predicted, observed, np.log1p(depth)), "not their logarithm"),
        ((predicted.iloc[:0], observed.iloc[:0], depth.iloc[:0]), "nothing to score"),
    ]
    for (p, o, d), message in bad:
        with pytest.raises(DataError, match=message) as error:
            metrics.score_section(p, o, depth=d)
        assert "\n" not in str(error.value)


def test_gene_lists_rank_and_break_ties_by_name() -> None:
    means = pd.Series({"b": 1.0, "d": 2.0, "a": 1.0, "c": 1.0, "e": np.nan})
    assert metrics.highest_expressed(means, 3) == ["d", "a", "b"]
    assert metrics.best_predicted(means.iloc[::-1], 3) == ["d", "a", "b"]
    assert metrics.best_predicted(means) == ["d", "a", "b", "c"]
