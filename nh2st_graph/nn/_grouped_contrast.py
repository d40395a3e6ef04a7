"""The contrastive loss of a batch in groups, each with its own candidates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["grouped_info_nce_and_ranks"]

#: Colder than this, the exponential of a cosine over the temperature leaves the range of float32 without a shift.
_COLD = 0.05


def grouped_info_nce_and_ranks(
    a: Tensor, b: Tensor, size: int, temperature: float | Tensor = 0.1, *, symmetric: bool, negative_weight: float
) -> tuple[Tensor, Tensor]:
    """Compute :func:`info_nce` within groups of spots that follow each other, and the ranks of partners in the first.

    The time of a comparison with all others grows with the square of a batch; in groups of equal size, it grows with
    the batch.

    Parameters
    ----------
    a, b
        Embeddings of the same spots, ``(n, width)``.
    size
        Spots of a group. Spots that fill no group are left out.
    temperature, symmetric, negative_weight
        As in :func:`info_nce`.

    Returns
    -------
    The mean of the groups' losses; and the ranks of the first group, ``(size,)`` int64, without a gradient.
    """
    n_groups = len(a) // size
    rows, columns = (F.normalize(each[: n_groups * size], dim=-1).view(n_groups, size, -1) for each in (a, b))
    if isinstance(temperature, float) and temperature >= _COLD and symmetric and negative_weight == 1:
        loss, ranks = _Loss.apply(rows, columns, temperature)
        return loss, ranks
    similarity = rows @ columns.transpose(1, 2)
    own = similarity.diagonal(dim1=1, dim2=2)
    logits = similarity / temperature
    if negative_weight != 1:
        partner = torch.eye(size, dtype=torch.bool, device=a.device)
        logits = torch.where(partner, logits, negative_weight * logits)
    levels = [logits.logsumexp(dim=2)] + ([logits.logsumexp(dim=1)] if symmetric else [])
    loss = torch.stack(levels).mean() - (own / temperature).mean()
    return loss, _ranks(similarity.detach()[0])


def _ranks(similarity: Tensor) -> Tensor:
    """Rank the partners of a group; ties and NaN count against them."""
    return (~(similarity < similarity.diagonal().unsqueeze(1))).sum(dim=1)


class _Loss(torch.autograd.Function):
    """The symmetric loss with equal weights, from one exponential of each similarity.

    A group's similarities stay in the processor's cache until the loss and its gradient are computed of them.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        ranks: list[Tensor] = []
        total, n = rows.new_zeros(()), rows.shape[0] * rows.shape[1]
        to_rows, to_columns = torch.empty_like(rows), torch.empty_like(columns)
        for k, (a, b) in enumerate(zip(rows, columns, strict=True)):
            level = torch.mm(a, b.T)
            own = level.diagonal().clone()
            if not ranks:
                ranks.append(_ranks(level))
            level.mul_(1 / temperature).exp_()
            forth, back = level.sum(dim=1), level.sum(dim=0)
            total += (forth.log().sum() + back.log().sum()) / 2 - own.sum() / temperature
            level.mul_(forth.reciprocal_().unsqueeze(1) + back.reciprocal_())
            level.diagonal().sub_(2.0)
            torch.mm(level, b, out=to_rows[k])
            torch.mm(level.T, a, out=to_columns[k])
        ctx.save_for_backward(to_rows, to_columns)
        ctx.factor = 0.5 / (n * temperature)
        found = ranks[0] if ranks else torch.empty(0, dtype=torch.int64)
        ctx.mark_non_differentiable(found)
        return total / n, found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        to_rows, to_columns = ctx.saved_tensors
        factor = grad * ctx.factor
        return to_rows * factor, to_columns * factor, None
