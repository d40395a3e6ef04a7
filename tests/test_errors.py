"""Errors have one base, and unknown names are told the nearest."""

from __future__ import annotations

import importlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nh2st_graph as ng
from nh2st_graph import _errors
from nh2st_graph._errors import nearest, reason

KNOWN = ["grid", "knn", "radius", "delaunay"]


def test_every_error_has_the_one_base_and_is_public():
    for name, kind in vars(_errors).items():
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert issubclass(kind, (ng.NH2STGraphError, Warning))
            assert getattr(ng, name) is kind
            assert kind.__doc__


def test_a_image_is_data_too():
    assert issubclass(ng.ImageError, ng.DataError)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("cannot\n  be read\t"), "cannot be read"),
        (KeyError(), "KeyError"),
        (OSError("x" * 300), "x" * 200),
    ],
)
def test_reason_is_one_line(error, says):
    assert reason(error) == says


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gird", "did you mean 'grid'?"),
        ("raduis", "did you mean 'radius'?"),
        ("GRID?", "known: delaunay, grid, knn, radius"),
        ("", "known: delaunay, grid, knn, radius"),
    ],
)
def test_nearest(name, says):
    assert nearest(name, KNOWN) == says


def test_several_are_given_nearest_first_up_to_a_number():
    names = ["S1", "S2", "S3", "S4"]
    assert nearest("S5", names, n=2).count(" or ") == 1
    assert nearest("train.max_epoch", ["train.max_epochs", "train.patience"]).startswith(
        "did you mean 'train.max_epochs'"
    )


@given(st.text(max_size=12), st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6))
def test_it_always_says_something_about_what_exists(name, known):
    said = nearest(name, known)
    assert said.startswith(("did you mean ", "known: "))
    assert any(each in said or repr(each) in said for each in known)


@given(st.sampled_from(KNOWN))
def test_a_known_name_is_its_own_nearest(name):
    assert nearest(name, KNOWN).startswith(f"did you mean {name!r}")


@pytest.mark.parametrize(
    ("room", "name", "now"),
    [("models", "Floor", "Baseline"), ("models", "make_floor", "make_baseline"), ("nn", "make_operator", "public")],
)
def test_earlier_names_give_the_object_with_a_warning(room, name, now):
    room = importlib.import_module(f"nh2st_graph.{room}")
    with pytest.warns(ng.RenamedWarning, match=rf"{name} .*{now}") as found:
        assert callable(getattr(room, name))
    assert found[0].filename == __file__
    assert name not in room.__all__


@pytest.mark.parametrize("room", ["models", "nn"])
def test_a_room_has_no_other_names(room):
    with pytest.raises(AttributeError, match="nothing"):
        importlib.import_module(f"nh2st_graph.{room}").nothing  # noqa: B018
