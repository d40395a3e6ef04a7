"""Retrieval from a bank: the keys nearest to a query, and averages of their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["AT_ONCE", "Averaging", "Similarity", "Weighting", "nearest", "partner_rank", "rank_of", "retrieve"]

Similarity = Literal["cosine", "dot", "euclidean"]
Averaging = Literal["simple", "average", "weighted_average"]

#: Function from queries ``(n, 1, width)`` and their keys ``(n, k, width)`` to weights ``(n, k)`` that sum to 1.
Weighting = Callable[[Tensor, Tensor], Tensor]

#: Values that are computed at a time, of similarities or of the bank: 64 MiB in float32.
AT_ONCE = 2**24


@torch.no_grad()
def nearest(
    query: Tensor, keys: Tensor, k: int, *, similarity: Similarity = "cosine", block: int = 65536
) -> tuple[Tensor, Tensor]:
    """Find the keys most similar to each query, without a matrix of all pairs.

    Queries are compared with one block of keys at a time, and only the best keys so far are kept. A bank of a million
    keys can thus stay in the CPU's memory, or in half precision: only blocks move to the queries' device.

    Parameters
    ----------
    query
        ``(n, width)``.
    keys
        The bank, ``(m, width)``, on any device.
    k
        Number of keys to find; all keys if the bank has fewer.
    similarity
        The cosine, the scalar product, or minus the Euclidean distance.
    block
        Number of keys in a block, which does not change the result.

    Returns
    -------
    Similarities, highest first, and the indices of their keys, int64; both ``(n, min(k, m))``, on the queries' device.
    Of ties, the keys with the lowest indices are found, and come first.

    Raises
    ------
    ValueError
        If there is no key, ``k`` or ``block`` is not positive, or a query or key is not finite.
    """
    if not len(keys) or k < 1 or block < 1:
        raise ValueError(f"{len(keys)} keys, k={k}, block={block}; give at least one of each")
    k = min(k, len(keys))
    queries = _prepared(query, query, similarity).split(max(1, AT_ONCE // min(block, len(keys))))
    nothing = queries[0].new_empty(0)
    best = [(nothing.expand(len(rows), 0), nothing.long().expand(len(rows), 0)) for rows in queries]
    # Mixed precision would round similarities to three digits and make ties.
    with torch.autocast(query.device.type, enabled=False):
        for start in range(0, len(keys), block):
            part = _prepared(keys[start : start + block], queries[0], similarity)
            best = [
                _better(so_far, _similarities(rows, part, similarity), start, k)
                for so_far, rows in zip(best, queries, strict=True)
            ]
    return torch.cat([values for values, _ in best]), torch.cat([index for _, index in best])


@torch.no_grad()
def partner_rank(query: Tensor, keys: Tensor, partner: Tensor | None = None) -> Tensor:
    """Compute the rank of each query's partner among all keys, by cosine; 1 is the best.

    Ties and NaN count against the partner, so that embeddings that are all equal, or broken, rank last. A few queries
    at a time are compared with all keys, without a matrix of all pairs.

    Parameters
    ----------
    query
        ``(n, width)``.
    keys
        ``(m, width)``, on any device.
    partner
        Indices of the queries' partners among the keys, ``(n,)`` int64; by default key ``i`` for query ``i``.

    Returns
    -------
    ``(n,)`` int64, in 1 to m.
    """
    partner = torch.arange(len(query), device=query.device) if partner is None else partner.to(query.device)
    towards = F.normalize(keys.to(query), dim=-1).T
    ranks = []
    for rows, own in zip(*(t.split(max(1, AT_ONCE // max(1, len(keys)))) for t in (query, partner)), strict=True):
        ranks.append(rank_of(F.normalize(rows, dim=-1) @ towards, own))
    return torch.cat(ranks)


def rank_of(similarity: Tensor, partner: Tensor) -> Tensor:
    """Compute the rank of each row's partner, a column of similarities ``(n, m)``; ties and NaN count against it."""
    return (~(similarity < similarity.gather(1, partner.unsqueeze(1)))).sum(dim=1)


def _prepared(vectors: Tensor, like: Tensor, similarity: Similarity) -> Tensor:
    """Move vectors to the device and precision of the comparison, at least single precision."""
    vectors = vectors.to(like.device, torch.promote_types(like.dtype, torch.float32))
    if not torch.isfinite(vectors).all():
        raise ValueError("a query or a key is not finite")
    return F.normalize(vectors, dim=-1) if similarity == "cosine" else vectors


def _similarities(query: Tensor, keys: Tensor, similarity: Similarity) -> Tensor:
    if similarity == "euclidean":
        return -torch.cdist(query, keys, compute_mode="use_mm_for_euclid_dist")
    return query @ keys.T


def _better(so_far: tuple[Tensor, Tensor], similarities: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """Merge the best so far with a block that starts at ``start``; of ties, the first counts."""
    place = _largest(similarities, min(k, similarities.shape[1]))
    values = torch.cat([so_far[0], similarities.gather(1, place)], dim=1)
    index = torch.cat([so_far[1], place + start], dim=1)
    order = values.argsort(dim=1, descending=True, stable=True)[:, :k]
    return values.gather(1, order), index.gather(1, order)


def _largest(values: Tensor, k: int) -> Tensor:
    """Find the places of the ``k`` largest values of each row, ascending; of ties the first, unlike ``topk``."""
    least = values.topk(k, sorted=False).values.amin(dim=1, keepdim=True)
    above, level = values > least, values == least
    n_level = k - above.sum(dim=1, keepdim=True)
    chosen = above | (level & (level.cumsum(dim=1, dtype=torch.int32) <= n_level))
    return chosen.nonzero()[:, 1].reshape(-1, k)


@torch.no_grad()
def retrieve(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    k: int,
    *,
    how: Averaging | Weighting = "average",
    similarity: Similarity = "cosine",
    block: int = 65536,
) -> Tensor:
    r"""Average the values of the keys nearest to each query, as in BLEEP (Xie et al., NeurIPS 2023).

    - ``"simple"``: the value of the nearest key.
    - ``"average"``: the mean over the ``k`` nearest.
    - ``"weighted_average"``: the mean over the ``k`` nearest with weights proportional to :math:`e^{-\|q - k_j\|^2}`,
      of the given queries and keys, independent of ``similarity``.

    Parameters
    ----------
    query, keys, k, similarity, block
        As in :func:`nearest`.
    values
        ``(m, n_values)``, on any device.
    how
        One of these names of BLEEP's code, or a function from queries ``(n, 1, width)`` and their nearest keys ``(n, k,
        width)`` to weights ``(n, k)`` that sum to 1.

    Returns
    -------
    ``(n, n_values)``, on the queries' device.

    Raises
    ------
    ValueError
        As :func:`nearest`, or if the numbers of ``keys`` and ``values`` differ.
    """
    if len(keys) != len(values):
        raise ValueError(f"{len(keys)} keys and {len(values)} values; give one value for each key")
    _, index = nearest(query, keys, 1 if how == "simple" else k, similarity=similarity, block=block)
    precise = query.to(torch.promote_types(query.dtype, torch.float32))
    rows = max(1, AT_ONCE // (index.shape[1] * max(keys.shape[1], values.shape[1])))
    return torch.cat(
        [_averaged(q, keys, values, i, how) for q, i in zip(precise.split(rows), index.split(rows), strict=True)]
    )


def _averaged(query: Tensor, keys: Tensor, values: Tensor, index: Tensor, how: Averaging | Weighting) -> Tensor:
    found = values[index.to(values.device)].to(query)
    if how == "simple" or how == "average":
        return found.mean(dim=1)
    weigh = _by_distance if how == "weighted_average" else how
    weights = weigh(query.unsqueeze(1), keys[index.to(keys.device)].to(query))
    return (weights.unsqueeze(-1) * found).sum(dim=1)


def _by_distance(query: Tensor, keys: Tensor) -> Tensor:
    return (-(keys - query).square().sum(dim=-1)).softmax(dim=1)
