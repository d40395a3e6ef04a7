"""The interface of encoders, and their registry by prefix."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nh2st_graph._errors import ConfigError, ModelError, nearest, setting
from nh2st_graph.im._default import AUTO
from nh2st_graph.im._names import allowed_options, split_names
from nh2st_graph.im._recipes import recipes

__all__ = [
    "KNOWN",
    "Encoder",
    "full_names",
    "make_encoders",
    "needs_network",
    "other_kinds",
    "outside_places",
    "refuse_places",
    "register_encoder",
]


class Encoder(ABC):
    """Turn patches into feature vectors, each patch by itself.

    Attributes
    ----------
    name
        ``PREFIX:REST``, as in the configuration.
    input_size
        Side of its input patches, in pixels.
    interpolation
        Pillow's filter that resamples patches to this side.
    normalisation
        ``mean`` and ``std`` of pixel values, for the record; empty if pixels are not normalised.
    fingerprint
        Everything but the patch that its features depend on (weights, parameters, library versions), as JSON values.
        Encoders with equal fingerprints share cached features.
    um_per_px
        Resolution that it was trained at, in um per px; None if that is unknown, or it was not trained on slides.
    """

    name: str
    input_size: int
    interpolation: str = "bicubic"
    normalisation: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    um_per_px: float | None = None

    @abstractmethod
    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.float32 | np.uint8]:
        """Encode patches.

        Parameters
        ----------
        patches
            ``(n, input_size, input_size, 3)``, RGB.

        Returns
        -------
        ``(n, n_features)``, float32 or uint8. A row depends on its own patch alone.
        """

    @cached_property
    def n_features(self) -> int:
        """Length of a feature vector, measured on a blank patch."""
        return int(self.encode(self._blank()).shape[1])

    @cached_property
    def feature_names(self) -> list[str]:
        """Name of each feature; by default the name of the model with a number."""
        model = self.name.partition("@")[0].partition("?")[0]
        return [f"{model}_{i}" for i in range(self.n_features)]

    def _blank(self) -> NDArray[np.uint8]:
        return np.full((1, self.input_size, self.input_size, 3), 255, dtype=np.uint8)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, input_size={self.input_size})"


#: Makes an encoder from what follows the prefix, and the device.
Factory = Callable[[str, str], Encoder]
F = TypeVar("F", bound=Factory)

_REGISTRY: dict[str, Factory] = {}

#: Stands for the prefix of names of the table of encoders, which have none.
KNOWN = "(table)"


def register_encoder(prefix: str) -> Callable[[F], F]:
    """Register a class or function that makes the encoders named ``PREFIX:REST``.

    It is called with ``REST`` and the device (``"auto"``, ``"cpu"``, ``"cuda"``, ...). Registering a prefix twice
    warns, and the later one counts.

    It may have two more functions of ``REST``. ``outside(REST)`` names the file, folder or hub that the encoder opens,
    or gives None: a saved model that is not trusted does not open it. Without it, ``REST`` itself counts as a file.
    ``remote(REST)`` says whether weights may be downloaded. ``options``, a set, names the options that it takes
    (``PREFIX:REST?size=224``); others are refused. Without it, ``REST`` may be anything. ``all_parts`` is the ``REST``
    that the prefix alone stands for.

    Examples
    --------
    >>> @register_encoder("mine")
    ... class MyEncoder(Encoder): ...
    """

    def register(factory: F) -> F:
        if prefix in _REGISTRY:
            warnings.warn(f"encoder prefix {prefix!r} is registered again and replaces the earlier one", stacklevel=2)
        _REGISTRY[prefix] = factory
        return factory

    return register


def make_encoders(names: str, device: str = "auto") -> list[Encoder]:
    """Make encoders by their names.

    Parameters
    ----------
    names
        Names ``PREFIX:REST`` or names of the table of encoders, joined by commas:
        ``"uni2-h,timm:resnet18?size=112,squidpy:summary+texture"``.
    device
        Where networks run: ``"auto"`` (a CUDA device where there is one), ``"cpu"``, ``"cuda"``, ...

    Raises
    ------
    ConfigError
        If a name is unknown or malformed, or occurs twice.
    """
    return [factory(rest, device) for factory, rest in _named(names)]


def check_names(names: str, *, files: bool = True) -> None:
    """Refuse names of encoders that are unknown or malformed, before libraries and weights are loaded.

    Parameters
    ----------
    names
        As for :func:`make_encoders`.
    files
        Also refuse files of weights that do not exist.

    Raises
    ------
    ConfigError
        If a name is unknown or malformed, or occurs twice, or its file is missing.
    """
    for factory, rest in _named(names):
        getattr(factory, "check", lambda rest: None)(rest)
        if files:
            getattr(factory, "check_file", lambda rest: None)(rest)


def outside_places(names: str) -> list[str]:
    """List what encoders of these names would open or ask beyond installed packages: files, folders and hubs.

    A factory says it by ``outside(rest)``; see :func:`register_encoder`. One that does not may open what it likes.
    """
    found = (getattr(factory, "outside", lambda rest: rest)(rest) for factory, rest in _named(names))
    return [place for place in found if place is not None]


def refuse_places(encoder: str) -> None:
    """Refuse an encoder of a saved model that leads to a file, a folder or a hub.

    Raises
    ------
    ModelError
        If it does.
    """
    places = outside_places(encoder)
    if places:
        raise ModelError(
            f"the saved model names the encoder {encoder!r}, and {places[0]} is not opened on the word of a file; name "
            f"the encoder yourself: {setting('features.encoder', encoder)}, or trust the model: "
            f"{setting('trust', True)}"
        )


def needs_network(names: str) -> bool:
    """Whether encoders of these names may download weights; a factory says it by ``remote(rest)``."""
    return any(getattr(factory, "remote", lambda _: False)(rest) for factory, rest in _named(names))


def other_kinds(names: str, fingerprints: Sequence[Mapping[str, Any]]) -> list[str]:
    """List where names contradict the fingerprints of encoders, as far as names tell; nothing is opened for this.

    Of encoders of other packages, they do not tell.
    """
    factories, found = _named(names), []
    if len(factories) != len(fingerprints):
        return [f"{len(fingerprints)} encoders -> {len(factories)}"]
    for part, (factory, rest), known in zip(split_names(names), factories, fingerprints, strict=True):
        if not factory.__module__.startswith(f"{__package__}."):
            continue
        now = {"encoder": getattr(factory, "kind", lambda _, part=part: part.partition(":")[0])(rest)}
        if now["encoder"] == known.get("encoder") and known.get("architecture"):
            architecture = getattr(factory, "architecture", lambda _: None)(rest)
            now |= {"architecture": architecture} if architecture is not None else {}
        found += [f"{key}: {known.get(key)} -> {value}" for key, value in now.items() if known.get(key) != value]
    return found


def full_names(names: str) -> list[str]:
    """Split names of encoders, and write all parts behind a prefix that stands alone; unknown names stay."""
    parts = {name: getattr(_REGISTRY.get(name), "all_parts", None) for name in split_names(names)}
    return [name if parts[name] is None else f"{name}:{parts[name]}" for name in split_names(names)]


def _named(names: str) -> list[tuple[Factory, str]]:
    """Look up the factory of each name, and what follows its prefix."""
    parts, found, where = split_names(names), [], setting("features.encoder", names)
    for i, part in enumerate(parts):
        prefix, colon, rest = part.partition(":")
        if part == AUTO:
            raise ConfigError(f"{where}: auto stands for several encoders with patches of their own; name one of them")
        plain, mark, options = part.partition("?")
        if mark and (plain == AUTO or hasattr(_REGISTRY.get(plain), "all_parts")):
            raise ConfigError(f"{where}: {plain!r} takes no options; leave {mark + options!r} out")
        if _model(part) in recipes():
            prefix, rest = KNOWN, part
        elif prefix not in _REGISTRY or prefix == KNOWN:
            raise ConfigError(f"{where}: unknown encoder {part!r}; {_hint(part, prefix, colon)}")
        elif not colon:
            rest = getattr(_REGISTRY[prefix], "all_parts", "")
        if not rest:
            raise ConfigError(f"{where}: {part!r} names no encoder; write {prefix}:NAME")
        if part in parts[:i]:
            raise ConfigError(f"{where}: {part!r} occurs twice; name each encoder once")
        taken = getattr(_REGISTRY[prefix], "options", None)
        if taken is not None and allowed_options(part, taken)[0].endswith("@"):
            raise ConfigError(f"{where}: no file follows the @ of {part!r}; give one, or leave the @ out")
        found.append((_REGISTRY[prefix], rest))
    return found


def _model(part: str) -> str:
    """Cut file and options off a name."""
    return part.partition("@")[0].partition("?")[0]


def _hint(part: str, prefix: str, colon: str) -> str:
    prefixes = sorted(_REGISTRY.keys() - {KNOWN})
    if colon:
        return f"its prefix is {prefix!r}: {nearest(prefix, prefixes)}"
    known = {name.lower(): name for name in recipes()}
    close = [known[name] for name in get_close_matches(_model(part).lower(), known, n=3, cutoff=0.6)]
    named = f"nearest in the table of encoders: {', '.join(close)}; or " if close else ""
    return f"{named}write PREFIX:NAME, such as 'timm:{part or 'resnet18'}' (prefixes: {', '.join(prefixes)})"
