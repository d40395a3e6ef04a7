"""Parameters that many functions share, documented once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from docrep import DocstringProcessor

__all__ = ["documented"]

F = TypeVar("F", bound=Callable[..., Any])

_PARAMETERS = DocstringProcessor(
    library_key="""\
library_key
    Column of ``obs`` that names the section of each spot. Needed where one AnnData holds several.""",
    library_id="""\
library_id
    Name of the section to take. Needed where there are several.""",
    table_key="""\
table_key
    Table of SpatialData. May be left out where there is one table.""",
    key_added="""\
key_added
    Name of the keys that are written, or their beginning; see Returns.""",
    genes="""\
genes
    Genes to write: names, or ``"reliable"`` for those that are reliable for the slide. None writes all.""",
    class_by="""\
class_by
    Columns of ``obs`` with the classes of spots: categories, words, or true and false. Numbers are refused; cut them
    into classes first.""",
    written_path="""\
path
    What to write. A missing folder above it is made. What is there of the same kind is replaced, and anything else is
    refused.""",
    ax="""\
ax
    Axes to draw in; a new figure by default.""",
    copy="""\
copy
    Return a copy (of SpatialData, a copy of its table) that holds the result, and leave what was given as it is. By
    default the result is written into what was given, and None is returned.""",
)


def documented(function: F) -> F:
    """Put the shared parameters into a docstring, in place of ``%(library_key)s`` and the like, as a decorator.

    Known are those of ``_PARAMETERS``. The function itself is returned, so that its signature stays what it is, for
    type checkers too.
    """
    if function.__doc__ is not None:  # python -OO has none
        _PARAMETERS.dedent(function)
    return function
