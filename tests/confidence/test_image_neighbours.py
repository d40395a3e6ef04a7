"""The score of genes by the nearest images, beside the authors' numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from nh2st_graph import DataError
from nh2st_graph.confidence import expression_predictability

GOLDEN = json.loads((Path(__file__).parent / "golden" / "expression_copilot.json").read_text())
FEATURES, EXPRESSION = np.array(GOLDEN["features"]), np.array(GOLDEN["expression"])


@pytest.mark.parametrize("n_neighbours", [5, 10])
def test_gives_the_numbers_of_expression_copilot(n_neighbours):
    found = expression_predictability(FEATURES, EXPRESSION, n_neighbours=n_neighbours)
    assert_allclose(found, GOLDEN["eps"][str(n_neighbours)], atol=2e-5)


def test_is_gearys_c_written_out():
    n, k, y = len(FEATURES), 3, EXPRESSION[:, 0]
    directions = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
    likeness = directions @ directions.T - 9 * np.eye(n)
    between = sum((y[i] - y[j]) ** 2 for i in range(n) for j in np.argsort(-likeness[i])[:k])
    expected = -np.log((n - 1) * between / (2 * n * k * ((y - y.mean()) ** 2).sum()))
    assert expression_predictability(FEATURES, EXPRESSION, n_neighbours=k)[0] == pytest.approx(expected)


def test_noise_scores_about_zero_and_a_gene_of_the_image_more():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 3))
    genes = np.column_stack([features[:, 0] / np.linalg.norm(features, axis=1), rng.normal(size=400)])
    own, noise = expression_predictability(features, genes)
    assert own > 2
    assert abs(noise) < 0.15


def test_units_of_a_gene_and_the_order_of_spots_and_genes_change_nothing():
    rng = np.random.default_rng(0)
    spots, genes = rng.permutation(len(FEATURES)), rng.permutation(EXPRESSION.shape[1])
    changed = expression_predictability(2 * FEATURES[spots], 7 - 3 * EXPRESSION[spots][:, genes])
    assert_allclose(changed, expression_predictability(FEATURES, EXPRESSION)[genes])


def test_a_constant_gene_has_no_score():
    genes = np.column_stack([np.full(len(EXPRESSION), 0.3), EXPRESSION[:, 0]])
    assert np.isnan(expression_predictability(FEATURES, genes)).tolist() == [True, False]


def test_too_few_or_other_spots_are_refused():
    with pytest.raises(DataError, match="5 spots"):
        expression_predictability(FEATURES[:5], EXPRESSION[:5])
    with pytest.raises(DataError, match="same spots"):
        expression_predictability(FEATURES, EXPRESSION[1:])
