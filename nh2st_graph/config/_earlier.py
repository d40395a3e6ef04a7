"""Configurations of earlier versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nh2st_graph._settings import Section
from nh2st_graph.config._changes import flatten
from nh2st_graph.config._schema import Config
from nh2st_graph.models import ModelConfig

__all__ = ["completed_keys", "current_keys"]


def current_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give the values of earlier keys to the keys that replaced them.

    Parameters
    ----------
    values
        Dotted or nested, as an earlier version wrote them.

    Returns
    -------
    Dotted.
    """
    parts = {name: type(field.get_default(call_default_factory=True)) for name, field in Config.model_fields.items()}
    current: dict[str, Any] = {}
    for key, value in flatten(values).items():
        part, _, name = key.partition(".")
        renamed = parts[part].renamed if name and issubclass(parts.get(part, int), Section) else {}
        current |= {f"{part}.{new}": value for new in renamed[name]} if name in renamed else {key: value}
    return current


def completed_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give a whole configuration of an earlier version today's keys; keys that it did not have take their defaults.

    Parameters
    ----------
    values
        Dotted or nested, as an earlier version wrote them.

    Returns
    -------
    Dotted.
    """
    defaults, current = flatten(Config().model_dump(mode="json", exclude={"model"})), current_keys(values)
    if current.get("model.name") == ModelConfig().name:
        # Before there was a closed form, there was none.
        defaults |= flatten({"model": ModelConfig(closed_form=False).model_dump(mode="json")})
    return {**defaults, **current}
