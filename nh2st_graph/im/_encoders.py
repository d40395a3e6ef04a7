"""Encoders by name: what an encoder is, and the registry of their prefixes."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nh2st_graph._errors import ConfigError, nearest

__all__ = ["Encoder", "make_encoders", "register_encoder"]


class Encoder(ABC):
    """Turns patches into feature vectors, each patch on its own.

    Attributes
    ----------
    name
        As written in the configuration: ``PREFIX:REST``.
    input_size
        Side of the patches it takes, in pixels.
    interpolation
        Filter by which patches are resampled to that side.
    normalisation
        What it does to pixel values (``mean``, ``std``), for the record; empty where it takes them as is.
    fingerprint
        Everything that its numbers depend on beside the patch (weights, parameters, library versions);
        JSON values. Two encoders with equal fingerprints share cached features.
    """

    name: str
    input_size: int
    interpolation: str = "bicubic"
    normalisation: Mapping[str, Any]
    fingerprint: Mapping[str, Any]

    @abstractmethod
    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.float32 | np.uint8]:
        """Encode patches.

        Parameters
        ----------
        patches
            ``(n, input_size, input_size, 3)``, RGB.

        Returns
        -------
        ``(n, n_features)``, numbers or bytes. A row depends on its own patch alone.
        """

    @cached_property
    def n_features(self) -> int:
        """Length of a feature vector, found by encoding a blank patch."""
        return int(self.encode(self._blank()).shape[1])

    @cached_property
    def feature_names(self) -> list[str]:
        """A name for each feature: numbers after the model's name, where they have none of their own."""
        model = self.name.partition("@")[0]
        return [f"{model}_{i}" for i in range(self.n_features)]

    def _blank(self) -> NDArray[np.uint8]:
        return np.full((1, self.input_size, self.input_size, 3), 255, dtype=np.uint8)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, input_size={self.input_size})"


#: Takes what follows the prefix, and the device.
Factory = Callable[[str, str], Encoder]
F = TypeVar("F", bound=Factory)

_REGISTRY: dict[str, Factory] = {}


def register_encoder(prefix: str) -> Callable[[F], F]:
    """Register a class or function that makes the encoders named ``PREFIX:REST``.

    It is called with ``REST`` and the device (``"auto"``, ``"cpu"``, ``"cuda"``, ...).

    Examples
    --------
    >>> @register_encoder("mine")
    ... class MyEncoder(Encoder): ...
    """

    def register(factory: F) -> F:
        if prefix in _REGISTRY:
            warnings.warn(f"encoder prefix {prefix!r} is registered again; the earlier one is gone", stacklevel=2)
        _REGISTRY[prefix] = factory
        return factory

    return register


def make_encoders(names: str, device: str = "auto") -> list[Encoder]:
    """Make the encoders of a specification.

    Parameters
    ----------
    names
        Names ``PREFIX:REST`` joined by commas: ``"timm:resnet18,squidpy:summary+texture"``.
    device
        Where networks run: ``"auto"`` (a CUDA device where there is one), ``"cpu"``, ``"cuda"``, ...

    Raises
    ------
    ConfigError
        For an unknown or malformed name, or one that occurs twice.
    """
    return [factory(rest, device) for factory, rest in _named(names)]


def _named(names: str) -> list[tuple[Factory, str]]:
    """Look up the names of a specification: what makes each encoder, and of what."""
    parts, found = [part.strip() for part in names.split(",")], []
    for i, part in enumerate(parts):
        prefix, colon, rest = part.partition(":")
        if prefix not in _REGISTRY:
            raise ConfigError(f"features.encoder = {names!r}: unknown encoder {part!r}; {_hint(part, prefix, colon)}")
        if not rest:
            raise ConfigError(f"features.encoder = {names!r}: {part!r} names no encoder; write {prefix}:NAME")
        if part in parts[:i]:
            raise ConfigError(f"features.encoder = {names!r}: {part!r} occurs twice; name each encoder once")
        found.append((_REGISTRY[prefix], rest))
    return found


def _hint(part: str, prefix: str, colon: str) -> str:
    if colon:
        return f"its prefix {prefix!r}: {nearest(prefix, _REGISTRY)}"
    return f"write PREFIX:NAME, such as 'timm:{part or 'resnet18'}' (prefixes: {', '.join(sorted(_REGISTRY))})"
