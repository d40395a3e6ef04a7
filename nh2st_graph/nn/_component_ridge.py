"""Ridge regression from descriptions of spots into components of expression, in closed form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.utils import scatter

from nh2st_graph.nn._components import leading
from nh2st_graph.nn._ridge_paths import Kernel, Path, solve_paths

__all__ = ["ComponentRidge", "RidgeFit", "RidgeSpots", "fit_component_ridge"]


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
        return Kernel(self.sharpness, self.points.to(described)).predict(described, coefficients) + intercept

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
    least
        Least squared error of one penalty for all components.
    chosen
        Kernel, number of components and penalties.
    """

    ridge: ComponentRidge
    without: dict[int, ComponentRidge]
    held_out: Tensor
    error: float
    least: float
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
    price: float | None = None,
    basis: Tensor | None = None,
    threads: int = 1,
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
    price
        Share of the least error of any penalty for all components that a larger penalty may cost: of those that cost no
        more, the largest is chosen for all components. None chooses by the error alone. With ``by_component``.
    basis
        The components, ``(n_components, n_genes)``, if more spots say them than are fitted; None takes those of the
        training spots.
    threads
        Regressions that are fitted at a time. Numbers do not depend on it.
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
    fits = (
        _fit(exact, centred, basis, each, n_components, sorted(penalties), by_component, price, threads)
        for each in sharpness
    )
    return min(fits, key=lambda fit: fit.error)


def _fit(
    spots: RidgeSpots,
    centred: Tensor,
    basis: Tensor,
    sharpness: float,
    n_components: Sequence[int],
    penalties: Sequence[float],
    by_component: bool,
    price: float | None,
    threads: int,
) -> RidgeFit:
    targets, weights, scores = spots.targets, spots.weights, centred @ basis.T
    kernel = Kernel.over(spots.described, sharpness)
    numbers, part = spots.folds.unique(return_inverse=True)
    parts = [(part == i).nonzero()[:, 0] for i in range(len(numbers))]
    whole, learned = solve_paths(kernel, spots.described, scores, weights, parts, penalties, threads)

    paths = torch.zeros(len(penalties), *scores.shape, dtype=torch.float64)
    levels = torch.zeros_like(scores)
    for inside, path in zip(parts, learned, strict=False):
        levels[inside] = path.level
        paths[:, inside] = path.held_out
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
    beyond = (weights[:, None] * (centred.square().sum(dim=1) - scores.square().sum(dim=1))[:, None]).sum()
    least = (errors.sum(dim=1) + beyond).min()
    # Of equal errors, the largest penalty.
    if by_component:
        kept, chosen = scores.shape[1], len(penalties) - 1 - errors.flip(0).argmin(dim=0)
        if price is not None:
            cheap = errors.sum(dim=1) + beyond <= least + price * least.abs()
            chosen = torch.full((kept,), int(cheap.nonzero().max()))
    else:
        totals = torch.stack([errors[:, :k].sum(dim=1) + unpredicted[k:].sum() for k in n_components], dim=1)
        place = int(totals.flip(0).argmin())
        kept = min(n_components[place % len(n_components)], scores.shape[1])
        chosen = torch.full((kept,), len(penalties) - 1 - place // len(n_components))
    column = torch.arange(kept)
    slope = slopes[chosen, column]

    def regression(path: Path) -> ComponentRidge:
        level = path.level[:kept]
        return ComponentRidge(
            sharpness,
            # An empty view would keep all points in memory.
            kernel.points if sharpness else kernel.points[:0].clone(),
            path.coefficients(path.found[chosen, :, column].T * slope).contiguous(),
            # The slope is about the mean: a steep one would turn it into an offset.
            level + (path.intercepts[chosen, column] - level) * slope,
            targets.mean(dim=0),
            basis[:kept],
        )

    error = errors[chosen, column].sum() + unpredicted[kept:].sum() + beyond
    penalty = [float(penalties[int(i)]) for i in chosen]
    return RidgeFit(
        regression(whole),
        {int(numbers[i]): regression(each) for i, each in enumerate(learned)},
        levels[:, :kept] + (paths[chosen, :, column].T - levels[:, :kept]) * slope,
        float(error),
        float(least),
        {"sharpness": sharpness, "components": kept, "penalty": penalty if by_component else penalty[0]},
    )


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
