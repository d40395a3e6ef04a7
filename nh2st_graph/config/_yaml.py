"""Read YAML: refuse a key that is given twice, and keep the text of numbers, which may be names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from nh2st_graph._errors import ConfigError, reason

__all__ = ["as_mapping", "as_written", "parse_yaml", "read_yaml"]

_MERGE, _TEXT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"
_BOOL, _DATE = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"


#: No configuration is nested as deeply, or holds as many values.
_DEEPEST, _MOST_VALUES = 50, 1_000_000


class WrittenInt(int):
    """A whole number with the text that it was written as.

    YAML reads ``010`` as 8 and ``1_1`` as 11. Where the schema wants a name, ``str`` gives the text back.
    """

    text: str

    def __str__(self) -> str:
        return self.text


class WrittenFloat(float):
    """A number with the text that it was written as: ``1.10`` is no other section's ``1.1``."""

    text: str

    def __str__(self) -> str:
        return self.text


Written: TypeAlias = WrittenInt | WrittenFloat


class _Loader(yaml.SafeLoader):
    """The safe loader, less some habits: of two values of a key it keeps the last, and keys and dates lose their text.

    A key is always text. Of YAML's words for true and false only these two are values: ``no`` and ``on`` may be names,
    and a field that wants true or false takes them too. A text that is nested too deeply, or whose aliases stand for
    too many values, is refused.
    """

    _depth = 0

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _n_values(node, {}) > _MOST_VALUES:
            raise yaml.YAMLError(f"its aliases (*name) stand for more than {_MOST_VALUES:,} values")
        return node

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError(f"values are nested more than {_DEEPEST} deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # When it is read: what is merged into a mapping (<<) stands among its keys later.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line, name = key.start_mark.line + 1, str(key.value)
            if name in lines:
                many = "; give a list: <<: [*a, *b]" if key.tag == _MERGE else ""
                raise yaml.YAMLError(f"key {name!r} is given twice (lines {lines[name]} and {line}){many}")
            lines[name] = line
            if key.tag != _MERGE and isinstance(key, yaml.ScalarNode):
                key.tag = _TEXT
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge mappings (``<<``) into one: its own keys count first, then those of the first that is merged.

        PyYAML tells keys apart by where their text is in memory, so that the order depends on the length of a key.
        """
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merges = [value for key, value in node.value if key.tag == _MERGE]
        node.value = [pair for pair in node.value if pair[0].tag != _MERGE]
        for value in merges:
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(source, yaml.MappingNode):
                    raise yaml.YAMLError(
                        f"<< takes keys and values, or a list of these (line {source.start_mark.line + 1})"
                    )
                self.flatten_mapping(source)
                for pair in source.value:
                    merged.setdefault(str(pair[0].value), pair)
        own = {str(key.value) for key, _ in node.value}
        node.value = [pair for name, pair in merged.items() if name not in own] + node.value


def _n_values(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Count the values of a node; those of an alias count wherever it stands."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if node not in known:
        known[node] = _MOST_VALUES + 1  # of a node that holds itself
        parts = node.value if isinstance(node, yaml.SequenceNode) else [each for pair in node.value for each in pair]
        known[node] = 1 + sum(_n_values(part, known) for part in parts)
    return known[node]


def _written(kind: type[Written], construct: Any) -> Any:
    def constructed(loader: _Loader, node: yaml.ScalarNode) -> Written:
        given = construct(loader, node)
        float(given)  # refuses a whole number that no setting and no name is
        number = kind(given)
        number.text = str(node.value)
        return number

    return constructed


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in {_BOOL, _DATE}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_constructor("tag:yaml.org,2002:int", _written(WrittenInt, yaml.SafeLoader.construct_yaml_int))
_Loader.add_constructor("tag:yaml.org,2002:float", _written(WrittenFloat, yaml.SafeLoader.construct_yaml_float))
yaml.SafeDumper.add_representer(WrittenInt, lambda dumper, number: dumper.represent_int(int(number)))
yaml.SafeDumper.add_representer(WrittenFloat, lambda dumper, number: dumper.represent_float(float(number)))


def as_written(value: Any) -> Any:
    """Replace numbers that Python would write otherwise by their text, in lists and mappings too.

    For values whose kind is not known yet: text becomes a number where one is wanted, but not the other way round.
    """
    if isinstance(value, Mapping):
        return {key: as_written(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_written(each) for each in value]
    if isinstance(value, Written):
        plain = int(value) if isinstance(value, int) else float(value)
        return plain if str(plain) == value.text else value.text
    return value


def parse_yaml(text: str) -> Any:
    """Read a value from YAML.

    Raises
    ------
    yaml.YAMLError
        If the text is not YAML, gives a key twice, or holds a value that is none.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # of values with a tag
        raise yaml.YAMLError(f"a value is not of the type that it says ({reason(error)})") from None


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
        inside = sorted(path.glob("*.yaml"))
        cure = inside[0] if inside else "the path of a configuration in YAML"
        raise ConfigError(f"{path} cannot be read: {reason}; give {cure}") from None
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
