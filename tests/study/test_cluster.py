"""Work on a Dask cluster of real processes: studies, encoding, and workers that die."""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import LocalCluster

from nh2st_graph import ConfigError, DataError, RunError, tl
from nh2st_graph.study import read_benchmark, run_study
from nh2st_graph.tl import _cluster as cluster_of
from nh2st_graph.tl._cluster import check_scheduler, on_cluster

#: What workers import: tasks, and in another file, since it takes long, a method that dies once. A worker dies when its
#: nanny knows that it has begun: one that died before leaves a nanny that waits for it when the cluster is closed.
TASKS = """
import os, signal
from pathlib import Path

from distributed import get_worker
from distributed.utils import sync

from nh2st_graph._errors import DataError


def wait_for_nanny():
    worker = get_worker()
    sync(worker.loop, worker.rpc(worker.nanny).instantiate)  # ends when it is up


def kill_worker():
    wait_for_nanny()
    os.kill(os.getpid(), signal.SIGKILL)


def square(x):
    if x < 0:
        raise DataError(f"{x} has no root")
    return x * x, os.getpid()


def die(times, folder):
    died = len(list(Path(folder).iterdir()))
    if died < times:
        Path(folder, str(died)).touch()
        kill_worker()
    return died


def lost(folder):
    wait_for_nanny()
    done = len(list(Path(folder).iterdir()))
    Path(folder, str(done)).write_text(str(os.getpid()))
    if 0 < done < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
"""
DYING = """
import os
from pathlib import Path

from methods_of_a_test import Pls
from tasks_of_a_test import kill_worker


class DiesOnce(Pls):
    def fit(self, sections):
        died = Path(os.environ["NH2ST_GRAPH_CACHE"], "died")
        if not died.exists():
            died.touch()
            kill_worker()
        super().fit(sections)
"""


@pytest.fixture(scope="module")
def tasks(here: Path) -> Any:
    (here / "tasks_of_a_test.py").write_text(TASKS)
    (here / "dying_method_of_a_test.py").write_text(DYING)
    return importlib.import_module("tasks_of_a_test")


@pytest.fixture(scope="module")
def scheduler(tasks: Any, forkserver: Any) -> Iterator[str]:
    """Address of a cluster of two workers, where a task may die once. Workers start with all libraries loaded."""
    settings = {"scheduler.allowed-failures": 1, "worker.multiprocessing-method": "forkserver"}
    with (
        dask.config.set({f"distributed.{name}": value for name, value in settings.items()}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        yield cluster.scheduler_address


def test_what_is_no_address_is_refused():
    check_scheduler(None, 2)
    check_scheduler("tcp://host:8786")
    check_scheduler("scheduler.json")
    with pytest.raises(ConfigError, match=r"scheduler.*host:8786"):
        check_scheduler("host:8786")
    with pytest.raises(ConfigError, match=r"jobs.*2.*scheduler"):
        check_scheduler("tcp://host:8786", jobs=2)


def test_no_scheduler_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr(cluster_of, "_PATIENCE", 0.1)
    with pytest.raises(RunError, match=r"scheduler.*tcp://127\.0\.0\.1:9"):
        next(on_cluster("tcp://127.0.0.1:9", print, [()]))


@pytest.mark.slow
class TestCluster:
    def test_tasks_begin_and_end_on_workers_and_none_stops_the_rest(self, scheduler, tasks):
        news = list(on_cluster(scheduler, tasks.square, [(2,), (-1,), (3,)]))
        ended = {number: result for number, result in news if result is not None}
        assert sorted(number for number, result in news if result is None) == sorted(ended) == [0, 1, 2]
        assert all(news.index((number, None)) < news.index((number, result)) for number, result in ended.items())
        assert [ended[0]()[0], ended[2]()[0]] == [4, 9]
        assert os.getpid() not in {ended[0]()[1], ended[2]()[1]}
        with pytest.raises(DataError, match="-1 has no root"):
            ended[1]()

    def test_a_task_whose_worker_dies_is_tried_elsewhere_or_fails(self, scheduler, tasks, tmp_path):
        once, always = tmp_path / "once", tmp_path / "always"
        once.mkdir()
        always.mkdir()
        given = [(1, str(once)), (9, str(always))]
        ended = {number: result for number, result in on_cluster(scheduler, tasks.die, given) if result is not None}
        assert ended[0]() == 1
        with pytest.raises(RunError, match="died"):
            ended[1]()

    def test_a_result_that_is_lost_with_its_worker_is_made_again(self, scheduler, tasks, tmp_path):
        news = on_cluster(scheduler, tasks.lost, [(str(tmp_path),)])
        assert next(news) == (0, None)
        while not (tmp_path / "0").exists() or not (tmp_path / "0").read_text():
            time.sleep(0.01)
        time.sleep(0.2)  # so that it has ended, and nobody has fetched what it gave
        os.kill(int((tmp_path / "0").read_text()), signal.SIGKILL)
        ((_, result),) = list(news)
        assert result() == 3

    def test_a_study_is_the_serial_study_though_a_worker_dies(self, scheduler, study_file, tmp_path, monkeypatch):
        monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("nh2st_graph.study._run.write_reports", lambda *_: [])
        methods = {
            "graph": {"model.name": "nh2st_graph"},
            "dies": {"model.name": "dying_method_of_a_test:DiesOnce"},
            "missing": {"data.panel": "nowhere.txt"},
        }
        splits = {"one": {"train": ["S1", "S2"], "test": ["S3"]}}
        plain = {name: {**changes, "evaluate.downstream": False} for name, changes in methods.items()}
        study = read_benchmark(study_file(methods=plain, splits=splits))
        there, told = tmp_path / "there", []
        result = run_study(
            study,
            tmp_path / "there",
            scheduler=scheduler,
            watch=lambda run, outcome: told.append((run.variant, outcome)),
        )
        assert (tmp_path / "cache" / "died").exists()
        assert sorted(name for name, outcome in told if outcome is None) == sorted(methods)
        assert {run.variant for run in result.failures} == {"missing"}
        alone = run_study(study, tmp_path / "here", jobs=1)
        for run in study.runs(tmp_path / "here"):
            if run.variant != "missing":
                other = there / run.folder.relative_to(tmp_path / "here")
                for name in ("metrics.json", "metrics_per_gene.csv"):
                    assert (other / name).read_text() == (run.folder / name).read_text()
        assert result.failures.keys() != alone.failures.keys()

    def test_workers_encode_and_the_run_reads(self, scheduler, tiny_config, root, tmp_path, monkeypatch):
        monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path / "cache"))
        changes = ["data.format=h5ad", f"data.root={root}", "data.train=[S1,S2]", "data.test=[S3]"]
        config = tiny_config.override(changes)
        tl.encode_on(scheduler, config, config.override(["model.hops=2"]))
        monkeypatch.setattr("nh2st_graph.im._squidpy.SquidpyEncoder.encode", None)
        written = tl.prepare_sections(config, tmp_path / "prepared")
        assert sorted(path.name for path in written) == ["S1.h5ad", "S2.h5ad", "S3.h5ad"]
