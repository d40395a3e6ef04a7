"""How many CPU threads small networks get."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one CPU thread while the block runs.

    A section's matrices are too small to share out: threads wait for each other longer than they compute, and where
    another process has one of the cores, twenty times as long. Results do not depend on the number of cores either.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
