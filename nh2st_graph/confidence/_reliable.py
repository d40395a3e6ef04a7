"""Which genes can be relied on: scores in held-out tissue beside what misplaced predictions score there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from nh2st_graph.confidence._held_out import HeldOut, joined, units_of
from nh2st_graph.metrics import mean_ceiling, pearson
from nh2st_graph.section import Key

__all__ = ["gene_table", "misplaced"]

Floats = NDArray[np.floating[Any]]

#: Draws of blocks, and of misplacements.
_DRAWS, _MISPLACED = 400, 60

#: Numbers of misplaced predictions that are held at a time.
_NUMBERS = 4_000_000

#: Share of draws on each side that is outside an interval.
_TAIL = 0.025


def gene_table(
    parts: Sequence[HeldOut], genes: Sequence[str], ceilings: Mapping[str, pd.DataFrame], *, seed: int = 0
) -> pd.DataFrame:
    """Score each gene in held-out tissue, and say whether it can be relied on.

    The score is Pearson's r given depth: with the logarithm of the library size regressed out of both sides, the mean
    over sections. Its 95 % interval comes from drawing units with replacement, and blocks of tissue within them. Units
    are patients where there are several, else sections, else bands of the only section. A gene is **reliable** if this
    interval lies above what 97.5 % of misplaced predictions reach: predictions that were turned and moved over the
    tissue as a whole (:func:`misplaced`), so that they vary over it as smoothly, in the wrong places.

    Parameters
    ----------
    parts
        Held-out sections, or bands of one.
    genes
        Names of the genes.
    ceilings
        Noise ceilings of sections by name, as of :func:`nh2st_graph.metrics.noise_ceiling_interval`; of all, or of
        none.
    seed
        Of the draws.

    Returns
    -------
    A row for each gene: ``held_out_pcc``, ``held_out_pcc_partial``, ``held_out_low`` and ``held_out_high`` (the
    interval of the latter), ``held_out_chance`` (what misplaced predictions reach), ``held_out_ceiling``,
    ``held_out_share_of_ceiling``, ``n_sections`` and ``n_patients`` in which the gene was detected, and ``reliable``.
    """
    sections = joined(parts)
    rng = np.random.default_rng(seed)
    plain = np.mean([pearson(each.predicted, each.observed) for each in sections], axis=0)
    scores = [_Moments.of(each) for each in sections]
    r = np.mean([each.r(np.ones((1, len(each.n))))[0] for each in scores], axis=0)
    low, high = np.quantile(_drawn(parts, sections, scores, rng), [_TAIL, 1 - _TAIL], axis=0)
    chance = np.quantile(_by_chance(sections, rng), 1 - _TAIL, axis=0)
    detected = np.array([(each.observed > each.observed.min(axis=0)).any(axis=0) for each in sections])
    patients = np.array([each.patient for each in sections])
    n_patients = np.sum([detected[patients == name].any(axis=0) for name in np.unique(patients)], axis=0)
    table = pd.DataFrame(
        {
            Key.var.held_out_r: plain,
            Key.var.held_out_partial: r,
            Key.var.held_out_low: low,
            Key.var.held_out_high: high,
            Key.var.held_out_chance: chance,
            Key.var.n_sections: detected.sum(axis=0),
            Key.var.n_patients: n_patients,
            Key.var.reliable: low > np.maximum(chance, 0.0),
        },
        index=pd.Index(genes, name="gene"),
    )
    ceiling = _ceiling(sections, genes, ceilings)
    table.insert(5, Key.var.held_out_ceiling, ceiling)
    table.insert(6, Key.var.held_out_share, np.where(ceiling > 0, plain / np.where(ceiling > 0, ceiling, 1), np.nan))
    return table


def _ceiling(sections: Sequence[HeldOut], genes: Sequence[str], ceilings: Mapping[str, pd.DataFrame]) -> Floats:
    """Give the mean ceiling over sections; NaN where none can be measured."""
    tables = {each.section: ceilings[each.section].loc[list(genes)] for each in sections if each.section in ceilings}
    if not tables:
        return np.full(len(genes), np.nan)
    there = [np.ptp(each.observed, axis=0) > 0 for each in sections if each.section in tables]
    mean = mean_ceiling(list(tables.values()), np.stack(there))
    return np.where(mean["ceiling_low"] > 0, mean["ceiling"], np.nan)


class _Moments:
    """Sums of products of a section's residuals by block, from which r of any draw of blocks follows."""

    def __init__(self, n: Floats, p: Floats, o: Floats, pp: Floats, oo: Floats, po: Floats) -> None:
        self.n, self.p, self.o, self.pp, self.oo, self.po = n, p, o, pp, oo, po

    @classmethod
    def of(cls, section: HeldOut) -> _Moments:
        a, b = (residuals(side, section.depth) for side in (section.predicted, section.observed))
        n_blocks = int(section.blocks.max()) + 1
        member = np.zeros((n_blocks, len(a)))
        member[section.blocks, np.arange(len(a))] = 1.0
        return cls(member.sum(axis=1), *(member @ each for each in (a, b, a * a, b * b, a * b)))

    def r(self, weights: Floats) -> Floats:
        """Give r of each gene, ``(n_draws, n_genes)``, if blocks count ``weights`` times, ``(n_draws, n_blocks)``."""
        n = (weights @ self.n)[:, None]
        n = np.where(n > 0, n, 1.0)
        p, o, pp, oo, po = (weights @ each / n for each in (self.p, self.o, self.pp, self.oo, self.po))
        spread = (pp - p * p).clip(0) * (oo - o * o).clip(0)
        safe = np.where(spread > 1e-18, spread, 1.0)
        return np.where(spread > 1e-18, (po - p * o) / np.sqrt(safe), 0.0)


def _drawn(
    parts: Sequence[HeldOut], sections: Sequence[HeldOut], scores: Sequence[_Moments], rng: np.random.Generator
) -> Floats:
    """Draw units, and blocks within them; give the mean r over sections of each draw, ``(n_draws, n_genes)``."""
    names = {unit: number for number, unit in enumerate(sorted(set(units_of(parts)[1])))}
    unit_of = dict(zip([(each.section, each.part) for each in parts], units_of(parts)[1], strict=True))
    # The unit of each block of each section: its blocks stand in the order of its parts.
    of_blocks = [
        np.repeat(
            [names[unit_of[part.section, part.part]] for part in parts if part.section == section.section],
            [int(part.blocks.max()) + 1 for part in parts if part.section == section.section],
        )
        for section in sections
    ]
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_DRAWS)
    total, weight = np.zeros((_DRAWS, scores[0].p.shape[1])), np.zeros((_DRAWS, 1))
    for score, units in zip(scores, of_blocks, strict=True):
        drawn = np.zeros((_DRAWS, len(units)))
        for unit in np.unique(units):
            own = np.flatnonzero(units == unit)
            drawn[:, own] = times[:, [unit]] * rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=_DRAWS)
        share = drawn.sum(axis=1, keepdims=True) / len(units)
        total += share * score.r(drawn)
        weight += share
    return total / weight


def residuals(values: Floats, depth: Floats) -> Floats:
    """Take the mean and what follows the logarithm of depth off each column, and scale columns to unit length."""
    covariate = np.log1p(np.asarray(depth, dtype=np.float64))
    design = np.stack([np.ones_like(covariate), covariate - covariate.mean()], axis=1)
    values = np.asarray(values, dtype=np.float64)
    left = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    length = np.linalg.norm(left, axis=0)
    flat = length <= 1e-6 * np.linalg.norm(values - values.mean(axis=0), axis=0) + 1e-12
    return np.asarray(np.where(flat, 0.0, left / np.where(flat, 1.0, length)))


def _by_chance(sections: Sequence[HeldOut], rng: np.random.Generator) -> Floats:
    """Score misplaced predictions: the mean r over sections, for each of some draws."""
    found = []
    for each in sections:
        a, b = (residuals(side, each.depth) for side in (each.predicted, each.observed))
        source = misplaced(each.pos, rng, _MISPLACED)
        at_once = max(1, _NUMBERS // a.size)
        moved = [_moved(a, b, source[i : i + at_once]) for i in range(0, _MISPLACED, at_once)]
        found.append(np.concatenate(moved))
    return np.asarray(np.mean(found, axis=0))


def _moved(a: Floats, b: Floats, source: NDArray[np.intp]) -> Floats:
    """Give r of each gene where spots take the prediction of ``source``, ``(n_draws, n_genes)``."""
    other = a[source]
    other -= other.mean(axis=1, keepdims=True)
    length = np.sqrt(np.einsum("dng,dng->dg", other, other))
    return np.asarray(np.einsum("dng,ng->dg", other, b) / np.where(length > 1e-12, length, np.inf))


def misplaced(pos: Floats, rng: np.random.Generator, n_draws: int) -> NDArray[np.intp]:
    """Draw which spot each spot takes its prediction from, if the map of predictions is turned and moved as a whole.

    The map is turned by any angle around its middle, perhaps mirrored, moved by up to half its extent, and what leaves
    on one side comes in on the other; each spot then takes the prediction of the nearest.

    Parameters
    ----------
    pos
        Positions, ``(n_spots, 2)``.
    rng
        Of the draws.
    n_draws
        Their number.

    Returns
    -------
    Positions of spots, ``(n_draws, n_spots)``.
    """
    pos = np.asarray(pos, dtype=np.float64)
    middle = pos - (pos.max(axis=0) + pos.min(axis=0)) / 2
    angle, side = rng.uniform(0, 2 * np.pi, n_draws), rng.choice([-1.0, 1.0], n_draws)
    turn = np.array([[side * np.cos(angle), -np.sin(angle)], [side * np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    extent = np.maximum(np.ptp(pos, axis=0), 1e-9) * (1 + 1e-6)
    to = middle @ turn + rng.uniform(-0.5, 0.5, size=(n_draws, 1, 2)) * extent
    to = (to + extent / 2) % extent - extent / 2
    return np.asarray(cKDTree(middle).query(to.reshape(-1, 2))[1]).reshape(n_draws, len(pos))
