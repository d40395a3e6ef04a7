"""Work on a Dask cluster: tasks that begin and end, and that outlive the workers they run on."""

from __future__ import annotations

import os
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any

from nh2st_graph._errors import ConfigError, RunError, reason, setting
from nh2st_graph._files import ENVIRONMENT, cache_root

__all__ = ["check_scheduler", "on_cluster"]

#: Seconds to find the scheduler.
_PATIENCE = 10.0

#: How many workers may die of a task, and how often it is sent to the scheduler.
_TRIES, _SENT = 3, 10

#: A task has its process to itself, whatever the number of threads of a worker.
_ALONE = threading.Lock()


def check_scheduler(scheduler: str | None, jobs: int | None = None) -> None:
    """Refuse what is no address of a scheduler, and a number of processes beside it.

    Raises
    ------
    ConfigError
        If it cannot be used.
    """
    if scheduler is None:
        return
    if not scheduler.endswith(".json") and "://" not in scheduler:
        raise ConfigError(
            f"{setting('scheduler', scheduler)}: expected the address of a Dask scheduler, such as tcp://host:8786, or "
            "its file (.json)"
        )
    if jobs is not None:
        raise ConfigError(
            f"{setting('jobs', jobs)} goes without {setting('scheduler', scheduler)}, whose workers are the processes; "
            "leave one out"
        )


def on_cluster(
    scheduler: str, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]
) -> Generator[tuple[int, Callable[[], Any] | None], None, None]:
    """Call a function for each task on the workers of a Dask cluster.

    A task whose worker dies is tried on another one, at least three times, and more often if the scheduler allows it
    (``distributed.scheduler.allowed-failures``). Workers may come and go. Tasks that have not begun are given up if the
    generator is closed.

    Parameters
    ----------
    scheduler
        Address of the scheduler, or the file that it wrote.
    function
        A function of a module that the workers can import.
    tasks
        The arguments of each call.

    Yields
    ------
    The number of a task when it begins, with None; and when it has ended, with a function that gives its result or
    raises its error, which is a RunError if its workers died.

    Raises
    ------
    RunError
        If there is no scheduler.
    """
    from distributed import Client

    # A task, and whether it begins (1) or ends (-1) on a worker, or has ended for good (0).
    news: SimpleQueue[tuple[int, int]] = SimpleQueue()
    topic = f"nh2st-graph-{uuid.uuid4().hex}"
    where = {"scheduler_file": scheduler} if scheduler.endswith(".json") else {"address": scheduler}
    try:
        client = Client(**where, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{setting('scheduler', scheduler)}: no Dask scheduler answers ({reason(error)}); start one with 'dask "
            "scheduler', and give the address that it shows"
        ) from error
    cache = str(cache_root().absolute())
    with client:
        client.subscribe_topic(topic, lambda event: news.put(event[1]))
        under_way, sent = Counter[int](), Counter[int]()

        def send(number: int) -> Any:
            sent[number] += 1
            key = f"{topic}-{number}-{sent[number]}"
            future = client.submit(_alone, topic, number, cache, function, tasks[number], key=key, pure=False)
            future.add_done_callback(lambda _: news.put((number, 0)))
            return future

        futures = [send(number) for number in range(len(tasks))]
        left, told = len(tasks), set[int]()
        while left:
            number, step = news.get()
            under_way[number] += step
            result = _fetched(futures[number]) if step == 0 else None
            if step == 0 and result is None and under_way[number] < _TRIES and sent[number] < _SENT:
                # Dask blames every task that a dead worker had, also those that waited for another one to end.
                futures[number] = send(number)
                continue
            if number not in told:
                told.add(number)
                yield number, None
            if step == 0:
                left -= 1
                yield number, result or partial(_raise, RunError("its worker died each time (out of memory?)"))
                futures[number].release()


def _alone(topic: str, number: int, cache: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Do a task on a worker, with the cache folder of whoever asks."""
    from distributed import get_worker

    with _ALONE, _environment({"MPLBACKEND": "Agg", ENVIRONMENT: cache}):
        get_worker().log_event(topic, (number, 1))
        try:
            return function(*arguments)
        finally:
            get_worker().log_event(topic, (number, -1))


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment while the block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _fetched(future: Any) -> Callable[[], Any] | None:
    """Fetch a result, and give a function that returns it or raises its error; None if its workers died.

    A worker may die after it has done the task: its result goes with it, and Dask does the task again.
    """
    from distributed import KilledWorker

    try:
        value = future.result()
    except KilledWorker:
        return None
    except Exception as error:
        return partial(_raise, error)
    return lambda: value


def _raise(error: Exception) -> None:
    raise error
