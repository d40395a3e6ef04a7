"""The pitch of a section's spots, and how many neighbours each has.

Readers derive the resolution of an image from an array before there is a section: see ``read/_resolution.py``.
"""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from nh2st_graph._errors import DataError
from nh2st_graph.section._access import section_name
from nh2st_graph.section._array import Array, adjacent_steps, fit_array, nearest_distances, neighbour_distance
from nh2st_graph.section._keys import Key

__all__ = ["lattice_neighbours", "spot_pitch"]

#: Ratio of the distances to the sixth-nearest and to the nearest spot: 1.41 on a square lattice, 1 on a hexagonal one.
_SQUARE_FROM = 1.2

#: Half width of a shell of spots in pitches, and the share of the hexagonal shell that the square one has by chance.
_SHELL, _FEW = 0.14, 0.1


def spot_pitch(adata: AnnData, array: Array | None = None) -> float:
    """Compute the distance between adjacent spots, in full-resolution pixels.

    It comes from ``obs["array_row"]`` and ``obs["array_col"]`` if the section has them, else it is the median distance
    from a spot to its nearest other spot. On a chessboard (arrays of 1934 spots, such as GSE144240's), where only every
    second position has a spot, adjacent spots lie across a corner, 1.41 steps of the array apart.

    Parameters
    ----------
    adata
        One section.
    array
        Its array, if :func:`fit_array` has found it already.

    Returns
    -------
    The pitch; 1.0 for a section of one spot.

    Raises
    ------
    DataError
        If most spots share their position with another, or array positions are not whole numbers.
    """
    array = array or fit_array(adata)
    if array is not None:
        return array.pitch
    spatial = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    if len(spatial) < 2:
        return 1.0
    pitch = neighbour_distance(spatial)
    if pitch == 0:
        raise DataError(
            f"section {section_name(adata)!r}: most spots share their position with another; "
            f"give one centre for each spot in obsm['{Key.obsm.spatial}']"
        )
    return pitch


def lattice_neighbours(adata: AnnData, array: Array | None = None) -> int:
    """Count the neighbours of a spot in the first ring: 8 on a square array (ST), 6 on a hexagonal one (Visium).

    The kind of array comes from the steps between array rows and columns if the section has them, else from the nearest
    spots. A chessboard is a square array turned by 45 degrees. Its ring has the four spots across the corners, one
    pitch away, and the four two steps along rows and columns, 1.41 pitches away.

    Parameters
    ----------
    adata, array
        As for :func:`spot_pitch`.

    Raises
    ------
    DataError
        If array positions are not whole numbers.
    """
    array = array or fit_array(adata)
    if array is not None:
        return len(adjacent_steps(array))
    spatial = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    if len(spatial) < 7:
        return 8
    distances = nearest_distances(spatial, 6)
    # Spots that share a position have a ratio that is large and not infinite.
    ratio = distances[:, 5] / np.maximum(np.maximum(distances[:, 0], 1e-9 * distances[:, 5]), np.finfo(float).tiny)
    # Border spots lack neighbours, so their sixth spot is further away; a low quantile looks at inner spots.
    if np.quantile(ratio, 0.25) <= _SQUARE_FROM:
        return 6
    # In an array with many holes it is further away too. A hexagonal one has no spots at the diagonal of a square.
    pitch = neighbour_distance(spatial)
    near = nearest_distances(spatial, min(len(spatial) - 1, 18))
    square, hexagonal = (np.count_nonzero(np.abs(near - shell * pitch) < _SHELL * pitch) for shell in (2**0.5, 3**0.5))
    return 6 if square < _FEW * hexagonal else 8
