"""The table of patients beside the sections: one place joins it, and says what does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image

from nh2st_graph import DataError
from nh2st_graph.datasets import leave_one_patient_out, leave_one_section_out, patients_of
from nh2st_graph.read import anndata_section, h5ad_section, her2st, sections, skin, stimage, stnet, triplex, write_h5ad

from .test_stimage import write as write_stimage  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def _written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sections")
    for name in ("A1", "B1", "C1", "D1"):
        obs = pd.DataFrame({"section": pd.Categorical([name]), "patient": pd.Categorical([""])}, index=[f"{name}_s"])
        write_h5ad(AnnData(obs=obs, obsm={"spatial": np.zeros((1, 2))}), folder / f"{name}.h5ad")
    return folder


@pytest.fixture
def folder(_written, tmp_path):
    """A folder of four sections, each a file, without any table."""
    return Path(shutil.copytree(_written, tmp_path, dirs_exist_ok=True))


def read(folder, table, **options):
    (folder / "ids.csv").write_text(table)
    return patients_of(sections("h5ad", folder, **options))


ALL = {"A1": "P1", "B1": "P1", "C1": "P2", "D1": "P2"}
HEADER = "sample_id,patient\n"


@pytest.mark.parametrize(
    "table",
    [
        HEADER + "A1,P1\nB1,P1\nC1,P2\nD1,P2\n",
        "\ufeffsample_id;patient\nA1;P1\nB1;P1\nC1;P2\nD1;P2\n",
        "Patient\tSample_ID\nP1\tA1\nP1\tB1\nP2\tC1\nP2\tD1\n",
        ' sample_id , patient ,age\n"A1", P1 ,60\n\nB1,P1\nC1,P2,\nD1,P2,70,,\n,,\n',
        "sample_id,patient\r\nA1,P1\r\nB1,P1\r\nC1,P2\r\nD1,P2",
        HEADER + "A1,P1,\nB1,P1,\nC1,P2,\nD1,P2,\n",
    ],
)
def test_tables_as_people_write_them(folder, table, caplog):
    assert read(folder, table) == ALL
    assert not caplog.records


def test_numbers_stay_what_they_are(folder):
    assert read(folder, HEADER + "A1,007\nB1,7\nC1,7.0\nD1,1e3\n") == {"A1": "007", "B1": "7", "C1": "7", "D1": "1e3"}


class TestWhatDoesNotFit:
    def test_a_misspelt_section(self, folder, caplog):
        assert read(folder, HEADER + "A1,P1\nB1,P1\nC1,P2\nD01,P2\n")["D1"] == "unknown (D1)"
        row, unknown = caplog.messages
        assert "no section is named 'D01' (did you mean 'D1'?)" in row
        assert "unknown (D1)" in unknown
        assert str(folder / "ids.csv") in row

    def test_another_case_or_ending(self, folder, caplog):
        read(folder, HEADER + "a1,P1\nB1.h5ad,P1\nC1,P2\nD1,P2\n")
        assert "'a1' (did you mean 'A1'?)" in caplog.text

    def test_sections_that_are_not_there(self, folder, caplog):
        assert read(
            folder, HEADER + "".join(f"{name},P\n" for name in ("A1", "B1", "C1", "D1", "X9"))
        ) == dict.fromkeys(ALL, "P")
        (said,) = caplog.messages
        assert said.endswith("no section is named 'X9'")

    @pytest.mark.parametrize("rows", ["A1,P1\nA1,P2\n", "A1,P1\nB1,P1\nA1,P3\n"])
    def test_two_patients_of_one_section(self, folder, rows):
        with pytest.raises(
            DataError, match=r"ids\.csv names several patients of section 'A1': 'P1' in line 2 and 'P"
        ) as error:
            read(folder, HEADER + rows)
        assert "\n" not in str(error.value)

    def test_one_row_twice(self, folder, caplog):
        assert read(folder, HEADER + "A1,1\nA1,1.0\nB1,P\nC1,P\nD1,P\nD1,\n")["A1"] == "1"
        assert "lists 'A1', 'D1' more than once" in caplog.text

    def test_a_patient_without_a_section(self, folder):
        with pytest.raises(DataError, match="line 3: patient 'P2' has no sample_id"):
            read(folder, HEADER + "A1,P1\n,P2\n")

    @pytest.mark.parametrize(
        ("header", "says"),
        [
            ("sample_id,patinet", "no column patient .*'patinet' holds it, name it 'patient'"),
            ("sample_id,patient_id", "'patient_id' holds it"),
            ("sample_id,donor_id", "'donor_id' holds it"),
            ("sampleid,patient", "no column sample_id .*'sampleid' holds it"),
            ("sample,age", "no column sample_id"),
            ("sample_id,patient,patient", "2 columns patient"),
        ],
    )
    def test_columns(self, folder, header, says):
        with pytest.raises(DataError, match=says):
            read(folder, f"{header}\nA1,P1,P1\n")

    def test_blank_patients_are_unknown(self, folder, caplog):
        found = read(folder, HEADER + "A1,\nB1,nan\nC1,NA\nD1,P\n")
        assert found == {"A1": "unknown (A1)", "B1": "unknown (B1)", "C1": "unknown (C1)", "D1": "P"}
        assert "patients of 3 sections are unknown (A1, B1, C1)" in caplog.text

    def test_one_of_the_sections_alone(self, folder, caplog):
        (folder / "ids.csv").write_text(HEADER + "A1,P1\nB1,P1\nD01,P2\n")
        assert patients_of(sections("h5ad", folder / "A1.h5ad")) == {"A1": "P1"}
        assert not caplog.records
        sections("h5ad", folder / "D1.h5ad")
        assert "'D01' (did you mean 'D1'?)" in caplog.text


class TestSpatialTranscriptomics:
    def test_her2st(self, st_tables, write_her2st):
        for name in ("A1", "B1", "P1_a"):
            files = write_her2st(st_tables(), name)
        assert patients_of(her2st(files.root)) == {"A1": "A", "B1": "B", "P1_a": "unknown (P1_a)"}
        for place in (files.data, files.root):
            (place / "ids.csv").write_text(HEADER + f"A1,{place.name}\nB1,{place.name}\n")
            expected = {"A1": place.name, "B1": place.name, "P1_a": "unknown (P1_a)"}
            assert patients_of(her2st(files.root)) == expected
        (files.root / "ids.csv").unlink()
        assert patients_of(her2st(files.data, ["A1"])) == {"A1": "data"}

    @pytest.mark.parametrize(
        ("reader", "names", "guessed"),
        [
            (skin, ("P2_ST_rep1", "own"), {"P2_ST_rep1": "P2", "own": "unknown (own)"}),
            (stnet, ("BC23209_C1", "own_2"), {"BC23209_C1": "BC23209", "own_2": "unknown (own_2)"}),
            (triplex, ("A1", "23209_C1"), {"A1": "A", "23209_C1": "23209"}),
        ],
    )
    def test_prepared_folders(self, st_tables, write_prepared, reader, names, guessed):
        for name in names:
            files = write_prepared(st_tables(), name)
        assert patients_of(reader(files.root)) == guessed
        (files.root / "ids.csv").write_text(HEADER + "".join(f"{name},Q\n" for name in names))
        assert patients_of(reader(files.root)) == dict.fromkeys(names, "Q")

    def test_stimage(self, write_stimage):  # noqa: F811
        files = write_stimage("ST")
        (name,) = stimage(files.root)
        (files.root / "ids.csv").write_text(HEADER + f"{name},Q\n")
        assert patients_of(stimage(files.root)) == {name: "Q"}


@pytest.mark.parametrize("name", ["P1_a", "X1", "A", "A12", "sample_1", "V1_A1"])
def test_other_names_are_no_patients(name, st_tables, write_her2st):
    files = write_her2st(st_tables(), name)
    assert patients_of(her2st(files.root)) == {name: f"unknown ({name})"}


class TestSplits:
    @pytest.mark.parametrize("nobody", [np.nan, None, "", "nan", "unknown (elsewhere)"])
    def test_patients_in_a_mapping_may_be_unknown_too(self, nobody):
        given = {"A": nobody, "B": nobody, "C": "P"}
        assert patients_of(given) == {"A": "unknown (A)", "B": "unknown (B)", "C": "P"}
        with pytest.raises(DataError, match="patient of A, B is unknown"):
            leave_one_patient_out(given)

    def test_numbers_in_a_mapping(self):
        assert patients_of({"A": 1, "B": 1.0, "C": "1"}) == dict.fromkeys("ABC", "1")

    def test_splits_within_patients_leave_unknown_ones_out_and_say_so(self, caplog):
        splits = leave_one_section_out({"A": "P", "B": "P", "C": "", "D": ""})
        assert [split.name for split in splits] == ["A", "B"]
        assert "patient of C, D is unknown" in caplog.text
        assert len(leave_one_section_out({"A": "P", "C": "", "D": ""}, within_patient=False)) == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("first", ["", "sep=;\n", '"sep=;"\r\n'])
def test_tables_as_excel_saves_them(folder, encoding, first):
    (folder / "ids.csv").write_bytes(
        (first + "sample_id;patient\nA1;Müller, A\nB1;P1\nC1;P2\nD1;P2\n").encode(encoding)
    )
    assert patients_of(sections("h5ad", folder)) == {**ALL, "A1": "Müller, A"}


def test_lines_are_counted_with_the_one_that_names_the_separator(folder):
    with pytest.raises(DataError, match="line 3: patient 'P9'"):
        read(folder, "sep=;\nsample_id;patient\n;P9\n")


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le"])
def test_another_encoding_is_named(folder, encoding):
    (folder / "ids.csv").write_bytes((HEADER + "A1,Müller\n").encode(encoding))
    with pytest.raises(DataError, match=r"ids\.csv is not UTF-8; save it as UTF-8 CSV"):
        sections("h5ad", folder)


def test_patients_that_differ_in_case_or_spaces_alone(folder, caplog):
    assert read(folder, HEADER + "A1,P1\nB1,p1\nC1,P 2\nD1,P2\n")["B1"] == "p1"
    (said,) = caplog.messages
    assert "'P 2' and 'P2', 'P1' and 'p1' count as different patients" in said


def test_the_reader_of_one_section_reads_the_table_too(folder):
    (folder / "ids.csv").write_text(HEADER + "A1,P1\n")
    assert list(h5ad_section(folder / "A1.h5ad").obs["patient"]) == ["P1"]
    assert patients_of({"B1": h5ad_section(folder / "B1.h5ad")}) == {"B1": "unknown (B1)"}
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(folder / "A1.png")
    assert list(anndata_section(folder / "A1.h5ad", microns_per_pixel=1.0).obs["patient"]) == ["P1"]
    given = anndata_section(folder / "A1.h5ad", microns_per_pixel=1.0, patient="mine")
    assert list(given.obs["patient"]) == ["mine"]
    (folder / "other.csv").write_text(HEADER + "B1,P2\n")
    assert patients_of(sections("h5ad", folder, ["A1", "B1"], patients="other.csv"))["A1"] == "unknown (A1)"


def test_a_section_that_is_named_twice(folder):
    with pytest.raises(DataError, match="'C1' is named 2 times"):
        sections("h5ad", folder, ["C1", "A1", "C1"])


@pytest.mark.parametrize(
    ("one", "other"), [("01", "1"), ("P-1", "P_1"), ("P1", "P1\u200b"), ("P1", "\uff301"), ("Pt 007", "Pt7")]
)
def test_patients_that_differ_in_writing_alone(folder, caplog, one, other):
    read(folder, HEADER + f"A1,{one}\nB1,{other}\nC1,P2\nD1,P10\n")
    assert "count as different patients" in caplog.text
    assert repr(one) in caplog.text


def test_a_table_that_contradicts_a_file_is_said(tmp_path, caplog):
    obs = pd.DataFrame({"section": pd.Categorical(["A1"]), "patient": pd.Categorical(["X"])}, index=["s"])
    write_h5ad(AnnData(obs=obs, obsm={"spatial": np.zeros((1, 2))}), tmp_path / "A1.h5ad")
    assert read(tmp_path, HEADER + "A1,P1\n") == {"A1": "P1"}
    assert "'A1': patient 'P1' is given, and obs says X" in caplog.text
