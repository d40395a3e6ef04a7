"""Runs that end in every way that a run can end. That they train is tested in test_run.py."""

from __future__ import annotations

import multiprocessing as mp
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from nh2st_graph import read
from nh2st_graph.study import Outcome, PlannedRun, read_study
from nh2st_graph.study import _workers as workers
from nh2st_graph.study._workers import _DIED, attempt, run_all


@dataclass(frozen=True)
class Kills(PlannedRun):
    """Ends the process that takes it up, as one that is out of memory is ended."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


@dataclass(frozen=True)
class Sleeps(PlannedRun):
    """Keeps the process that takes it up longer than a test may take."""

    def __reduce__(self) -> tuple[Any, ...]:
        return time.sleep, (600,)


@pytest.fixture(scope="module")
def runs(study_file: Callable[..., Path]) -> list[PlannedRun]:
    """Five runs that fail at once, before anything heavy is loaded: none has a folder."""
    planned = read_study(study_file(seeds=[0, 1, 2, 3, 4])).runs(Path("nowhere"))
    return [replace(run, folder=None) for run in planned]


def as_a(kind: type[PlannedRun], run: PlannedRun) -> PlannedRun:
    return kind(run.variant, run.fold, run.seed, run.config, run.folder)


def ends(outcomes: list[Outcome]) -> dict[int, str | None]:
    assert len({outcome.run.seed for outcome in outcomes}) == len(outcomes)
    return {outcome.run.seed: outcome.reason for outcome in outcomes}


def test_an_error_that_nobody_foresaw_is_one_line(runs):
    outcome = attempt(runs[0])
    assert outcome.run is runs[0]
    assert outcome.reason.startswith("TypeError: unsupported operand")
    assert "\n" not in outcome.reason


def test_an_error_of_the_package_is_its_own_line(runs, tmp_path):
    config = runs[0].config.override(["data.format=h5ad"])
    outcome = attempt(replace(runs[0], config=config, folder=tmp_path / "run"))
    assert outcome.reason.startswith("data.root is not set; give the folder of the sections")
    assert not (tmp_path / "run").exists()


def test_a_folder_in_which_nothing_was_begun_is_no_obstacle(runs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.yaml.123.part").write_text("seed")
    config = runs[0].config.override(["data.format=h5ad"])
    assert "data.root" in attempt(replace(runs[0], config=config, folder=tmp_path / "run")).reason


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_run_is_told_of_twice_and_none_stops_the_rest(runs, jobs):
    told = []
    outcomes = run_all(runs, jobs, lambda run, outcome: told.append((run.seed, outcome is None)))
    assert sorted(ends(outcomes)) == [0, 1, 2, 3, 4]
    assert all(reason.startswith("TypeError") for reason in ends(outcomes).values())
    assert sorted(told) == sorted((seed, begins) for seed in range(5) for begins in (True, False))
    assert all(told.index((seed, True)) < told.index((seed, False)) for seed in range(5))


def test_nothing_to_do(runs):
    assert run_all([], 2, lambda run, outcome: None) == []


def test_a_process_that_dies_costs_its_own_run_only(runs):
    some = [runs[0], as_a(Kills, runs[1]), runs[2]]
    outcomes = ends(run_all(some, 2, lambda run, outcome: None))
    assert outcomes.pop(1) == _DIED
    assert sorted(outcomes) == [0, 2]
    assert all(reason.startswith("TypeError") for reason in outcomes.values())


def test_an_interrupt_ends_the_processes_at_once(runs):
    def interrupt(run: PlannedRun, outcome: Outcome | None) -> None:
        if run.seed == 1:
            raise KeyboardInterrupt

    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MPLBACKEND")}
    with pytest.raises(KeyboardInterrupt):
        run_all([as_a(Sleeps, run) for run in runs], 2, interrupt)
    assert mp.active_children() == []
    assert {name: os.environ.get(name) for name in before} == before


def test_a_process_reads_a_section_once(runs, tiny_sections, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_READ", {})
    for name, section in tiny_sections.items():
        read.write_h5ad(section, tmp_path / f"{name}.h5ad")
    config = runs[0].config.override(["data.format=h5ad", f"data.root={tmp_path}"])
    first = workers._sections(replace(runs[0], config=config))
    assert list(first) == ["S1", "S2", "S3"]
    for name, section in first.items():
        assert (section.X != tiny_sections[name].X).nnz == 0
    turned = config.override(["data.train=[S3]", "data.test=[S1]"])
    second = workers._sections(replace(runs[1], config=turned))
    assert list(second) == ["S3", "S1"]
    assert all(second[name] is first[name] for name in second)


def test_synthetic_sections_belong_to_their_run(runs):
    assert workers._sections(runs[0]) is None
