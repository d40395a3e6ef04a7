"""Peaks of memory: what is there while the block runs, and nothing from before."""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable

import numpy as np
import psutil
import pytest

from nh2st_graph.study._memory import peak_memory

#: A size that no other object of a test has.
LARGE = 300e6


def allocated() -> mmap.mmap:
    """Pages that the system takes back at once when they are closed; what ``malloc`` frees, a process may keep."""
    held = mmap.mmap(-1, int(LARGE))
    np.frombuffer(held, dtype=np.uint8)[:] = 1  # a page counts once it is written to
    return held


def resident() -> float:
    return psutil.Process().memory_info().rss / 1e6


def wait_for(condition: Callable[[], bool]) -> None:
    """However slow the machine is."""
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def test_what_was_freed_within_the_block_counts():
    with peak_memory() as peak:
        before = peak.megabytes
        held = allocated()
        wait_for(lambda: peak.megabytes > before + 0.7 * LARGE / 1e6)
        held.close()
        assert resident() < before + 0.5 * LARGE / 1e6
    assert before + 0.7 * LARGE / 1e6 < peak.megabytes < before + 2 * LARGE / 1e6


def test_what_was_freed_before_the_block_does_not():
    held = allocated()
    with_it = resident()
    held.close()
    with peak_memory() as peak:
        pass
    assert 0 < peak.megabytes < with_it - 0.5 * LARGE / 1e6


def test_a_block_that_fails_is_watched_to_its_end():
    def fail() -> None:
        raise RuntimeError

    threads = threading.active_count()
    with pytest.raises(RuntimeError), peak_memory() as peak:
        fail()
    assert peak.megabytes > 0
    assert threading.active_count() == threads
