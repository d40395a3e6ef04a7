"""Scores of one section: of each gene over its spots, and their summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from nh2st_graph._errors import DataError, setting
from nh2st_graph._files import is_count

__all__ = [
    "Scores",
    "Summary",
    "best_predicted",
    "depth_oracle",
    "highest_expressed",
    "mae",
    "mse",
    "n_constant",
    "partial_pearson",
    "pearson",
    "score_section",
]

#: Scores by name; a score without meaning is None (``null`` in JSON).
Summary: TypeAlias = dict[str, float | int | None]

#: A column is constant if its spread, relative to its largest value, is at most this many rounding steps.
_ROUND_OFF = 16
_N_TOP = 50
_N_SHUFFLES = 20
_SHUFFLE_SEED = 0

#: Numbers that a thread scores at a time, the fewest genes of them, and the most numbers of all threads.
_NUMBERS, _LEAST_GENES, _MOST_NUMBERS = 2**22, 32, 2**26
#: Spots that are checked at a time.
_SPOTS = 2**16


@dataclass(frozen=True)
class Scores:
    """Scores of one method on one section.

    Attributes
    ----------
    per_gene
        A row for each gene: ``pcc``, ``pcc_partial``, ``mse``, ``mae``, ``mean_observed``,
        ``constant_predicted``, ``constant_observed``.
    summary
        The section's scores by name, ready for JSON (see :func:`score_section`).
    """

    per_gene: pd.DataFrame
    summary: Summary


def pearson(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Compute the Pearson correlation of each gene over spots.

    Parameters
    ----------
    a, b
        ``(n_spots, n_genes)``, rows and columns in the same order.

    Returns
    -------
    ``(n_genes,)`` in [-1, 1]. A column that is constant in ``a`` or ``b``, up to the rounding of its floating-point
    type, gives 0; :func:`n_constant` counts such columns. A column with NaN gives NaN.

    Raises
    ------
    DataError
        If the shapes differ or there is no spot.
    """
    a, b = _pair(a, b)
    return _dot(_standardise(a), _standardise(b))


def partial_pearson(a: ArrayLike, b: ArrayLike, covariate: ArrayLike) -> NDArray[np.float64]:
    """Compute the Pearson correlation of each gene over spots, with a covariate regressed out of both sides.

    Parameters
    ----------
    a, b
        ``(n_spots, n_genes)``, rows and columns in the same order.
    covariate
        ``(n_spots,)``, such as the log total count of each spot. The regression has an intercept.

    Returns
    -------
    ``(n_genes,)`` in [-1, 1]. A column that is an affine function of the covariate gives 0.

    Raises
    ------
    DataError
        If the shapes differ or there is no spot.
    """
    a, b = _pair(a, b)
    covariate = np.asarray(covariate, dtype=np.float64)
    if covariate.shape != a.shape[:1]:
        raise DataError(
            f"the covariate has shape {covariate.shape}, expected ({len(a)},); give one value for each spot"
        )
    return _dot(_standardise(a, covariate), _standardise(b, covariate))


def n_constant(values: ArrayLike) -> int:
    """Count the constant columns of ``(n_spots, n_genes)``, for which r is 0."""
    return int(_is_flat(_standardise(np.asarray(values))).sum())


def mse(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Compute the mean squared error of each gene over spots, ``(n_genes,)``, in squared units of the input.

    Raises
    ------
    DataError
        If the shapes differ or there is no spot.
    """
    a, b = _pair(a, b)
    return np.square(np.subtract(a, b, dtype=np.float64)).mean(axis=0)


def mae(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Compute the mean absolute error of each gene over spots, ``(n_genes,)``, in units of the input.

    Raises
    ------
    DataError
        If the shapes differ or there is no spot.
    """
    a, b = _pair(a, b)
    return np.abs(np.subtract(a, b, dtype=np.float64)).mean(axis=0)


def score_section(
    predicted: pd.DataFrame,
    observed: pd.DataFrame,
    *,
    depth: pd.Series,
    heg50: Sequence[str] | None = None,
    hpg50: Sequence[str] | None = None,
    threads: int = 1,
) -> Scores:
    """Score a prediction of one section against its measurement.

    Parameters
    ----------
    predicted, observed
        Log expression, ``(n_spots, n_genes)``, with spot names as index and genes as columns. Both must hold the same
        spots and genes, in any order: they are joined by name.
    depth
        Total count of each spot (not its logarithm), with spot names as index.
    heg50
        Genes with the highest mean in training (:func:`highest_expressed`). Genes that the section lacks are left out.
    hpg50
        Genes predicted best on validation data (:func:`best_predicted`). Genes that the section lacks are left out.
    threads
        Parts of the genes that are scored at a time, if there are very many spots. Scores do not depend on it.

    Returns
    -------
    Scores whose summary has

    ``pcc_mean``
        mean of r over all genes (a constant prediction or target counts as 0)
    ``pcc_partial``
        the same with ``log(1 + depth)`` regressed out of both sides, which removes sequencing depth
    ``pcc_heg50``, ``pcc_hpg50``
        mean of r over the given genes; None if none are given
    ``pcc_top50_by_test``
        mean of r over the 50 genes with the highest r **on this very section**: optimistic by construction, for
        comparison with published numbers only
    ``pcc_top50_by_test_shuffled``
        the same score for shuffled predicted spots (mean over 20 fixed shuffles)
    ``mse``, ``mae``
        means over genes, in (squared) units of the log-expression
    ``n_spots``, ``n_genes``, ``n_constant_predicted``, ``n_constant_observed``
        counts

    Raises
    ------
    DataError
        If spots or genes do not agree, or a value is not a finite number; or ``threads`` is no positive number.
    """
    if not is_count(threads):
        raise DataError(f"{setting('threads', threads)}; give at least 1")
    predicted, observed, depth = _align(predicted, observed, depth)
    covariate = np.log1p(depth.to_numpy(dtype=np.float64))
    shuffles = list(_shuffles(len(observed)))

    def score(genes: slice) -> tuple[pd.DataFrame, NDArray]:
        p, o = (values.iloc[:, genes].to_numpy() for values in (predicted, observed))
        return _score_genes(p, o, covariate, shuffles)

    parts = gene_blocks(*observed.shape)
    largest = len(observed) * max(part.stop - part.start for part in parts)
    with ThreadPoolExecutor(min(threads, max(1, _MOST_NUMBERS // largest))) as pool:
        blocks = list(pool.map(score, parts))
    per_gene = pd.concat([each for each, _ in blocks]).set_axis(pd.Index(observed.columns, name="gene"))
    shuffled = np.concatenate([each for _, each in blocks], axis=1)
    summary: Summary = {
        "pcc_mean": float(per_gene["pcc"].mean()),
        "pcc_partial": float(per_gene["pcc_partial"].mean()),
        "pcc_heg50": _mean_over(per_gene["pcc"], heg50),
        "pcc_hpg50": _mean_over(per_gene["pcc"], hpg50),
        "pcc_top50_by_test": _top_mean(per_gene["pcc"].to_numpy()),
        "pcc_top50_by_test_shuffled": float(np.mean([_top_mean(each) for each in shuffled])),
        "mse": float(per_gene["mse"].mean()),
        "mae": float(per_gene["mae"].mean()),
        "n_spots": len(observed),
        "n_genes": len(per_gene),
        "n_constant_predicted": int(per_gene["constant_predicted"].sum()),
        "n_constant_observed": int(per_gene["constant_observed"].sum()),
    }
    return Scores(per_gene, summary)


def gene_blocks(n_spots: int, n_genes: int) -> list[slice]:
    """Divide the genes, so that a block is small beside a large section; of a small one, they are one block."""
    at_once = max(_NUMBERS // max(n_spots, 1), _LEAST_GENES)
    ends = np.linspace(0, n_genes, -(-n_genes // at_once) + 1).astype(int)
    return [slice(start, end) for start, end in pairwise(ends.tolist())]


def _score_genes(
    p: NDArray, o: NDArray, covariate: NDArray, shuffles: Sequence[NDArray[np.int64]]
) -> tuple[pd.DataFrame, NDArray]:
    """Score some genes; give a row for each, and r of each with shuffled predicted spots, ``(n_shuffles, n_genes)``."""
    z_p, z_o = _standardise(p), _standardise(o)
    scores = {
        "pcc": _dot(z_p, z_o),
        "pcc_partial": partial_pearson(p, o, covariate),
        "mse": mse(p, o),
        "mae": mae(p, o),
        "mean_observed": o.mean(axis=0, dtype=np.float64),
        "constant_predicted": _is_flat(z_p),
        "constant_observed": _is_flat(z_o),
    }
    return pd.DataFrame(scores), np.stack([_dot(z_p[order], z_o) for order in shuffles])


def depth_oracle(
    depth: pd.Series,
    observed: pd.DataFrame,
    *,
    heg50: Sequence[str] | None = None,
    hpg50: Sequence[str] | None = None,
    threads: int = 1,
) -> Scores:
    """Score the spot's log total count as the prediction of every gene: how far depth alone goes.

    A reference row, not a method: it reads the test section's own counts. Its partial correlation is 0
    by definition, and its errors, which would compare a depth with an expression, are left out (None).

    Parameters
    ----------
    depth
        Total count of each spot, with spot names as index.
    observed, heg50, hpg50, threads
        As in :func:`score_section`.

    Returns
    -------
    Scores as of a method; ``mse`` and ``mae`` have no meaning here and are None.

    Raises
    ------
    DataError
        As :func:`score_section`.
    """
    log_depth = np.log1p(depth.to_numpy(dtype=np.float64))
    prediction = pd.DataFrame(
        np.broadcast_to(log_depth[:, None], (len(depth), observed.shape[1])),
        index=depth.index,
        columns=observed.columns,
    )
    scores = score_section(prediction, observed, depth=depth, heg50=heg50, hpg50=hpg50, threads=threads)
    no_errors: Summary = {"mse": None, "mae": None}
    return replace(
        scores,
        per_gene=scores.per_gene.assign(mse=np.nan, mae=np.nan),
        summary={**scores.summary, **no_errors},
    )


def highest_expressed(train_mean: pd.Series, n: int = _N_TOP) -> list[str]:
    """List the ``n`` genes with the highest mean in training, highest first, and ties by name.

    Parameters
    ----------
    train_mean
        Mean expression of each gene over the training spots, with genes as index.
    n
        Number of genes; all genes if there are fewer.
    """
    return _leading(train_mean, n)


def best_predicted(pcc: pd.Series, n: int = _N_TOP) -> list[str]:
    """List the ``n`` genes with the highest r, best first, and ties by name.

    Parameters
    ----------
    pcc
        r of each gene on **validation** data, with genes as index.
    n
        Number of genes; all genes if there are fewer.
    """
    return _leading(pcc, n)


def _leading(values: pd.Series, n: int) -> list[str]:
    ranked = values.dropna().sort_index().sort_values(ascending=False, kind="stable")
    return [str(gene) for gene in ranked.index[:n]]


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[NDArray, NDArray]:
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 2 or a.shape != b.shape:
        raise DataError(f"cannot compare shapes {a.shape} and {b.shape}; give two of (n_spots, n_genes)")
    if not len(a):
        raise DataError("cannot score a section without spots")
    return a, b


def _standardise(values: NDArray, covariate: NDArray | None = None) -> NDArray[np.float64]:
    """Scale columns to mean 0 and norm 1, with the covariate regressed out; constant columns become 0.

    A column is constant up to the rounding of the values' type: a float32 column that varies in its last bits only must
    not turn into noise that has a correlation.
    """
    rounding = np.finfo(values.dtype if values.dtype.kind == "f" else np.float64).eps
    x = values.astype(np.float64)
    x = np.ldexp(x, -np.frexp(np.abs(x).max(axis=0))[1])  # scale to at most 1 by a power of two, which does not round
    direction = None if covariate is None else _standardise(covariate[:, None])
    for _ in range(2):  # the second pass removes the rounding errors of the first
        x -= x.mean(axis=0)
        if direction is not None:
            x -= direction * (direction * x).sum(axis=0)
    spread = np.abs(x).max(axis=0)
    x[:, spread <= _ROUND_OFF * rounding] = 0.0
    x /= _nonzero(spread)  # before squaring, so that a tiny spread does not vanish
    x /= _nonzero(np.sqrt(np.square(x).sum(axis=0)))
    return x


def _nonzero(divisor: NDArray) -> NDArray:
    return np.where(divisor == 0, 1.0, divisor)


def _dot(z_a: NDArray, z_b: NDArray) -> NDArray[np.float64]:
    return np.clip((z_a * z_b).sum(axis=0), -1.0, 1.0)


def _is_flat(standardised: NDArray) -> NDArray[np.bool_]:
    return np.logical_not(standardised.any(axis=0))


def _mean_over(pcc: pd.Series, genes: Sequence[str] | None) -> float | None:
    chosen = pcc.index.intersection(pd.Index([] if genes is None else genes))
    return float(pcc.loc[chosen].mean()) if len(chosen) else None


def _top_mean(pcc: NDArray) -> float:
    return float(np.sort(pcc)[-_N_TOP:].mean())


def _shuffles(n_spots: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(_SHUFFLE_SEED)
    return (rng.permutation(n_spots) for _ in range(_N_SHUFFLES))


def _align(
    predicted: pd.DataFrame, observed: pd.DataFrame, depth: pd.Series
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Sort all three by the names of spots, so that the order of the input does not matter."""
    if observed.empty:
        raise DataError(f"nothing to score: the observed expression has shape {observed.shape}")
    _check_same("spots", predicted.index, "predicted", observed.index, "observed")
    _check_same("spots", depth.index, "depth", observed.index, "observed")
    _check_same("genes", predicted.columns, "predicted", observed.columns, "observed")
    spots = observed.index.sort_values()
    predicted, observed = _in_order(predicted, spots, observed.columns), _in_order(observed, spots, observed.columns)
    depth = depth.loc[spots]
    for name, values in (("predicted", predicted), ("observed", observed), ("depth", depth)):
        parts = (values.iloc[start : start + _SPOTS] for start in range(0, len(spots), _SPOTS))
        if not all(np.isfinite(part.to_numpy(dtype=np.float64)).all() for part in parts):
            raise DataError(f"{name} has values that are not finite numbers; scores need all of them")
    counts = depth.to_numpy(dtype=np.float64)
    if (counts < 0).any() or not np.array_equal(counts, np.rint(counts)):
        raise DataError("depth must hold total counts (whole numbers of 0 or more), not their logarithm")
    return predicted, observed, depth


def _in_order(values: pd.DataFrame, spots: pd.Index, genes: pd.Index) -> pd.DataFrame:
    """Put spots and genes in an order, without a copy of a table that has it."""
    there = values.index.equals(spots) and values.columns.equals(genes)
    return values if there else values.loc[spots, genes]


def _check_same(what: str, a: pd.Index, a_name: str, b: pd.Index, b_name: str) -> None:
    for index, name in ((a, a_name), (b, b_name)):
        if not index.is_unique:
            raise DataError(f"{name} names {what[:-1]} {index[index.duplicated()][0]!r} more than once")
    odd = a.symmetric_difference(b)
    if len(odd):
        shown = ", ".join(map(repr, odd[:3]))
        raise DataError(
            f"{a_name} and {b_name} do not hold the same {what}: {len(odd)} are in one only "
            f"(for example {shown}); give those that both have"
        )
