"""Slides without genes as sections."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import nh2st_graph as ng
from nh2st_graph import ConfigError, DataError, ImageError
from nh2st_graph.im import Lattice, virtual_spots
from nh2st_graph.section import Key, check_section
from nh2st_graph.slide import TiffSlide

from ..slides import tissue_image, write_pyramid

MPP = 4.0


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """4 mm of slide: a disc of tissue of 2 mm."""
    return write_pyramid(tmp_path_factory.mktemp("slides") / "P7_a.slide.tif", 1000, MPP)


@given(st.floats(20, 300), st.floats(2, 12), st.floats(2, 12), st.sampled_from(["grid", "hex"]))
def test_a_lattice_fills_a_rectangle_evenly(pitch, across, down, layout):
    size = np.array([across, down]) * pitch
    array, centres = Lattice(pitch, 50.0, layout).places(*size)
    assert len(array) == len(centres) == len(np.unique(array, axis=0))
    assert (centres >= 0).all()
    assert (centres < size).all()
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    near = (distances > 0) & (distances < 1.01 * pitch)
    np.testing.assert_allclose(distances[near], pitch)
    assert near.any(axis=1).all()
    inner = (np.abs(centres - size / 2) < size / 2 - 1.6 * pitch).all(axis=1)
    assert (near.sum(axis=1)[inner] == (6 if layout == "hex" else 4)).all()


@pytest.mark.parametrize("layout", ["grid", "hex"])
def test_a_section_that_all_else_works_on(slide, layout, tmp_path):
    adata = virtual_spots(slide, pitch_um=150.0, spot_um=90.0, layout=layout)
    check_section(adata, need=("image",))
    assert adata.n_vars == 0
    assert (set(adata.obs[Key.obs.section]), set(adata.obs[Key.obs.patient])) == ({"P7_a"}, {"unknown (P7_a)"})
    assert ng.gr.spot_pitch(adata) * MPP == pytest.approx(150.0)
    assert ng.gr.lattice_neighbours(adata) == (6 if layout == "hex" else 8)
    (entry,) = adata.uns[Key.uns.spatial].values()
    about = {"source_image_path": str(slide), "microns_per_pixel": pytest.approx(MPP), "array_pitch_um": 150.0}
    assert entry["metadata"] == about
    assert entry["scalefactors"]["spot_diameter_fullres"] * MPP == pytest.approx(90.0)
    assert entry["scalefactors"]["tissue_hires_scalef"] == 1.0
    assert entry["images"]["hires"].shape == (1000, 1000, 3)
    ng.gr.spatial_graph(adata)
    degree = np.diff(adata.obsp[Key.obsp.connectivities].indptr)
    assert degree.max() == (6 if layout == "hex" else 8)
    ng.im.features(adata, "squidpy:summary", progress=False)
    assert adata.obsm[Key.obsm.image].shape == (adata.n_obs, 15)
    ng.read.write_h5ad(adata, tmp_path / "section.h5ad")
    again = ng.read.h5ad_section(tmp_path / "section.h5ad")
    assert list(again.obs_names) == list(adata.obs_names)
    np.testing.assert_array_equal(again.obsm["spatial"], adata.obsm["spatial"])


def test_spots_lie_where_their_patch_has_tissue(slide):
    every = virtual_spots(slide, pitch_um=100.0, layout="grid", min_tissue=0)
    assert every.n_obs == 40**2
    radius = np.hypot(*((every.obsm["spatial"] - [400, 500]).T)) * MPP
    for patch_um in (None, 400.0):
        half = (patch_um or 100.0) / 2
        some = set(virtual_spots(slide, pitch_um=100.0, layout="grid", patch_um=patch_um).obs_names)
        most = set(virtual_spots(slide, pitch_um=100.0, layout="grid", patch_um=patch_um, min_tissue=0.99).obs_names)
        on = np.array([name in some for name in every.obs_names])
        inside = np.array([name in most for name in every.obs_names])
        assert on[radius < 1000 - 40].all()
        assert not on[radius > 1000 + 40].any()
        assert inside[radius < 1000 - 1.5 * half - 20].all()
        assert not inside[radius > 1000 - 0.9 * half + 20].any()


def test_names_are_in_the_order_of_reading(slide):
    adata = virtual_spots(slide, pitch_um=40.0)
    assert list(adata.obs_names) == sorted(adata.obs_names)
    order = np.lexsort((adata.obsm["spatial"][:, 0], adata.obsm["spatial"][:, 1].round(3)))
    np.testing.assert_array_equal(order, np.arange(adata.n_obs))


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_plain_images(tmp_path, ending):
    Image.fromarray(tissue_image(500, 8.0)).save(tmp_path / f"slide.{ending}")
    adata = virtual_spots(
        tmp_path / f"slide.{ending}", pitch_um=200.0, layout="grid", microns_per_pixel=8.0, section="A"
    )
    radius = np.hypot(*((adata.obsm["spatial"] - [200, 250]).T)) * 8
    assert adata.n_obs > 60
    assert (radius < 1100).all()
    assert set(adata.obs["section"]) == {"A"}


def test_a_scale_that_is_given_wins_and_is_said(slide, caplog, monkeypatch):
    adata = virtual_spots(slide, pitch_um=100.0, microns_per_pixel=2.0)
    (entry,) = adata.uns[Key.uns.spatial].values()
    assert entry["metadata"]["microns_per_pixel"] == 2.0
    assert "the file says 4 um per pixel; the given 2 is used" in caplog.text
    caplog.clear()
    virtual_spots(slide, pitch_um=100.0, microns_per_pixel=4.05)
    assert "the file says" not in caplog.text


class TestBadInput:
    def test_a_slide_without_scale(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "wsidata", None)
        path = write_pyramid(tmp_path / "slide.tif", 256)
        with pytest.raises(DataError, match=r"slide\.tif: .*give microns_per_pixel.*\[wsi\]"):
            virtual_spots(path)
        assert virtual_spots(path, microns_per_pixel=8.0).n_obs

    def test_a_slide_without_tissue(self, tmp_path):
        path = write_pyramid(tmp_path / "slide.tif", 0, 8.0, image=np.full((256, 256, 3), 243, np.uint8))
        with pytest.raises(DataError, match=r"slide\.tif: no tissue found .*0.0% of the slide.* min_tissue") as caught:
            virtual_spots(path)
        assert "\n" not in str(caught.value)
        assert virtual_spots(path, min_tissue=0).n_obs

    def test_a_format_that_no_reader_opens(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "wsidata", None)
        (tmp_path / "slide.ndpi").write_bytes(b"slide")
        with pytest.raises(ImageError, match=r'pip install "nh2st-graph\[wsi\]"'):
            virtual_spots(tmp_path / "slide.ndpi")

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"pitch_um": 0}, "pitch_um=0"),
            ({"patch_um": 0}, "patch_um=0; give a size in um above 0"),
            ({"spot_um": float("nan")}, "spot_um=nan"),
            ({"pitch_um": 3.0}, "pitch_um=3.0 is less than a pixel .4 um"),
            ({"layout": "hexagonal"}, "layout='hexagonal'; did you mean 'hex'"),
            ({"min_tissue": 50}, "min_tissue=50.* 0 to 1"),
            ({"microns_per_pixel": -1.0}, "microns_per_pixel=-1.0.*above 0"),
        ],
    )
    def test_arguments(self, slide, options, says):
        with pytest.raises(ConfigError, match=says):
            virtual_spots(slide, **options)


def test_a_slide_is_read_tile_by_tile(tmp_path, monkeypatch):
    """Of 4200 px, which is 53 MB, no more than a few rows of tiles are ever held, and no level finer than needed."""
    seen = {"decoded": 0, "most": 0, "levels": set()}
    original = TiffSlide.region

    def region(self, level, box):
        before = self.n_decoded
        found = original(self, level, box)
        seen["decoded"] += self.n_decoded - before
        seen["levels"].add(level)
        seen["most"] = max(seen["most"], self._kept_bytes, found[0].width * found[0].height * 3)
        return found

    monkeypatch.setattr(TiffSlide, "region", region)
    tile = 256 * 256 * 3
    monkeypatch.setattr("nh2st_graph.slide._tiff.KEPT_BYTES", 20 * tile)
    image = tissue_image(1050, 2.0).repeat(4, axis=0).repeat(4, axis=1)
    path = write_pyramid(tmp_path / "slide.tif", 0, 0.5, image=image, levels=4, compression=None)
    adata = virtual_spots(path, pitch_um=100.0, spot_um=55.0)
    # The thumbnail: the level of 2100 px, once.
    assert seen["levels"] == {1}
    assert seen["decoded"] == 9**2
    assert seen["most"] <= 2100 * 2100 * 3
    seen.update(decoded=0, most=0, levels=set())
    assert 70 < adata.n_obs < 150
    patches = list(ng.im.patches(adata, 112.0, 112))
    assert len(patches) == adata.n_obs
    assert seen["levels"] == {1}, "of 224 px at full resolution, every second is enough"
    assert seen["most"] <= 20 * tile, "two rows of tiles, of a slide of 300"
    assert seen["decoded"] <= 9**2, "each tile once"
