"""The noise ceiling, where the truth is known and on real sections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from nh2st_graph import DataError, metrics


def log_counts(counts: np.ndarray) -> np.ndarray:
    """Library size to 1e4 over the columns given, log1p; an empty spot stays 0."""
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum(axis=1, keepdims=True)
    return np.log1p(counts / np.where(total == 0, 1, total) * 1e4)


@pytest.fixture(scope="module")
def poisson() -> tuple[np.ndarray, np.ndarray]:
    """Poisson counts of 3,000 spots at ten levels of expression, and their means."""
    rng = np.random.default_rng(0)
    means = np.exp(rng.normal(0, 0.4, size=(3000, 10))) * np.geomspace(0.3, 100, 10)
    return rng.poisson(means), means


def test_ceiling_is_the_score_of_a_perfect_predictor(poisson) -> None:
    counts, means = poisson
    ceiling = metrics.noise_ceiling(counts, lambda half: half, n_repeats=5)
    perfect = metrics.pearson(means, counts)
    np.testing.assert_allclose(ceiling, perfect, atol=0.04)
    assert (np.diff(ceiling) > 0).all()  # the more counts, the higher


def test_ceiling_of_pure_noise_is_near_zero() -> None:
    counts = np.random.default_rng(0).poisson(5, size=(2000, 200))
    ceiling = metrics.noise_ceiling(counts, lambda half: half)
    assert ceiling.mean() < 0.12
    assert (ceiling == 0).mean() > 0.3


def test_halves_add_up_and_keep_their_container(poisson) -> None:
    counts = poisson[0][:50]
    containers = {
        "array": counts,
        "sparse": sparse.csr_matrix(counts),
        "sparse array, float": sparse.csr_array(counts.astype(np.float32)),
        "frame": pd.DataFrame(counts, columns=[f"g{j}" for j in range(10)]),
    }
    results = {}
    for name, whole in containers.items():
        seen = []

        def keep(half, seen=seen):
            seen.append(half)
            return half

        results[name] = metrics.noise_ceiling(whole, keep, n_repeats=2, seed=4)
        assert len(seen) == 4
        assert {type(half) for half in seen} == {type(whole)}
        for first, second in (seen[:2], seen[2:]):
            total = first + second
            np.testing.assert_array_equal(total.toarray() if sparse.issparse(total) else total, counts)
        dense = [half.toarray() if sparse.issparse(half) else np.asarray(half) for half in seen]
        assert not np.array_equal(dense[0], dense[2])
    assert results["frame"].index.tolist() == [f"g{j}" for j in range(10)]
    np.testing.assert_array_equal(results["frame"], results["array"])
    again = metrics.noise_ceiling(counts, lambda half: half, n_repeats=2, seed=4)
    np.testing.assert_array_equal(again, results["array"])


def test_normalisation_sees_all_genes_and_gives_the_panel(poisson) -> None:
    genes = [f"g{j}" for j in range(10)]
    counts = pd.DataFrame(poisson[0], columns=genes)

    def panel(half: pd.DataFrame) -> pd.DataFrame:
        assert list(half.columns) == genes
        return pd.DataFrame(log_counts(half), half.index, half.columns)[["g9", "g2"]]

    ceiling = metrics.noise_ceiling(counts, panel, n_repeats=1)
    assert ceiling.index.tolist() == ["g9", "g2"]
    assert ceiling["g9"] > ceiling["g2"]


def test_bad_counts_are_refused() -> None:
    for counts in (np.array([[0.5, 1.0]]), np.array([[-1, 1]])):
        with pytest.raises(DataError, match="negative or not integers"):
            metrics.noise_ceiling(counts, lambda half: half)
    with pytest.raises(DataError, match="not finite"):
        metrics.noise_ceiling(np.ones((3, 2), int), lambda half: half * np.nan)
    with pytest.raises(DataError, match="n_repeats=0"):
        metrics.noise_ceiling(np.ones((3, 2), int), lambda half: half, n_repeats=0)


def test_share_of_ceiling_is_a_ratio_of_means_without_unreachable_genes() -> None:
    pcc = pd.Series({"a": 0.3, "b": 0.1, "c": 0.9})
    ceiling = pd.Series({"c": 0.0, "b": 0.4, "a": 0.6})
    assert metrics.share_of_ceiling(pcc, ceiling) == pytest.approx(0.4)
    assert metrics.share_of_ceiling(pcc, ceiling * 0) is None
    with pytest.raises(DataError, match="1 in one only"):
        metrics.share_of_ceiling(pcc, ceiling.drop("a"))


@pytest.mark.parametrize(("section", "oracle"), [("B4", 0.34), ("C4", 0.23)])
def test_real_sections_have_the_known_ceiling_and_depth_effect(shared_data: Path, section: str, oracle: float) -> None:
    panel = (shared_data / "gene_panels" / "her_hvg_cut_1000.txt").read_text().split()
    path = shared_data / "her2st" / "data" / "ST-cnts" / f"{section}.tsv.gz"
    counts = pd.read_csv(path, sep="\t", index_col=0)[panel]
    ceiling = metrics.noise_ceiling(counts.to_numpy(), log_counts, n_repeats=3)
    assert 0.45 < ceiling.mean() < 0.53
    assert 0.80 < ceiling.nlargest(50).mean() < 0.85
    observed = pd.DataFrame(log_counts(counts), counts.index, counts.columns)
    summary = metrics.depth_oracle(counts.sum(axis=1), observed).summary
    assert summary["pcc_mean"] == pytest.approx(oracle, abs=0.015)
    assert summary["pcc_partial"] == 0
