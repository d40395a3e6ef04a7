"""Fixtures of the rooms above that sections share."""

from ..gr.conftest import hexagonal, make_section, square
from ..im.conftest import own_cache

__all__ = ["hexagonal", "make_section", "own_cache", "square"]
