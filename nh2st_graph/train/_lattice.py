"""Measure the lattice of spots on the training sections, for slides without spots."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
from anndata import AnnData

from nh2st_graph.im import Lattice
from nh2st_graph.section import lattice_neighbours, library, library_id, section_name, spot_pitch

__all__ = ["say_other_pitch", "training_lattice"]

logger = logging.getLogger("nh2st_graph")

#: Pitches that differ by a larger factor are no errors of measurement.
_APART = 1.25


def training_lattice(sections: Iterable[AnnData]) -> Lattice | None:
    """Measure the lattice of sections: medians of their pitch and spot diameter, and the layout of most of them.

    Returns
    -------
    The lattice; None if no section has both a resolution and a spot diameter.
    """
    known = []
    for section in sections:
        if library_id(section) is None or section.n_obs < 2:
            continue
        found = library(section)
        scale, diameter = found.microns_per_pixel, found.spot_diameter
        if scale and diameter:
            known.append((spot_pitch(section) * scale, diameter * scale, lattice_neighbours(section) == 6))
    if not known:
        return None
    pitch, diameter, hexagonal = np.median(np.array(known, dtype=float), axis=0)
    return Lattice(float(pitch), float(diameter), "hex" if hexagonal > 0.5 else "grid")


def say_other_pitch(section: AnnData, lattice: Lattice | None) -> None:
    """Warn of a section whose spots are much nearer or farther than those of the training sections.

    Parameters
    ----------
    section
        One section; nothing is said without its resolution.
    lattice
        That of the training sections; None if it is unknown.
    """
    scale = library(section).microns_per_pixel if library_id(section) is not None else None
    if lattice is None or scale is None or section.n_obs < 2:
        return
    pitch = spot_pitch(section) * scale
    if not 1 / _APART <= pitch / lattice.pitch_um <= _APART:
        logger.warning(
            "section %r: its spots are %.4g um apart, those of training %.4g um; the model reads neighbours at other "
            "distances than it learned",
            section_name(section),
            pitch,
            lattice.pitch_um,
        )
