"""Count likelihoods against scipy's distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nh2st_graph.nn import negative_binomial_nll, zero_inflated_negative_binomial_nll

MEANS, DISPERSIONS, LOGITS = st.floats(1e-3, 1e3), st.floats(-3, 6), st.floats(-30, 30)


def tensor(value):
    return torch.as_tensor(value, dtype=torch.float64)


def nbinom(mean, log_dispersion):
    """scipy's distribution: successes at a rate, with the failures before them as counts."""
    theta = np.exp(log_dispersion)
    return stats.nbinom(theta, theta / (theta + mean))


def probabilities(nll):
    return (-nll).exp()


# Negative binomial


@given(mean=MEANS, log_dispersion=DISPERSIONS, counts=st.lists(st.integers(0, 2000), min_size=1, max_size=20))
def test_negative_binomial_equals_scipy(mean, log_dispersion, counts):
    nll = negative_binomial_nll(tensor(counts), tensor(mean), tensor(log_dispersion))
    np.testing.assert_allclose(nll, -nbinom(mean, log_dispersion).logpmf(counts), rtol=1e-7, atol=1e-7)


@given(mean=st.floats(0.01, 30), log_dispersion=st.floats(-1, 6))
def test_negative_binomial_sums_to_one_and_has_the_stated_moments(mean, log_dispersion):
    counts = torch.arange(5000, dtype=torch.float64)
    p = probabilities(negative_binomial_nll(counts, tensor(mean), tensor(log_dispersion)))
    variance = mean + mean**2 / np.exp(log_dispersion)
    assert float(p.sum()) == pytest.approx(1, abs=1e-6)
    assert float((counts * p).sum()) == pytest.approx(mean, rel=1e-6)
    assert float(((counts - mean) ** 2 * p).sum()) == pytest.approx(variance, rel=1e-5)


def test_with_little_dispersion_it_is_poisson():
    counts = torch.arange(30, dtype=torch.float64)
    nll = negative_binomial_nll(counts, tensor(7.0), tensor(18.0))
    np.testing.assert_allclose(nll, -stats.poisson(7.0).logpmf(counts), atol=1e-5)


def test_dispersion_belongs_to_genes_and_means_to_spots_and_genes():
    rng = np.random.default_rng(0)
    counts, mean, log_dispersion = rng.poisson(5, (6, 3)), rng.gamma(2, 2, (6, 3)), rng.normal(size=3)
    nll = negative_binomial_nll(tensor(counts), tensor(mean), tensor(log_dispersion))
    for spot, gene in np.ndindex(6, 3):
        expected = -nbinom(mean[spot, gene], log_dispersion[gene]).logpmf(counts[spot, gene])
        assert float(nll[spot, gene]) == pytest.approx(expected)


# Zero-inflated negative binomial


@given(
    mean=MEANS,
    log_dispersion=DISPERSIONS,
    logit=LOGITS,
    counts=st.lists(st.integers(0, 2000), min_size=1, max_size=20),
)
def test_zero_inflated_equals_a_mixture_of_scipys_distributions(mean, log_dispersion, logit, counts):
    nll = zero_inflated_negative_binomial_nll(*map(tensor, (counts, mean, log_dispersion, logit)))
    dropout, kept = -np.logaddexp(0, -logit), -np.logaddexp(0, logit)
    observed = nbinom(mean, log_dispersion).logpmf(counts) + kept
    expected = np.where(np.array(counts) == 0, np.logaddexp(dropout, observed), observed)
    np.testing.assert_allclose(nll, -expected, rtol=1e-7, atol=1e-7)


@given(mean=st.floats(0.01, 30), log_dispersion=st.floats(-1, 6), logit=LOGITS)
def test_zero_inflated_sums_to_one_and_has_the_diluted_mean(mean, log_dispersion, logit):
    counts = torch.arange(5000, dtype=torch.float64)
    p = probabilities(zero_inflated_negative_binomial_nll(counts, *map(tensor, (mean, log_dispersion, logit))))
    assert float(p.sum()) == pytest.approx(1, abs=1e-6)
    assert float((counts * p).sum()) == pytest.approx(mean / (1 + np.exp(logit)), rel=1e-6)


def test_without_dropout_it_is_the_negative_binomial():
    counts = torch.arange(50, dtype=torch.float64)
    plain = negative_binomial_nll(counts, tensor(8.0), tensor(0.5))
    for logit in (-60.0, -torch.inf):
        inflated = zero_inflated_negative_binomial_nll(counts, tensor(8.0), tensor(0.5), tensor(logit))
        torch.testing.assert_close(inflated, plain)


def test_with_certain_dropout_a_zero_is_free_and_a_count_is_not():
    nll = zero_inflated_negative_binomial_nll(tensor([0, 3]), tensor(8.0), tensor(0.5), tensor(60.0))
    assert float(nll[0]) == pytest.approx(0, abs=1e-12)
    assert float(nll[1]) == pytest.approx(60 - nbinom(8.0, 0.5).logpmf(3))


def test_dropout_belongs_to_genes_or_to_spots_and_genes():
    counts, mean = tensor([[0.0, 2.0], [1.0, 0.0]]), tensor([[1.0, 2.0], [3.0, 4.0]])
    per_gene = tensor([-1.0, 2.0])
    torch.testing.assert_close(
        zero_inflated_negative_binomial_nll(counts, mean, tensor([0.0, 1.0]), per_gene),
        zero_inflated_negative_binomial_nll(counts, mean, tensor([0.0, 1.0]), per_gene.expand(2, 2)),
    )


@pytest.mark.parametrize("logit", [-100.0, 0.0, 100.0])
@pytest.mark.parametrize("mean", [1e-8, 1.0, 1e4])
def test_extremes_stay_finite_in_single_precision(mean, logit):
    parameters = [torch.tensor([value]).requires_grad_() for value in (mean, 0.0, logit)]
    nll = zero_inflated_negative_binomial_nll(torch.tensor([0.0, 5.0]), *parameters)
    nll.sum().backward()
    assert nll.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in parameters)


# Gradients


def test_gradients():
    rng = np.random.default_rng(0)
    counts = tensor(rng.poisson(1.0, (4, 3)))
    assert (counts == 0).any()
    mean, logits = (tensor(values).requires_grad_() for values in (rng.gamma(2, 1, (4, 3)), rng.normal(size=(4, 3))))
    log_dispersion = tensor(rng.normal(size=3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda *rest: negative_binomial_nll(counts, *rest), (mean, log_dispersion))
    assert torch.autograd.gradcheck(
        lambda *rest: zero_inflated_negative_binomial_nll(counts, *rest), (mean, log_dispersion, logits)
    )


def test_descent_finds_the_parameters_that_drew_the_counts():
    rng = np.random.default_rng(0)
    counts = tensor(nbinom(6.0, 1.0).rvs(20_000, random_state=rng) * (rng.random(20_000) > 0.3))
    log_mean, log_dispersion, logit = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(3))
    optimiser = torch.optim.LBFGS([log_mean, log_dispersion, logit], max_iter=60, line_search_fn="strong_wolfe")

    def step():
        optimiser.zero_grad()
        loss = zero_inflated_negative_binomial_nll(counts, log_mean.exp(), log_dispersion, logit).mean()
        loss.backward()
        return loss

    optimiser.step(step)
    assert float(log_mean.detach().exp()) == pytest.approx(6.0, rel=0.05)
    assert float(log_dispersion.detach()) == pytest.approx(1.0, abs=0.1)
    assert float(logit.detach().sigmoid()) == pytest.approx(0.3, abs=0.02)
