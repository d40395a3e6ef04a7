"""A compact space of image features, and how far spots lie from those of training in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sklearn.neighbors import NearestNeighbors

__all__ = ["Space", "most_components"]

Floats = NDArray[np.float32]

#: Most directions of a space. Wide features get fewer, so that a space stays below some 3 MB.
_MOST, _NUMBERS = 64, 2**19
#: Spots of training that a direction needs.
_SPOTS_EACH = 4
#: Training spots whose mean distance counts.
_NEAREST = 5
#: Variance that is added to that of each direction, as a share of the first one's: what hardly varies is noise.
_NOISE = 1e-3
#: Standard deviations beyond which a feature counts no more: one odd number does not make a spot another tissue.
_FARTHEST = 10.0
#: Spots that are read at a time, so that what is computed from them stays in a core's cache.
_BLOCK = 512


def most_components(n_spots: int, n_columns: int) -> int:
    """Choose the number of directions of a space of so many training spots and features."""
    return max(1, min(_MOST, n_spots // _SPOTS_EACH, _NUMBERS // n_columns, n_columns))


@dataclass(frozen=True)
class Space:
    """Principal components of the features of training spots, each with variance 1, and the length of what they miss.

    Attributes
    ----------
    columns
        Features that are read, ``(n_columns,)``.
    mean, scale, weight
        A feature is centred, divided by its standard deviation, and weighed, ``(n_columns,)`` each. The scale of a
        constant feature is 0.
    components
        Directions, ``(n_components, n_columns)``.
    spread
        Standard deviation along each direction, and along one that is left out, ``(n_components + 1,)``.
    reference
        The training spots, ``(n_spots, n_components + 1)``.
    """

    columns: NDArray[np.int32]
    mean: Floats
    scale: Floats
    weight: Floats
    components: Floats
    spread: Floats
    reference: Floats

    @classmethod
    def fit(
        cls, features: NDArray[Any], columns: NDArray[np.integer], weight: NDArray[np.floating], n_components: int
    ) -> Space:
        """Fit a space.

        Parameters
        ----------
        features
            Training spots, ``(n_spots, n_features)``.
        columns, weight
            Features that are read, and their weights, ``(n_columns,)`` each.
        n_components
            Number of directions, or fewer if the spots have no more.
        """
        from sklearn.decomposition import PCA

        values = features[:, columns].astype(np.float64)
        mean, std = values.mean(axis=0), values.std(axis=0)
        # Rounding gives a constant column a standard deviation of about its size times the machine's precision.
        varies = std > 1e-6 * np.maximum(np.abs(mean), 1e-6)
        scale = np.divide(1.0, std, out=np.zeros_like(std), where=varies)
        scaled = np.clip((values - mean) * scale, -_FARTHEST, _FARTHEST) * weight
        degrees, n_varying = max(len(values) - 1, 1), int(varies.sum())
        n = max(1, min(n_components, degrees, n_varying))
        components, variance = np.zeros((n, len(columns))), np.zeros(n + 1)
        if n_varying:
            pca = PCA(n, random_state=0).fit(scaled)
            left = max(float(scaled.var(axis=0, ddof=1).sum() - pca.explained_variance_.sum()), 0.0)
            components = pca.components_
            variance = np.append(pca.explained_variance_, left / max(min(degrees, n_varying) - n, 1))
        spread = np.sqrt(variance + _NOISE * variance.max())
        numbers = (mean, scale, weight, components, np.where(spread > 0, spread, 1.0), np.zeros((0, n + 1)))
        empty = cls(columns.astype(np.int32), *(each.astype(np.float32) for each in numbers))
        return replace(empty, reference=empty.project(features))

    def state(self) -> dict[str, NDArray[Any]]:
        """Give the arrays by their names."""
        return {each.name: np.ascontiguousarray(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def restore(cls, state: Mapping[str, NDArray[Any]]) -> Space:
        """Make a space of what :meth:`state` gave."""
        return cls(**{each.name: state[each.name] for each in fields(cls)})

    def project(self, features: NDArray[Any]) -> Floats:
        """Bring spots, ``(n_spots, n_features)``, into the space, ``(n_spots, n_components + 1)``."""
        return self._projected(self._chosen(features))

    def _projected(self, chosen: NDArray[Any]) -> Floats:
        scaled = chosen.astype(np.float32)
        # In place: most of the time goes into passes over wide features.
        scaled -= self.mean
        scaled *= self.scale
        np.clip(scaled, -_FARTHEST, _FARTHEST, out=scaled)
        scaled *= self.weight
        along = scaled @ self.components.T
        left = np.einsum("ij,ij->i", scaled, scaled) - np.einsum("ij,ij->i", along, along)
        return np.asarray(np.column_stack([along, np.sqrt(np.maximum(left, 0))]) / self.spread, dtype=np.float32)

    def _chosen(self, features: NDArray[Any]) -> NDArray[Any]:
        return features if len(self.columns) == features.shape[1] else features[:, self.columns]

    def distances(self, features: NDArray[Any]) -> Floats:
        """Compute the mean distance of spots to the nearest training spots, ``(n_spots,)``.

        Parameters
        ----------
        features
            ``(n_spots, n_features)``, which may be a memory map: some spots are read at a time. The distance of a spot
            whose features are not all finite is infinite.
        """
        found = np.empty(len(features), dtype=np.float32)
        for start in range(0, len(features), _BLOCK):
            part = self._chosen(np.asarray(features[start : start + _BLOCK]))
            finite = np.isfinite(part.sum(axis=1, dtype=np.float64))
            near = np.full(len(part), np.inf, dtype=np.float32)
            if finite.any():
                near[finite] = self._search.kneighbors(self._projected(part[finite]))[0].mean(axis=1)
            found[start : start + _BLOCK] = near
        return found

    @cached_property
    def _search(self) -> NearestNeighbors:
        from sklearn.neighbors import NearestNeighbors

        return NearestNeighbors(n_neighbors=min(_NEAREST, len(self.reference)), algorithm="brute").fit(self.reference)
