"""Models of timm as encoders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nh2st_graph.im._encoders import register_encoder
from nh2st_graph.im._network import NetworkEncoder, digest_of, find_device, logger, written
from nh2st_graph.im._recipes import Recipe
from nh2st_graph.im._timm_build import (
    ELSEWHERE,
    RANDOM,
    RANDOM_SEED,
    Sketch,
    Wanted,
    check_known,
    check_named,
    check_output,
    create,
    load_pretrained,
    pretrained_cfg,
    sketch,
    statistics,
    wanted,
)
from nh2st_graph.im._weights import check_file, fit, fitting, of_file, of_package, of_place, told_size

if TYPE_CHECKING:
    import torch

__all__ = ["TimmEncoder", "TimmMapEncoder"]


@register_encoder("timm")
class TimmEncoder(NetworkEncoder):
    """The pooled features of a timm model, before its classifier.

    Parameters
    ----------
    name
        ``NAME``: the model with timm's pretrained weights, of a given tag if the name has one (``resnet18.tv_in1k``);
        ``hf-hub:ORG/NAME``: architecture and weights from the Hugging Face hub, by the recipe of a known encoder;
        ``local-dir:FOLDER``: those of a folder; ``NAME@FILE``: the model with the weights of a local file, as timm
        saves them (``.safetensors``, or a PyTorch file, of which only tensors are read); ``NAME@random``: untrained
        weights drawn from a fixed seed, a baseline to compare with. Options follow as ``?KEY=VALUE&KEY=VALUE``:
        ``pooling`` (``cls``, ``mean`` of patch tokens, ``cls+mean``), ``size``, ``mean``, ``std``, ``precision``.
    device
        ``"auto"`` (a CUDA device if there is one, else the CPU), or a torch device.
    recipe
        The recipe, if the name is one of the table of encoders.

    Raises
    ------
    ConfigError
        If the model is unknown, its weights cannot be loaded or do not fit it, its tokens need a pooling, the device
        does not exist, or the input of the model is not a square RGB image.

    Notes
    -----
    Input size, interpolation, mean and standard deviation are those of the recipe, else those that the file or the
    ``config.json`` beside it tells, else timm's data configuration of the weights; without its centre crop, for a patch
    already has its physical size. Position embeddings are resampled by timm if the size asks for it. On CUDA the model
    runs in mixed precision, unless a precision is given.
    """

    prefix = "timm"
    options = frozenset({"pooling", "size", "mean", "std", "precision"})
    #: Whether maps or tokens are taken as they are.
    _maps = False

    def __init__(self, name: str, device: str = "auto", *, recipe: Recipe | None = None) -> None:
        asked = wanted(name, self.prefix, recipe, self.options)
        where = find_device(device)
        model, known = _build(asked, maps=self._maps)
        self.name = asked.name
        self.um_per_px = None if asked.recipe is None else asked.recipe.um_per_px
        self.input_size = int(known["input_size"][1])
        self._normalise_by(known, asked.options)
        # Before the network takes the model apart.
        described = {"architecture": pretrained_cfg(model).get("architecture"), "weights": digest_of(model)}
        self._run(self._network(model, asked), where, asked.options)
        self.fingerprint = self._described(described, asked)

    def _described(self, model: dict[str, Any], asked: Wanted) -> dict[str, Any]:
        """Describe what the features depend on; a digest stands for the weights."""
        import timm
        import torch

        more: dict[str, Any] = {} if asked.pooling == "model" or self._maps else {"pooling": asked.pooling}
        if asked.recipe is not None and asked.recipe.arguments:
            # Weights of one shape may be of other layers.
            more["arguments"] = dict(sorted(asked.recipe.arguments.items()))
        return {
            "encoder": self.prefix,
            **model,
            "input_size": self.input_size,
            "interpolation": self.interpolation,
            **self.normalisation,
            "precision": str(self.precision),
            **more,
            "versions": {"timm": timm.__version__, "torch": str(torch.__version__)},
        }

    @staticmethod
    def outside(name: str) -> str | None:
        """Say which file, folder or hub a name leads to; None for timm's own names, and for random weights."""
        kind, _, place = name.partition("?")[0].partition(":")
        if kind in ELSEWHERE:
            return f"{ELSEWHERE[kind]} {place}"
        source = _source(name)
        return f"the file {source}" if source not in {"", RANDOM} else None

    @classmethod
    def check_file(cls, name: str) -> None:
        """Refuse a model that timm does not have, or a file of weights that does not exist."""
        plain = name.rpartition("?")[0] or name
        if plain.partition(":")[0] in ELSEWHERE:
            return
        model, _, source = plain.partition("@")
        check_named(model, pretrained=not source)
        if source not in {"", RANDOM}:
            check_file(Path(source).expanduser(), f"{cls.prefix}:{name}")

    @staticmethod
    def architecture(name: str) -> str | None:
        """Say which architecture a name stands for; None for names that lead out of timm, or that timm replaced."""
        import timm

        architecture = name.partition("?")[0].partition("@")[0].partition(".")[0]
        return architecture if architecture in timm.list_models() else None

    @staticmethod
    def remote(name: str) -> bool:
        """Whether the weights of a name come from a hub, or from timm's own place on it."""
        kind = name.partition(":")[0]
        return kind == "hf-hub" or (kind not in ELSEWHERE and "@" not in name)

    @staticmethod
    def _network(model: torch.nn.Module, asked: Wanted) -> torch.nn.Module:
        """Make the network that turns normalised images into vectors, ``(n, n_features)``."""
        if asked.pooling == "model":
            return model
        from nh2st_graph.im._tokens import TokenPooling

        return TokenPooling(model, asked.pooling)


@register_encoder("timm-map")
class TimmMapEncoder(TimmEncoder):
    """The last feature map of a timm model, flattened and not averaged, so that places in the patch count.

    NH2ST uses ResNet-18 in this way: at 224 px, 512 channels of 7 x 7 places are 25,088 features. Names are those of
    :class:`TimmEncoder`: ``timm-map:resnet18``.
    """

    prefix = "timm-map"
    options = TimmEncoder.options - {"pooling"}
    _maps = True

    @staticmethod
    def _network(model: torch.nn.Module, asked: Wanted) -> torch.nn.Module:
        import torch

        del asked
        # Without its head, a timm model has no pooling either.
        model.reset_classifier(0, "")  # type: ignore[operator] # torch types attributes as modules
        return torch.nn.Sequential(model, torch.nn.Flatten())


def _source(name: str) -> str:
    """Say what stands behind ``@``: nothing, ``random``, or a file."""
    return name.rpartition("?")[0].partition("@")[2] if "?" in name else name.partition("@")[2]


def _build(asked: Wanted, *, maps: bool) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Make the model with its weights, and say what its input is; the global random state stays as it is."""
    import torch

    if asked.model.partition(":")[0] not in ELSEWHERE:
        own = not asked.source and (asked.recipe is None or asked.recipe.source == "timm")
        check_known(asked.model, pretrained=own)
    with torch.random.fork_rng(devices=[]):
        if asked.source == RANDOM and asked.recipe is None and not asked.options.given():
            return (model := _seeded(asked, sized=False)), statistics(model, asked, {})
        drawn = sketch(asked)
        known = statistics(drawn.model, asked, {})
        check_output(drawn, asked, known["input_size"][1], maps=maps)
        if asked.source == RANDOM:
            return _seeded(asked, sized=drawn.sized), known
        if not asked.source and asked.repository is None and ":" not in asked.model and not _packaged(asked):
            return load_pretrained(asked, drawn.sized), known
        return _loaded(asked, drawn)


def _packaged(asked: Wanted) -> bool:
    return not asked.source and asked.recipe is not None and asked.recipe.source == "package"


def _seeded(asked: Wanted, *, sized: bool) -> torch.nn.Module:
    """Make the model with the weights of the fixed seed."""
    import torch

    torch.default_generator.manual_seed(RANDOM_SEED)
    return create(asked, sized=sized)


def _loaded(asked: Wanted, drawn: Sketch) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Make the model with weights of a file, a recipe's repository, or a package."""
    told: dict[str, Any] = {}
    if asked.source:
        place = f"checkpoint {asked.source}"
        state, told = of_file(Path(asked.source), asked)
    elif _packaged(asked):
        assert asked.recipe is not None
        place, state = f"the package {asked.recipe.location}", of_package(asked, drawn.model)
    else:
        place, state = f"the repository or folder {asked.repository or asked.model.partition(':')[2]}", of_place(asked)
    if asked.size is None and drawn.sized and asked.source:
        side = int(told["input_size"][1]) if "input_size" in told else told_size(state, drawn.model)
        if side is not None:
            asked = asked.of_size(side)
            drawn = sketch(asked)
    # A large model takes long to make, and much memory: weights of another are refused before.
    fitting(drawn.model, state, asked, place)
    model = create(asked, sized=drawn.sized)
    fit(model, state, asked, place)
    known = statistics(model, asked, told)
    tagged = "." in asked.model.partition("@")[0]
    options = asked.options
    if asked.source and not (told or tagged or asked.recipe or (options.mean and options.std)):
        _say_unknown(asked, known)
    return model, known


def _say_unknown(asked: Wanted, known: dict[str, Any]) -> None:
    """Say that nobody knows what a file's pixels were normalised by."""
    mean, std = written(asked.options.mean or known["mean"]), written(asked.options.std or known["std"])
    logger.warning(
        "encoder %s: nothing says how pixels were normalised for the weights of this file; mean %s and std %s, which "
        "timm has for the architecture, are used: give those of its authors as %s?mean=%s&std=%s",
        asked.name,
        mean,
        std,
        asked.name.rpartition("?")[0] or asked.name,
        mean,
        std,
    )
