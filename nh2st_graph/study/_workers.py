"""Runs shared out over processes that stay: each loads its libraries once and computes with one thread."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from nh2st_graph._errors import NH2STGraphError
from nh2st_graph.study._folder import RunRecord, read_record, write_record
from nh2st_graph.study._memory import peak_memory
from nh2st_graph.study._plan import PlannedRun

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Outcome", "Watch", "run_all"]

logger = logging.getLogger("nh2st_graph")

#: Libraries read these when they are loaded, which in a new process is after they are set.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
}


_DIED = "its process ended without a word (out of memory?); try again by --resume with fewer --jobs"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    run
        Which.
    reason
        Why it failed, in one line; None where it did not.
    """

    run: PlannedRun
    reason: str | None = None


#: Called when a run begins (with None) and when it has ended.
Watch = Callable[[PlannedRun, Outcome | None], None]


def run_all(runs: Sequence[PlannedRun], jobs: int, watch: Watch) -> list[Outcome]:
    """Do all runs, a failed one without stopping the rest.

    Parameters
    ----------
    runs
        What to do. A run whose folder holds a part of it goes on from there.
    jobs
        Number of processes; with 1 the runs are done in this one. A script that asks for more must keep its own calls
        under ``if __name__ == "__main__"``, since the processes import it.
    watch
        Told of every beginning and end, in this process.

    Returns
    -------
    How each ended, in the order in which they did.
    """
    outcomes: list[Outcome] = []

    def seen(run: PlannedRun, outcome: Outcome | None) -> None:
        if outcome is not None:
            outcomes.append(outcome)
        watch(run, outcome)

    if jobs == 1 or len(runs) < 2:
        for run in runs:
            seen(run, None)
            seen(run, attempt(run))
    else:
        _share_out(runs, min(jobs, len(runs)), seen)
    return outcomes


def attempt(run: PlannedRun) -> Outcome:
    """Do one run; an error becomes its outcome."""
    try:
        _train(run)
    except NH2STGraphError as error:
        return Outcome(run, _one_line(error))
    except Exception as error:  # whatever it is, the other runs are not to be lost
        logger.debug("%s", traceback.format_exc())
        return Outcome(run, f"{type(error).__name__}: {_one_line(error)}")
    return Outcome(run)


def _train(run: PlannedRun) -> None:
    begun = (run.folder / "config.yaml").is_file()
    if not begun and run.folder.exists():  # killed before anything was written
        shutil.rmtree(run.folder)
    # A run whose input is bad removes the folders that it made, which another run may just be about to use.
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    from torch.nn import Module  # here, so that a process is there at once, and not timed

    from nh2st_graph import tl

    start = time.perf_counter()
    with peak_memory() as peak:
        done = tl.train_run(run.config, run.folder, resume=begun, sections=_sections(run))
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


#: Sections that this process has read, by all that they depend on.
_READ: dict[str, dict[str, AnnData]] = {}


def _sections(run: PlannedRun) -> dict[str, AnnData] | None:
    """Sections of a run, read once in a process; None for synthetic ones, whose images belong to the run's folder."""
    from nh2st_graph import tl

    data = run.config.data
    if data.format == "synthetic" or not data.train:
        return None
    found: dict[str, AnnData] = {}
    for name in (*data.train, *data.test):
        key = f"{data.format} {data.root} {data.options} {name}"
        if key not in _READ:
            alone = data.model_copy(update={"train": (name,), "test": ()})
            _READ[key] = tl.load_sections(run.config.model_copy(update={"data": alone}))
        found |= _READ[key]
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or "no message"


def _share_out(runs: Sequence[PlannedRun], jobs: int, watch: Watch) -> None:
    """Run in new processes until nothing is left.

    Where a process dies (out of memory, a crash in a library), the others of its pool go with it. What they were doing
    is then done again one by one, so that only the run at fault is counted as failed.
    """
    queue = deque(runs)
    while queue:
        under_way = _until_one_dies(queue, jobs, watch)
        if jobs > 1:
            _share_out(under_way, 1, watch)
        else:
            for run in under_way:
                watch(run, Outcome(run, _DIED))


def _until_one_dies(queue: deque[PlannedRun], jobs: int, watch: Watch) -> list[PlannedRun]:
    """Take runs from the queue until it is empty or a process died; return the runs that were under way then."""
    under_way: dict[Future[Outcome], PlannedRun] = {}
    with _processes(jobs) as pool, suppress(BrokenProcessPool):
        while queue or under_way:
            # No more than there are processes, so that a run that was handed over has begun.
            while queue and len(under_way) < jobs:
                future = pool.submit(attempt, queue[0])
                under_way[future] = queue.popleft()
                watch(under_way[future], None)
            ended = wait(under_way, return_when=FIRST_COMPLETED).done
            for future in sorted(ended, key=lambda each: each.exception() is not None):
                watch(under_way[future], future.result())
                del under_way[future]
    return list(under_way.values())


@contextmanager
def _processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with the block: at once where it is left by an error, or where this process is killed."""
    context = get_context("spawn")
    there, here = context.Pipe(duplex=False)
    with _environment():
        pool = ProcessPoolExecutor(number, context, _prepare_process, (there,))
        try:
            yield pool
        except BaseException:
            here.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            here.close()
            there.close()


@contextmanager
def _environment() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _prepare_process(lifeline: Connection) -> None:
    """Set up a new process: silent, deaf to Ctrl-C, which its parent answers, and tied to its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(lifeline,), daemon=True).start()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def _leave_with(lifeline: Connection) -> None:
    """End this process when the other end is closed. Nothing is ever sent."""
    with suppress(EOFError, OSError):
        lifeline.recv()
    os._exit(1)
