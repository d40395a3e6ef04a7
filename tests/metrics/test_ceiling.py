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
    # A frame lies otherwise in memory, and numpy then adds up in another order.
    np.testing.assert_allclose(results["frame"], results["array"], rtol=1e-14)
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


class TestInterval:
    """Genes of known means, a third of them pure noise: what the counts of a section say, and what is true."""

    NOISE = np.arange(60) % 3 == 0
    LEVELS = np.geomspace(0.05, 50, 60)

    def means(self, rng: np.random.Generator, n_spots: int) -> np.ndarray:
        signal = np.where(self.NOISE, 0.0, rng.normal(0, 0.4, (n_spots, 60)))
        return np.exp(signal) * self.LEVELS

    @pytest.fixture(scope="class")
    def truth(self) -> np.ndarray:
        rng = np.random.default_rng(0)
        means = self.means(rng, 40_000)
        return np.where(self.NOISE, 0.0, metrics.pearson(means, rng.poisson(means)))

    @pytest.fixture(scope="class")
    def found(self) -> list[tuple[pd.DataFrame, np.ndarray]]:
        """Intervals on five small sections, and the score of a perfect predictor there."""
        rng = np.random.default_rng(1)
        all_means = [self.means(rng, 250) for _ in range(5)]
        counts = [rng.poisson(means) for means in all_means]
        return [
            (metrics.noise_ceiling_interval(n, lambda half: half, n_boot=100), metrics.pearson(means, n))
            for n, means in zip(counts, all_means, strict=True)
        ]

    def test_holds_the_true_ceiling(self, found, truth) -> None:
        inside = np.array([table["ceiling_low"].le(truth) & table["ceiling_high"].ge(truth) for table, _ in found])
        assert inside[:, ~self.NOISE].mean() > 0.9
        assert inside[:, self.NOISE].mean() > 0.95

    def test_a_gene_of_noise_has_no_measurable_ceiling_and_a_clear_one_has(self, found, truth) -> None:
        measurable = np.array([table["ceiling_low"] > 0 for table, _ in found])
        assert measurable[:, self.NOISE].mean() < 0.04
        assert measurable[:, truth > 0.6].all()

    def test_a_perfect_predictor_passes_the_estimate_of_many_genes_and_the_interval_of_few(self, found) -> None:
        passed = np.array([score > table["ceiling"] for table, score in found])[:, ~self.NOISE]
        beyond = np.array([score > table["ceiling_high"] for table, score in found])[:, ~self.NOISE]
        assert passed.mean() > 0.35
        assert beyond.mean() < 0.05

    def test_a_perfect_predictor_reaches_all_of_it(self, found) -> None:
        shares = [metrics.share_of_ceiling(pd.Series(score), table) for table, score in found]
        # Genes are chosen by a ceiling that was measured, so that it is a little too high.
        assert np.mean(shares) == pytest.approx(0.98, abs=0.03)

    def test_the_ceiling_is_that_without_an_interval_and_lies_within(self, poisson) -> None:
        counts = pd.DataFrame(poisson[0][:80], columns=[f"g{j}" for j in range(10)])
        table = metrics.noise_ceiling_interval(counts, lambda half: half, n_repeats=3, n_boot=20, seed=2)
        pd.testing.assert_series_equal(
            table["ceiling"], metrics.noise_ceiling(counts, lambda half: half, n_repeats=3, seed=2)
        )
        assert table["ceiling_low"].between(0, table["ceiling"]).all()
        assert table["ceiling_high"].between(table["ceiling"], 1).all()

    def test_it_follows_from_its_seed(self, poisson) -> None:
        tables = [
            metrics.noise_ceiling_interval(poisson[0][:60], lambda half: half, n_boot=20, seed=seed)
            for seed in (3, 3, 4)
        ]
        assert tables[0].equals(tables[1])
        assert not tables[0].equals(tables[2])

    def test_equals_a_loop_over_drawn_spots(self, poisson) -> None:
        """The draws as rows that are there several times, and each correlated by itself."""
        counts, halves = poisson[0][:40], []
        metrics.noise_ceiling(counts, lambda half: halves.append(half) or half, n_repeats=2, seed=5)

        def mean_r(draw: np.ndarray) -> np.ndarray:
            first, second, third, fourth = (np.repeat(half, draw, axis=0) for half in halves)
            return (metrics.pearson(first, second) + metrics.pearson(third, fourth)) / 2

        draws = np.random.default_rng([5, 1]).multinomial(40, np.full(40, 1 / 40), size=30)
        low, high = np.quantile([mean_r(draw) for draw in draws], [0.025, 0.975], axis=0)
        error = 1.96 * np.sqrt(0.75 / 37)
        z = np.arctanh(mean_r(np.ones(40, int)))
        ends = np.clip([np.minimum(low, np.tanh(z - error)), np.maximum(high, np.tanh(z + error))], 0, 1)
        table = metrics.noise_ceiling_interval(counts, lambda half: half, n_repeats=2, n_boot=30, seed=5)
        np.testing.assert_allclose(table[["ceiling_low", "ceiling_high"]].T, np.sqrt(2 * ends / (1 + ends)), atol=1e-9)

    @pytest.mark.filterwarnings("error")
    def test_a_gene_that_is_nearly_never_seen_has_none(self) -> None:
        counts = np.zeros((50, 3), int)
        counts[7, 0], counts[:, 2] = 1, 4
        table = metrics.noise_ceiling_interval(counts, lambda half: half)
        assert table["ceiling_low"].tolist()[:2] == [0, 0]
        assert table.loc[1, ["ceiling", "ceiling_low"]].tolist() == [0, 0]
        assert 0.3 < table.loc[1, "ceiling_high"] < 0.9, "in 50 spots"

    def test_bad_counts_are_refused(self) -> None:
        with pytest.raises(DataError, match="negative or not integers"):
            metrics.noise_ceiling_interval(np.array([[-1, 1]]), lambda half: half)
        with pytest.raises(DataError, match="n_repeats=0"):
            metrics.noise_ceiling_interval(np.ones((3, 2), int), lambda half: half, n_repeats=0)


def test_share_of_ceiling_leaves_out_genes_whose_interval_begins_at_0() -> None:
    pcc = pd.Series({"a": 0.3, "b": 0.1, "c": 0.9})
    table = pd.DataFrame({"ceiling": [0.4, 0.3, 0.6], "ceiling_low": [0.2, 0.0, 0.5]}, index=["b", "c", "a"])
    assert metrics.share_of_ceiling(pcc, table) == pytest.approx(0.4)
    assert metrics.share_of_ceiling(pcc, table.assign(ceiling_low=0.0)) is None
    with pytest.raises(DataError, match="1 in one only"):
        metrics.share_of_ceiling(pcc, table.drop("a"))


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
    counts = pd.read_csv(path, sep="\t", index_col=0, usecols=["Unnamed: 0", *panel])[panel]
    ceiling = metrics.noise_ceiling(counts.to_numpy(), log_counts, n_repeats=3)
    assert 0.45 < ceiling.mean() < 0.53
    assert 0.80 < ceiling.nlargest(50).mean() < 0.85
    observed = pd.DataFrame(log_counts(counts), counts.index, counts.columns)
    summary = metrics.depth_oracle(counts.sum(axis=1), observed).summary
    assert summary["pcc_mean"] == pytest.approx(oracle, abs=0.015)
    assert summary["pcc_partial"] == 0
