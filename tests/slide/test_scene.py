"""``FILE#SCENE``: what it means, and that it works wherever a path of an image is taken."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tifffile import TiffWriter

import nh2st_graph as ng
from nh2st_graph.slide import content_hash, image_exists, image_in, image_name, split_scene

from ..slides import tissue_image

PINK, SIDE = np.array([220, 120, 180], np.uint8), 300


@pytest.fixture
def two(tmp_path):
    path = tmp_path / "two.ome.tif"
    with TiffWriter(path, ome=True) as file:
        for name, pixels in {"left": np.broadcast_to(PINK, (310, 310, 3)), "the right": tissue_image(SIDE)}.items():
            about = {"axes": "YXS", "Name": name, "PhysicalSizeX": 2.0, "PhysicalSizeY": 2.0}
            file.write(pixels, photometric="rgb", tile=(64, 64), metadata=about)
    return path


def test_a_file_may_have_the_sign_in_its_name(tmp_path):
    file = tmp_path / "slide #1.tif"
    assert split_scene(file) == (file, None)
    assert split_scene(f"{file}#1") == (Path(f"{file}#1"), None)
    file.touch()
    assert split_scene(file) == (file, None)
    assert split_scene(f"{file}#a#b") == (file, "a#b")
    assert split_scene(Path(f"{file}#2")) == (file, "2")


def test_names_of_sections(two):
    assert image_name(two) == "two"
    assert image_name(f"{two}#the right") == "two_the_right"
    assert image_name(Path(f"{two}#1")) == "two_1"
    assert image_exists(f"{two}#1")
    assert not image_exists(two.parent / "three.tif#1")


@pytest.mark.parametrize("scene", ["", "#a", "#a/b", "#a/b#c"])
def test_an_image_that_was_moved_beside_the_file_is_found_by_its_name(tmp_path, scene):
    (tmp_path / "sub").mkdir()
    for name in ("s.tif", "slide #1.tif", "sub/s.tif"):
        (tmp_path / name).touch()
    assert image_in(tmp_path, f"/elsewhere/s.tif{scene}") == tmp_path / f"s.tif{scene}"
    assert image_in(tmp_path, f"else#where/slide #1.tif{scene}") == tmp_path / f"slide #1.tif{scene}"
    assert image_in(tmp_path, f"sub/s.tif{scene}") == tmp_path / f"sub/s.tif{scene}"
    assert image_in(tmp_path, f"none.tif{scene}") is None


def test_sections_name_scenes_with_a_slash(tmp_path):
    with TiffWriter(tmp_path / "two.ome.tif", ome=True) as file:
        for name in ("a/left", "a/right"):
            file.write(tissue_image(SIDE), photometric="rgb", metadata={"axes": "YXS", "Name": name})
    spots = ad.AnnData(np.ones((2, 3), np.float32), obs=pd.DataFrame(index=["a", "b"]))
    spots.obsm["spatial"] = np.array([[110.0, 150.0], [100.0, 100.0]])
    section = ng.read.anndata_section(spots, f"{tmp_path}/two.ome.tif#a/right", 2.0, section="s")
    (library,) = section.uns["spatial"].values()
    library["metadata"]["source_image_path"] = "/elsewhere/two.ome.tif#a/right"
    ng.read.write_h5ad(section, tmp_path / "s.h5ad")
    (found,) = ng.read.sections("anndata", tmp_path / "s.h5ad").values()
    (library,) = found.uns["spatial"].values()
    assert library["metadata"]["source_image_path"] == str(tmp_path / "two.ome.tif#a/right")


def test_content_differs_by_scene(two):
    assert len({content_hash(f"{two}#{scene}") for scene in ("left", "the right")}) == 2


def test_sections_of_one_scene(two, tmp_path):
    spots = ad.AnnData(np.ones((2, 3), np.float32), obs=pd.DataFrame(index=["a", "b"]))
    spots.obsm["spatial"] = np.array([[110.0, 150.0], [100.0, 100.0]])
    with pytest.raises(ng.ImageError, match=r"0 'left' \(310 x 310 px\), 1 'the right'"):
        ng.read.anndata_section(spots, two, 2.0, section="s")
    section = ng.read.anndata_section(spots, f"{two}#left", 2.0, section="s")
    ng.read.write_h5ad(section, tmp_path / "s.h5ad")
    for each in (section, ng.read.h5ad_section(tmp_path / "s.h5ad")):
        patch = next(ng.im.patches(each, 80.0, 40))
        assert (patch == PINK).all()
    stored = ng.read.to_spatialdata(section).images["s_image"]
    assert (np.asarray(stored["scale0"].image if hasattr(stored, "keys") else stored)[:, 5, 5] == PINK).all()


def test_relative_scenes_in_a_format(two, tmp_path):
    spots = ad.AnnData(np.ones((2, 3), np.float32), obs=pd.DataFrame(index=["a", "b"]))
    spots.obsm["spatial"] = np.array([[110.0, 150.0], [100.0, 100.0]])
    spots.write_h5ad(tmp_path / "s.h5ad")
    (section,) = ng.read.sections(
        "anndata", tmp_path / "s.h5ad", image="two.ome.tif#left", microns_per_pixel=2.0
    ).values()
    assert (next(ng.im.patches(section, 80.0, 40)) == PINK).all()


def test_virtual_spots_of_one_scene(two):
    section = ng.im.virtual_spots(f"{two}#the right", pitch_um=60, min_tissue=0.5)
    assert ng.section.section_name(section) == "two_the_right"
    assert 3 < section.n_obs < 60
    assert next(ng.im.patches(section, 60.0, 30)).shape == (30, 30, 3)


def test_a_slide_whose_pixels_are_not_square_says_so(tmp_path):
    with TiffWriter(tmp_path / "a.tif") as file:
        file.write(tissue_image(SIDE), photometric="rgb", resolution=(20_000, 10_000), resolutionunit="CENTIMETER")
    with pytest.raises(ng.DataError, match=r"it states 0\.5 um along x and 1 um along y: .*resample"):
        ng.im.virtual_spots(tmp_path / "a.tif", pitch_um=60)


def test_a_prediction_of_one_scene_is_checked_as_such(two, tmp_path):
    model = tmp_path / "run"
    model.mkdir()
    (model / "model.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    out = tmp_path / "out"
    ng.tl.check_prediction(model, [f"{two}#left", f"{two}#the right"], out)
    out.mkdir()
    (out / "two_left.h5ad").touch()
    with pytest.raises(ng.RunError, match=r"two_left\.h5ad exists"):
        ng.tl.check_prediction(model, [f"{two}#left"], out)
    with pytest.raises(ng.ImageError, match="equal standing"):
        ng.tl.check_prediction(model, [two], out)
    with pytest.raises(ng.ImageError, match="does not exist"):
        ng.tl.check_prediction(model, [f"{tmp_path}/none.tif#left"], out)
