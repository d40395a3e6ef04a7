from __future__ import annotations

import io
import logging
from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nh2st_graph import DataError, ImageError
from nh2st_graph.read import sections, stimage
from nh2st_graph.section import check_section, library

A1 = "Human_Breast_Andersson_10142021_ST_A1"
MOUSE = "Mouse_OlfactoryBulb_Stahl_07012016_ST_Rep1"
VISIUM = "Human_Brain_Maynard_02082021_Visium_151507"
HD = "Human_Colon_10X_03252024_VisiumHD"
PITCH = 40.0  # pixels between spots


def _square(suffix="{x}x{y}", step=1.0, jitter=0.0):
    x, y = (a.ravel() + 3.0 for a in np.meshgrid(np.arange(5) * step, np.arange(4) * step))
    noise = np.random.default_rng(0).uniform(-jitter, jitter, (2, x.size)).round(2)
    found = (x + noise[0]).round(2), (y + noise[1]).round(2)
    shown = found if jitter else (x.astype(int), y.astype(int))
    return [suffix.format(x=a, y=b) for a, b in zip(*shown, strict=True)], np.column_stack(found) * PITCH - 80


def _chessboard():
    x, y = (a.ravel() for a in np.meshgrid(np.arange(2, 9), np.arange(3, 9)))
    black = (x + y) % 2 == 0
    x, y = x[black], y[black]
    return [f"{a}x{b}" for a, b in zip(x, y, strict=True)], np.column_stack([x * 36.0, y * 40.0 - 60])


def _hexagonal():
    row, col = (a.ravel() for a in np.meshgrid(np.arange(6), np.arange(0, 10, 2), indexing="ij"))
    col = col + row % 2
    bases = np.array(list("ACGT"))[np.random.default_rng(3).integers(0, 4, (row.size, 16))]
    pixels = np.column_stack([col * PITCH / 2 + 20, row * PITCH * 3**0.5 / 2 + 20]).round()
    return ["".join(b) + "-1" for b in bases], pixels


def _bins():
    row, col = (a.ravel() for a in np.meshgrid(np.arange(4), np.arange(5), indexing="ij"))
    names = [f"s_016um_{r + 7:05d}_{c + 100:05d}-1" for r, c in zip(row, col, strict=True)]
    return names, np.column_stack([col, row]) * PITCH + 20


KINDS = {"ST": (A1, _square), "Visium": (VISIUM, _hexagonal), "VisiumHD": (HD, _bins)}


@cache
def _image(kind):
    image = Image.fromarray(np.random.default_rng(2).integers(90, 255, (40, 41, 3), dtype=np.uint8)).resize((330, 320))
    with io.BytesIO() as file:
        image.save(file, format=kind, compress_level=1)
        return file.getvalue()


@pytest.fixture
def write(tmp_path):
    """Write one slide as STimage-1K4M has it; gives what it holds."""

    def make(
        technology="ST",
        slide=None,
        spots=None,
        *,
        radius=10.0,
        change=lambda coord, counts: (coord, counts),
        kind="PNG",
        genes=("A", "B", "A"),
        nested=True,
    ):
        slide = slide or KINDS[technology][0]
        suffixes, pixels = (spots or KINDS[technology][1])()
        names = [f"{slide}_{suffix}" for suffix in suffixes]
        coord = pd.DataFrame({"yaxis": pixels[:, 1], "xaxis": pixels[:, 0], "r": radius}, index=names)
        rng = np.random.default_rng(1)
        counts = pd.DataFrame(rng.poisson(1.5, (len(names), len(genes))), index=names, columns=list(genes))
        folder = tmp_path / "stimage" / (technology if nested else "")
        files = SimpleNamespace(
            root=tmp_path / "stimage",
            coord=folder / "coord" / f"{slide}_coord.csv",
            counts=folder / "gene_exp" / f"{slide}_count.csv",
            image=folder / "image" / f"{slide}.png",
        )
        for path in (files.coord, files.counts, files.image):
            path.parent.mkdir(parents=True, exist_ok=True)
        changed = change(coord, counts)
        changed[0].to_csv(files.coord)
        changed[1].to_csv(files.counts)
        files.image.write_bytes(_image(kind))
        return SimpleNamespace(**vars(files), slide=slide, spots=coord, table=counts)

    return make


@pytest.mark.parametrize("technology", KINDS)
@pytest.mark.parametrize("nested", [True, False])
def test_section_holds_what_the_files_say(write, technology, nested):
    files = write(technology, nested=nested)
    adata = stimage(files.root)[files.slide]
    assert check_section(adata, need=("genes", "image")) is adata
    assert adata.X.format == "csr"
    assert list(adata.var_names) == ["A", "B", "A-1"]
    assert set(adata.obs_names) == set(files.spots.index)
    for i, name in enumerate(adata.obs_names):
        np.testing.assert_array_equal(adata.X[i].toarray()[0], files.table.loc[name])
        np.testing.assert_allclose(adata.obsm["spatial"][i], files.spots.loc[name, ["xaxis", "yaxis"]].astype(float))
    assert set(adata.obs["section"]) == {files.slide}
    assert library(adata).source == str(files.image.resolve())
    assert adata.uns["nh2st_dropped"] == {"positions_without_counts": 0, "counts_without_position": 0}


@pytest.mark.parametrize(
    ("technology", "spots", "scale", "spot_um"),
    [
        ("ST", None, 200 / PITCH, 100),
        ("ST", _chessboard, 150 / np.hypot(36, 40), 110),
        ("Visium", None, 100 / PITCH, 55),
        ("VisiumHD", None, 16 / PITCH, 16),
        ("VisiumHD", lambda: (_hexagonal()[0][:20], _bins()[1]), 8 / PITCH, 8),
    ],
)
def test_scale_from_the_distances_of_spots(write, technology, spots, scale, spot_um):
    files = write(technology, spots=spots)
    entry = library(stimage(files.root)[files.slide]).entry
    assert entry["metadata"]["microns_per_pixel"] == pytest.approx(scale, rel=5e-3)
    assert entry["scalefactors"]["spot_diameter_fullres"] == pytest.approx(spot_um / scale, rel=5e-3)


def test_array_positions(write):
    st = stimage(write("ST").root)[A1]
    for name, row, col in zip(st.obs_names, st.obs["array_row"], st.obs["array_col"], strict=True):
        assert name.endswith(f"_{col}x{row}")
    heart = "Human_Heart_Asp_12122019_ST_ST_Sample_6.5PCW_1"
    asp = stimage(write("ST", heart, lambda: _square("5x{x}x{y}")).root)[heart]
    np.testing.assert_array_equal(asp.obs["array_col"], st.obs["array_col"])
    files = write("VisiumHD")
    hd = stimage(files.root)[HD]
    assert (hd.obs["array_row"].iloc[6], hd.obs["array_col"].iloc[6]) == (8, 101)
    assert hd.obs_names[6].endswith("s_016um_00008_00101-1")
    assert "array_row" not in stimage(write("Visium").root)[VISIUM].obs


def test_fractional_array_positions_are_rounded(write):
    mouse = stimage(write("ST", MOUSE, lambda: _square(jitter=0.1)).root)[MOUSE]
    assert library(mouse).microns_per_pixel == pytest.approx(5.0, rel=1e-3)
    assert sorted(set(mouse.obs["array_col"])) == [3, 4, 5, 6, 7]


def test_two_spots_on_one_array_position_have_none(write):
    def crowded():
        names, pixels = _square(jitter=0.1)
        return [*names, "3.2x3.2"], np.vstack([pixels, [[3.2 * PITCH - 80, 3.2 * PITCH - 80]]])

    assert "array_row" not in stimage(write("ST", MOUSE, crowded).root)[MOUSE].obs


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("technology", KINDS)
def test_row_order_of_a_file_changes_nothing(write, technology, which):
    before = stimage(write(technology).root)[KINDS[technology][0]]

    def shuffle(*tables):
        return tuple(t.sample(frac=1, random_state=1) if i == which else t for i, t in enumerate(tables))

    after = stimage(write(technology, change=shuffle).root)[KINDS[technology][0]]
    assert list(after.obs_names) == list(before.obs_names)
    pd.testing.assert_frame_equal(after.obs, before.obs)
    np.testing.assert_array_equal(after.X.toarray(), before.X.toarray())
    np.testing.assert_array_equal(after.obsm["spatial"], before.obsm["spatial"])
    assert library(after).microns_per_pixel == pytest.approx(library(before).microns_per_pixel, rel=1e-12)


def test_spots_without_a_partner_are_dropped_and_told(write, caplog):
    files = write("ST", change=lambda coord, counts: (coord.iloc[2:], counts.iloc[:-3]))
    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        adata = stimage(files.root)[A1]
    assert adata.n_obs == 15
    assert adata.uns["nh2st_dropped"] == {"positions_without_counts": 3, "counts_without_position": 2}
    assert any("2 (counts without position)" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_images_are_not_what_their_names_end_with(write, kind):
    files = write("ST", kind=kind)
    assert library(stimage(files.root)[A1]).hires.shape == (320, 330, 3)


@pytest.mark.parametrize(("radius", "told"), [(10.0, False), (9.5, False), (5.0, True)])
def test_radius_is_compared(write, caplog, radius, told):
    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        stimage(write("ST", radius=radius).root)
    assert told == any("by their radius r" in record.getMessage() for record in caplog.records)


PATIENTS = {
    A1: "A",
    "Human_Breast_He_06222020_ST_BC23270_E1": "BC23270",
    "Human_Heart_Asp_12122019_ST_ST_Sample_4.5-5PCW_1": "4.5-5PCW",
    "GSE144239_GSM4284318": "P2",
    "GSE144239_GSM4284319": "P5",
    "GSE144239_GSM4284327": "P10",
    MOUSE: f"unknown ({MOUSE})",
}


def test_patients_by_the_names_of_slides(write, caplog):
    for slide in PATIENTS:
        files = write("ST", slide)
    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        found = stimage(files.root)
    assert {name: adata.obs["patient"].iloc[0] for name, adata in found.items()} == PATIENTS
    other = MOUSE.replace("Rep1", "Rep2")
    write("ST", other)
    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        stimage(files.root, [MOUSE, other])
    (message,) = [r.getMessage() for r in caplog.records if "patients of" in r.getMessage()]
    assert "patients of 2 sections" in message
    assert "ids.csv" in message


@pytest.mark.parametrize(
    ("slide", "patient"),
    [
        (VISIUM, "Br5292"),
        ("Human_Brain_Maynard_02082021_Visium_151676", "Br8100"),
        ("Human_Brain_Louise_02152023_Visium_Br2720_ant", "Br2720"),
        ("Human_Brain_Kwon_10162023_Visium_V10A27004_A1_Br3874", "Br3874"),
        ("Human_Prostate_Erickson_08102022_Visium_Patient_1_H1_2", "Patient_1"),
        ("GSE144239_GSM4565824", "P4"),
        ("GSE144239_GSM4565825", "P6"),
    ],
)
def test_patients_of_visium_slides(write, slide, patient):
    assert stimage(write("Visium", slide).root)[slide].obs["patient"].iloc[0] == patient


def test_slides_by_name_over_all_technologies(write):
    for technology in KINDS:
        files = write(technology)
    assert set(stimage(files.root)) == {A1, VISIUM, HD}
    assert list(sections("stimage", files.root, [HD, A1])) == [HD, A1]
    assert list(stimage(files.root / "Visium")) == [VISIUM]
    with pytest.raises(DataError, match=r"no section '.*ST_A2' in .*; did you mean '.*ST_A1'\?"):
        stimage(files.root, A1.replace("A1", "A2"))


def _cell(value):
    def change(coord, counts):
        counts = counts.astype(object)
        counts.iloc[2, 1] = value
        return coord, counts

    return change


BAD_TABLES = {
    "no x": (lambda coord, counts: (coord.drop(columns="xaxis"), counts), r"_coord\.csv has no column xaxis \(there"),
    "no spots": (lambda coord, counts: (coord.iloc[:0], counts), r"_coord\.csv has no spots"),
    "text": (lambda coord, counts: (coord.assign(yaxis="?"), counts), r"_coord\.csv has a position that is not a num"),
    "spot twice": (lambda coord, counts: (pd.concat([coord, coord[:1]]), counts), r"more than once in .*_coord\.csv"),
    "count twice": (lambda coord, counts: (coord, pd.concat([counts, counts[:1]])), r"more than once in .*_count\.csv"),
    "nothing shared": (
        lambda coord, counts: (coord, counts.set_axis([f"x{i}" for i in range(len(counts))])),
        r"_coord\.csv and .*_count\.csv have no spot in common",
    ),
    "one place": (lambda coord, counts: (coord.assign(xaxis=5.0, yaxis=5.0), counts), "do not belong together"),
    "outside": (lambda coord, counts: (coord.assign(xaxis=coord["xaxis"] + 400), counts), "lie outside the image"),
    "negative": (_cell(-1), "X has negative counts"),
    "fraction": (_cell(0.5), "X has counts that are not integers"),
    "empty cell": (_cell(None), r"gene 'B' in spot '.*' of .*_count\.csv is not a number"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables_give_one_line(write, case):
    change, message = BAD_TABLES[case]
    files = write("ST", change=change)
    with pytest.raises(DataError, match=message) as caught:
        stimage(files.root)
    assert A1 in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("part", "error"), [("coord", DataError), ("counts", DataError), ("image", ImageError)])
def test_missing_files_are_named(write, part, error):
    files = write("ST")
    path = getattr(files, part)
    path.unlink()
    with pytest.raises(error, match="is missing") as caught:
        stimage(files.root)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("part", ["coord", "counts", "image"])
def test_foreign_files_are_named(write, part):
    files = write("ST")
    path = getattr(files, part)
    path.write_bytes(bytes(range(255, 0, -1)))
    with pytest.raises(DataError) as caught:
        stimage(files.root)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="no sections found"):
        stimage(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        stimage(tmp_path / "nowhere")


class TestDamagedNames:
    """One name of another form does not make the slide one of another assay, with another distance of spots."""

    @staticmethod
    def renamed(number: int, name: str):
        def change(coord, counts):
            for table in (coord, counts):
                names = list(table.index)
                names[:number] = [name.format(old=old, number=i) for i, old in enumerate(names[:number])]
                table.index = names
            return coord, counts

        return change

    @pytest.mark.parametrize("technology", ["ST", "VisiumHD"])
    @pytest.mark.parametrize("name", ["{old}?", "", "{old}x", "spot {number}"])
    @pytest.mark.parametrize("number", [1, 3])
    def test_leave_the_resolution_as_it_is(self, write, technology, name, number, caplog):
        if not name and number > 1:
            pytest.skip("names must be unique")
        expected = library(stimage(write(technology).root)[KINDS[technology][0]]).microns_per_pixel
        files = write(technology, change=self.renamed(number, name))
        adata = stimage(files.root)[files.slide]
        assert library(adata).microns_per_pixel == pytest.approx(expected, rel=5e-3)
        assert adata.n_obs == 20 - number
        assert {"array_row", "array_col"} <= set(adata.obs)
        assert f"{number} of 20 spots have names without a position on the array" in caplog.text
        assert adata.uns["nh2st_dropped"] == {"positions_without_counts": number, "counts_without_position": number}

    def test_one_of_another_bin_size_is_left_out(self, write):
        def change(coord, counts):
            for table in (coord, counts):
                table.index = [table.index[0].replace("016um", "002um"), *table.index[1:]]
            return coord, counts

        files = write("VisiumHD", change=change)
        adata = stimage(files.root)[files.slide]
        assert library(adata).microns_per_pixel == pytest.approx(16 / PITCH, rel=5e-3)
        assert adata.n_obs == 19

    def test_most_of_them_are_refused_by_name(self, write):
        files = write("ST", change=self.renamed(12, "{old}?"))
        with pytest.raises(DataError, match=r"12 of 20 spots have names without a position.*3x3\?'"):
            stimage(files.root)

    def test_barcodes_need_none(self, write, caplog):
        files = write("Visium")
        assert library(stimage(files.root)[files.slide]).microns_per_pixel == pytest.approx(100 / PITCH, rel=5e-3)
        assert not caplog.records
