"""Standardise image features by section or by the training sections."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nh2st_graph.nn import LARGE, Rows

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
        mean, std = _moments(np.vstack(list(features)))
        return cls(mean.astype(np.float32), std.astype(np.float32))

    def __call__(self, features: NDArray[np.float32 | np.uint8]) -> NDArray[np.float32 | np.uint8]:
        """Standardise one section's features, ``(n_spots, n_features)``. A constant feature becomes zero."""
        if self._as_given:
            return features
        values = features.astype(np.float64)
        mean, std = self._statistics(values)
        scores = np.divide(values - mean, std, out=np.zeros_like(values), where=std > 0)
        return scores.astype(np.float32)

    def rows(self, features: NDArray[np.float32 | np.uint8]) -> Rows:
        """Standardise one section's features where they are read."""
        if self._as_given:
            return Rows(features)
        mean, std = self._statistics(features)
        return Rows(features, mean=mean, std=std)

    @property
    def _as_given(self) -> bool:
        return self.mean is not None and self.std is not None and not self.mean.any() and bool((self.std == 1).all())

    def _statistics(self, features: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give mean and standard deviation; the latter is 0 for a constant feature."""
        if self.mean is None or self.std is None:
            mean, std = _moments(features)
        else:
            mean, std = self.mean.astype(np.float64), self.std.astype(np.float64)
        # Rounding gives a constant column a standard deviation of about its size times the machine's precision.
        return mean, np.where(std > 1e-7 * np.maximum(np.abs(mean), 1.0), std, 0.0)


def _moments(features: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute mean and standard deviation of each column; of many rows some at a time."""
    if len(features) < LARGE:
        values = features.astype(np.float64, copy=False)
        return values.mean(axis=0), values.std(axis=0)
    rows, none = Rows(features), torch.zeros(features.shape[1], dtype=torch.float64)
    # Sums that wait in a list between large blocks keep the memory of these from the system.
    mean = sum((part.double().sum(dim=0) for part in rows.blocks()), start=none) / len(features)
    squares = sum(((part.double() - mean).square().sum(dim=0) for part in rows.blocks()), start=none)
    return mean.numpy(), (squares / len(features)).sqrt().numpy()
