"""Configurations from files."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from nh2st_graph._errors import ConfigError
from nh2st_graph.config._schema import Config
from nh2st_graph.config._yaml import as_mapping, read_yaml

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
        If the file is missing, is not YAML, gives a key twice, or does not fit the schema.
    """
    return Config.parse(read_yaml(Path(path)), str(path)).override(overrides)


def builtin_config(name: str, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration that ships with the package, such as ``"demo"``."""
    package = files("nh2st_graph")
    for folder in (package.joinpath("configs"), Path(str(package)).parent / "configs"):
        file = folder.joinpath(f"{name}.yaml")
        if file.is_file():
            values = as_mapping(file.read_text(encoding="utf-8"), f"{name}.yaml")
            return Config.parse(values, f"{name}.yaml").override(overrides)
    raise ConfigError(f"no configuration named {name!r} ships with this package")
