"""Work on several items at a time, with the same numbers on any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch

__all__ = ["on_threads"]


def on_threads(work: Callable[[Any], Any], items: Sequence[Any], threads: int) -> list[Any]:
    """Do work on items, some at a time; an operation on one item has one thread. Results are in order."""
    if threads == 1 or len(items) == 1:
        return [work(item) for item in items]
    return list(_pool(threads).map(work, items))


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    # A new thread has the number of threads of the process, not of its parent.
    return ThreadPoolExecutor(threads, "nh2st_graph", initializer=torch.set_num_threads, initargs=(1,))
