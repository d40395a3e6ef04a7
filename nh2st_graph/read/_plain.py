"""Give an AnnData the forms that every anndata can read, before it is written.

anndata 0.12 writes None as null and pandas' text columns as nullable strings; anndata 0.11 reads neither. Text of
pandas 3 is such a column unless its type is object.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype
from scipy import sparse

from nh2st_graph._errors import DataError
from nh2st_graph.section import layers_of

__all__ = ["plain_anndata"]


def plain_anndata(adata: AnnData) -> AnnData:
    """Copy an AnnData without values that older anndata cannot read; arrays are shared, not copied.

    - ``obs``, ``var`` and tables: text becomes plain text, text with gaps and mixed values become categories, times
      become text.
    - ``uns``: None is left out; tuples and sets become arrays; keys, paths and times become text.

    Raises
    ------
    DataError
        If a value has no such form; the message names its place.
    """
    if adata.isbacked:
        adata = adata.to_memory()
    tables = {"obs": _plain_table(adata.obs, "obs"), "var": _plain_table(adata.var, "var")}
    arrays = {
        slot: {str(key): _plain_array(value, f"{slot}[{key!r}]") for key, value in values.items()}
        for slot, values in (
            *((slot, getattr(adata, slot)) for slot in ("obsm", "varm", "obsp", "varp")),
            ("layers", layers_of(adata)),
        )
    }
    plain = AnnData(adata.X, **tables, **arrays, uns=_plain_mapping(adata.uns, "uns"))
    if adata.raw is not None:
        raw = adata.raw
        plain.raw = AnnData(raw.X, obs=tables["obs"], var=_plain_table(raw.var, "raw.var"))
    return plain


def _plain_table(table: pd.DataFrame, where: str) -> pd.DataFrame:
    columns = [str(column) for column in table.columns]
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        raise DataError(f"{where} has two columns {twice!r}, and cannot be written; rename one")
    index = pd.Index(table.index.astype(str).to_numpy(dtype=object), dtype=object, name=_text_or_none(table.index.name))
    values = {
        name: _plain_column(table.iloc[:, at], f"{where}[{name!r}]").set_axis(index) for at, name in enumerate(columns)
    }
    return pd.DataFrame(values, index=index)


def _plain_column(column: pd.Series, where: str) -> pd.Series:
    kind = column.dtype
    if isinstance(kind, pd.CategoricalDtype):
        categories = kind.categories
        if categories.dtype == object and all(type(each) is str for each in categories):
            return column
        if not pd.api.types.is_numeric_dtype(categories.dtype):
            named = pd.CategoricalDtype(pd.Index([str(each) for each in categories], dtype=object), kind.ordered)
            return pd.Series(pd.Categorical.from_codes(column.cat.codes.to_numpy(), dtype=named), index=column.index)
        return column
    nullable = is_integer_dtype(kind) and kind.name.startswith(("Int", "UInt"))
    if nullable or isinstance(kind, pd.BooleanDtype) or (isinstance(kind, np.dtype) and is_numeric_dtype(kind)):
        return column  # numpy's booleans are numeric here
    if not isinstance(kind, np.dtype) and is_numeric_dtype(kind) and not is_bool_dtype(kind):
        # Of Arrow, sparse, or fractions with gaps.
        return pd.Series(column.to_numpy(np.float64, na_value=np.nan), index=column.index)
    text = [None if _missing(value) else _as_text(value, where) for value in column]
    if any(value is None for value in text):
        known = pd.Index(sorted({value for value in text if value is not None}), dtype=object)
        return pd.Series(pd.Categorical(text, known), index=column.index)
    return pd.Series(text, index=column.index, dtype=object)


def _plain_mapping(given: Mapping[Any, Any], where: str) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in given.items():
        name, place = str(key), f"{where}[{key!r}]"
        if name in plain:
            raise DataError(f"{place} and {where}[{name!r}] have one name as text, and cannot be written; rename one")
        if value is not None:
            plain[name] = _plain_value(value, place)
    return plain


def _plain_value(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return _plain_mapping(value, where)
    if isinstance(value, pd.DataFrame):
        return _plain_table(value, where)
    if isinstance(value, AnnData):
        return plain_anndata(value)
    if isinstance(value, str | bool | Number | np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, pd.Series | pd.Index) or (
        isinstance(value, pd.api.extensions.ExtensionArray) and not isinstance(value, pd.Categorical)
    ):
        return _plain_list(list(value), where)
    if isinstance(value, set | frozenset):
        return _plain_list(sorted(value, key=lambda each: (str(type(each)), str(each))), where)
    if isinstance(value, list | tuple):
        return _plain_list(list(value), where)
    if isinstance(value, np.ndarray) and value.dtype.kind in "OT":
        return _plain_list(value.tolist(), where) if value.ndim == 1 else _plain_rows(value, where)
    if isinstance(value, np.ndarray | sparse.spmatrix | sparse.sparray | pd.Categorical | np.ma.MaskedArray):
        return value.astype(str).astype(object) if isinstance(value, np.ndarray) and value.dtype.kind in "mM" else value
    if hasattr(value, "__array__"):
        return np.asarray(value)
    return _as_text(value, where)


def _plain_rows(value: np.ndarray, where: str) -> np.ndarray:
    flat = _plain_list(value.ravel().tolist(), where)
    return np.asarray(flat).reshape(value.shape)


def _plain_list(values: list[Any], where: str) -> np.ndarray | dict[str, Any]:
    """Make an array of numbers or of text; a list of mappings or of lists is kept by position."""
    if any(isinstance(value, Mapping | list | tuple | set | np.ndarray | pd.DataFrame) for value in values):
        try:
            array = np.array(values)
        except ValueError:
            array = np.empty(0, dtype=object)
        if array.dtype.kind in "biufc":
            return array
        return {str(at): _plain_value(value, f"{where}[{at}]") for at, value in enumerate(values) if value is not None}
    if all(isinstance(value, bool | Number | np.generic) for value in values) and values:
        return np.array(values)
    if any(isinstance(value, Number) or value is None for value in values) and not any(
        isinstance(value, str) for value in values
    ):
        return np.array([np.nan if _missing(value) else value for value in values], dtype=np.float64)
    return np.array(["" if _missing(value) else _as_text(value, where) for value in values], dtype=object)


def _plain_array(value: Any, where: str) -> Any:
    if isinstance(value, pd.DataFrame):
        return _plain_table(value, where)
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        raise DataError(f"{where} holds objects, and cannot be written; give numbers, or put it into uns as text")
    return value


def _as_text(value: Any, where: str) -> str:
    """Write a value as text; refuse what text would not tell."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    known = str | Path | Number | np.generic | pd.Timestamp | pd.Timedelta | pd.Period | pd.Interval
    if isinstance(value, known) or type(value).__module__ in {"datetime", "uuid", "enum", "pathlib"}:
        return str(value)
    raise DataError(f"{where} holds a {type(value).__name__}, which cannot be written; remove it, or write it as text")


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def _text_or_none(name: Any) -> str | None:
    return None if name is None else str(name)
