"""What predictions are used for: against definitions in loops, and on sections whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse, stats

from nh2st_graph import DataError, metrics
from nh2st_graph.section import Key

ROWS, COLUMNS = 8, 9
SCORES = {"moran_r", "moran_mae", "svg_auroc", "cluster_ari", "cluster_nmi", "gene_corr_r"}


def lattice(n_rows: int = ROWS, n_columns: int = COLUMNS) -> np.ndarray:
    row, column = np.divmod(np.arange(n_rows * n_columns), n_columns)
    steps = np.abs(row[:, None] - row) + np.abs(column[:, None] - column)
    return (steps == 1).astype(float)


def prediction(predicted: np.ndarray, observed: np.ndarray, graph: np.ndarray | None = None) -> AnnData:
    return AnnData(
        predicted.astype(np.float32),
        layers={Key.layers.observed: observed.astype(np.float32)},
        obsp={Key.obsp.connectivities: sparse.csr_matrix(lattice() if graph is None else graph)},
    )


@pytest.fixture(scope="module")
def observed() -> np.ndarray:
    """Ten genes with gradients of all strengths, and ten of noise."""
    rng = np.random.default_rng(0)
    column = np.arange(ROWS * COLUMNS) % COLUMNS
    return column[:, None] / COLUMNS * np.linspace(3, -3, 20).clip(0) + rng.normal(size=(ROWS * COLUMNS, 20))


@pytest.fixture(scope="module")
def predicted(observed) -> np.ndarray:
    rng = np.random.default_rng(1)
    values = 0.4 * observed + rng.normal(size=observed.shape)
    values[:, 3] = 1.7
    return values


def moran(values: np.ndarray, graph: np.ndarray) -> float:
    if np.ptp(values) == 0:
        return 0.0
    weights = graph / np.maximum(graph.sum(axis=1, keepdims=True), 1)
    z = values - values.mean()
    total = sum(weights[i, j] * z[i] * z[j] for i in range(len(z)) for j in range(len(z)))
    return len(z) / weights.sum() * total / (z**2).sum()


def corrected_p(statistics: np.ndarray, graph: np.ndarray) -> np.ndarray:
    """P-values under normality (Cliff and Ord 1981), then Benjamini and Hochberg's step-up."""
    w = graph / np.maximum(graph.sum(axis=1, keepdims=True), 1)
    n, s0 = len(w), w.sum()
    s1, s2 = ((w + w.T) ** 2).sum() / 2, ((w.sum(axis=0) + w.sum(axis=1)) ** 2).sum()
    variance = (n**2 * s1 - n * s2 + 3 * s0**2) / ((n**2 - 1) * s0**2) - 1 / (n - 1) ** 2
    p = stats.norm.sf(np.abs(statistics + 1 / (n - 1)) / np.sqrt(variance))
    order = np.argsort(p)
    corrected = np.empty_like(p)
    lowest = 1.0
    for rank in range(len(p), 0, -1):
        lowest = min(lowest, p[order[rank - 1]] * len(p) / rank)
        corrected[order[rank - 1]] = lowest
    return corrected


# Against definitions


def test_morans_i_of_predicted_and_observed_genes(predicted, observed):
    ours = metrics.downstream_scores(prediction(predicted, observed))
    of_predicted, of_observed = ([moran(gene, lattice()) for gene in values.T] for values in (predicted, observed))
    assert of_predicted[3] == 0
    assert ours["moran_r"] == pytest.approx(np.corrcoef(of_predicted, of_observed)[0, 1], abs=1e-5)
    assert ours["moran_mae"] == pytest.approx(np.abs(np.subtract(of_predicted, of_observed)).mean(), abs=1e-5)


def test_recovery_of_spatially_variable_genes(predicted, observed):
    of_predicted, of_observed = (
        np.array([moran(gene, lattice()) for gene in values.T]) for values in (predicted, observed)
    )
    variable = (corrected_p(of_observed, lattice()) < 0.05) & (of_observed > 0)
    assert 5 < variable.sum() < 15
    wins = [(a > b) + (a == b) / 2 for a in of_predicted[variable] for b in of_predicted[~variable]]
    ours = metrics.downstream_scores(prediction(predicted, observed))
    assert ours["svg_auroc"] == pytest.approx(np.mean(wins))


def test_a_gene_that_avoids_itself_is_not_spatially_variable(observed):
    """squidpy's one-tailed p-value is small for a chequered gene too."""
    row, column = np.divmod(np.arange(ROWS * COLUMNS), COLUMNS)
    chequered = np.column_stack([(row + column) % 2, column]) + 0.1 * observed[:, :2]
    assert moran(chequered[:, 0], lattice()) < -0.8
    assert metrics.downstream_scores(prediction(chequered, chequered))["svg_auroc"] == 1


def test_gene_gene_correlations(predicted, observed):
    pairs = {"predicted": [], "observed": []}
    for name, values in (("predicted", predicted), ("observed", observed)):
        for i in range(20):
            for j in range(i + 1, 20):
                constant = name == "predicted" and 3 in (i, j)
                pairs[name].append(0.0 if constant else stats.pearsonr(values[:, i], values[:, j]).statistic)
    ours = metrics.downstream_scores(prediction(predicted, observed))
    assert ours["gene_corr_r"] == pytest.approx(np.corrcoef(*pairs.values())[0, 1], abs=1e-5)


# Sections whose answer is known


@pytest.mark.parametrize("n_genes", [12, 80])
def test_clusters_are_found_again_whatever_they_are_made_of(n_genes):
    """Three groups of spots; by the genes themselves, and by their principal components."""
    rng = np.random.default_rng(0)
    group = np.arange(ROWS * COLUMNS) // (ROWS * COLUMNS // 3)
    measured, other = (rng.normal(size=(3, n_genes))[group] * 9 for _ in range(2))
    noise = rng.normal(size=(2, len(group), n_genes))
    same = metrics.downstream_scores(prediction(other + noise[0], measured + noise[1]))
    assert (same["cluster_ari"], same["cluster_nmi"]) == pytest.approx((1, 1))
    apart = metrics.downstream_scores(prediction(other[rng.permutation(len(group))] + noise[0], measured + noise[1]))
    assert apart["cluster_ari"] < 0.2


def test_the_observed_itself_is_perfect(observed):
    ours = metrics.downstream_scores(prediction(observed, observed))
    assert ours == pytest.approx(dict.fromkeys(SCORES, 1.0) | {"moran_mae": 0.0})


def test_scale_and_level_of_a_prediction_do_not_matter_to_genes(predicted, observed):
    rng = np.random.default_rng(2)
    ours = metrics.downstream_scores(prediction(predicted, observed))
    scaled = metrics.downstream_scores(prediction(rng.uniform(0.1, 9, 20) * predicted + 3, observed))
    for name in ("moran_r", "moran_mae", "svg_auroc", "gene_corr_r"):
        assert scaled[name] == pytest.approx(ours[name], abs=1e-4)


@pytest.mark.parametrize("n_genes", [20, 60])
def test_the_training_mean_keeps_nothing(observed, n_genes):
    observed = np.tile(observed, 3)[:, :n_genes]
    ours = metrics.downstream_scores(prediction(np.tile(observed.mean(axis=0), (len(observed), 1)), observed))
    assert ours["moran_mae"] == pytest.approx(np.mean([abs(moran(gene, lattice())) for gene in observed.T]), abs=1e-5)
    expected = {"moran_r": 0, "svg_auroc": 0.5, "cluster_ari": 0, "cluster_nmi": 0, "gene_corr_r": 0}
    assert {name: ours[name] for name in expected} == pytest.approx(expected)


def test_where_a_score_has_no_meaning_it_is_none(observed):
    column = (np.arange(ROWS * COLUMNS) % COLUMNS)[:, None] + 0.1 * observed
    assert metrics.downstream_scores(prediction(column, column))["svg_auroc"] is None
    constant = np.ones_like(observed)
    assert metrics.downstream_scores(prediction(observed, constant))["svg_auroc"] is None
    edgeless = metrics.downstream_scores(prediction(observed, observed, np.zeros((len(observed),) * 2)))
    assert [edgeless[name] for name in ("moran_r", "moran_mae", "svg_auroc")] == [None] * 3
    assert edgeless["cluster_ari"] == 1
    one_gene = metrics.downstream_scores(prediction(observed[:, :1], observed[:, :1]))
    assert (one_gene["moran_r"], one_gene["gene_corr_r"]) == (None, None)
    assert one_gene["moran_mae"] == 0


@pytest.mark.parametrize("n_spots", [1, 2, 3, 4, 10])
def test_few_spots(observed, n_spots):
    ours = metrics.downstream_scores(
        prediction(observed[:n_spots] + 1, observed[:n_spots], lattice()[:n_spots, :n_spots])
    )
    assert set(ours) == SCORES
    assert ours["cluster_ari"] == (1 if n_spots >= 4 else None)


# Use


def test_it_is_json_leaves_the_prediction_alone_and_comes_out_the_same_again(predicted, observed):
    section = prediction(predicted, observed)
    before = section.copy()
    ours = metrics.downstream_scores(section, seed=3)
    assert json.loads(json.dumps(ours, allow_nan=False)) == ours
    assert metrics.downstream_scores(section, seed=3) == ours
    for slot in ("obs", "var", "obsm", "varm", "obsp", "uns", "layers"):
        assert set(getattr(section, slot)) == set(getattr(before, slot))
    np.testing.assert_array_equal(section.X, before.X)
    assert (section.obsp[Key.obsp.connectivities] != before.obsp[Key.obsp.connectivities]).nnz == 0


def test_sparse_values_score_the_same(predicted, observed):
    section = prediction(predicted, observed)
    scores = metrics.downstream_scores(section)
    section.X = sparse.csr_matrix(section.X)
    section.layers[Key.layers.observed] = sparse.csr_matrix(section.layers[Key.layers.observed])
    assert metrics.downstream_scores(section) == scores


def test_what_is_missing_is_named(predicted, observed):
    section = prediction(predicted, observed)
    without = section.copy()
    del without.layers[Key.layers.observed]
    with pytest.raises(DataError, match=r"no layers\['observed'\] to compare with"):
        metrics.downstream_scores(without)
    without = section.copy()
    del without.obsp[Key.obsp.connectivities]
    with pytest.raises(DataError, match=r"no obsp\['spatial_connectivities'\]; run ng.gr.spatial_graph"):
        metrics.downstream_scores(without)
    section.X[3, 2] = np.nan
    with pytest.raises(DataError, match="predicted has values that are not finite numbers"):
        metrics.downstream_scores(section)
