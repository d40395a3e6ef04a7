"""The noise ceiling: the correlation that a perfect predictor would reach with noisy counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph._errors import DataError, setting
from nh2st_graph.metrics._scores import pearson

__all__ = ["noise_ceiling", "share_of_ceiling"]


def noise_ceiling(
    counts: Any,
    normalize: Callable[[Any], Any],
    *,
    n_repeats: int = 5,
    seed: int = 0,
) -> pd.Series:
    r"""Estimate the highest r that a perfect predictor of each gene could reach on a section.

    Each count is split binomially in halves, which are independent given the tissue if counts are Poisson. Both halves
    are normalised as the target is, and correlated gene by gene over the spots: :math:`r_{1/2}`. The Spearman-Brown
    formula corrects this to the full depth, and its root is the highest correlation with a noisy measurement:

    .. math:: \text{ceiling} = \sqrt{\frac{2 r_{1/2}}{1 + r_{1/2}}}

    The half correlations are averaged over the repeats *before* the correction: the formula is not linear and is
    clipped at 0, so that averaging afterwards would carry the noise of every split into the mean. Repeats remove the
    noise of splitting but not that of the counts: the ceiling of one weakly expressed gene is rough, while means over
    genes are stable.

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
    rng = np.random.default_rng(seed)
    total = None
    for _ in range(n_repeats):
        first, second = (normalize(half) for half in _halves(counts, rng))
        r = pearson(_dense(first), _dense(second))
        total = r if total is None else total + r
    if total is None:
        raise DataError(f"{setting('n_repeats', n_repeats)}; give at least 1")
    r_half = np.clip(total / n_repeats, 0.0, 1.0)
    genes = first.columns if isinstance(first, pd.DataFrame) else None
    return pd.Series(np.sqrt(2 * r_half / (1 + r_half)), index=genes, name="ceiling")


def share_of_ceiling(pcc: pd.Series, ceiling: pd.Series) -> float | None:
    """Give mean r as a share of the mean noise ceiling, over the genes with a ceiling above 0.

    This is a ratio of means: genes whose ceiling is nearly 0 would dominate a mean of ratios.

    Parameters
    ----------
    pcc, ceiling
        r and noise ceiling by gene, joined by name.

    Returns
    -------
    The share (1 is perfect), or None if no gene has a ceiling above 0.

    Raises
    ------
    DataError
        If the genes do not agree.
    """
    odd = pcc.index.symmetric_difference(ceiling.index)
    if len(odd):
        raise DataError(f"pcc and ceiling do not hold the same genes: {len(odd)} in one only ({odd[0]!r})")
    reachable = ceiling.index[ceiling > 0]
    if not len(reachable):
        return None
    return float(pcc.loc[reachable].mean() / ceiling.loc[reachable].mean())


def _halves(counts: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """Split counts into two parts that add up to them, each in the container of the counts."""
    if isinstance(counts, pd.DataFrame):
        parts = _halves(counts.to_numpy(), rng)
        return tuple(pd.DataFrame(part, counts.index, counts.columns) for part in parts)  # type: ignore[return-value]
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
