from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nh2st_graph import ConfigError, DataError, ImageError
from nh2st_graph.datasets import leave_one_patient_out
from nh2st_graph.read import (
    check_options,
    her2st,
    known_formats,
    register_format,
    section_names,
    sections,
    write_h5ad,
    write_spatialdata,
)
from nh2st_graph.section import library, unknown_patient


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

    def test_image_beside_spatial_is_the_full_one(self, write_visium):
        files = write_visium("V1")
        hires = library(sections("visium", files.root)["V1"]).metadata
        assert hires["source_image_path"].endswith("tissue_hires_image.png")
        full = shutil.copy(files.image, files.folder / "slide.png")
        metadata = library(sections("visium", files.root)["V1"]).metadata
        assert metadata["source_image_path"] == str(full.resolve())
        assert metadata["microns_per_pixel"] == pytest.approx(2.0)
        shutil.copy(files.image, files.folder / "another.png")
        with pytest.raises(ImageError, match=r"holds 2 images \(another\.png, slide\.png\)"):
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
    with pytest.raises(DataError, match=r"unknown format 'visum'; did you mean 'visium' or 'visium_hd'\?"):
        sections("visum", tmp_path)


@pytest.mark.usefixtures("own_formats")
class TestOwnFormat:
    def test_is_read_by_its_name(self, tmp_path):
        @register_format("mine")
        def read(root, names=None):
            return {str(root): names}

        assert "mine" in known_formats()
        assert sections("mine", tmp_path, ["A"]) == {str(tmp_path): ["A"]}
        with pytest.warns(UserWarning, match="the reader of format 'mine' is replaced"):
            register_format("mine")(read)

    def test_without_a_listing_its_sections_are_read_to_name_them(self, tmp_path):
        @register_format("mine")
        def read(root, names=None, *, last="B"):
            return {"A": None, last: None}

        assert section_names("mine", tmp_path) == ["A", "B"]
        assert section_names("mine", tmp_path, last="C") == ["A", "C"]

    def test_a_listing_names_them_unread_and_gets_the_options_that_it_takes(self, tmp_path):
        @register_format("mine", lambda root, last: {last, "A"})
        def read(root, names=None, *, last: str, other: int = 0):
            raise AssertionError("read")

        assert section_names("mine", tmp_path, last="B", other=1) == ["A", "B"]
        with pytest.warns(UserWarning, match="is replaced"):
            register_format("mine")(lambda root, names=None: {"Z": None})
        assert section_names("mine", tmp_path) == ["Z"]


class TestOptions:
    """Keyword-only parameters of a reader, checked in one place."""

    @pytest.mark.parametrize(
        ("format", "options", "message"),
        [
            (
                "visium_hd",
                {"bin": 8},
                "'visium_hd' takes no bin; did you mean 'bin_u",
            ),
            ("her2st", {"image": "he"}, "format 'her2st' takes no image; it has no options"),
            ("spatialdata", {"names": "A"}, "'spatialdata' takes no names"),
            ("visium_hd", {"bin_um": "small"}, "'visium_hd' cannot take bin_um='small'; expected a valid integer"),
            (
                "anndata",
                {"microns_per_pixel": [1]},
                r"'anndata' cannot take microns_per_pixel=\[1\]; expected a valid num",
            ),
        ],
    )
    def test_one_that_cannot_be_used_is_one_line(self, format, options, message):
        with pytest.raises(ConfigError, match=message) as error:
            check_options(format, options)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("read", [sections, section_names])
    def test_are_checked_before_anything_is_read(self, tmp_path, read):
        with pytest.raises(ConfigError, match="takes no bin"):
            read("visium_hd", tmp_path / "nowhere", bin=8)
        with pytest.raises(DataError, match="unknown format 'visium_dh'"):
            read("visium_dh", tmp_path, bin=8)

    @pytest.mark.usefixtures("own_formats")
    def test_reach_the_reader_as_it_wants_them(self, tmp_path):
        @register_format("mine")
        def read(root, names=None, *, image: Path | None = None, table: str = "", scale: float = 1.0, free=None):
            return {"image": image, "table": table, "scale": scale, "free": free}

        given = sections("mine", tmp_path, image="he.tif", table=3, scale=2, free="as it is")
        assert given == {"image": Path("he.tif"), "table": "3", "scale": 2.0, "free": "as it is"}
        assert sections("mine", tmp_path)["scale"] == 1.0

    def test_visium(self, write_visium):
        files = write_visium("V1")
        for name in ("slide.png", "another.png"):
            shutil.copy(files.image, files.folder / name)
        (section,) = sections("visium", files.root, source_image="slide.png", spot_diameter_um=55).values()
        metadata = library(section).metadata
        assert metadata["source_image_path"] == str((files.folder / "slide.png").resolve())
        (as_it_is,) = sections("visium", files.root, source_image="slide.png").values()
        assert metadata["microns_per_pixel"] == pytest.approx(library(as_it_is).microns_per_pixel * 55 / 65)

    def test_visium_hd(self, write_visium_hd):
        files = write_visium_hd()
        for bin_um in (8, 16):
            (section,) = sections("visium_hd", files.root, bin_um=bin_um).values()
            assert set(section.obs_names) == set(files.bins[bin_um].counts.index)

    def test_anndata(self, st_tables, write_her2st, tmp_path):
        plain = her2st(write_her2st(st_tables()).root)["A1"]
        shutil.copy(library(plain).source, tmp_path / "slide.jpg")
        plain.layers["raw"], plain.X = plain.X, plain.X / 7
        plain.uns.clear()
        (tmp_path / "plain").mkdir()
        plain.write_h5ad(tmp_path / "plain" / "A1.h5ad")
        options = {"image": "../slide.jpg", "microns_per_pixel": 5.0, "layer": "raw"}
        (section,) = sections("anndata", tmp_path / "plain", **options).values()
        assert (plain.layers["raw"] != section.X).nnz == 0
        assert library(section).microns_per_pixel == 5.0


def test_section_names_are_those_that_are_read(st_tables, write_her2st, write_visium, write_visium_hd, write_hest):
    her2, visium, visium_hd, hest = write_her2st(st_tables()), write_visium("V1"), write_visium_hd("H1"), write_hest()
    write_her2st(st_tables(), "B1")
    roots = {"her2st": her2.root, "visium": visium.folder, "visium_hd": visium_hd.outs, "hest": hest.root}
    for format, root in roots.items():
        assert section_names(format, root) == list(sections(format, root))
    with pytest.raises(DataError, match="does not exist"):
        section_names("her2st", her2.root / "nowhere")
    with pytest.raises(DataError, match=r"unknown format 'her2'; did you mean 'her2st'"):
        section_names("her2", her2.root)
    with pytest.raises(DataError, match="no sections found in"):
        section_names("visium", her2.root)


class TestPatients:
    """Every format takes them the same way: a table, else what the data say, else a warning."""

    @pytest.fixture(scope="class")
    def store_of(self, tmp_path_factory):
        """Write a section as a store; one of the same name is written once, and copied."""
        kept = tmp_path_factory.mktemp("stores")

        def write(section, path):
            if not (kept / path.name).exists():
                write_spatialdata(section, kept / path.name)
            shutil.copytree(kept / path.name, path)

        return write

    @pytest.fixture(params=["visium", "visium_hd", "anndata", "spatialdata", "h5ad"])
    def cohort(self, request, st_tables, write_her2st, write_visium, write_visium_hd, tmp_path, store_of):
        """Format, folder of the sections A1 and A2, of which nothing tells the patient, and the path of A1."""
        if request.param in {"visium", "visium_hd"}:
            write = write_visium if request.param == "visium" else write_visium_hd
            files = [write(name) for name in ("A1", "A2")]
            return request.param, files[0].root, files[0].root / "A1"
        folder = tmp_path / "cohort"
        for name in ("A1", "A2"):
            section = her2st(write_her2st(st_tables(), name).root, [name])[name]
            section.obs["patient"] = unknown_patient(name)
            if request.param == "spatialdata":
                store_of(section, folder / f"{name}.zarr")
            else:
                write_h5ad(section, folder / f"{name}.h5ad")
        return request.param, folder, folder / ("A1.zarr" if request.param == "spatialdata" else "A1.h5ad")

    @staticmethod
    def patients(found):
        assert all(section.obs["patient"].dtype == "category" for section in found.values())
        return {name: set(section.obs["patient"]) for name, section in found.items()}

    def test_table_beside_the_sections(self, cohort, caplog):
        format, root, first = cohort
        (root / "ids.csv").write_text("sample_id,patient\nA1,P\nA2,P\n")
        assert self.patients(sections(format, root)) == {"A1": {"P"}, "A2": {"P"}}
        assert self.patients(sections(format, first)) == {"A1": {"P"}}
        assert "patients" not in caplog.text

    def test_a_patient_may_be_called_as_the_section_is(self, cohort, caplog):
        format, root, _ = cohort
        (root / "ids.csv").write_text("sample_id,patient\nA1,A1\nA2,A2\n")
        found = sections(format, root)
        assert self.patients(found) == {"A1": {"A1"}, "A2": {"A2"}}
        assert "patients" not in caplog.text
        assert len(leave_one_patient_out(found)) == 2

    def test_table_by_another_name(self, cohort, tmp_path):
        format, root, _ = cohort
        (tmp_path / "who.csv").write_text("sample_id,patient\nA1,Q\nA2,R\n")
        for table in (str(tmp_path / "who.csv"), os.path.relpath(tmp_path / "who.csv", root)):
            assert self.patients(sections(format, root, ["A2"], patients=table)) == {"A2": {"R"}}
        assert section_names(format, root, patients="who.csv") == ["A1", "A2"]
        with pytest.raises(DataError, match=r"none\.csv cannot be read"):
            sections(format, root, patients="none.csv")

    def test_that_nothing_tells_them_is_told_once(self, cohort, caplog):
        format, root, _ = cohort
        found = sections(format, root)
        assert self.patients(found) == {"A1": {"unknown (A1)"}, "A2": {"unknown (A2)"}}
        (said,) = [message for message in caplog.messages if "patients" in message]
        assert "patients of 2 sections are unknown (A1, A2)" in said
        assert str(root / "ids.csv") in said
        with pytest.raises(DataError, match="patient of A1, A2"):
            leave_one_patient_out(found)

    def test_a_table_that_names_some(self, cohort, caplog):
        format, root, _ = cohort
        (root / "ids.csv").write_text("sample_id,patient\nA2,P\n")
        assert self.patients(sections(format, root)) == {"A1": {"unknown (A1)"}, "A2": {"P"}}
