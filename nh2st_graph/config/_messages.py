"""Change keys of nested values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from nh2st_graph._errors import ConfigError
from nh2st_graph._files import check_format
from nh2st_graph._settings import Section, known_keys, unknown_key
from nh2st_graph.config._yaml import parse_yaml

__all__ = ["RUN_FORMAT", "assign", "parse_assignment", "settings_of"]

#: The format of run folders, which their configuration says.
RUN_FORMAT = 1

#: What a stored configuration says beside its settings.
_STAMP = ("format", "version")


def settings_of(written: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Take the settings out of a configuration that may be of a run; ``source`` is what an error calls it.

    Raises
    ------
    ConfigError
        If it is of a run of a later version.
    """
    check_format(source, {key: written[key] for key in _STAMP if key in written}, RUN_FORMAT, ConfigError)
    return {key: value for key, value in written.items() if key not in _STAMP}


def parse_assignment(assignment: str, source: str) -> tuple[str, Any]:
    """Read ``"part.key=value"``, with the value in YAML; ``source`` is what an error calls it."""
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"{source} {assignment}: expected KEY=VALUE, such as data.test=[C6]")
    try:
        return key.strip(), parse_yaml(text)
    except yaml.YAMLError as error:
        # PyYAML shows the text with a mark, over several lines.
        marked = isinstance(error, yaml.MarkedYAMLError)
        raise ConfigError(f"{source} {key}: {f'{text!r} is not a YAML value' if marked else error}") from None


def assign(values: dict[str, Any], key: str, value: Any, config: BaseModel, source: str) -> None:
    """Set one key of nested values.

    Parameters
    ----------
    values
        The values of the configuration; they are changed in place.
    key, value
        The dotted key, and its new value.
    config
        The configuration that the values are of: it says which keys there are.
    source
        What an error calls the source of the change.
    """
    *parents, last = key.split(".")
    place: dict[str, Any] = values
    part_of: Any = config
    for i, part in enumerate(parents):
        if not isinstance(place.get(part), dict):
            inside = part in place  # a value, which has no keys of its own
            unknown = key if inside else ".".join(parents[: i + 1])
            raise ConfigError(f"{source}: {unknown_key(unknown, known_keys(type(config)))}")
        place, part_of = place[part], getattr(part_of, part, None)
    if isinstance(part_of, Section):
        # The value goes to the keys that took the place of an earlier one, whose own values are defaults here.
        for name in part_of.renamed.get(last, ()):
            place.pop(name, None)
    place[last] = value
