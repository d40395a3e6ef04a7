"""Ridge regression from descriptions of spots into components of expression, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.utils import scatter

__all__ = ["ComponentRidge", "Description", "RidgeFit", "RidgeSpots", "fit_component_ridge"]

#: Z-scores are cut off here, so that a rare value (a speck of dust, an empty bin of a histogram) is not far from all.
_CUT = 3.0
#: Directions of a kernel with less than this share of the largest variance are rounding errors.
_RANK = 1e-10
#: Most spots that span the solution; beyond, evenly drawn ones stand for all (Nyström's approximation).
_MOST_POINTS = 2000
#: Spots that are computed with at a time.
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
        cls, features: Sequence[Tensor], groups: Tensor | None = None, *, own: bool = True, around: bool = True
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
        joined = torch.cat([each.double() for each in features])
        mean, std = joined.mean(dim=0), joined.std(dim=0, correction=0)
        # Rounding gives a constant column a standard deviation of about its size times the machine's precision.
        std = torch.where(std > 1e-7 * mean.abs().clamp_min(1.0), std, torch.inf)
        groups = torch.zeros(len(mean), dtype=torch.int64) if groups is None else groups
        _, group, size = groups.unique(return_inverse=True, return_counts=True)
        weight = (len(size) * size[group]).double().rsqrt()
        return cls(mean, std, weight, torch.tensor([own, around]).double() / (own + around) ** 0.5)

    def __call__(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Describe the spots of one whole section, ``(n_spots, 2 n_features)`` float64; zeros without neighbours."""
        own = ((x.double() - self.mean) / self.std).clamp(-_CUT, _CUT) * self.weight
        sender, receiver = edge_index
        around = scatter(own[sender], receiver, dim=0, dim_size=len(own), reduce="mean")
        return torch.cat([own * self.parts[0], around * self.parts[1]], dim=1)


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

    def scores(self, described: Tensor) -> Tensor:
        """Predict component scores of described spots, ``(n_spots, n_components)``."""
        if not self.sharpness:
            return described @ self.coefficients + self.intercept
        parts = [_kernel(rows, self.points, self.sharpness) @ self.coefficients for rows in described.split(_ROWS)]
        return torch.cat(parts) + self.intercept

    def expand(self, scores: Tensor) -> Tensor:
        """Compute expression from component scores, ``(n_spots, n_genes)``, in their precision and on their device."""
        return self.mean.to(scores) + scores @ self.basis.to(scores)

    def __call__(self, described: Tensor) -> Tensor:
        """Predict expression, ``(n_spots, n_genes)``."""
        return self.expand(self.scores(described))


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
    """A ridge regression, its held-out component scores, their squared error, and what was chosen."""

    ridge: ComponentRidge
    held_out: Tensor
    error: float
    chosen: dict[str, float | list[float]]


def fit_component_ridge(
    spots: RidgeSpots,
    *,
    sharpness: Sequence[float],
    n_components: Sequence[int],
    penalties: Sequence[float],
    by_component: bool,
) -> RidgeFit:
    r"""Fit ridge regressions, and choose kernel, components and penalty on held-out parts.

    Components are the leading right singular vectors of the targets, centred within each section, so that a difference
    between sections is no component. A penalty is in units of the weighted number of spots. One eigendecomposition
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
    """
    fits = [_fit(spots, each, n_components, sorted(penalties), by_component) for each in sharpness]
    return min(fits, key=lambda fit: fit.error)


def _fit(
    spots: RidgeSpots, sharpness: float, n_components: Sequence[int], penalties: Sequence[float], by_component: bool
) -> RidgeFit:
    targets = spots.targets.double()
    total = spots.weights.double().sum()
    weights = spots.weights.double() / total * len(targets) if total > 0 else torch.ones(len(targets)).double()
    centred = _centred(targets, spots.sections, torch.ones_like(weights))
    basis = _components(centred * weights.sqrt()[:, None], max(n_components))
    scores = centred @ basis.T
    points = _points(spots.described)
    phi, whitening = _mapped(spots.described, points, sharpness)

    paths = torch.zeros(len(penalties), *scores.shape, dtype=torch.float64)
    for fold in spots.folds.unique() if len(spots.folds.unique()) > 1 else ():
        out = spots.folds == fold
        found, intercepts = _path(phi[~out], scores[~out], weights[~out], penalties)
        paths[:, out] = phi[out] @ found + intercepts[:, None]
    # Offsets between sections, or between the bands of one, are not what is predicted.
    _, part = torch.stack([spots.sections, spots.folds]).unique(dim=1, return_inverse=True)
    compared = torch.stack([_centred(each, part, weights) for each in paths])
    wanted = _centred(scores, part, weights)
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

    found, intercepts = _path(phi, scores[:, :kept], weights, penalties)
    solution = found[chosen, :, column].T * slope
    coefficients = whitening @ solution
    ridge = ComponentRidge(
        sharpness,
        points if sharpness else points[:0],
        coefficients if sharpness else points.T @ coefficients,
        intercepts[chosen, column] * slope,
        targets.mean(dim=0),
        basis[:kept],
    )
    held_out = paths[chosen, :, column].T * slope
    beyond = (weights[:, None] * (centred.square().sum(dim=1) - scores.square().sum(dim=1))[:, None]).sum()
    error = errors[chosen, column].sum() + unpredicted[kept:].sum() + beyond
    numbers = [float(penalties[int(i)]) for i in chosen]
    return RidgeFit(
        ridge,
        held_out,
        float(error),
        {"sharpness": sharpness, "components": kept, "penalty": numbers if by_component else numbers[0]},
    )


def _kernel(a: Tensor, b: Tensor, sharpness: float) -> Tensor:
    if not sharpness:
        return a @ b.T
    apart = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.T
    return torch.exp(-sharpness * apart.clamp_min(0.0))


def _points(described: Tensor) -> Tensor:
    """Take the spots that span the solution: all, or as many evenly spaced ones as there may be."""
    if len(described) <= _MOST_POINTS:
        return described
    return described[torch.linspace(0, len(described) - 1, _MOST_POINTS).round().long()]


def _mapped(described: Tensor, points: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """Map spots so that products are the kernel, ``(n_spots, rank)``; and the map from products with the points."""
    values, vectors = torch.linalg.eigh(_kernel(points, points, sharpness))
    kept = values > _RANK * values[-1].clamp_min(1e-300)
    whitening = vectors[:, kept] / values[kept].sqrt()
    mapped = torch.empty(len(described), whitening.shape[1]).double()
    for rows, place in zip(described.split(_ROWS), mapped.split(_ROWS), strict=True):
        place.copy_(_kernel(rows, points, sharpness) @ whitening)
    return mapped, whitening


def _path(phi: Tensor, scores: Tensor, weights: Tensor, penalties: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Solve weighted ridge regressions with intercept for every penalty.

    Returns
    -------
    Solutions, ``(n_penalties, rank, n_components)``, and intercepts, ``(n_penalties, n_components)``.
    """
    total = weights.sum().clamp_min(1e-300)
    centre, level = weights @ phi / total, weights @ scores / total
    rank = phi.shape[1]
    gram, product = torch.zeros(rank, rank).double(), torch.zeros(rank, scores.shape[1]).double()
    for rows, wanted, weight in zip(phi.split(_ROWS), scores.split(_ROWS), weights.split(_ROWS), strict=True):
        weighted = (rows - centre) * weight[:, None]
        gram += weighted.T @ (rows - centre)
        product += weighted.T @ (wanted - level)
    values, vectors = torch.linalg.eigh(gram)
    moment = vectors.T @ product
    found = torch.stack([vectors @ (moment / (values.clamp_min(0.0) + p * total)[:, None]) for p in penalties])
    return found, level - centre @ found


def _centred(values: Tensor, sections: Tensor, weights: Tensor) -> Tensor:
    """Take each section's weighted mean off its spots."""
    _, section = sections.unique(return_inverse=True)
    total = scatter(weights, section, dim=0, reduce="sum")
    means = scatter(weights[:, None] * values, section, dim=0, reduce="sum") / total.clamp_min(1e-300)[:, None]
    return values - means[section]


def _components(centred: Tensor, n_components: int) -> Tensor:
    """Find the leading right singular vectors, ``(n_components, n_genes)`` or as many as there are."""
    _, singular, loadings = torch.linalg.svd(centred, full_matrices=False)
    kept = max(min(n_components, int((singular > 1e-9 * centred.norm()).sum())), 1)
    # The sign of a component is arbitrary: make the largest loading positive, so that all machines agree.
    flip = torch.sign(loadings.gather(1, loadings.abs().argmax(dim=1, keepdim=True)))
    return (loadings * torch.where(flip == 0, 1.0, flip))[:kept]
