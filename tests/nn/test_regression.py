"""Regression losses against numpy and scipy, gene by gene."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr

from nh2st_graph.nn import huber, mse, one_minus_pearson

SIZES = {"n": st.integers(2, 12), "n_genes": st.integers(1, 6), "seed": st.integers(0, 10**6)}


def expression(n, n_genes, seed=0):
    rng = np.random.default_rng(seed)
    observed = rng.normal(2, 1, (n, n_genes))
    return torch.from_numpy(0.5 * observed + rng.normal(size=(n, n_genes))), torch.from_numpy(observed)


@given(**SIZES)
def test_squared_and_huber_loss_equal_their_formulas(n, n_genes, seed):
    predicted, observed = expression(n, n_genes, seed)
    error = (predicted - observed).numpy()
    assert float(mse(predicted, observed)) == pytest.approx((error**2).mean())
    for delta in (0.3, 1.0):
        expected = [e**2 / 2 if abs(e) <= delta else delta * (abs(e) - delta / 2) for e in error.flat]
        assert float(huber(predicted, observed, delta)) == pytest.approx(np.mean(expected))
    assert float(huber(predicted, observed)) == float(huber(predicted, observed, 1.0))


@given(**SIZES)
def test_pearson_loss_equals_scipy_gene_by_gene(n, n_genes, seed):
    predicted, observed = expression(n, n_genes, seed)
    r = [pearsonr(predicted[:, gene], observed[:, gene]).statistic for gene in range(n_genes)]
    assert float(one_minus_pearson(predicted, observed)) == pytest.approx(1 - np.mean(r), abs=1e-9)


@given(scale=st.floats(1e-3, 1e3), offset=st.floats(-100, 100), **SIZES)
def test_pearson_loss_sees_neither_scale_nor_offset_and_turns_with_the_sign(scale, offset, n, n_genes, seed):
    predicted, observed = expression(n, n_genes, seed)
    loss = one_minus_pearson(predicted, observed)
    torch.testing.assert_close(one_minus_pearson(scale * predicted + offset, observed), loss, atol=1e-6, rtol=0)
    torch.testing.assert_close(one_minus_pearson(predicted, scale * observed + offset), loss, atol=1e-6, rtol=0)
    torch.testing.assert_close(one_minus_pearson(-predicted, observed), 2 - loss)
    torch.testing.assert_close(one_minus_pearson(observed, predicted), loss)


def test_pearson_loss_is_zero_for_the_truth_and_two_for_its_opposite():
    _, observed = expression(20, 5)
    assert float(one_minus_pearson(observed, observed)) == pytest.approx(0, abs=1e-12)
    assert float(one_minus_pearson(-observed, observed)) == pytest.approx(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
@pytest.mark.parametrize("side", ["predicted", "observed"])
def test_constant_genes_are_left_out(dtype, value, side):
    both = dict(zip(("predicted", "observed"), (each.to(dtype) for each in expression(37, 6)), strict=True))
    kept = [0, 2, 3, 5]
    expected = one_minus_pearson(both["predicted"][:, kept], both["observed"][:, kept])
    both[side][:, [1, 4]] = value
    predicted = both["predicted"].requires_grad_()
    loss = one_minus_pearson(predicted, both["observed"])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert predicted.grad.isfinite().all()
    assert not predicted.grad[:, [1, 4]].any()
    assert predicted.grad[:, kept].any(dim=0).all()


@pytest.mark.parametrize("n", [1, 10])
def test_where_no_gene_has_an_r_the_loss_is_one_and_teaches_nothing(n):
    predicted = torch.full((n, 4), 0.1, requires_grad=True)
    loss = one_minus_pearson(predicted, torch.arange(4.0).expand(n, 4))
    loss.backward()
    assert float(loss.detach()) == 1
    assert not predicted.grad.any()


def test_broken_numbers_show():
    predicted, observed = expression(10, 3)
    predicted[4, 1] = torch.nan
    assert one_minus_pearson(predicted, observed).isnan()


@pytest.mark.parametrize("loss", [mse, huber, one_minus_pearson])
def test_gradients(loss):
    predicted, observed = expression(6, 3)
    observed[:, 1] = 2.0
    assert torch.autograd.gradcheck(lambda p: loss(p, observed), predicted.requires_grad_())
