from __future__ import annotations

import logging

import numpy as np
import pytest
from anndata import AnnData
from PIL import Image

from nh2st_graph import DataError
from nh2st_graph.read import anndata_section
from nh2st_graph.read._assemble import library_entry, patients_given, report_patients
from nh2st_graph.slide import TiffSlide, thumbnail

from ..slides import write_pyramid


class TestSmallImage:
    """Of the full-resolution image, as ``library_entry`` makes it for every reader."""

    @pytest.fixture
    def decoded(self, monkeypatch) -> list[int]:
        """Tiles decoded of each TIFF that was closed."""
        found, close = [], TiffSlide.close
        monkeypatch.setattr(TiffSlide, "close", lambda slide: (found.append(slide.n_decoded), close(slide)))
        return found

    def test_of_a_pyramid_comes_from_the_level_that_is_fine_enough(self, tmp_path, decoded):
        y, x = np.mgrid[:256, :4096]
        waves = 128 + 100 * np.sin(x / 30) * np.cos(y / 25)
        image = np.stack([waves, 255 - waves, waves / 2], axis=-1).astype(np.uint8)
        path, flat = write_pyramid(tmp_path / "slide.tif", 0, image=image, tile=64), tmp_path / "flat.png"
        Image.fromarray(image).save(flat)
        entry = library_entry(path, 0.5, 100.0)
        assert decoded == [2 * 32], "of the level of 2048 px; the full resolution has 256 tiles"
        small, scale = entry["images"]["hires"], entry["scalefactors"]["tissue_hires_scalef"]
        expected, expected_scale = thumbnail(flat)
        assert (small.shape, scale) == (expected.shape, expected_scale)
        # Pillow's box takes whole pixels of the level, up to half a pixel off along each axis, and waves rise by
        # 8.2 greys a pixel at most; both ways round to whole greys.
        off = np.abs(small.astype(int) - expected)
        assert off.max() <= 8.2 / 2 + 1
        shifted = np.abs(np.roll(small, 1, axis=1).astype(int) - expected)
        assert off.mean() < shifted.mean() / 2

    @pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
    def test_of_a_image_in_one_piece(self, tmp_path, monkeypatch, ending):
        path = tmp_path / f"slide.{ending}"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 2400, 3), np.uint8)).save(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        entry = library_entry(path, 0.5, 100.0)
        expected, scale = thumbnail(path)
        np.testing.assert_array_equal(entry["images"]["hires"], expected)
        assert entry["scalefactors"]["tissue_hires_scalef"] == scale == 2000 / 2400

    def test_that_is_given_is_taken(self, tmp_path, decoded):
        path, given = write_pyramid(tmp_path / "slide.tif", 256), np.zeros((8, 8, 3), np.uint8)
        entry = library_entry(path, 0.5, 100.0, (given, 1 / 32))
        assert entry["images"]["hires"] is given
        assert entry["scalefactors"]["tissue_hires_scalef"] == 1 / 32
        assert not decoded

    def test_of_a_scanners_format(self, tmp_path):
        """OpenSlide knows a format by its content."""
        path = write_pyramid(tmp_path / "slide.ndpi", 1024, 0.5, compression="jpeg", apart=True)
        spots = AnnData(np.ones((2, 1), np.float32), obsm={"spatial": np.array([[300.0, 500.0], [400.0, 500.0]])})
        adata = anndata_section(spots, path, 0.5, section="S")
        small = adata.uns["spatial"]["S"]["images"]["hires"]
        tiff = path.rename(tmp_path / "slide.tif")
        np.testing.assert_array_equal(small, library_entry(tiff, 0.5, 1.0)["images"]["hires"])


class TestPatients:
    def test_table(self, tmp_path):
        assert patients_given(tmp_path) == {}
        (tmp_path / "ids.csv").write_text("sample_id,patient\nA, P1\n B,2\nC,\n")
        assert patients_given(tmp_path) == {"A": "P1", "B": "2"}

    def test_table_without_patients(self, tmp_path):
        (tmp_path / "ids.csv").write_text("sample_id\nA\n")
        assert patients_given(tmp_path) == {}

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"name,patient\nA,P\n", "no column sample_id"), (b"", "cannot be read"), (b"\xff\xfe,\n", "ids.csv")],
    )
    def test_bad_tables(self, tmp_path, content, message):
        (tmp_path / "ids.csv").write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            patients_given(tmp_path)
        assert "\n" not in str(caught.value)

    def test_a_table_that_is_named_must_be_there_and_name_them(self, tmp_path):
        with pytest.raises(DataError, match=r"who\.csv cannot be read .*give a table sample_id,patient"):
            patients_given(tmp_path, "who.csv")
        (tmp_path / "who.csv").write_text("sample_id\nA\n")
        with pytest.raises(DataError, match=r"who\.csv has no column patient"):
            patients_given(tmp_path, "who.csv")
        (tmp_path / "who.csv").write_text("sample_id,patient\nA,P\n")
        assert patients_given(tmp_path, "who.csv") == patients_given(tmp_path, str(tmp_path / "who.csv")) == {"A": "P"}

    def test_report_says_which_and_where(self, tmp_path, caplog):
        with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
            report_patients([], tmp_path)
            report_patients(["A"], tmp_path)  # one section cannot be split from itself
        assert not caplog.records
        with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
            report_patients("ABCDEFG", tmp_path)
        (record,) = caplog.records
        assert "7 sections (A, B, C, D, E, ...)" in record.getMessage()
        assert str(tmp_path / "ids.csv") in record.getMessage()
