"""What the spots of a section say of their array: the distance of adjacent ones, and how many each has.

The scale of an image, which readers tell from an array before there is a section, is in ``read/_resolution.py``.
"""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from nh2st_graph._errors import DataError
from nh2st_graph.section._access import section_name
from nh2st_graph.section._array import adjacent_steps, fit_array, nearest_distances, neighbour_distance
from nh2st_graph.section._keys import Key

__all__ = ["lattice_neighbours", "spot_pitch"]

#: A square lattice's diagonal is 1.41 sides long, and its sixth-nearest spot lies there; on a hexagonal one it is as
#: near as the first.
_SQUARE_FROM = 1.2


def spot_pitch(adata: AnnData) -> float:
    """Distance between adjacent spots of the array, in full-resolution pixels.

    From ``obs["array_row"]`` and ``obs["array_col"]`` where the section has them; else the median distance of a spot
    to its nearest other spot; 1.0 for a section of one spot, where there is no distance to measure. Where spots lie on
    every second place only, as on the fields of one colour of a chessboard (arrays of 1934 spots, such as GSE144240's),
    adjacent spots are those across a corner, 1.41 steps of the array apart.

    Raises
    ------
    DataError
        If most spots share their position with another, or array positions are no whole numbers.
    """
    array = fit_array(adata)
    if array is not None:
        return array.pitch
    spatial = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    if len(spatial) < 2:
        return 1.0
    pitch = neighbour_distance(spatial)
    if pitch == 0:
        raise DataError(
            f"section {section_name(adata)!r}: most spots share their position with another; "
            f"obsm['{Key.obsm.spatial}'] must hold one centre for each spot"
        )
    return pitch


def lattice_neighbours(adata: AnnData) -> int:
    """Neighbours of a spot in the first ring of its array: 8 on a square array (ST), 6 on a hexagonal one (Visium).

    Told apart by the steps between array rows and columns where the section has them, else by the nearest spots.
    A chessboard of spots is a square array turned by 45 degrees: its ring of 8 are the four spots across the corners,
    one pitch away, and the four two steps along rows and columns, 1.41 pitches away.

    Raises
    ------
    DataError
        If array positions are no whole numbers.
    """
    array = fit_array(adata)
    if array is not None:
        return len(adjacent_steps(array))
    spatial = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    if len(spatial) < 7:
        return 8
    distances = nearest_distances(spatial, 6)
    ratio = distances[:, 5] / np.maximum(distances[:, 0], np.finfo(float).tiny)
    # Spots at the border lack neighbours, which pushes the sixth distance out; the inner ones know the lattice.
    return 8 if np.quantile(ratio, 0.25) > _SQUARE_FROM else 6
