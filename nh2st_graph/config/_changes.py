"""Compare two configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nh2st_graph._errors import ConfigError

__all__ = ["RESULT_NEUTRAL", "changes", "flatten"]

#: Keys that do not change results: a run or a study may be resumed with other values.
RESULT_NEUTRAL = frozenset(
    {
        "train.progress",
        "train.device",
        "train.checkpoint_seconds",
        "features.cache",
        "features.check_placement",
        "evaluate.figures",
    }
)
_UNSET = "(unset)"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested keys into dotted ones, so that ``{model: {hops: 2}}`` changes one key of ``model``.

    Raises
    ------
    ConfigError
        If a key is given both ways.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        found = flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        for twice in found.keys() & flat.keys():
            raise ConfigError(f"key {twice!r} is given twice, dotted and nested; give it once")
        flat |= found
    return flat


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """List the keys that differ as ``"key: before -> after"``, without those that do not change results."""
    first, second = flatten(before), flatten(after)
    return [
        f"{key}: {first.get(key, _UNSET)} -> {second.get(key, _UNSET)}"
        for key in {**first, **second}
        if key not in RESULT_NEUTRAL and first.get(key, _UNSET) != second.get(key, _UNSET)
    ]
