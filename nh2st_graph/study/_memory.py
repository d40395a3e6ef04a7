"""How much memory a piece of work needs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

__all__ = ["Peak", "peak_memory"]

_INTERVAL = 0.05


@dataclass
class Peak:
    """Most resident memory that was seen, in 1e6 bytes."""

    megabytes: float = 0.0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Watch this process's resident memory while the block runs, 20 times a second.

    The operating system's own high-water mark would be that of all that the process did before, too.
    """
    process, peak, over = psutil.Process(), Peak(), threading.Event()

    def look() -> None:
        peak.megabytes = max(peak.megabytes, process.memory_info().rss / 1e6)

    def watch() -> None:
        while not over.wait(_INTERVAL):
            look()

    look()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
        look()
