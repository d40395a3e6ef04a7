"""Configurations from files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

import yaml

from nh2st_graph._errors import ConfigError
from nh2st_graph.config._schema import Config

__all__ = ["builtin_config", "load_config"]


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration file and apply overrides.

    Parameters
    ----------
    path
        A YAML file; keys that it leaves out take their defaults.
    overrides
        Assignments such as ``"data.test=[C6]"``.

    Raises
    ------
    ConfigError
        If the file is missing, not YAML, or does not fit the schema.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"configuration {path} cannot be read: {reason}") from None
    return _from_text(text, str(path)).override(overrides)


def builtin_config(name: str, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration that ships with the package, such as ``"demo"``."""
    package = files("nh2st_graph")
    for folder in (package.joinpath("configs"), Path(str(package)).parent / "configs"):
        file = folder.joinpath(f"{name}.yaml")
        if file.is_file():
            return _from_text(file.read_text(encoding="utf-8"), f"{name}.yaml").override(overrides)
    raise ConfigError(f"no configuration named {name!r} ships with this package")


def _from_text(text: str, source: str) -> Config:
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: expected keys and values at the top, found {type(values).__name__}")
    return Config.parse(values, source)
