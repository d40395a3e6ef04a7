"""Readers by the name of their format, as the configuration's ``data.format`` gives it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from anndata import AnnData

from nh2st_graph._errors import DataError, nearest

__all__ = ["register_format", "sections"]

#: Takes a file or folder and the names of the wanted sections (``None``: all), gives the sections by name.
Reader = Callable[[Path, Sequence[str] | None], dict[str, AnnData]]
R = TypeVar("R", bound=Reader)

_READERS: dict[str, Reader] = {}


def register_format(name: str) -> Callable[[R], R]:
    """Register a reader under a format's name, as a decorator.

    Parameters
    ----------
    name
        What :func:`sections` knows the format by. A name that is taken is overwritten, with a warning.

    Returns
    -------
    The decorator. The reader takes a path and the wanted section names (``None`` for all) and returns
    sections by name; it ends with :func:`~nh2st_graph._validate.check_section`.
    """

    def add(reader: R) -> R:
        if name in _READERS:
            warnings.warn(f"the reader of format {name!r} is replaced", stacklevel=2)
        _READERS[name] = reader
        return reader

    return add


def sections(format: str, root: str | Path, names: Sequence[str] | None = None) -> dict[str, AnnData]:
    """Read sections of any known format.

    Parameters
    ----------
    format
        ``"her2st"`` (the public repository's layout), ``"visium"`` (one Space Ranger folder, or a folder of
        them, each named by its section), ``"visium_hd"`` (the same, bins of 16 um, or one folder of other bins),
        ``"spatialdata"`` (one zarr store, or a folder of ``{section}.zarr``), ``"anndata"`` (one h5ad file with
        positions and a picture beside it, or a folder of them), ``"h5ad"`` (sections saved by this package: one
        file, or a folder of ``{section}.h5ad``), ``"hest"`` (HEST-1k), ``"stimage"`` (STimage-1K4M), ``"skin"``
        (GSE144240), ``"stnet"`` (He et al. 2020) or ``"triplex"`` (folders that TRIPLEX prepared).
    root
        The file or folder.
    names
        The wanted sections, in the wanted order; ``None`` reads all.

    Returns
    -------
    Sections by name.

    Raises
    ------
    DataError
        If the format or a section is unknown (the closest names are given), or a file cannot be used.
    """
    if format not in _READERS:
        raise DataError(f"unknown data format {format!r}; {nearest(format, _READERS)}")
    return _READERS[format](Path(root), names)
