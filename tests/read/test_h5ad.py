from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from nh2st_graph import DataError
from nh2st_graph.read import h5ad_section, her2st, write_h5ad
from nh2st_graph.section import check_section, library


@pytest.fixture
def section(st_tables, write_her2st):
    return her2st(write_her2st(st_tables()).root)["A1"]


def test_written_and_read_is_the_same(section, tmp_path):
    path = tmp_path / "new" / "folder" / "A1.h5ad"
    assert write_h5ad(section, path) is None
    back = h5ad_section(str(path))
    assert list(back.obs_names) == list(section.obs_names)
    pd.testing.assert_frame_equal(back.obs, section.obs)
    np.testing.assert_array_equal(back.X.toarray(), section.X.toarray())
    np.testing.assert_array_equal(back.obsm["spatial"], section.obsm["spatial"])
    assert library(back).metadata == library(section).metadata
    assert library(back).scalefactors == library(section).scalefactors
    assert back.uns["nh2st_dropped"] == section.uns["nh2st_dropped"]


def test_section_without_genes(section, tmp_path):
    write_h5ad(section[:, :0].copy(), tmp_path / "image_only.h5ad")
    assert h5ad_section(tmp_path / "image_only.h5ad").n_vars == 0


def test_relative_image_is_found_beside_the_file(section, tmp_path):
    metadata = library(section).metadata
    image = tmp_path / "moved" / "images" / "scan.jpg"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"")
    metadata["source_image_path"] = "images/scan.jpg"
    moved = tmp_path / "moved" / "A1.h5ad"
    write_h5ad(section, moved)
    assert library(h5ad_section(moved)).source == str(image.resolve())
    image.unlink()
    assert library(h5ad_section(moved)).source == "images/scan.jpg"


def test_a_failed_write_leaves_the_old_file(section, tmp_path, monkeypatch):
    path = tmp_path / "A1.h5ad"
    write_h5ad(section, path)
    before = path.read_bytes()

    def fail(self, filename, **kwargs):
        filename.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(AnnData, "write_h5ad", fail)
    with pytest.raises(OSError, match="no space left"):
        write_h5ad(section, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.glob("*.h5ad")] == ["A1.h5ad"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["missing", "cut off", "foreign", "folder"])
def test_damaged_file_is_named(section, tmp_path, damage):
    path = tmp_path / "A1.h5ad"
    if damage == "folder":
        path.mkdir()
    elif damage == "foreign":
        path.write_text("not HDF5")
    elif damage == "cut off":
        write_h5ad(section, path)
        path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DataError, match=r"A1\.h5ad (cannot be read as h5ad|does not exist)") as caught:
        h5ad_section(path)
    assert "\n" not in str(caught.value)


def test_broken_contract_names_the_file(section, tmp_path):
    del section.obs["patient"]
    write_h5ad(section, tmp_path / "A1.h5ad")
    with pytest.raises(DataError, match=r"A1\.h5ad: section 'A1': obs\['patient'\] is missing"):
        h5ad_section(tmp_path / "A1.h5ad")


def test_genes_are_looked_at_where_they_are_needed(section, tmp_path):
    section.X = section.X.toarray() + 0.5
    write_h5ad(section, tmp_path / "A1.h5ad")
    adata = h5ad_section(tmp_path / "A1.h5ad")
    with pytest.raises(DataError, match="counts that are not integers"):
        check_section(adata, need=("genes",))
