"""Principal components of expression over any number of spots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nh2st_graph.nn._rows import LARGE, Rows, blocks_of, dense

__all__ = ["Components", "components", "leading"]

#: Components with less than this share of the targets' norm are rounding errors of the targets' mean.
_RANK = 1e-9
#: Spots that are computed with at a time.
_ROWS = 8192


class Components(NamedTuple):
    """Leading principal components of expression, float64.

    Attributes
    ----------
    mean
        Mean of all spots, ``(n_genes,)``.
    singular
        Singular values of the centred targets, largest first, ``(n_kept,)``.
    loadings
        Right singular vectors, ``(n_kept, n_genes)``. The largest loading of each is positive, since the sign of a
        component is arbitrary, and all machines shall agree.
    """

    mean: Tensor
    singular: Tensor
    loadings: Tensor


def components(
    targets: Sequence[Tensor | Rows],
    n_components: int,
    *,
    apart: bool = False,
    weights: Sequence[Tensor] | None = None,
    large: int = LARGE,
) -> Components:
    """Find the leading principal components of expression.

    Few spots have a singular value decomposition. Many spots are read once, a block at a time, and the components are
    eigenvectors of their Gram matrix, ``(n_genes, n_genes)`` in float64. The Gram matrix squares singular values: a
    component of less than about 1e-7 of the first cannot be told from rounding errors there, and is left out.

    Parameters
    ----------
    targets
        ``(n_spots, n_genes)`` of each section.
    n_components
        Number of components; fewer are returned if the targets have a lower rank.
    apart
        Centre each section by its own mean, so that a difference between sections is no component.
    weights
        Weight of each spot after centring, ``(n_spots,)`` for each section; 1 if None.
    large
        Number of spots from which on the Gram matrix is used, if there are more spots than genes.
    """
    n_spots, n_genes = sum(len(each) for each in targets), targets[0].shape[1]
    if n_spots >= max(large, n_genes):
        return _of_gram(targets, n_components, apart, weights)
    parts = [dense(each).double() for each in targets]
    mean = torch.cat(parts).mean(dim=0)
    factors: Sequence[Tensor | float] = [1.0] * len(parts)
    if weights is not None:
        factors = [each.double().sqrt()[:, None] for each in weights]
    centres = [each.mean(dim=0) if apart else mean for each in parts]
    centred = torch.cat([f * (each - c) for f, each, c in zip(factors, parts, centres, strict=True)])
    size = float(torch.cat([f * each for f, each in zip(factors, parts, strict=True)]).norm())
    return Components(mean, *leading(centred, n_components, size))


def leading(centred: Tensor, n_components: int, size: float) -> tuple[Tensor, Tensor]:
    """Decompose centred targets, whose norm was ``size`` before; see :class:`Components` for what is returned."""
    _, singular, loadings = torch.linalg.svd(centred, full_matrices=False)
    # Relative to the size of the targets, since all deviations of constant targets are rounding errors.
    kept = min(n_components, int((singular > _RANK * size).sum()))
    return singular[:kept], _signed(loadings[:kept])


def _signed(loadings: Tensor) -> Tensor:
    """Make the largest loading of each component positive."""
    return loadings * torch.sign(loadings.gather(1, loadings.abs().argmax(dim=1, keepdim=True)))


def _of_gram(
    targets: Sequence[Tensor | Rows], n_components: int, apart: bool, weights: Sequence[Tensor] | None
) -> Components:
    n_genes = targets[0].shape[1]
    gram, size, total = np.zeros((n_genes, n_genes)), 0.0, np.zeros(n_genes)
    for group in [[i] for i in range(len(targets))] if apart else [list(range(len(targets)))]:
        moments = _Moments(n_genes)
        for i in group:
            given: Iterable[Tensor | None] = repeat(None) if weights is None else weights[i].split(_ROWS)
            for rows, weight in zip(blocks_of(targets[i], _ROWS), given, strict=False):
                moments.add(rows, weight)
        gram += moments.centred()
        size += moments.size()
        total += moments.n * moments.shift + moments.sum
    values, vectors = torch.linalg.eigh(torch.from_numpy(gram))
    values, loadings = values.flip(0).clamp_min(0.0), vectors.flip(1).T
    resolved = (values.sqrt() > _RANK * size**0.5) & (values > n_genes * np.finfo(np.float64).eps * values[0])
    kept = min(n_components, int(resolved.sum()))
    mean = torch.from_numpy(total / sum(len(each) for each in targets))
    return Components(mean, values[:kept].sqrt(), _signed(loadings[:kept]))


class _Moments:
    """Sums over spots whose centre is not known before all are read, relative to the mean of the first block.

    Relative to a mean of some spots, little is lost when the mean of all is taken off.
    """

    def __init__(self, n_genes: int) -> None:
        self.n, self.weight = 0, 0.0
        self.shift, self.sum, self.weighted = np.zeros((3, n_genes))
        self.gram: NDArray[np.float64] = np.zeros((n_genes, n_genes))

    def add(self, rows: Tensor, weights: Tensor | None = None) -> None:
        """Add spots, ``(n, n_genes)``, with weights, ``(n,)``."""
        values = rows.numpy().astype(np.float64)
        if self.n == 0:
            self.shift = values.mean(axis=0)
        values -= self.shift
        self.n += len(values)
        self.sum += values.sum(axis=0)
        if weights is None:
            self.weight, self.weighted = float(self.n), self.sum
        else:
            root = np.sqrt(weights.double().numpy())
            self.weight += float(weights.double().sum())
            values *= root[:, None]
            self.weighted = self.weighted + root @ values
        # A matrix times its own transpose, which numpy computes by half.
        self.gram += values.T @ values

    def centred(self) -> NDArray[np.float64]:
        """Give the Gram matrix about the mean of the spots, which does not depend on weights."""
        mean = self.sum / max(self.n, 1)
        cross = np.outer(self.weighted, mean)
        return self.gram - cross - cross.T + self.weight * np.outer(mean, mean)

    def size(self) -> float:
        """Give the squared norm of the spots, about zero."""
        return float(np.trace(self.gram) + 2 * self.shift @ self.weighted + self.weight * self.shift @ self.shift)
