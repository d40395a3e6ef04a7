"""How many examples slow property-based tests draw."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

#: What the profile of the suite draws for the others; see conftest.py.
USUAL = 40


def draws(number: int, **others: Any) -> settings:
    """Draw fewer examples than other tests: so many in the suite, and in the same proportion in a long run."""
    return settings(max_examples=max(1, settings.default.max_examples * number // USUAL), **others)
