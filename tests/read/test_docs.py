from __future__ import annotations

import inspect

import pytest

import nh2st_graph as ng
from nh2st_graph.read import documented

SHARED = {"library_key", "library_id", "table_key", "key_added", "copy"}


def functions():
    return [
        pytest.param(function, id=f"{room}.{name}")
        for room in ("gr", "im", "pl", "tl")
        for name in getattr(ng, room).__all__
        if inspect.isfunction(function := getattr(getattr(ng, room), name))
    ]


@pytest.mark.parametrize("function", functions())
def test_help_describes_shared_parameters(function):
    """Each once, in plain words; and a percent sign in a docstring is no place to fill in."""
    doc = inspect.getdoc(function)
    assert "%(" not in doc
    assert "{'" not in doc
    lines = doc.splitlines()
    for name in SHARED & inspect.signature(function).parameters.keys():
        named = [i for i, line in enumerate(lines) if name in line.split(", ")]
        assert len(named) == 1, name
        assert lines[named[0] + 1].startswith("    ")


def test_documented_gives_the_function_itself():
    def function(copy: bool = False) -> None:
        """Do it.

        Parameters
        ----------
        %(copy)s
        """

    assert documented(function) is function
    assert "Return a copy" in function.__doc__


def test_a_function_may_have_no_docstring():  # python -OO
    assert documented(functions) is functions
    assert functions.__doc__ is None
