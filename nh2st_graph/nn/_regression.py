"""Losses of predicted against observed expression."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["huber", "mse", "one_minus_pearson"]

#: A column whose deviations are this small against its values is constant: what is left of it is rounding.
_ROUNDING = 16


def mse(predicted: Tensor, observed: Tensor) -> Tensor:
    """Mean squared error over spots and genes.

    Parameters
    ----------
    predicted, observed
        Expression, ``(n_spots, n_genes)``.
    """
    return F.mse_loss(predicted, observed)


def huber(predicted: Tensor, observed: Tensor, delta: float = 1.0) -> Tensor:
    """Mean over spots and genes of Huber's loss (1964): half the squared error, and linear in it beyond ``delta``.

    Parameters
    ----------
    predicted, observed
        Expression, ``(n_spots, n_genes)``.
    delta
        The error from which on the loss is linear, on the scale of the targets.
    """
    return F.huber_loss(predicted, observed, delta=delta)


def one_minus_pearson(predicted: Tensor, observed: Tensor) -> Tensor:
    r"""1 minus the mean over genes of Pearson's r over spots: 0 perfect, 1 unrelated, 2 opposite.

    It sees neither a gene's mean nor its scale, which a model that is trained by it alone does not learn.

    Parameters
    ----------
    predicted, observed
        Expression, ``(n_spots, n_genes)``: the spots of a batch.

    Returns
    -------
    A scalar. Genes of which either side is constant over the spots have no r and are left out, whatever their number;
    where no gene is left, as with a single spot, the loss is 1 and its gradient zero.
    """
    p, p_constant = _centred(predicted)
    q, q_constant = _centred(observed)
    constant = p_constant | q_constant
    norms = torch.linalg.vector_norm(p, dim=0) * torch.linalg.vector_norm(q, dim=0)
    # Before the division, so that a constant gene's gradient is zero and not 0 / 0.
    r = (p * q).sum(dim=0) / norms.where(~constant, norms.new_ones(()))
    return 1 - r.where(~constant, r.new_zeros(())).sum() / (~constant).sum().clamp_min(1)


def _centred(values: Tensor) -> tuple[Tensor, Tensor]:
    """Take the mean off each column, and say which columns are constant, ``(n_genes,)``."""
    centred = values - values.mean(dim=0)
    rounding = _ROUNDING * torch.finfo(values.dtype).eps
    # A column that is not finite is not constant: it must show in the loss.
    constant = centred.detach().abs().amax(dim=0) <= rounding * values.detach().abs().amax(dim=0)
    return centred, constant
