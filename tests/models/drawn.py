"""Weights drawn from a seed, so that golden numbers need no weights beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def drawn_weights(shapes: Mapping[str, Sequence[int]], seed: int = 1) -> dict[str, Tensor]:
    """Draw weights of about the size that keeps activations at theirs, in the order given."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.zeros(tuple(shape), dtype=torch.int64)
            continue
        drawn = torch.randn(tuple(shape), generator=generator)
        if name.endswith("running_var"):
            drawn = 0.5 + drawn.abs()
        elif drawn.dim() > 1:
            drawn /= drawn[0].numel() ** 0.5
        else:
            drawn = float(name.endswith("weight")) + 0.1 * drawn
        weights[name] = drawn
    return weights


def in_order_of_names(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Draw the weights of the authors' code, in the order of their sorted names there."""
    return drawn_weights(dict(sorted(shapes.items())))


def draw_weights(model: nn.Module, seed: int = 1) -> nn.Module:
    """Give a model drawn weights, in the order of its state."""
    model.load_state_dict(drawn_weights({name: w.shape for name, w in model.state_dict().items()}, seed))
    return model.eval()
