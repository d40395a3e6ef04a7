from __future__ import annotations

import json
import logging

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy import sparse

from nh2st_graph import DataError, ImageError, im
from nh2st_graph.datasets import leave_one_patient_out
from nh2st_graph.read import hest, sections
from nh2st_graph.section import check_section, library
from nh2st_graph.slide import thumbnail


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("order", [None, 0, 1])
def test_section_holds_what_the_files_say(write_hest, dense, order):
    files = write_hest(dense=dense, order=order)
    adata = hest(files.root)["SPA1"]
    assert check_section(adata, need=("genes", "image")) is adata
    assert adata.X.format == "csr"
    assert list(adata.obs_names) == list(files.array.index)  # by array row and column, whatever the file's order
    for i, barcode in enumerate(adata.obs_names):
        np.testing.assert_array_equal(adata.X[i].toarray()[0], files.counts.loc[barcode])
        np.testing.assert_array_equal(adata.obsm["spatial"][i], files.centres.loc[barcode])
    np.testing.assert_array_equal(adata.obs[["array_row", "array_col"]], files.array)
    assert list(adata.obs) == ["section", "patient", "array_row", "array_col", "in_tissue"]
    assert set(adata.obs["section"]) == {"SPA1"}
    assert set(adata.obs["patient"]) == {"Patient 1"}
    assert adata.uns["nh2st_dropped"] == {}


def test_scale_and_image(write_hest):
    files = write_hest()
    entry = library(hest(files.root)["SPA1"]).entry
    assert entry["metadata"] == {"source_image_path": str(files.wsis.resolve()), "microns_per_pixel": 2.0}
    assert entry["scalefactors"] == {"spot_diameter_fullres": 50.0, "tissue_hires_scalef": 0.2}
    np.testing.assert_array_equal(entry["images"]["hires"], files.small)


def test_the_slide_is_not_decoded(write_hest):
    files = write_hest()
    whole = files.wsis.read_bytes()
    files.wsis.write_bytes(whole[:8] + bytes(1000) + whole[1008:])  # pixels come first, after the header
    assert hest(files.root)["SPA1"].n_obs == 12
    with pytest.raises(ImageError, match="cut off or damaged"):
        thumbnail(files.wsis)


def test_small_image_is_made_where_the_file_has_none(write_hest):
    def without(adata):
        del adata.uns["spatial"]
        return adata

    files = write_hest(change=without)
    assert library(hest(files.root)["SPA1"]).hires.shape == (400, 500, 3)


def test_positions_from_columns_where_obsm_has_none(write_hest):
    def without(adata):
        del adata.obsm["spatial"]
        return adata

    files = write_hest(change=without)
    np.testing.assert_array_equal(hest(files.root)["SPA1"].obsm["spatial"], files.centres)


def test_sections_by_name_and_by_format(write_hest):
    for name in ("SPA2", "SPA1", "SPA10"):
        files = write_hest(name, parts=("st", "wsis", "metadata"))
    assert list(hest(files.root)) == ["SPA1", "SPA10", "SPA2"]
    assert list(hest(str(files.root), ["SPA2", "SPA1"])) == ["SPA2", "SPA1"]
    assert list(sections("hest", files.root, ["SPA10"])) == ["SPA10"]
    with pytest.raises(DataError, match=r"no section 'SPA3' in .*; did you mean 'SPA\d+'"):
        hest(files.root, "SPA3")


def test_samples_with_known_errors_are_told(write_hest, caplog):
    for name in ("TENX128", "TENX155"):
        files = write_hest(name)
    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        hest(files.root)
    messages = " ".join(record.getMessage() for record in caplog.records)
    assert "TENX128: it is the sample TENX155 under another name (HEST #126)" in messages


class TestPatients:
    def test_splits_follow_the_metadata(self, write_hest):
        for name, patient in (("A1", "Patient 1"), ("A2", " Patient 1 "), ("B1", "Patient 2")):
            files = write_hest(name, patient=patient)
        found = hest(files.root)
        assert {split.name: split.test for split in leave_one_patient_out(found)} == {
            "Patient 1": ("A1", "A2"),
            "Patient 2": ("B1",),
        }

    @pytest.mark.parametrize("blank", [None, "", "   ", float("nan")])
    def test_unnamed_ones_are_their_own_and_told(self, write_hest, caplog, blank):
        for name in ("A1", "A2"):
            files = write_hest(name, patient=blank)
        with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
            found = hest(files.root)
        assert [set(adata.obs["patient"]) for adata in found.values()] == [{"unknown (A1)"}, {"unknown (A2)"}]
        (message,) = [r.getMessage() for r in caplog.records if r.name == "nh2st_graph"]
        assert "patients of 2 sections are unknown (A1, A2)" in message
        (files.root / "ids.csv").write_text("sample_id,patient\nA1,P\nA2,P\n")
        assert [set(adata.obs["patient"]) for adata in hest(files.root).values()] == [{"P"}, {"P"}]


class TestPatches:
    def test_spots_with_a_patch_are_kept_on_the_barcode(self, write_hest, caplog):
        files = write_hest(order=3)
        with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
            adata = hest(files.root, with_patch_only=True)["SPA1"]
        assert set(adata.obs_names) == set(files.images)
        assert adata.uns["nh2st_dropped"] == {"spots_without_patch": 1, "patches_without_spot": 0}
        assert any("1 (spots without patch)" in record.getMessage() for record in caplog.records)
        for i, barcode in enumerate(adata.obs_names):
            np.testing.assert_array_equal(adata.X[i].toarray()[0], files.counts.loc[barcode])

    @pytest.mark.parametrize("order", [None, 0, 1])
    def test_without_a_slide_they_are_the_image(self, write_hest, caplog, order):
        files = write_hest(parts=("st", "patches", "metadata"), order=order)
        with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
            adata = hest(files.root)["SPA1"]
        assert any("assembled from" in record.getMessage() for record in caplog.records)
        assert set(adata.obs_names) == set(files.images)
        assert library(adata).microns_per_pixel == 112 / 8
        assert library(adata).spot_diameter == pytest.approx(100 / 14)
        # every spot sees the patch that its barcode names, and lies where it lay, to half a pixel
        cut = im.patches(adata, patch_um=112, size_px=8)
        for barcode, patch in zip(adata.obs_names, cut, strict=True):
            np.testing.assert_array_equal(patch, files.images[barcode])
        um = adata.obsm["spatial"] * 14
        away = (
            um
            - um[0]
            - (files.centres.loc[adata.obs_names].to_numpy() - files.centres.loc[adata.obs_names[0]].to_numpy()) * 2
        )
        assert np.abs(away).max() <= 14

    def test_no_barcode_shared(self, write_hest):
        def renamed(adata):
            adata.obs_names = [f"spot{i}" for i in range(adata.n_obs)]
            return adata

        files = write_hest(change=renamed)
        with pytest.raises(DataError, match=r"patches.SPA1\.h5 and .*SPA1\.h5ad have no barcode in common"):
            hest(files.root, with_patch_only=True)


def _spoil(part, content):
    def spoil(files):
        path = getattr(files, part)
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return spoil


def _about(**values):
    def spoil(files):
        about = json.loads(files.metadata.read_text())
        files.metadata.write_text(json.dumps({**about, **values}))

    return spoil


def _unlink(*parts):
    return lambda files: [getattr(files, part).unlink() for part in parts]


#: A whole number that no floating-point number is as large as.
_huge = b'{"pixel_size_um_estimated": 1' + b"0" * 400 + b"}"

BAD_FILES = {
    "no counts": (_unlink("st"), DataError, r"st.SPA1\.h5ad is missing"),
    "no metadata": (_unlink("metadata"), DataError, r"metadata.SPA1\.json is missing"),
    "no image": (_unlink("wsis", "patches"), ImageError, r"no slide; .*wsis.SPA1\.tif .*is missing"),
    "counts cut off": (_spoil("st", lambda b: b[:3000]), DataError, r"SPA1\.h5ad cannot be read as h5ad"),
    "foreign counts": (_spoil("st", b"{}"), DataError, r"SPA1\.h5ad cannot be read as h5ad"),
    "foreign metadata": (_spoil("metadata", b"{"), DataError, r"SPA1\.json cannot be read"),
    "metadata is a list": (_spoil("metadata", b"[]"), DataError, r"SPA1\.json has pixel_size_um_estimated = None"),
    "no scale": (_about(pixel_size_um_estimated=None), DataError, r"pixel_size_um_estimated = None"),
    "text as scale": (_about(pixel_size_um_estimated="0.5"), DataError, r"pixel_size_um_estimated = '0\.5'"),
    "scale 0": (_about(pixel_size_um_estimated=0), DataError, r"pixel_size_um_estimated = 0"),
    "deep metadata": (_spoil("metadata", b"[" * 100_000), DataError, r"SPA1\.json cannot be read .*nested too deeply"),
    "scale beyond numbers": (_spoil("metadata", _huge), DataError, r"pixel_size_um_estimated = inf"),
    "foreign slide": (_spoil("wsis", b"II"), ImageError, r"SPA1\.tif cannot be read"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_give_one_line(write_hest, case):
    spoil, kind, message = BAD_FILES[case]
    files = write_hest()
    write_hest("SPA2")
    spoil(files)
    with pytest.raises(kind, match=message) as caught:
        hest(files.root, ["SPA1"])
    assert "\n" not in str(caught.value)


def _counts(value):
    def change(adata):
        counts = adata.X.toarray()
        counts[2, 1] = value
        adata.X = sparse.csr_matrix(counts)
        return adata

    return change


def _without_positions(adata):
    del adata.obsm["spatial"]
    adata.obs = adata.obs.drop(columns=["pxl_col_in_fullres"])
    return adata


def _barcode_twice(adata):
    adata.obs_names = [adata.obs_names[1], *adata.obs_names[1:]]
    return adata


def _shifted(adata):
    adata.obsm["spatial"] = adata.obsm["spatial"] + [0, 220]
    return adata


def _positions(values):
    def change(adata):
        adata.obsm["spatial"] = values(adata.obsm["spatial"])
        return adata

    return change


def _rows(value):
    def change(adata):
        adata.obs["array_row"] = [value, *adata.obs["array_row"][1:]]
        return adata

    return change


BAD_SECTIONS = {
    "a row between rows": (_rows(1.5), r"'SPA1': obs\['array_row'\] of 1 spots is not a whole number"),
    "an infinite row": (_rows(np.inf), r"'SPA1': obs\['array_row'\] of 1 spots is not a whole number"),
    "three axes": (_positions(lambda p: np.c_[p, p[:, :1]]), r"SPA1\.h5ad has shape \(12, 3\), expected \(12, 2\)"),
    "positions far away": (_positions(lambda p: p * 1e30), r"'SPA1': 12 spots have coordinates .* beyond any image"),
    "a huge count": (_counts(1e30), r"'SPA1': X has a count of 1e\+30"),
    "negative": (_counts(-2), r"'SPA1': X has negative counts"),
    "fraction": (_counts(1.5), r"'SPA1': X has counts that are not integers"),
    "no positions": (_without_positions, r"has neither obsm\['spatial'\] nor obs\['pxl_col_in_fullres'\]"),
    "barcode twice": (_barcode_twice, r"spot '000x001' occurs more than once in .*SPA1\.h5ad"),
    "outside": (_shifted, r"'SPA1': 8 of 12 spots lie outside the image"),
    "no spots": (lambda adata: adata[:0].copy(), r"SPA1\.h5ad has no spots"),
}


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.parametrize("case", BAD_SECTIONS)
def test_bad_sections_give_one_line(write_hest, case):
    change, message = BAD_SECTIONS[case]
    with pytest.raises(DataError, match=message) as caught:
        hest(write_hest(change=change).root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("kind", "name"), [("complex64", "complex64"), ("S1", "object|S1")])
def test_counts_that_are_no_real_numbers(write_hest, dense, kind, name):
    files = write_hest(dense=dense)
    with h5py.File(files.st, "r+") as file:
        place, key = (file, "X") if dense else (file["X"], "data")
        values, about = place[key][()], dict(place[key].attrs)
        del place[key]
        place[key] = values.astype(kind)
        place[key].attrs.update(about)
    with pytest.raises(DataError, match=f"'SPA1': .*({name}|cannot be read as h5ad)"):
        hest(files.root)


def test_sparse_positions(write_hest):
    files = write_hest(change=_positions(sparse.csr_matrix))
    np.testing.assert_array_equal(hest(files.root)["SPA1"].obsm["spatial"], files.centres)


def test_a_file_without_genes_names(write_hest):
    files = write_hest()
    with h5py.File(files.st, "r+") as file:
        del file["var"]
    with pytest.raises(DataError, match=r"'SPA1': .*SPA1\.h5ad cannot be read as h5ad"):
        hest(files.root)


def test_not_a_download_of_hest(tmp_path):
    with pytest.raises(DataError, match="has no folder 'st'"):
        hest(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        hest(tmp_path / "nowhere")
    (tmp_path / "st").mkdir()
    with pytest.raises(DataError, match="no sections found"):
        hest(tmp_path)


def test_features_of_a_section(write_hest):
    adata = hest(write_hest().root)["SPA1"]
    im.features(adata, encoder="squidpy:summary", patch_um=112, progress=False)
    assert adata.obsm["X_image"].shape[0] == 12
    with Image.open(library(adata).source) as slide:
        x, y = adata.obsm["spatial"][5]
        patch = np.asarray(slide.crop((x - 28, y - 28, x + 28, y + 28)))
    names = list(adata.uns["X_image"]["feature_names"])
    mean = adata.obsm["X_image"][5, [i for i, name in enumerate(names) if "mean" in name]]
    np.testing.assert_allclose(
        sorted(mean * (255 if mean.max() <= 1 else 1)), sorted(patch.mean(axis=(0, 1))), rtol=0.02
    )


def test_columns_that_name_genes_are_kept(write_hest):
    ids = [f"ENSG{j:011d}" for j in range(4)]

    def with_ids(adata):
        adata.var["gene_ids"], adata.var["n_cells_by_counts"] = ids, 3
        return adata

    files = write_hest(change=with_ids)
    adata = hest(files.root)["SPA1"]
    assert list(adata.var) == ["gene_ids"]
    assert list(adata.var["gene_ids"]) == ids
