"""Names of the readers say what they return."""

from __future__ import annotations

import inspect
import warnings

import pytest

import nh2st_graph as ng

ONE_SECTION = [name for name in ng.read.__all__ if name.endswith("_section") and name != "one_section"]


@pytest.mark.parametrize("name", ng.read.__all__)
def test_the_name_says_what_is_returned(name):
    returned = getattr(inspect.signature(getattr(ng.read, name)), "return_annotation", None) if name.islower() else None
    if name in ng.read.known_formats() or name == "sections":
        assert returned == "dict[str, AnnData]"
    elif name in ONE_SECTION:
        assert returned == "AnnData"


@pytest.mark.parametrize("name", ONE_SECTION)
def test_earlier_names_of_one_sections_readers_say_the_new_one(name):
    earlier = name.removesuffix("_section")
    with pytest.warns(FutureWarning, match=f"{name}.*next minor version.*sections"):
        found = getattr(ng.read, earlier)
    assert found is getattr(ng.read, name)


def test_present_names_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ng.read.__all__:
            getattr(ng.read, name)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="visum"):
        _ = ng.read.visum
