"""Settings as keyword arguments, for functions that take them beside a configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nh2st_graph._errors import ConfigError, nearest
from nh2st_graph._settings import known_keys
from nh2st_graph.config._schema import Config, settings_class

__all__ = ["with_arguments"]

#: Keys that say which files to read; who calls a function has read them.
_OF_FILES = re.compile(r"data\.(format|root|options|train|test|synthetic)(\..*)?$")

#: What a word alone means for a part of the configuration: ``model="bleep"``, ``graph="knn"``.
_WORD = {"model": "name", "graph": "mode"}

_KEY = re.compile(r"\b(?:data|features|graph|model|train|evaluate)\.(?=[a-z])")


def with_arguments(config: Any, arguments: Mapping[str, Any]) -> Config:
    """Return a copy of a configuration, changed by keyword arguments.

    Parameters
    ----------
    config
        What to change.
    arguments
        Values by the last word of a key (``panel`` for ``data.panel``), or mappings by the name of a part
        (``model={"hops": 2}``). For ``model`` and ``graph``, a word is the method and the mode.

    Raises
    ------
    ConfigError
        If a name is unknown, or a value is wrong; it names arguments, not keys.
    """
    if not isinstance(config, Config):
        is_file = isinstance(config, str | Path)
        cure = f"config.load_config({str(config)!r})" if is_file else "a Config, or settings by their names"
        raise ConfigError(f"config is of type {type(config).__name__}; give {cure}")
    try:
        return config.change(_dotted(config, arguments), "settings")
    except ConfigError as error:
        said = str(error.args[0])
        for part, key in _WORD.items():
            if isinstance(arguments.get(part), str):
                said = said.replace(f"{part}.{key}", part)
        raise ConfigError(_KEY.sub("", said)) from None


def _dotted(config: Config, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted keys."""
    parts = [name for name in type(config).model_fields if name != "seed"]
    method = arguments.get("model", config.model.name)
    if isinstance(method, Mapping):
        method = method.get("name", config.model.name)
    keys = _keys_by_last_word(config, method if isinstance(method, str) else config.model.name)
    changes: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in parts and isinstance(value, Mapping):
            changes |= {f"{name}.{key}": each for key, each in value.items()}
        elif name in _WORD and isinstance(value, str):
            changes[f"{name}.{_WORD[name]}"] = value
        elif name in keys:
            changes[keys[name]] = value
        elif name in parts:
            raise ConfigError(f"{name} = {value!r}; expected a mapping of its settings")
        else:
            raise ConfigError(f"there is no setting {name!r}; {nearest(name, [*keys, *parts])}")
    return changes


def _keys_by_last_word(config: Config, method: str) -> dict[str, str]:
    """Dotted keys by their last words; where parts share a word, the first part of the configuration has it."""
    keys: dict[str, str] = {}
    shared = [key for key in known_keys(type(config)) if not key.startswith("model.")]
    for key in [*shared, *known_keys(settings_class(method), "model.")]:
        word = key.rpartition(".")[2]
        if "." in key and key != "model.name" and not _OF_FILES.match(key):
            keys.setdefault(word, key)
    return keys | {"seed": "seed"}
