"""What is shown while runs are done, and what is asked for."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from nh2st_graph import ConfigError
from nh2st_graph.cli._runs import Display, run_many
from nh2st_graph.study import Outcome, PlannedRun, Study, read_study

BROKEN = "no [bold]panel"


def plan_file(folder: Path) -> Path:
    path = folder / "mine.yaml"
    folds = {"S4": {"train": ["S1"], "test": ["S4"]}}
    path.write_text(yaml.safe_dump({"base": "demo", "folds": folds, "variants": {BROKEN: {"model.hops": 2}}}))
    return path


@pytest.fixture
def plan(tmp_path) -> Study:
    """A base and a variant on one fold."""
    return read_study(plan_file(tmp_path))


@pytest.fixture
def runs(plan) -> list[PlannedRun]:
    return plan.runs(Path("nowhere"))


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


@pytest.fixture
def asked(plan, monkeypatch, tmp_path) -> Callable[..., dict[str, object]]:
    """Run a study up to its runs; return what was asked for."""

    def ask(seeds: str | None = None, **how: object) -> dict[str, object]:
        given: dict[str, object] = {}

        def run(study: Study, out: Path, **keys: object) -> None:
            given.update(keys, seeds=study.seeds)
            raise KeyboardInterrupt

        monkeypatch.setattr("nh2st_graph.study.run_study", run)
        with pytest.raises(KeyboardInterrupt):
            run_many(read_study, plan_file(tmp_path), tmp_path / "out", [], seeds, **{"only": [], **how})
        return given

    return ask


@pytest.mark.parametrize(("text", "found"), [("0", (0,)), ("0,1,2", (0, 1, 2)), ("[3, 1]", (3, 1)), (None, (0,))])
def test_seeds_are_numbers_with_commas(asked, text, found):
    assert asked(text)["seeds"] == found


@pytest.mark.parametrize("text", ["", "a", "0-2", "1.5"])
def test_other_seeds_are_refused(asked, text):
    with pytest.raises(ConfigError, match="expected whole numbers"):
        asked(text)


def test_a_terminal_shows_what_is_running(runs):
    with Display(2, console(terminal=True)) as display:
        for run in runs:
            display.tell(run, None)
        shown = [task.description.strip() for task in display.tasks]
        assert shown == ["runs", "base, S4, seed 0", f"{BROKEN}, S4, seed 0"]
        display.tell(runs[0], Outcome(runs[0]))
        display.tell(runs[1], Outcome(runs[1], "broken"))
        assert [task.description for task in display.tasks] == ["runs"]
        assert display.tasks[0].completed == 2
    text = display.console.file.getvalue()
    assert f"[2/2] failed: {BROKEN}, S4, seed 0: broken" in text
    assert "done:" not in text


def test_elsewhere_there_is_a_line_for_each_end(runs):
    with Display(2, console(terminal=False)) as display:
        for run in runs:
            display.tell(run, None)
        display.tell(runs[1], Outcome(runs[1], "broken"))
        display.tell(runs[0], Outcome(runs[0]))
    assert display.console.file.getvalue().splitlines() == [
        f"[1/2] failed: {BROKEN}, S4, seed 0: broken",
        "[2/2] done: base, S4, seed 0",
    ]


def test_runs_that_are_finished_are_not_counted(plan, asked, monkeypatch, tmp_path, capsys):
    done, left = plan.runs(tmp_path / "out")
    done.folder.mkdir(parents=True)
    for name in ("metrics.json", "study.json"):
        (done.folder / name).touch()
    watch = asked()["watch"]
    watch(left, None)
    watch(left, Outcome(left))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"[1/1] done: {BROKEN}, S4, seed 0"]
