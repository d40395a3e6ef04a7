"""Read YAML, and refuse a key that is given twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nh2st_graph._errors import ConfigError

__all__ = ["as_mapping", "parse_yaml", "read_yaml"]

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """The safe loader, less its habit of keeping the last of two values in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line, name = key.start_mark.line + 1, "" if key.tag == _MERGE else str(key.value)
            if name in lines:
                raise yaml.YAMLError(f"key {name!r} is given twice (lines {lines[name]} and {line})")
            if name:
                lines[name] = line
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Read a value from YAML.

    Raises
    ------
    yaml.YAMLError
        If the text is not YAML, or gives a key twice.
    """
    return yaml.load(text, _Loader)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Read the keys and values of a YAML file; an empty file has none.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not YAML, gives a key twice, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{path} cannot be read: {reason}") from None
    return as_mapping(text, str(path))


def as_mapping(text: str, source: str) -> Mapping[str, Any]:
    """Read keys and values from the text of a YAML file; see :func:`read_yaml`."""
    try:
        values = parse_yaml(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: expected keys and values at the top, found {type(values).__name__}")
    return values
