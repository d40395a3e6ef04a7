"""Round trips, names and what cannot be read; places are tested in ``test_coordinates.py``."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image

from nh2st_graph import DataError, ImageError
from nh2st_graph.read import given_sections, her2st, section_names, sections, spatialdata_section, write_spatialdata
from nh2st_graph.section import check_section, library, panel_counts, section_digest

from .stores import (
    SIDE,
    TURNED,
    N,
    affine,
    centres_px,
    circles,
    image,
    image_element,
    made,
    pixels_of,
    several,
    table,
)


@pytest.fixture
def section(st_tables, write_her2st):
    """A section on disk: 20 spots at 5 um per pixel, 20 px across."""
    return her2st(write_her2st(st_tables()).root)["A1"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    """A folder of stores that several tests read."""
    return tmp_path_factory.mktemp("stores")


@pytest.fixture
def stored(section, stores) -> Path:
    """The section as a store, which is written once. Copy it to change it."""
    if not (stores / "store.zarr").exists():
        write_spatialdata(section, stores / "store.zarr")
    return stores / "store.zarr"


class TestRoundTrip:
    def test_a_section_comes_back(self, section, stored):
        back = spatialdata_section(stored)
        assert check_section(back, need=("genes", "image")) is back
        assert list(back.obs_names) == list(section.obs_names)
        np.testing.assert_array_equal(back.X.toarray(), section.X.toarray())
        np.testing.assert_allclose(back.obsm["spatial"], section.obsm["spatial"])
        for column in ("section", "patient", "array_row", "array_col"):
            assert list(back.obs[column]) == list(section.obs[column])
        a, b = library(section), library(back)
        for name in ("spot_diameter", "hires_scale", "microns_per_pixel"):
            assert getattr(b, name) == pytest.approx(getattr(a, name))
        np.testing.assert_array_equal(pixels_of(a.source), pixels_of(b.source))

    @pytest.mark.parametrize("kept", ["csr", "dense"])
    def test_counts_may_stay_in_the_store(self, section, stored, tmp_path, kept):
        if kept == "dense":
            section.X = section.X.toarray()
            stored = tmp_path / "store.zarr"
            write_spatialdata(section, stored)
        whole = spatialdata_section(stored)
        for backed in (
            spatialdata_section(stored, backed=True),
            *sections("spatialdata", stored, backed=True).values(),
        ):
            assert not hasattr(backed.X, "copy")
            assert section_digest(backed) == section_digest(whole)
            genes = list(whole.var_names[[2, 0]])
            pd.testing.assert_frame_equal(panel_counts(backed, genes), panel_counts(whole, genes))

    def test_a_store_that_was_moved_gives_the_same_section(self, section, stored, tmp_path):
        import spatialdata as sd
        from spatialdata.transformations import Sequence, get_transformation, set_transformation

        sdata = sd.read_zarr(stored)
        for _, _, element in sdata.gen_spatial_elements():
            placed = Sequence([get_transformation(element, "global"), affine(TURNED)])
            set_transformation(element, placed, "moved")
        moved = spatialdata_section(sdata, coordinate_system="moved")
        np.testing.assert_allclose(moved.obsm["spatial"], section.obsm["spatial"])
        assert library(moved).microns_per_pixel == pytest.approx(library(section).microns_per_pixel)
        write_spatialdata(moved, tmp_path / "again.zarr")
        again = spatialdata_section(tmp_path / "again.zarr")
        np.testing.assert_allclose(again.obsm["spatial"], section.obsm["spatial"])
        np.testing.assert_array_equal(again.X.toarray(), section.X.toarray())

    def test_elements_and_their_places(self, section, tmp_path):
        import spatialdata as sd
        from spatialdata.transformations import get_transformation

        section.obs["section"] = pd.Categorical(["A 1"] * section.n_obs)
        write_spatialdata(section, tmp_path / "store.zarr", image="hires")
        sdata = sd.read_zarr(tmp_path / "store.zarr")
        assert set(sdata.coordinate_systems) == {"global", "microns"}
        assert set(sdata["A_1"].index) == set(section.obs_names)
        assert set(sdata["A_1"]["radius"]) == {library(section).spot_diameter / 2}
        spots, image = sdata["A_1"], sdata["A_1_image"]
        for system, unit in (("global", 1.0), ("microns", library(section).microns_per_pixel)):
            for element, pixels in (
                (spots, 1.0),
                (image, 1 / library(section).hires_scale),
            ):
                matrix = get_transformation(element, system).to_affine_matrix(("x", "y"), ("x", "y"))
                np.testing.assert_allclose(matrix, np.diag([unit * pixels, unit * pixels, 1]))
        annotated = sd.join_spatialelement_table(sdata, "A_1", table_name="table", how="inner")[1]
        assert annotated.n_obs == section.n_obs

    def test_a_prediction_without_its_image(self, section, tmp_path, caplog):
        import spatialdata as sd

        prediction = section.copy()
        prediction.X = prediction.X.toarray() / 7
        prediction.layers["observed"] = section.X.toarray()
        library(prediction).metadata["source_image_path"] = str(tmp_path / "elsewhere.jpg")
        with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
            write_spatialdata(prediction, tmp_path / "store.zarr")
        assert "elsewhere.jpg does not exist; the small one is written" in caplog.text
        stored = sd.read_zarr(tmp_path / "store.zarr")
        assert list(stored.images) == ["A1_image"]
        assert stored["table"].uns["nh2st_format"]["format"] == 1
        assert "nh2st_format" not in prediction.uns
        np.testing.assert_array_equal(stored["table"].X, prediction.X)
        np.testing.assert_array_equal(stored["table"].layers["observed"], prediction.layers["observed"])
        np.testing.assert_array_equal(stored["table"].obsm["spatial"], prediction.obsm["spatial"])
        assert spatialdata_section(stored).n_obs == prediction.n_obs
        with pytest.raises(DataError, match="put raw counts into X"):
            check_section(spatialdata_section(stored), need=("genes",))

    def test_large_images_get_smaller_copies(self, section, tmp_path):
        import spatialdata as sd

        source = library(section).source
        with Image.open(source) as small:
            size = 2100, small.height
            wide = small.resize(size)
        wide.save(source)
        write_spatialdata(section, tmp_path / "store.zarr")
        assert len(sd.read_zarr(tmp_path / "store.zarr")["A1_image"].children) == 3
        assert image(spatialdata_section(tmp_path / "store.zarr")).shape[:2] == size[::-1]

    def test_an_older_store_is_replaced_and_nothing_else(self, section, tmp_path):
        write_spatialdata(section, tmp_path / "store.zarr", image=None)
        write_spatialdata(section[:5].copy(), tmp_path / "store.zarr")
        assert spatialdata_section(tmp_path / "store.zarr").n_obs == 5
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "note.txt").write_text("mine")
        with pytest.raises(DataError, match="mine exists and is not a SpatialData store"):
            write_spatialdata(section, tmp_path / "mine")
        assert not list(tmp_path.glob(".*.part"))

    def test_names_that_spatialdata_refuses(self, section, tmp_path):
        section.obs["in / out"] = 1
        with pytest.raises(DataError, match=r"'A1' cannot be written as SpatialData .*in / out.*; rename it") as error:
            write_spatialdata(section, tmp_path / "store.zarr")
        assert "\n" not in str(error.value)


class TestNames:
    def test_are_those_given_or_the_regions(self):
        adata = spatialdata_section(made())
        assert (set(adata.obs["section"]), set(adata.obs["patient"])) == ({"spots"}, {"unknown (spots)"})
        adata = spatialdata_section(made(), section="S", patient="P")
        assert (set(adata.obs["section"]), set(adata.obs["patient"])) == ({"S"}, {"P"})
        assert list(adata.uns["spatial"]) == ["S"]


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "call", "message"),
        [
            ({"tables": {}}, {}, "has no table; add one"),
            ({"tables": ("a", "b")}, {}, r"has 2 candidates for the table \(a, b\); name one: table="),
            ({"tables": ("a", "b")}, {"table": "c"}, "has no table 'c'"),
            ({"images": {}}, {}, "has no image in coordinate system 'global'"),
            ({"images": ("he", "if")}, {}, r"2 candidates for the image .*\(he, if\); name one: image="),
            ({}, {"coordinate_system": "slide"}, "no coordinate system 'slide'; coordinate_system .*: global, microns"),
            ({}, {"coordinate_system": "microns"}, "'spots' is not in coordinate system 'microns'; choose .*: gl"),
            ({}, {"region": "other"}, "has no region 'other'"),
        ],
    )
    def test_one_line(self, change, call, message):
        from spatialdata.transformations import Identity

        make = {"tables": lambda: table(), "images": lambda: image_element({"global": Identity()})}
        elements = {kind: {name: make[kind]() for name in names} for kind, names in change.items()}
        with pytest.raises(DataError, match=message) as error:
            spatialdata_section(made(**elements), **call)
        assert "\n" not in str(error.value)
        assert isinstance(error.value, ImageError) == ("images" in change)

    def test_functions_without_such_an_argument_name_the_reader(self):
        from spatialdata.transformations import Identity

        images = {name: image_element({"global": Identity()}) for name in ("he", "if")}
        with pytest.raises(ImageError, match=r"name one: image='NAME'; such arguments are of .*\.spatialdata_section"):
            given_sections(made(images=images))

    def test_named_among_several(self):
        from spatialdata.transformations import Identity

        images = {name: image_element({"global": Identity()}) for name in ("he", "if")}
        sdata = made(images=images, tables={"a": table(), "b": table()})
        assert spatialdata_section(sdata, "b", "he", microns_per_pixel=1.0).n_obs == N

    def test_no_scale(self):
        from spatialdata.transformations import Identity

        images = {"he": image_element({"global": Identity()})}
        with pytest.raises(
            DataError, match=r"give um per pixel .*microns_per_pixel=0\.5.* spots are 4 px wide, .*65 um .*16\.25"
        ):
            spatialdata_section(made(images=images))

    def test_a_table_of_nothing(self):
        loose = AnnData(np.ones((2, 2), dtype=np.float32))
        with pytest.raises(DataError, match="the table annotates no shapes"):
            spatialdata_section(made(tables={"table": loose}))

    @pytest.mark.filterwarnings("ignore:The table is annotating")
    def test_shapes_that_are_not_there(self):
        with pytest.raises(DataError, match="the table annotates 'spots', which is not in the store"):
            spatialdata_section(made(shapes={}))

    def test_instances_of_something_else(self):
        from spatialdata.transformations import Identity

        others = circles({"global": Identity()}, centres_px(), pd.Index(range(N)))
        with pytest.raises(DataError, match="'spots' shares no instance with the table"):
            spatialdata_section(made(shapes={"spots": others}))

    @pytest.mark.parametrize("pixels", [np.ones((1, SIDE, SIDE), np.uint8), np.ones((3, SIDE, SIDE), np.float32)])
    def test_a_image_that_is_not_rgb(self, pixels):
        from spatialdata.transformations import Identity

        images = {"dapi": image_element({"global": Identity()}, pixels=pixels)}
        with pytest.raises(ImageError, match="expected red, green and blue as uint8"):
            spatialdata_section(made(images=images), microns_per_pixel=1.0)

    def test_no_store(self, tmp_path):
        with pytest.raises(DataError, match="does not exist"):
            spatialdata_section(tmp_path / "nowhere.zarr")
        (tmp_path / "file.zarr").write_text("{}")
        with pytest.raises(DataError, match=r"file\.zarr cannot be read as SpatialData") as error:
            spatialdata_section(tmp_path / "file.zarr")
        assert "\n" not in str(error.value)
        with pytest.raises(DataError, match="AnnData is not SpatialData"):
            spatialdata_section(AnnData())


class TestRegions:
    @pytest.mark.filterwarnings("ignore:The table is annotating")
    def test_of_a_store_are_those_that_rows_of_the_table_annotate(self, tmp_path):
        store = tmp_path / "two.zarr"
        made(tables={"a": table(), "b": table("others")}).write(store)
        for name, region, other in (("a", "spots", "others"), ("b", "others", "spots")):
            assert section_names("spatialdata", store, table=name, region=region) == ["two"]
            with pytest.raises(DataError, match=f"no region '{other}'.*{region}"):
                section_names("spatialdata", store, table=name, region=other)
        with pytest.raises(DataError, match=r"2 candidates for the table \(a, b\)"):
            section_names("spatialdata", store)

    def test_a_table_without_any_is_refused(self, tmp_path):
        made(tables={"table": AnnData(np.ones((2, 2), dtype=np.float32))}).write(tmp_path / "loose.zarr")
        with pytest.raises(DataError, match="the table annotates no shapes"):
            section_names("spatialdata", tmp_path / "loose.zarr")


#: What obs says of the section of each region, and the names that follow.
NAMED = {
    "swapped": (("S2", "S1"), ["S2", "S1"]),
    "one": (("S", "S"), ["left", "right"]),
    "several": (("S1", ["S2", "S3"] * (N // 2)), ["S1", "right"]),
}


class TestSeveralRegions:
    @pytest.fixture
    def store_of(self, stores):
        """Write a store without scale whose ``obs`` names sections in one of the ways, and both patients; once."""

        def store_of(kind):
            path = stores / f"{kind}.zarr"
            if not path.exists():
                several(scale=False, section=NAMED[kind][0], patient=("P1", "P2")).write(path)
            return path

        return store_of

    @pytest.mark.parametrize("where", ["apart", "own"])
    def test_each_is_a_section_on_its_own_image(self, tmp_path, where):
        sdata = several(where=where)
        sdata.write(tmp_path / "store.zarr")
        assert section_names("spatialdata", tmp_path / "store.zarr") == ["left", "right"]
        found = sections("spatialdata", tmp_path / "store.zarr")
        assert list(found) == ["left", "right"]
        for i, (name, adata) in enumerate(found.items()):
            assert set(adata.obs["section"]) == {name}
            rows = sdata["table"].obs["region"] == name
            assert list(adata.obs_names) == list(rows.index[rows])
            np.testing.assert_array_equal(adata.X.toarray(), sdata["table"].X[rows.to_numpy()])
            expected = centres_px()[[int(spot.removeprefix(name)) for spot in adata.obs_names]] + i
            np.testing.assert_allclose(adata.obsm["spatial"], expected)
            np.testing.assert_array_equal(image(adata), sdata[f"slide{i}"].transpose("y", "x", "c"))
            assert library(adata).microns_per_pixel == pytest.approx(0.5 + i)
        assert list(sections("spatialdata", tmp_path / "store.zarr", ["right"])) == ["right"]

    def test_options(self, store_of):
        store = store_of("one")
        options = {"region": "right", "table": "table", "image": "slide1", "coordinate_system": "global"}
        assert section_names("spatialdata", store, **options) == ["right"]
        found = sections("spatialdata", store, microns_per_pixel=2, **options)
        assert list(found) == ["right"]
        assert library(found["right"]).microns_per_pixel == 2.0
        with pytest.raises(DataError, match=r"has no region 'rigth'; did you mean 'right'"):
            sections("spatialdata", store, region="rigth")
        with pytest.raises(DataError, match=r"no section 'middle' in"):
            sections("spatialdata", store, ["middle"])

    @pytest.mark.parametrize(("kind", "names"), [(kind, names) for kind, (_, names) in NAMED.items()])
    def test_are_named_by_obs_where_it_gives_each_its_own_name(self, store_of, kind, names):
        assert section_names("spatialdata", store_of(kind)) == sorted(names)
        (first,) = sections("spatialdata", store_of(kind), names[:1], microns_per_pixel=1).values()
        assert [name.removeprefix("left") for name in first.obs_names if name.startswith("left")]

    def test_patients_are_those_of_obs(self, store_of):
        found = sections("spatialdata", store_of("swapped"), microns_per_pixel=1)
        assert {name: set(adata.obs["patient"]) for name, adata in found.items()} == {"S2": {"P1"}, "S1": {"P2"}}


def test_format(stored, tmp_path):
    for name in ("A1", "A2"):
        shutil.copytree(stored, tmp_path / "stores" / f"{name}.zarr")
    found = sections("spatialdata", tmp_path / "stores")
    assert {name: set(adata.obs["section"]) for name, adata in found.items()} == {"A1": {"A1"}, "A2": {"A2"}}
    assert list(sections("spatialdata", tmp_path / "stores" / "A2.zarr")) == ["A2"]
    with pytest.raises(DataError, match="no section 'A3'"):
        sections("spatialdata", tmp_path / "stores", ["A3"])
    with pytest.raises(DataError, match="no sections found"):
        sections("spatialdata", tmp_path)
