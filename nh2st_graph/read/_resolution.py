"""Compute the resolution of an image from the spots on it: the distances of an array are known in um.

Readers need it before there is a section, and their array positions may be fractions. For the pitch of a section in
pixels, and the neighbours of its spots, see ``section/_lattice.py``.
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

# Pixels are square: if the steps of a square array differ by more, they were not measured on one image.
_STEPS_AGREE = 0.1

# Spots lie off the fitted array by up to a tenth of a step; at half a step, the positions do not belong together.
_OFF_ARRAY = 0.5

# The second ring is 1.41 times as far as the first on a square lattice, 1.73 times on a hexagonal one.
_FIRST_RING = 1.2


class Scale(NamedTuple):
    """Resolution of an image and diameter of a spot, from the array on the image."""

    microns_per_pixel: float
    spot_um: float


def st_scale(array: NDArray[np.float64], pixels: NDArray[np.float64], where: str) -> Scale:
    """Compute the resolution of an image under an array of Spatial Transcriptomics.

    Parameters
    ----------
    array
        ``(n_spots, 2)``, x then y on the array; may be fractions (positions of the spots as they were found).
    pixels
        ``(n_spots, 2)``, x then y in pixels.
    where
        The section and its file, to start an error message with.

    Returns
    -------
    Um per pixel and the spot diameter in um. The array is the one with 1934 spots if all spots lie on fields of one
    colour of the chessboard, else the one with 1007.

    Raises
    ------
    DataError
        If the spots do not give the resolution, or the two kinds of coordinates do not belong together.
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
    """Compute the pixels from one position of an array to the next, along x and along y.

    An affine map is fitted by least squares, and then twice more without the spots that lie furthest off. The result
    does not depend on missing spots, on a turned or mirrored image, or on a few misplaced spots.

    Returns
    -------
    One length for each axis of the array along which spots differ.

    Raises
    ------
    DataError
        If the spots lie on one position, on a line across the axes, or nowhere near an array.
    """
    axes = np.ptp(array, axis=0) >= 0.5
    positions = array[:, axes]
    kept = np.ones(len(array), dtype=bool)
    for _ in range(3):
        design = np.column_stack([positions, np.ones(len(positions))])
        fit, _, rank, _ = np.linalg.lstsq(design[kept], pixels[kept], rcond=None)
        if not axes.any() or rank <= axes.sum():
            raise DataError(
                f"{where}: um per pixel cannot be computed from {len(array)} spots that lie on one place or line; "
                "give spots at several positions of the array"
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
    """Compute the mean distance from a spot to its nearest ones, in pixels, without array positions.

    Raises
    ------
    DataError
        If there are fewer than two spots, or they share one place.
    """
    pitch = neighbour_distance(pixels)
    if not pitch > 0:
        raise DataError(
            f"{where}: um per pixel cannot be computed from {len(pixels)} spots on one place; "
            "give spots at several positions"
        )
    near = nearest_distances(pixels, min(6, len(pixels) - 1))
    # Positions are rounded to pixels: the nearest of a ring is too near, its mean is not.
    return float(near[(near > pitch / _FIRST_RING) & (near < pitch * _FIRST_RING)].mean())
