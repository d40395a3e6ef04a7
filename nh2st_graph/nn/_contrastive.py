"""Contrastive alignment of two modalities, its chance level, and retrieval as its measure."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["chance_level", "info_nce", "retrieval_at_k"]


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


def info_nce(a: Tensor, b: Tensor, temperature: float = 0.1) -> Tensor:
    r"""Symmetric InfoNCE: row ``i`` of ``a`` belongs to row ``i`` of ``b``, all other rows are negatives.

    .. math::
        L = -\frac{1}{2n} \sum_i \left[ \log \frac{e^{s_{ii}/\tau}}{\sum_j e^{s_{ij}/\tau}}
            + \log \frac{e^{s_{ii}/\tau}}{\sum_j e^{s_{ji}/\tau}} \right], \qquad
        s_{ij} = \cos(a_i, b_j)

    Both directions of van den Oord et al. (2018, eq. 4), as in CLIP (Radford et al., 2021).

    Parameters
    ----------
    a, b
        Embeddings of the same spots in two modalities, ``(n, width)``.
    temperature
        :math:`\tau`.

    Returns
    -------
    A scalar. Embeddings that know nothing of each other give about :func:`chance_level` of ``n``.
    """
    logits = _similarity(a, b) / temperature
    target = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def chance_level(n_candidates: int) -> float:
    """InfoNCE of identical similarities: ``ln(n_candidates)``, the loss of a model that has learned nothing."""
    return math.log(n_candidates)


@torch.no_grad()
def retrieval_at_k(a: Tensor, b: Tensor, k: int = 10) -> float:
    """Share of rows of ``a`` whose partner is among the ``k`` nearest rows of ``b`` (cosine).

    Chance is ``k / n``. Ties count as misses, and so do numbers that are none, so that embeddings that are all the
    same, or broken, retrieve nothing among more than ``k``.
    """
    similarity = _similarity(a, b)
    own = similarity.diagonal().unsqueeze(1)
    rank = (~(similarity < own)).sum(dim=1)
    return float((rank <= k).float().mean())
