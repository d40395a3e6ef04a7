"""Change keys of nested values."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel

from nh2st_graph._errors import ConfigError
from nh2st_graph._settings import Section, known_keys, unknown_key
from nh2st_graph.config._yaml import parse_yaml

__all__ = ["assign", "parse_assignment"]


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
