"""Dropout whose masks are drawn by the byte where there are many rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Dropout", "drawing_from", "own_generator"]

_of_thread = threading.local()


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Draw this thread's masks and orders from a generator of its own, so that other threads do not change them."""
    _of_thread.generator = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        del _of_thread.generator


def own_generator() -> torch.Generator | None:
    """Give the generator of :func:`drawing_from`; None outside, for torch's own."""
    return getattr(_of_thread, "generator", None)


#: From this number of rows on, as in batches of large sections, a mask is drawn by the byte.
_MANY_ROWS = 1024
_BYTES = 256


class Dropout(nn.Dropout):
    """Dropout that draws eight decisions from one random number, if there are many rows on the CPU.

    torch draws a number for each decision, which takes longer than a layer's product of matrices. A byte has 256
    values, so that the probability is a multiple of 1/256; kept values are scaled by this probability, and keep their
    mean.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop values in training."""
        dropped = round(self.p * _BYTES)
        many = len(input) >= _MANY_ROWS and input.device.type == "cpu" and 0 < dropped < _BYTES
        if not (self.training and many and input.dtype == torch.float32):
            return super().forward(input)
        numbers = torch.empty(-(-input.numel() // 8), dtype=torch.int64)
        drawn = numbers.random_(-(2**63), None, generator=own_generator()).view(torch.uint8)
        kept = (drawn[: input.numel()] >= dropped).float().mul_(_BYTES / (_BYTES - dropped))
        return input * kept.view(input.shape)
