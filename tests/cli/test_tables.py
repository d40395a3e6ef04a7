"""What a command prints at its end."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from nh2st_graph.cli._tables import print_cells, print_paths, print_run, print_table
from nh2st_graph.metrics import RUN_SCORES
from nh2st_graph.tl import LABELS, Run


@pytest.fixture(autouse=True)
def _wide(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip()) if line.strip() else []


def test_names_of_baselines_have_no_word_that_a_usual_terminal_cuts(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_table(pd.DataFrame(0.123, index=list(LABELS.values()), columns=list(RUN_SCORES.values())), "")
    assert "…" not in capsys.readouterr().out


class TestRun:
    @pytest.fixture
    def printed(self, tiny_run, capsys) -> str:
        print_run(tiny_run)
        return capsys.readouterr().out

    def test_has_a_row_for_the_model_each_baseline_and_each_reference(self, printed, tiny_run):
        table = tiny_run.evaluation.table()
        rows = {cells(line)[0]: cells(line)[1:] for line in printed.splitlines() if cells(line)}
        assert tiny_run.evaluation.labels["model"] == "NH2ST-Graph"
        for name, label in tiny_run.evaluation.labels.items():
            assert rows[label][:2] == [
                "-" if pd.isna(value) else f"{value:.3f}" for value in table.loc[name, ["pcc_mean", "pcc_partial"]]
            ]
        assert rows[LABELS["noise_ceiling"]][-2:] == ["-", "-"]

    def test_says_what_was_measured_and_what_r_is(self, printed):
        title, *_ = printed.splitlines()
        for part in ("S3", "S1, S2", "across patients", "12 genes", "total"):
            assert part in title
        text = " ".join(printed.split())
        for part in ("r is", "correlation", "averaged over genes", "by chance"):
            assert part in text

    def test_names_genes_without_a_measurable_ceiling(self, tiny_run, capsys):
        evaluation = tiny_run.evaluation
        assert list(evaluation.metrics["genes_without_ceiling"]) == ["S3"]
        genes = ["A1", "B2", "C3", "D4"]
        some = {"S3": [*genes], "S4": [*genes[1:], "other"]}
        for named, given in ((genes, {"S3": genes}), (genes[1:], some), ([], {"S3": []})):
            print_run(
                replace(
                    tiny_run,
                    evaluation=replace(evaluation, metrics={**evaluation.metrics, **{"genes_without_ceiling": given}}),
                )
            )
            text = " ".join(capsys.readouterr().out.split())
            assert (f"{len(named)} of 12 genes" in text) == bool(named)
            assert all(gene in text for gene in named[:3])

    def test_ends_with_the_paths(self, printed, tiny_run):
        start = printed.splitlines().index("Written:")
        shown = [Path(line.strip()) for line in printed.splitlines()[start + 1 :]]
        assert shown == tiny_run.outputs()
        assert tiny_run.folder / "metrics.json" in shown
        assert all(path.exists() for path in shown)

    def test_says_in_plain_words_what_was_found_and_where_it_is_seen(self, printed, tiny_run):
        lines = printed.splitlines()
        start = lines.index("Written:")
        found = tiny_run.findings()
        assert len(found) == 3
        assert lines[start - 4 : start] == [
            *(f"{each}." for each in found),
            f"Open {tiny_run.folder / 'report.html'} to see all of it.",
        ]
        assert "12 genes can be read from slides of the training patient; best: OWN" in printed

    def test_smoothed_targets_are_told(self, tiny_run, capsys):
        evaluation = tiny_run.evaluation
        protocol = {**evaluation.metrics["protocol"], "smooth": "3x3"}
        smoothed = replace(evaluation, metrics={**evaluation.metrics, "protocol": protocol})
        print_run(replace(tiny_run, evaluation=smoothed))
        title, *_ = capsys.readouterr().out.splitlines()
        assert "total" in title
        assert "smoothed 3x3" in title

    def test_the_model_is_called_by_its_method(self, tiny_run, capsys):
        evaluation = tiny_run.evaluation
        protocol = {**evaluation.metrics["protocol"], "method": "mine:Mine"}
        other = replace(evaluation, metrics={**evaluation.metrics, "protocol": protocol})
        print_run(replace(tiny_run, evaluation=other))
        printed = capsys.readouterr().out
        assert "NH2ST-Graph" not in printed
        (row,) = (cells(line) for line in printed.splitlines() if "mine:Mine" in line)
        assert row[1] == f"{evaluation.metrics['mean']['pcc_mean']:.3f}"

    def test_without_scores_there_are_paths_alone(self, tiny_run, tmp_path, capsys):
        (tmp_path / "log.csv").touch()
        print_run(Run(tmp_path, replace(tiny_run.model, confidence=None), None))
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


class TestCells:
    #: Three columns of 10, 26 and 5 characters, with longer headers.
    TEXT = pd.DataFrame(
        {
            "a score of two words": ["0.1 ± 0.01", ""],
            "difference": ["+0.0123 [-0.0101, +0.0345]", "best"],
            "number of runs": ["1,234", "0"],
        },
        index=["short", "a name of [several] words, and long"],
    )

    @pytest.fixture
    def printed(self, capsys):
        def show(width: int) -> list[str]:
            print_cells(Console(width=width), self.TEXT, ["bold", ""], "Of [c6]")
            return [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]

        return show

    def test_stand_in_one_table_where_there_is_room(self, printed):
        lines = printed(120)
        assert lines[0].strip() == "Of [c6]"
        first, second = (line.split() for line in lines[-2:])
        assert first == ["short", *" ".join(self.TEXT.iloc[0]).split()]
        assert second == [*self.TEXT.index[1].split(), "best", "0"]

    def test_stand_in_several_where_there_is_none_a_long_name_broken_between_words(self, printed):
        lines = printed(66)
        assert max(map(len, lines)) <= 66
        assert [line.split()[1:] for line in lines if line.startswith(" short")] == [
            ["0.1", "±", "0.01"],
            ["+0.0123", "[-0.0101,", "+0.0345]", "1,234"],
        ]
        text = " ".join(" ".join(lines).split())
        assert "a name of [several] words, and long" in text
        assert sum("[c6]" in line for line in lines) == 1

    @pytest.mark.parametrize("width", [56, 60, 70, 80, 90])
    def test_lose_nothing_and_stay_within_the_console(self, printed, width):
        lines = printed(width)
        assert max(map(len, lines)) <= width
        assert set(" ".join(self.TEXT.to_numpy().ravel()).split()) <= set(" ".join(lines).split())


def test_paths_are_one_a_line(capsys):
    print_paths([Path("a b/[old]/1.h5ad"), Path("c.csv")])
    assert capsys.readouterr().out == "Written:\n  a b/[old]/1.h5ad\n  c.csv\n"


def test_a_path_is_printed_whole_however_narrow_the_terminal(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "20")
    path = tmp_path / ("a" * 60) / "C6.h5ad"
    print_paths([path])
    assert capsys.readouterr().out == f"Written:\n  {path}\n"
