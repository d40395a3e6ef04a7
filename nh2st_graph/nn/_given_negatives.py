"""The contrastive loss against negatives that are given for each spot, and the spots of nearest depth to give."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["info_nce_against", "nearest_values", "nearest_values_apart"]


def info_nce_against(
    a: Tensor,
    b: Tensor,
    bank_a: Tensor,
    bank_b: Tensor,
    negatives: Tensor,
    temperature: float | Tensor = 0.1,
    *,
    symmetric: bool = True,
    negative_weight: float = 1.0,
) -> Tensor:
    r"""Compute :func:`info_nce` where each spot has its own negatives, from a bank of other spots.

    .. math::
        L(a, b) = -\frac{1}{n} \sum_i
            \log \frac{e^{s_{ii}/\tau}}{e^{s_{ii}/\tau} + \sum_{j \in N_i} e^{w \cos(a_i, B_j)/\tau}}

    Parameters
    ----------
    a, b
        Embeddings of the same spots in two modalities, ``(n, width)``.
    bank_a, bank_b
        Embeddings of the bank's spots in both, ``(n_bank, width)``. Negatives of ``a`` are in ``bank_b``.
    negatives
        :math:`N_i`: rows of the bank, ``(n, k)``.
    temperature, symmetric, negative_weight
        As in :func:`info_nce`.

    Returns
    -------
    A scalar; 0 without negatives. Its chance level is that of ``k + 1`` candidates.
    """
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    partner = (a * b).sum(dim=1, keepdim=True)
    loss = _one_way(a, partner, bank_b, negatives, temperature, negative_weight)
    if symmetric:
        loss = (loss + _one_way(b, partner, bank_a, negatives, temperature, negative_weight)) / 2
    return loss


def _one_way(
    rows: Tensor, partner: Tensor, bank: Tensor, negatives: Tensor, temperature: float | Tensor, weight: float
) -> Tensor:
    others = torch.einsum("nd,nkd->nk", rows, F.normalize(bank, dim=-1)[negatives])
    logits = torch.cat([partner, weight * others], dim=1) / temperature
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()


def nearest_values(wanted: Tensor, there: Tensor, k: int) -> Tensor:
    """Find the ``k`` numbers nearest to each wanted one.

    Parameters
    ----------
    wanted, there
        Numbers, ``(n,)`` and ``(m,)``.
    k
        How many; all if there are fewer.

    Returns
    -------
    Positions in ``there``, ``(n, min(k, m))``, in the order of their numbers. Of equally near ones, the smaller.
    """
    order = there.argsort(stable=True)
    sorted_, k = there[order], min(k, len(there))
    # The nearest follow each other. They start at the first number that is no farther than the one k places on.
    ends = sorted_[: len(there) - k] + sorted_[k:]
    start = torch.searchsorted(ends, 2 * wanted)
    return order[start.unsqueeze(1) + torch.arange(k)]


def nearest_values_apart(values: Tensor, spots: Tensor, k: int, excluded: Tensor) -> Tensor:
    """Find the ``k`` spots whose values are nearest to each spot's own, without itself and those it is paired with.

    Parameters
    ----------
    values
        One number for each spot, ``(n,)``.
    spots
        Spots to choose from, each once, ``(m,)``.
    k
        How many; fewer for all if a spot has fewer left.
    excluded
        Pairs of spots, ``(2, n_pairs)``, in either order, such as the edges of a graph.

    Returns
    -------
    Positions in ``spots``, ``(n, k)``, the nearest first.
    """
    n = len(values)
    own = torch.arange(n)
    first, second = torch.cat([excluded, excluded.flip(0), own.expand(2, n)], dim=1)
    pairs = (first * n + second)[torch.isin(second, spots)].unique()
    counts = torch.bincount(pairs // n, minlength=n)
    most = int(counts.max()) if n else 0
    k = max(min(k, len(spots) - most), 0)
    near = nearest_values(values, values[spots], k + most)
    barred = torch.isin(own.unsqueeze(1) * n + spots[near], pairs)
    distance = (values[spots][near] - values.unsqueeze(1)).abs()
    chosen = distance.masked_fill(barred, torch.inf).argsort(dim=1, stable=True)[:, :k]
    return near.gather(1, chosen)
