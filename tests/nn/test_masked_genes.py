"""Measured genes of a spot, and of the spots around it, fill in others as the joint normal distribution says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from nh2st_graph.nn import MaskedGenes, MeasuredSpots, fit_masked_genes


def field(n: int, n_genes: int = 12, seed: int = 0, noise: float = 0.3, length: float = 3.0) -> MeasuredSpots:
    """Errors of one component that is smooth over a square of spots, and noise of genes."""
    rng = np.random.default_rng(seed)
    pos = np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2).astype(float)
    between = np.exp(-np.linalg.norm(pos[:, None] - pos, axis=2) / length)
    smooth = np.linalg.cholesky(between + 1e-9 * np.eye(n * n)) @ rng.normal(size=n * n)
    loadings = np.random.default_rng(99).normal(size=n_genes)
    error = smooth[:, None] * loadings + noise * rng.normal(size=(n * n, n_genes))
    return MeasuredSpots(*(torch.from_numpy(each) for each in (pos, error, np.full(n * n, 1000.0))))


@pytest.fixture(scope="module")
def fitted() -> MaskedGenes:
    found = fit_masked_genes([field(10, seed=seed) for seed in range(3)])
    assert found is not None
    return found


def fill(of: MaskedGenes, given: MeasuredSpots, measured: Tensor) -> Tensor:
    spots = measured.any(dim=1).nonzero()[:, 0]
    return of.scores(given.pos, spots, MeasuredSpots(*(x[spots] for x in given)), measured[spots]) @ of.basis


def test_masked_spots_are_found_from_those_around(fitted):
    new = field(10, seed=7)
    spots = torch.from_numpy(np.random.default_rng(0).permutation(100) < 50)
    filled = fill(fitted, new, spots[:, None].expand(-1, 12))
    left = (filled - new.error)[~spots].square().mean()
    assert left < 0.5 * new.error[~spots].square().mean()


def test_masked_genes_are_found_from_others_of_the_spot(fitted):
    new = field(6, seed=8)
    genes = torch.arange(12) < 6
    filled = fill(fitted, new, genes.expand(36, -1))
    left = (filled - new.error)[:, ~genes].square().mean()
    assert left < 0.3 * new.error[:, ~genes].square().mean()


def test_spots_agree_with_kriging_one_by_one(fitted):
    """Wholly measured spots, and few enough that all are neighbours."""
    new, spots = field(6, seed=3), torch.from_numpy(np.random.default_rng(1).permutation(36) < 9)
    found = fill(fitted, new, spots[:, None].expand(-1, 12))
    there, expected = new.pos[spots], torch.zeros(36, len(fitted.length), dtype=torch.float64)
    precision = (fitted.basis / fitted.remainder) @ fitted.basis.T + torch.diag(fitted.prior.reciprocal())
    variance = torch.linalg.inv(precision).diagonal()
    told = 1 - variance / fitted.prior
    mean = torch.linalg.solve(precision, (fitted.basis / fitted.remainder) @ new.error[spots].T).T / told
    shared = fitted.prior / (1.1 + fitted.noise)
    for k, length in enumerate(fitted.length):
        noise = fitted.noise[k] * fitted.depth / 1000 + variance[k] / told[k] / shared[k]
        products = torch.exp(-torch.cdist(there, there) / length) + 0.1 + noise * torch.eye(9)
        for i in range(36):
            likeness = torch.exp(-(there - new.pos[i]).norm(dim=1) / length) + 0.1
            expected[i, k] = fitted.factor[k] * likeness @ torch.linalg.solve(products, mean[:, k])
    torch.testing.assert_close(found[~spots], (expected @ fitted.basis)[~spots], rtol=1e-8, atol=1e-8)


def test_a_lonely_spot_is_the_mean_given_its_measured_genes(fitted):
    """The conditional mean of a normal distribution, without the components."""
    error, given = field(3, seed=5).error[:1], torch.arange(12) < 5
    alone = MeasuredSpots(torch.zeros(1, 2), error, torch.tensor([1000.0]))
    found = fill(fitted, alone, given[None])
    covariance = fitted.basis.T @ torch.diag(fitted.prior) @ fitted.basis
    seen = covariance[:, given] @ torch.linalg.inv(covariance[given][:, given] + torch.diag(fitted.remainder[given]))
    torch.testing.assert_close(found[0], seen @ error[0, given], rtol=1e-6, atol=1e-8)


def test_the_order_of_spots_decides_nothing(fitted):
    new, measured = field(7, seed=2), torch.from_numpy(np.random.default_rng(2).random((49, 12)) < 0.3)
    # No two spots are equally far from a third, so that it is clear which are the nearest.
    new = new._replace(pos=new.pos + torch.from_numpy(np.random.default_rng(3).normal(0, 0.1, (49, 2))))
    order = torch.from_numpy(np.random.default_rng(4).permutation(49))
    found = fill(fitted, MeasuredSpots(*(x[order] for x in new)), measured[order])
    torch.testing.assert_close(found, fill(fitted, new, measured)[order], rtol=1e-9, atol=1e-9)


def test_nothing_measured_and_no_counts_say_nothing(fitted):
    new = field(4)
    assert not fill(fitted, new, torch.zeros(16, 12, dtype=torch.bool)).any()
    empty = new._replace(depth=torch.zeros(16))
    assert not fill(fitted, empty, torch.ones(16, 12, dtype=torch.bool)).any()


def test_several_spots_at_one_place(fitted):
    new = field(8, seed=1)
    stacked = new._replace(pos=torch.zeros(64, 2))
    assert fill(fitted, stacked, torch.arange(12).expand(64, -1) < 6).isfinite().all()


def test_errors_without_neighbours_get_no_weight():
    """Where held-out tissue says that neighbours tell nothing, they change little."""
    rough = [field(10, seed=seed, length=1e-3) for seed in range(4)]
    found = fit_masked_genes(rough[:3])
    assert found is not None
    spots = torch.from_numpy(np.random.default_rng(0).permutation(100) < 50)
    filled = fill(found, rough[3], spots[:, None].expand(-1, 12))[~spots]
    assert filled.square().mean() < 0.05 * rough[3].error[~spots].square().mean()


def test_nothing_is_learned_of_nothing():
    new = field(4)
    assert fit_masked_genes([]) is None
    assert fit_masked_genes([new._replace(error=torch.zeros_like(new.error))]) is None
    assert fit_masked_genes([new._replace(depth=torch.zeros(16))]) is None


def test_it_is_restored_to_the_last_bit(fitted):
    again = MaskedGenes.restore(fitted.memory())
    assert all(torch.equal(each, again.memory()[name]) for name, each in fitted.memory().items())
    new, measured = field(5), torch.ones(25, 12, dtype=torch.bool)
    assert torch.equal(fill(again, new, measured), fill(fitted, new, measured))
    with pytest.raises(KeyError):
        MaskedGenes.restore({})
