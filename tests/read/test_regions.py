"""Regions that were drawn on a slide, in the forms that QuPath and others write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from nh2st_graph import DataError, read


def square(left: float, top: float, side: float) -> list[list[float]]:
    right, bottom = left + side, top + side
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def polygon(*rings: list[list[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def feature(geometry: dict[str, Any] | None, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


@pytest.fixture
def read_back(tmp_path):
    def read_back(value: Any, **options: Any) -> read.Regions:
        (tmp_path / "r.geojson").write_text(value if isinstance(value, str) else json.dumps(value))
        return read.regions(tmp_path / "r.geojson", **options)

    return read_back


TISSUE = feature(polygon(square(0, 0, 10), square(4, 4, 2)), classification={"name": "Tissue", "color": [1, 2, 3]})
FORMS = {
    "collection": {"type": "FeatureCollection", "features": [TISSUE]},
    "list, as QuPath wrote once": [TISSUE],
    "feature": TISSUE,
    "geometry": TISSUE["geometry"],
    "geometries": {
        "type": "GeometryCollection",
        "geometries": [TISSUE["geometry"], {"type": "Point", "coordinates": [1, 1]}],
    },
    "pieces": feature({"type": "MultiPolygon", "coordinates": [TISSUE["geometry"]["coordinates"]]}),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_has_the_region_with_its_hole_and_border(read_back, form):
    found = read_back(FORMS[form])
    assert found.bounds == (0, 0, 10, 10)
    centres = np.array([[1, 1], [5, 5], [0, 3], [4, 4.5], [11, 1]], dtype=float)
    assert_array_equal(found.at(centres), [0, -1, 0, 0, -1])


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"classification": {"name": "Tumor"}, "name": "mine"}, "Tumor"),
        ({"classification": {"names": ["Tumor", "Positive"]}}, "Tumor: Positive"),
        ({"classification": "Stroma"}, "Stroma"),
        ({"name": " left piece "}, "left piece"),
        ({"classification": {}, "name": None}, "unnamed"),
    ],
)
def test_is_named_by_class_or_name(read_back, properties, name):
    assert read_back(feature(polygon(square(0, 0, 1)), **properties)).names == (name,)


def test_the_smallest_region_names_a_point_whatever_their_order(read_back):
    whole, part = feature(polygon(square(0, 0, 10)), name="whole"), feature(polygon(square(2, 2, 3)), name="part")
    for given_order in ([whole, part], [part, whole]):
        found = read_back(given_order)
        assert [found.names[i] for i in found.at(np.array([[3.0, 3.0], [8.0, 8.0]]))] == ["part", "whole"]


def test_detections_points_and_lines_are_no_regions(read_back, caplog):
    others = [
        feature(polygon(square(0, 0, 1)), objectType="cell"),
        feature({"type": "Point", "coordinates": [3, 3]}, objectType="annotation"),
        feature(None),
    ]
    with caplog.at_level("INFO"):
        assert len(read_back([*others, TISSUE]).shapes) == 1
    assert "Point, cell" in caplog.text
    with pytest.raises(DataError, match=r"only Point, cell, no polygon"):
        read_back(others)


def test_a_line_that_crosses_itself_keeps_both_loops(read_back):
    eight = polygon([[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]])
    assert_array_equal(read_back(eight).at(np.array([[0.5, 2.0], [3.5, 2.0], [2.0, 0.5]])), [0, 0, -1])


def test_counts_from_another_origin(read_back):
    assert read_back(polygon(square(1, 2, 3)), origin=(100, 200)).bounds == (101, 202, 104, 205)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty file"),
        ("not json", "not JSON"),
        ('{"a": 1}', "not GeoJSON"),
        ("3", "not GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "nothing, no polygon"),
        ('{"type": "Polygon", "coordinates": [[1]]}', "damaged"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1e999, 0], [1, 1], [0, 0]]]}', "damaged"),
        ('{"type": "Curve", "coordinates": []}', "damaged"),
    ],
)
def test_refuses_what_holds_no_region(read_back, tmp_path, text, says):
    with pytest.raises(DataError, match=says) as caught:
        read_back(text)
    assert str(tmp_path / "r.geojson") in str(caught.value)


def test_refuses_what_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none\.geojson do not exist"):
        read.regions(tmp_path / "none.geojson")
    (tmp_path / "b.geojson").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a text file"):
        read.regions(tmp_path / "b.geojson")


@given(
    st.lists(st.tuples(*[st.integers(0, 20)] * 2, st.integers(1, 9)), min_size=1, max_size=5, unique_by=lambda s: s[2])
)
def test_is_as_looking_into_each_region(squares):
    """Compare with a loop over points and regions; sides differ, so that one is the smallest."""
    import shapely

    shapes = tuple(shapely.box(x, y, x + side, y + side) for x, y, side in squares)
    centres = np.stack(np.meshgrid(np.arange(0, 30, 3.0), np.arange(0, 30, 3.0)), axis=-1).reshape(-1, 2)
    expected = []
    for x, y in centres:
        inside = [i for i, (left, top, side) in enumerate(squares) if 0 <= x - left <= side and 0 <= y - top <= side]
        expected.append(min(inside, key=lambda i: squares[i][2], default=-1))
    assert_array_equal(read.Regions(Path(), ("",) * len(shapes), shapes).at(centres), expected)


LEFT, RIGHT = shapely.box(0, 0, 10, 10), shapely.box(20, 0, 30, 10)
SHAPES = {
    "polygon": (LEFT, ["unnamed"]),
    "multipolygon": (shapely.MultiPolygon([LEFT, RIGHT]), ["unnamed"]),
    "list": ([LEFT, RIGHT], ["unnamed", "unnamed"]),
    "series": (geopandas.GeoSeries([LEFT, None, RIGHT]), ["unnamed", "unnamed"]),
    "frame": (geopandas.GeoDataFrame({"name": ["a", "b"]}, geometry=[LEFT, RIGHT]), ["a", "b"]),
    "frame, as of SpatialData": (geopandas.GeoDataFrame(geometry=[LEFT, RIGHT]), ["unnamed", "unnamed"]),
}


@pytest.mark.parametrize("form", SHAPES)
def test_shapes_are_taken_as_they_are(form):
    shapes, names = SHAPES[form]
    found = read.regions(shapes, origin=(100, 100))
    assert list(found.names) == names
    assert found.bounds == (0, 0, 10 if form == "polygon" else 30, 10), (
        "in the pixels of the image, whatever a file counts"
    )


def test_a_file_that_geopandas_read_is_what_it_was(read_back, tmp_path):
    known = read_back(FORMS["collection"])
    assert read.regions(geopandas.read_file(tmp_path / "r.geojson")).names == known.names == ("Tissue",)


@pytest.mark.parametrize(
    ("value", "says"), [(None, "NoneType"), ([1, 2], "list of int"), (3, "int"), (shapely.Point(1, 1), "only Point")]
)
def test_what_is_no_shape(value, says):
    with pytest.raises(DataError, match=says):
        read.regions(value)
