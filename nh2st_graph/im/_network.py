"""What all encoders share that run a network of torch."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from contextlib import nullcontext
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from nh2st_graph._errors import ConfigError, listed, reason, setting
from nh2st_graph.im._encoders import Encoder
from nh2st_graph.im._names import Channels, Options

if TYPE_CHECKING:
    import torch

__all__ = ["UNREADABLE", "NetworkEncoder", "digest_of", "find_device", "unreadable", "written"]

logger = logging.getLogger("nh2st_graph")

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


#: Classes beside tensors that torch and timm name, before they say how to run their code.
_CLASSES = re.compile(r"Unsupported globals?: (?:GLOBAL )?(\w+(?:\.\w+)*(?:, \w+(?:\.\w+)*)*)")


def unreadable(error: BaseException) -> str:
    """Say in a few words why weights cannot be read."""
    classes = _CLASSES.search(str(error))
    if classes is not None:
        return f"it holds more than tensors: {listed(classes[1].split(', '), 3)}"
    if "Weights only load failed" in str(error):
        return "it holds more than tensors, or none"
    return f"it is no file of weights: {reason(error)}" if isinstance(error, KeyError) else reason(error)


#: Images that a CPU computes at a time. With 64, what layers hand on leaves its cache: convolutional networks take 1.2
#: to 1.5 times as long, and half a gigabyte more (``benchmarks/encoder_pieces.py``). Features are the same.
_AT_A_TIME = 16


class NetworkEncoder(Encoder):
    """An encoder whose network turns normalised images into vectors.

    Attributes
    ----------
    network
        Takes ``(n, 3, input_size, input_size)`` and gives ``(n, n_features)``.
    device, precision
        Where it runs, and in which numbers.
    """

    network: torch.nn.Module
    device: torch.device
    precision: torch.dtype

    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network; see :meth:`Encoder.encode`."""
        if self.device.type != "cpu" or len(patches) <= _AT_A_TIME:
            return self._encode(patches)
        starts = range(0, len(patches), _AT_A_TIME)
        return np.concatenate([self._encode(patches[start : start + _AT_A_TIME]) for start in starts])

    def _encode(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        mean, std = (
            torch.tensor(self.normalisation[key], device=self.device).view(1, 3, 1, 1) for key in ("mean", "std")
        )
        autocast = (
            nullcontext() if self.precision == torch.float32 else torch.autocast(self.device.type, self.precision)
        )
        with torch.inference_mode(), autocast:
            given = torch.from_numpy(np.ascontiguousarray(patches))
            # From pinned memory, the copy does not hold up the next operations.
            given = given.pin_memory() if self.device.type == "cuda" else given
            # Pixels are the innermost but one: in torch's words, channels_last.
            images = given.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
            output = self.network((images.float() / 255 - mean) / std)
        if output.ndim != 2:
            raise ConfigError(
                f"{setting('features.encoder', self.name)} gives {tuple(output.shape[1:])} for a patch, "
                "expected one vector; choose a model with a pooled output"
            )
        features: NDArray[np.float32] = output.float().cpu().numpy()
        return features

    def _normalise_by(self, known: Mapping[str, Any], options: Options) -> None:
        """Take interpolation, mean and standard deviation of the weights, or those that the name gives."""
        self.interpolation = str(known["interpolation"])
        mean, std = options.mean or known["mean"], options.std or known["std"]
        self.normalisation = {"mean": [float(v) for v in mean], "std": [float(v) for v in std]}

    def _run(self, network: torch.nn.Module, device: tuple[torch.device, torch.dtype], options: Options) -> None:
        """Put the network on its device."""
        import torch

        self.device, self.precision = device
        if options.precision is not None:
            self.precision = getattr(torch, options.precision)
        self.network = network.eval().requires_grad_(False).to(self.device)
        if self.device.type == "cuda":  # images come so, and weights are not brought to their order at each call
            self.network = self.network.to(memory_format=torch.channels_last)


def find_device(name: str) -> tuple[torch.device, torch.dtype]:
    """Find the torch device, and the precision of networks on it."""
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


def digest_of(model: torch.nn.Module, *, names: bool = True) -> str:
    """Hash the weights of a network (SHA-256).

    Parameters
    ----------
    model
        The network.
    names
        Whether the names of tensors count. In ``transformers`` they change with its releases.
    """
    weights = sorted(model.state_dict().items())
    digest = hashlib.sha256()
    if names:
        for key, value in weights:
            _add(digest, key, value)
    else:
        each = [_add(hashlib.sha256(), "", value).hexdigest() for _, value in weights]
        digest.update("\n".join(sorted(each)).encode())
    return digest.hexdigest()


def _add(digest: Any, name: str, value: torch.Tensor) -> Any:
    """Add a tensor to a digest."""
    import torch

    digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
    digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest


def written(values: Channels) -> str:
    """Write red, green and blue as in the name of an encoder."""
    return "/".join(f"{value:g}" for value in values)
