"""Decide which genes held-out predictions follow beyond chance: intervals by blocks of tissue, and shifted sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["HeldOut", "readable_genes", "varies"]

#: Genes that are computed at a time.
_GENES = 1024


@dataclass(frozen=True)
class HeldOut:
    """The held-out prediction of a part of tissue beside what was measured.

    Attributes
    ----------
    predicted, observed
        ``(n_spots, n_genes)``.
    depth
        Log of each spot's total count, ``(n_spots,)``.
    blocks
        Positions of the spots of each block of tissue, in the order of a walk over the tissue.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    depth: NDArray[np.float64]
    blocks: Sequence[NDArray[np.int64]]


def readable_genes(parts: Sequence[HeldOut], *, n_draws: int = 400, n_shifts: int = 60, seed: int = 0) -> pd.DataFrame:
    """Give an interval of each gene's held-out r given depth, and what shifted sections give.

    Neighbouring spots are alike, so that they are no independent witnesses: blocks of tissue are drawn with replacement
    within each part, and r given depth is the mean over the parts where the gene varies. For chance, predictions are
    moved along the walk over the tissue, so that they meet other spots and stay as smooth as they are. A gene is
    readable if its 95 % interval begins above 95 % of the shifts.

    Parameters
    ----------
    parts
        Sections, or parts of a single one.
    n_draws
        Number of draws for the interval.
    n_shifts
        Number of shifts.
    seed
        Seed of the draws.

    Returns
    -------
    A row for each gene: ``low``, ``high``, ``chance`` and ``readable``. NaN for a gene that varies nowhere.
    """
    n_genes = parts[0].observed.shape[1]
    rows = []
    for start in range(0, n_genes, _GENES):
        columns = slice(start, start + _GENES)
        draws = _mean(
            [_drawn(part, columns, n_draws, np.random.default_rng([seed, i])) for i, part in enumerate(parts)]
        )
        shifts = _mean([_shifted(part, columns, n_shifts) for part in parts])
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        rows.append(np.column_stack([low, high, np.quantile(shifts, 0.95, axis=0)]))
    table = pd.DataFrame(np.vstack(rows), columns=["low", "high", "chance"])
    return table.assign(readable=table["low"] > table["chance"].clip(lower=0))


def varies(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each gene varies over spots, ``(n_genes,)``."""
    return np.asarray(np.ptp(values, axis=0) > 0)


def _mean(scores: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Take the mean over parts of ``(n, n_genes)``, without NaN; NaN where all are."""
    known = sum(~np.isnan(each) for each in scores)
    total = np.sum([np.nan_to_num(each) for each in scores], axis=0)
    return np.divide(total, known, out=np.full_like(total, np.nan), where=known > 0)


def _drawn(part: HeldOut, columns: slice, n_draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Compute r given depth of drawn blocks, ``(n_draws, n_genes)``, from sums of products over each block."""
    p, o, d = _centred(part, columns)
    n_blocks = len(part.blocks)
    drawn = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_draws).astype(np.float64)

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(drawn @ np.stack([values[block].sum(axis=0) for block in part.blocks]))

    one = total(np.ones((len(d), 1)))
    mean_p, mean_o, mean_d = total(p) / one, total(o) / one, total(d) / one
    pp, oo, dd = (total(each * each) / one - mean**2 for each, mean in ((p, mean_p), (o, mean_o), (d, mean_d)))
    po, pd_ = total(p * o) / one - mean_p * mean_o, total(p * d) / one - mean_p * mean_d
    od = total(o * d) / one - mean_o * mean_d
    return _given_depth(pp, oo, dd, po, pd_, od, varies(part.observed[:, columns]))


def _shifted(part: HeldOut, columns: slice, n_shifts: int) -> NDArray[np.float64]:
    """Compute r given depth of predictions that are moved along the walk by a tenth of it and more."""
    p, o, d = _centred(part, columns)
    walk = np.concatenate(part.blocks)
    p, o, d = p[walk], o[walk], d[walk]
    n, there = len(d), varies(o)
    pp, oo, dd, od = (p * p).mean(axis=0), (o * o).mean(axis=0), (d * d).mean(axis=0), (o * d).mean(axis=0)
    found = []
    for shift in _shifts(n, n_shifts):
        moved = np.roll(p, shift, axis=0)
        po, pd_ = np.einsum("ij,ij->j", moved, o) / n, (d.T @ moved)[0] / n
        found.append(_given_depth(pp, oo, dd, po, pd_, od, there))
    return np.stack(found)


def _shifts(n_spots: int, n_shifts: int) -> Iterator[int]:
    """Give even shifts between a tenth and nine tenths of the spots."""
    for shift in np.linspace(0.1 * n_spots, 0.9 * n_spots, n_shifts):
        yield round(shift)


def _centred(part: HeldOut, columns: slice) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    values = part.predicted[:, columns], part.observed[:, columns], part.depth[:, None]
    p, o, d = (np.asarray(each - each.mean(axis=0), dtype=np.float64) for each in values)
    return p, o, d


def _given_depth(
    pp: NDArray[np.float64],
    oo: NDArray[np.float64],
    dd: NDArray[np.float64],
    po: NDArray[np.float64],
    pd_: NDArray[np.float64],
    od: NDArray[np.float64],
    there: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Compute partial correlations from variances and covariances; 0 where a draw has no variation."""
    known = np.where(dd > 0, dd, 1.0)
    covariance = po - pd_ * od / known
    spread = np.sqrt(np.clip(pp - pd_**2 / known, 0, None) * np.clip(oo - od**2 / known, 0, None))
    some = spread > 1e-12 * np.sqrt(np.clip(pp, 0, None) * np.clip(oo, 0, None))
    r = np.clip(np.divide(covariance, spread, out=np.zeros_like(covariance), where=some), -1.0, 1.0)
    return np.asarray(np.where(there, r, np.nan))
