"""Build models of timm for encoders: what a name asks for, the architecture, and its input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from nh2st_graph._errors import ConfigError, nearest, reason, setting
from nh2st_graph.im._hub import access_to
from nh2st_graph.im._names import Options, allowed_options
from nh2st_graph.im._network import UNREADABLE, unreadable
from nh2st_graph.im._recipes import Pooling, Recipe, recipes
from nh2st_graph.im._timm_names import timm_has, timm_names, timm_says
from nh2st_graph.im._without_numbers import without_numbers

if TYPE_CHECKING:
    import torch

__all__ = [
    "ELSEWHERE",
    "RANDOM",
    "RANDOM_SEED",
    "Sketch",
    "Wanted",
    "check_known",
    "check_named",
    "check_output",
    "create",
    "instead",
    "load_pretrained",
    "loading",
    "pretrained_cfg",
    "sketch",
    "statistics",
    "wanted",
]

#: Seed of the weights of ``NAME@random``.
RANDOM_SEED = 0

#: What stands in a name for weights drawn from that seed.
RANDOM = "random"

#: Prefixes of names that lead out of timm; ``@`` is a revision there.
ELSEWHERE = {"hf-hub": "the hub's repository", "local-dir": "the folder"}


@dataclass(frozen=True)
class Wanted:
    """What the name of an encoder asks of timm.

    Attributes
    ----------
    name
        The whole name, as in the configuration.
    model
        The architecture by timm's name, or ``hf-hub:ORG/NAME``, or ``local-dir:FOLDER``.
    source
        Where the weights come from: empty for those of the model, ``random``, or a file.
    repository
        Repository of the hub that has the weights of a recipe.
    options, recipe
        The rest of the name, and what is known of the encoder.
    size
        Side of the input that is asked for; None for that of the model.
    """

    name: str
    model: str
    source: str
    repository: str | None
    options: Options
    recipe: Recipe | None
    size: int | None

    @property
    def where(self) -> str:
        """What an error names first."""
        return setting("features.encoder", self.name)

    @property
    def pooling(self) -> Pooling:
        """What becomes of the model's output."""
        return self.options.pooling or ("model" if self.recipe is None else self.recipe.pooling)

    @property
    def plain(self) -> str:
        """The name without file and options, to suggest another."""
        return self.name.partition("?")[0].partition("@")[0]

    def of_size(self, size: int) -> Wanted:
        """Ask for another side of the input."""
        return replace(self, size=size)


def wanted(name: str, prefix: str, recipe: Recipe | None, taken: frozenset[str]) -> Wanted:
    """Read the name of an encoder.

    Parameters
    ----------
    name
        What follows the prefix; or the name of a recipe, with file and options.
    prefix
        The prefix.
    recipe
        The recipe, if the name is one of the table.
    taken
        Options that the encoder takes.
    """
    full = name if recipe else f"{prefix}:{name}"
    plain, options = allowed_options(full, taken)
    plain = plain if recipe else plain.partition(":")[2]
    if recipe is not None:
        source = plain.partition("@")[2]
        repository = recipe.location if recipe.source == "hub" else None
        model = recipe.location if recipe.source == "timm" and not source else recipe.architecture or ""
    elif plain.partition(":")[0] not in ELSEWHERE:
        (model, _, source), repository = plain.partition("@"), None
    else:
        model, source, repository = plain, "", None
        recipe = _of_repository(plain)
        if recipe is not None and recipe.architecture is not None:
            model, repository = recipe.architecture, plain.partition(":")[2]
    size = options.size or (recipe.input_size if recipe else None)
    return Wanted(full, model, source, repository, options, recipe, size)


def _of_repository(name: str) -> Recipe | None:
    """Find the recipe of a repository of the hub, if there is one that says how timm builds it."""
    kind, _, place = name.partition(":")
    known = (each for each in recipes().values() if each.source == "hub" and each.architecture is not None)
    place = place.partition("@")[0].casefold()
    return next((each for each in known if kind == "hf-hub" and each.location.casefold() == place), None)


def check_named(name: str, *, pretrained: bool) -> None:
    """Refuse a model, or a tag of its weights, that timm does not have, as far as its files tell."""
    architecture, _, tag = name.partition(".")
    if not timm_has(architecture):
        raise _unknown_model(name, timm_names())
    if tag and not timm_says(tag):
        check_known(name, pretrained=pretrained)


def check_known(name: str, *, pretrained: bool) -> None:
    """Refuse a model, or weights of it, that timm does not have."""
    import timm

    if not timm.is_model(name):
        raise _unknown_model(name, timm.list_models())
    architecture, _, tag = name.partition(".")
    if (pretrained or tag) and not timm.is_model_pretrained(name):
        tags = timm.list_pretrained(f"{architecture}.*")
        hint = nearest(name, tags) if tags else f"give a local file: 'timm:{architecture}@WEIGHTS.safetensors'"
        raise ConfigError(f"{setting('features.encoder')}: timm has no pretrained weights for {name!r}; {hint}")


def _unknown_model(name: str, known: Iterable[str]) -> ConfigError:
    close = get_close_matches(name.partition(".")[0], sorted(known), n=3, cutoff=0.3)
    return ConfigError(
        f"{setting('features.encoder')}: timm has no model {name!r}; nearest: {', '.join(close) or 'none'} "
        "(timm.list_models() lists all)"
    )


def create(asked: Wanted, *, pretrained: bool = False, sized: bool = True) -> torch.nn.Module:
    """Make the model without its classifier.

    Parameters
    ----------
    asked
        What is wanted.
    pretrained
        Load the weights that timm or the hub has for it.
    sized
        Build it for the size that is asked for. Without this, for its own.
    """
    import timm

    arguments = {**(_layers(asked) if asked.recipe else {}), "num_classes": 0}
    if sized and asked.size is not None:
        arguments["img_size"] = asked.size
    else:
        arguments.pop("img_size", None)
    model: torch.nn.Module = timm.create_model(asked.model, pretrained=pretrained, **arguments)
    return model


def _layers(asked: Wanted) -> dict[str, Any]:
    """Take the arguments of the recipe, with the classes of layers for their names."""
    import timm.layers
    import torch

    assert asked.recipe is not None
    found = dict(asked.recipe.arguments)
    for key, name in found.items():
        if key.endswith("_layer") and isinstance(name, str):
            found[key] = getattr(timm.layers, name, None) or getattr(torch.nn, name, None)
            if found[key] is None:
                raise ConfigError(
                    f"{asked.where}: neither timm nor torch has the layer {name!r}, which its recipe names as {key}; "
                    "install a newer timm"
                )
    return found


@dataclass(frozen=True)
class Sketch:
    """A model without numbers, to see what it would give; it is made once for several encoders, so leave it as it is.

    Attributes
    ----------
    model
        The model, on the device ``meta``.
    sized
        Whether it is built for a size.
    """

    model: torch.nn.Module
    sized: bool
    _shapes: dict[tuple[int, bool], tuple[int, ...] | None] = field(default_factory=dict)

    def output(self, side: int, *, pooled: bool) -> tuple[int, ...] | None:
        """Give the shape of what it makes of an image; None if an operation cannot be done without numbers.

        Parameters
        ----------
        side
            Side of the image, in pixels.
        pooled
            Whether its maps or tokens are still to be pooled.

        Raises
        ------
        AssertionError
            If it takes no image of this side.
        """
        import torch

        if (side, pooled) not in self._shapes:
            shape = None
            try:
                with torch.inference_mode(), torch.device("meta"):
                    images = torch.empty(1, 3, side, side)
                    found = self.model.forward_features(images) if pooled else self.model(images)  # type: ignore[operator]
                shape = tuple(found.shape[1:])
            except (NotImplementedError, RuntimeError):
                pass  # an operation without a meta kernel: the real output is checked when it encodes
            self._shapes[side, pooled] = shape
        return self._shapes[side, pooled]


@dataclass(frozen=True)
class _Layers:
    """What decides which layers a model has."""

    model: str
    size: int | None
    arguments: str
    asked: Wanted = field(compare=False)


def sketch(asked: Wanted) -> Sketch:
    """Make the model without numbers, or find it made.

    Raises
    ------
    ConfigError
        If the model cannot be built, or takes no images of the size that is asked for.
    """
    if asked.model.partition(":")[0] in ELSEWHERE:
        return _sketched(asked)  # what is there may change
    arguments = {} if asked.recipe is None else asked.recipe.arguments
    return _kept(_Layers(asked.model, asked.size, repr(sorted(arguments.items())), asked))


@lru_cache(maxsize=8)
def _kept(layers: _Layers) -> Sketch:
    return _sketched(layers.asked)


def _sketched(asked: Wanted) -> Sketch:
    elsewhere = asked.model.partition(":")[0] in ELSEWHERE
    try:
        with loading(asked) if elsewhere else nullcontext(), without_numbers():
            model = create(asked, sized=False).eval()
            sized = bool(pretrained_cfg(model).get("fixed_input_size")) or "img_size" in (
                asked.recipe.arguments if asked.recipe else {}
            )
            if sized and asked.size is not None:
                model = create(asked).eval()
    except ConfigError:
        raise
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        size = "" if asked.size is None else f" for {asked.size} px"
        raise ConfigError(
            f"{asked.where}: timm cannot build it{size} ({reason(error)}); {_other_size(asked)}"
        ) from error
    return Sketch(model, sized)


def _other_size(asked: Wanted) -> str:
    return "name another model" if asked.options.size is None else f"give another size: {asked.plain}?size=224"


def check_output(drawn: Sketch, asked: Wanted, side: int, *, maps: bool) -> None:
    """Refuse a pooling that the model cannot have, before its weights are loaded.

    Parameters
    ----------
    drawn
        The model.
    asked
        What is wanted.
    side
        Side of its input, in pixels.
    maps
        Whether its maps or tokens are taken as they are.
    """
    pooled = asked.pooling != "model" and not maps
    try:
        shape = drawn.output(side, pooled=pooled)
    except AssertionError as error:
        raise ConfigError(
            f"{asked.where} takes no images of {side} px ({reason(error)}); {_other_size(asked)}"
        ) from None
    if shape is None:
        return
    model = drawn.model
    tokens = len(shape) == 2 and hasattr(model, "num_prefix_tokens")
    if pooled and not tokens:
        raise ConfigError(
            f"{asked.where}: pooling={asked.pooling}, and {asked.model} gives no tokens but {shape} for a patch; leave "
            "pooling out"
        )
    if pooled and "cls" in asked.pooling and getattr(model, "cls_token", None) is None:
        raise ConfigError(
            f"{asked.where}: pooling={asked.pooling}, and {asked.model} has no class token; give pooling=mean"
        )
    if not pooled and not maps and len(shape) != 1:
        options = f"name its pooling: {asked.name}{'&' if '?' in asked.name else '?'}pooling=cls (or mean, or cls+mean)"
        what = options if tokens else "choose a model with a pooled output"
        raise ConfigError(f"{asked.where} gives {shape} for a patch, expected one vector; {what}")


def pretrained_cfg(model: torch.nn.Module) -> dict[str, Any]:
    """What timm knows of the weights of a model."""
    config: Any = model.pretrained_cfg
    return dict(config)


def statistics(model: torch.nn.Module, asked: Wanted, of_file: Mapping[str, Any]) -> dict[str, Any]:
    """Find the input of a model: of its recipe, else of its file of weights, else timm's.

    Returns
    -------
    ``input_size`` (channels, height, width), ``interpolation``, ``mean`` and ``std``.
    """
    from timm.data.config import resolve_model_data_config

    found = dict(resolve_model_data_config(model)) | dict(of_file)
    recipe = asked.recipe
    if recipe is not None:
        found |= {"mean": recipe.mean, "std": recipe.std, "interpolation": recipe.interpolation}
    channels, height, width = found["input_size"]
    if channels != 3 or (height != width and asked.size is None):
        raise ConfigError(
            f"{asked.where} takes {channels} x {height} x {width} images; choose a model of square RGB images"
        )
    side = asked.size or int(height)
    return found | {"input_size": (3, side, side)}


def load_pretrained(asked: Wanted, sized: bool) -> torch.nn.Module:
    """Make the model with the weights that timm has for it."""
    with loading(asked):
        return create(asked, pretrained=True, sized=sized)


@contextmanager
def loading(asked: Wanted) -> Iterator[None]:
    """Say in one line why a model cannot be loaded from where its name leads."""
    kind, _, place = asked.model.partition(":")
    page = None if asked.recipe is None else asked.recipe.access
    hub = access_to(asked.repository or place or kind, asked.where, page=page, instead=instead(asked))
    try:
        with nullcontext() if kind == "local-dir" else hub:
            yield
    except UNREADABLE as error:
        raise ConfigError(
            f"{asked.where}: its pretrained weights cannot be loaded ({unreadable(error)}); {instead(asked)}"
        ) from error


def instead(asked: Wanted) -> str:
    """Say how to load weights without a hub."""
    return (
        f"give a file: '{asked.plain if asked.recipe and ':' not in asked.plain else 'timm:NAME'}@WEIGHTS.safetensors'"
    )
