"""Ridge regression from descriptions of spots into components of expression, in closed form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.utils import scatter

from nh2st_graph.nn._components import leading
from nh2st_graph.nn._shifted import solve_shifted

__all__ = ["ComponentRidge", "RidgeFit", "RidgeSpots", "fit_component_ridge"]

#: Directions of a kernel with less than this share of the largest variance are rounding errors.
_RANK = 1e-10
#: Share of the trace of a kernel from which on a pivot of its Cholesky factor is far from rounding.
_FULL = 1e-8
#: Most spots that span the solution; beyond, evenly drawn ones stand for all (Nyström's approximation).
_MOST_POINTS = 2000
#: Spots that are computed with at a time: as many as a processor's cache holds the kernel of.
_ROWS = 1024


@dataclass(frozen=True)
class ComponentRidge:
    r"""Kernel ridge regression whose output is a few components of expression.

    .. math:: \hat y = \bar y + \Big(b + \sum_j k(h, h_j) \, a_j\Big) V

    Attributes
    ----------
    sharpness
        :math:`\gamma` of the kernel :math:`\exp(-\gamma |h - h_j|^2)`; 0 is the linear kernel :math:`h^T h_j`.
    points
        Descriptions :math:`h_j` that the kernel compares with, ``(n_points, d)``. For a linear kernel the identity is
        not stored: ``(0, d)``.
    coefficients
        :math:`a`, ``(n_points, n_components)``; ``(d, n_components)`` if the kernel is linear.
    intercept
        :math:`b`, ``(n_components,)``.
    mean, basis
        :math:`\bar y`, ``(n_genes,)``, and :math:`V`, ``(n_components, n_genes)``.
    """

    sharpness: float
    points: Tensor
    coefficients: Tensor
    intercept: Tensor
    mean: Tensor
    basis: Tensor

    @property
    def n_inputs(self) -> int:
        """Length of a description."""
        return int(self.points.shape[1])

    def scores(self, described: Tensor) -> Tensor:
        """Predict component scores of described spots, ``(n_spots, n_components)``, in their precision."""
        coefficients, intercept = self.coefficients.to(described), self.intercept.to(described)
        if not self.sharpness:
            return described @ coefficients + intercept
        points = self.points.to(described)
        parts = [_kernel(rows, points, self.sharpness) @ coefficients for rows in described.split(_ROWS)]
        return torch.cat(parts) + intercept

    def expand(self, scores: Tensor) -> Tensor:
        """Compute expression from component scores, ``(n_spots, n_genes)``, in their precision and on their device."""
        return self.mean.to(scores) + scores @ self.basis.to(scores)

    def __call__(self, described: Tensor) -> Tensor:
        """Predict expression, ``(n_spots, n_genes)``."""
        return self.expand(self.scores(described))

    def plus(self, other: ComponentRidge) -> ComponentRidge:
        """Give the regression that predicts the sum of both, which have kernel, inputs and components in common."""
        joined = torch.cat if self.sharpness else (lambda parts: parts[0] + parts[1])
        return replace(
            self,
            points=torch.cat([self.points, other.points]),
            coefficients=joined([self.coefficients, other.coefficients]),
            intercept=self.intercept + other.intercept,
            mean=self.mean + other.mean,
        )


class RidgeSpots(NamedTuple):
    """Training spots of all sections.

    Attributes
    ----------
    described
        ``(n_spots, d)``.
    targets
        ``(n_spots, n_genes)``.
    sections, folds
        Numbers of each spot's section, and of the part that is held out with it, ``(n_spots,)``.
    weights
        Weight of each spot, ``(n_spots,)``.
    """

    described: Tensor
    targets: Tensor
    sections: Tensor
    folds: Tensor
    weights: Tensor


class RidgeFit(NamedTuple):
    """A ridge regression, and how it predicts spots that it has not seen.

    Attributes
    ----------
    ridge
        The regression.
    without
        The regressions that have not seen a part, by the number of the part; empty if there is a single one.
    held_out
        Component scores of the spots by the regressions without their parts, ``(n_spots, n_components)``.
    error
        Squared error of ``held_out``.
    chosen
        Kernel, number of components and penalties.
    """

    ridge: ComponentRidge
    without: dict[int, ComponentRidge]
    held_out: Tensor
    error: float
    chosen: dict[str, float | list[float]]

    def held_out_scores(self, described: Iterable[Tensor], folds: Tensor) -> Tensor:
        """Predict other spots, each by the regression that has not seen its part.

        Parameters
        ----------
        described
            Descriptions in blocks, ``(n, d)`` each.
        folds
            Number of each spot's part, ``(n_spots,)``. No fitted spot is of a part that :attr:`without` lacks.

        Returns
        -------
        Component scores, ``(n_spots, n_components)`` float32.
        """
        scores, start = torch.empty(len(folds), len(self.ridge.basis)), 0
        for rows in described:
            found, part = scores[start : start + len(rows)], folds[start : start + len(rows)]
            for fold in part.unique().tolist():
                found[part == fold] = self.without.get(fold, self.ridge).scores(rows[part == fold]).float()
            start += len(rows)
        return scores


def fit_component_ridge(
    spots: RidgeSpots,
    *,
    sharpness: Sequence[float],
    n_components: Sequence[int],
    penalties: Sequence[float],
    by_component: bool,
    basis: Tensor | None = None,
) -> RidgeFit:
    r"""Fit ridge regressions, and choose kernel, components and penalty on held-out parts.

    Components are the leading right singular vectors of the targets, centred within each section, so that a difference
    between sections is no component. A penalty is in units of the weighted number of spots. One decomposition
    serves all penalties (Hastie et al., *The Elements of Statistical Learning*, 2009, section 3.4.1).

    Parameters
    ----------
    spots
        The training spots. With a single part, nothing is held out, and the largest penalty is taken.
    sharpness
        Kernels to choose from; 0 is linear. See :class:`ComponentRidge`.
    n_components
        Numbers of components to choose from.
    penalties
        Penalties to choose from.
    by_component
        Choose a penalty for each component, and multiply each component by the slope that fits held-out scores best,
        so that a component that cannot be predicted is left out. Otherwise, all components share a penalty.
    basis
        The components, ``(n_components, n_genes)``, if more spots say them than are fitted; None takes those of the
        training spots.
    """
    total = spots.weights.double().sum()
    targets = spots.targets.double()
    even = torch.ones(len(targets), dtype=torch.float64)
    weights = spots.weights.double() / total * len(targets) if total > 0 else even
    centred = _centred(targets, spots.sections, even)
    if basis is None:
        basis = _components(centred, targets, weights, max(n_components))
    # Of constant targets there is no component; a component of zeros predicts their mean.
    basis = basis if len(basis) else torch.zeros_like(centred[:1])
    exact = spots._replace(targets=targets, weights=weights)
    fits = (_fit(exact, centred, basis, each, n_components, sorted(penalties), by_component) for each in sharpness)
    return min(fits, key=lambda fit: fit.error)


def _fit(
    spots: RidgeSpots,
    centred: Tensor,
    basis: Tensor,
    sharpness: float,
    n_components: Sequence[int],
    penalties: Sequence[float],
    by_component: bool,
) -> RidgeFit:
    targets, weights, scores = spots.targets, spots.weights, centred @ basis.T
    points = _points(spots.described)
    mapping = _Mapping.of(points, sharpness)

    paths = torch.zeros(len(penalties), *scores.shape, dtype=torch.float64)
    levels = torch.zeros_like(scores)
    numbers, part = spots.folds.unique(return_inverse=True)
    parts = [(part == i).nonzero()[:, 0] for i in range(len(numbers))]
    moments = [_Moments.of(mapping, spots.described, scores, weights, inside) for inside in parts]
    learned = (
        [_path(moments[:i] + moments[i + 1 :], penalties) for i in range(len(moments))] if len(moments) > 1 else []
    )
    for inside, (found, intercepts, level) in zip(parts, learned, strict=False):
        levels[inside] = level
        # As one product for all penalties, and without the maps, which were too many to keep.
        together = mapping.whitening @ found.permute(1, 0, 2).flatten(1)
        for rows in inside.split(_ROWS):
            predicted = _kernel(spots.described[rows], points, sharpness) @ together
            paths[:, rows] = predicted.unflatten(1, (len(penalties), -1)).transpose(0, 1) + intercepts[:, None]
    # Offsets between sections, or between the bands of one, are not what is predicted.
    _, compared_in = torch.stack([spots.sections, spots.folds]).unique(dim=1, return_inverse=True)
    compared = torch.stack([_centred(each, compared_in, weights) for each in paths])
    wanted = _centred(scores, compared_in, weights)
    slopes = torch.ones(len(penalties), scores.shape[1], dtype=torch.float64)
    if by_component:
        down = (weights[:, None] * compared.square()).sum(dim=1)
        slopes = ((weights[:, None] * compared * wanted).sum(dim=1) / down.clamp_min(1e-300)).clamp_min(0.0)
    errors = (weights[:, None] * (slopes[:, None] * compared - wanted).square()).sum(dim=1)
    unpredicted = (weights[:, None] * wanted.square()).sum(dim=0)
    # Of equal errors, the largest penalty.
    if by_component:
        kept, chosen = scores.shape[1], len(penalties) - 1 - errors.flip(0).argmin(dim=0)
    else:
        totals = torch.stack([errors[:, :k].sum(dim=1) + unpredicted[k:].sum() for k in n_components], dim=1)
        place = int(totals.flip(0).argmin())
        kept = min(n_components[place % len(n_components)], scores.shape[1])
        chosen = torch.full((kept,), len(penalties) - 1 - place // len(n_components))
    column = torch.arange(kept)
    slope = slopes[chosen, column]

    def regression(found: Tensor, intercepts: Tensor, level: Tensor) -> ComponentRidge:
        coefficients = mapping.whitening @ (found[chosen, :, column].T * slope)
        return ComponentRidge(
            sharpness,
            points if sharpness else points[:0],
            coefficients if sharpness else points.T @ coefficients,
            # The slope is about the mean: a steep one would turn it into an offset.
            level[:kept] + (intercepts[chosen, column] - level[:kept]) * slope,
            targets.mean(dim=0),
            basis[:kept],
        )

    beyond = (weights[:, None] * (centred.square().sum(dim=1) - scores.square().sum(dim=1))[:, None]).sum()
    error = errors[chosen, column].sum() + unpredicted[kept:].sum() + beyond
    penalty = [float(penalties[int(i)]) for i in chosen]
    return RidgeFit(
        regression(*_path(moments, penalties)),
        {int(numbers[i]): regression(*each) for i, each in enumerate(learned)},
        levels[:, :kept] + (paths[chosen, :, column].T - levels[:, :kept]) * slope,
        float(error),
        {"sharpness": sharpness, "components": kept, "penalty": penalty if by_component else penalty[0]},
    )


def _kernel(a: Tensor, b: Tensor, sharpness: float) -> Tensor:
    if not sharpness:
        return a @ b.T
    # One product gives the exponent: -sharpness * (|a|^2 + |b|^2 - 2 a b).
    left = torch.cat(
        [2 * sharpness * a, -sharpness * a.square().sum(dim=1, keepdim=True), torch.ones_like(a[:, :1])], 1
    )
    right = torch.cat([b, torch.ones_like(b[:, :1]), -sharpness * b.square().sum(dim=1, keepdim=True)], 1)
    return (left @ right.T).clamp_max_(0.0).exp_()


def _points(described: Tensor) -> Tensor:
    """Take the spots that span the solution: all, or as many evenly spaced ones as there may be."""
    if len(described) <= _MOST_POINTS:
        return described
    return described[torch.linspace(0, len(described) - 1, _MOST_POINTS).round().long()]


class _Mapping(NamedTuple):
    """Maps spots so that products are the kernel: products with the points, times ``whitening``.

    ``centre`` is the mean map of the points, so that sums relative to it are small. With ``directions``, ``(d, rank)``,
    these are the map of a linear kernel by themselves.
    """

    points: Tensor
    sharpness: float
    whitening: Tensor
    centre: Tensor
    directions: Tensor | None = None

    @classmethod
    def of(cls, points: Tensor, sharpness: float) -> _Mapping:
        """Find the directions that the points span, ``(n_points, rank)``."""
        if not sharpness and points.shape[1] < len(points):
            # The smaller of two matrices with the same eigenvalues.
            values, vectors = _eigh(points.T @ points)
            kept = values > _RANK * values[-1].clamp_min(1e-300)
            values, vectors = values[kept], vectors[:, kept]
            return cls(points, sharpness, points @ (vectors / values), points.mean(dim=0) @ vectors, vectors)
        products = _kernel(points, points, sharpness)
        root, failed = torch.linalg.cholesky_ex(products)
        if not failed and root.diagonal().min().square() > _FULL * len(points):
            # Any root maps to the same products, and this one takes a tenth of the time.
            identity = torch.eye(len(points)).double()
            whitening = torch.linalg.solve_triangular(root, identity, upper=False).T.contiguous()
            return cls(points, sharpness, whitening, root.mean(dim=0))
        values, vectors = _eigh(products)
        kept = values > _RANK * values[-1].clamp_min(1e-300)
        values, vectors = values[kept].sqrt(), vectors[:, kept]
        return cls(points, sharpness, vectors / values, vectors.mean(dim=0) * values)

    def __call__(self, described: Tensor) -> Tensor:
        """Map spots relative to the centre, ``(n_spots, rank)``."""
        if self.directions is not None:
            return described @ self.directions - self.centre
        return _kernel(described, self.points, self.sharpness) @ self.whitening - self.centre


class _Moments(NamedTuple):
    """Weighted sums over spots: of 1, of maps relative to ``centre`` and scores, and of their products."""

    total: Tensor
    maps: Tensor
    scores: Tensor
    gram: Tensor
    product: Tensor
    centre: Tensor

    @classmethod
    def of(cls, mapping: _Mapping, described: Tensor, scores: Tensor, weights: Tensor, inside: Tensor) -> _Moments:
        """Sum over the spots at some positions, ``inside``."""
        rank, n_components = len(mapping.centre), scores.shape[1]
        gram, product = np.zeros((rank, rank)), torch.zeros(rank, n_components).double()
        sums = torch.zeros(rank).double(), torch.zeros(n_components).double()
        for spots in inside.split(_ROWS):
            root = weights[spots, None].sqrt()
            rows, wanted = mapping(described[spots]) * root, scores[spots] * root
            sums[0].add_(root[:, 0] @ rows)
            sums[1].add_(root[:, 0] @ wanted)
            # A matrix times its own transpose, which numpy computes by half.
            gram += rows.numpy().T @ rows.numpy()
            product += rows.T @ wanted
        return cls(weights[inside].sum(), *sums, torch.from_numpy(gram), product, mapping.centre)


def _path(moments: Sequence[_Moments], penalties: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Solve weighted ridge regressions with intercept for every penalty, over parts whose moments are given.

    Returns
    -------
    Solutions, ``(n_penalties, rank, n_components)``; intercepts, ``(n_penalties, n_components)``; and the mean scores,
    ``(n_components,)``, which are the prediction of a mean spot.
    """
    total, maps, scores, gram, product = (sum(part[1:], start=part[0]) for part in list(zip(*moments, strict=True))[:5])
    total = total.clamp_min(1e-300)
    shifts = [float(penalty * total) for penalty in penalties]
    found = solve_shifted(gram - torch.outer(maps, maps) / total, product - torch.outer(maps, scores) / total, shifts)
    level = scores / total
    return found, level - (moments[0].centre + maps / total) @ found, level


def _centred(values: Tensor, sections: Tensor, weights: Tensor) -> Tensor:
    """Take each section's weighted mean off its spots."""
    _, section = sections.unique(return_inverse=True)
    total = scatter(weights, section, dim=0, reduce="sum")
    means = scatter(weights[:, None] * values, section, dim=0, reduce="sum") / total.clamp_min(1e-300)[:, None]
    return values - means[section]


def _components(centred: Tensor, targets: Tensor, weights: Tensor, n_components: int) -> Tensor:
    """Find the leading components, ``(n_components, n_genes)`` or as many as there are."""
    root = weights.sqrt()[:, None]
    return leading(centred * root, n_components, float((targets * root).norm()))[1]


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Decompose a symmetric matrix; numpy's LAPACK takes two thirds of the time of torch's."""
    values, vectors = np.linalg.eigh(matrix.numpy())
    return torch.from_numpy(values), torch.from_numpy(vectors)
