"""The rings around spots: all from which the shortest way to a spot has the same number of edges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

__all__ = ["add_ring_means", "rings_of", "senders_of"]


def senders_of(edge_index: Tensor, n_spots: int) -> sparse.csr_array:
    """Give each spot's senders as the columns of its row, ``(n_spots, n_spots)`` int8; values are 1."""
    sender, receiver = edge_index.numpy()
    if not (receiver[1:] >= receiver[:-1]).all():
        order = np.argsort(receiver, kind="stable")
        sender, receiver = sender[order], receiver[order]
    kind = np.int32 if max(n_spots, len(sender)) < 2**31 else np.int64
    start = np.concatenate([[0], np.cumsum(np.bincount(receiver, minlength=n_spots))]).astype(kind)
    return sparse.csr_array((np.ones(len(sender), np.int8), sender.astype(kind), start), shape=(n_spots, n_spots))


def rings_of(senders: sparse.csr_array, spots: NDArray[np.int64] | slice, n_rings: int) -> Iterator[sparse.csr_array]:
    """Give the rings around some spots, each as a matrix ``(n, n_spots)`` whose values are 1 or true.

    The k-th has the spots from which the shortest way has k edges. A single ring are the senders as they are given, an
    edge that is there twice or from a spot to itself included.

    Parameters
    ----------
    senders
        See :func:`senders_of`.
    spots
        Positions of the spots.
    n_rings
        Number of rings.
    """
    if n_rings == 1:
        yield senders[spots]
        return
    asked, shape = np.arange(senders.shape[0])[spots], senders.shape
    onward = sparse.csr_array((senders.data.astype(bool), senders.indices, senders.indptr), shape=shape)
    themselves = np.ones(len(asked), dtype=bool), asked.astype(onward.indices.dtype), np.arange(len(asked) + 1)
    seen = ring = sparse.csr_array(themselves, shape=(len(asked), shape[1]))
    for _ in range(n_rings):
        ring = ring @ onward
        ring.sort_indices()  # comparing takes long otherwise
        ring = ring > seen
        seen = seen + ring
        yield ring


def add_ring_means(senders: sparse.csr_array, values: Tensor, out: Tensor) -> None:
    """Add the means of values over the rings around each spot, other values for each ring.

    A walk from each spot takes a quarter of the time of :func:`rings_of`, once it is compiled, and holds no ring.

    Parameters
    ----------
    senders
        See :func:`senders_of`.
    values
        ``(n_rings, n_spots, k)``.
    out
        What is added to, ``(n_spots, k)``.
    """
    seen, walk = torch.zeros(2, len(out), dtype=torch.int64).numpy()
    _walker()(senders.indptr, senders.indices, values.numpy(), seen, walk, out.numpy())


@lru_cache(maxsize=1)
def _walker() -> Callable[..., None]:
    """Compile a walk over the rings of each spot."""
    from numba import njit  # here, since only large sections need it

    @njit(nogil=True, fastmath=True, cache=True)
    def add_means(start: Any, sender: Any, values: Any, seen: Any, walk: Any, out: Any) -> None:
        n_rings, n_spots, size = values.shape
        total = np.empty(size, values.dtype)
        for i in range(n_spots):
            walk[0], seen[i] = i, i + 1
            low, high = 0, 1
            for k in range(n_rings):
                end = high
                total[:] = 0
                for place in range(low, high):
                    for edge in range(start[walk[place]], start[walk[place] + 1]):
                        j = sender[edge]
                        if seen[j] != i + 1:
                            seen[j] = i + 1
                            walk[end] = j
                            end += 1
                            for c in range(size):
                                total[c] += values[k, j, c]
                if end > high:
                    for c in range(size):
                        out[i, c] += total[c] / (end - high)
                low, high = high, end

    return add_means
