"""Sections of positions alone, as the tests of graphs make them, and a cache of the test's own."""

from ..gr.conftest import hexagonal, make_section, square
from ..im.conftest import own_cache

__all__ = ["hexagonal", "make_section", "own_cache", "square"]
