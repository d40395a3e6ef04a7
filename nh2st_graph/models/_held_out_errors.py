"""Errors of ridge regressions on held-out spots, for many penalties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

__all__ = ["Spots", "ridge_errors"]

#: Features of spots, ``(n, d)``, and their targets, ``(n, n_genes)`` or, of a single gene, ``(n,)``.
Spots = tuple[NDArray[np.float64], NDArray[np.float64]]


def ridge_errors(penalties: Sequence[float], train: Spots, held_out: Spots) -> list[float] | None:
    """Give the squared errors of held-out spots; None if a penalty is nothing beside the features.

    They are those of scikit-learn's ridge, to rounding. What is learned from is overwritten.
    """
    (x, y), (x_out, y_out) = ((x, y.reshape(len(y), -1)) for x, y in (train, held_out))
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    x -= x_mean
    y -= y_mean
    dual = x.shape[1] > len(x)
    system, wanted = (x @ x.T, y) if dual else (x.T @ x, x.T @ y)
    diagonal, errors = system.diagonal().copy(), []
    for penalty in penalties:
        np.fill_diagonal(system, diagonal + penalty)
        try:
            solved = linalg.solve(system, wanted, assume_a="pos")
        except linalg.LinAlgError:
            return None
        weights = x.T @ solved if dual else solved
        predicted = x_out @ weights + (y_mean - x_mean @ weights)
        errors.append(float(np.square(y_out - predicted).mean(axis=0).mean()))
    return errors
