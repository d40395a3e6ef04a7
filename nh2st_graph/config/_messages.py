"""What is said of keys and values that cannot be used."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from nh2st_graph._errors import ConfigError, nearest

__all__ = ["assign", "explain"]


def assign(values: dict[str, Any], assignment: str, schema: type[BaseModel]) -> None:
    """Set one key of nested values, given as ``"part.key=value"`` with the value in YAML."""
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"--set {assignment}: expected KEY=VALUE, such as data.test=[C6]")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {key}: {text!r} is not a YAML value") from None
    *parents, last = key.strip().split(".")
    place = values
    for i, part in enumerate(parents):
        if not isinstance(place.get(part), dict):
            inside = part in place  # a value, which has no keys of its own
            unknown = key.strip() if inside else ".".join(parents[: i + 1])
            raise ConfigError(f"--set: {_unknown(unknown, _known_keys(schema))}")
        place = place[part]
    place[last] = value


#: In YAML's words, what pydantic says in Python's.
_EXPECTED = {
    "tuple_type": "a list, such as [C3, C4]",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "path_type": "a path",
}


def _known_keys(schema: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in schema.model_fields.items():
        # A field of several kinds is known by its default's.
        kind = type(field.default) if isinstance(field.default, BaseModel) else field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += _known_keys(kind, f"{prefix}{name}.")
        keys.append(f"{prefix}{name}")
    return keys


def _unknown(key: str, known: list[str]) -> str:
    """Name an unknown key's nearest: by the whole path, or by the last word where it stands elsewhere."""
    last = key.rpartition(".")[2]
    same = [k for k in known if k.rpartition(".")[2] == last]
    hint = "did you mean " + " or ".join(repr(k) for k in same) + "?" if same else nearest(key, known)
    return f"unknown key {key!r}; {hint}"


def explain(error: ErrorDetails, schema: type[BaseModel], root: type[BaseModel] | None = None, prefix: str = "") -> str:
    """Say in one line what is wrong: the key, its value and what is allowed, or the nearest known key.

    Parameters
    ----------
    error
        One of pydantic's.
    schema
        What was checked.
    root, prefix
        The whole that it is a part of, and the part's key there, where it was checked by itself.
    """
    key = prefix + ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        elsewhere = [] if root is None else [k for k in _known_keys(root) if not k.startswith(prefix)]
        return _unknown(key, _known_keys(schema, prefix) + elsewhere)
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] in _EXPECTED:
        return f"{key} = {error['input']!r}; expected {_EXPECTED[error['type']]}"
    message = error["msg"].replace("Input should be", "allowed:").replace("allowed: a valid", "expected a valid")
    return f"{key} = {error['input']!r}; {message}"
