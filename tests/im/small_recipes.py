"""Recipes of small encoders, shaped like the large ones that no test can load."""

from __future__ import annotations

from typing import Any

import timm
import torch

#: What every recipe has to say, of no encoder in particular.
FACTS: dict[str, Any] = {
    "title": "Small",
    "source": "hub",
    "location": "org/small",
    "architecture": "test_vit",
    "arguments": {},
    "pooling": "cls",
    "prefix_tokens": 1,
    "input_size": 160,
    "mean": (0.7, 0.5, 0.6),
    "std": (0.2, 0.25, 0.2),
    "interpolation": "bilinear",
    "um_per_px": 0.5,
    "embedding_size": 64,
    "parameters": 0.3,
    "licence": "MIT",
    "commercial": True,
    "gated": True,
    "doi": None,
    "access": "https://example.org/small",
}

#: Built like Virchow2: gated layers, LayerScale, registers, tokens without a pooling of their own.
SWIGLU: dict[str, Any] = {
    "img_size": 96,
    "init_values": 1e-5,
    "reg_tokens": 2,
    "global_pool": "",
    "mlp_layer": "SwiGLUPacked",
    "act_layer": "SiLU",
    "mlp_ratio": 5.375,
}


def model(seed: int = 1, architecture: str = "test_vit", **arguments: Any) -> torch.nn.Module:
    """Make a small model of timm with weights of a seed, without a classifier unless one is asked for."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: torch.nn.Module = timm.create_model(architecture, **{"num_classes": 0, **arguments}).eval()
    for key, value in made.named_parameters():
        if key.endswith((".gamma", "pos_embed")):
            torch.nn.init.normal_(value, generator=torch.Generator().manual_seed(seed))
    return made
