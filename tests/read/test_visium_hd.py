from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest

from nh2st_graph import DataError
from nh2st_graph.read import sections, visium_hd_section, visium_section
from nh2st_graph.section import check_section, library


@pytest.mark.parametrize("bin_um", [8, 16])
def test_section_holds_what_the_files_say(write_visium_hd, caplog, bin_um):
    files = write_visium_hd()
    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        adata = visium_hd_section(files.root / "H1", bin_um, patient="P", source_image=files.image)
    assert not caplog.records
    assert check_section(adata, need=("genes", "image")) is adata
    bins = files.bins[bin_um]
    assert set(adata.obs_names) == set(bins.counts.index)
    positions = bins.positions.loc[adata.obs_names]
    np.testing.assert_array_equal(adata.X.toarray(), bins.counts.loc[adata.obs_names])
    np.testing.assert_array_equal(adata.obsm["spatial"], positions[["pxl_col_in_fullres", "pxl_row_in_fullres"]])
    np.testing.assert_array_equal(adata.obs[["array_row", "array_col"]], positions[["array_row", "array_col"]])
    assert set(adata.obs["section"]) == {"H1"}
    assert set(adata.obs["patient"]) == {"P"}
    entry = library(adata).entry
    assert entry["metadata"]["microns_per_pixel"] == pytest.approx(0.5)
    assert entry["metadata"]["source_image_path"] == str(files.image.resolve())
    assert entry["scalefactors"]["spot_diameter_fullres"] == pytest.approx(bin_um / 0.5)


def test_bins_of_16_um_by_default(write_visium_hd):
    assert visium_hd_section(write_visium_hd().outs).n_obs == 110


def test_without_a_full_image_everything_moves_to_the_hires_one(write_visium_hd, caplog):
    files = write_visium_hd()
    full = visium_hd_section(files.outs, source_image=files.image)
    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        small = visium_hd_section(files.outs)
    assert "tissue_hires_image.png (2.00 um per pixel)" in caplog.text
    np.testing.assert_array_equal(small.obsm["spatial"], full.obsm["spatial"] * 0.25)
    assert library(small).microns_per_pixel == pytest.approx(2.0)


def test_row_order_of_the_positions_changes_nothing(write_visium_hd):
    before = visium_hd_section(write_visium_hd("H1").outs, section="H")
    after = visium_hd_section(
        write_visium_hd("H2", change=lambda p: p.sample(frac=1, random_state=1)).outs, section="H"
    )
    assert list(after.obs_names) == list(before.obs_names)
    np.testing.assert_array_equal(after.X.toarray(), before.X.toarray())
    np.testing.assert_array_equal(after.obsm["spatial"], before.obsm["spatial"])


def test_columns_are_known_by_name(write_visium_hd):
    before = visium_hd_section(write_visium_hd("H1").outs, section="H")
    after = visium_hd_section(write_visium_hd("H2", change=lambda p: p[[*reversed(p.columns)]]).outs, section="H")
    np.testing.assert_array_equal(after.obsm["spatial"], before.obsm["spatial"])


def test_another_scale_than_the_bins_is_told(write_visium_hd, caplog):
    def moved(positions):
        return positions.assign(pxl_col_in_fullres=positions["pxl_col_in_fullres"] * 0.8)

    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        visium_hd_section(write_visium_hd(change=moved).outs)
    assert "the array's pitch of 16 um" in caplog.text


class TestBadInput:
    def test_no_bins_of_that_size(self, write_visium_hd):
        with pytest.raises(DataError, match=r"'H1': no bins of 2 um in .*binned_outputs; bin_um may be: 8, 16"):
            visium_hd_section(write_visium_hd().outs, 2)

    def test_no_positions(self, write_visium_hd):
        files = write_visium_hd()
        (files.bins[16].folder / "spatial" / "tissue_positions.parquet").unlink()
        with pytest.raises(DataError, match=r"'H1': .*tissue_positions\.parquet is missing"):
            visium_hd_section(files.outs)

    def test_positions_cut_off(self, write_visium_hd):
        files = write_visium_hd()
        path = files.bins[16].folder / "spatial" / "tissue_positions.parquet"
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(DataError, match=r"'H1': .*tissue_positions\.parquet cannot be read") as error:
            visium_hd_section(files.outs)
        assert "\n" not in str(error.value)

    def test_a_column_is_missing(self, write_visium_hd):
        files = write_visium_hd(change=lambda p: p.rename(columns={"array_row": "row"}))
        with pytest.raises(DataError, match=r"tissue_positions\.parquet has no column array_row"):
            visium_hd_section(files.outs)

    def test_another_folder(self, write_visium):
        with pytest.raises(DataError, match="has no folder 'binned_outputs'"):
            visium_hd_section(write_visium().folder)

    def test_visium_reads_no_visium_hd(self, write_visium_hd):
        with pytest.raises(DataError, match=r"'H1': .* is Visium HD; read it with ng\.read\.visium_hd"):
            visium_section(write_visium_hd().outs)


class TestFormat:
    def test_folder_of_folders(self, write_visium_hd):
        write_visium_hd("H2")
        files = write_visium_hd("H1")
        shutil.copy(files.image, files.outs / "slide.png")
        found = sections("visium_hd", files.root)
        assert list(found) == ["H1", "H2"]
        assert [library(adata).microns_per_pixel for adata in found.values()] == [0.5, 2.0]
        assert list(sections("visium_hd", files.outs)) == ["H1"]

    def test_bins_that_are_named(self, write_visium_hd):
        files = write_visium_hd("H1")
        assert sections("visium_hd", files.bins[8].folder)["H1"].n_obs == 440
