"""Runs that end in every way that a run can end. Most are no runs: their folders do something else."""

from __future__ import annotations

import importlib
import multiprocessing as mp
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from nh2st_graph import RunError
from nh2st_graph.study import Outcome, PlannedRun, read_benchmark, read_study
from nh2st_graph.study import _workers as workers
from nh2st_graph.study._workers import attempt, run_all

#: A script that keeps a process busy.
PARENT = """
import time

from nh2st_graph.study._workers import _processes

if __name__ == "__main__":
    with _processes(1) as pool:
        pool.schedule(time.sleep, [600])
        time.sleep(600)
"""
#: Folders that do something to the process that looks into them; in a file, which new processes import.
FOLDERS = """
import os, signal, time


class Kills:  # as the system does for want of memory
    def __truediv__(self, name):
        os.kill(os.getpid(), signal.SIGKILL)


class Sleeps:  # longer than a test may take
    def __truediv__(self, name):
        time.sleep(600)
"""


@pytest.fixture
def folders(here) -> Any:
    (here / "folders_of_a_test.py").write_text(FOLDERS)
    return importlib.import_module("folders_of_a_test")


@pytest.fixture(scope="module")
def runs(study_file: Callable[..., Path]) -> list[PlannedRun]:
    """Five runs that fail at once, before anything heavy is loaded: none has a folder."""
    planned = read_study(study_file(seeds=[0, 1, 2, 3, 4])).runs(Path("nowhere"))
    return [replace(run, folder=None) for run in planned]


def test_an_error_that_nobody_foresaw_is_one_line(runs):
    outcome = attempt(runs[0])
    assert outcome.run is runs[0]
    assert outcome.reason.startswith("TypeError: unsupported operand")
    assert "\n" not in outcome.reason


def test_an_error_of_the_package_is_its_own_line_with_keys_of_the_configuration(runs, tmp_path):
    (tmp_path / "run").mkdir()  # nothing was begun in it: it is no obstacle
    (tmp_path / "run" / ".config.yaml.123.part").write_text("seed")
    config = runs[0].config.override(["data.root=null"])
    outcome = attempt(replace(runs[0], config=config, folder=tmp_path / "run"))
    assert outcome.reason.startswith("data.root is not set; give the folder of the sections")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_run_is_told_of_twice_and_none_stops_the_rest(runs, folders, jobs):
    """Not even one whose process is killed, where it has a process of its own."""
    some = [replace(run, folder=folders.Kills()) if jobs > 1 and run.seed == 1 else run for run in runs]
    told = []
    outcomes = run_all(some, jobs, lambda run, outcome: told.append((run.seed, outcome is None)))
    reasons = {outcome.run.seed: outcome.reason for outcome in outcomes}
    if jobs > 1:
        assert reasons.pop(1).startswith("its process died")
    assert all(reason.startswith("TypeError") for reason in reasons.values())
    assert sorted(told) == sorted((seed, begins) for seed in range(5) for begins in (True, False))
    assert all(told.index((seed, True)) < told.index((seed, False)) for seed in range(5))


def test_nothing_to_do():
    assert run_all([], 2, None) == []


def test_an_interrupt_ends_the_processes_at_once(runs, folders):
    def interrupt(run: PlannedRun, outcome: Outcome | None) -> None:
        if run.seed == 1:
            raise KeyboardInterrupt

    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MPLBACKEND")}
    with pytest.raises(KeyboardInterrupt):
        run_all([replace(run, folder=folders.Sleeps()) for run in runs], 2, interrupt)
    assert mp.active_children() == []
    assert {name: os.environ.get(name) for name in before} == before


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    with subprocess.Popen([sys.executable, tmp_path / "parent.py"]) as parent:
        end = time.monotonic() + 120
        while len(children := psutil.Process(parent.pid).children()) < 2 and time.monotonic() < end:
            time.sleep(0.05)  # the process, and the one that tracks what processes share
        parent.kill()
    left = [child for child in psutil.wait_procs(children, timeout=60)[1] if child.status() != psutil.STATUS_ZOMBIE]
    assert len(children) == 2
    assert not left


def test_processes_that_cannot_begin_are_an_error(runs):
    future = Future()
    future.set_exception(BrokenProcessPool())
    with pytest.raises(RunError, match=r"__main__.*jobs=1"):
        workers._outcome(future, runs[0])


def test_processes_have_one_thread_and_leave_ctrl_c_to_this_one(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with workers._processes(1) as pool:
        threads = pool.schedule(os.getenv, ["OMP_NUM_THREADS"])
        ctrl_c = pool.schedule(signal.getsignal, [signal.SIGINT])
        assert (threads.result(), ctrl_c.result()) == ("1", signal.SIG_IGN)


def test_a_run_on_another_process_is_as_in_this_one(study_file, here, tmp_path, forkserver, monkeypatch):
    """The process is of a server that has loaded the libraries, which takes as long as all the rest."""
    monkeypatch.setattr(workers, "multiprocessing", SimpleNamespace(get_context=lambda _method: forkserver))
    methods = {"mine": {"model.name": "methods_of_a_test:Pls", "evaluate.downstream": False}}
    study = read_benchmark(study_file(methods=methods, splits={"one": {"train": ["S1"], "test": ["S3"]}}))
    (one,), (other,) = study.runs(tmp_path / "here"), study.runs(tmp_path / "there")
    with workers._processes(1) as pool:
        done = pool.schedule(attempt, [other])
        assert attempt(one).reason is done.result().reason is None
    assert one.finished
    for name in ("metrics.json", "metrics_per_gene.csv"):
        assert (one.folder / name).read_text() == (other.folder / name).read_text()


def test_a_process_reads_a_section_once(runs, sections):
    data = runs[0].config.data
    first = workers._sections(data)
    assert list(first) == ["S1", "S2", "S3"]
    for name, section in first.items():
        assert (section.X != sections[name].X).nnz == 0
    turned = data.model_copy(update={"train": ("S3",), "test": ("S1",), "normalize": "panel"})
    second = workers._sections(turned)
    assert list(second) == ["S3", "S1"]
    assert all(second[name] is first[name] for name in second)


def test_synthetic_sections_belong_to_their_run(runs):
    assert workers._sections(runs[0].config.override(["data.format=synthetic"]).data) is None
