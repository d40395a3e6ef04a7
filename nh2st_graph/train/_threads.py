"""Limit the CPU threads of small networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one CPU thread while the block runs.

    A section's matrices are too small to split: threads wait for each other longer than they compute, and twenty times
    as long if another process has one of the cores. Results also do not depend on the number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
