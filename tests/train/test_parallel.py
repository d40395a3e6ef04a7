"""Pieces of a batch on threads: the numbers of one after the other, to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import Data

from nh2st_graph.config import ModelConfig
from nh2st_graph.models import NH2STGraph
from nh2st_graph.train._parallel import losses_of_pieces


@pytest.fixture(autouse=True)
def _masks_are_drawn_by_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for the many rows of large sections."""
    monkeypatch.setattr("nh2st_graph.nn._dropout._MANY_ROWS", 64)


def piece(seed: int, n_spots: int = 110, n_seeds: int = 103) -> Data:
    generator = torch.Generator().manual_seed(seed)
    receiver = torch.arange(n_seeds).repeat_interleave(8)
    return Data(
        x=torch.randn(n_spots, 6, generator=generator),
        y=torch.rand(n_spots, 5, generator=generator),
        edge_index=torch.stack([torch.randint(n_spots, (len(receiver),), generator=generator), receiver]),
        edge_attr=torch.rand(len(receiver), 3, generator=generator),
        seeds=torch.arange(n_seeds),
        num_nodes=n_spots,
    )


def network(**settings) -> NH2STGraph:
    torch.manual_seed(0)
    model = NH2STGraph(ModelConfig(width=8, heads=2, closed_form=False, **settings), 6, 5)
    model.set_targets(torch.rand(50, 5, generator=torch.Generator().manual_seed(1)))
    return model.train()


def gradients(model: NH2STGraph, pieces: list[Data], threads: int) -> tuple[dict, list[torch.Tensor]]:
    torch.manual_seed(3)
    model.zero_grad()
    losses = losses_of_pieces(model, pieces, threads)
    losses["loss"].backward()
    return losses, [weight.grad for weight in model.parameters()]


def test_any_number_of_threads_gives_the_same_bits():
    pieces = [piece(seed) for seed in range(3)]
    model = network()
    losses, expected = gradients(model, pieces, 1)
    for threads in (2, 4):
        again, found = gradients(model, pieces, threads)
        assert all(torch.equal(losses[name], again[name]) for name in losses)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("operator", ["attention", "gatv2"])
def test_losses_are_means_over_the_seeds_of_all_pieces(operator):
    pieces = [piece(0), piece(1, n_seeds=70)]
    model = network(operator=operator, contrast="none", dropout=0.0)
    losses, found = gradients(model, pieces, 2)
    parts = [model.losses(each) for each in pieces]
    whole = {name: (103 * parts[0][name] + 70 * parts[1][name]) / 173 for name in parts[0]}
    for name, expected in whole.items():
        torch.testing.assert_close(losses[name], expected)
    wanted = torch.autograd.grad(whole["loss"], list(model.parameters()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
