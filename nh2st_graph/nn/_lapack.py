"""Tridiagonal form of symmetric matrices, by LAPACK, so that several threads can work at a time.

scipy's own wrapper of ``dsytrd`` keeps all other threads of Python waiting, and copies the matrix.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import LowLevelCallable
from scipy.linalg import LinAlgError, cython_lapack

__all__ = ["Tridiagonal"]


class Tridiagonal:
    """Tridiagonal form :math:`T = Q^T M Q` of a symmetric matrix.

    Parameters
    ----------
    matrix
        :math:`M`, ``(n, n)`` float64, at least two rows, contiguous. It is overwritten.

    Attributes
    ----------
    diagonal, beside
        :math:`T`: its diagonal, ``(n,)``, and what stands below, ``(n - 1,)``.

    Raises
    ------
    LinAlgError
        If LAPACK refuses the matrix.
    """

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        n = len(matrix)
        self.diagonal, self.beside, self._scale = np.empty(n), np.empty(n - 1), np.empty(n - 1)
        # The transpose of a C array is LAPACK's order, and it is symmetric. It will hold Q as reflectors.
        self._turned = matrix
        _call("dsytrd", b"L", n, matrix, n, self.diagonal, self.beside, self._scale)

    def turn(self, columns: NDArray[np.float64], *, back: bool = False) -> NDArray[np.float64]:
        """Compute :math:`Q^T C`, or :math:`Q C` to turn ``back``, for columns ``(n, n_columns)``."""
        turned = np.array(columns, order="F")
        n, n_columns = turned.shape
        trans = b"N" if back else b"T"
        _call("dormtr", b"L", b"L", trans, n, n_columns, self._turned, n, self._scale, turned, n)
        return turned


def _call(name: str, *arguments: bytes | int | NDArray[np.float64]) -> None:
    """Call a routine whose last arguments are its room to work in and its success."""
    passed: list[Any] = []
    for each in arguments:
        if isinstance(each, bytes):
            passed.append(ctypes.c_char_p(each))
        elif isinstance(each, int):
            passed.append(ctypes.byref(ctypes.c_int(each)))
        else:
            passed.append(ctypes.c_void_p(each.ctypes.data))
    failed, wanted = ctypes.c_int(), np.empty(1)
    # First it says how much room it wants.
    for length in (-1, None):
        room = wanted if length else np.empty(int(wanted[0]))
        size = ctypes.c_int(length or len(room))
        _routine(name)(*passed, ctypes.c_void_p(room.ctypes.data), ctypes.byref(size), ctypes.byref(failed))
        if failed.value:
            raise LinAlgError(f"{name}: {failed.value}")


@cache
def _routine(name: str) -> Any:
    """Give a routine of scipy's LAPACK as a function that lets other threads run."""
    capsule = LowLevelCallable.from_cython(cython_lapack, name).function
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return ctypes.CFUNCTYPE(None)(api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule)))
