from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nh2st_graph import DataError, ImageError, im
from nh2st_graph.read import sections, triplex
from nh2st_graph.section import check_section, library


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path / "cache"))


def _matched(adata):
    """As TRIPLEX leaves it: spots with a patch only."""
    return adata[1:].copy()


class TestToday:
    @pytest.fixture
    def write(self, write_hest):
        def make(name="SPA1", parts=("st", "patches"), **kwargs):
            return write_hest(name, parts=parts, folder="adata", change=_matched, **kwargs)

        return make

    @pytest.mark.parametrize("order", [None, 0])
    @pytest.mark.parametrize("bench", [False, True])
    def test_patches_are_the_image(self, write, order, bench):
        files = write(order=order, bench=bench)
        adata = triplex(files.root)["SPA1"]
        assert check_section(adata, need=("genes", "image")) is adata
        assert list(adata.obs_names) == list(files.array.index[1:])
        for i, (barcode, patch) in enumerate(zip(adata.obs_names, im.patches(adata, 112, 8), strict=True)):
            np.testing.assert_array_equal(patch, files.images[barcode])
            np.testing.assert_array_equal(adata.X[i].toarray()[0], files.counts.loc[barcode])
        assert library(adata).microns_per_pixel == 14
        # 200 um between neighbours of a row, to a pixel of the patches
        assert np.diff(adata.obsm["spatial"][:3, 0]) * 14 == pytest.approx(200, abs=14)
        assert adata.uns["nh2st_dropped"] == {"spots_without_patch": 0, "patches_without_spot": 0}

    def test_slides_where_they_are_there(self, write):
        files = write(parts=("st", "patches", "wsis"))
        adata = triplex(files.root)["SPA1"]
        np.testing.assert_array_equal(adata.obsm["spatial"], files.centres[1:])
        # from the patches' side, half a percent off at most
        assert library(adata).microns_per_pixel == pytest.approx(112 / 57)
        write(parts=("metadata",))
        assert library(triplex(files.root)["SPA1"]).microns_per_pixel == 2.0

    def test_patients_of_the_table(self, write):
        for name in ("SPA1", "SPA2", "SPA3"):
            files = write(name)
        (files.root / "ids.csv").write_text("sample_id,patient\nSPA1,BC1\nSPA2,BC1\nSPA3,BC2\n")
        found = sections("triplex", files.root)
        assert {name: adata.obs["patient"].iloc[0] for name, adata in found.items()} == {
            "SPA1": "BC1",
            "SPA2": "BC1",
            "SPA3": "BC2",
        }
        with pytest.raises(DataError, match=r"no section 'SPA4' in .*; did you mean"):
            triplex(files.root, "SPA4")

    def test_neither_slide_nor_patches(self, write):
        with pytest.raises(ImageError, match=r"no slide; .*wsis.SPA1\.tif \(or .*patches.SPA1\.h5\) is missing"):
            triplex(write(parts=("st",)).root)
        with pytest.raises(
            DataError, match=r"um per pixel cannot be computed; .*SPA1\.h5 is missing, or metadata/SPA1"
        ):
            triplex(write(parts=("st", "wsis")).root)


class TestDownload:
    def test_all_three_data_sets(self, st_tables, write_prepared):
        for section, image in (
            ("A1", "A/A1/scan.jpg"),
            ("P5_ST_rep2", "GSM4284320_{section}.jpg"),
            ("BC23270_E1", "HE_{section}.tif"),
        ):
            tables = st_tables()
            files = write_prepared(tables, section, image=image)
        found = triplex(files.root)
        assert {name: adata.obs["patient"].iloc[0] for name, adata in found.items()} == {
            "A1": "A",
            "BC23270_E1": "BC23270",
            "P5_ST_rep2": "P5",
        }
        for name, adata in found.items():
            np.testing.assert_array_equal(adata.X.toarray()[0], tables.counts.loc["3x7"])
            assert adata.obs_names[0] == f"{name}_3x7"

    def test_visium_sections_have_rows_for_x(self, st_tables, write_prepared):
        tables = st_tables()
        row, col = (a.ravel() for a in np.meshgrid(np.arange(4), np.arange(0, 10, 2), indexing="ij"))
        col = col + row % 2
        pixels = {"pixel_x": row * 30 * 3**0.5 + 20, "pixel_y": col * 30.0 + 10}
        tables.spots = pd.DataFrame({"x": row, "y": col, **pixels})
        tables.counts.index = [f"{r}x{c}" for r, c in zip(row, col, strict=True)]
        files = write_prepared(tables, "10x_breast_ff1", size=(300, 200))
        adata = triplex(files.root)["10x_breast_ff1"]
        assert library(adata).microns_per_pixel == pytest.approx(100 / 60)
        for name, (x, y) in zip(adata.obs_names, adata.obsm["spatial"], strict=True):
            r, c = (int(v) for v in name.removeprefix("10x_breast_ff1_").split("x"))
            assert (x, y) == pytest.approx((c * 30 + 10, r * 30 * 3**0.5 + 20))


def test_not_prepared(tmp_path):
    with pytest.raises(DataError, match="has neither a folder 'adata' nor 'ST-spotfiles'"):
        triplex(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        triplex(tmp_path / "nowhere")
    (tmp_path / "adata").mkdir()
    with pytest.raises(DataError, match="no sections found"):
        triplex(tmp_path)
