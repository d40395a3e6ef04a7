"""Where spots and images of SpatialData lie, and which image is under which spots."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

from nh2st_graph import DataError, ImageError
from nh2st_graph.read import spatialdata_section
from nh2st_graph.section import library

from .stores import (
    SIDE,
    STRETCHED,
    TURNED,
    N,
    affine,
    centres_px,
    circles,
    image,
    image_element,
    made,
    pixels_of,
    set_also,
    several,
    table,
)


class TestPlacement:
    @pytest.mark.parametrize("of_image", [np.eye(3), TURNED, STRETCHED])
    @pytest.mark.parametrize("of_spots", [np.eye(3), TURNED, STRETCHED])
    def test_spots_are_in_pixels_of_the_image(self, of_image, of_spots):
        wanted = centres_px()
        own = np.c_[wanted, np.ones(N)] @ (np.linalg.inv(of_spots) @ of_image).T
        images = {"he": image_element({"slide": affine(of_image)})}
        sdata = made(images=images, shapes={"spots": circles({"slide": affine(of_spots)}, own[:, :2])})
        adata = spatialdata_section(sdata, coordinate_system="slide", microns_per_pixel=0.5)
        np.testing.assert_allclose(adata.obsm["spatial"], wanted, atol=1e-9)
        factor = np.sqrt(np.linalg.det(of_spots) / np.linalg.det(of_image))
        assert library(adata).spot_diameter == pytest.approx(4.0 * factor)

    def test_the_order_of_shapes_changes_nothing(self):
        from spatialdata.transformations import Identity

        order = np.random.default_rng(3).permutation(N)
        shuffled = circles({"global": Identity()}, centres_px()[order], pd.Index(100 + order))
        a, b = (spatialdata_section(made(shapes=shapes)) for shapes in (None, {"spots": shuffled}))
        assert list(a.obs_names) == list(b.obs_names)
        np.testing.assert_array_equal(a.obsm["spatial"], b.obsm["spatial"])

    def test_rows_without_a_shape_are_dropped_and_told(self, caplog):
        from spatialdata.transformations import Identity

        fewer = circles({"global": Identity()}, centres_px())[2:]
        with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
            adata = spatialdata_section(made(shapes={"spots": fewer}))
        assert list(adata.obs_names) == ["s2", "s3", "s4", "s5"]
        assert adata.uns["nh2st_dropped"] == {"rows_without_shape": 2}
        assert "2 (rows without shape)" in caplog.text

    def test_the_highest_resolution_counts(self):
        from spatialdata.transformations import Identity, Scale

        placed = {"global": Identity(), "microns": Scale([0.5, 0.5], axes=("x", "y"))}
        one, several = (
            spatialdata_section(made(images={"he": image_element(placed, scales=scales)})) for scales in (None, [2, 2])
        )
        np.testing.assert_array_equal(one.obsm["spatial"], several.obsm["spatial"])
        paths = [library(adata).source for adata in (one, several)]
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
        a = spatialdata_section(made(shapes={"spots": ShapesModel.parse(squares, transformations=here)}))
        assert library(a).spot_diameter == pytest.approx(8)
        import spatialdata as sd

        both = made(shapes={})
        sdata = sd.SpatialData(
            images=dict(both.images),
            labels={"spots": Labels2DModel.parse(labels, dims=("y", "x"), transformations=here)},
            tables={"table": table()},
        )
        b = spatialdata_section(sdata)
        np.testing.assert_allclose(a.obsm["spatial"], b.obsm["spatial"])
        np.testing.assert_allclose(a.obsm["spatial"], [((x + r) / 2, (y + z) / 2) for x, y, r, z in corners])

    def test_scale_is_of_the_transformation_to_microns(self):
        from spatialdata.transformations import Identity

        images = {"he": image_element({"global": Identity(), "microns": affine(TURNED)})}
        assert library(spatialdata_section(made(images=images))).microns_per_pixel == pytest.approx(0.5)
        given = spatialdata_section(made(images=images), microns_per_pixel=0.25)
        assert library(given).microns_per_pixel == 0.25
        images = {"he": image_element({"global": Identity(), "microns": affine(STRETCHED)})}
        with pytest.raises(DataError, match=r"pixels are 3\S+ by 1\S+ um in 'microns'"):
            spatialdata_section(made(images=images))


class TestImageUnderTheSpots:
    def test_images_on_one_another_have_to_be_named(self):
        sdata = several(where="together")
        with pytest.raises(ImageError, match=r"2 candidates for the image .*'global' \(slide0, slide1\); name one"):
            spatialdata_section(sdata, region="left")
        assert spatialdata_section(sdata, region="left", image="slide1").n_obs == N

    def test_or_be_named_by_the_region(self):
        sdata = several(where="together")
        sdata.images["right_image"] = sdata.images["slide1"]
        adata = spatialdata_section(sdata, region="right")
        np.testing.assert_array_equal(image(adata), sdata["slide1"].transpose("y", "x", "c"))

    def test_that_of_another_region_is_not_theirs(self):
        sdata = several(where="together")
        for i, region in enumerate(("left", "right")):
            sdata.images[f"{region}_image"] = sdata.images.pop(f"slide{i}")
        lefts = sdata["left_image"].transpose("y", "x", "c")
        np.testing.assert_array_equal(image(spatialdata_section(sdata, region="left")), lefts)
        del sdata.images["right_image"]
        with pytest.raises(ImageError, match="'right' has no image in coordinate system 'global'"):
            spatialdata_section(sdata, region="right")

    def test_one_image_under_several_regions_is_that_of_each(self):
        sdata = several(where="together")
        del sdata.images["slide1"]
        slide = sdata["slide0"].transpose("y", "x", "c")
        for region in ("left", "right"):
            np.testing.assert_array_equal(image(spatialdata_section(sdata, region=region)), slide)

    def test_a_image_that_misses_one_spot_is_not_theirs(self):
        sdata = several()
        shifted = sdata.shapes["left"].copy()
        shifted.geometry = shifted.geometry.translate(-50)
        sdata.shapes["left"] = shifted
        with pytest.raises(ImageError, match=r"2 candidates for the image .*\(slide0, slide1\)"):
            spatialdata_section(sdata, region="left")

    def test_in_its_own_coordinate_system_the_largest_image_counts(self):
        from spatialdata.transformations import Scale

        sdata = several(where="own")
        small = sdata["slide0"].data[:, ::2, ::2].compute()
        half = Scale([0.5, 0.5], axes=("x", "y"))
        set_also(sdata.shapes["left"], "left_small", half)
        sdata.images["small"] = image_element({"left_small": affine(np.eye(3))}, pixels=small)
        adata = spatialdata_section(sdata, region="left")
        np.testing.assert_array_equal(image(adata), sdata["slide0"].transpose("y", "x", "c"))
        named = spatialdata_section(sdata, region="left", image="small", microns_per_pixel=1.0)
        np.testing.assert_allclose(named.obsm["spatial"], adata.obsm["spatial"] / 2)

    def test_a_coordinate_system_of_its_own_comes_before_one_that_all_share(self):
        from spatialdata.transformations import Identity

        sdata = several(where="together")
        for i, region in enumerate(("left", "right")):
            for element in (sdata.shapes[region], sdata.images[f"slide{i}"]):
                set_also(element, region, Identity())
        for i, region in enumerate(("left", "right")):
            own = sdata[f"slide{i}"].transpose("y", "x", "c")
            np.testing.assert_array_equal(image(spatialdata_section(sdata, region=region)), own)


class TestAsSpatialdataIoMakesThem:
    """Space Ranger's image in three sizes, each with coordinate systems of its own, and no scale."""

    @staticmethod
    def visium(*, full=True, name="A1", shapes=None, stain="A1_full_image"):
        from spatialdata.transformations import Identity, Scale

        hires, lowres = (Scale([factor, factor], axes=("x", "y")) for factor in (0.5, 0.25))
        of_spots = {name: Identity(), f"{name}_downscaled_hires": hires, f"{name}_downscaled_lowres": lowres}
        pixels = np.random.default_rng(0).integers(0, 255, (3, SIDE, SIDE), dtype=np.uint8)
        images = {
            f"{name}_hires_image": image_element(
                {f"{name}_downscaled_hires": Identity(), name: hires.inverse()}, pixels=pixels[:, ::2, ::2]
            ),
            f"{name}_lowres_image": image_element(
                {f"{name}_downscaled_lowres": Identity(), name: lowres.inverse()}, pixels=pixels[:, ::4, ::4]
            ),
        }
        if full:
            images[stain] = image_element({name: Identity()}, pixels=pixels, scales=[2])
        shapes = {name: circles(of_spots, centres_px())} if shapes is None else shapes(of_spots)
        return made(images=images, shapes=shapes, tables={"table": table(next(iter(shapes)))})

    def test_the_full_image_and_the_size_of_its_spots_are_taken(self):
        section = spatialdata_section(self.visium())
        np.testing.assert_allclose(section.obsm["spatial"], centres_px())
        metadata = library(section).metadata
        assert pixels_of(metadata["source_image_path"]).shape == (SIDE, SIDE, 3)
        assert metadata["microns_per_pixel"] == pytest.approx(65 / 4)  # circles of a radius of 2 px

    def test_without_the_full_image_the_larger_of_the_others(self):
        section = spatialdata_section(self.visium(full=False))
        np.testing.assert_allclose(section.obsm["spatial"], centres_px() / 2)
        metadata = library(section).metadata
        assert pixels_of(metadata["source_image_path"]).shape == (SIDE // 2, SIDE // 2, 3)
        assert metadata["microns_per_pixel"] == pytest.approx(65 / 2)

    def test_squares_of_visium_hd_say_their_size(self):
        from geopandas import GeoDataFrame
        from shapely import box
        from spatialdata.models import ShapesModel

        def squares(placed):
            boxes = [box(x - 5, y - 5, x + 5, y + 5) for x, y in centres_px()]
            frame = pd.DataFrame({"geometry": boxes}, index=range(100, 100 + N))
            return {"A1_square_016um": ShapesModel.parse(GeoDataFrame(frame), transformations=placed)}

        section = spatialdata_section(self.visium(shapes=squares))
        assert library(section).microns_per_pixel == pytest.approx(1.6)

    def test_another_stain_has_to_be_told_from_it(self):
        with pytest.raises(ImageError, match=r"A1_hires_image, A1_lowres_image, if_image"):
            spatialdata_section(self.visium(stain="if_image"))

    def test_other_circles_have_no_known_size(self):
        from spatialdata.transformations import Identity

        store = self.visium(shapes=lambda _: {"A1": circles({"A1": Identity()}, centres_px())})
        with pytest.raises(DataError, match=r"no scale .*microns_per_pixel=.* or place the image in that system"):
            spatialdata_section(store)
