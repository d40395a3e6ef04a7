"""Groups of spots that are held out together when a method chooses its hyper-parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import Data

__all__ = [
    "MOST_FOLDS",
    "by_section",
    "drawn_spots",
    "patient_digest",
    "patient_groups",
    "patients_of",
    "section_groups",
]


#: Largest number of parts that are held out in turn; if there are more sections or patients, a part is several of them.
MOST_FOLDS = 5


def section_groups(sections: Sequence[Data], n_bands: int = 3) -> NDArray[np.int64]:
    """Number the spots of the joined sections by section; by band if there is only one section.

    Parameters
    ----------
    sections
        Training sections.
    n_bands
        Bands of equal numbers of spots across the longer side of a single section, by ``pos``.

    Returns
    -------
    ``(n_spots,)``, in the order of the sections.
    """
    if len(sections) == 1:
        return np.asarray(_bands(sections[0].pos, n_bands))
    return np.repeat(np.arange(len(sections)), [int(section.num_nodes or 0) for section in sections])


def patients_of(sections: Sequence[Data]) -> list[str]:
    """Name each section's patient; a section without one is a patient of its own, whom no other section names."""
    return [str(each.patient) if "patient" in each else f"unknown ({each.section})" for each in sections]


def patient_digest(name: str) -> str:
    """Stand for a patient's name in a model's file, which names nobody."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def patient_groups(sections: Sequence[Data]) -> NDArray[np.int64]:
    """Number the spots of the joined sections by patient; as :func:`section_groups` if there is only one patient."""
    patients = patients_of(sections)
    _, numbers = np.unique(patients, return_inverse=True)
    if len(set(patients)) == 1:
        return section_groups(sections)
    return np.repeat(numbers, [int(section.num_nodes or 0) for section in sections])


def drawn_spots(sections: Sequence[Data], most: int) -> NDArray[np.int64]:
    """Draw spots of the sections, as many of each as its share of all spots, evenly over its tissue.

    Spots are taken at equal steps along a curve that fills the plane (of Morton order), so that no row or column of an
    array is preferred. Nothing is random.

    Parameters
    ----------
    sections
        Training sections, with ``pos``.
    most
        Number of spots to draw.

    Returns
    -------
    Positions among the spots of the joined sections, ascending; all of them if there are no more than ``most``.
    """
    sizes = [int(section.num_nodes or 0) for section in sections]
    if sum(sizes) <= most:
        return np.arange(sum(sizes))
    start = np.cumsum(sizes) - sizes
    curve = np.concatenate([_along_curve(each.pos) + first for each, first in zip(sections, start, strict=True)])
    return np.sort(curve[np.linspace(0, sum(sizes) - 1, most).round().astype(np.int64)])


def by_section(drawn: NDArray[np.int64], sections: Sequence[Data]) -> list[NDArray[np.int64]]:
    """Give the positions of drawn spots in each section, from ascending positions among the joined spots."""
    sizes = [int(section.num_nodes or 0) for section in sections]
    ends = np.cumsum(sizes)
    parts = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
    return [part - (end - size) for part, end, size in zip(parts, ends, sizes, strict=True)]


def _along_curve(position: Tensor) -> NDArray[np.int64]:
    """Order spots along the curve of Morton (1966): by their coordinates with the bits interleaved."""
    left = (position - position.min(dim=0).values).double().numpy()
    cells = (left / max(float(left.max()), 1e-300) * (2**16 - 1)).astype(np.uint64)
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        cells = (cells | cells << np.uint64(shift)) & np.uint64(mask)
    return np.asarray(np.argsort(cells[:, 0] | cells[:, 1] << np.uint64(1), kind="stable"))


def _bands(position: Tensor, n_bands: int) -> Tensor:
    """Number the bands of equal numbers of spots across the longer side of a section."""
    extent = position.max(dim=0).values - position.min(dim=0).values
    along = position[:, int(extent.argmax())]
    rank = along.argsort(stable=True).argsort(stable=True)
    return rank * n_bands // max(len(rank), 1)
