"""Configurations from files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from nh2st_graph._errors import ConfigError
from nh2st_graph._files import stamp
from nh2st_graph.config._changes import flatten
from nh2st_graph.config._messages import RUN_FORMAT, parse_assignment, settings_of
from nh2st_graph.config._schema import Config, in_keys, other_keys
from nh2st_graph.config._yaml import as_mapping, read_yaml
from nh2st_graph.models import check_encoder, check_settings

__all__ = ["builtin_config", "load_config", "read_config", "stored_yaml"]


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
        If the file is missing, is not YAML, gives a key twice, describes a study, or does not fit the schema; if it is
        of a run of a later version; or if the method cannot read the encoder's features.
    """
    overrides = list(overrides)
    values = _of_one_run(Path(path))
    changed: dict[str, Any] = {}
    for each in overrides:  # a later one wins
        changed |= flatten(dict([parse_assignment(each, "--set")]))
    try:
        in_file = flatten(values)
        if changed.get("model.name", in_file.get("model.name")) != in_file.get("model.name"):
            # Another method has its own settings, and none of the file's.
            in_file = {key: value for key, value in in_file.items() if not key.startswith("model.")}
        check_encoder(in_file | changed)
        check_settings(in_file | changed, other_keys())
    except ConfigError as error:
        raise in_keys(f"{path}: {error.args[0]}") from None
    return Config.parse(values, str(path)).override(overrides)


def read_config(path: str | Path) -> Config:
    """Read a configuration file that others complete, such as the base of a study."""
    return Config.parse(_of_one_run(Path(path)), str(path))


def _of_one_run(path: Path) -> Mapping[str, Any]:
    """Read the values of a configuration; refuse a study file, which is read by other functions."""
    values = settings_of(read_yaml(path), str(path))
    if "base" in values and not Config.model_fields.keys() & values.keys():
        methods = {"methods", "splits"} & values.keys()
        raise ConfigError(
            f"{path} describes a study ({', '.join(map(repr, values))}), not one run; give it to "
            f"'nh2st-graph {'benchmark' if methods else 'ablate'}', or name the configuration of a run here"
        )
    return values


def stored_yaml(config: Config) -> str:
    """Write a configuration as YAML, with the format and version of the run whose folder it describes."""
    return yaml.safe_dump(stamp(RUN_FORMAT), sort_keys=False) + config.to_yaml()


def builtin_config(name: str, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration that ships with the package, such as ``"demo"``."""
    package = files("nh2st_graph")
    for folder in (package.joinpath("configs"), Path(str(package)).parent / "configs"):
        file = folder.joinpath(f"{name}.yaml")
        if file.is_file():
            values = as_mapping(file.read_text(encoding="utf-8"), f"{name}.yaml")
            return Config.parse(values, f"{name}.yaml").override(overrides)
    raise ConfigError(f"no configuration named {name!r} ships with this package")
