"""What a command prints at its end."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nh2st_graph.cli._tables import print_paths, print_run, print_table
from nh2st_graph.tl import LABELS, Run


@pytest.fixture(autouse=True)
def _wide(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split("[│┃]", line) if cell.strip()]


class TestRun:
    @pytest.fixture
    def printed(self, tiny_run, capsys) -> str:
        print_run(tiny_run)
        return capsys.readouterr().out

    def test_has_a_row_for_the_model_each_floor_and_each_reference(self, printed, tiny_run):
        table = tiny_run.evaluation.table()
        rows = {cells(line)[0]: cells(line)[1:] for line in printed.splitlines() if cells(line)}
        for name, label in LABELS.items():
            assert rows[label][:2] == [
                "-" if pd.isna(value) else f"{value:.3f}" for value in table.loc[name, ["pcc_mean", "pcc_partial"]]
            ]
        assert rows[LABELS["noise_ceiling"]][-2:] == ["-", "-"]

    def test_says_what_was_measured_and_what_r_is(self, printed):
        title, *_ = printed.splitlines()
        assert title.strip() == ("Scores on S3 (trained on S1, S2, across patients; 12 genes, normalised by total)")
        text = " ".join(printed.split())
        assert "r is a gene's correlation over the spots of a section, averaged over genes" in text
        assert "No predictor can pass the noise ceiling" in text

    def test_ends_with_the_paths(self, printed, tiny_run):
        start = printed.splitlines().index("Written:")
        shown = [Path(line.strip()) for line in printed.splitlines()[start + 1 :]]
        assert shown == tiny_run.outputs()
        assert tiny_run.folder / "metrics.json" in shown
        assert all(path.exists() for path in shown)

    def test_smoothed_targets_are_told(self, tiny_run, capsys):
        evaluation = tiny_run.evaluation
        protocol = {**evaluation.metrics["protocol"], "smooth": "3x3"}
        smoothed = replace(evaluation, metrics={**evaluation.metrics, "protocol": protocol})
        print_run(replace(tiny_run, evaluation=smoothed))
        assert "normalised by total, targets smoothed 3x3)" in " ".join(capsys.readouterr().out.split())

    def test_without_scores_there_are_paths_alone(self, tiny_run, tmp_path, capsys):
        (tmp_path / "log.csv").touch()
        print_run(Run(tmp_path, tiny_run.model, None))
        assert capsys.readouterr().out == f"Written:\n  {tmp_path / 'log.csv'}\n"


def test_a_table_has_three_decimals_and_a_dash_for_what_has_no_meaning(capsys):
    frame = pd.DataFrame({"mean r": [0.12345, np.nan], "MSE": [None, 1.0]}, index=["a [b]", "c"])
    print_table(frame, "Scores of [c6]")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "Scores of [c6]"
    assert [cells(line) for line in lines if "0.123" in line or "1.000" in line] == [
        ["a [b]", "0.123", "-"],
        ["c", "-", "1.000"],
    ]


def test_paths_are_one_a_line(capsys):
    print_paths([Path("a b/[old]/1.h5ad"), Path("c.csv")])
    assert capsys.readouterr().out == "Written:\n  a b/[old]/1.h5ad\n  c.csv\n"


def test_a_path_is_printed_whole_however_narrow_the_terminal(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "20")
    path = tmp_path / ("a" * 60) / "C6.h5ad"
    print_paths([path])
    assert capsys.readouterr().out == f"Written:\n  {path}\n"
