"""Dropout by the byte: the same in distribution as torch's."""

from __future__ import annotations

import pytest
import torch

from nh2st_graph.nn import Dropout


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5])
def test_keeps_the_mean_and_drops_the_share(p):
    torch.manual_seed(0)
    values = torch.ones(4096, 50, requires_grad=True)
    dropped = Dropout(p)(values)
    share = float((dropped == 0).float().mean())
    assert share == pytest.approx(p, abs=0.005)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    assert len(dropped.unique()) == 2
    dropped.sum().backward()
    assert torch.equal(values.grad, dropped.detach())


def test_decisions_are_independent_and_follow_the_seed():
    torch.manual_seed(1)
    first = Dropout(0.5)(torch.ones(4096, 16))
    torch.manual_seed(1)
    assert torch.equal(first, Dropout(0.5)(torch.ones(4096, 16)))
    assert (torch.corrcoef(first.T) - torch.eye(16)).abs().max() < 0.08


def test_few_rows_are_dropped_as_by_torch_and_none_without_training():
    torch.manual_seed(2)
    few = Dropout(0.3)(torch.ones(100, 7))
    torch.manual_seed(2)
    assert torch.equal(few, torch.nn.functional.dropout(torch.ones(100, 7), 0.3))
    values = torch.rand(2000, 3)
    assert torch.equal(Dropout(0.3).eval()(values), values)
    assert torch.equal(Dropout(0.0)(values), values)
    assert not Dropout(1.0)(values).any()
