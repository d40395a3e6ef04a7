"""The recipes of known encoders: where each comes from, how it is built, and what it was trained on.

The facts are data, in ``encoders.yaml`` beside this file, each with its source in a comment.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nh2st_graph._errors import ConfigError, listed

__all__ = ["Pooling", "Recipe", "Source", "recipes", "register_recipe"]

#: Where an encoder comes from: timm's own weights, a repository of the hub that timm or ``transformers`` loads, a file
#: that the user gives, or an installed package.
Source = Literal["timm", "hub", "transformers", "file", "package"]

#: What becomes of a network's output: its own vector, the class token, the mean of the patch tokens, or both joined.
Pooling = Literal["model", "cls", "mean", "cls+mean"]

_Channels = Annotated[tuple[float, float, float], Field(strict=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Recipe(BaseModel):
    """All that is known of an encoder.

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
        timm's architecture and what else builds it, or the class of ``transformers`` and the values of its
        configuration; None and empty if only code of its authors builds it. Layers are given by the name of the class,
        such as ``SwiGLUPacked`` or ``SiLU``.
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
        Resolution that it was trained at, in um per px; None if it was not trained on slides, or at no one resolution.
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
        DOI of its paper; None if it has none.
    access
        Address of the page that has it, and grants access if it is gated.
    file
        Name of the file of weights there, where it is known.
    also_um_per_px
        Other resolutions that it was trained at.
    lazyslide
        Its name in LazySlide's registry, where it is there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    title: str
    source: Source
    location: str
    architecture: str | None
    arguments: dict[str, Any]
    pooling: Pooling
    prefix_tokens: Annotated[int, Field(ge=0)]
    input_size: Annotated[int, Field(gt=0)]
    mean: _Channels
    std: tuple[_Positive, _Positive, _Positive]
    interpolation: Literal["bicubic", "bilinear"]
    um_per_px: _Positive | None
    embedding_size: Annotated[int, Field(gt=0)]
    parameters: _Positive
    licence: str
    commercial: bool
    gated: bool
    doi: str | None
    access: str
    file: str | None = None
    also_um_per_px: tuple[_Positive, ...] = ()
    lazyslide: str | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> Recipe:
        if self.pooling.startswith("cls") and not self.prefix_tokens:
            raise ValueError("pooling takes the class token, which prefix_tokens counts; give 1 or more")
        if self.architecture is None and (self.arguments or self.source == "timm"):
            raise ValueError("arguments need an architecture; name timm's architecture or the class of transformers")
        return self

    @property
    def patch_um(self) -> float | None:
        """Side of the patch that it was trained for, in um; None if ``um_per_px`` is."""
        return None if self.um_per_px is None else self.input_size * self.um_per_px


#: Recipes that the user added, by name.
_OWN: dict[str, Recipe] = {}


def recipes() -> dict[str, Recipe]:
    """Read the recipes of known encoders, by name, with those that were registered."""
    return {**_shipped(), **_OWN}


@cache
def _shipped() -> dict[str, Recipe]:
    # libyaml's, where PyYAML has it, takes a tenth of the time.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = files(__package__).joinpath("encoders.yaml").read_text("utf-8")
    table: dict[str, dict[str, Any]] = yaml.load(text, loader)
    return {name: Recipe(name=name, **about) for name, about in table.items()}


def register_recipe(name: str, /, **facts: Any) -> Recipe:
    """Add an encoder of your own, so that ``features.encoder`` takes it by its name.

    A name that is known already is replaced, with a warning.

    Parameters
    ----------
    name
        Its name: letters, digits, ``.``, ``_`` and ``-``.
    facts
        All of :class:`Recipe`: how it is built, its pooling and input, and the resolution, licence and paper that a
        reader of your results asks for. Only ``file``, ``also_um_per_px`` and ``lazyslide`` may be left out.

    Returns
    -------
    The recipe.

    Raises
    ------
    ConfigError
        If a fact is missing, unknown or wrong.

    Examples
    --------
    >>> import nh2st_graph as ng
    >>> recipe = ng.im.register_recipe(
    ...     "our-vit",
    ...     title="ViT-S/16 of our hospital",
    ...     source="file",
    ...     location="weights/our_vit.safetensors",
    ...     architecture="vit_small_patch16_224",
    ...     arguments={"num_classes": 0},
    ...     pooling="cls",
    ...     prefix_tokens=1,
    ...     input_size=224,
    ...     mean=(0.7, 0.55, 0.7),
    ...     std=(0.2, 0.25, 0.2),
    ...     interpolation="bicubic",
    ...     um_per_px=0.5,
    ...     embedding_size=384,
    ...     parameters=21.7,
    ...     licence="MIT",
    ...     commercial=True,
    ...     gated=False,
    ...     doi=None,
    ...     access="https://example.org/our-vit",
    ... )
    >>> recipe.patch_um
    112.0
    """
    try:
        recipe = Recipe(name=name, **facts)
    except ValidationError as error:
        raise ConfigError(f"recipe {name!r} {_wrong(error)}") from None
    if name in recipes():
        warnings.warn(f"encoder {name!r} has a recipe already, which this one replaces", stacklevel=2)
    _OWN[name] = recipe
    return recipe


def _wrong(error: ValidationError) -> str:
    """Say what is wrong with facts: the missing ones, else the unknown ones, else the first wrong value."""
    found = error.errors(include_url=False)
    for kind, words in (("missing", "lacks"), ("extra_forbidden", "has unknown facts:")):
        names = [str(each["loc"][0]) for each in found if each["type"] == kind]
        if names:
            hint = "give each of them" if kind == "missing" else f"known: {', '.join(Recipe.model_fields)}"
            return f"{words} {listed(names, len(names))}; {hint}"
    first = found[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"cannot be used: {first['loc'][0]}: {message}" if first["loc"] else f"cannot be used: {message}"
