"""The array that the spots of a section lie on: its pitch and its lattice."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from nh2st_graph._errors import DataError
from nh2st_graph._keys import Key
from nh2st_graph._validate import section_name

__all__ = ["lattice_neighbours", "spot_pitch"]

#: A square lattice's diagonal is 1.41 sides long, and its sixth-nearest spot lies there; on a hexagonal one it is as
#: near as the first.
_SQUARE_FROM = 1.2

#: Columns of a hexagonal array are half a pitch apart and rows 0.87 (Space Ranger's numbering): 1.73; a square has 1.
_HEXAGONAL_FROM = 1.3

#: Fewer spots may lie on fields of one colour of a chessboard by chance.
_FEWEST_OF_ONE_COLOUR = 8

#: Spots lie off their array by up to this share of a step (0.09 on HER2ST); more, and the numbers are no lattice.
_ARRAY_JITTER = 0.2


def _nearest_distances(spatial: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Distances to the ``k`` nearest other spots, ``(n_spots, k)``."""
    distances, _ = NearestNeighbors(n_neighbors=k).fit(spatial).kneighbors()
    return np.asarray(distances)


class _Array(NamedTuple):
    """Steps from one array column or row to the next, the shorter first, and which of its places bear spots."""

    short: float
    long: float
    chessboard: bool

    @property
    def hexagonal(self) -> bool:
        return self.long > _HEXAGONAL_FROM * self.short

    @property
    def pitch(self) -> float:
        if self.hexagonal:
            return 2 * self.short
        return float(np.hypot(self.short, self.long)) if self.chessboard else (self.short + self.long) / 2


def _array(adata: AnnData) -> _Array | None:
    """The array that its numbers and the positions agree on, in pixels; None where there is none to fit.

    A fit over all spots is exact where many spots of the array are missing, and where single spots are off it.
    """
    if Key.obs.array_row not in adata.obs or Key.obs.array_col not in adata.obs:
        return None
    array = adata.obs[[Key.obs.array_col, Key.obs.array_row]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not np.isfinite(array).all():
        return None
    spatial = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    colour = np.rint(array).sum(axis=1) % 2
    array, spatial = array - array.mean(axis=0), spatial - spatial.mean(axis=0)
    steps, _, rank, _ = np.linalg.lstsq(array, spatial, rcond=None)
    short, long = sorted(np.linalg.norm(steps, axis=1).tolist())
    off = np.sqrt(np.square(spatial - array @ steps).sum(axis=1).mean())
    if rank < 2 or off >= _ARRAY_JITTER * short:
        return None
    # Space Ranger's hexagonal arrays lie on one colour too: their steps tell, which come first.
    return _Array(short, long, chessboard=len(colour) >= _FEWEST_OF_ONE_COLOUR and bool((colour == colour[0]).all()))


def spot_pitch(adata: AnnData) -> float:
    """Distance between adjacent spots of the array, in full-resolution pixels.

    From ``obs["array_row"]`` and ``obs["array_col"]`` where the section has them; else the median distance of a spot
    to its nearest other spot; 1.0 for a section of one spot, where there is no distance to measure. Where spots lie on
    every second place only, as on the fields of one colour of a chessboard (arrays of 1934 spots, such as GSE144240's),
    adjacent spots are those across a corner, 1.41 steps of the array apart.

    Raises
    ------
    DataError
        If most spots share their position with another.
    """
    array = _array(adata)
    if array is not None:
        return array.pitch
    spatial = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    if len(spatial) < 2:
        return 1.0
    pitch = float(np.median(_nearest_distances(spatial, 1)))
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
    """
    array = _array(adata)
    if array is not None:
        return 6 if array.hexagonal else 8
    spatial = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    if len(spatial) < 7:
        return 8
    distances = _nearest_distances(spatial, 6)
    ratio = distances[:, 5] / np.maximum(distances[:, 0], np.finfo(float).tiny)
    # Spots at the border lack neighbours, which pushes the sixth distance out; the inner ones know the lattice.
    return 8 if np.quantile(ratio, 0.25) > _SQUARE_FROM else 6
