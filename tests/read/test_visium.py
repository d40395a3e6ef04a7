from __future__ import annotations

import gzip
import json
import logging
import shutil
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import sparse
from scipy.io import mmwrite
from scipy.spatial import cKDTree

from nh2st_graph import DataError, ImageError
from nh2st_graph.read import sections, visium_section
from nh2st_graph.section import check_section, library

HIRES_WARNING = "no full-resolution image given"


def _messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "nh2st_graph"]


@pytest.mark.parametrize("header", [False, True], ids=["space ranger 1", "space ranger 2"])
@pytest.mark.parametrize("outs", [False, True])
def test_section_holds_what_the_files_say(write_visium, caplog, header, outs):
    files = write_visium(header=header, outs=outs)
    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        adata = visium_section(files.root / "V1", patient="P", source_image=files.image)
    assert check_section(adata, need=("genes", "image")) is adata
    assert adata.X.format == "csr"
    tissue = files.positions[files.positions["in_tissue"] == 1]
    assert set(adata.obs_names) == set(tissue.index)
    for i, barcode in enumerate(adata.obs_names):
        np.testing.assert_array_equal(adata.X[i].toarray()[0], files.counts.loc[barcode])
        x, y = tissue.loc[barcode, ["pxl_col_in_fullres", "pxl_row_in_fullres"]]
        np.testing.assert_array_equal(adata.obsm["spatial"][i], [x, y])
        assert adata.obs["array_row"].iloc[i] == tissue.loc[barcode, "array_row"]
        assert adata.obs["array_col"].iloc[i] == tissue.loc[barcode, "array_col"]
    assert set(adata.obs["section"]) == {"V1"}
    assert set(adata.obs["patient"]) == {"P"}
    metadata = library(adata).metadata
    assert metadata["microns_per_pixel"] == pytest.approx(2.0)
    assert metadata["source_image_path"] == str(files.image.resolve())
    assert not any(HIRES_WARNING in message for message in _messages(caplog))
    assert adata.uns["nh2st_dropped"] == {
        "counts_without_position": 0,
        "not_in_tissue": len(files.positions) - len(tissue),
    }


def test_without_a_full_image_everything_moves_to_the_hires_one(write_visium, caplog):
    files = write_visium(hires_scale=0.25)
    full = visium_section(files.folder, source_image=files.image)
    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        small = visium_section(files.folder)
    assert any(HIRES_WARNING in message for message in _messages(caplog))
    a, b = library(full), library(small)
    np.testing.assert_array_equal(small.obsm["spatial"], full.obsm["spatial"] * 0.25)
    assert b.source.endswith("tissue_hires_image.png")
    # the same places in um, and the same places on the images that are plotted
    assert b.microns_per_pixel == pytest.approx(8.0)
    for key in ("tissue_hires_scalef", "tissue_lowres_scalef"):
        np.testing.assert_allclose(
            small.obsm["spatial"] * b.scalefactors[key], full.obsm["spatial"] * a.scalefactors[key]
        )
        assert b.spot_diameter * b.scalefactors[key] == pytest.approx(a.spot_diameter * a.scalefactors[key])
    np.testing.assert_array_equal(a.hires, b.hires)


def test_row_order_of_the_positions_changes_nothing(write_visium):
    before = visium_section(write_visium("V1").folder, section="V", source_image=None)
    shuffled = write_visium("V2", change=lambda p: p.sample(frac=1, random_state=1))
    after = visium_section(shuffled.folder, section="V")
    assert list(after.obs_names) == list(before.obs_names)
    np.testing.assert_array_equal(after.X.toarray(), before.X.toarray())
    np.testing.assert_array_equal(after.obsm["spatial"], before.obsm["spatial"])


def test_names_by_default(write_visium):
    files = write_visium("S7", outs=True)
    for path in (files.folder, files.folder.parent):
        adata = visium_section(path)
        assert (set(adata.obs["section"]), set(adata.obs["patient"])) == ({"S7"}, {"unknown (S7)"})
        assert list(adata.uns["spatial"]) == ["S7"]


@pytest.mark.parametrize("header", [False, True])
def test_a_header_is_told_by_its_first_word(write_visium, header):
    files = write_visium(header=header)
    other = {"tissue_positions.csv": "tissue_positions_list.csv", "tissue_positions_list.csv": "tissue_positions.csv"}
    before = visium_section(files.folder)
    files.positions_file.rename(files.positions_file.with_name(other[files.positions_file.name]))
    np.testing.assert_array_equal(visium_section(files.folder).obsm["spatial"], before.obsm["spatial"])


def test_columns_of_a_header_are_known_by_name(write_visium):
    files = write_visium(header=True)
    before = visium_section(files.folder)
    table = pd.read_csv(files.positions_file)
    table[["barcode", *reversed(table.columns[1:])]].to_csv(files.positions_file, index=False)
    np.testing.assert_array_equal(visium_section(files.folder).obsm["spatial"], before.obsm["spatial"])
    table.rename(columns={"array_row": "row"}).to_csv(files.positions_file, index=False)
    with pytest.raises(DataError, match=r"tissue_positions\.csv has no column array_row"):
        visium_section(files.folder)


class TestCountsFile:
    def test_with_a_prefix(self, write_visium):
        files = write_visium()
        moved = files.counts_file.rename(files.folder / f"GSM1_{files.counts_file.name}")
        assert visium_section(files.folder).n_obs == 24
        shutil.copy(moved, files.folder / f"GSM2_{files.counts_file.name}")
        with pytest.raises(DataError, match=r"several counts files \(GSM1_\S+, GSM2_\S+\); name one"):
            visium_section(files.folder)
        assert visium_section(files.folder, counts_file=moved.name).n_obs == 24

    def test_matrix_market_folder(self, write_visium):
        files = write_visium()
        before = visium_section(files.folder)
        files.counts_file.unlink()
        folder = files.folder / "filtered_feature_bc_matrix"
        folder.mkdir()
        with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
            mmwrite(file, sparse.coo_matrix(files.counts.to_numpy().T))
        features = pd.DataFrame({"id": ["ENSG0", "ENSG1", "ENSG2"], "name": files.counts.columns})
        features["type"] = "Gene Expression"
        for name, table in (("features", features), ("barcodes", pd.DataFrame(files.counts.index))):
            table.to_csv(folder / f"{name}.tsv.gz", sep="\t", header=False, index=False)
        after = visium_section(files.folder)
        assert after.X.format == "csr"
        np.testing.assert_array_equal(after.X.toarray(), before.X.toarray())
        assert list(after.var_names) == list(before.var_names)
        (folder / "barcodes.tsv.gz").unlink()
        with pytest.raises(DataError, match=r"'V1': .*filtered_feature_bc_matrix cannot be read"):
            visium_section(files.folder)


def test_gene_names_become_unique(write_visium):
    adata = visium_section(write_visium(genes=("A", "B", "A")).folder)
    assert list(adata.var_names) == ["A", "B", "A-1"]


def test_scale_is_checked_against_the_array(write_visium, caplog):
    files = write_visium()
    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        visium_section(files.folder, source_image=files.image)
        assert not any("pitch" in message for message in _messages(caplog))
        adata = visium_section(files.folder, source_image=files.image, spot_diameter_um=55.0)
    assert library(adata).microns_per_pixel == pytest.approx(2.0 * 55 / 65)
    assert any(
        "1.692 um per pixel by the spot diameter, 1.998 by the array" in message for message in _messages(caplog)
    )


def test_counts_without_a_position_are_dropped_and_told(write_visium, caplog):
    files = write_visium(change=lambda p: p.iloc[:-3])
    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        adata = visium_section(files.folder)
    assert adata.uns["nh2st_dropped"]["counts_without_position"] == 3
    assert any("3 (counts without position)" in message for message in _messages(caplog))


def test_a_section_of_one_spot_can_be_read(write_visium):
    assert visium_section(write_visium(change=lambda p: p.assign(in_tissue=[0, 1] + [0] * 28)).folder).n_obs == 1


def _nan(positions):
    return positions.assign(pxl_row_in_fullres=positions["pxl_row_in_fullres"].where(positions.index != 5))


BAD_POSITIONS = {
    "not a number": (_nan, "tissue_positions_list.csv has a position that is not a number"),
    "text": (lambda p: p.assign(array_row="first"), "tissue_positions_list.csv has a position that is not a"),
    "outside": (
        lambda p: p.assign(pxl_col_in_fullres=p["pxl_col_in_fullres"] + 10_000),
        "spots lie outside the image .*tissue_hires_image.png",
    ),
    "nothing shared": (
        lambda p: p.assign(barcode=p["barcode"].str[::-1]),
        "filtered_feature_bc_matrix.h5 and .*tissue_positions_list.csv have no barcode in common",
    ),
    "barcode twice": (
        lambda p: pd.concat([p, p.iloc[:1]]),
        "occurs more than once in .*tissue_positions_list",
    ),
    "half in tissue": (lambda p: p.assign(in_tissue=[0.5] + [1] * 29), r"obs\['in_tissue'\].* has '0.5'"),
    "no tissue": (lambda p: p.assign(in_tissue=0), "the section is empty"),
    "no rows": (lambda p: p.iloc[:0], "tissue_positions_list.csv cannot be read"),
    "columns": (lambda p: p.iloc[:, :4], "has 4 columns, expected 6"),
}


@pytest.mark.parametrize("case", BAD_POSITIONS)
def test_bad_positions_give_one_line(write_visium, case):
    change, message = BAD_POSITIONS[case]
    files = write_visium(change=change)
    with pytest.raises(DataError, match=message) as caught:
        visium_section(files.folder)
    assert "'V1'" in str(caught.value)
    assert "\n" not in str(caught.value)


FILES = [
    "filtered_feature_bc_matrix.h5",
    "spatial/scalefactors_json.json",
    "spatial/tissue_hires_image.png",
    "spatial/tissue_lowres_image.png",
    "spatial/tissue_positions_list.csv",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut off", "foreign"])
def test_damaged_files_are_named(write_visium, name, damage):
    files = write_visium()
    path = files.folder / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "cut off" else b"{]\0")
    if (name, damage) == (
        FILES[-1],
        "cut off",
    ):  # half a table is a table: its missing half is dropped and told
        assert visium_section(files.folder).uns["nh2st_dropped"]["counts_without_position"] > 0
        return
    with pytest.raises(DataError) as caught:
        visium_section(files.folder)
    assert path.name in str(caught.value) or str(path.parent) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_negative_counts_are_refused(write_visium):
    import h5py

    files = write_visium()
    with h5py.File(files.counts_file, "r+") as file:
        file["matrix/data"][3] = -2
    with pytest.raises(DataError, match="'V1': X has negative counts"):
        visium_section(files.folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "\x00", '"text"', "3"])
def test_scale_factors_that_are_none(write_visium, text):
    files = write_visium()
    (files.folder / "spatial" / "scalefactors_json.json").write_text(text)
    with pytest.raises(DataError, match=r"'V1': .*scalefactors_json\.json cannot be read"):
        visium_section(files.folder)


@pytest.mark.parametrize("value", [f"1{'0' * 400}", "1e999", "NaN", "-1", "Infinity", f"-{'9' * 5000}"])
@pytest.mark.parametrize("name", ["spot_diameter_fullres", "tissue_hires_scalef", "fiducial_diameter_fullres"])
def test_scale_factors_that_no_image_has(write_visium, name, value):
    files = write_visium()
    path = files.folder / "spatial" / "scalefactors_json.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: 0.1234}).replace("0.1234", value))
    with pytest.raises(DataError, match=rf"'V1': .*scalefactors_json\.json has {name} = (-?inf|nan|-1)"):
        visium_section(files.folder)


@pytest.mark.parametrize("text", ["{}", '{"spot_diameter_fullres": 0, "tissue_hires_scalef": 0.2}'])
def test_scale_factors_that_say_nothing(write_visium, text):
    files = write_visium()
    (files.folder / "spatial" / "scalefactors_json.json").write_text(text)
    with pytest.raises(DataError, match=r"scalefactors_json\.json has spot_diameter_fullres = (None|0)"):
        visium_section(files.folder)


class TestSourceImage:
    def test_another_size(self, write_visium):
        files = write_visium()
        other = shutil.copy(files.folder / "spatial" / "tissue_hires_image.png", files.root / "other.png")
        with pytest.raises(ImageError, match=r"other\.png is 120 x 110 px.*about 480 x 440 px"):
            visium_section(files.folder, source_image=other)

    def test_of_a_scanners_format_names_the_extra(self, write_visium, monkeypatch):
        monkeypatch.setitem(sys.modules, "wsidata", None)
        files = write_visium()
        slide = files.root / "slide.mrxs"
        slide.write_bytes(b"slide")
        with pytest.raises(ImageError, match=r'no installed reader opens \.mrxs; pip install "nh2st-graph\[wsi\]"'):
            visium_section(files.folder, source_image=slide)

    def test_missing(self, write_visium):
        files = write_visium()
        with pytest.raises(ImageError, match=r"nowhere\.tif does not exist"):
            visium_section(files.folder, source_image=files.root / "nowhere.tif")


def test_not_a_space_ranger_folder(tmp_path):
    with pytest.raises(DataError, match="has no folder 'spatial'"):
        visium_section(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        visium_section(tmp_path / "nowhere")


class TestRealSection:
    @pytest.fixture(scope="class")
    def real(self, shared_data):
        return visium_section(shared_data / "visium_tiny")

    def test_contract(self, real):
        assert check_section(real, need=("genes", "image")).shape == (100, 100)

    def test_neighbours_lie_100_um_apart(self, real):
        microns = real.obsm["spatial"] * library(real).microns_per_pixel
        array = real.obs[["array_col", "array_row"]].to_numpy()
        pairs = [
            (i, j) for i, j in cKDTree(array).query_pairs(2.1) if tuple(np.abs(array[i] - array[j])) in {(2, 0), (1, 1)}
        ]
        distances = [np.linalg.norm(microns[i] - microns[j]) for i, j in pairs]
        assert len(pairs) > 5
        assert np.median(distances) == pytest.approx(100, rel=0.02)

    def test_later_layouts(self, small_visium, tmp_path):
        """The same section as Space Ranger 3 writes it, as version 2 but for CytAssist's image, with its own image."""
        before = visium_section(small_visium)
        folder = shutil.copytree(small_visium, tmp_path / "visium" / "outs")
        positions = folder / "spatial" / "tissue_positions_list.csv"
        names = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
        pd.read_csv(positions, names=names).to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
        positions.unlink()
        Image.new("RGB", (30, 30)).save(folder / "spatial" / "cytassist_image.tiff")
        factor = json.loads((folder / "spatial" / "scalefactors_json.json").read_text())["tissue_hires_scalef"]
        size = [round(side / factor) for side in Image.open(folder / "spatial" / "tissue_hires_image.png").size]
        Image.new("1", size).save(tmp_path / "full.tif")  # only its size is looked at
        later = visium_section(folder.parent, source_image=tmp_path / "full.tif")
        assert list(later.obs_names) == list(before.obs_names)
        np.testing.assert_array_equal(later.X.toarray(), before.X.toarray())
        np.testing.assert_allclose(later.obsm["spatial"] * factor, before.obsm["spatial"])
        scales = [library(adata).microns_per_pixel for adata in (later, before)]
        assert scales[0] == pytest.approx(scales[1] * factor)

    def test_squidpy_plots_it(self, real):
        mpl.use("Agg")
        import squidpy as sq

        sq.pl.spatial_scatter(real, color=real.var_names[0], library_key="section")


class TestPositionsSavedAgain:
    @pytest.mark.parametrize("header", [False, True])
    @pytest.mark.parametrize("options", [{"sep": ";"}, {"sep": ";", "decimal": ","}, {"sep": "\t"}, {"index": True}])
    def test_are_read(self, write_visium, header, options):
        files = write_visium(header=header)
        expected = visium_section(files.folder)
        table = files.positions.reset_index()
        table["pxl_col_in_fullres"] = table["pxl_col_in_fullres"] + 0.5
        table.to_csv(files.positions_file, **{"header": header, "index": False, **options})
        found = visium_section(files.folder)
        assert list(found.obs_names) == list(expected.obs_names)
        moved = (found.obsm["spatial"] - expected.obsm["spatial"]) / 0.25
        np.testing.assert_allclose(moved, [[0.5, 0]] * found.n_obs)

    @pytest.mark.parametrize(
        "change", [lambda p: p.rename(columns=str.upper), lambda p: p.rename(columns=" {} ".format)]
    )
    def test_with_a_header_in_capitals(self, write_visium, change):
        files = write_visium(header=True)
        expected = visium_section(files.folder)
        change(files.positions.reset_index()).to_csv(files.positions_file, index=False)
        np.testing.assert_array_equal(visium_section(files.folder).obsm["spatial"], expected.obsm["spatial"])

    def test_with_the_barcodes_as_an_index_without_a_name(self, write_visium):
        files = write_visium(header=True)
        expected = visium_section(files.folder)
        files.positions.rename_axis(None).to_csv(files.positions_file)
        np.testing.assert_array_equal(visium_section(files.folder).obsm["spatial"], expected.obsm["spatial"])

    def test_a_column_with_another_name_is_named(self, write_visium):
        files = write_visium(header=True, change=lambda p: p.rename(columns={"array_row": "row"}))
        with pytest.raises(DataError, match=r"no column array_row \(there: barcode, in_tissue, row") as caught:
            visium_section(files.folder)
        assert "copy it again" not in str(caught.value)


@pytest.mark.parametrize("form", ["s1_{}", "{}-0", "{}_s1", "x#{}-2"])
def test_names_around_barcodes_in_one_file(write_visium, form, caplog):
    expected = visium_section(write_visium().folder)
    caplog.clear()
    found = visium_section(write_visium("V2", change=lambda p: p.assign(barcode=p["barcode"].map(form.format))).folder)
    assert list(found.obs_names) == list(expected.obs_names)
    np.testing.assert_array_equal(found.obsm["spatial"], expected.obsm["spatial"])
    assert "joined without" in caplog.text


def test_names_around_barcodes_that_differ_are_refused(write_visium):
    files = write_visium(change=lambda p: p.assign(barcode=[f"s{i % 2}_{each}" for i, each in enumerate(p["barcode"])]))
    with pytest.raises(DataError, match=r"no barcode in common .*-1' and 's0_.*before or after"):
        visium_section(files.folder)


@pytest.mark.parametrize("outs", [False, True])
def test_one_section_takes_its_patient_from_the_table_beside_its_folder(write_visium, outs):
    files = write_visium(outs=outs)
    (files.root / "ids.csv").write_text("sample_id,patient\nV1,P7\nV2,P8\n")
    for path in {files.folder, files.root / "V1"}:
        assert set(visium_section(path).obs["patient"]) == {"P7"}
    assert set(visium_section(files.folder, patient="P1").obs["patient"]) == {"P1"}
    assert set(visium_section(files.folder, section="X").obs["patient"]) == {"unknown (X)"}
    (files.root / "other.csv").write_text("sample_id,patient\nV2,P8\n")
    (found,) = sections("visium", files.root, patients="other.csv").values()
    assert set(found.obs["patient"]) == {"unknown (V1)"}


@pytest.mark.parametrize(
    ("turn", "says"),
    [
        (Image.Transpose.FLIP_LEFT_RIGHT, "mirrored from left to right"),
        (Image.Transpose.FLIP_TOP_BOTTOM, "mirrored from top to bottom"),
        (Image.Transpose.ROTATE_180, "turned by 180 degrees"),
    ],
)
def test_a_turned_image_is_refused(write_visium, turn, says):
    files = write_visium()
    Image.open(files.image).transpose(turn).save(files.image)
    with pytest.raises(ImageError, match=f"'V1': image .* is {says}, compared with tissue_hires_image.png"):
        visium_section(files.folder, source_image=files.image)


def test_an_image_of_another_section_is_said(write_visium, caplog):
    files = write_visium()
    other = np.random.default_rng(1).integers(0, 255, (440, 480, 3), dtype=np.uint8)
    Image.fromarray(other).save(files.image)
    visium_section(files.folder, source_image=files.image)
    assert "does not show what tissue_hires_image.png shows" in caplog.text
