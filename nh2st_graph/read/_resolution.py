"""The scale of an image, told from the spots on it: the distances of an array are known in um.

Readers ask this before there is a section, by positions that need not be whole. What a section says of its array (pitch
in pixels, neighbours of a spot) is in ``gr/_lattice.py``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nh2st_graph._errors import DataError
from nh2st_graph.section import (
    CHESSBOARD_NEIGHBOUR_UM,
    CHESSBOARD_SPOT_UM,
    SQUARE_PITCH_UM,
    SQUARE_SPOT_UM,
    VISIUM_PITCH_UM,
    VISIUM_SPOT_UM,
    nearest_distances,
    neighbour_distance,
    on_one_colour,
)

__all__ = ["VISIUM_PITCH_UM", "VISIUM_SPOT_UM", "Scale", "array_steps", "ring_pitch", "st_scale"]

# Pixels are square: steps of a square array that differ by more were not measured on one image.
_STEPS_AGREE = 0.1

# Spots lie off the fitted array by up to a tenth of a step; where it is half a step, the two do not belong together.
_OFF_ARRAY = 0.5

# The second ring of a square lattice is 1.41 times as far as the first, that of a hexagonal one 1.73 times.
_FIRST_RING = 1.2


class Scale(NamedTuple):
    """What an array says about the image under it."""

    microns_per_pixel: float
    spot_um: float


def st_scale(array: NDArray[np.float64], pixels: NDArray[np.float64], where: str) -> Scale:
    """Scale of an image under an array of Spatial Transcriptomics.

    Parameters
    ----------
    array
        ``(n_spots, 2)``, x then y on the array; need not be whole (positions as spots were found).
    pixels
        ``(n_spots, 2)``, x then y in pixels.
    where
        The section and its file, to begin a message with.

    Returns
    -------
    Um per pixel and the diameter of a spot in um, of the array with 1007 spots or of that with 1934: the latter where
    all spots lie on fields of one colour of the chessboard.

    Raises
    ------
    DataError
        If the spots do not tell the scale, or the two kinds of coordinates do not belong together.
    """
    steps = array_steps(array, pixels, where)
    if len(steps) == 2 and on_one_colour(array):
        return Scale(CHESSBOARD_NEIGHBOUR_UM / float(np.hypot(*steps)), CHESSBOARD_SPOT_UM)
    if max(steps) > min(steps) * (1 + _STEPS_AGREE):
        raise DataError(
            f"{where}: x says {SQUARE_PITCH_UM / steps[0]:.3f} and y says {SQUARE_PITCH_UM / steps[1]:.3f} um per "
            "pixel; pixel and array coordinates do not belong together: download it again"
        )
    return Scale(SQUARE_PITCH_UM / float(np.mean(steps)), SQUARE_SPOT_UM)


def array_steps(array: NDArray[np.float64], pixels: NDArray[np.float64], where: str) -> tuple[float, ...]:
    """Pixels from one position of an array to the next, along x and along y.

    A least-squares fit of an affine map, twice without the spots that lie furthest off it, so that neither missing
    spots nor a turned or mirrored image matter, nor a few misplaced spots.

    Returns
    -------
    One length for each axis of the array that spots differ in.

    Raises
    ------
    DataError
        If the spots lie on one position, or on a line across the axes, or nowhere near an array.
    """
    axes = np.ptp(array, axis=0) >= 0.5
    positions = array[:, axes]
    kept = np.ones(len(array), dtype=bool)
    for _ in range(3):
        design = np.column_stack([positions, np.ones(len(positions))])
        fit, _, rank, _ = np.linalg.lstsq(design[kept], pixels[kept], rcond=None)
        if not axes.any() or rank <= axes.sum():
            raise DataError(
                f"{where}: um per pixel cannot be told from {len(array)} spots that lie on one place or line; "
                "a section needs spots at several positions of the array"
            )
        off = np.linalg.norm(pixels - design @ fit, axis=1)
        kept = off <= max(3 * float(np.median(off)), 1e-6)
    steps = np.linalg.norm(fit[:-1], axis=1)
    if not steps.min() > 0 or np.median(off) > _OFF_ARRAY * steps.min():
        raise DataError(
            f"{where}: pixel and array coordinates do not belong together (spots lie {np.median(off):.0f} px off the "
            "array that fits them best); check that both are of this section"
        )
    return tuple(steps.tolist())


def ring_pitch(pixels: NDArray[np.float64], where: str) -> float:
    """Mean distance of a spot to its nearest ones, in pixels, on a lattice whose positions are not known.

    Raises
    ------
    DataError
        If there are fewer than two spots, or they share one place.
    """
    pitch = neighbour_distance(pixels)
    if not pitch > 0:
        raise DataError(
            f"{where}: um per pixel cannot be told from {len(pixels)} spots on one place; "
            "a section needs spots at several positions"
        )
    near = nearest_distances(pixels, min(6, len(pixels) - 1))
    # Positions are rounded to pixels: the nearest of a ring is too near, its mean is not.
    return float(near[(near > pitch / _FIRST_RING) & (near < pitch * _FIRST_RING)].mean())
