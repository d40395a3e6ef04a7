"""Means over sections, and paired intervals of the difference between two methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nh2st_graph._errors import DataError, setting
from nh2st_graph._files import is_count
from nh2st_graph.metrics._scores import Summary

__all__ = ["PairedDifference", "aggregate", "paired_bootstrap"]


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference between two methods, with a 95 % bootstrap interval.

    Attributes
    ----------
    mean
        Mean of ``a - b`` over sections and genes.
    low, high
        Bounds of the interval. It excludes 0 if the methods differ beyond chance.
    """

    mean: float
    low: float
    high: float


def paired_bootstrap(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    n_boot: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two methods that were scored on the same sections and genes.

    Sections and genes are both samples, and are drawn with replacement independently of each other (the two-way
    "pigeonhole" bootstrap). With one section the interval covers the choice of genes only.

    Parameters
    ----------
    a, b
        Scores, ``(n_sections, n_genes)``, joined by name. A pair with NaN on either side (a gene that a section lacks)
        is left out.
    n_boot
        Number of draws.
    seed
        Seed of the draws.

    Returns
    -------
    The mean difference ``a - b`` and its percentile interval.

    Raises
    ------
    DataError
        If sections or genes do not agree, no pair is left, or there is no draw.

    References
    ----------
    Owen 2007, Ann Appl Stat 1:386, "The pigeonhole bootstrap".
    """
    if not is_count(n_boot):
        raise DataError(f"{setting('n_boot', n_boot)}; give at least 1")
    for what, left, right in (("sections", a.index, b.index), ("genes", a.columns, b.columns)):
        if not left.is_unique or not right.is_unique or len(left.symmetric_difference(right)):
            raise DataError(f"a and b must have the same {what}, each once; give those that both methods scored")
    difference = (a - b.loc[a.index, a.columns]).to_numpy(dtype=np.float64)
    known = ~np.isnan(difference)
    if not known.any():
        raise DataError("a and b share no section and gene with a score")
    rng = np.random.default_rng(seed)
    sections, genes = (_draw_counts(rng, n_boot, size) for size in difference.shape)
    # Drawing with replacement weights each by how often it is drawn: two products replace n_boot copies.
    sums = ((sections @ np.where(known, difference, 0.0)) * genes).sum(axis=1)
    sizes = ((sections @ known) * genes).sum(axis=1)
    low, high = np.quantile(sums[sizes > 0] / sizes[sizes > 0], [0.025, 0.975])
    return PairedDifference(float(difference[known].mean()), float(low), float(high))


def _draw_counts(rng: np.random.Generator, n_boot: int, size: int) -> NDArray[np.float64]:
    return rng.multinomial(size, np.full(size, 1 / size), size=n_boot).astype(np.float64)


def aggregate(sections: Mapping[str, Mapping[str, float | int | None]]) -> dict[str, Summary]:
    """Compute mean and standard deviation of each score over sections.

    Parameters
    ----------
    sections
        Scores by section, as in ``Scores.summary``. A score that is None or NaN in a section is left out.

    Returns
    -------
    ``{"mean": {...}, "std": {...}}``, with the standard deviation of a sample (n - 1), which is None if fewer than two
    sections have the score.
    """
    table = pd.DataFrame({name: dict(scores) for name, scores in sections.items()}).T.astype(np.float64)
    return {"mean": _without_nan(table.mean()), "std": _without_nan(table.std(ddof=1))}


def _without_nan(values: pd.Series) -> Summary:
    return {str(name): None if np.isnan(value) else float(value) for name, value in values.items()}
