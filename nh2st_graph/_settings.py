"""The base of all settings: checked keys with fixed values, and errors about them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import ErrorDetails

from nh2st_graph._errors import ConfigError, RenamedWarning, nearest

__all__ = [
    "CONFIG_FILE",
    "MODEL_FILE",
    "RELIABLE",
    "TARGET_SUM",
    "Positive",
    "Section",
    "SettingError",
    "Share",
    "explain",
    "known_keys",
    "take_earlier_names",
    "unknown_key",
]

#: Files of a run folder: its configuration, and what its model is.
CONFIG_FILE, MODEL_FILE = "config.yaml", "model.json"

#: Word for the genes that are reliable, in place of names.
RELIABLE = "reliable"

#: Counts that a spot is scaled to before log1p (scanpy's convention), for targets and count likelihoods alike.
TARGET_SUM = 1e4

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class SettingError(ValueError):
    """Settings that do not go together; a message names them by :func:`nh2st_graph._errors.setting`."""

    def __str__(self) -> str:
        return str(ConfigError(*self.args))


class Section(BaseModel):
    """A part of the configuration: it refuses unknown keys, and its values are fixed once checked.

    Attributes
    ----------
    renamed
        Earlier names of keys, each with the keys that replaced it. They are read with a warning until the next minor
        version.
    """

    renamed: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    # YAML reads a section name such as 1 and a precision such as 32 as numbers; both are names here.
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )

    @model_validator(mode="before")
    @classmethod
    def _take_earlier_names(cls, values: Any) -> Any:
        return take_earlier_names(cls, values) if isinstance(values, Mapping) else values

    def __hash__(self) -> int:  # values may be mappings
        return hash(self.model_dump_json())


def take_earlier_names(schema: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    """Give the values of renamed keys to the keys that replaced them, with a warning.

    Raises
    ------
    ValueError
        If a key is given under both names.
    """
    taken = dict(values)
    for old, new in schema.renamed.items():
        if old not in taken:
            continue
        both = [name for name in new if name in taken]
        if both:
            raise ValueError(f"{old!r} is the earlier name of {both[0]!r}, and both are given; leave {old!r} out")
        value = taken.pop(old)
        taken |= dict.fromkeys(new, value)
        warnings.warn(
            f"the key {old!r} is now {' and '.join(map(repr, new))}; the earlier name is read until version 0.2",
            RenamedWarning,
            stacklevel=2,
        )
    return taken


#: YAML's words for types that pydantic names in Python's.
_EXPECTED = {
    "tuple_type": "a list, such as [C3, C4]",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "path_type": "a path",
}


def known_keys(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """List the dotted keys of a schema."""
    keys = []
    for name, field in schema.model_fields.items():
        # A field of several kinds is known by its default's.
        kind = type(field.default) if isinstance(field.default, BaseModel) else field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += known_keys(kind, f"{prefix}{name}.")
        choices = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else [name]
        keys += [f"{prefix}{choice}" for choice in choices]
    return keys


def unknown_key(key: str, known: list[str]) -> str:
    """Name an unknown key's nearest: by the whole path, or by the last word where it stands elsewhere."""
    last = key.rpartition(".")[2]
    same = [k for k in known if k.rpartition(".")[2] == last]
    hint = "did you mean " + " or ".join(repr(k) for k in same) + "?" if same else nearest(key, known)
    return f"unknown key {key!r}; {hint}"


def _nested(key: str) -> str:
    """Write a dotted key as YAML nests it: ``model: {hops: ...}``."""
    first, _, rest = key.partition(".")
    return f"{first}: {{{_nested(rest)}}}" if rest else f"{first}: ..."


def explain(error: ErrorDetails, schema: type[BaseModel], root: type[BaseModel] | None = None, prefix: str = "") -> str:
    """Say in one line what is wrong: the key, its value and what is allowed, or the nearest known key.

    Parameters
    ----------
    error
        One of pydantic's.
    schema
        What was checked.
    root, prefix
        The whole configuration and the key of this part in it, if the part was checked by itself.
    """
    key = prefix + ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = known_keys(schema, prefix)
        if key in known:
            return f"key {key!r} is dotted; in a file, nest it: {_nested(key)}"
        elsewhere = [] if root is None else [k for k in known_keys(root) if not k.startswith(prefix)]
        return unknown_key(key, known + elsewhere)
    if error["type"] == "value_error":
        cause = error["ctx"]["error"]
        return str(cause.args[0] if isinstance(cause, SettingError) else cause)
    if error["type"] == "missing":
        return f"{key} is missing; give it"
    if error["type"] == "too_short":
        return f"{key} = {error['input']!r}; give at least {error['ctx']['min_length']}"
    if error["type"] in _EXPECTED:
        return f"{key} = {error['input']!r}; expected {_EXPECTED[error['type']]}"
    if error["type"] == "string_type" and (error["input"] is None or isinstance(error["input"], bool)):
        word = "null" if error["input"] is None else str(error["input"]).lower()
        return f"{key} = {word}; expected text: put a name that YAML reads otherwise in quotes ({word!r})"
    message = error["msg"].replace("Input should be", "allowed:").replace("allowed: a valid", "expected a valid")
    return f"{key} = {error['input']!r}; {message}"
