"""The noise ceiling: the correlation that a perfect predictor would reach with noisy counts, and the error of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph._errors import DataError, setting
from nh2st_graph._files import is_count
from nh2st_graph.metrics._scores import pearson

__all__ = ["mean_ceiling", "mean_where", "noise_ceiling", "noise_ceiling_interval", "share_of_ceiling"]

#: Standard deviations on each side of the mean that hold 95 % of a normal distribution.
_WITHIN_95 = 1.96
_NEARLY_1 = 1 - 1e-9


def noise_ceiling(
    counts: Any,
    normalize: Callable[[Any], Any],
    *,
    n_repeats: int = 5,
    seed: int = 0,
) -> pd.Series:
    r"""Estimate the r that a perfect predictor of each gene would reach on a section.

    Each count is split binomially in halves, which are independent given the tissue if counts are Poisson. Both halves
    are normalised as the target is, and correlated gene by gene over the spots: :math:`r_{1/2}`. The Spearman-Brown
    formula corrects this to the full depth, and its root is the correlation of the truth with a noisy measurement:

    .. math:: \text{ceiling} = \sqrt{\frac{2 r_{1/2}}{1 + r_{1/2}}}

    The half correlations are averaged over the repeats *before* the correction: the formula is not linear and is
    clipped at 0, so that averaging afterwards would carry the noise of every split into the mean. Repeats remove the
    noise of splitting but not that of the counts: the ceiling of one weakly expressed gene is rough, and a score can
    pass it by chance, while means over genes are stable. :func:`noise_ceiling_interval` gives the error.

    Parameters
    ----------
    counts
        Raw counts, ``(n_spots, n_genes)``: a data frame, an array or a sparse array. Give all genes of the section if
        the library size is taken over all of them.
    normalize
        Function from counts (in the container of ``counts``) to targets, ``(n_spots, n_panel)``, which computes the
        library size from the counts that it is given.
    n_repeats
        Number of random splits.
    seed
        Seed of the splits.

    Returns
    -------
    ``(n_panel,)`` in [0, 1], indexed by the columns of the result of ``normalize`` if it is a data frame.

    Raises
    ------
    DataError
        If counts are negative or not integers, or ``normalize`` gives values that are not finite.

    References
    ----------
    Spearman 1910 and Brown 1910, Br J Psychol 3; binomial splitting as in Batson et al. 2019 (bioRxiv
    786269) and Neufeld et al. 2024 (Biostatistics 25).
    """
    total, names = np.zeros(()), None
    for first, second, genes in _normalized_halves(counts, normalize, n_repeats, seed):
        total, names = total + pearson(first, second), genes
    return pd.Series(_at_full_depth(total / n_repeats), index=names, name="ceiling")


def noise_ceiling_interval(
    counts: Any,
    normalize: Callable[[Any], Any],
    *,
    n_repeats: int = 5,
    n_boot: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Estimate the noise ceiling as :func:`noise_ceiling` does, with 95 % intervals from a bootstrap over spots.

    Spots are drawn with replacement, the same for all splits. The interval of a gene holds the middle 95 % of the
    draws and, since a gene with few counts leaves little to draw, that of a normal approximation. A gene whose interval
    begins at 0 has no measurable ceiling: its counts cannot be told from noise. Of simulated genes in 250 spots, more
    than 9 of 10 have their true ceiling in the interval, and a perfect predictor is above it for 3 of 100. Spots beside
    each other are alike, so that intervals of real sections are rather too narrow than too wide.

    Parameters
    ----------
    counts, normalize, n_repeats, seed
        As in :func:`noise_ceiling`, which gives the same ceilings.
    n_boot
        Number of draws.

    Returns
    -------
    A row for each gene: ``ceiling``, ``ceiling_low`` and ``ceiling_high``.

    Raises
    ------
    DataError
        As :func:`noise_ceiling` does.
    """
    if not is_count(n_boot):
        raise DataError(f"{setting('n_boot', n_boot)}; give at least 1")
    drawn, total, totals, names, n = None, np.zeros(()), np.zeros(()), None, 0
    for first, second, genes in _normalized_halves(counts, normalize, n_repeats, seed):
        if drawn is None:
            n, names = len(first), genes
            drawn = np.random.default_rng([seed, 1]).multinomial(n, np.full(n, 1 / n), size=n_boot) / n
        total = total + pearson(first, second)
        totals = totals + _weighted_pearson(first, second, drawn)
    mean, draws = total / n_repeats, totals / n_repeats
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    least, most = _normal_interval(mean, n, n_repeats)
    ends = {"ceiling": mean, "ceiling_low": np.minimum(low, least), "ceiling_high": np.maximum(high, most)}
    table = {name: _at_full_depth(np.asarray(values)) for name, values in ends.items()}
    return pd.DataFrame(table, index=names)


def _normal_interval(r: NDArray, n_spots: int, n_repeats: int) -> tuple[NDArray, NDArray]:
    """Compute the 95 % interval of half correlations by Fisher's z, of which the mean of splits has a smaller error.

    Without signal, half of the variance of a split's r comes from the split, and averages out over the repeats.
    """
    error = np.sqrt((1 + 1 / n_repeats) / 2 / max(n_spots - 3, 1))
    z = np.arctanh(np.clip(r, -_NEARLY_1, _NEARLY_1))
    return np.tanh(z - _WITHIN_95 * error), np.tanh(z + _WITHIN_95 * error)


def _normalized_halves(
    counts: Any, normalize: Callable[[Any], Any], n_repeats: int, seed: int
) -> Iterator[tuple[NDArray, NDArray, pd.Index | None]]:
    """Split counts again and again; yield both halves as targets, ``(n_spots, n_panel)``, and the genes' names."""
    if not is_count(n_repeats):
        raise DataError(f"{setting('n_repeats', n_repeats)}; give at least 1")
    rng = np.random.default_rng(seed)
    for _ in range(n_repeats):
        first, second = (normalize(half) for half in _halves(counts, rng))
        yield _dense(first), _dense(second), first.columns if isinstance(first, pd.DataFrame) else None


def _at_full_depth(r_half: NDArray) -> NDArray[np.float64]:
    """Correct the correlation of halves to the full depth, and take the root."""
    positive = np.clip(r_half, 0.0, 1.0)
    return np.sqrt(2 * positive / (1 + positive))


def _weighted_pearson(a: NDArray, b: NDArray, weights: NDArray) -> NDArray[np.float64]:
    """Compute r of each gene, ``(n_draws, n_genes)``, by weights of the spots, ``(n_draws, n_spots)``, of sum 1."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    mean_a, mean_b, aa, bb, ab = weights @ a, weights @ b, weights @ (a * a), weights @ (b * b), weights @ (a * b)
    spread = np.sqrt(np.clip(aa - mean_a**2, 0, None) * np.clip(bb - mean_b**2, 0, None))
    covariance = ab - mean_a * mean_b
    # A draw may hold a gene at one value only: it says nothing, as in pearson.
    known = spread > 1e-12 * np.maximum(aa, bb)
    return np.clip(np.divide(covariance, spread, out=np.zeros_like(spread), where=known), -1.0, 1.0)


def share_of_ceiling(pcc: pd.Series, ceiling: pd.Series | pd.DataFrame) -> float | None:
    """Give mean r as a share of the mean noise ceiling, over the genes with a measurable ceiling.

    This is a ratio of means: genes whose ceiling is nearly 0 would dominate a mean of ratios.

    Parameters
    ----------
    pcc, ceiling
        r and noise ceiling by gene, joined by name. Of a table of :func:`noise_ceiling_interval`, genes whose interval
        begins at 0 are left out; of a series of :func:`noise_ceiling`, genes with a ceiling of 0.

    Returns
    -------
    The share (1 is what a perfect predictor is expected to reach), or None if no gene has a measurable ceiling.

    Raises
    ------
    DataError
        If the genes do not agree.
    """
    odd = pcc.index.symmetric_difference(ceiling.index)
    if len(odd):
        raise DataError(f"pcc and ceiling do not hold the same genes: {len(odd)} in one only ({odd[0]!r})")
    table = ceiling if isinstance(ceiling, pd.DataFrame) else pd.DataFrame({"ceiling": ceiling, "ceiling_low": ceiling})
    measurable = table[table["ceiling_low"] > 0]
    if not len(measurable):
        return None
    return float(pcc.loc[measurable.index].mean() / measurable["ceiling"].mean())


def _halves(counts: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """Split counts into two parts that add up to them, each in the container of the counts."""
    if isinstance(counts, pd.DataFrame):
        parts = _halves(counts.to_numpy(), rng)
        one, other = (pd.DataFrame(part, counts.index, counts.columns) for part in parts)
        return one, other
    if sparse.issparse(counts):
        whole = counts.tocsr()
        first, second = whole.copy(), whole.copy()
        first.data, second.data = _halves(whole.data, rng)
        return first, second
    values = np.asarray(counts)
    if values.size and (values.min() < 0 or not np.array_equal(values, np.rint(values))):
        raise DataError("counts are negative or not integers; give raw counts")
    first = rng.binomial(values.astype(np.int64), 0.5)
    return first, values.astype(np.int64) - first


def _dense(values: Any) -> NDArray:
    dense = values.toarray() if sparse.issparse(values) else np.asarray(values)
    if not np.isfinite(dense).all():
        raise DataError("normalize gave values that are not finite for half of the counts; leave out empty spots")
    return dense


def mean_ceiling(tables: Sequence[pd.DataFrame], there: NDArray[np.bool_]) -> pd.DataFrame:
    """Average noise ceilings over sections as correlations of halves, whose errors add up as those of a mean.

    Ceilings are clipped at 0, so that their own mean would be above 0 for a gene of noise, and the lower half of its
    error hidden; the upper half is not.

    Parameters
    ----------
    tables
        One of :func:`noise_ceiling_interval` for each section, with the same genes.
    there
        Whether a gene varies in a section, ``(n_sections, n_genes)``; others are left out of its mean.

    Returns
    -------
    A row for each gene: ``ceiling``, ``ceiling_low`` and ``ceiling_high``, NaN where it varies in no section.
    """
    half = [table["ceiling"].to_numpy() ** 2 / (2 - table["ceiling"].to_numpy() ** 2) for table in tables]
    most = [table["ceiling_high"].to_numpy() ** 2 / (2 - table["ceiling_high"].to_numpy() ** 2) for table in tables]
    error = [np.square(above - middle) for above, middle in zip(most, half, strict=True)]
    mean, n = mean_where(half, there), np.maximum(there.sum(axis=0), 1)
    reach = np.sqrt(mean_where(error, there) / n)
    ends = {"ceiling": mean, "ceiling_low": mean - reach, "ceiling_high": mean + reach}
    clipped = {name: np.clip(values, 0.0, 1.0) for name, values in ends.items()}
    index = tables[0].index
    return pd.DataFrame({name: np.sqrt(2 * values / (1 + values)) for name, values in clipped.items()}, index=index)


def mean_where(values: Sequence[NDArray[np.float64]], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Take the mean of each gene over the sections where it is ``there``, NaN if there is none."""
    n = there.sum(axis=0)
    total = np.where(there, np.stack(values), 0.0).sum(axis=0)
    return np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)
