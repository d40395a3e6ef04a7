"""A number that is none stops training, with the step, the section and the tensor."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch_geometric.data import Data

from nh2st_graph import ModelError
from nh2st_graph.train._finite import check_gradients, check_loss, check_score, sections_of

NONE = [math.nan, math.inf, -math.inf]


def batch(section: str = "C3", value: float = 1.0) -> Data:
    return Data(x=torch.tensor([[1.0, value]]), y=torch.ones(1, 3), seeds=torch.arange(1), section=section)


class TestLoss:
    def test_finite(self):
        check_loss({"loss": torch.tensor(1.0)}, batch(), 3, 1)

    @pytest.mark.parametrize("value", NONE)
    def test_by_an_input(self, value):
        with pytest.raises(ModelError, match=r"at step 3 \(epoch 1\) of section 'C3' \(not finite: input 'x'\)"):
            check_loss({"loss": torch.tensor(value)}, batch(value=value), 3, 1)

    def test_by_a_part(self):
        parts = {"mse": torch.tensor(1.0), "spot": torch.tensor(math.nan), "loss": torch.tensor(math.nan)}
        with pytest.raises(ModelError, match=r"'C3', 'C4' \(not finite: 'spot'\); lower learning_rate"):
            check_loss(parts, [batch(), batch("C4"), batch()], 0, 0)


class TestGradients:
    @pytest.fixture
    def model(self):
        model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        model[0].bias.grad = None
        return model

    def test_finite_ones_whose_norm_is_not(self, model):
        model[1].weight.grad[:] = 3e38
        check_gradients(model, ["C3"], 0, 0)

    @pytest.mark.parametrize("value", NONE)
    def test_the_weight_is_named(self, model, value):
        model[1].weight.grad[0, 1] = value
        with pytest.raises(ModelError, match=r"weight '1\.weight' is not finite at step 7 \(epoch 2\) of section 'C3'"):
            check_gradients(model, ["C3"], 7, 2)


@pytest.mark.parametrize("value", NONE)
def test_held_out(value):
    check_score(0.5, batch(), 0, 0)
    with pytest.raises(ModelError, match=r"prediction is not finite at step 4 .* 'C3'"):
        check_score(value, batch(), 4, 0)


def test_graphs_without_a_name():
    assert sections_of([Data(x=torch.ones(1, 1)), batch("B"), batch("A"), batch("B")]) == ["B", "A"]
