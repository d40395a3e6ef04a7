"""Networks that turn images into one vector each, from the tokens of a vision transformer."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from nh2st_graph.im._recipes import Pooling

__all__ = ["TokenPooling", "VisionModel", "images_of", "pool", "run"]


def pool(tokens: torch.Tensor, pooling: Pooling, prefix: int) -> torch.Tensor:
    """Pool tokens.

    Parameters
    ----------
    tokens
        ``(n, prefix + n_patches, width)``: the class token, registers, then the tokens of the patches.
    pooling
        ``cls``, ``mean`` (over patch tokens), or ``cls+mean``, joined.
    prefix
        Number of class and register tokens.

    Returns
    -------
    ``(n, width)``, or ``(n, 2 * width)`` for ``cls+mean``.
    """
    parts = {"cls": lambda: tokens[:, 0], "mean": lambda: tokens[:, prefix:].mean(dim=1)}
    return torch.cat([parts[part]() for part in pooling.split("+")], dim=-1)


class TokenPooling(torch.nn.Module):
    """A vision transformer of timm, and the pooling of its tokens.

    Parameters
    ----------
    model
        It has ``forward_features``, which gives ``(n, n_tokens, width)``, and ``num_prefix_tokens``.
    pooling
        ``cls``, ``mean`` or ``cls+mean``.
    """

    def __init__(self, model: torch.nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.model, self.pooling = model, pooling

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Turn ``(n, 3, side, side)`` into one vector each."""
        tokens = self.model.forward_features(images)  # type: ignore[operator]
        # A model that averages its tokens normalises them only afterwards.
        after = getattr(self.model, "fc_norm", None)
        parts = [pool(tokens, part, self.model.num_prefix_tokens) for part in self.pooling.split("+")]  # type: ignore[arg-type]
        return torch.cat([part if after is None else after(part) for part in parts], dim=-1)


class VisionModel(torch.nn.Module):
    """A model of ``transformers``, and the pooling of its tokens.

    Parameters
    ----------
    model
        It takes ``pixel_values``.
    pooling
        ``model``: its own vector; ``cls``, ``mean`` or ``cls+mean``: of its tokens.
    side
        Side of the images, in pixels.
    prefix
        Number of class and register tokens.
    """

    def __init__(self, model: torch.nn.Module, pooling: Pooling, side: int, prefix: int) -> None:
        super().__init__()
        self.model, self.pooling, self.side, self.prefix = model, pooling, side, prefix

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Turn ``(n, 3, side, side)`` into one vector each."""
        if self.pooling != "model":
            return pool(run(images_of(self.model), images, self.side).last_hidden_state, self.pooling, self.prefix)
        output = run(self.model, images, self.side)
        for name in ("image_embeds", "pooler_output"):
            output = output if getattr(output, name, None) is None else getattr(output, name)
        vectors: torch.Tensor = output
        return vectors.flatten(1)


def images_of(model: torch.nn.Module) -> torch.nn.Module:
    """Take the part of a model of ``transformers`` that images go through."""
    vision: torch.nn.Module = getattr(model, "vision_model", model)
    return vision


def run(model: torch.nn.Module, images: torch.Tensor, side: int) -> Any:
    """Run a model of ``transformers`` on images, whatever size it was trained at."""
    call: Any = getattr(model, "get_image_features", model.forward)
    config: Any = model.config
    own = getattr(getattr(config, "vision_config", config), "image_size", side)
    takes = inspect.signature(call).parameters
    more = {"interpolate_pos_encoding": True} if own != side and "interpolate_pos_encoding" in takes else {}
    return call(pixel_values=images, **more)
