"""Small sections and models for the graph form: numbers in float64, weights that hide nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch_geometric.data import Data

from nh2st_graph.config import ModelConfig
from nh2st_graph.models import NH2STGraph
from nh2st_graph.models._contrast import Contrast

N_FEATURES, N_GENES = 5, 7

MakeSection = Callable[..., Data]
MakeModel = Callable[..., NH2STGraph]


def section_on(edge_index: torch.Tensor, n_spots: int, seed: int = 0) -> Data:
    """A section with these edges and all that training reads; every spot a seed."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Data(
        x=drawn(n_spots, N_FEATURES),
        y=drawn(n_spots, N_GENES).abs(),
        counts=drawn(n_spots, N_GENES).abs().mul(3).floor(),
        library=100 + drawn(n_spots, 1).abs(),
        edge_index=edge_index,
        edge_attr=drawn(edge_index.shape[1], 3),
        seeds=torch.arange(n_spots),
        num_nodes=n_spots,
    )


def nearest_spots(n_spots: int = 12, k: int = 3, seed: int = 0, isolated: int = 0) -> Data:
    """A section on the k nearest spots of each, so that edges need not have a reverse; some spots have no edge."""
    position = torch.rand(n_spots, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    joined = n_spots - isolated
    distance = torch.cdist(position[:joined], position[:joined])
    k = max(0, min(k, joined - 1))
    senders = distance.fill_diagonal_(torch.inf).topk(k, largest=False).indices.flatten()
    return section_on(torch.stack([senders, torch.arange(joined).repeat_interleave(k)]), n_spots, seed)


def draw_weights(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give a module weights in float64: what starts at zero would hide a difference."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.double().named_parameters():
        if not name.endswith("log_temperature"):
            nn.init.normal_(weight, std=0.5, generator=generator)
    return module.eval()


@pytest.fixture(scope="session")
def section_of() -> MakeSection:
    """Make a section of spots that read their nearest, with an asymmetric graph; see :func:`nearest_spots`."""
    return nearest_spots


@pytest.fixture(scope="session")
def model_of() -> MakeModel:
    """Make a small model by its switches, or of a whole configuration, in evaluation mode."""

    def make(config: ModelConfig | None = None, *, seed: int = 0, targets: Data | None = None, **switches: Any):
        if config is None:
            config = ModelConfig(
                **{"width": 8, "n_components": 4, "n_hidden": 4, "heads": 2, "edge_features": "none"} | switches
            )
        model = draw_weights(NH2STGraph(config, N_FEATURES, N_GENES), seed)
        model.set_targets((targets or nearest_spots(seed=99)).y)
        return model

    return make


@pytest.fixture(scope="session")
def contrast_of() -> Callable[..., Contrast]:
    """Make a contrast by its switches."""

    def make(**switches: Any) -> Contrast:
        values = {"width": 4, "heads": 2, "edge_features": "none"} | switches
        return draw_weights(Contrast(ModelConfig(**values)))

    return make
