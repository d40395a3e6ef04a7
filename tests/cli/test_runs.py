"""What is shown while runs are done, and how the command ends where it is interrupted."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import typer
import yaml
from rich.console import Console

from nh2st_graph import ConfigError
from nh2st_graph.cli._runs import _Display, numbers, watched
from nh2st_graph.study import Outcome, PlannedRun, Study, read_study

BROKEN = "no [bold]panel"


@pytest.fixture
def plan(tmp_path) -> Study:
    """A base and a variant on one fold."""
    path = tmp_path / "mine.yaml"
    folds = {"S4": {"train": ["S1"], "test": ["S4"]}}
    path.write_text(yaml.safe_dump({"base": "demo", "folds": folds, "variants": {BROKEN: {"model.hops": 2}}}))
    return read_study(path)


@pytest.fixture
def runs(plan) -> list[PlannedRun]:
    return plan.runs(Path("nowhere"))


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


@pytest.mark.parametrize(("text", "found"), [("0", [0]), ("0,1,2", [0, 1, 2]), ("[3, 1]", [3, 1]), (None, None)])
def test_seeds_are_numbers_with_commas(text, found):
    assert numbers(text) == found


@pytest.mark.parametrize("text", ["", "a", "0-2", "1.5"])
def test_other_seeds_are_refused(text):
    with pytest.raises(ConfigError, match="expected whole numbers"):
        numbers(text)


def test_a_terminal_shows_what_is_running(runs):
    with _Display(2, console(terminal=True)) as display:
        for run in runs:
            display(run, None)
        display(runs[0], None)  # begun again, after its process died
        shown = [task.description.strip() for task in display.progress.tasks]
        assert shown == ["runs", "base, S4, seed 0", f"{BROKEN}, S4, seed 0"]
        display(runs[0], Outcome(runs[0]))
        display(runs[1], Outcome(runs[1], "broken"))
        assert [task.description for task in display.progress.tasks] == ["runs"]
        assert display.progress.tasks[0].completed == 2
    text = display.console.file.getvalue()
    assert f"[2/2] failed: {BROKEN}, S4, seed 0: broken" in text
    assert "done:" not in text


def test_elsewhere_there_is_a_line_for_each_end(runs):
    with _Display(2, console(terminal=False)) as display:
        for run in runs:
            display(run, None)
        display(runs[1], Outcome(runs[1], "broken"))
        display(runs[0], Outcome(runs[0]))
    assert display.console.file.getvalue().splitlines() == [
        f"[1/2] failed: {BROKEN}, S4, seed 0: broken",
        "[2/2] done: base, S4, seed 0",
    ]


def test_runs_that_are_finished_are_not_counted(plan, tmp_path, capsys):
    done, left = plan.runs(tmp_path)
    done.folder.mkdir(parents=True)
    for name in ("metrics.json", "study.json"):
        (done.folder / name).touch()

    def work(watch) -> str:
        watch(left, None)
        watch(left, Outcome(left))
        return "result"

    assert watched(plan, tmp_path, [], work) == "result"
    assert capsys.readouterr().err == f"[1/1] done: {BROKEN}, S4, seed 0\n"


def test_an_interrupt_says_how_to_go_on(plan, tmp_path, capsys):
    def work(watch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as end:
        watched(plan, tmp_path, [], work)
    assert end.value.exit_code == 130
    assert capsys.readouterr().err == "interrupted; go on with the same command and --resume\n"
