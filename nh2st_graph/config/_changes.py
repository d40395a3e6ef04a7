"""What differs between two configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["RESULT_NEUTRAL", "changes", "flatten"]

#: Keys that change no result: a run, or a study, may go on with others.
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
    """Dotted keys for nested ones, so that ``{model: {hops: 2}}`` changes one key and leaves the rest of ``model``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Say which keys of nested values differ, one ``"key: before -> after"`` each, but for those of no result."""
    first, second = flatten(before), flatten(after)
    return [
        f"{key}: {first.get(key, _UNSET)} -> {second.get(key, _UNSET)}"
        for key in {**first, **second}
        if key not in RESULT_NEUTRAL and first.get(key, _UNSET) != second.get(key, _UNSET)
    ]
