"""Gather tensors of the processes that train one model together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

__all__ = ["gathered"]


def gathered(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Gather the rows of all processes, in order of their ranks.

    A row's gradient is the sum of its gradients in all processes, so that a loss of each process's own rows against all
    rows, summed over processes, has the gradient that it has in one process.

    Parameters
    ----------
    rows
        Rows of this process, ``(sizes[rank], width)``.
    sizes
        Number of rows of each process.

    Returns
    -------
    ``(sum(sizes), width)``.
    """
    found: Tensor = _Gathered.apply(rows, list(sizes))
    return found


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        # All processes must send as much.
        sent = rows.new_zeros(max(sizes), *rows.shape[1:])
        sent[: len(rows)] = rows
        parts = [torch.empty_like(sent) for _ in sizes]
        distributed.all_gather(parts, sent)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.contiguous().clone()
        distributed.all_reduce(total)
        return total.split(ctx.sizes)[distributed.get_rank()], None
