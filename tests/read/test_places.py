"""Images beside a section, spots off the tissue, links: the same in every format."""

from __future__ import annotations

import gzip
import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
from anndata import AnnData
from PIL import Image
from scipy import sparse
from scipy.io import mmwrite

from nh2st_graph import DataError, ImageError
from nh2st_graph.read import (
    anndata_section,
    h5ad_section,
    hest,
    section_names,
    sections,
    visium_hd_section,
    visium_section,
    write_h5ad,
    write_spatialdata,
)
from nh2st_graph.read._common import images_in
from nh2st_graph.section import library
from nh2st_graph.slide import IMAGE_ENDINGS


def plain(n: int = 6, pitch: float = 20.0) -> AnnData:
    """What an analysis has: counts and positions on a square."""
    rows, cols = (each.ravel() for each in np.mgrid[0:n, 0:n])
    counts = np.random.default_rng(0).poisson(2.0, (n * n, 3)).astype(np.float32)
    adata = AnnData(
        counts, obs=pd.DataFrame(index=[f"s{i}" for i in range(n * n)]), var=pd.DataFrame(index=list("ABC"))
    )
    adata.obsm["spatial"] = np.column_stack([20 + pitch * cols, 20 + pitch * rows])
    return adata


def source(section: AnnData) -> str:
    return library(section).source.rpartition("/")[2]


class TestImagesBesideTheSection:
    @pytest.mark.parametrize("ending", sorted(IMAGE_ENDINGS))
    def test_every_ending_is_found(self, tmp_path, ending):
        for name in (f"A1{ending}", f"B1{ending.upper()}", f"C1.ome{ending}", f"B10{ending}", f".A1{ending}"):
            (tmp_path / name).touch()
        for stem in ("A1", "B1", "C1"):
            (found,) = images_in(tmp_path, stem)
            assert found.name.startswith(f"{stem}.")

    def test_other_files_are_none(self, tmp_path):
        for name in ("filtered_feature_bc_matrix.h5", "web_summary.html", "A1.h5ad", "ids.csv", "noending"):
            (tmp_path / name).touch()
        (tmp_path / "folder.tif").mkdir()
        assert images_in(tmp_path) == []
        assert images_in(tmp_path / "nowhere") == []

    def test_slides_of_several_files(self, tmp_path):
        for name in ("A1.vms", "A1.jpg", "A1_map2.jpg", "A1.opt"):
            (tmp_path / name).touch()
        assert [path.name for path in images_in(tmp_path)] == ["A1.vms"]
        for name in ("2.dcm", "1.dcm"):
            (tmp_path / "dicom").mkdir(exist_ok=True)
            (tmp_path / "dicom" / name).touch()
        assert [path.name for path in images_in(tmp_path / "dicom")] == ["1.dcm"]

    @pytest.mark.parametrize("name", ["slide.svs", "slide.SVS", "slide.btf", "slide.ome.tif"])
    @pytest.mark.parametrize("outs", [False, True])
    def test_visium(self, write_visium, caplog, name, outs):
        files = write_visium(outs=outs)
        pixels = np.asarray(Image.open(files.image))
        place = files.folder.parent if outs else files.folder
        tifffile.imwrite(place / name, pixels, photometric="rgb", tile=(256, 256))
        for section in (visium_section(files.folder), *sections("visium", files.root).values()):
            assert source(section) == name
            assert library(section).microns_per_pixel == pytest.approx(2.0)
        assert "no full-resolution image given" not in caplog.text

    def test_an_image_beside_the_folder_by_its_name(self, write_visium):
        files = write_visium()
        shutil.copy(files.image, files.root / "V1.png")
        shutil.copy(files.image, files.root / "V10.png")
        assert source(sections("visium", files.root)["V1"]) == "V1.png"

    def test_a_packed_image_is_said(self, write_visium):
        files = write_visium()
        (files.folder / "slide.tif.gz").touch()
        with pytest.raises(ImageError, match=r"slide\.tif\.gz is packed; unpack it"):
            visium_section(files.folder)

    def test_two_images_are_told_how_to_choose(self, write_visium):
        files = write_visium()
        for name in ("a.png", "b.svs"):
            shutil.copy(files.image, files.folder / name)
        with pytest.raises(ImageError, match=r"2 images \(a\.png, b\.svs\).*source_image='NAME'"):
            sections("visium", files.root)
        assert source(sections("visium", files.root, source_image="a.png")["V1"]) == "a.png"

    def test_visium_hd(self, write_visium_hd):
        files = write_visium_hd("H1")
        shutil.copy(files.image, files.outs / "slide.jp2")
        assert source(visium_hd_section(files.outs)) == "slide.jp2"

    @pytest.mark.parametrize("name", ["T1.svs", "T1.TIF", "T1.ome.tif"])
    def test_anndata(self, tmp_path, name):
        plain().write_h5ad(tmp_path / "T1.h5ad")
        tifffile.imwrite(tmp_path / name, np.zeros((150, 200, 3), np.uint8), photometric="rgb", tile=(128, 128))
        assert source(anndata_section(tmp_path / "T1.h5ad", microns_per_pixel=1.0)) == name

    def test_an_image_that_moved_with_its_file(self, tmp_path):
        adata = plain()
        adata.uns["spatial"] = {"T1": {"metadata": {"source_image_path": "/gone/scan.png", "microns_per_pixel": 1.0}}}
        adata.write_h5ad(tmp_path / "T1.h5ad")
        Image.new("RGB", (200, 150)).save(tmp_path / "scan.png")
        assert source(anndata_section(tmp_path / "T1.h5ad")) == "scan.png"


class TestSpotsOffTheTissue:
    @pytest.fixture
    def section(self, tmp_path) -> AnnData:
        adata = plain()
        Image.new("RGB", (200, 150), (210, 130, 180)).save(tmp_path / "p.png")
        return anndata_section(adata, tmp_path / "p.png", 1.0, section="T1")

    @pytest.mark.parametrize(
        ("format", "words"),
        [
            *(("anndata", words) for words in [(1, 0), (True, False), (1.0, 0.0), ("1", "0"), ("True", "False")]),
            ("h5ad", (True, False)),
            ("spatialdata", ("True", "False")),
        ],
    )
    def test_are_left_out_and_counted(self, section, tmp_path, caplog, format, words):
        section.obs["in_tissue"] = [words[i >= 10] for i in range(section.n_obs)]
        (tmp_path / "in").mkdir()
        if format == "spatialdata":
            write_spatialdata(section, tmp_path / "in" / "T1.zarr")
        else:
            write_h5ad(section, tmp_path / "in" / "T1.h5ad")
        (found,) = sections(format, tmp_path / "in").values()
        assert list(found.obs_names) == list(section.obs_names[:10])
        assert found.uns["nh2st_dropped"]["not_in_tissue"] == 26
        assert "kept 10 spots, dropped 26 (not in tissue)" in caplog.text

    def test_hest(self, write_hest):
        def half(adata):
            adata.obs["in_tissue"] = [i % 2 for i in range(adata.n_obs)]
            return adata

        found = hest(write_hest(change=half).root)["SPA1"]
        assert found.n_obs == 6
        assert found.uns["nh2st_dropped"] == {"not_in_tissue": 6}

    def test_a_section_without_any_in_tissue(self, section, tmp_path):
        section.obs["in_tissue"] = 0
        write_h5ad(section, tmp_path / "T1.h5ad")
        with pytest.raises(DataError, match=r"T1\.h5ad: section 'T1': no spot lies in tissue"):
            h5ad_section(tmp_path / "T1.h5ad")
        with pytest.raises(DataError, match="'T1': no spot lies in tissue"):
            anndata_section(section, tmp_path / "p.png", 1.0)


class TestPositionsOfAnotherImage:
    @pytest.mark.parametrize(("factor", "stored"), [(0.3, True), (0.04, False), (3.0, False)])
    def test_are_refused(self, write_visium, tmp_path, factor, stored):
        files = write_visium()
        section = visium_section(files.folder, source_image=files.image)
        section.obsm["spatial"] *= factor
        size = tuple(int(max(1.0, factor) * side) for side in (480, 440))
        Image.new("RGB", size).save(tmp_path / "large.png")
        with pytest.raises(DataError, match=rf"'V1': .*a factor of {factor:g}"):
            anndata_section(section, tmp_path / "large.png", 2.0)
        if not stored:
            return
        section.uns["spatial"]["V1"]["metadata"]["source_image_path"] = str(tmp_path / "large.png")
        write_spatialdata(section, tmp_path / "V1.zarr")
        with pytest.raises(DataError, match=rf"'V1': .*a factor of {factor:g}"):
            sections("spatialdata", tmp_path / "V1.zarr")

    def test_the_scale_factor_of_the_file_is_named(self, write_visium):
        files = write_visium()
        section = visium_section(files.folder, source_image=files.image)
        section.obsm["spatial"] *= 0.25
        with pytest.raises(DataError, match=r"a factor of 0\.25 \(tissue_hires_scalef\)"):
            anndata_section(section, files.image, 2.0)


class TestLinks:
    """A linked section has the link's name, and the table beside the link."""

    @pytest.mark.parametrize("outs", [False, True])
    @pytest.mark.parametrize("to", ["section", "outs"])
    def test_visium(self, write_visium, tmp_path, outs, to):
        files = write_visium("run_123", outs=outs)
        cohort = tmp_path / "cohort"
        cohort.mkdir()
        (cohort / "A1").symlink_to(files.folder if to == "outs" else files.root / "run_123")
        (cohort / "ids.csv").write_text("sample_id,patient\nA1,P1\n")
        (files.root / "ids.csv").write_text("sample_id,patient\nrun_123,wrong\n")
        for root in (cohort, cohort / "A1", *([cohort / "A1" / "outs"] if outs and to == "section" else [])):
            assert section_names("visium", root) == ["A1"]
            (found,) = sections("visium", root).values()
            assert (found.obs["section"].iloc[0], found.obs["patient"].iloc[0]) == ("A1", "P1")

    def test_the_folder_that_the_shell_is_in(self, write_visium, tmp_path, monkeypatch):
        (tmp_path / "A1").symlink_to(write_visium("run_123").folder)
        monkeypatch.chdir(tmp_path / "A1")
        monkeypatch.setenv("PWD", str(tmp_path / "A1"))
        assert section_names("visium", ".") == ["A1"]
        monkeypatch.setenv("PWD", str(tmp_path))  # of another folder
        assert section_names("visium", ".") == ["run_123"]

    def test_visium_hd(self, write_visium_hd, tmp_path):
        files = write_visium_hd("run_123")
        cohort = tmp_path / "cohort"
        cohort.mkdir()
        (cohort / "A1").symlink_to(files.outs)
        (cohort / "B1").symlink_to(files.outs / "binned_outputs" / "square_008um")
        (cohort / "ids.csv").write_text("sample_id,patient\nA1,P1\nB1,P2\n")
        for name, patient in (("A1", "P1"), ("B1", "P2")):
            (found,) = sections("visium_hd", cohort / name).values()
            assert (found.obs["section"].iloc[0], found.obs["patient"].iloc[0]) == (name, patient)

    def test_h5ad(self, tmp_path):
        (tmp_path / "store").mkdir()
        plain().write_h5ad(tmp_path / "store" / "run_123.h5ad")
        Image.new("RGB", (200, 150)).save(tmp_path / "store" / "run_123.png")
        (tmp_path / "cohort").mkdir()
        (tmp_path / "cohort" / "A1.h5ad").symlink_to(tmp_path / "store" / "run_123.h5ad")
        (tmp_path / "cohort" / "A1.png").symlink_to(tmp_path / "store" / "run_123.png")
        (tmp_path / "cohort" / "ids.csv").write_text("sample_id,patient\nA1,P1\n")
        for root in (tmp_path / "cohort", tmp_path / "cohort" / "A1.h5ad"):
            (found,) = sections("anndata", root, microns_per_pixel=1.0).values()
            assert (found.obs["section"].iloc[0], found.obs["patient"].iloc[0]) == ("A1", "P1")


class TestSpaceRangersFiles:
    """As people have them: unpacked, packed, with a prefix, with other barcodes."""

    @staticmethod
    def matrix(files, *, packed=True, prefix="", features="features.tsv", barcodes=None, columns=3):
        folder = files.folder / "filtered_feature_bc_matrix"
        folder.mkdir()
        names = files.counts.index if barcodes is None else barcodes
        table = pd.DataFrame(
            {"id": ["ENSG0", "ENSG1", "ENSG2"], "name": files.counts.columns, "type": "Gene Expression"}
        )
        mmwrite(folder / "m.mtx", sparse.coo_matrix(files.counts.to_numpy().T))
        (folder / "m.mtx").rename(folder / f"{prefix}matrix.mtx")
        table.iloc[:, :columns].to_csv(folder / f"{prefix}{features}", sep="\t", header=False, index=False)
        (folder / f"{prefix}barcodes.tsv").write_text("".join(f"{name}\n" for name in names))
        files.counts_file.unlink()
        for path in list(folder.iterdir()) if packed else ():
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()

    @pytest.mark.parametrize(
        "given",
        [
            {"packed": False},
            {"packed": True},
            {"packed": False, "features": "genes.tsv", "columns": 2},
            {"prefix": "GSM1_"},
            {"packed": False, "columns": 1, "features": "genes.tsv"},
        ],
    )
    def test_folders_of_counts(self, write_visium, given):
        files = write_visium()
        before = visium_section(files.folder)
        self.matrix(files, **given)
        after = visium_section(files.folder)
        np.testing.assert_array_equal(after.X.toarray(), before.X.toarray())
        assert list(after.obs_names) == list(before.obs_names)
        names = list(before.var["gene_ids"]) if given.get("columns") == 1 else list(before.var_names)
        assert list(after.var_names) == names

    @pytest.mark.parametrize("change", [lambda b: b[:-2], lambda b: b[:-1] + "7", lambda b: b[:-2] + ".1"])
    def test_barcodes_with_another_suffix(self, write_visium, change):
        files = write_visium()
        before = visium_section(files.folder)
        self.matrix(files, barcodes=[change(name) for name in files.counts.index])
        after = visium_section(files.folder)
        np.testing.assert_array_equal(after.X.toarray(), before.X.toarray())
        np.testing.assert_array_equal(after.obsm["spatial"], before.obsm["spatial"])
        assert list(after.obs_names) == [change(name) for name in before.obs_names]

    def test_counts_beside_the_folder_spatial(self, write_visium):
        files = write_visium()
        before = visium_section(files.folder)
        self.matrix(files, prefix="GSM1_")
        for path in list((files.folder / "filtered_feature_bc_matrix").iterdir()):
            path.rename(files.folder / path.name)
        (files.folder / "filtered_feature_bc_matrix").rmdir()
        np.testing.assert_array_equal(visium_section(files.folder).X.toarray(), before.X.toarray())

    def test_counts_of_another_name(self, write_visium):
        files = write_visium()
        files.counts_file.rename(files.folder / "raw_feature_bc_matrix.h5")
        with pytest.raises(DataError, match=r"counts_file='raw_feature_bc_matrix\.h5'"):
            visium_section(files.folder)

    def test_barcodes_that_differ_otherwise(self, write_visium):
        files = write_visium()
        self.matrix(files, barcodes=[name[::-1] for name in files.counts.index])
        with pytest.raises(DataError, match=r"no barcode in common \(such as '1-\d{4}' and '\d{4}-1'\)"):
            visium_section(files.folder)

    @pytest.mark.parametrize("prefix", ["", "GSM1_"])
    @pytest.mark.parametrize("header", [False, True])
    def test_packed_tables(self, write_visium, prefix, header):
        files = write_visium(header=header)
        before = visium_section(files.folder)
        for path in (files.positions_file, files.folder / "spatial" / "scalefactors_json.json"):
            path.with_name(f"{prefix}{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        after = visium_section(files.folder)
        np.testing.assert_array_equal(after.obsm["spatial"], before.obsm["spatial"])
        assert library(after).scalefactors == library(before).scalefactors

    def test_a_packed_image(self, write_visium):
        files = write_visium()
        path = files.folder / "spatial" / "tissue_hires_image.png"
        path.rename(f"{path}.gz")
        with pytest.raises(DataError, match=r"tissue_hires_image\.png\.gz is packed; unpack it"):
            visium_section(files.folder)
