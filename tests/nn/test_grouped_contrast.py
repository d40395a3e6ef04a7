"""The contrast in groups is the mean of the groups' own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph.nn import grouped_info_nce_and_ranks, info_nce_and_ranks


@given(
    st.integers(1, 4),
    st.integers(2, 9),
    st.sampled_from([0.02, 0.05, 0.1, 1.0]),
    st.booleans(),
    st.sampled_from([1.0, 0.1]),
    st.integers(0, 99),
)
def test_equals_the_groups_one_by_one(n_groups, size, temperature, symmetric, negative_weight, seed):
    draw = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n_groups * size + size // 2, 5, generator=draw, requires_grad=True) for _ in "ab")
    form = {"symmetric": symmetric, "negative_weight": negative_weight}
    loss, ranks = grouped_info_nce_and_ranks(a, b, size, temperature, **form)
    parts = [slice(k * size, (k + 1) * size) for k in range(n_groups)]
    alone = [info_nce_and_ranks(a[part], b[part], temperature, **form) for part in parts]
    expected = torch.stack([each for each, _ in alone]).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(ranks, alone[0][1])
    found, wanted = (torch.autograd.grad(each, (a, b)) for each in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_learned_temperature_gets_its_gradient():
    a, b = torch.randn(8, 3), torch.randn(8, 3)
    temperature = torch.tensor(0.3, requires_grad=True)
    loss, _ = grouped_info_nce_and_ranks(a, b, 8, temperature, symmetric=True, negative_weight=1.0)
    expected, _ = info_nce_and_ranks(a, b, temperature)
    (found,), (wanted,) = torch.autograd.grad(loss, temperature), torch.autograd.grad(expected, temperature)
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)
