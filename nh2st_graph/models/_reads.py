"""What methods read of an image, as far as their settings tell: it is known before torch is loaded."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from nh2st_graph._errors import ConfigError, ModelError, nearest, setting

__all__ = ["ENTRY_POINTS", "METHODS", "check_encoder", "check_method", "check_name", "is_foreign"]

#: Group of entry points by which another package provides methods, each with its name.
ENTRY_POINTS = "nh2st_graph.methods"

#: Names of the methods of this package.
METHODS = (
    "bleep",
    "eggn",
    "egn",
    "hggep",
    "hist2st",
    "histogene",
    "knn",
    "mclstexp",
    "mean",
    "nh2st_graph",
    "pca_ridge",
    "random_forest",
    "ridge",
    "ridge_neighbours",
    "stgchb",
    "stnet",
    "triplex",
)

#: Names of the methods that read the pixels of a patch themselves.
_PIXELS = {"histogene": "HisToGene", "hist2st": "Hist2ST", "hggep": "HGGEP"}
#: Methods that read the places of a feature map, each with the setting of their number.
_PLACES = {"triplex": "target_tokens", "egn": "tokens"}


def check_name(name: str) -> None:
    """Refuse a method that nobody provides, unless methods are loaded: then the registry knows better.

    Raises
    ------
    ConfigError
        If the name is unknown.
    """
    if f"{__package__}._registry" in sys.modules or name in METHODS or ":" in name:
        return
    known = {*METHODS, *(entry.name for entry in entry_points(group=ENTRY_POINTS))}
    if name not in known:
        raise ConfigError(f"{setting('model.name', name)}: no such method; {nearest(name, known)}")


def check_method(config: Any, where: str, trust: bool | str) -> None:
    """Refuse a saved configuration whose method is neither registered nor brought by an installed package.

    Nothing is imported for this.

    Parameters
    ----------
    config
        The saved configuration, before it is parsed.
    where
        What an error calls its place.
    trust
        Whether the caller trusts the place; or the one name that the caller trusts.

    Raises
    ------
    ModelError
        If the method needs the caller's word.
    """
    model = config.get("model") if isinstance(config, Mapping) else None
    name = str(model.get("name", "")) if isinstance(model, Mapping) else ""
    if trust is True or name == trust or not is_foreign(name):
        return
    raise ModelError(
        f"{where}: its method {name!r} is code of a file or module, which is not imported on the word of a saved "
        f"model; if you know where it comes from, give {setting('trust', True)}"
    )


def is_foreign(name: str) -> bool:
    """Whether a method is code of a file or module, neither registered nor an entry point; nothing is loaded."""
    if ":" not in name:
        return False
    registry = sys.modules.get(f"{__package__}._registry")
    if registry is not None:
        return name not in registry.known_methods()
    return name not in entry_points(group=ENTRY_POINTS).names  # loading a model asks the registry again


def _encoders_of(keys: Mapping[str, Any]) -> str:
    """Join the names of encoders; entries of blocks are names, pairs or mappings."""
    blocks = keys.get("features.encoders")
    if not isinstance(blocks, list | tuple):
        return str(keys.get("features.encoder", "squidpy:summary+texture+histogram"))
    names = (each.get("encoder") if isinstance(each, Mapping) else each for each in blocks)
    return ",".join(str(each[0] if isinstance(each, list | tuple) and each else each) for each in names)


def check_encoder(keys: Mapping[str, Any]) -> None:
    """Refuse an encoder whose features a method cannot read.

    Parameters
    ----------
    keys
        Dotted keys of a configuration, perhaps not all of them, with values that are not checked yet.

    Raises
    ------
    ConfigError
        If there is no method ``model.name``, or ``features.encoder`` does not fit it.
    """
    check_name(str(keys.get("model.name", "nh2st_graph")))
    name, encoder = keys.get("model.name"), _encoders_of(keys)
    where = f"{setting('model.name', name)} cannot read {setting('features.encoder', encoder)}"
    by_pixels = keys.get("model.input", "pixels") == "pixels"
    if name in _PIXELS and by_pixels and not encoder.startswith("pixels:"):
        raise ConfigError(
            f"{where}: {_PIXELS[name]} reads the pixels of a patch; give {setting('features.encoder', 'pixels:112')} "
            f"and {setting('features.standardize', 'none')}"
        )
    if name == "egn" and by_pixels:
        if not (encoder.startswith("pixels:") and "," in encoder):
            raise ConfigError(
                f"{where}: EGN reads pixels, then the features that find exemplars; give "
                f"{setting('features.encoder', 'pixels:256,timm:resnet50')}, or {setting('model.input', 'features')}"
            )
    elif name in _PLACES and keys.get(f"model.{_PLACES[name]}", 49) != 1 and "timm-map:" not in encoder:
        raise ConfigError(
            f"{where}: it reads the places of a feature map; give {setting('features.encoder', 'timm-map:resnet18')}, "
            f"or {setting(f'model.{_PLACES[name]}', 1)}"
        )
