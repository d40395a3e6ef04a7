"""Round trips and placements; SpatialData is slow to load, so one file has all that needs it."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image

from nh2st_graph import DataError, ImageError
from nh2st_graph._validate import check_section, library
from nh2st_graph.read import her2st, sections, spatialdata, write_spatialdata
from nh2st_graph.read._spatialdata import regions

SIDE, N = 60, 6  # of the picture, and number of spots
ANGLE = np.deg2rad(30)
TURNED = np.array(
    [[0.5 * np.cos(ANGLE), -0.5 * np.sin(ANGLE), 7], [0.5 * np.sin(ANGLE), 0.5 * np.cos(ANGLE), -3], [0, 0, 1]]
)
STRETCHED = np.array([[3.0, 0.5, 2], [0, 2.0, 5], [0, 0, 1]])


@pytest.fixture
def section(st_tables, write_her2st):
    """A section on disk: 20 spots at 5 um per pixel, 20 px across."""
    return her2st(write_her2st(st_tables()).root)["A1"]


def affine(matrix):
    from spatialdata.transformations import Affine

    return Affine(np.asarray(matrix, dtype=float), input_axes=("x", "y"), output_axes=("x", "y"))


def image_element(placed, *, scales=None, pixels=None, **kwargs):
    from spatialdata.models import Image2DModel

    if pixels is None:
        pixels = np.random.default_rng(0).integers(0, 255, (3, SIDE, SIDE), dtype=np.uint8)
    return Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=placed, scale_factors=scales, **kwargs)


def centres_px():
    return np.random.default_rng(1).uniform(10, SIDE - 10, (N, 2))


def circles(placed, centres, index=None):
    from spatialdata.models import ShapesModel

    index = pd.Index(range(100, 100 + N)) if index is None else index
    return ShapesModel.parse(centres, geometry=0, radius=2.0, index=index, transformations=placed)


def table(region="spots", **kwargs):
    from spatialdata.models import TableModel

    counts = np.random.default_rng(2).poisson(3.0, (N, 4)).astype(np.float32)
    obs = pd.DataFrame(
        {"region": pd.Categorical([region] * N), "id": range(100, 100 + N)}, index=[f"s{i}" for i in range(N)]
    )
    adata = AnnData(counts, obs=obs, var=pd.DataFrame(index=list("ABCD")), **kwargs)
    return TableModel.parse(adata, region=region, region_key="region", instance_key="id")


def made(*, images=None, shapes=None, tables=None):
    """A SpatialData object: a picture at 0.5 um per pixel and circles on it, in pixels."""
    import spatialdata as sd
    from spatialdata.transformations import Identity, Scale

    here = {"global": Identity()}
    with_scale = here | {"microns": Scale([0.5, 0.5], axes=("x", "y"))}
    return sd.SpatialData(
        images={"he": image_element(with_scale)} if images is None else images,
        shapes={"spots": circles(here, centres_px())} if shapes is None else shapes,
        tables={"table": table()} if tables is None else tables,
    )


def pixels_of(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


class TestRoundTrip:
    def test_a_section_comes_back(self, section, tmp_path):
        write_spatialdata(section, tmp_path / "store.zarr")
        back = spatialdata(tmp_path / "store.zarr")
        assert check_section(back, need=("genes", "image")) is back
        assert list(back.obs_names) == list(section.obs_names)
        np.testing.assert_array_equal(back.X.toarray(), section.X.toarray())
        np.testing.assert_allclose(back.obsm["spatial"], section.obsm["spatial"])
        for column in ("section", "patient", "array_row", "array_col"):
            assert list(back.obs[column]) == list(section.obs[column])
        a, b = library(section), library(back)
        for key in ("spot_diameter_fullres", "tissue_hires_scalef"):
            assert b["scalefactors"][key] == pytest.approx(a["scalefactors"][key])
        assert b["metadata"]["microns_per_pixel"] == pytest.approx(a["metadata"]["microns_per_pixel"])
        paths = [entry["metadata"]["source_image_path"] for entry in (a, b)]
        np.testing.assert_array_equal(pixels_of(paths[0]), pixels_of(paths[1]))

    @pytest.mark.parametrize("matrix", [np.diag([0.1, 0.1, 1]), TURNED], ids=["scale", "affine"])
    def test_a_store_that_was_moved_gives_the_same_section(self, section, tmp_path, matrix):
        import spatialdata as sd
        from spatialdata.transformations import Sequence, get_transformation, set_transformation

        write_spatialdata(section, tmp_path / "store.zarr")
        sdata = sd.read_zarr(tmp_path / "store.zarr")
        for _, _, element in sdata.gen_spatial_elements():
            placed = Sequence([get_transformation(element, "global"), affine(matrix)])
            set_transformation(element, placed, "moved")
        moved = spatialdata(sdata, coordinate_system="moved")
        np.testing.assert_allclose(moved.obsm["spatial"], section.obsm["spatial"])
        assert library(moved)["metadata"]["microns_per_pixel"] == pytest.approx(
            library(section)["metadata"]["microns_per_pixel"]
        )
        write_spatialdata(moved, tmp_path / "again.zarr")
        again = spatialdata(tmp_path / "again.zarr")
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
        assert set(sdata["A_1"]["radius"]) == {library(section)["scalefactors"]["spot_diameter_fullres"] / 2}
        spots, picture = sdata["A_1"], sdata["A_1_image"]
        for system, unit in (("global", 1.0), ("microns", library(section)["metadata"]["microns_per_pixel"])):
            for element, pixels in (
                (spots, 1.0),
                (picture, 1 / library(section)["scalefactors"]["tissue_hires_scalef"]),
            ):
                matrix = get_transformation(element, system).to_affine_matrix(("x", "y"), ("x", "y"))
                np.testing.assert_allclose(matrix, np.diag([unit * pixels, unit * pixels, 1]))
        annotated = sd.join_spatialelement_table(sdata, "A_1", table_name="table", how="inner")[1]
        assert annotated.n_obs == section.n_obs

    def test_a_prediction_without_its_picture(self, section, tmp_path, caplog):
        import spatialdata as sd

        prediction = section.copy()
        prediction.X = prediction.X.toarray() / 7
        prediction.layers["observed"] = section.X.toarray()
        library(prediction)["metadata"]["source_image_path"] = str(tmp_path / "elsewhere.jpg")
        with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
            write_spatialdata(prediction, tmp_path / "store.zarr")
        assert "elsewhere.jpg is not there; the small one is written" in caplog.text
        stored = sd.read_zarr(tmp_path / "store.zarr")
        assert list(stored.images) == ["A1_image"]
        np.testing.assert_array_equal(stored["table"].X, prediction.X)
        np.testing.assert_array_equal(stored["table"].layers["observed"], prediction.layers["observed"])
        np.testing.assert_array_equal(stored["table"].obsm["spatial"], prediction.obsm["spatial"])
        with pytest.raises(DataError, match="X holds raw counts"):
            spatialdata(stored)

    def test_large_pictures_get_smaller_copies(self, section, tmp_path):
        import spatialdata as sd

        source = library(section)["metadata"]["source_image_path"]
        Image.open(source).resize((2100, 1820)).save(source)
        write_spatialdata(section, tmp_path / "store.zarr")
        assert len(sd.read_zarr(tmp_path / "store.zarr")["A1_image"].children) == 3
        assert (
            pixels_of(library(spatialdata(tmp_path / "store.zarr"))["metadata"]["source_image_path"]).shape[0] == 1820
        )

    def test_an_older_store_is_replaced_and_nothing_else(self, section, tmp_path):
        write_spatialdata(section, tmp_path / "store.zarr", image=None)
        write_spatialdata(section[:5].copy(), tmp_path / "store.zarr")
        assert spatialdata(tmp_path / "store.zarr").n_obs == 5
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "note.txt").write_text("mine")
        with pytest.raises(DataError, match="mine is there and is no SpatialData store"):
            write_spatialdata(section, tmp_path / "mine")
        assert not list(tmp_path.glob(".*.part"))

    def test_names_that_spatialdata_refuses(self, section, tmp_path):
        section.obs["in / out"] = 1
        with pytest.raises(DataError, match=r"'A1' cannot be written as SpatialData .*in / out.*; rename it") as error:
            write_spatialdata(section, tmp_path / "store.zarr")
        assert "\n" not in str(error.value)


class TestPlacement:
    @pytest.mark.parametrize("of_picture", [np.eye(3), TURNED, STRETCHED])
    @pytest.mark.parametrize("of_spots", [np.eye(3), TURNED, STRETCHED])
    def test_spots_are_in_pixels_of_the_picture(self, of_picture, of_spots):
        wanted = centres_px()
        own = np.c_[wanted, np.ones(N)] @ (np.linalg.inv(of_spots) @ of_picture).T
        images = {"he": image_element({"slide": affine(of_picture)})}
        sdata = made(images=images, shapes={"spots": circles({"slide": affine(of_spots)}, own[:, :2])})
        adata = spatialdata(sdata, coordinate_system="slide", microns_per_pixel=0.5)
        np.testing.assert_allclose(adata.obsm["spatial"], wanted, atol=1e-9)
        factor = np.sqrt(np.linalg.det(of_spots) / np.linalg.det(of_picture))
        assert library(adata)["scalefactors"]["spot_diameter_fullres"] == pytest.approx(4.0 * factor)

    def test_the_order_of_shapes_changes_nothing(self):
        from spatialdata.transformations import Identity

        order = np.random.default_rng(3).permutation(N)
        shuffled = circles({"global": Identity()}, centres_px()[order], pd.Index(100 + order))
        a, b = (spatialdata(made(shapes=shapes)) for shapes in (None, {"spots": shuffled}))
        assert list(a.obs_names) == list(b.obs_names)
        np.testing.assert_array_equal(a.obsm["spatial"], b.obsm["spatial"])

    def test_rows_without_a_shape_are_dropped_and_told(self, caplog):
        from spatialdata.transformations import Identity

        fewer = circles({"global": Identity()}, centres_px())[2:]
        with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
            adata = spatialdata(made(shapes={"spots": fewer}))
        assert list(adata.obs_names) == ["s2", "s3", "s4", "s5"]
        assert adata.uns["nh2st_dropped"] == {"rows_without_shape": 2}
        assert "2 (rows without shape)" in caplog.text

    def test_the_highest_resolution_counts(self):
        from spatialdata.transformations import Identity, Scale

        placed = {"global": Identity(), "microns": Scale([0.5, 0.5], axes=("x", "y"))}
        one, several = (
            spatialdata(made(images={"he": image_element(placed, scales=scales)})) for scales in (None, [2, 2])
        )
        np.testing.assert_array_equal(one.obsm["spatial"], several.obsm["spatial"])
        paths = [library(adata)["metadata"]["source_image_path"] for adata in (one, several)]
        assert paths[0] == paths[1]
        assert pixels_of(paths[0]).shape == (SIDE, SIDE, 3)

    def test_squares_and_labels(self):
        from geopandas import GeoDataFrame
        from shapely import box
        from spatialdata.models import Labels2DModel, ShapesModel
        from spatialdata.transformations import Identity

        here = {"global": Identity()}
        corners = [(10 * i, 10 * (i % 2), 10 * i + 8, 10 * (i % 2) + 8) for i in range(N)]
        squares = GeoDataFrame({"geometry": [box(*c) for c in corners]}, index=range(100, 100 + N))
        labels = np.zeros((SIDE, SIDE), dtype=np.int32)
        for i, (left, top, right, bottom) in enumerate(corners):
            labels[top:bottom, left:right] = 100 + i
        a = spatialdata(made(shapes={"spots": ShapesModel.parse(squares, transformations=here)}))
        assert library(a)["scalefactors"]["spot_diameter_fullres"] == pytest.approx(8)
        import spatialdata as sd

        both = made(shapes={})
        sdata = sd.SpatialData(
            images=dict(both.images),
            labels={"spots": Labels2DModel.parse(labels, dims=("y", "x"), transformations=here)},
            tables={"table": table()},
        )
        b = spatialdata(sdata)
        np.testing.assert_allclose(a.obsm["spatial"], b.obsm["spatial"])
        np.testing.assert_allclose(a.obsm["spatial"], [((x + r) / 2, (y + z) / 2) for x, y, r, z in corners])

    def test_scale_is_of_the_transformation_to_microns(self):
        from spatialdata.transformations import Identity

        images = {"he": image_element({"global": Identity(), "microns": affine(TURNED)})}
        assert library(spatialdata(made(images=images)))["metadata"]["microns_per_pixel"] == pytest.approx(0.5)
        given = spatialdata(made(images=images), microns_per_pixel=0.25)
        assert library(given)["metadata"]["microns_per_pixel"] == 0.25
        images = {"he": image_element({"global": Identity(), "microns": affine(STRETCHED)})}
        with pytest.raises(DataError, match=r"pixels are 3\S+ by 1\S+ um in 'microns'"):
            spatialdata(made(images=images))

    def test_names(self):
        adata = spatialdata(made())
        assert set(adata.obs["section"]) == set(adata.obs["patient"]) == {"spots"}
        adata = spatialdata(made(), section="S", patient="P")
        assert (set(adata.obs["section"]), set(adata.obs["patient"])) == ({"S"}, {"P"})
        assert list(adata.uns["spatial"]) == ["S"]


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "call", "message"),
        [
            ({"tables": {}}, {}, "has no table; a section needs one"),
            ({"tables": ("a", "b")}, {}, r"has 2 candidates for the table \(a, b\); name one: table=\.\.\."),
            ({"tables": ("a", "b")}, {"table": "c"}, "has no table 'c'"),
            ({"images": {}}, {}, "has no image in coordinate system 'global'"),
            ({"images": ("he", "if")}, {}, r"2 candidates for the image .*\(he, if\); name one: image=\.\.\."),
            ({}, {"coordinate_system": "slide"}, "no coordinate system 'slide'; there: global, microns"),
            ({}, {"coordinate_system": "microns"}, "'spots' is not placed in coordinate system 'microns'; it is in gl"),
            ({}, {"region": "other"}, "has no region 'other'"),
        ],
    )
    def test_one_line(self, change, call, message):
        from spatialdata.transformations import Identity

        make = {"tables": lambda: table(), "images": lambda: image_element({"global": Identity()})}
        elements = {kind: {name: make[kind]() for name in names} for kind, names in change.items()}
        with pytest.raises(DataError, match=message) as error:
            spatialdata(made(**elements), **call)
        assert "\n" not in str(error.value)
        assert isinstance(error.value, ImageError) == ("images" in change)

    def test_named_among_several(self):
        from spatialdata.transformations import Identity

        images = {name: image_element({"global": Identity()}) for name in ("he", "if")}
        sdata = made(images=images, tables={"a": table(), "b": table()})
        assert spatialdata(sdata, "b", "he", microns_per_pixel=1.0).n_obs == N

    def test_no_scale(self):
        from spatialdata.transformations import Identity

        images = {"he": image_element({"global": Identity()})}
        with pytest.raises(DataError, match=r"give microns_per_pixel=.* spots are 4 px across, .*65 um, 16\.25"):
            spatialdata(made(images=images))

    def test_a_table_of_nothing(self):
        loose = AnnData(np.ones((2, 2), dtype=np.float32))
        with pytest.raises(DataError, match="the table annotates no shapes"):
            spatialdata(made(tables={"table": loose}))

    @pytest.mark.filterwarnings("ignore:The table is annotating")
    def test_shapes_that_are_not_there(self):
        with pytest.raises(DataError, match="the table annotates 'spots', which is not in the store"):
            spatialdata(made(shapes={}))

    def test_instances_of_something_else(self):
        from spatialdata.transformations import Identity

        others = circles({"global": Identity()}, centres_px(), pd.Index(range(N)))
        with pytest.raises(DataError, match="'spots' shares no instance with the table"):
            spatialdata(made(shapes={"spots": others}))

    @pytest.mark.parametrize("pixels", [np.ones((1, SIDE, SIDE), np.uint8), np.ones((3, SIDE, SIDE), np.float32)])
    def test_a_picture_that_is_not_rgb(self, pixels):
        from spatialdata.transformations import Identity

        images = {"dapi": image_element({"global": Identity()}, pixels=pixels)}
        with pytest.raises(ImageError, match="expected red, green and blue as uint8"):
            spatialdata(made(images=images), microns_per_pixel=1.0)

    def test_no_store(self, tmp_path):
        with pytest.raises(DataError, match="does not exist"):
            spatialdata(tmp_path / "nowhere.zarr")
        (tmp_path / "file.zarr").write_text("{}")
        with pytest.raises(DataError, match=r"file\.zarr cannot be read as SpatialData") as error:
            spatialdata(tmp_path / "file.zarr")
        assert "\n" not in str(error.value)
        with pytest.raises(DataError, match="AnnData is no SpatialData"):
            spatialdata(AnnData())


class TestRegions:
    @pytest.mark.filterwarnings("ignore:The table is annotating")
    def test_are_those_that_rows_of_the_table_annotate(self):
        assert regions(made()) == ["spots"]
        two = made(tables={"a": table(), "b": table("others")})
        assert regions(two, "b") == ["others"]
        with pytest.raises(DataError, match=r"2 candidates for the table \(a, b\)"):
            regions(two)
        with pytest.raises(DataError, match="the table annotates no shapes"):
            regions(made(tables={"table": AnnData(np.ones((2, 2), dtype=np.float32))}))


def test_format(section, tmp_path):
    for name in ("A1", "A2"):
        write_spatialdata(section, tmp_path / "stores" / f"{name}.zarr")
    found = sections("spatialdata", tmp_path / "stores")
    assert {name: set(adata.obs["section"]) for name, adata in found.items()} == {"A1": {"A1"}, "A2": {"A2"}}
    assert list(sections("spatialdata", tmp_path / "stores" / "A2.zarr")) == ["A2"]
    with pytest.raises(DataError, match="no section 'A3'"):
        sections("spatialdata", tmp_path / "stores", ["A3"])
    with pytest.raises(DataError, match="no sections found"):
        sections("spatialdata", tmp_path)
