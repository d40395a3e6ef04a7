"""The arrays of the assays: their sizes in um, and a fit of the array under the spots of a section."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import DataError, setting
from nh2st_graph.section._access import array_positions, section_name
from nh2st_graph.section._keys import Key

__all__ = [
    "CHESSBOARD_NEIGHBOUR_UM",
    "CHESSBOARD_SPOT_UM",
    "SQUARE_PITCH_UM",
    "SQUARE_SPOT_UM",
    "VISIUM_PITCH_UM",
    "VISIUM_SCALEFACTOR_UM",
    "VISIUM_SPOT_UM",
    "Array",
    "adjacent_steps",
    "check_array",
    "fit_array",
    "nearest_distances",
    "neighbour_distance",
    "on_one_colour",
    "spots_at",
]

#: The array of 1007 spots: a square lattice with a spot at every position (Stahl et al. 2016, Andersson et al. 2021).
SQUARE_PITCH_UM = 200.0
SQUARE_SPOT_UM = 100.0

#: The array of 1934 spots: a spot at every second position, like the fields of one colour of a chessboard, so that the
#: nearest spot is one step along x and one along y away (Ji et al. 2020). Steps along x and y differ by a tenth.
CHESSBOARD_NEIGHBOUR_UM = 150.0
CHESSBOARD_SPOT_UM = 110.0

#: Visium: a hexagonal lattice. Space Ranger's ``spot_diameter_fullres`` spans more than the printed spot.
VISIUM_PITCH_UM = 100.0
VISIUM_SPOT_UM = 55.0
VISIUM_SCALEFACTOR_UM = 65.0

#: In Space Ranger's numbering, rows of a hexagonal array are 1.73 times as far apart as columns; on a square one, once.
_HEXAGONAL_FROM = 1.3

#: Fewer spots than this may lie on fields of one colour by chance.
_FEWEST_OF_ONE_COLOUR = 8

#: Spots may lie off their array by this share of a step (0.09 on HER2ST); further off, the numbers are not a lattice.
_JITTER = 0.2

#: An array explains nearly all of the variance of positions in pixels, also if tissue was stretched to register it; if
#: less than this, the positions are of other spots. A few spots are not compared.
_UNRELATED = 0.5
_FEWEST_TO_COMPARE = 20

#: Positions of an array for each of its spots, up to which a table of all positions is made.
_SPARSE = 50

#: From this number of spots on, the nearest ones are searched for by all cores.
_MANY = 20_000

#: Steps (columns, rows) from a position to the four across its corners, and to the four along its sides.
_CORNERS = np.array([(-1, -1), (1, -1), (-1, 1), (1, 1)])
_SIDES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])


class Array(NamedTuple):
    """An array as it lies on an image.

    Attributes
    ----------
    column, row
        Pixels from one column to the next, and from one row to the next.
    chessboard
        Whether spots are at every second position only.
    """

    column: float
    row: float
    chessboard: bool

    @property
    def hexagonal(self) -> bool:
        """Whether the array is a hexagonal lattice (Visium)."""
        return max(self.column, self.row) > _HEXAGONAL_FROM * min(self.column, self.row)

    @property
    def pitch(self) -> float:
        """Distance between adjacent spots, in pixels."""
        if self.hexagonal:
            return 2 * min(self.column, self.row)
        return float(np.hypot(self.column, self.row)) if self.chessboard else (self.column + self.row) / 2


def fit_array(adata: AnnData) -> Array | None:
    """Fit the array that the array positions and pixels of a section agree on.

    The fit uses all spots, so it stays exact if many spots of the array are missing or a few are misplaced.

    Returns
    -------
    The array; None if the section has no array positions, or they do not fit the pixels.

    Raises
    ------
    DataError
        If array positions are not whole numbers.
    """
    positions = array_positions(adata)
    if positions is None:
        return None
    array = positions.astype(np.float64)
    spatial = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    array, spatial = array - array.mean(axis=0), spatial - spatial.mean(axis=0)
    steps, _, rank, _ = np.linalg.lstsq(array, spatial, rcond=None)
    column, row = np.linalg.norm(steps, axis=1).tolist()
    off = np.sqrt(np.square(spatial - array @ steps).sum(axis=1).mean())
    if rank < 2 or off >= _JITTER * min(column, row):
        return None
    # Space Ranger's hexagonal arrays lie on one colour too; `hexagonal` is checked first, by the steps.
    return Array(column, row, chessboard=on_one_colour(positions))


def check_array(adata: AnnData) -> None:
    """Refuse array positions that are no array's, or not those of the spots where the pixels are.

    Raises
    ------
    DataError
        If array positions are not whole numbers, if spots share one, or if they have nothing to do with the pixels.
    """
    positions = array_positions(adata)
    if positions is None:
        return
    where, columns = f"section {section_name(adata)!r}", f"obs['{Key.obs.array_row}'] and obs['{Key.obs.array_col}']"
    width = int(np.ptp(positions[:, 1])) + 1
    taken = pd.Series((positions[:, 0] - positions[:, 0].min()) * width + positions[:, 1]).duplicated().to_numpy()
    if taken.any():
        again = int(np.flatnonzero(taken)[0])
        first = int(np.flatnonzero((positions == positions[again]).all(axis=1))[0])
        column, row = positions[again].tolist()
        raise DataError(
            f"{where}: {int(taken.sum())} of {len(positions)} spots have the array position of another "
            f"(first: {adata.obs_names[first]!r} and {adata.obs_names[again]!r} at row {row}, column {column}); "
            f"if several sections are joined here, give {setting('data.options.library_key', 'COLUMN')}, else correct "
            f"{columns}"
        )
    spatial = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    if len(positions) >= _FEWEST_TO_COMPARE and _explained(positions, spatial) < _UNRELATED:
        raise DataError(
            f"{where}: spots that are neighbours by {columns} lie far apart by obsm['{Key.obsm.spatial}']; both are of "
            "other spots: join positions by the spots' names, not by the order of rows; or, if the numbers are of no "
            f"array, leave them out: del adata.obs['{Key.obs.array_row}']"
        )


def _explained(array: NDArray[np.int64], spatial: NDArray[np.float64]) -> float:
    """Share of the variance of positions that an array explains, however it is turned, scaled or sheared.

    The tenth of the spots that fits worst is left out: a few spots may lie anywhere.
    """
    kept = np.ones(len(array), dtype=bool)
    for _ in range(2):
        centred, moved = array - array[kept].mean(axis=0), spatial - spatial[kept].mean(axis=0)
        steps, *_ = np.linalg.lstsq(centred[kept], moved[kept], rcond=None)
        off, spread = (np.square(each).sum(axis=1) for each in (moved - centred @ steps, moved))
        explained = 1 - float(off[kept].sum() / max(spread[kept].sum(), np.finfo(float).tiny))
        kept = off <= np.quantile(off, 0.9)
    return explained


def on_one_colour(array: NDArray[np.float64] | NDArray[np.int64]) -> bool:
    """Say whether all positions, ``(n_spots, 2)``, are fields of one colour of a chessboard, and not by chance."""
    colour = np.rint(array).sum(axis=1) % 2
    return len(colour) >= _FEWEST_OF_ONE_COLOUR and bool((colour == colour[0]).all())


def adjacent_steps(array: Array | None) -> NDArray[np.int64]:
    """List the steps from a spot to its adjacent spots, ``(n, 2)``, columns then rows.

    - Square array: eight, including those across the corners.
    - Hexagonal array: six; four in the rows beside, and two in the same row, two columns away.
    - Chessboard, which is a square array turned by 45 degrees: eight; the four across the corners, one pitch away, and
      the four two steps along rows and columns, 1.41 pitches away.
    - No array: those of a square one.
    """
    if array is None or not (array.hexagonal or array.chessboard):
        return np.concatenate([_CORNERS, _SIDES])
    sides = 2 * _SIDES
    if array.hexagonal:
        sides = sides[:2] if array.column < array.row else sides[2:]
    return np.concatenate([_CORNERS, sides])


def spots_at(positions: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.int32] | None:
    """Find the spot at each of some steps from each spot.

    Parameters
    ----------
    positions
        Array positions, ``(n_spots, 2)``.
    steps
        ``(n_steps, 2)``, in the same order of axes.

    Returns
    -------
    Numbers of the spots, ``(n_steps, n_spots)``; -1 where there is none. None if two spots share a position.
    """
    # Number the positions row by row, with room at the ends so that no step leads into another row.
    rim = int(np.abs(steps).max(initial=0))
    placed = positions - positions.min(axis=0) + rim
    across, along = (placed.max(axis=0) + rim + 1).tolist()
    number, step = placed @ np.array([1, across]), steps @ np.array([1, across])
    if across * along > _SPARSE * len(positions):
        places = pd.Index(number)
        return np.stack([places.get_indexer(number + by) for by in step]) if places.is_unique else None
    there = np.full(across * along, -1, dtype=np.int32)
    there[number] = np.arange(len(positions))
    return there[number + step[:, None]] if (there[number] == np.arange(len(positions))).all() else None


def nearest_distances(centres: NDArray[np.float64], k: int = 1) -> NDArray[np.float64]:
    """Compute the distances from each spot to its ``k`` nearest other spots.

    Parameters
    ----------
    centres
        ``(n_spots, 2)``, more than ``k`` spots.
    k
        How many other spots.

    Returns
    -------
    ``(n_spots, k)``, the nearest first.
    """
    from scipy.spatial import cKDTree  # takes half a second to import, and few sections need it

    workers = -1 if len(centres) > _MANY else 1  # threads cost more than they save on few spots
    distances, _ = cKDTree(centres).query(centres, k=k + 1, workers=workers)
    return np.asarray(distances[:, 1:], dtype=np.float64)


def neighbour_distance(centres: NDArray[np.float64]) -> float:
    """Compute the median distance from a spot to its nearest other spot; 0 for fewer than two spots."""
    return float(np.median(nearest_distances(centres))) if len(centres) > 1 else 0.0
