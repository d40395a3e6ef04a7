"""Solve a symmetric system for many shifts of its diagonal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import LinAlgError, solveh_banded
from torch import Tensor

from nh2st_graph.nn._lapack import Tridiagonal

__all__ = ["solve_shifted"]

#: Smaller systems are solved by their eigenvectors, which takes no time.
_SMALL = 256


def solve_shifted(matrix: Tensor, wanted: Tensor, shifts: Sequence[float]) -> Tensor:
    r"""Solve :math:`(M + s I) X = W` for every shift :math:`s`.

    One tridiagonal form of the matrix serves all shifts, at half the cost of its eigenvectors.

    Parameters
    ----------
    matrix
        Symmetric, without negative eigenvalues but for rounding, ``(n, n)`` float64.
    wanted
        ``(n, n_columns)`` float64.
    shifts
        Above 0.

    Returns
    -------
    ``(n_shifts, n, n_columns)``.
    """
    if len(matrix) >= _SMALL:
        try:
            return torch.from_numpy(_by_tridiagonal(np.array(matrix.numpy(), order="C"), wanted.numpy(), shifts))
        except LinAlgError:  # a shift within the rounding of the eigenvalues
            pass
    values, vectors = np.linalg.eigh(matrix.numpy())
    columns = vectors.T @ wanted.numpy()
    found = [vectors @ (columns / (values.clip(min=0.0) + shift)[:, None]) for shift in shifts]
    return torch.from_numpy(np.stack(found))


def _by_tridiagonal(matrix: np.ndarray, wanted: np.ndarray, shifts: Sequence[float]) -> np.ndarray:
    form = Tridiagonal(matrix)
    columns = form.turn(wanted)
    bands = [np.stack([form.diagonal + shift, np.append(form.beside, 0.0)]) for shift in shifts]
    solved = np.concatenate([solveh_banded(band, columns, lower=True) for band in bands], axis=1)
    found = form.turn(solved, back=True)
    return np.ascontiguousarray(found.reshape(len(found), len(shifts), -1).transpose(1, 0, 2))
