from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph.nn import hsic, normalized_hsic


def drawn(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(x, sigma):
    """The Gaussian kernel, pair by pair; its width the median distance where none is given."""
    n = len(x)
    squared = torch.tensor([[float((a - b).square().sum()) for b in x] for a in x], dtype=torch.float64)
    if sigma is None:
        between = sorted(float(squared[i, j]) for i in range(n) for j in range(i))
        # Of an even number of distances, the lower of the two in the middle.
        sigma = between[(len(between) - 1) // 2] ** 0.5
    return torch.exp(-squared / sigma**2)


def by_trace(x, y, sigma):
    n = len(x)
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    return torch.trace(kernel(x, sigma) @ centring @ kernel(y, sigma) @ centring) / (n - 1) ** 2


@given(
    n=st.integers(2, 9),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 99),
    sigma=st.sampled_from([0.5, 2.0, 10.0, None]),
    offset=st.sampled_from([0.0, 1.0]),
)
def test_equals_the_trace_formula_with_centring_matrices(n, sizes, seed, sigma, offset):
    x, y = drawn(n, sizes[0], seed), drawn(n, sizes[1], seed + 1)
    torch.testing.assert_close(hsic(x, y, sigma), by_trace(x, y, sigma), rtol=1e-9, atol=1e-12)
    norms = ((offset + by_trace(x, x, sigma)) * (offset + by_trace(y, y, sigma))).sqrt()
    expected = by_trace(x, y, sigma) / norms
    torch.testing.assert_close(normalized_hsic(x, y, sigma, offset=offset), expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("sigma", [1.5, None])
def test_normalized_is_one_for_a_description_with_itself_and_its_rotation(sigma):
    x = drawn(12, 4, 0)
    rotation, _ = torch.linalg.qr(drawn(4, 4, 1))
    one = torch.ones((), dtype=torch.float64)
    torch.testing.assert_close(normalized_hsic(x, x, sigma), one)
    torch.testing.assert_close(normalized_hsic(x, x @ rotation + 3, sigma), one)


def test_symmetric_and_blind_to_the_order_of_spots():
    x, y = drawn(10, 3, 0), drawn(10, 2, 1)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(normalized_hsic(y, x), normalized_hsic(x, y))
    torch.testing.assert_close(normalized_hsic(x[order], y[order]), normalized_hsic(x, y))


def test_a_function_of_the_other_scores_above_what_is_independent():
    x = drawn(300, 1, 0)
    told = normalized_hsic(x, x.square())  # uncorrelated, yet dependent
    unrelated = normalized_hsic(x, drawn(300, 1, 1))
    assert float(told) > 0.15
    assert float(unrelated) < 0.03


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_constants_score_zero_and_leave_no_gradient_that_is_no_number(offset):
    x = drawn(1, 3, 1).expand(5, 3).clone().requires_grad_()
    y = drawn(5, 2, 0).requires_grad_()
    score = normalized_hsic(x, y, offset=offset)
    score.backward()
    assert float(score.detach()) == pytest.approx(0, abs=0.01)
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(y.grad).all()


def test_a_single_spot_scores_zero():
    assert float(hsic(drawn(1, 3, 0), drawn(1, 2, 1))) == 0
    assert float(normalized_hsic(drawn(1, 3, 0), drawn(1, 2, 1))) == 0


def test_gradient_is_that_of_the_formula():
    x, y = drawn(6, 3, 0).requires_grad_(), drawn(6, 2, 1)
    assert torch.autograd.gradcheck(lambda x: normalized_hsic(x, y, 2.0), x)


def test_mixed_precision_changes_nothing():
    x, y = drawn(8, 5, 0).float() + 30, drawn(8, 3, 1).float()
    plain = normalized_hsic(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(normalized_hsic(x, y), plain)
        rounded = normalized_hsic(x.bfloat16(), y.bfloat16())
    assert torch.equal(rounded, normalized_hsic(x.bfloat16().float(), y.bfloat16().float()))
