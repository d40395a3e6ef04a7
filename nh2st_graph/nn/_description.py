"""Descriptions of spots by their own image features and their neighbours'."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from nh2st_graph.nn._rows import Rows, blocks_of

__all__ = ["DescribedSpots", "Description", "own_and_around", "senders_of"]

#: Z-scores are cut off here, so that a rare value (a speck of dust, an empty bin of a histogram) is not far from all.
_CUT = 3.0
#: Spots that are described at a time.
_ROWS = 8192


@dataclass(frozen=True)
class Description:
    """Describes a spot by its own image features and by the mean of its neighbours'.

    Features become z-scores by the training spots, cut off at 3. Each group of features (those of one encoder, at any
    scale) has the same weight in distances and products, so that an encoder does not count more for being wider.

    Attributes
    ----------
    mean, std
        Statistics of the training spots, ``(n_features,)``.
    weight
        Factor on each z-score, ``(n_features,)``; their squares add up to 1.
    parts
        Factors of a spot's own features and of its neighbours', ``(2,)``; their squares add up to 1. 0 leaves a part
        out.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    parts: Tensor

    @classmethod
    def fit(
        cls, features: Sequence[Tensor | Rows], groups: Tensor | None = None, *, own: bool = True, around: bool = True
    ) -> Description:
        """Take statistics from the features of training sections.

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

    def of(self, x: Tensor | Rows, edge_index: Tensor) -> DescribedSpots:
        """Describe the spots of one whole section when they are read."""
        return DescribedSpots(self, x, senders_of(edge_index, len(x)))

    def __call__(self, x: Tensor | Rows, edge_index: Tensor) -> Tensor:
        """Describe the spots of one whole section, ``(n_spots, 2 n_features)`` float64; zeros without neighbours."""
        return self.of(x, edge_index).read(slice(0, len(x)))

    def own(self, x: Tensor) -> Tensor:
        """Compute weighted z-scores, ``(n_spots, n_features)`` float64."""
        # In place, as this is most of the time that a linear prediction takes.
        return x.double().sub(self.mean).div_(self.std).clamp_(-_CUT, _CUT).mul_(self.weight)


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
        """Describe some spots, ``(n, 2 n_features)``."""
        own, around = own_and_around(self.x, self.senders, spots, lambda x: self.description.own(x).to(dtype))
        parts = self.description.parts.to(dtype)
        return torch.cat([own * parts[0], around * parts[1]], dim=1)

    def blocks(self, dtype: torch.dtype = torch.float64) -> Iterator[Tensor]:
        """Describe all spots in order, some at a time."""
        for start in range(0, len(self), _ROWS):
            yield self.read(slice(start, min(start + _ROWS, len(self))), dtype)


def senders_of(edge_index: Tensor, n_spots: int) -> sparse.csr_array:
    """Give each spot's senders as the columns of its row, ``(n_spots, n_spots)`` int8; values are 1."""
    sender, receiver = edge_index.numpy()
    if not (receiver[1:] >= receiver[:-1]).all():
        order = np.argsort(receiver, kind="stable")
        sender, receiver = sender[order], receiver[order]
    kind = np.int32 if max(n_spots, len(sender)) < 2**31 else np.int64
    start = np.concatenate([[0], np.cumsum(np.bincount(receiver, minlength=n_spots))]).astype(kind)
    return sparse.csr_array((np.ones(len(sender), np.int8), sender.astype(kind), start), shape=(n_spots, n_spots))


def own_and_around(
    x: Tensor | Rows,
    senders: sparse.csr_array,
    spots: NDArray[np.int64] | slice,
    prepare: Callable[[Tensor], Tensor] = Tensor.double,
) -> tuple[Tensor, Tensor]:
    """Give some spots' features and the means of their neighbours', ``(n, d)`` each; zeros without neighbours.

    Parameters
    ----------
    x
        Features of all spots, of which only those of these spots and of their neighbours are read, each once.
    senders
        See :func:`senders_of`.
    spots
        Positions of the spots.
    prepare
        What becomes of features before the mean is taken.
    """
    part, asked = senders[spots], np.arange(len(x))[spots]
    inside = np.zeros(len(x), dtype=bool)
    inside[asked] = inside[part.indices] = True
    read = np.flatnonzero(inside)
    place = np.empty(len(x), dtype=part.indices.dtype)
    place[read] = np.arange(len(read))
    features = prepare(x[torch.from_numpy(read)])
    joined = features.numpy()
    shape = len(asked), len(read)
    of_read = sparse.csr_array((part.data.astype(joined.dtype), place[part.indices], part.indptr), shape=shape)
    many = torch.from_numpy(np.diff(part.indptr)).clamp_min(1)[:, None].to(features.dtype)
    return features[torch.from_numpy(place[asked])], torch.from_numpy(of_read @ joined) / many
