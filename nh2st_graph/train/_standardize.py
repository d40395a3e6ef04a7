"""Standardise image features by section or by the training sections."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Standardizer"]


@dataclass(frozen=True)
class Standardizer:
    """Turns image features into z-scores.

    The statistics are each section's own (``features.standardize: section``), which removes differences of stain and
    scanner between sections and needs no gene, or those of the training sections (``train``). With ``none``, features
    stay as they are, bytes too.

    Attributes
    ----------
    mean, std
        Statistics of the training sections, ``(n_features,)``. None if each section has its own; 0 and 1 for ``none``.
    """

    mean: NDArray[np.float32] | None = None
    std: NDArray[np.float32] | None = None

    @classmethod
    def fit(cls, features: Iterable[NDArray[np.float32 | np.uint8]], mode: str) -> Standardizer:
        """Compute the statistics of the training sections' features."""
        if mode == "section":
            return cls()
        if mode == "none":
            n_features = next(iter(features)).shape[1]
            return cls(np.zeros(n_features, np.float32), np.ones(n_features, np.float32))
        joined = np.vstack(list(features)).astype(np.float64)
        return cls(joined.mean(axis=0).astype(np.float32), joined.std(axis=0).astype(np.float32))

    def __call__(self, features: NDArray[np.float32 | np.uint8]) -> NDArray[np.float32 | np.uint8]:
        """Standardise one section's features, ``(n_spots, n_features)``. A constant feature becomes zero."""
        if self.mean is not None and self.std is not None and not self.mean.any() and (self.std == 1).all():
            return features
        values = features.astype(np.float64)
        if self.mean is None or self.std is None:
            mean, std = values.mean(axis=0), values.std(axis=0)
        else:
            mean, std = self.mean.astype(np.float64), self.std.astype(np.float64)
        # Rounding gives a constant column a standard deviation of about its size times the machine's precision.
        varies = std > 1e-7 * np.maximum(np.abs(mean), 1.0)
        scores = np.divide(values - mean, std, out=np.zeros_like(values), where=varies)
        return scores.astype(np.float32)
