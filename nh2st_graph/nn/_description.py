"""Descriptions of spots by their own image features and those around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from nh2st_graph.nn._rings import add_ring_means, rings_of, senders_of
from nh2st_graph.nn._rows import Rows, blocks_of

__all__ = ["DescribedSpots", "Description", "own_and_around"]

#: Z-scores are cut off here, so that a rare value (a speck of dust, an empty bin of a histogram) is not far from all.
_CUT = 3.0
#: Spots that are described at a time: next to each other, and spread over the section, which have more around them.
_ROWS, _SPREAD = 8192, 512


@dataclass(frozen=True)
class Description:
    """Describes a spot by its own image features and by the means of the rings around it.

    The first ring are a spot's senders, its neighbours. A further one are the spots whose shortest way to it has that
    many edges. The mean over a wide ring has less noise of single patches than one over the neighbours alone.

    Features become z-scores by the training spots, cut off at 3. Each group of features (those of one encoder, at any
    scale) has the same weight in distances and products, so that an encoder does not count more for being wider.

    Attributes
    ----------
    mean, std
        Statistics of the training spots, ``(n_features,)``.
    weight
        Factor on each z-score, ``(n_features,)``; their squares add up to 1.
    parts
        Factors of a spot's own features and of the mean of each ring, ``(1 + n_rings,)``; their squares add up to 1. 0
        leaves a part out.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    parts: Tensor

    @classmethod
    def fit(
        cls, features: Sequence[Tensor | Rows], groups: Tensor | None = None, *, own: bool = True, around: bool = True
    ) -> Description:
        """Take statistics from the features of training sections, for a description with one ring.

        Parameters
        ----------
        features
            ``(n_spots, n_features)`` for each section.
        groups
            Number of each feature's group, ``(n_features,)``; one group if None.
        own, around
            Whether a spot's own features and its neighbours' are part of the description.
        """
        n_spots, n_features = sum(len(each) for each in features), features[0].shape[1]
        mean, square = torch.zeros(2, n_features, dtype=torch.float64)
        for rows in _blocks(features):
            mean += rows.sum(dim=0) / n_spots
        for rows in _blocks(features):
            square += (rows - mean).square().sum(dim=0) / n_spots
        # Rounding gives a constant column a standard deviation of about its size times the machine's precision.
        std = square.sqrt()
        std = torch.where(std > 1e-7 * mean.abs().clamp_min(1.0), std, torch.inf)
        groups = torch.zeros(len(mean), dtype=torch.int64) if groups is None else groups
        _, group, size = groups.unique(return_inverse=True, return_counts=True)
        weight = (len(size) * size[group]).double().rsqrt()
        return cls(mean, std, weight, torch.tensor([own, around]).double() / (own + around) ** 0.5)

    @property
    def n_rings(self) -> int:
        """Number of rings."""
        return len(self.parts) - 1

    @property
    def reach(self) -> int:
        """Number of edges within which a description reads features."""
        return self.n_rings if self.parts[1:].any() else 0

    def with_rings(self, n_rings: int) -> Description:
        """Divide the weight of the surroundings equally over some rings; without surroundings, nothing changes."""
        if not self.reach:
            return self
        each = self.parts[1:].norm() / n_rings**0.5
        return replace(self, parts=torch.cat([self.parts[:1], each.expand(n_rings)]))

    def by_features(self, kept: Tensor) -> Description:
        """Describe spots by some features alone, ``kept`` ``(n_features,)`` bool, which share the weight of all."""
        weight = self.weight * kept
        return replace(self, weight=weight / weight.norm())

    def of(self, x: Tensor | Rows, edge_index: Tensor) -> DescribedSpots:
        """Describe the spots of one whole section when they are read."""
        return DescribedSpots(self, x, senders_of(edge_index, len(x)))

    def __call__(self, x: Tensor | Rows, edge_index: Tensor) -> Tensor:
        """Describe the spots of one whole section, ``(n_spots, (1 + n_rings) n_features)`` float64.

        The mean of a ring without spots is zero.
        """
        return self.of(x, edge_index).read(slice(0, len(x)))

    def own(self, x: Tensor) -> Tensor:
        """Compute weighted z-scores, ``(n_spots, n_features)`` float64."""
        # In place, as this is most of the time that a linear prediction takes.
        return x.to(torch.float64, copy=True).sub_(self.mean).div_(self.std).clamp_(-_CUT, _CUT).mul_(self.weight)


def _blocks(features: Sequence[Tensor | Rows]) -> Iterator[Tensor]:
    for each in features:
        for rows in blocks_of(each, _ROWS):
            yield rows.double()


@dataclass(frozen=True)
class DescribedSpots:
    """Descriptions of one section's spots, which are computed where they are read.

    Attributes
    ----------
    description
        Describes spots.
    x
        Image features, ``(n_spots, n_features)``.
    senders
        Each spot's senders; see :func:`senders_of`.
    """

    description: Description
    x: Tensor | Rows
    senders: sparse.csr_array

    def __len__(self) -> int:
        return len(self.x)

    def read(self, spots: NDArray[np.int64] | slice, dtype: torch.dtype = torch.float64) -> Tensor:
        """Describe some spots, ``(n, (1 + n_rings) n_features)``."""
        of, many = self.description, len(np.arange(len(self))[spots])
        described = torch.empty(many, (of.n_rings + 1) * self.x.shape[1], dtype=dtype)
        self.write(spots, described)
        return described

    def write(self, spots: NDArray[np.int64] | slice, described: Tensor) -> None:
        """Write what :meth:`read` gives, in the precision of ``described``."""
        of, dtype = self.description, described.dtype
        by_part, parts = described.unflatten(1, (of.n_rings + 1, -1)), of.parts.to(dtype)
        asked, at_once = np.arange(len(self))[spots], _ROWS if isinstance(spots, slice) else _SPREAD
        for start in range(0, len(asked), at_once):
            some = slice(start, start + at_once)
            found = own_and_around(self.x, self.senders, asked[some], lambda x: of.own(x).to(dtype), of.n_rings)
            for i, (features, factor) in enumerate(zip(found, parts, strict=True)):
                torch.mul(features, factor, out=by_part[some, i])

    def blocks(self, dtype: torch.dtype = torch.float64) -> Iterator[Tensor]:
        """Describe all spots in order, some at a time."""
        for start in range(0, len(self), _ROWS):
            yield self.read(slice(start, min(start + _ROWS, len(self))), dtype)

    def products(self, coefficients: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Multiply the descriptions of all spots by a matrix, without holding them.

        Features are multiplied before means are taken of the products, which are fewer.

        Parameters
        ----------
        coefficients
            ``((1 + n_rings) n_features, k)``.
        dtype
            Precision.

        Returns
        -------
        Products, ``(n_spots, k)``.
        """
        parts = self.description.parts[:, None, None]
        by_part = parts * coefficients.double().unflatten(0, (len(parts), -1))
        together = by_part.transpose(0, 1).flatten(1).to(dtype)
        products, start = torch.empty(len(parts), len(self), coefficients.shape[1], dtype=dtype), 0
        for x in blocks_of(self.x, _ROWS):
            found = self.description.own(x).to(dtype) @ together
            products[:, start : start + len(x)] = found.unflatten(1, (len(parts), -1)).transpose(0, 1)
            start += len(x)
        add_ring_means(self.senders, products[1:], products[0])
        return products[0]


def own_and_around(
    x: Tensor | Rows,
    senders: sparse.csr_array,
    spots: NDArray[np.int64] | slice,
    prepare: Callable[[Tensor], Tensor] = Tensor.double,
    n_rings: int = 1,
) -> Iterator[Tensor]:
    """Give some spots' features, then the mean over each ring around them, ``(n, d)`` each; zeros of an empty ring.

    Parameters
    ----------
    x
        Features of all spots, of which only those of these spots and of their rings are read, each once.
    senders
        See :func:`senders_of`.
    spots
        Positions of the spots.
    prepare
        What becomes of features before means are taken.
    n_rings
        Number of rings; see :func:`rings_of`.
    """
    rings, asked = list(rings_of(senders, spots, n_rings)), np.arange(len(x))[spots]
    inside = np.zeros(len(x), dtype=bool)
    for positions in (asked, *(ring.indices for ring in rings)):
        inside[positions] = True
    read = np.flatnonzero(inside)
    place = np.empty(len(x), dtype=rings[0].indices.dtype)
    place[read] = np.arange(len(read))
    features = prepare(x[torch.from_numpy(read)])
    yield features[torch.from_numpy(place[asked])]
    for ring in rings:
        shape = len(asked), len(read)
        yield _means(sparse.csr_array((ring.data, place[ring.indices], ring.indptr), shape=shape), features)


def _means(ring: sparse.csr_array, values: Tensor) -> Tensor:
    """Take the mean of values, ``(n_spots, d)``, over the spots of each row; zeros of an empty row."""
    many = torch.from_numpy(np.diff(ring.indptr)).clamp_min(1)[:, None].to(values.dtype)
    joined = values.numpy()
    summed = sparse.csr_array((ring.data.astype(joined.dtype), ring.indices, ring.indptr), shape=ring.shape) @ joined
    return torch.from_numpy(summed) / many
