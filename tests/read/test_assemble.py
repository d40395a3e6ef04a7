"""Patients of sections, from a table beside them."""

from __future__ import annotations

import logging

import pytest

from nh2st_graph import DataError
from nh2st_graph.read._assemble import patients_given, report_patients


class TestPatients:
    def test_table(self, tmp_path):
        assert patients_given(tmp_path) == {}
        (tmp_path / "ids.csv").write_text("sample_id,patient\nA, P1\n B,2\nC,\n")
        assert patients_given(tmp_path) == {"A": "P1", "B": "2"}

    def test_table_without_patients(self, tmp_path):
        (tmp_path / "ids.csv").write_text("sample_id\nA\n")
        assert patients_given(tmp_path) == {}

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"name,patient\nA,P\n", "no column sample_id"), (b"", "cannot be read"), (b"\xff\xfe,\n", "ids.csv")],
    )
    def test_bad_tables(self, tmp_path, content, message):
        (tmp_path / "ids.csv").write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            patients_given(tmp_path)
        assert "\n" not in str(caught.value)

    def test_a_table_that_is_named_must_be_there_and_name_them(self, tmp_path):
        with pytest.raises(DataError, match=r"who\.csv cannot be read .*give a table sample_id,patient"):
            patients_given(tmp_path, "who.csv")
        (tmp_path / "who.csv").write_text("sample_id\nA\n")
        with pytest.raises(DataError, match=r"who\.csv has no column patient"):
            patients_given(tmp_path, "who.csv")
        (tmp_path / "who.csv").write_text("sample_id,patient\nA,P\n")
        assert patients_given(tmp_path, "who.csv") == patients_given(tmp_path, str(tmp_path / "who.csv")) == {"A": "P"}

    def test_report_says_which_and_where(self, tmp_path, caplog):
        with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
            report_patients([], tmp_path)
            report_patients(["A"], tmp_path)  # one section cannot be split from itself
        assert not caplog.records
        with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
            report_patients("ABCDEFG", tmp_path)
        (record,) = caplog.records
        assert "7 sections (A, B, C, D, E, ...)" in record.getMessage()
        assert str(tmp_path / "ids.csv") in record.getMessage()
