"""Tell an image at another resolution by features that an encoder has at several scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nh2st_graph.confidence._columns import FeatureColumns

__all__ = ["ScaleShift"]

Floats = NDArray[np.float32]

#: A shift counts if it is as large as a factor of 1.3, and explains so much of how the features differ.
_LEAST, _EXPLAINED = 0.4, 0.75


@dataclass(frozen=True)
class ScaleShift:
    """How features change with the side of the patch, measured on the training sections.

    A patch of 224 um in an image whose resolution is stated as half of what it is shows 448 um of tissue. So all of an
    encoder's features move to where those of the next scale were in training. The shift along this direction is an
    estimate of the factor.

    Attributes
    ----------
    columns
        Features of each scale, ``(n_scales, n_columns)``.
    mean
        Their means over the training sections, ``(n_scales, n_columns)``.
    scale
        Inverse standard deviation of each feature, ``(n_columns,)``; 0 for a constant one.
    slope
        Change of a feature, in standard deviations, if the side of the patch doubles, ``(n_columns,)``.
    """

    columns: NDArray[np.int32]
    mean: Floats
    scale: Floats
    slope: Floats

    @classmethod
    def fit(cls, sections: Sequence[NDArray[Any]], columns: FeatureColumns) -> ScaleShift | None:
        """Measure it on the features of training sections, ``(n_spots, n_features)`` each.

        Returns
        -------
        None if no encoder has several scales, or if its features do not change with the scale.
        """
        if not columns.scales:
            return None
        octaves = np.log2([side for side, _ in columns.scales])
        octaves -= octaves.mean()
        where = np.stack([each for _, each in columns.scales])
        mean = np.mean([part[:, where].mean(axis=0, dtype=np.float64) for part in sections], axis=0)
        std = np.concatenate([part[:, where] for part in sections]).std(axis=0, dtype=np.float64).mean(axis=0)
        scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > 1e-6 * np.abs(mean).max(axis=0))
        slope = octaves @ mean / (octaves @ octaves) * scale
        if not np.abs(slope).max() > 0:
            return None
        return cls(where.astype(np.int32), *(each.astype(np.float32) for each in (mean, scale, slope)))

    def factor(self, features: NDArray[Any]) -> float | None:
        """Estimate how many times the stated resolution (um per px) an image seems to have.

        Parameters
        ----------
        features
            Spots of the section, ``(n_spots, n_features)``.

        Returns
        -------
        None if the section does not differ from those of training by its resolution, or mostly by something else.
        """
        values = features[:, self.columns].mean(axis=0, dtype=np.float64)
        moved = ((values - self.mean) * self.scale).mean(axis=0)
        length = float(self.slope @ self.slope)
        shift = float(moved @ self.slope) / length
        if abs(shift) < _LEAST or shift**2 * length < _EXPLAINED * float(moved @ moved):
            return None
        return float(2**shift)

    def state(self) -> dict[str, NDArray[Any]]:
        """Give the arrays by their names."""
        return {each.name: np.ascontiguousarray(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def restore(cls, state: Mapping[str, NDArray[Any]]) -> ScaleShift:
        """Make it of what :meth:`state` gave."""
        return cls(**{each.name: state[each.name] for each in fields(cls)})
