"""The recipes of known encoders: where each comes from, how it is built, and what it was trained on.

The facts are data, in ``encoders.yaml`` beside this file, each with its source in a comment.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Pooling", "Recipe", "Source", "recipes"]

#: Where an encoder comes from: timm's own weights, a repository of the hub that timm or ``transformers`` loads, a file
#: that the user gives, or an installed package.
Source = Literal["timm", "hub", "transformers", "file", "package"]

#: What becomes of a network's output: its own vector, the class token, the mean of the patch tokens, or both joined.
Pooling = Literal["model", "cls", "mean", "cls+mean"]

_Channels = Annotated[tuple[float, float, float], Field(strict=False)]


class Recipe(BaseModel):
    """All that is known of an encoder; none of it may be left out.

    Attributes
    ----------
    name
        Its name in ``features.encoder``.
    title
        The name that its authors use.
    source, location
        Where its weights come from, and what it is called there: timm's name, the repository of the hub, the address of
        a file, or the package.
    architecture, arguments
        timm's architecture and what else builds it, or the class of ``transformers``; None and empty if its source
        builds it. Layers are given by timm's name of the class, such as ``SwiGLUPacked``.
    pooling
        What becomes of its tokens.
    prefix_tokens
        Number of class and register tokens before the patch tokens; 0 if it has no tokens.
    input_size
        Side of its input, in pixels.
    mean, std
        Statistics that its pixel values are normalised by, in red, green and blue.
    interpolation
        Pillow's filter that resamples patches.
    um_per_px
        Resolution that it was trained at, in um per px; None if it was not trained on slides.
    embedding_size
        Length of its feature vector.
    parameters
        Number of its weights, in millions.
    licence
        Identifier or name of the licence of its weights.
    commercial
        Whether the licence allows commercial use.
    gated
        Whether the hub asks for access first.
    doi
        DOI of its paper.
    access
        Address of the page that has it, and grants access if it is gated.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    source: Source
    location: str
    architecture: str | None
    arguments: dict[str, Any]
    pooling: Pooling
    prefix_tokens: Annotated[int, Field(ge=0)]
    input_size: Annotated[int, Field(gt=0)]
    mean: _Channels
    std: _Channels
    interpolation: Literal["bicubic", "bilinear"]
    um_per_px: Annotated[float, Field(gt=0)] | None
    embedding_size: Annotated[int, Field(gt=0)]
    parameters: Annotated[float, Field(gt=0)]
    licence: str
    commercial: bool
    gated: bool
    doi: str
    access: str


@cache
def recipes() -> dict[str, Recipe]:
    """Read the recipes of known encoders, by name."""
    table: dict[str, dict[str, Any]] = yaml.safe_load(files(__package__).joinpath("encoders.yaml").read_text("utf-8"))
    return {name: Recipe(name=name, **about) for name, about in table.items()}
