"""What the columns of image features are: blocks that weigh alike, groups with a meaning, and scales to compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nh2st_graph.section import Key

__all__ = ["FeatureColumns"]

#: Beginnings of the names of features that other stains and scanners shift.
_COLOUR = ("colour_", "stain_", "summary_", "histogram_")
#: What names of features contain that say how pixels are arranged, whatever their colours are.
_STRUCTURE = ("_pattern-", "_correlation_")
#: A difference of two places of a patch says less of the colours of the slide.
_NO_COLOUR = "_disc-ring"
#: A group of fewer columns says too little.
_FEWEST = 4

Columns = NDArray[np.intp]


@dataclass(frozen=True)
class FeatureColumns:
    """What the columns of image features are.

    Attributes
    ----------
    sizes
        Number of columns of each block: an encoder at one scale.
    groups
        Columns by what they show, ``colour`` and ``structure``, as far as names of features tell.
    scales
        Side of the patch in um, and the columns, of blocks of one encoder at several scales: the same features in the
        same order. Empty if there are none.
    """

    sizes: tuple[int, ...]
    groups: Mapping[str, Columns] = field(default_factory=dict)
    scales: tuple[tuple[float, Columns], ...] = ()

    @classmethod
    def of(cls, entry: Mapping[str, Any], n_features: int) -> FeatureColumns:
        """Read what ``uns["X_image"]`` says of features; of those that it does not describe, all are one block."""
        encoders = [str(name) for name in np.atleast_1d(entry.get(Key.features.encoders, ()))]
        sizes = [int(size) for size in np.atleast_1d(entry.get(Key.features.n_features, ()))]
        names = np.array([str(name) for name in np.atleast_1d(entry.get(Key.features.names, ()))])
        if len(encoders) != len(sizes) or sum(sizes) != n_features:
            encoders, sizes = [""], [n_features]
        um = np.atleast_1d(np.asarray(entry.get(Key.features.patch_um, np.nan), dtype=float))
        um = np.full(len(sizes), um[0]) if len(um) != len(sizes) else um
        groups = _groups(names) if len(names) == n_features else {}
        return cls(tuple(sizes), groups, _scales(encoders, sizes, um, groups.get("structure")))

    @property
    def n_features(self) -> int:
        """Number of all columns."""
        return sum(self.sizes)

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weight of each column, ``(n_features,)``, such that blocks weigh alike."""
        return np.repeat([1 / np.sqrt(max(size, 1)) for size in self.sizes], self.sizes)


def _groups(names: NDArray[np.str_]) -> dict[str, Columns]:
    """Find the columns of colour and of structure by the names of features."""
    plain = [name.partition(" (")[0] for name in names]
    found = {
        "colour": [name.startswith(_COLOUR) and not name.endswith(_NO_COLOUR) for name in plain],
        "structure": [any(part in name for part in _STRUCTURE) for name in plain],
    }
    return {name: np.flatnonzero(inside) for name, inside in found.items() if sum(inside) >= _FEWEST}


def _scales(
    encoders: list[str], sizes: list[int], um: NDArray[np.float64], structure: Columns | None
) -> tuple[tuple[float, Columns], ...]:
    """Find an encoder at several scales; of its features those of structure, if it has any."""
    ends = np.cumsum(sizes)
    blocks = [
        (name, float(side), np.arange(end - size, end))
        for name, side, end, size in zip(encoders, um, ends, sizes, strict=True)
    ]
    found: list[tuple[tuple[float, Columns], ...]] = []
    for _, same in groupby(sorted(blocks, key=lambda block: (encoders.index(block[0]), block[1])), key=lambda b: b[0]):
        parts = [(side, columns) for _, side, columns in same if np.isfinite(side)]
        if len({side for side, _ in parts}) < 2 or len({len(columns) for _, columns in parts}) > 1:
            continue
        inside = np.isin(parts[0][1], () if structure is None else structure)
        if inside.any():
            return tuple((side, columns[inside]) for side, columns in parts)
        found.append(tuple(parts))
    return found[0] if found else ()
