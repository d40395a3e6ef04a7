from __future__ import annotations

import gzip
import logging

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from nh2st_graph import DataError, ImageError
from nh2st_graph.read import her2st
from nh2st_graph.read._resolution import st_scale
from nh2st_graph.section import check_section, library


def _equal(a, b):
    assert list(a.obs_names) == list(b.obs_names)
    assert list(a.var_names) == list(b.var_names)
    pd.testing.assert_frame_equal(a.obs, b.obs)
    np.testing.assert_array_equal(a.X.toarray(), b.X.toarray())
    np.testing.assert_array_equal(a.obsm["spatial"], b.obsm["spatial"])
    assert library(a).scalefactors == library(b).scalefactors
    assert library(a).metadata == library(b).metadata


def test_section_holds_what_the_files_say(st_tables, write_her2st):
    tables = st_tables()
    files = write_her2st(tables)
    adata = her2st(files.root)["A1"]
    assert check_section(adata, need=("genes", "image")) is adata
    assert sparse.issparse(adata.X)
    assert adata.X.format == "csr"
    assert list(adata.var_names) == list(tables.counts.columns)
    assert adata.obsm["spatial"].dtype == np.float64
    spots = tables.spots.set_index(["x", "y"])
    for i, name in enumerate(adata.obs_names):  # looked up one by one, by name
        x, y = (int(v) for v in name.removeprefix("A1_").split("x"))
        assert (adata.obs["array_col"].iloc[i], adata.obs["array_row"].iloc[i]) == (x, y)
        np.testing.assert_array_equal(adata.X[i].toarray()[0], tables.counts.loc[f"{x}x{y}"])
        np.testing.assert_array_equal(adata.obsm["spatial"][i], spots.loc[(x, y), ["pixel_x", "pixel_y"]])
    assert set(adata.obs["section"]) == {"A1"}
    assert set(adata.obs["patient"]) == {"A"}
    assert adata.uns["nh2st_dropped"] == {
        "positions_without_counts": 0,
        "counts_without_position": 0,
        "not_selected": 0,
    }


def test_scale_and_image(st_tables, write_her2st):
    files = write_her2st(st_tables(), size=(2400, 1200))
    entry = library(her2st(files.root)["A1"]).entry
    assert entry["metadata"]["microns_per_pixel"] == pytest.approx(5.0, rel=1e-3)
    assert entry["scalefactors"]["spot_diameter_fullres"] == pytest.approx(20.0, rel=1e-3)
    assert entry["scalefactors"]["tissue_hires_scalef"] == pytest.approx(2000 / 2400)
    assert entry["images"]["hires"].shape == (1000, 2000, 3)
    assert entry["metadata"]["source_image_path"] == str(files.image.resolve())


@pytest.mark.parametrize("where", ["counts", "spots"])
@pytest.mark.parametrize("seed", range(3))
def test_row_order_of_a_file_changes_nothing(st_tables, write_her2st, where, seed):
    tables = st_tables()
    before = her2st(write_her2st(tables).root)["A1"]
    setattr(tables, where, getattr(tables, where).sample(frac=1, random_state=seed))
    _equal(her2st(write_her2st(tables).root)["A1"], before)


def test_root_or_data_packed_or_not_any_line_ends(st_tables, write_her2st):
    tables = st_tables()
    files = write_her2st(tables)
    before = her2st(files.root)["A1"]
    _equal(her2st(str(files.data))["A1"], before)
    files.counts.unlink()
    plain = write_her2st(tables, packed=False).counts
    _equal(her2st(files.root)["A1"], before)
    plain.write_bytes(plain.read_bytes().replace(b"\n", b"\r\n"))
    _equal(her2st(files.root)["A1"], before)


def test_spots_without_a_partner_are_dropped_and_told(st_tables, write_her2st, caplog):
    tables = st_tables()
    tables.counts = tables.counts.drop(index=["4x8"])
    tables.spots = tables.spots[~((tables.spots["x"] == 5) & (tables.spots["y"] >= 9))]
    tables.spots.loc[0, "selected"] = 0
    with caplog.at_level(logging.INFO, logger="nh2st_graph"):
        adata = her2st(write_her2st(tables).root)["A1"]
    assert adata.n_obs == 20 - 1 - 2 - 1
    assert not {"A1_4x8", "A1_5x9", "A1_5x10", "A1_3x7"} & set(adata.obs_names)
    assert adata.uns["nh2st_dropped"] == {
        "positions_without_counts": 1,
        "counts_without_position": 2,
        "not_selected": 1,
    }
    (record,) = caplog.records
    assert "'A1'" in record.getMessage()
    assert "2 (counts without position)" in record.getMessage()


def test_spot_file_without_a_selection_selects_all(st_tables, write_her2st):
    tables = st_tables()
    tables.spots = tables.spots.drop(columns="selected")
    assert her2st(write_her2st(tables).root)["A1"].n_obs == 20


def test_sections_by_name_and_unique_spot_names(st_tables, write_her2st):
    for name in ("B2", "A1", "A2"):
        files = write_her2st(st_tables(), name)
    every = her2st(files.root)
    assert list(every) == ["A1", "A2", "B2"]
    names = [spot for adata in every.values() for spot in adata.obs_names]
    assert len(set(names)) == len(names)
    assert list(her2st(files.root, ["B2", "A1"])) == ["B2", "A1"]
    assert list(her2st(files.root, "A2")) == ["A2"]
    with pytest.raises(DataError, match=r"no section 'B3' in .*; did you mean 'B2'\?"):
        her2st(files.root, ["A1", "B3"])


class TestScale:
    def test_outliers_do_not_move_it(self, st_tables, write_her2st):
        tables = st_tables(n_rows=8, n_cols=8)
        tables.spots.loc[::12, "pixel_x"] = 10.0
        scale = library(her2st(write_her2st(tables, size=(400, 400)).root)["A1"]).microns_per_pixel
        assert scale == pytest.approx(5.0, rel=0.01)

    def test_a_mirrored_image_has_the_same(self, st_tables, write_her2st):
        tables = st_tables()
        tables.spots["pixel_x"] = 290 - tables.spots["pixel_x"]
        scale = library(her2st(write_her2st(tables).root)["A1"]).microns_per_pixel
        assert scale == pytest.approx(5.0, rel=1e-3)

    def test_one_row_of_spots_is_enough(self, st_tables, write_her2st):
        scale = library(her2st(write_her2st(st_tables(n_rows=1)).root)["A1"]).microns_per_pixel
        assert scale == pytest.approx(5.0, rel=1e-3)

    def test_axes_that_disagree_are_refused(self, st_tables, write_her2st):
        tables = st_tables()
        tables.spots["pixel_y"] = 20 + (tables.spots["pixel_y"] - 20) * 0.9
        with pytest.raises(DataError, match=r"A1_selection\.tsv: x says 5\.0\d\d and y says 5\.5"):
            her2st(write_her2st(tables).root)

    def test_one_spot_has_none(self, st_tables, write_her2st):
        with pytest.raises(DataError, match=r"A1_selection\.tsv: um per pixel cannot be fitted from one spot"):
            her2st(write_her2st(st_tables(n_rows=1, n_cols=1)).root)


@pytest.mark.parametrize(("which", "error"), [("counts", DataError), ("spots", DataError), ("image", ImageError)])
def test_missing_file_is_named(st_tables, write_her2st, which, error):
    files = write_her2st(st_tables())
    path = getattr(files, which)
    path.unlink()
    with pytest.raises(error, match="section 'A1'") as caught:
        her2st(files.root)
    assert str(path.parent) in str(caught.value)


def test_missing_folders(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        her2st(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no sections found"):
        her2st(tmp_path)


def _cell(value):
    def spoil(tables):
        tables.counts = tables.counts.astype(object)
        tables.counts.iloc[3, 1] = value

    return spoil


def _spot(column, value):
    def spoil(tables):
        tables.spots[column] = tables.spots[column].astype(object)
        tables.spots.loc[2, column] = value

    return spoil


def _rename(tables):
    tables.counts.index = [f"{i + 100}x1" for i in range(len(tables.counts))]


BAD_TABLES = {
    "negative": (_cell(-3), r"'A1': X has negative counts"),
    "fraction": (_cell(1.5), r"'A1': X has counts that are not integers \(for example 1\.5\)"),
    "empty cell": (_cell(None), r"A1\.tsv\.gz: gene 'ERBB2' in spot '6x7' is not a number"),
    "text": (_cell("many"), r"A1\.tsv\.gz: gene 'ERBB2' in spot '6x7' is not a number"),
    "no coordinate": (_spot("pixel_x", None), r"A1_selection\.tsv: pixel_x in line 4 is not a number"),
    "text coordinate": (_spot("new_y", "?"), r"A1_selection\.tsv: new_y in line 4 is not a number"),
    "fractional array": (_spot("x", 3.5), r"A1_selection\.tsv: x and y are not integers"),
    "nothing shared": (_rename, r"A1_selection\.tsv and .*A1\.tsv\.gz have no spot in common"),
    "outside": (
        _spot("pixel_y", 261.0),
        r"'A1': 1 of 20 spots lie outside the image .*scan\.jpg \(300 x 260 px",
    ),
    "spot twice in counts": (
        lambda t: setattr(t, "counts", pd.concat([t.counts, t.counts.iloc[:1]])),
        r"counts file .*A1\.tsv\.gz: spot '3x7' occurs more than once",
    ),
    "spot twice in spots": (
        lambda t: setattr(t, "spots", pd.concat([t.spots, t.spots.iloc[:1]])),
        r"spot file .*A1_selection\.tsv: spot '3x7' occurs more than once",
    ),
    "gene twice": (
        lambda t: setattr(t.counts, "columns", ["A", "B", "A", "C"]),
        r"'A1': gene 'A' occurs more than once",
    ),
    "foreign spot names": (
        lambda t: setattr(t, "counts", t.counts.rename(index={"3x7": "ACGT-1"})),
        r"A1\.tsv\.gz: spot name 'ACGT-1' is not array x and y",
    ),
    "no column": (
        lambda t: setattr(t, "spots", t.spots.drop(columns=["new_x", "pixel_y"])),
        r"A1_selection\.tsv has no column new_x, pixel_y",
    ),
    "no spots in counts": (
        lambda t: setattr(t, "counts", t.counts.iloc[:0]),
        r"A1\.tsv\.gz has no spots; the section is empty",
    ),
    "no spots in spots": (
        lambda t: setattr(t, "spots", t.spots.iloc[:0]),
        r"A1_selection\.tsv has no spots; the section is empty",
    ),
    "none selected": (lambda t: t.spots.__setitem__("selected", 0), r"section 'A1': no spots"),
}


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables_give_one_line(st_tables, write_her2st, case):
    spoil, message = BAD_TABLES[case]
    tables = st_tables()
    spoil(tables)
    files = write_her2st(tables)
    with pytest.raises(DataError, match=message) as caught:
        her2st(files.root)
    assert "\n" not in str(caught.value)


def _text(path):
    return gzip.decompress(path.read_bytes())


BAD_FILES = {
    "packed file cut off": ("counts", lambda p: p.read_bytes()[:-40], "cannot be read"),
    "not packed": ("counts", lambda p: b"\tA\n3x7\t1\n", "cannot be read"),
    "last row cut off": ("counts", lambda p: gzip.compress(_text(p)[:-4]), "is not a number"),
    "long row": ("counts", lambda p: gzip.compress(_text(p) + b"9x9\t1\t1\t1\t1\t1\n"), "cannot be read"),
    "header without corner": (
        "counts",
        lambda p: gzip.compress(_text(p)[1:]),
        "names 3 genes and has 4 columns",
    ),
    "empty counts": ("counts", lambda p: gzip.compress(b""), "has no spots"),
    "bytes as counts": ("counts", lambda p: gzip.compress(bytes(range(256)) * 3), "A1.tsv.gz"),
    "empty spots": ("spots", lambda p: b"", "cannot be read"),
    "bytes as spots": ("spots", lambda p: bytes(range(255, 0, -1)), "A1_selection.tsv"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_malformed_files_are_named(st_tables, write_her2st, case):
    which, spoil, message = BAD_FILES[case]
    files = write_her2st(st_tables())
    path = getattr(files, which)
    path.write_bytes(spoil(path))
    with pytest.raises(DataError, match=message) as caught:
        her2st(files.root)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class TestImage:
    def test_unreadable(self, st_tables, write_her2st):
        files = write_her2st(st_tables())
        files.image.write_text("not an image")
        with pytest.raises(ImageError, match=r"scan\.jpg cannot be read"):
            her2st(files.root)

    def test_cut_off(self, st_tables, write_her2st):
        files = write_her2st(st_tables())
        files.image.write_bytes(files.image.read_bytes()[:-2000])
        with pytest.raises(ImageError, match=r"scan\.jpg is cut off"):
            her2st(files.root)

    def test_two_images(self, st_tables, write_her2st):
        files = write_her2st(st_tables())
        files.image.with_name("other.PNG").write_bytes(files.image.read_bytes())
        files.image.with_name("._scan.jpg").write_bytes(b"")  # as some systems leave beside a copied file
        with pytest.raises(ImageError, match=r"holds 2 images \(other\.PNG, scan\.jpg\)"):
            her2st(files.root)


@pytest.mark.parametrize(
    "written",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\t123456\t", "\t123456.0\t"),
        lambda text: text.replace("\t123456\t", "\t +123456\t"),
        lambda text: text.replace("3x7\t", '"3x7"\t'),
    ],
)
def test_counts_however_they_are_written(st_tables, write_her2st, written):
    tables = st_tables()
    tables.counts.iloc[1:4, 1:3] = [[10, 123456], [0, 99], [1000, 7]]
    files = write_her2st(tables, packed=False)
    expected = her2st(files.root)["A1"]
    assert expected.X.max() == 123456
    files.counts.write_bytes(written(files.counts.read_text()).encode())
    _equal(her2st(files.root)["A1"], expected)


class TestRealSections:
    @pytest.fixture(scope="class")
    def real(self, shared_data):
        return her2st(shared_data / "her2st")

    def test_sizes(self, real):
        assert {name: adata.n_obs for name, adata in real.items()} == {
            "B4": 283,
            "C3": 180,
            "C4": 184,
            "C5": 181,
            "C6": 178,
        }
        assert real["B4"].uns["nh2st_dropped"]["positions_without_counts"] == 1

    def test_scale(self, real):
        for adata in real.values():
            assert library(adata).microns_per_pixel == pytest.approx(0.69, abs=0.005)

    def test_scale_of_the_distances_of_their_spots(self, real):
        for name, adata in real.items():
            scale = st_scale(adata.obs[["array_col", "array_row"]].to_numpy(float), adata.obsm["spatial"], name)
            assert scale.microns_per_pixel == pytest.approx(library(adata).microns_per_pixel, rel=5e-3)
            assert scale.spot_um == 100

    def test_median_panel_counts(self, real, shared_data):
        panel = (shared_data / "gene_panels" / "her_hvg_cut_1000.txt").read_text().split()
        for name, adata in real.items():
            median = np.median(np.asarray(adata[:, panel].X.sum(axis=1)))
            assert 50 < median < 150 if name == "B4" else 1500 < median < 2100

    def test_joined_by_name(self, real, shared_data):
        data = shared_data / "her2st" / "data"
        counts = pd.read_csv(data / "ST-cnts" / "C6.tsv.gz", sep="\t", index_col=0)
        spots = pd.read_csv(data / "ST-spotfiles" / "C6_selection.tsv", sep="\t")
        adata = real["C6"]
        for i in range(0, adata.n_obs, 17):
            x, y = adata.obs["array_col"].iloc[i], adata.obs["array_row"].iloc[i]
            np.testing.assert_array_equal(adata.X[i].toarray()[0], counts.loc[f"{x}x{y}"])
            (pixel,) = spots.loc[(spots["x"] == x) & (spots["y"] == y), ["pixel_x", "pixel_y"]].to_numpy()
            np.testing.assert_array_equal(adata.obsm["spatial"][i], pixel)
