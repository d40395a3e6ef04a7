"""Solve kernel ridge regressions over parts of the spots, for many penalties."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nh2st_graph.nn._shifted import solve_shifted
from nh2st_graph.nn._workers import on_threads

__all__ = ["Kernel", "Path", "solve_paths"]

#: Directions of a kernel with less than this share of the largest variance are rounding errors.
_RANK = 1e-10
#: Share of the trace of a kernel from which on a pivot of its Cholesky factor is far from rounding.
_FULL = 1e-8
#: Most spots that span the solution; beyond, evenly drawn ones stand for all (Nyström's approximation).
_MOST_POINTS = 2000
#: Spots that are computed with at a time: as many as a processor's cache holds the kernel of.
_ROWS = 1024


class Kernel(NamedTuple):
    r"""Kernel of a regression: :math:`\exp(-\gamma |h - h_j|^2)` with points :math:`h_j`, or linear.

    Attributes
    ----------
    sharpness
        :math:`\gamma`; 0 is the linear kernel :math:`h^T h_j`.
    points
        ``(n_points, d)``. A linear kernel needs none to predict.
    """

    sharpness: float
    points: Tensor

    @classmethod
    def over(cls, described: Tensor, sharpness: float) -> Kernel:
        """Make the kernel whose points are all spots, or as many evenly spaced ones as there may be."""
        if len(described) > _MOST_POINTS:
            described = described[torch.linspace(0, len(described) - 1, _MOST_POINTS).round().long()]
        return cls(sharpness, described)

    def products(self, described: Tensor) -> Tensor:
        """Compute the kernel of spots with the points, ``(n_spots, n_points)``."""
        if not self.sharpness:
            return described @ self.points.T
        # The exponent: -sharpness * (|a|^2 + |b|^2 - 2 a b).
        squares = (self.points.square().sum(dim=1), described.square().sum(dim=1, keepdim=True))
        exponent = torch.addmm(-self.sharpness * squares[0], described, self.points.T, alpha=2 * self.sharpness)
        return exponent.sub_(self.sharpness * squares[1]).clamp_max_(0.0).exp_()

    def predict(self, described: Tensor, coefficients: Tensor) -> Tensor:
        """Compute a prediction but for its intercept, ``(n_spots, n_outputs)``.

        Parameters
        ----------
        described
            ``(n_spots, d)``.
        coefficients
            ``(n_points, n_outputs)``; ``(d, n_outputs)`` if the kernel is linear.
        """
        if not self.sharpness:
            return described @ coefficients
        return torch.cat([self.products(rows) @ coefficients for rows in described.split(_ROWS)])


class Path(NamedTuple):
    """Solutions of weighted ridge regressions with intercept, for every penalty.

    Attributes
    ----------
    found
        ``(n_penalties, rank, n_outputs)``.
    intercepts
        ``(n_penalties, n_outputs)``.
    level
        The weighted mean of what was wanted, which is the prediction of a mean spot, ``(n_outputs,)``.
    held_out
        Predictions of the spots that were not seen, ``(n_penalties, n_held_out, n_outputs)``.
    coefficients
        Gives the coefficients for :meth:`Kernel.predict`, ``(n_inputs, n)``, of columns of ``found``, ``(rank, n)``.
    """

    found: Tensor
    intercepts: Tensor
    level: Tensor
    held_out: Tensor
    coefficients: Callable[[Tensor], Tensor]


class _Problem(NamedTuple):
    """What all regressions have in common: spots, ``(n_spots, ...)``, and penalties in units of their weight."""

    kernel: Kernel
    described: Tensor
    wanted: Tensor
    weights: Tensor
    penalties: Sequence[float]


def solve_paths(
    kernel: Kernel,
    described: Tensor,
    wanted: Tensor,
    weights: Tensor,
    parts: Sequence[Tensor],
    penalties: Sequence[float],
    threads: int = 1,
) -> tuple[Path, list[Path]]:
    """Fit all spots, and all without each part.

    Parameters
    ----------
    kernel
        The kernel over these spots.
    described, wanted, weights
        ``(n_spots, d)``, ``(n_spots, n_outputs)`` and ``(n_spots,)``, float64.
    parts
        Positions of the spots of each part, ascending; together, all.
    penalties
        In units of the weight of the fitted spots.
    threads
        Regressions that are fitted at a time. Numbers do not depend on it.

    Returns
    -------
    The path of all spots, and the paths without each part; none if there is a single part.
    """
    problem = _Problem(kernel, described, wanted, weights, penalties)
    of_all = torch.arange(len(described))
    # All spots first: it takes longest, and threads end together.
    held_out = [of_all[:0], *(parts if len(parts) > 1 else [])]
    n_points, d = kernel.points.shape
    if len(described) == n_points and (kernel.sharpness or d >= n_points):
        # Every spot is a point: without a part, the solution is in the span of the others.
        products = kernel.products(described)
        paths = on_threads(lambda out: _of_spots(problem, products, out), held_out, threads)
    else:
        mapping = _Mapping.of(kernel)
        moments = on_threads(lambda inside: _Moments.of(mapping, problem, inside), parts, threads)
        seen = [moments, *(moments[:k] + moments[k + 1 :] for k in range(len(held_out) - 1))]
        pairs = list(zip(held_out, seen, strict=True))
        paths = on_threads(lambda each: _of_moments(problem, mapping, *each), pairs, threads)
    return paths[0], paths[1:]


def _of_spots(problem: _Problem, products: Tensor, held_out: Tensor) -> Path:
    """Fit all spots but some by the products of each with each: as many equations as spots."""
    inside = torch.ones(len(products), dtype=torch.bool)
    inside[held_out] = False
    seen = inside.nonzero()[:, 0]
    weights, wanted = problem.weights[seen], problem.wanted[seen]
    total = weights.sum().clamp_min(1e-300)
    mean, root = weights / total, weights.sqrt()
    # Relative to the mean spot, which takes the intercept out, and weighted.
    system = products.index_select(0, seen).index_select(1, seen)
    row = system @ mean
    system -= row[:, None]
    system += mean @ row - row
    system *= root[:, None]
    system *= root
    level = mean @ wanted
    solved = solve_shifted(system, root[:, None] * (wanted - level), [float(p * total) for p in problem.penalties])
    solved *= root[:, None]
    intercepts = level - row @ solved
    found = solved.new_zeros(len(solved), len(products), solved.shape[2])
    found[:, seen] = solved

    def coefficients(columns: Tensor) -> Tensor:
        return columns if problem.kernel.sharpness else problem.described.T @ columns

    predicted = products[held_out] @ found + intercepts[:, None]
    return Path(found, intercepts, level, predicted, coefficients)


def _of_moments(problem: _Problem, mapping: _Mapping, held_out: Tensor, moments: Sequence[_Moments]) -> Path:
    """Fit parts whose moments are given: as many equations as the points span directions."""
    first, *others = moments
    total, maps, scores, gram, product = (each.clone() for each in first)
    for other in others:
        for summed, more in zip((total, maps, scores, gram, product), other, strict=True):
            summed += more
    total = total.clamp_min(1e-300)
    gram.addr_(maps, maps, alpha=float(-1 / total))
    product.addr_(maps, scores, alpha=float(-1 / total))
    found = solve_shifted(gram, product, [float(penalty * total) for penalty in problem.penalties])
    level = scores / total
    intercepts = level - (mapping.centre + maps / total) @ found
    predicted = found.new_empty(len(found), len(held_out), found.shape[2])
    if len(held_out):
        # As one product for all penalties, and without the maps, which were too many to keep.
        together = mapping.coefficients(found.permute(1, 0, 2).flatten(1))
        for rows, into in zip(held_out.split(_ROWS), predicted.split(_ROWS, dim=1), strict=True):
            scored = problem.kernel.predict(problem.described[rows], together).unflatten(1, (len(found), -1))
            into.copy_(scored.transpose(0, 1) + intercepts[:, None])
    return Path(found, intercepts, level, predicted, mapping.coefficients)


class _Mapping(NamedTuple):
    """Maps spots so that products are the kernel: products with the points, times a root of their own.

    ``centre`` is the mean map of the points, so that sums relative to it are small. The root is given as ``triangle``,
    its inverse, upper triangular, or else by itself, ``whitening``, ``(n_points, rank)``. With ``directions``, ``(d,
    rank)``, these are the map of a linear kernel by themselves.
    """

    kernel: Kernel
    centre: Tensor
    triangle: Tensor | None = None
    whitening: Tensor | None = None
    directions: Tensor | None = None

    @classmethod
    def of(cls, kernel: Kernel) -> _Mapping:
        """Find the directions that the points span."""
        points = kernel.points
        if not kernel.sharpness and points.shape[1] < len(points):
            # The smaller of two matrices with the same eigenvalues.
            values, vectors = _eigh(points.T @ points)
            vectors = vectors[:, values > _RANK * values[-1].clamp_min(1e-300)]
            return cls(kernel, points.mean(dim=0) @ vectors, directions=vectors)
        products = kernel.products(points)
        root, failed = torch.linalg.cholesky_ex(products)
        if not failed and root.diagonal().min().square() > _FULL * len(points):
            # Any root maps to the same products, and this one takes a tenth of the time.
            return cls(kernel, root.mean(dim=0), triangle=root.T)
        values, vectors = _eigh(products)
        kept = values > _RANK * values[-1].clamp_min(1e-300)
        values, vectors = values[kept].sqrt(), vectors[:, kept]
        return cls(kernel, vectors.mean(dim=0) * values, whitening=vectors / values)

    def __call__(self, described: Tensor) -> Tensor:
        """Map spots relative to the centre, ``(n_spots, rank)``."""
        if self.directions is not None:
            return described @ self.directions - self.centre
        products = self.kernel.products(described)
        if self.triangle is not None:
            return torch.linalg.solve_triangular(self.triangle, products, upper=True, left=False) - self.centre
        assert self.whitening is not None
        return products @ self.whitening - self.centre

    def coefficients(self, columns: Tensor) -> Tensor:
        """Give the coefficients of solutions in the mapped space, ``(rank, n)``."""
        if self.directions is not None:
            return self.directions @ columns
        if self.triangle is not None:
            solved = torch.linalg.solve_triangular(self.triangle, columns, upper=True)
        else:
            assert self.whitening is not None
            solved = self.whitening @ columns
        return solved if self.kernel.sharpness else self.kernel.points.T @ solved


class _Moments(NamedTuple):
    """Weighted sums over spots: of 1, of maps relative to the centre and scores, and of their products."""

    total: Tensor
    maps: Tensor
    scores: Tensor
    gram: Tensor
    product: Tensor

    @classmethod
    def of(cls, mapping: _Mapping, problem: _Problem, inside: Tensor) -> _Moments:
        """Sum over the spots at some positions, ``inside``."""
        rank, n_outputs = len(mapping.centre), problem.wanted.shape[1]
        gram, product = np.zeros((rank, rank)), torch.zeros(rank, n_outputs).double()
        sums = torch.zeros(rank).double(), torch.zeros(n_outputs).double()
        for spots in inside.split(_ROWS):
            root = problem.weights[spots, None].sqrt()
            rows, wanted = mapping(problem.described[spots]) * root, problem.wanted[spots] * root
            sums[0].add_(root[:, 0] @ rows)
            sums[1].add_(root[:, 0] @ wanted)
            # A matrix times its own transpose, which numpy computes by half.
            rows = rows.contiguous()
            gram += rows.numpy().T @ rows.numpy()
            product += rows.T @ wanted
        return cls(problem.weights[inside].sum(), *sums, torch.from_numpy(gram), product)


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Decompose a symmetric matrix; numpy's LAPACK takes two thirds of the time of torch's."""
    values, vectors = np.linalg.eigh(matrix.numpy())
    return torch.from_numpy(values), torch.from_numpy(vectors)
