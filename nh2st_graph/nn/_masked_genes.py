"""Fill in genes that were not measured, from those that were: of the spot itself and of the spots around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

__all__ = ["MaskedGenes", "MeasuredSpots", "fit_masked_genes"]

#: Candidates: number of components, and what the gene encoder's noise is multiplied by.
_SIZES, _LOOSENESS = (1, 2, 4, 8, 16, 32), (1.0, 2.0, 4.0)
#: Candidates: distances, in array pitches, at which the likeness of two spots has fallen to 1/e; and the noise of a
#: spot of the usual depth, in units of the variance that neighbours share.
_LENGTHS, _NOISES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0), (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
#: Variance of an error that all spots of a section share, in units of the variance that neighbours share.
_OFFSET = 0.1
#: Shares of spots, and of genes, that are measured in training.
_SPOTS, _GENES = (0.1, 0.25, 0.5), (0.05, 0.2, 0.5)
#: Parts of the training spots that the gene encoder is tested on in turn.
_FOLDS = 3
#: Measured spots that a spot attends to.
_NEAREST = 32
#: Least share of a component's variance that measured neighbours leave open.
_LEAST = 0.05
#: Spots that are computed with at a time.
_ROWS = 1024


class MeasuredSpots(NamedTuple):
    """Measured spots of one section, or of a block of it.

    Attributes
    ----------
    pos
        Positions in array pitches, ``(n_spots, 2)``.
    error
        What was measured minus what the image says, ``(n_spots, n_genes)``.
    depth
        Library size, ``(n_spots,)``. A spot without counts is no evidence.
    """

    pos: Tensor
    error: Tensor
    depth: Tensor


class _Evidence(NamedTuple):
    """Measured spots: places, component scores of their errors, and the noise of each score."""

    pos: Tensor
    scores: Tensor
    noise: Tensor


@dataclass(frozen=True, eq=False)
class MaskedGenes:
    r"""A gene encoder and a neighbour branch in closed form, trained on sections whose genes were masked.

    The prediction from the image is the start, and measured genes correct it. The error of spot :math:`i` is
    :math:`e_i = V^T s_i + \epsilon_i`, with few components :math:`s_i`.

    - **Gene encoder**: of the genes :math:`M` that were measured at a spot, the posterior of its components is
      :math:`(\Omega^{-1} + V_M \Psi_M^{-1} V_M^T)^{-1} V_M \Psi_M^{-1} e_M`.
    - **Neighbour branch**: each spot attends to the nearest measured spots. The weights of component :math:`k` are
      :math:`a_i = (K + N)^{-1} k_i`, with :math:`k(d) = \exp(-d / \ell_k) + o`, and :math:`N` the noise of each
      neighbour, which depends on its depth and on the genes that it lacks. Neighbours that say the same thus share
      their weight. This is kriging of what the image leaves (regression kriging).

    A spot with measured genes of its own is encoded again, with what its neighbours say in place of the prior. All
    values are chosen on held-out tissue whose genes were masked (:func:`fit_masked_genes`).

    Attributes
    ----------
    basis
        :math:`V`, ``(n_components, n_genes)``.
    length, noise
        :math:`\ell`, and the noise of a spot of the usual depth, ``(n_components,)``.
    factor
        Share of what neighbours say that held-out tissue wants of each component, between 0 and 1.
    prior
        :math:`\Omega`, variance of each component of the error, ``(n_components,)``.
    remainder
        :math:`\Psi`, variance of each gene beside the components, ``(n_genes,)``.
    depth
        The usual depth, ``(1,)``.
    """

    basis: Tensor
    length: Tensor
    noise: Tensor
    factor: Tensor
    prior: Tensor
    remainder: Tensor
    depth: Tensor

    def memory(self) -> dict[str, Tensor]:
        """Give float32 tensors for :meth:`restore`."""
        return {each.name: getattr(self, each.name).float().contiguous() for each in fields(self)}

    @classmethod
    def restore(cls, memory: Mapping[str, Tensor]) -> MaskedGenes:
        """Restore what gave ``memory``.

        Raises
        ------
        KeyError
            If a tensor is missing.
        """
        return cls(**{each.name: memory[each.name].double() for each in fields(cls)})

    @property
    def _shared(self) -> Tensor:
        """Variance of each component that neighbours share."""
        return self.prior / (1.0 + _OFFSET + self.noise)

    def scores(self, pos: Tensor, spots: Tensor, given: MeasuredSpots, measured: Tensor) -> Tensor:
        """Estimate the components of the image's error at every spot of a section.

        Parameters
        ----------
        pos
            Positions of all spots in array pitches, ``(n_spots, 2)``.
        spots
            Which of them have measured genes, ``(n_measured,)``, ascending.
        given
            These spots, in this order. Of ``error``, only measured entries are read; ``depth`` is by measured genes.
        measured
            Whether an entry was measured, ``(n_measured, n_genes)`` bool.

        Returns
        -------
        ``(n_spots, n_components)`` float64, zero if nothing was measured; times :attr:`basis`, they are the error.
        """
        pos, scores = pos.double(), torch.zeros(len(pos), len(self.length), dtype=torch.float64)
        with_counts = given.depth > 0
        spots, given, measured = (
            spots[with_counts],
            MeasuredSpots(*(x[with_counts] for x in given)),
            measured[with_counts],
        )
        if not len(spots):
            return scores
        mean, variance = self._encode(given.error, measured, self.prior.expand(len(spots), -1))
        evidence = self._alone(pos[spots], mean, variance, given.depth.double())
        place = torch.full((len(pos),), -1)
        place[spots] = torch.arange(len(spots))
        for rows, nearest in _nearest(pos, place):
            scores[rows], variance = self._attend(pos[rows], evidence, nearest)
            own = place[rows[0]] >= 0
            if own:
                at = place[rows]
                left = given.error[at] - scores[rows] @ self.basis
                scores[rows] += self._encode(left, measured[at], variance)[0]
        return scores

    def _encode(self, error: Tensor, measured: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the measured genes of spots: posterior mean and variance of the components, given prior variances."""
        mean, variance = torch.empty(2, *prior.shape, dtype=torch.float64)
        weighted = self.basis / self.remainder
        for rows in torch.arange(len(error)).split(_ROWS):
            # Spots of which the same genes were measured have the same products.
            kinds, kind = measured[rows].unique(dim=0, return_inverse=True)
            products = torch.stack([weighted[:, each] @ self.basis[:, each].T for each in kinds])
            inverse = torch.linalg.inv(products[kind] + torch.diag_embed(prior[rows].reciprocal()))
            told = torch.where(measured[rows], error[rows].double(), 0.0) @ weighted.T
            mean[rows] = (inverse @ told[:, :, None])[:, :, 0]
            variance[rows] = inverse.diagonal(dim1=1, dim2=2)
        return mean, variance

    def _alone(self, pos: Tensor, mean: Tensor, variance: Tensor, depth: Tensor) -> _Evidence:
        """Take the prior out of posteriors, since a neighbour that was not measured at all has nothing to say."""
        told = (1.0 - variance / self.prior).clamp_min(1e-9)
        shallow = self.depth / depth.clamp_min(1.0)
        return _Evidence(pos, mean / told, self.noise * shallow[:, None] + variance / told / self._shared)

    def _attend(self, pos: Tensor, evidence: _Evidence, nearest: Tensor) -> tuple[Tensor, Tensor]:
        """Predict components of spots from their nearest measured ones, ``(n, k)``; and the variance that is left."""
        there = evidence.pos[nearest]
        between, towards = torch.cdist(there, there), (there - pos[:, None]).norm(dim=2)
        scores, variance = torch.empty(2, len(pos), len(self.length), dtype=torch.float64)
        for k in range(len(self.length)):
            likeness = torch.exp(-towards / self.length[k]) + _OFFSET
            noise = torch.diag_embed(evidence.noise[nearest, k])
            weights = torch.linalg.solve(torch.exp(-between / self.length[k]) + _OFFSET + noise, likeness)
            scores[:, k] = self.factor[k] * (weights * evidence.scores[nearest, k]).sum(dim=1)
            known = self.factor[k] * self._shared[k] * (weights * likeness).sum(dim=1)
            variance[:, k] = torch.maximum(self.prior[k] - known, _LEAST * self.prior[k])
        return scores, variance


def _nearest(pos: Tensor, place: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Give some spots at a time, and for each the numbers of the nearest measured spots, without itself.

    Spots that are given together are all measured, or all not. ``place`` numbers the measured spots, and is -1 of
    others.
    """
    measured = place >= 0
    tree, n_measured = KDTree(pos[measured].numpy()), int(measured.sum())
    for own, spots in ((1, measured), (0, ~measured)):
        k = min(_NEAREST, n_measured - own)
        for part in spots.nonzero()[:, 0].split(_ROWS) if spots.any() else ():
            if k == 0:
                yield part, torch.empty(len(part), 0, dtype=torch.int64)
                continue
            found = torch.from_numpy(tree.query(pos[part].numpy(), k=np.arange(1, k + own + 1))[1])
            if own:
                other = found != place[part][:, None]
                # Of several spots at one place, the spot itself may not be among the nearest.
                other[other.all(dim=1), -1] = False
                found = found[other].reshape(len(part), k)
            yield part, found


def fit_masked_genes(blocks: Sequence[MeasuredSpots]) -> MaskedGenes | None:
    """Choose how measured genes correct the image, on held-out tissue whose genes are masked.

    The number of components, and the noise of the gene encoder, are those with the smallest squared error at masked
    genes of spots that the components were not taken from. For each component, length and noise of the neighbour branch
    are those with the smallest squared error at masked spots; half of the masks are random spots, half are patches of
    tissue. A component gets the factor that fits these spots best: 0 if neighbours tell nothing. Masks are drawn with
    fixed seeds.

    Parameters
    ----------
    blocks
        Held-out sections, or blocks of them, each with a prediction by a model that has not seen it.

    Returns
    -------
    What was learned; None if too few spots have counts, or the prediction has no error.
    """
    blocks = [MeasuredSpots(*(part[each.depth > 0].double() for part in each)) for each in blocks]
    blocks = [each for each in blocks if len(each.pos) > _FOLDS]
    errors = torch.cat([each.error for each in blocks]) if blocks else torch.zeros(0, 0)
    if not errors.any():
        return None
    size, looseness = _gene_encoder(blocks)
    basis = _leading(errors, size)
    prior = (errors @ basis.T).square().mean(dim=0)
    usual = torch.cat([each.depth for each in blocks]).median()
    grid = torch.cartesian_prod(torch.tensor(_LENGTHS).double(), torch.tensor(_NOISES).double())
    product, square, total = torch.zeros(3, len(grid), len(basis), dtype=torch.float64)
    for number, block in enumerate(blocks):
        for mask in _masks(block.pos, np.random.default_rng(number)):
            filled, wanted = _filled(block, block.error @ basis.T, mask, grid, usual)
            product += (filled * wanted).sum(dim=1)
            square += filled.square().sum(dim=1)
            total += wanted.square().sum(dim=0)
    factor = (product / square.clamp_min(1e-300)).clamp(0.0, 1.0)
    chosen = (total - 2 * factor * product + factor.square() * square).argmin(dim=0)
    found = MaskedGenes(
        basis=basis,
        length=grid[chosen, 0],
        noise=grid[chosen, 1],
        factor=factor[chosen, torch.arange(len(basis))],
        prior=prior,
        remainder=looseness * _remainder(errors, basis, prior),
        depth=usual[None],
    )
    return MaskedGenes.restore(found.memory())


def _leading(errors: Tensor, most: int) -> Tensor:
    """Find the leading directions of errors about zero, ``(k, n_genes)``, those without variance left out."""
    wide = errors.shape[0] < errors.shape[1]
    values, vectors = torch.linalg.eigh(errors @ errors.T if wide else errors.T @ errors)
    values, vectors = values.flip(0)[:most], vectors.flip(1)[:, :most]
    kept = values > 1e-9 * values[0]
    return vectors[:, kept].T @ errors / values[kept, None].sqrt() if wide else vectors[:, kept].T


def _remainder(errors: Tensor, basis: Tensor, prior: Tensor) -> Tensor:
    """Compute the variance of each gene beside leading components; none is much surer than the others."""
    square = errors.square().mean(dim=0)
    return (square - prior @ basis.square()).clamp_min(1e-2 * float(square.mean()))


def _gene_encoder(blocks: Sequence[MeasuredSpots]) -> tuple[int, float]:
    """Choose the number of components and the factor on the noise of genes, by masked genes of other spots."""
    errors = torch.cat([each.error for each in blocks])
    number = torch.arange(len(blocks)).repeat_interleave(torch.tensor([len(each.pos) for each in blocks]))
    fold = (number if len(blocks) >= _FOLDS else torch.arange(len(errors))) % _FOLDS
    rng, loosenesses = np.random.default_rng(0), torch.tensor(_LOOSENESS, dtype=torch.float64)
    left = torch.zeros(len(_SIZES), len(_LOOSENESS), dtype=torch.float64)
    for part in range(_FOLDS):
        train, test = errors[fold != part], errors[fold == part]
        basis = _leading(train, _SIZES[-1])
        prior = (train @ basis.T).square().mean(dim=0)
        noises = [_remainder(train, basis[:size], prior[:size]) for size in _SIZES]
        for share in _GENES:
            given = torch.zeros(errors.shape[1], dtype=torch.bool)
            given[torch.from_numpy(rng.permutation(len(given)))[: max(1, round(share * len(given)))]] = True
            hidden, shown = basis[:, ~given], test[:, given]
            wanted, products = test[:, ~given] @ hidden.T, hidden @ hidden.T
            for i, (size, noise) in enumerate(zip(_SIZES, noises, strict=True)):
                used = basis[:size, given]
                weighted = used / noise[given]
                told, known = shown @ weighted.T, weighted @ used.T
                precision = known + loosenesses[:, None, None] * torch.diag(prior[:size].reciprocal())
                scores = torch.linalg.solve(precision, told.T.expand(len(precision), -1, -1)).mT
                # Squared error at masked genes, without what no candidate changes.
                square = (scores @ products[:size, :size] * scores).sum(dim=(1, 2))
                left[i] += square - 2 * (scores * wanted[:, :size]).sum(dim=(1, 2))
    best = int(left.argmin())
    return _SIZES[best // len(_LOOSENESS)], _LOOSENESS[best % len(_LOOSENESS)]


def _masks(pos: Tensor, rng: np.random.Generator) -> Iterator[Tensor]:
    """Draw which spots of a block are measured: random ones, and those nearest to a random one."""
    for share in _SPOTS:
        centre = pos[int(rng.integers(len(pos)))]
        for order in (torch.from_numpy(rng.permutation(len(pos))), (pos - centre).norm(dim=1).argsort(stable=True)):
            mask = torch.zeros(len(pos), dtype=torch.bool)
            mask[order[: max(1, round(share * len(pos)))]] = True
            yield mask


def _filled(block: MeasuredSpots, scores: Tensor, mask: Tensor, grid: Tensor, usual: Tensor) -> tuple[Tensor, Tensor]:
    """Fill in masked spots by each candidate, ``(n_grid, n_masked, k)``, and give what was measured there."""
    there, masked = block.pos[mask], block.pos[~mask]
    lengths, noises = grid.T[:, :, None]
    between = torch.exp(-torch.cdist(there, there) / lengths[:, :, None]) + _OFFSET
    towards = torch.exp(-torch.cdist(masked, there) / lengths[:, :, None]) + _OFFSET
    weights = torch.linalg.solve(between + torch.diag_embed(noises * usual / block.depth[mask]), scores[mask])
    return towards @ weights, scores[~mask]
