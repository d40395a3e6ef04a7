"""Read JSON that others wrote, and the numbers in it."""

from __future__ import annotations

import json
import math
from numbers import Real
from typing import Any

__all__ = ["parse_json", "positive"]

#: Digits of the largest floating-point number; a whole number of more of them is infinite.
_DIGITS = 309


def parse_json(text: str | bytes) -> Any:
    """Read a value from JSON, in which every number fits a float: larger ones are infinite.

    Raises
    ------
    ValueError
        If the text is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _whole(digits: str) -> int | float:
    if len(digits.lstrip("-")) < _DIGITS:
        return int(digits)
    return -math.inf if digits.startswith("-") else math.inf


def positive(value: object) -> float | None:
    """Give a value as a float if it is a finite number above 0; else None."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if 0 < number < math.inf else None
