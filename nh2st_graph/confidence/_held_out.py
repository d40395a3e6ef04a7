"""What a model predicted of tissue that it had not learned from, beside what was measured there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BAND", "PATIENT", "HeldOut", "joined", "units_of"]

#: What is exchanged where there are several patients, and where there is one section.
PATIENT, BAND = "patient", "band"


@dataclass(frozen=True, eq=False)
class HeldOut:
    """One section, or a part of it, that a model of the other training data predicted.

    Attributes
    ----------
    section, patient
        Names; a patient whom nobody names is empty.
    part
        Name of the held-out part: with a single training section, a band of it.
    predicted, observed
        Log expression, ``(n_spots, n_genes)``.
    depth
        Library size of each spot, ``(n_spots,)``.
    blocks
        Number of each spot's block of tissue within this part, ``(n_spots,)``: neighbours tell about each other, and
        blocks little.
    pos
        Positions of the spots, ``(n_spots, 2)``.
    """

    section: str
    patient: str
    part: str
    predicted: NDArray[Any]
    observed: NDArray[Any]
    depth: NDArray[Any]
    blocks: NDArray[np.int64]
    pos: NDArray[Any]


def joined(parts: Sequence[HeldOut]) -> list[HeldOut]:
    """Join the parts of each section, so that scores are over whole sections; blocks stay apart."""
    whole = []
    for section in sorted({each.section for each in parts}):
        of = [each for each in parts if each.section == section]
        first = np.cumsum([0, *(int(each.blocks.max()) + 1 for each in of)])
        arrays = {
            name: np.concatenate([getattr(each, name) for each in of])
            for name in ("predicted", "observed", "depth", "pos")
        }
        blocks = np.concatenate([each.blocks + begin for each, begin in zip(of, first, strict=False)])
        part = of[0].part if len(of) == 1 else ""
        whole.append(HeldOut(section, of[0].patient, part, blocks=blocks, **arrays))
    return whole


def units_of(parts: Sequence[HeldOut]) -> tuple[str, list[str]]:
    """Say what a new slide is exchangeable with, and name it for each part.

    Returns
    -------
    ``"patient"`` where several patients are named, else ``"section"`` where there are several sections, else
    ``"band"``; and the name of each part's patient, section or band. A section of nobody is a patient of its own.
    """
    if len({each.patient for each in parts} - {""}) > 1:
        return PATIENT, [each.patient or f"of {each.section}" for each in parts]
    if len({each.section for each in parts}) > 1:
        return "section", [each.section for each in parts]
    return BAND, [each.part for each in parts]
