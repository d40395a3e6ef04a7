"""Models of timm as encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from nh2st_graph._errors import ConfigError, nearest, setting
from nh2st_graph.im._encoders import Encoder, register_encoder
from nh2st_graph.im._timm_names import timm_names, timm_says

if TYPE_CHECKING:
    import torch

__all__ = ["TimmEncoder", "TimmMapEncoder"]

#: Seed of the weights of ``NAME@random``.
RANDOM_SEED = 0

#: What stands in a name for weights drawn from that seed.
RANDOM = "random"

#: Prefixes of names that lead out of timm; ``@`` is a revision there.
_ELSEWHERE = {"hf-hub": "the hub's repository", "local-dir": "the folder"}

#: Errors of reading a file that holds no state dict, from the file system up to timm.
UNREADABLE = (
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    UnpicklingError,
    ValueError,
)


@register_encoder("timm")
class TimmEncoder(Encoder):
    """The pooled features of a timm model, before its classifier.

    Parameters
    ----------
    name
        ``NAME``: the model with timm's pretrained weights, of a given tag if the name has one (``resnet18.tv_in1k``);
        ``hf-hub:ORG/NAME``: architecture and weights from the Hugging Face hub; ``NAME@FILE``: the model with the
        weights of a local file, as timm saves them (``.safetensors``, or a PyTorch file, of which only tensors are
        read); ``NAME@random``: untrained weights drawn from a fixed seed, a baseline to compare with.
    device
        ``"auto"`` (a CUDA device if there is one, else the CPU), or a torch device.

    Raises
    ------
    ConfigError
        If the model is unknown, its weights cannot be loaded or do not fit it, the device does not exist, or the input
        of the model is not a square RGB image.

    Notes
    -----
    Input size, interpolation, mean and standard deviation follow timm's data configuration of the weights, without its
    centre crop: a patch already has its physical size. On CUDA the model runs in mixed precision.
    """

    prefix = "timm"

    def __init__(self, name: str, device: str = "auto") -> None:
        from timm.data.config import resolve_model_data_config

        self.name = f"{self.prefix}:{name}"
        self.device, self.precision = _device(device)
        model = _load(name)
        data = resolve_model_data_config(model)
        channels, height, width = data["input_size"]
        if channels != 3 or height != width:
            raise ConfigError(
                f"{setting('features.encoder', self.name)} takes {channels} x {height} x {width} images; "
                "choose a model of square RGB images"
            )
        self.input_size = int(height)
        self.interpolation = str(data["interpolation"])
        self.normalisation = {
            "mean": [float(v) for v in data["mean"]],
            "std": [float(v) for v in data["std"]],
        }
        self.fingerprint = _fingerprint(model, self)
        self.network = self._network(model).eval().requires_grad_(False).to(self.device)

    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the model; see :meth:`Encoder.encode`."""
        import torch

        mean, std = (
            torch.tensor(self.normalisation[key], device=self.device).view(1, 3, 1, 1) for key in ("mean", "std")
        )
        autocast = (
            nullcontext() if self.precision == torch.float32 else torch.autocast(self.device.type, self.precision)
        )
        with torch.inference_mode(), autocast:
            images = torch.from_numpy(np.ascontiguousarray(patches)).to(self.device).permute(0, 3, 1, 2)
            output = self.network((images.float() / 255 - mean) / std)
        if output.ndim != 2:
            raise ConfigError(
                f"{setting('features.encoder', self.name)} gives {tuple(output.shape[1:])} for a patch, "
                "expected one vector; choose a model with a pooled output"
            )
        features: NDArray[np.float32] = output.float().cpu().numpy()
        return features

    @staticmethod
    def outside(name: str) -> str | None:
        """Say which file, folder or hub a name leads to; None for timm's own names, and for random weights."""
        kind, _, place = name.partition(":")
        if kind in _ELSEWHERE:
            return f"{_ELSEWHERE[kind]} {place}"
        source = name.partition("@")[2]
        return f"the file {source}" if source not in {"", RANDOM} else None

    @classmethod
    def check_file(cls, name: str) -> None:
        """Refuse a model that timm does not have, or a file of weights that does not exist."""
        if name.partition(":")[0] in _ELSEWHERE:
            return
        model, _, source = name.partition("@")
        architecture, _, tag = model.partition(".")
        known = timm_names()
        if known and architecture not in known:
            raise _unknown_model(model, known)
        if tag and not timm_says(tag):
            _check_known(model, pretrained=not source)
        if source not in {"", RANDOM}:
            _check_file(Path(source).expanduser(), f"{cls.prefix}:{name}")

    @staticmethod
    def architecture(name: str) -> str | None:
        """Say which architecture a name stands for; None for names that lead out of timm, or that timm replaced."""
        import timm

        architecture = name.partition("@")[0].partition(".")[0]
        return architecture if architecture in timm.list_models() else None

    @staticmethod
    def remote(name: str) -> bool:
        """Whether the weights of a name come from a hub, or from timm's own place on it."""
        kind = name.partition(":")[0]
        return kind == "hf-hub" or (kind not in _ELSEWHERE and "@" not in name)

    @staticmethod
    def _network(model: torch.nn.Module) -> torch.nn.Module:
        """Make the network that turns normalised images into vectors, ``(n, n_features)``."""
        return model


@register_encoder("timm-map")
class TimmMapEncoder(TimmEncoder):
    """The last feature map of a timm model, flattened and not averaged, so that places in the patch count.

    NH2ST uses ResNet-18 in this way: at 224 px, 512 channels of 7 x 7 places are 25,088 features. Names are those of
    :class:`TimmEncoder`: ``timm-map:resnet18``.
    """

    prefix = "timm-map"

    @staticmethod
    def _network(model: torch.nn.Module) -> torch.nn.Module:
        import torch

        # Without its head, a timm model has no pooling either.
        model.reset_classifier(0, "")  # type: ignore[operator] # torch types attributes as modules
        return torch.nn.Sequential(model, torch.nn.Flatten())


def _device(name: str) -> tuple[torch.device, torch.dtype]:
    """Find the torch device, and the precision of the model on it."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ConfigError(f"{setting('device', name)} cannot be used ({reason}); give 'auto' or 'cpu'") from None
    if device.type != "cuda":
        return device, torch.float32
    return device, torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _load(name: str) -> torch.nn.Module:
    """Make the model with its weights; the global random state stays as it is."""
    import timm
    import torch

    if name.partition(":")[0] in _ELSEWHERE:
        architecture, source = name, ""
    else:
        architecture, _, source = name.partition("@")
        _check_known(architecture, pretrained=not source)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(RANDOM_SEED)
        if not source:
            return _pretrained(architecture)
        model: torch.nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0)
    if source != RANDOM:
        _load_checkpoint(model, name, Path(source))
    return model


def _check_known(name: str, pretrained: bool) -> None:
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


def _pretrained(name: str) -> torch.nn.Module:
    import timm

    try:
        model: torch.nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{setting('features.encoder', f'timm:{name}')}: its pretrained weights cannot be loaded ({reason}); "
            "connect to the network (or get access to them) once, or give a file: 'timm:NAME@WEIGHTS.safetensors'"
        ) from error
    return model


def _check_file(path: Path, encoder: str) -> None:
    if not path.is_file():
        raise ConfigError(
            f"{setting('features.encoder', encoder)}: checkpoint {path} does not exist; give a .safetensors or PyTorch "
            "file"
        )


def _load_checkpoint(model: torch.nn.Module, name: str, path: Path) -> None:
    """Load a local file of weights, which has to have all weights of the model, and may have a classifier."""
    from timm.models import load_state_dict

    where = setting("features.encoder", f"timm:{name}")
    _check_file(path, f"timm:{name}")
    try:
        state = load_state_dict(str(path), device="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{where}: checkpoint {path} cannot be read ({reason}); give a file that holds only weights"
        ) from error
    try:
        result = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{where}: checkpoint {path} belongs to another model ({reason}); name that model") from None
    classifier = _pretrained_cfg(model).get("classifier") or ()
    heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier))
    over = [key for key in result.unexpected_keys if not key.startswith(heads or "\0")]
    if result.missing_keys or over:
        what = f"lacks {result.missing_keys[0]!r}" if result.missing_keys else f"has {over[0]!r} besides"
        raise ConfigError(f"{where}: checkpoint {path} belongs to another model (it {what}); name that model")


def _pretrained_cfg(model: torch.nn.Module) -> dict[str, Any]:
    config: Any = model.pretrained_cfg
    return dict(config)


def _fingerprint(model: torch.nn.Module, encoder: TimmEncoder) -> dict[str, Any]:
    """Describe what the features depend on; a digest stands for the weights."""
    import timm
    import torch

    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return {
        "encoder": encoder.prefix,
        "architecture": _pretrained_cfg(model).get("architecture"),
        "weights": digest.hexdigest(),
        "input_size": encoder.input_size,
        "interpolation": encoder.interpolation,
        **encoder.normalisation,
        "precision": str(encoder.precision),
        "versions": {"timm": timm.__version__, "torch": str(torch.__version__)},
    }
