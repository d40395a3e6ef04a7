"""Patients of sections, from a table beside them."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from nh2st_graph import DataError
from nh2st_graph.read import sections, write_h5ad
from nh2st_graph.section import unknown_patient


@pytest.fixture
def folder(tmp_path):
    """The sections A to G, whose patients nothing names."""
    for name in "ABCDEFG":
        adata = AnnData(np.ones((1, 1), np.float32), obsm={"spatial": np.zeros((1, 2))})
        adata.obs["section"], adata.obs["patient"] = name, unknown_patient(name)
        adata.obs = adata.obs.astype("category")
        write_h5ad(adata, tmp_path / f"{name}.h5ad")
    return tmp_path


def patients(folder, names="AB", **options):
    found = sections("h5ad", folder, list(names), **options)
    return {name: adata.obs["patient"].iloc[0] for name, adata in found.items()}


UNKNOWN = {"A": "unknown (A)", "B": "unknown (B)"}


def test_table(folder):
    assert patients(folder) == UNKNOWN
    (folder / "ids.csv").write_text("sample_id,patient\nA, P1\n B,2\nC,\n")
    assert patients(folder) == {"A": "P1", "B": "2"}
    assert patients(folder, "C") == {"C": "unknown (C)"}


def test_table_without_patients(folder):
    (folder / "ids.csv").write_text("sample_id\nA\n")
    assert patients(folder) == UNKNOWN


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"name,patient\nA,P\n", "no column sample_id"), (b"", "cannot be read"), (b"\xff\xfe,\n", "ids.csv")],
)
def test_bad_tables(folder, content, message):
    (folder / "ids.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        patients(folder)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_named_must_be_there_and_name_them(folder):
    with pytest.raises(DataError, match=r"who\.csv cannot be read .*sample_id,patient"):
        patients(folder, patients="who.csv")
    (folder / "who.csv").write_text("sample_id\nA\n")
    with pytest.raises(DataError, match=r"who\.csv has no column patient"):
        patients(folder, patients="who.csv")
    (folder / "who.csv").write_text("sample_id,patient\nA,P\nB,P\n")
    for table in ("who.csv", str(folder / "who.csv")):
        assert patients(folder, patients=table) == {"A": "P", "B": "P"}


def test_a_warning_says_which_are_unknown_and_where_to_name_them(folder, caplog):
    patients(folder, "A")  # one section cannot be split from itself
    assert not caplog.records
    patients(folder, "ABCDEFG")
    (record,) = caplog.records
    assert "7 sections" in record.getMessage()
    assert "(A, B, C, D, E and 2 more)" in record.getMessage()
    assert str(folder / "ids.csv") in record.getMessage()
