"""Small graphs of spots for the building blocks: some spots isolated, edges without a reverse."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

WIDTH, EDGE_DIM = 4, 3


class Graph(NamedTuple):
    """Embeddings, edges (sender, receiver) and their features, as every operator takes them."""

    h: Tensor
    edge_index: Tensor
    edge_attr: Tensor


def make_graph(n_spots: int, edges: list[tuple[int, int]], seed: int = 0) -> Graph:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(n_spots, WIDTH, dtype=torch.float64, generator=generator)
    edge_attr = torch.randn(len(edges), EDGE_DIM, dtype=torch.float64, generator=generator)
    return Graph(h, torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T, edge_attr)


@cache
def edges_among(n_spots: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    pairs = [(i, j) for i in range(n_spots) for j in range(n_spots) if i != j]
    return st.lists(st.sampled_from(pairs), unique=True) if pairs else st.just([])


@st.composite
def random_graphs(draw: st.DrawFn) -> Graph:
    n_spots = draw(st.integers(1, 7))
    return make_graph(n_spots, draw(edges_among(n_spots)), draw(st.integers(0, 99)))


@pytest.fixture(scope="session")
def graph_of():
    """Make the graph of these edges (sender, receiver), with drawn embeddings and edge features, in float64."""
    return make_graph


@pytest.fixture(scope="session")
def graphs() -> st.SearchStrategy[Graph]:
    """Graphs of one to seven spots without loops."""
    return random_graphs()


@pytest.fixture(scope="session")
def drawn():
    """Give a module weights in float64 that hide nothing: a new layer's zeros would."""

    def draw(module: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        module = module.double().eval()
        for weight in module.parameters():
            nn.init.normal_(weight, std=0.7, generator=generator)
        return module

    return draw
