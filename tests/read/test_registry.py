from __future__ import annotations

import shutil

import pytest

from nh2st_graph import DataError, ImageError
from nh2st_graph._validate import library
from nh2st_graph.read import _registry, her2st, register_format, sections, write_h5ad


def test_her2st(st_tables, write_her2st):
    files = write_her2st(st_tables())
    write_her2st(st_tables(), "B1")
    assert list(sections("her2st", files.root)) == ["A1", "B1"]
    assert list(sections("her2st", str(files.root), ["B1"])) == ["B1"]
    assert sections("her2st", files.root, []) == {}


class TestVisium:
    def test_one_folder(self, write_visium):
        files = write_visium("V1", outs=True)
        for root in (files.folder, files.root / "V1"):
            assert list(sections("visium", root)) == ["V1"]

    def test_folder_of_folders(self, write_visium, tmp_path):
        for name in ("V2", "V1", "V10"):
            files = write_visium(name, outs=name == "V1")
        (files.root / "notes").mkdir()
        assert list(sections("visium", files.root)) == ["V1", "V10", "V2"]
        assert list(sections("visium", files.root, ["V2", "V1"])) == ["V2", "V1"]
        with pytest.raises(DataError, match=r"no section 'V3'.*did you mean"):
            sections("visium", files.root, ["V3"])

    def test_picture_beside_spatial_is_the_full_one(self, write_visium):
        files = write_visium("V1")
        hires = library(sections("visium", files.root)["V1"])["metadata"]
        assert hires["source_image_path"].endswith("tissue_hires_image.png")
        full = shutil.copy(files.picture, files.folder / "slide.png")
        metadata = library(sections("visium", files.root)["V1"])["metadata"]
        assert metadata["source_image_path"] == str(full.resolve())
        assert metadata["microns_per_pixel"] == pytest.approx(2.0)
        shutil.copy(files.picture, files.folder / "another.png")
        with pytest.raises(ImageError, match=r"holds 2 pictures \(another\.png, slide\.png\)"):
            sections("visium", files.root)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(DataError, match="no sections found"):
            sections("visium", tmp_path)


class TestH5ad:
    @pytest.fixture
    def folder(self, st_tables, write_her2st, tmp_path):
        for name in ("A1", "A2"):
            files = write_her2st(st_tables(), name)
        for name, adata in her2st(files.root).items():
            write_h5ad(adata, tmp_path / "saved" / f"{name}.h5ad")
        return tmp_path / "saved"

    def test_folder_and_file(self, folder):
        assert list(sections("h5ad", folder)) == ["A1", "A2"]
        assert list(sections("h5ad", folder, ["A2"])) == ["A2"]
        renamed = (folder / "A1.h5ad").rename(folder / "mine.h5ad")
        assert list(sections("h5ad", renamed)) == ["A1"]
        with pytest.raises(DataError, match=r"no section 'A2' in .*mine\.h5ad"):
            sections("h5ad", renamed, ["A2"])

    def test_unknown_or_misnamed_section(self, folder):
        with pytest.raises(DataError, match=r"no section 'A3'.*did you mean"):
            sections("h5ad", folder, ["A3"])
        (folder / "A1.h5ad").rename(folder / "A7.h5ad")
        with pytest.raises(DataError, match=r"A7\.h5ad holds section 'A1'; name the file A1\.h5ad"):
            sections("h5ad", folder)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(DataError, match="no sections found"):
            sections("h5ad", tmp_path)
        with pytest.raises(DataError, match="does not exist"):
            sections("h5ad", tmp_path / "nowhere")


def test_unknown_format_names_the_closest(tmp_path):
    with pytest.raises(DataError, match=r"unknown data format 'visum'; did you mean 'visium' or 'visium_hd'\?"):
        sections("visum", tmp_path)


def test_own_format(tmp_path, monkeypatch):
    monkeypatch.setattr(_registry, "_READERS", dict(_registry._READERS))

    @register_format("mine")
    def read(root, names=None):
        return {str(root): names}

    assert sections("mine", tmp_path, ["A"]) == {str(tmp_path): ["A"]}
    with pytest.warns(UserWarning, match="the reader of format 'mine' is replaced"):
        register_format("mine")(read)
