"""Runs that end in every way that a run can end. Most are no runs: their folders do something else."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from nh2st_graph import RunError, read
from nh2st_graph.study import Outcome, PlannedRun, read_benchmark, read_study
from nh2st_graph.study import _workers as workers
from nh2st_graph.study._workers import attempt, run_all

#: A script that keeps two processes busy.
PARENT = """
import time

from nh2st_graph.study._workers import _processes

if __name__ == "__main__":
    with _processes(2) as pool:
        for _ in range(2):
            pool.schedule(time.sleep, [600])
        time.sleep(600)
"""
UNGUARDED = """
import sys
from pathlib import Path

from nh2st_graph.study import read_study, run_study

run_study(read_study(sys.argv[1]), sys.argv[2], jobs=2)
"""


@dataclass(frozen=True)
class Kills:
    """A folder that kills the process that looks into it, as the system does for want of memory."""

    def __truediv__(self, name: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Sleeps:
    """A folder that keeps a process longer than a test may take."""

    def __truediv__(self, name: str) -> None:
        time.sleep(600)


@pytest.fixture(scope="module")
def runs(study_file: Callable[..., Path]) -> list[PlannedRun]:
    """Five runs that fail at once, before anything heavy is loaded: none has a folder."""
    planned = read_study(study_file(seeds=[0, 1, 2, 3, 4])).runs(Path("nowhere"))
    return [replace(run, folder=None) for run in planned]


def unseen(run: PlannedRun, outcome: Outcome | None) -> None:
    """Tell nobody."""


def ends(outcomes: list[Outcome]) -> dict[int, str | None]:
    assert len({outcome.run.seed for outcome in outcomes}) == len(outcomes)
    return {outcome.run.seed: outcome.reason for outcome in outcomes}


def test_an_error_that_nobody_foresaw_is_one_line(runs):
    outcome = attempt(runs[0])
    assert outcome.run is runs[0]
    assert outcome.reason.startswith("TypeError: unsupported operand")
    assert "\n" not in outcome.reason


def test_an_error_of_the_package_is_its_own_line_with_keys_of_the_configuration(runs, tmp_path):
    (tmp_path / "run").mkdir()  # nothing was begun in it: it is no obstacle
    (tmp_path / "run" / ".config.yaml.123.part").write_text("seed")
    config = runs[0].config.override(["data.format=h5ad"])
    outcome = attempt(replace(runs[0], config=config, folder=tmp_path / "run"))
    assert outcome.reason.startswith("data.root is not set; give the folder of the sections")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_run_is_told_of_twice_and_none_stops_the_rest(runs, jobs):
    told = []
    outcomes = run_all(runs, jobs, lambda run, outcome: told.append((run.seed, outcome is None)))
    assert sorted(ends(outcomes)) == [0, 1, 2, 3, 4]
    assert all(reason.startswith("TypeError") for reason in ends(outcomes).values())
    assert sorted(told) == sorted((seed, begins) for seed in range(5) for begins in (True, False))
    assert all(told.index((seed, True)) < told.index((seed, False)) for seed in range(5))


def test_nothing_to_do(runs):
    assert run_all([], 2, unseen) == []


def test_a_process_that_is_killed_costs_its_own_run_only(runs):
    some = [runs[0], replace(runs[1], folder=Kills()), *runs[2:4]]
    outcomes = ends(run_all(some, 2, unseen))
    assert outcomes.pop(1).startswith("its process died")
    assert sorted(outcomes) == [0, 2, 3]
    assert all(reason.startswith("TypeError") for reason in outcomes.values())


def test_an_interrupt_ends_the_processes_at_once(runs):
    def interrupt(run: PlannedRun, outcome: Outcome | None) -> None:
        if run.seed == 1:
            raise KeyboardInterrupt

    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MPLBACKEND")}
    with pytest.raises(KeyboardInterrupt):
        run_all([replace(run, folder=Sleeps()) for run in runs], 2, interrupt)
    assert mp.active_children() == []
    assert {name: os.environ.get(name) for name in before} == before


def test_processes_compute_with_one_thread_and_are_deaf_to_ctrl_c():
    with workers._processes(1) as pool:
        assert pool.schedule(os.getenv, ["OMP_NUM_THREADS"]).result() == "1"
        assert pool.schedule(signal.getsignal, [signal.SIGINT]).result() == signal.SIG_IGN


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    with subprocess.Popen([sys.executable, tmp_path / "parent.py"]) as parent:
        end = time.monotonic() + 120
        while len(children := psutil.Process(parent.pid).children()) < 3 and time.monotonic() < end:
            time.sleep(0.05)  # two processes, and the one that tracks what they share
        parent.kill()
    left = [child for child in psutil.wait_procs(children, timeout=60)[1] if child.status() != psutil.STATUS_ZOMBIE]
    assert len(children) == 3
    assert not left


def test_a_script_that_its_processes_would_run_again_is_told(study_file, tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED)
    path = study_file(variants={"deep": {"model.hops": 2}})
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", path, tmp_path / "out"], capture_output=True, text=True, timeout=300
    )
    assert f"{RunError.__name__}: the processes of the study end before they begin" in done.stderr
    assert "if __name__ == '__main__'" in done.stderr


def test_a_run_on_a_process_is_as_in_this_one(study_file, here, tmp_path):
    methods = {"mean": {"model.name": "mean"}, "mine": {"model.name": "methods_of_a_test:Pls"}}
    given = {name: {**keys, "evaluate.downstream": False} for name, keys in methods.items()}
    study = read_benchmark(study_file(methods=given, splits={"one": {"train": ["S1"], "test": ["S3"]}}))
    for folder, jobs in (("here", 1), ("there", 2)):
        assert all(outcome.reason is None for outcome in run_all(study.runs(tmp_path / folder), jobs, unseen))
    for one, other in zip(study.runs(tmp_path / "here"), study.runs(tmp_path / "there"), strict=True):
        assert one.finished
        for name in ("metrics.json", "metrics_per_gene.csv"):
            assert (one.folder / name).read_text() == (other.folder / name).read_text()


def test_a_process_reads_a_section_once(runs, sections, tmp_path):
    for name, section in sections.items():
        read.write_h5ad(section, tmp_path / f"{name}.h5ad")
    data = runs[0].config.override(["data.format=h5ad", f"data.root={tmp_path}"]).data
    first = workers._sections(data)
    assert list(first) == ["S1", "S2", "S3"]
    for name, section in first.items():
        assert (section.X != sections[name].X).nnz == 0
    turned = data.model_copy(update={"train": ("S3",), "test": ("S1",), "normalize": "panel"})
    second = workers._sections(turned)
    assert list(second) == ["S3", "S1"]
    assert all(second[name] is first[name] for name in second)


def test_synthetic_sections_belong_to_their_run(runs):
    assert workers._sections(runs[0].config.data) is None
