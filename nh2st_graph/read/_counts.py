"""Read tables of counts of the public data sets: text, compressed or not, or parquet."""

from __future__ import annotations

import csv
import io
import warnings
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph._errors import DataError, reason
from nh2st_graph.read._packed import open_packed
from nh2st_graph.section import is_real

__all__ = ["ARRAY_NAME", "Counts", "array_positions", "open_text", "read_counts", "refuse_duplicates", "to_csr"]


class Counts(NamedTuple):
    """Counts of one section, as in its file.

    Attributes
    ----------
    matrix
        ``(n_spots, n_genes)``, CSR.
    spots, genes
        Names of rows and columns, in the order of the file; spot names are unique.
    """

    matrix: sparse.csr_matrix
    spots: pd.Index
    genes: pd.Index


def read_counts(path: Path, where: str) -> Counts:
    """Read a table of spots x genes, with spot names in the first column.

    Parameters
    ----------
    path
        ``.csv`` (comma), ``.tsv`` or ``.txt`` (tab), each also with ``.gz``, or ``.parquet``.
    where
        The section, to start an error message with.

    Raises
    ------
    DataError
        If the file cannot be read, is cut off, names a spot twice, or has a count that is not a number.
    """
    try:
        counts = _read_parquet(path, where) if path.suffix == ".parquet" else _read_text(path, where)
    except pd.errors.EmptyDataError:
        raise DataError(
            f"{where}: {path} has no spots; the section is empty: leave it out or download it again"
        ) from None
    except (OSError, EOFError, zlib.error, csv.Error, ValueError) as error:
        raise DataError(f"{where}: {path} cannot be read ({reason(error)}); download it again") from None
    refuse_duplicates(counts.spots, path, where)
    return counts


def open_text(path: Path) -> IO[str]:
    """Open a text file; a name that ends in ``.gz`` means gzip, which is read up to a limit."""
    return io.TextIOWrapper(open_packed(path))


def to_csr(values: NDArray[np.generic]) -> sparse.csr_matrix:
    """Convert dense counts to CSR, float32.

    Raises
    ------
    DataError
        If they are not real numbers.
    """
    if not is_real(values.dtype):
        raise DataError(f"counts are of type {values.dtype}, not real numbers")
    return sparse.csr_matrix(np.asarray(values, dtype=np.float32))


_NUMBER = r"\d+(?:\.\d+)?"

#: Form of the names of spots that end in array x and y.
ARRAY_NAME = rf"(?:^|[_x]){_NUMBER}x{_NUMBER}$"


def array_positions(names: pd.Index) -> NDArray[np.float64] | None:
    """Parse array x and y at the end of names (``10x14``, ``SECTION_1x10x14``, ``SECTION_19.05x11.98``).

    Returns
    -------
    ``(n, 2)``; None if a name has another form.
    """
    parts = pd.Series(names, dtype=str).str.extract(rf"(?:^|[_x])({_NUMBER})x({_NUMBER})$")
    return None if parts.isna().to_numpy().any() else parts.to_numpy(np.float64)


def refuse_duplicates(names: pd.Index, path: Path, where: str) -> None:
    """Refuse a file with two rows of one name, because either may be meant."""
    if not names.is_unique:
        twice = names[names.duplicated()][0]
        raise DataError(f"{where}: spot {twice!r} occurs more than once in {path}; keep one row of each")


def _read_text(path: Path, where: str) -> Counts:
    """Read line by line: with 30,000 columns pandas takes 1.5 times as long, and it renames genes that occur twice."""
    separator = "," if ".csv" in path.suffixes else "\t"
    spots: list[str] = []
    values: list[NDArray[np.float32]] = []
    columns: list[NDArray[np.intp]] = []
    with open_text(path) as handle:
        genes = next(csv.reader([handle.readline()], delimiter=separator), [])[1:]
        for line in filter(str.strip, handle):
            spot, _, cells = line.rstrip("\r\n").partition(separator)
            spots.append(spot.strip('"'))
            row = _numbers(cells, separator, genes, spots[-1], path, where)
            columns.append(np.flatnonzero(row))
            values.append(row[columns[-1]].astype(np.float32))
    if not spots:
        raise pd.errors.EmptyDataError
    ends = np.cumsum([0, *map(len, columns)])
    matrix = sparse.csr_matrix((np.concatenate(values), np.concatenate(columns), ends), shape=(len(spots), len(genes)))
    return Counts(matrix, pd.Index(spots, dtype=object), pd.Index(genes, dtype=object))


def _numbers(line: str, separator: str, genes: Sequence[str], spot: str, path: Path, where: str) -> NDArray[np.float64]:
    """Parse the counts of a spot. Only if this fails, look for the cell that is not a number."""
    with warnings.catch_warnings(), suppress(ValueError, DeprecationWarning):
        warnings.simplefilter("error", DeprecationWarning)  # numpy before 2.3 warns of text that is no number
        row = np.fromstring(line, dtype=np.float64, sep=separator)
        if len(row) == len(genes) > 0 and np.isfinite(row).all():
            return row
    cells = line.split(separator) if line else []
    if len(cells) != len(genes) or not genes:
        raise DataError(
            f"{where}: {path} names {len(genes)} genes and has {len(cells)} counts of spot {spot!r}; it is cut off, "
            "or not a table of spots x genes: download it again"
        )
    bad = int(np.argmin(np.isfinite(pd.to_numeric(pd.Series(cells), errors="coerce"))))
    raise DataError(
        f"{where}: gene {genes[bad]!r} in spot {spot!r} of {path} is not a number; "
        "the file is cut off or damaged: download it again"
    )


def _read_parquet(path: Path, where: str) -> Counts:
    table = pd.read_parquet(path)
    if isinstance(table.index, pd.RangeIndex) and table.shape[1]:
        table = table.set_index(table.columns[0])
    if table.empty:
        raise pd.errors.EmptyDataError
    values = table.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise DataError(
            f"{where}: gene {table.columns[column]!r} in spot {table.index[row]!r} of {path} is not a number; "
            "the file is damaged: download it again"
        )
    spots, genes = (pd.Index(names.astype(str), dtype=object) for names in (table.index, table.columns))
    return Counts(to_csr(values), spots, genes)
