"""Change one key of nested values."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel

from nh2st_graph._errors import ConfigError
from nh2st_graph._settings import Section, known_keys, unknown_key

__all__ = ["assign"]


def assign(values: dict[str, Any], assignment: str, config: BaseModel) -> None:
    """Set one key of nested values, given as ``"part.key=value"`` with the value in YAML.

    Parameters
    ----------
    values
        Of the configuration, changed in place.
    assignment
        The key and its value.
    config
        The configuration that the values are of: it says which keys there are.
    """
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"--set {assignment}: expected KEY=VALUE, such as data.test=[C6]")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {key}: {text!r} is not a YAML value") from None
    *parents, last = key.strip().split(".")
    place: dict[str, Any] = values
    part_of: Any = config
    for i, part in enumerate(parents):
        if not isinstance(place.get(part), dict):
            inside = part in place  # a value, which has no keys of its own
            unknown = key.strip() if inside else ".".join(parents[: i + 1])
            raise ConfigError(f"--set: {unknown_key(unknown, known_keys(type(config)))}")
        place, part_of = place[part], getattr(part_of, part, None)
    if isinstance(part_of, Section):
        # The value goes to the keys that took the place of an earlier one, whose own values are defaults here.
        for name in part_of.renamed.get(last, ()):
            place.pop(name, None)
    place[last] = value
