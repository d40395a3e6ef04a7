"""Limit the threads of the CPU that libraries use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache

import torch
from threadpoolctl import ThreadpoolController

__all__ = ["one_thread", "threads_for", "use_threads"]

#: Matrices of so many spots are large enough to split.
_MANY = 10_000


@contextmanager
def use_threads(threads: int) -> Iterator[None]:
    """Let torch, and the linear algebra of numpy and scipy, use so many threads of the CPU while the block runs.

    With another number, sums may be rounded otherwise; with the same, results are equal to the last bit.
    """
    before = torch.get_num_threads()
    try:
        with _libraries(len(sys.modules)).limit(limits=threads):
            torch.set_num_threads(threads)
            yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _libraries(n_modules: int) -> ThreadpoolController:
    """Find the libraries that compute on threads; a search takes 10 ms, and a new module may have loaded another."""
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[None]:
    """Let torch and linear algebra use one CPU thread while the block runs.

    A section's matrices are too small to split: threads wait for each other longer than they compute, and twenty times
    as long if another process has one of the cores. Results also do not depend on the number of cores.
    """
    return use_threads(1)


def threads_for(n_spots: int, threads: int) -> AbstractContextManager[None]:
    """Let torch and linear algebra use so many threads for regressions of very many spots, and one for others."""
    return use_threads(threads if n_spots >= _MANY else 1)
