"""Measure the lattice of spots on the training sections, for slides without spots."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from anndata import AnnData

from nh2st_graph.im import Lattice
from nh2st_graph.section import lattice_neighbours, library, library_id, spot_pitch

__all__ = ["training_lattice"]


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
