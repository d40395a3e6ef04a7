"""Whether this machine has a device, as far as possible without loading torch."""

from __future__ import annotations

import sys
from pathlib import Path

from nh2st_graph._errors import ConfigError, setting

__all__ = ["check_device"]

#: Files by which Linux gives a graphics card to processes: NVIDIA's (Jetson's too), AMD's, and Windows' under Linux.
_CARDS = ("nvidia*", "nvhost*", "nvgpu*", "kfd", "dxg")


def check_device(device: str, precision: str) -> None:
    """Refuse a device that is not there, and half precision without one.

    Parameters
    ----------
    device, precision
        ``train.device`` and ``train.precision`` of a configuration.

    Raises
    ------
    ConfigError
        If there is no such device, or it does not support the precision.
    """
    if device == "cuda" and not _has("cuda"):
        raise ConfigError(f"{setting('train.device', 'cuda')}: there is no CUDA device; use auto or cpu")
    if device == "mps" and not _has("mps"):
        raise ConfigError(f"{setting('train.device', 'mps')}: there is no Apple GPU; use auto or cpu")
    if precision == "16" and (device not in {"auto", "cuda"} or not _has("cuda")):
        raise ConfigError(
            f"{setting('train.precision', '16')}: half precision needs a CUDA device; use auto, 32 or bf16"
        )


def _has(device: str) -> bool:
    """Ask torch for a device. It is not loaded for this where the system has no such device."""
    if "torch" not in sys.modules:
        if device == "mps" and sys.platform != "darwin":
            return False
        if device == "cuda" and sys.platform == "linux" and not any(any(Path("/dev").glob(name)) for name in _CARDS):
            return False
    import torch

    return torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()
