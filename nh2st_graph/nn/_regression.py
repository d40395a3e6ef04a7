"""Losses between predicted and observed expression."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["huber", "mse", "one_minus_pearson"]

#: A column is constant if its deviations, relative to its values, are below this: they are rounding errors.
_ROUNDING = 16


def mse(predicted: Tensor, observed: Tensor) -> Tensor:
    """Compute the mean squared error over spots and genes.

    Parameters
    ----------
    predicted, observed
        Expression, ``(n_spots, n_genes)``.
    """
    return F.mse_loss(predicted, observed)


def huber(predicted: Tensor, observed: Tensor, delta: float = 1.0) -> Tensor:
    """Compute Huber's loss (1964), averaged over spots and genes: half the squared error, but linear beyond ``delta``.

    Parameters
    ----------
    predicted, observed
        Expression, ``(n_spots, n_genes)``.
    delta
        The error above which the loss is linear, in units of the targets.
    """
    return F.huber_loss(predicted, observed, delta=delta)


def one_minus_pearson(predicted: Tensor, observed: Tensor) -> Tensor:
    r"""Compute 1 minus Pearson's r over spots, averaged over genes: 0 is perfect, 1 unrelated, 2 opposite.

    It ignores mean and scale of a gene, so that a model that is trained by it alone does not learn them.

    Parameters
    ----------
    predicted, observed
        Expression, ``(n_spots, n_genes)``: the spots of a batch.

    Returns
    -------
    A scalar. Genes that are constant over spots on either side have no r and are left out. If no gene is left, as with
    a single spot, the loss is 1 and its gradient zero.
    """
    p, p_constant = _centred(predicted)
    q, q_constant = _centred(observed)
    constant = p_constant | q_constant
    norms = torch.linalg.vector_norm(p, dim=0) * torch.linalg.vector_norm(q, dim=0)
    # Mask before the division, so that the gradient of a constant gene is zero and not 0 / 0.
    r = (p * q).sum(dim=0) / norms.where(~constant, norms.new_ones(()))
    return 1 - r.where(~constant, r.new_zeros(())).sum() / (~constant).sum().clamp_min(1)


def _centred(values: Tensor) -> tuple[Tensor, Tensor]:
    """Centre each column, and find constant columns, ``(n_genes,)``."""
    centred = values - values.mean(dim=0)
    rounding = _ROUNDING * torch.finfo(values.dtype).eps
    # A column that is not finite is not constant, so that it shows in the loss.
    constant = centred.detach().abs().amax(dim=0) <= rounding * values.detach().abs().amax(dim=0)
    return centred, constant
