from __future__ import annotations

import math

import pytest
import torch

from nh2st_graph.nn import ProjectionHead


@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_equals_the_formula_number_by_number(drawn, shape):
    head = drawn(ProjectionHead(4, 6))
    x = torch.randn(*shape, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = x @ head.first.weight.T + head.first.bias
    gelu = u * 0.5 * (1 + torch.special.erf(u / math.sqrt(2)))
    h = u + gelu @ head.second.weight.T + head.second.bias
    deviation = (h - h.mean(dim=-1, keepdim=True)).square().mean(dim=-1, keepdim=True)
    expected = (h - h.mean(dim=-1, keepdim=True)) / (deviation + 1e-5).sqrt() * head.norm.weight + head.norm.bias
    torch.testing.assert_close(head(x), expected)


def test_at_first_all_embeddings_have_the_same_length():
    torch.manual_seed(0)
    embedded = ProjectionHead(4, 256)(torch.randn(9, 4))
    torch.testing.assert_close(embedded.norm(dim=1), torch.full((9,), 16.0), rtol=1e-3, atol=0)


def test_dropout_is_of_what_is_added_alone(drawn):
    head = drawn(ProjectionHead(4, 6, dropout=1.0))
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(head.train()(x), head.norm(head.first(x)))
