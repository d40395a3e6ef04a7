"""Run the runs of a study: one after the other, on processes that each load their libraries once, or on a cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from pebble import ProcessExpired, ProcessPool

from nh2st_graph._errors import NH2STGraphError, RunError, setting
from nh2st_graph._settings import CONFIG_FILE
from nh2st_graph.config import Config, DataConfig
from nh2st_graph.study._folder import RunRecord, read_record, write_record
from nh2st_graph.study._memory import peak_memory
from nh2st_graph.study._plan import PlannedRun
from nh2st_graph.tl._cluster import on_cluster

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Outcome", "Watch", "run_all"]

logger = logging.getLogger("nh2st_graph")

#: One thread a process. Libraries read these when they are loaded, which in a new process is after they are set.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
}
_DIED = "its process died (out of memory?); resume the study with fewer processes"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    run
        Which run.
    reason
        Why it failed, in one line; None if it did not.
    """

    run: PlannedRun
    reason: str | None = None


#: Called when a run begins (with None), and when it has ended.
Watch = Callable[[PlannedRun, Outcome | None], None]


#: What happens to runs, in order: a run begins (None), or has ended.
_News = Generator[tuple[PlannedRun, Outcome | None], None, None]


def run_all(
    runs: Sequence[PlannedRun],
    jobs: int,
    watch: Watch | None,
    seen: Mapping[str, Mapping[str, str]] | None = None,
    scheduler: str | None = None,
) -> list[Outcome]:
    """Do all runs. A run that fails stops no other, even if its process dies.

    Parameters
    ----------
    runs
        What to do. A run whose folder is there already goes on from its last checkpoint.
    jobs
        Number of processes; with 1 the runs are done in this one. A script that asks for more must keep its own calls
        under ``if __name__ == "__main__"``, since the processes import it.
    watch
        Called in this process at every beginning and end.
    seen
        Digests of the sections of finished runs, by section: a run whose sections have other content fails.
    scheduler
        Address of a Dask scheduler, whose workers do the runs. A run whose worker dies goes on elsewhere.

    Returns
    -------
    How each run ended, in the order in which they did.

    Raises
    ------
    RunError
        If the processes cannot begin, or there is no scheduler.
    """
    outcomes: list[Outcome] = []
    if scheduler is not None:
        news = _on_cluster(runs, seen, scheduler)
    else:
        news = _here(runs, seen) if jobs == 1 or len(runs) < 2 else _on_processes(runs, seen, jobs)
    with closing(news):
        for run, outcome in news:
            outcomes.extend([outcome] if outcome is not None else [])
            if watch is not None:
                watch(run, outcome)
    return outcomes


def _here(runs: Sequence[PlannedRun], seen: Mapping[str, Mapping[str, str]] | None) -> _News:
    for run in runs:
        yield run, None
        yield run, attempt(run, seen)


def _on_cluster(runs: Sequence[PlannedRun], seen: Mapping[str, Mapping[str, str]] | None, scheduler: str) -> _News:
    from nh2st_graph import tl

    # Paths of this folder, since workers have another.
    tl.encode_on(scheduler, *(run.config for run in runs), strict=False)
    sent = [replace(run, config=tl.absolute(run.config), folder=run.folder.absolute()) for run in runs]
    for number, result in on_cluster(scheduler, attempt, [(run, seen) for run in sent]):
        run = runs[number]
        try:
            outcome = None if result is None else replace(result(), run=run)
        except Exception as error:  # of Dask, or of a worker without this package: the other runs are not to be lost
            outcome = Outcome(run, _said(error))
        yield run, outcome


def _on_processes(runs: Sequence[PlannedRun], seen: Mapping[str, Mapping[str, str]] | None, jobs: int) -> _News:
    queue, under_way = deque(runs), dict[Future[Outcome], PlannedRun]()
    with _processes(min(jobs, len(runs))) as pool:
        while queue or under_way:
            # No more than there are processes, so that a run that was handed over has begun.
            while queue and len(under_way) < jobs:
                run = queue.popleft()
                yield run, None
                under_way[pool.schedule(attempt, [run, seen])] = run
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                run = under_way.pop(future)
                yield run, _outcome(future, run)


def _outcome(future: Future[Outcome], run: PlannedRun) -> Outcome:
    try:
        return future.result()
    except ProcessExpired:
        return Outcome(run, _DIED)
    except BrokenProcessPool:
        raise RunError(
            "the processes of the study end before they begin; keep the calls of your script under "
            f"if __name__ == '__main__', or give {setting('jobs', 1)}"
        ) from None


def attempt(run: PlannedRun, seen: Mapping[str, Mapping[str, str]] | None = None) -> Outcome:
    """Do one run; an error becomes its outcome."""
    try:
        _train(run, seen or {})
    except Exception as error:  # whatever it is, the other runs are not to be lost
        if not isinstance(error, NH2STGraphError):
            logger.debug("%s", traceback.format_exc())
        return Outcome(run, _said(error))
    return Outcome(run)


def _said(error: Exception) -> str:
    """Say what happened in one line."""
    if isinstance(error, NH2STGraphError):
        return _one_line(error.at("key"))
    return f"{type(error).__name__}: {_one_line(str(error))}"


def _one_line(text: str) -> str:
    return " ".join(text.split()) or "no message"


def _train(run: PlannedRun, seen: Mapping[str, Mapping[str, str]]) -> None:
    begun = (run.folder / CONFIG_FILE).is_file()
    if not begun and run.folder.exists():  # killed before anything was written
        shutil.rmtree(run.folder)
    # A run whose input is bad removes the folders that it made, which another run may just be about to use.
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    from torch.nn import Module  # here, so that a process is there at once, and its import takes none of the run's time

    from nh2st_graph import tl

    start = time.perf_counter()
    with peak_memory() as peak:
        sections = _sections(run.config.data)
        _check_seen(sections or {}, seen)
        done = tl.train_run(run.config, run.folder, resume=begun, sections=sections)
    seconds = time.perf_counter() - start
    log, module = done.model.log, done.model.module
    parameters = sum(weight.numel() for weight in module.parameters()) if isinstance(module, Module) else 0
    record = RunRecord(parameters, steps=int(log["step"].max()) if len(log) else 0)
    before = read_record(run.folder) if begun else None
    if before is not None:
        record = before
    elif not begun and done.evaluation is not None:
        record = record._replace(
            seconds=round(seconds, 2),
            fit_seconds=round(done.fit_seconds or 0.0, 2),
            predict_seconds=round(done.evaluation.predict_seconds, 3),
            peak_memory_mb=round(peak.megabytes),
        )
    write_record(run.folder, record)


def _check_seen(sections: Mapping[str, AnnData], seen: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse sections whose content is not that of the study's finished runs: a table would mix results of both."""
    from nh2st_graph.section import DIGITS, image_digest, library, library_id, other_sections, section_digest

    known = {name: seen[name] for name in sections if name in seen}
    now = {name: section_digest(sections[name]) for name in known}
    for name in known:
        section = sections[name]
        image = image_digest(library(section).source) if library_id(section) is not None else None
        now[name] |= {} if image is None else {"image": image[:DIGITS]}
    other = other_sections(known, now, "section {!r} has other {} than in the finished runs of this study")
    if other:
        raise RunError(f"{'; '.join(other[:3])}; run the study into another folder: {setting('out')}")


def _sections(data: DataConfig) -> dict[str, AnnData] | None:
    """Read the sections of a run, each once in a process; None for synthetic ones, whose images the run keeps."""
    if data.format == "synthetic" or not data.train:
        return None
    where = {"format": data.format, "root": data.root, "options": data.options}
    return {name: _section(DataConfig(**where, train=(name,))) for name in (*data.train, *data.test)}


@cache
def _section(data: DataConfig) -> AnnData:
    from nh2st_graph import tl

    (section,) = tl.load_sections(Config(data=data)).values()
    return section


@contextmanager
def _processes(number: int) -> Iterator[ProcessPool]:
    """Start processes that end with the block."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    pool = ProcessPool(number, initializer=_prepare_process, context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.stop()
        pool.join()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _prepare_process() -> None:
    """Silence a new process, and tie it to its parent. Pebble has made it deaf to Ctrl-C, which the parent answers."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
