"""Build the grid of a large section from its array positions, without a search for nearest spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from scipy import sparse

from nh2st_graph.section import Array, Key, adjacent_steps, array_positions, spots_at

if TYPE_CHECKING:
    from squidpy.gr.neighbors import GridBuilder

__all__ = ["array_builder", "numbered_rings"]

#: From this number of spots on, a grid comes from array positions; squidpy's search takes a minute for a million.
_LARGE = 50_000

#: Neighbours lie this close to where the array has them, as a share of the pitch: then squidpy finds the same ones.
_EXACT = 0.1


def array_builder(adata: AnnData, array: Array, n_neighs: int, n_rings: int) -> GridBuilder | None:
    """Make squidpy's builder of a grid, with the neighbours that the array has.

    Parameters
    ----------
    adata
        One section.
    array
        Its array.
    n_neighs, n_rings
        Number of neighbours in the first ring, and of rings.

    Returns
    -------
    The builder; None where a search may find others: in a small section, with another number of neighbours than the
    array's, or if spots do not lie where the array has them.
    """
    steps, positions = adjacent_steps(array), array_positions(adata)
    if adata.n_obs < _LARGE or positions is None or n_neighs != len(steps):
        return None
    # In order of the spots' numbers, if spots are in order of the array.
    found = spots_at(positions, steps[np.lexsort(steps.T)])
    if found is None or not _in_place(adata, found, array.pitch):
        return None
    there = (found >= 0).T
    ends = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    n_spots = adata.n_obs
    ones = np.ones(ends[-1], dtype=np.float32)
    ring = sparse.csr_matrix((ones, found.T[there], ends.astype(np.int32)), shape=(n_spots, n_spots))
    ring.sort_indices()
    from squidpy.gr.neighbors import GridBuilder

    class ArrayBuilder(GridBuilder):
        def build_graph(self, coords: object) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
            rings = numbered_rings(ring, n_rings)
            return sparse.csr_matrix((rings > 0).astype(np.float32)), rings

    return ArrayBuilder(n_neighs=n_neighs, n_rings=n_rings)


def _in_place(adata: AnnData, found: np.ndarray, pitch: float) -> bool:
    """Whether each step leads equally far and in the same direction, wherever on the section it is taken."""
    spatial = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    for others in found:
        start = np.flatnonzero(others >= 0)
        taken = spatial[others[start]] - spatial[start]
        if len(taken) and (np.abs(taken - np.median(taken, axis=0)) > _EXACT * pitch).any():
            return False
    return True


def numbered_rings(ring: sparse.csr_matrix, n_rings: int) -> sparse.csr_matrix:
    """Number the spots that are up to ``n_rings`` steps of the first ring away."""
    step = ring + sparse.identity(ring.shape[0], dtype=ring.dtype, format="csr")
    seen, rings = step, ring
    for number in range(2, n_rings + 1):
        reached = ((seen @ step) > 0).astype(ring.dtype)
        rings = rings + number * (reached - seen)
        seen = reached
    rings.eliminate_zeros()
    rings.sort_indices()
    return sparse.csr_matrix(rings)
