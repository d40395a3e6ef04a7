"""Contrastive loss between two modalities, its levels without alignment, and retrieval as a measure of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from nh2st_graph.nn._retrieval import partner_rank

__all__ = ["chance_level", "collapse_level", "info_nce", "retrieval_at_k"]


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def info_nce(
    a: Tensor,
    b: Tensor,
    temperature: float | Tensor = 0.1,
    *,
    symmetric: bool = True,
    negative_weight: float = 1.0,
    anchors: Tensor | None = None,
    excluded: Tensor | None = None,
) -> Tensor:
    r"""Compute InfoNCE: row ``i`` of ``b`` is the partner of row ``i`` of ``a``, and other rows are negatives.

    For anchors :math:`A` and the negatives :math:`N_i` of anchor :math:`i` (all spots but itself and excluded ones),

    .. math::
        L(a, b) = -\frac{1}{|A|} \sum_{i \in A}
            \log \frac{e^{s_{ii}/\tau}}{e^{s_{ii}/\tau} + \sum_{j \in N_i} e^{w s_{ij}/\tau}}, \qquad
        s_{ij} = \cos(a_i, b_j)

    which is van den Oord et al. (2018, eq. 4) with a weight :math:`w` on the negatives' logits. By default :math:`w` is
    1 and the result is the mean of :math:`L(a, b)` and :math:`L(b, a)`, as in CLIP (Radford et al., 2021). NH2ST (Qu et
    al., 2025) has :math:`L(a, b)` with :math:`\tau = 0.05` and :math:`w = 0.1`, image embeddings as ``a`` and the
    batch as candidates.

    Parameters
    ----------
    a, b
        Embeddings of the same spots in two modalities, ``(n, width)``: the candidates, in a batch or a section.
    temperature
        :math:`\tau`; a scalar tensor if it is learned.
    symmetric
        Average both directions; otherwise rows of ``a`` look for their partner in ``b`` only.
    negative_weight
        :math:`w`. Below 1, embeddings that are all alike have a low loss; see :func:`collapse_level`.
    anchors
        Indices of the spots whose partner is looked for, ``(n_anchors,)``, among all ``n``; by default all.
    excluded
        Pairs of spots that are no negatives of each other, ``(2, n_pairs)``, in either order, such as the edges of a
        graph. A spot always keeps its own partner.

    Returns
    -------
    A scalar; 0 for an anchor without negatives. Compare it with :func:`chance_level` and :func:`collapse_level`.

    Raises
    ------
    ValueError
        If ``a`` and ``b`` have different shapes.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"a {tuple(a.shape)} and b {tuple(b.shape)} differ in shape; give embeddings of the same spots"
        )
    own = torch.arange(len(a), device=a.device) if anchors is None else anchors
    partner = own.unsqueeze(1) == torch.arange(len(a), device=a.device)
    barred = None if excluded is None else _barred(len(a), own, excluded)

    def loss(similarity: Tensor) -> Tensor:
        logits = similarity / temperature
        logits = torch.where(partner, logits, negative_weight * logits)
        if barred is not None:
            logits = logits.masked_fill(barred, -math.inf)
        return F.cross_entropy(logits, own)

    if anchors is None:
        similarity = _similarity(a, b)
        return (loss(similarity) + loss(similarity.T)) / 2 if symmetric else loss(similarity)
    forth = loss(_similarity(a[own], b))
    return (forth + loss(_similarity(b[own], a))) / 2 if symmetric else forth


def _barred(n: int, anchors: Tensor, excluded: Tensor) -> Tensor:
    """Mark the candidates that are no negatives of an anchor, ``(n_anchors, n)``."""
    asked, which = anchors.unique(return_inverse=True)
    row = anchors.new_full((n,), -1)
    row[asked] = torch.arange(len(asked), device=anchors.device)
    first, second = torch.cat([excluded, excluded.flip(0)], dim=1)
    there = (row[first] >= 0) & (first != second)
    barred = torch.zeros(len(asked), n, dtype=torch.bool, device=anchors.device)
    barred[row[first[there]], second[there]] = True
    return barred[which]


def _n_negatives(n_candidates: int, anchors: Tensor | None, excluded: Tensor | None) -> Tensor:
    """Count the negatives of each anchor; one number for all if nothing is excluded."""
    if excluded is None:
        return torch.tensor([n_candidates - 1.0], dtype=torch.float64)
    own = torch.arange(n_candidates, device=excluded.device) if anchors is None else anchors
    return (n_candidates - 1 - _barred(n_candidates, own, excluded).sum(dim=1)).double()


def chance_level(n_candidates: int, *, anchors: Tensor | None = None, excluded: Tensor | None = None) -> float:
    r"""Compute InfoNCE of similarities that are all 0: ``ln(n_candidates)``, the loss of a model that knows nothing.

    It does not depend on the temperature or on ``negative_weight``. Independent embeddings whose cosines are 0 on
    average have this loss or more, since the loss is convex in the similarities; it is close to this level if cosines
    are small against the temperature. With a ``negative_weight`` below 1, embeddings without any alignment can have a
    lower loss by being alike; :func:`collapse_level` is their lower bound on average.

    Parameters
    ----------
    n_candidates
        Number of candidates, including the partner; 1 gives 0.
    anchors, excluded
        As in :func:`info_nce`. With excluded pairs, the result is the mean over anchors of the log number of
        candidates.
    """
    if excluded is None:
        return math.log(n_candidates)
    return float(_n_negatives(n_candidates, anchors, excluded).log1p().mean())


def collapse_level(
    n_candidates: int,
    temperature: float = 0.1,
    *,
    negative_weight: float = 1.0,
    anchors: Tensor | None = None,
    excluded: Tensor | None = None,
) -> float:
    r"""Compute InfoNCE of embeddings that are all equal: the lowest loss of embeddings that do not distinguish spots.

    .. math:: \ln\left(1 + (n - 1)\, e^{-(1 - w) / \tau}\right)

    for :math:`n` candidates. If partners are no more alike than other pairs, with a mean cosine :math:`\bar s`, the
    mean loss is at least :math:`\ln(1 + (n - 1) e^{-(1 - w) \bar s / \tau})` (Jensen's inequality), which is this level
    at :math:`\bar s = 1`. At :math:`w = 1` it is :func:`chance_level`. With the published :math:`w = 0.1` and
    :math:`\tau = 0.05` it is 1e-7 for a batch of eight: a loss near 0 then shows no alignment.

    Parameters
    ----------
    n_candidates, temperature, negative_weight, anchors, excluded
        As in :func:`info_nce` and :func:`chance_level`.
    """
    negatives = _n_negatives(n_candidates, anchors, excluded)
    return float((negatives * math.exp((negative_weight - 1) / temperature)).log1p().mean())


@torch.no_grad()
def retrieval_at_k(a: Tensor, b: Tensor, k: int = 10) -> float:
    """Compute the share of rows of ``a`` whose partner is among the ``k`` nearest rows of ``b`` (cosine).

    Chance is ``k / n``. Ties and NaN count as misses, so that embeddings that are all equal, or broken, retrieve
    nothing among more than ``k``.
    """
    return float((partner_rank(a, b) <= k).float().mean())
