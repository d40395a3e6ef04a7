"""What methods read of an image, and the names of their settings: known before torch is loaded."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from nh2st_graph._errors import ConfigError, ModelError, nearest, setting
from nh2st_graph._settings import unknown_key

__all__ = [
    "ENTRY_POINTS",
    "METHODS",
    "check_encoder",
    "check_method",
    "check_name",
    "check_settings",
    "is_foreign",
    "setting_names",
]

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
    "kernel_ridge",
    "knn",
    "mclstexp",
    "mean",
    "nh2st_graph",
    "pca_ridge",
    "random_forest",
    "reduced_rank_ridge",
    "ridge",
    "ridge_neighbours",
    "stgchb",
    "stnet",
    "triplex",
)

#: The method whose settings are read without loading torch.
_LIGHT = "nh2st_graph"

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
        return str(keys.get("features.encoder", "auto"))
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
    embeddings = keys.get("features.embeddings")
    if embeddings is not None:
        encoder, where = "", f"{setting('model.name', name)} cannot read {setting('features.embeddings', embeddings)}"
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


def check_settings(keys: Mapping[str, Any], others: Iterable[str] = ()) -> None:
    """Refuse settings that a method of this package does not have, unless methods are loaded: they know better.

    Parameters
    ----------
    keys
        Dotted keys of a configuration, perhaps not all of them.
    others
        Keys of the other parts of a configuration, one of which may have been meant.

    Raises
    ------
    ConfigError
        If there is no such setting.
    """
    name = str(keys.get("model.name", _LIGHT))
    if name == _LIGHT or f"{__package__}._registry" in sys.modules:
        return
    known = [f"model.{each}" for each in sorted(setting_names(name))]
    for key in keys if known else ():
        if key.startswith("model.") and ".".join(key.split(".")[:2]) not in known:
            raise ConfigError(unknown_key(key, [*known, *others]))


def setting_names(method: str) -> frozenset[str]:
    """List the settings of a method of this package, earlier names included, as its file declares them.

    Its settings stand beside its network, and so they cannot be imported without torch.
    """
    classes = _settings_classes() if method in METHODS else {}
    own = [name for name, body in classes.items() if body.method == method]
    return frozenset().union(*(_fields(name, classes) for name in own))


class _Settings:
    """What a file says of a class of settings: the names of its bases, its fields, and its method."""

    def __init__(self, node: ast.ClassDef) -> None:
        self.bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        self.fields: set[str] = set()
        self.method: str | None = None
        for each in node.body:
            if not isinstance(each, ast.AnnAssign) or not isinstance(each.target, ast.Name):
                continue
            name = each.target.id
            if name == "renamed" and isinstance(each.value, ast.Dict):
                self.fields |= {str(key.value) for key in each.value.keys if isinstance(key, ast.Constant)}
            elif not ast.unparse(each.annotation).startswith("ClassVar"):
                self.fields.add(name)
            if name == "name" and isinstance(each.value, ast.Constant):
                self.method = str(each.value.value)


@cache
def _settings_classes() -> dict[str, _Settings]:
    """Read the classes of settings from the files of this room."""
    found: dict[str, _Settings] = {}
    for path in sorted(Path(__file__).parent.glob("_*.py")):
        text = path.read_text(encoding="utf-8")
        if "Config):" in text or "Section):" in text:
            classes = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef))
            found |= {node.name: _Settings(node) for node in classes if node.name.endswith("Config")}
    return found


def _fields(name: str, classes: Mapping[str, _Settings]) -> set[str]:
    if name not in classes:
        return set()
    return classes[name].fields.union(*(_fields(base, classes) for base in classes[name].bases))
