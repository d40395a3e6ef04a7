"""Read and write sections as h5ad, one file a section."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
from anndata import AnnData

from nh2st_graph._atomic import written_aside
from nh2st_graph._errors import DataError, reason, setting
from nh2st_graph.read._assemble import PATIENTS, read_each
from nh2st_graph.read._common import check_exists, h5ad_files, name_of, wanted_names
from nh2st_graph.read._registry import register_format
from nh2st_graph.section import Key, changed_entry, check_section, library, section_name

__all__ = ["h5ad_section", "open_h5ad", "write_h5ad"]


def h5ad_section(path: str | Path) -> AnnData:
    """Read a section that was saved as h5ad, and check it.

    Parameters
    ----------
    path
        A file with one section: raw counts in ``X``, no genes at all, or a prediction of
        :func:`~nh2st_graph.tl.predict`. A relative ``source_image_path`` starts at the file's folder if the image
        exists there, so that a section and its image can be moved together.

    Returns
    -------
    The section, or the prediction.

    Raises
    ------
    DataError
        If the file is missing, is not h5ad, or breaks the section contract.
    """
    path = Path(path)
    check_exists(path, "path")
    try:
        adata = ad.read_h5ad(path)
    except Exception as error:  # anndata and h5py raise nearly any class on a damaged file
        raise DataError(
            f"{path} cannot be read as h5ad ({reason(error)}); write it again with ng.read.write_h5ad"
        ) from error
    try:
        check_section(adata)
    except DataError as error:
        raise type(error)(f"{path}: {error.args[0]}") from None
    _find_image(adata, path.parent)
    return adata


@contextmanager
def open_h5ad(path: str | Path) -> Iterator[AnnData]:
    """Open any h5ad file without its matrices while the block runs.

    Raises
    ------
    DataError
        If the file is missing or is not h5ad.
    """
    path = Path(path)
    check_exists(path, "path")
    try:
        adata = ad.read_h5ad(path, backed="r")
    except Exception as error:  # anndata and h5py raise nearly any class on a damaged file
        raise DataError(
            f"{path} cannot be read as h5ad ({reason(error)}); write it again with ng.read.write_h5ad"
        ) from error
    try:
        yield adata
    finally:
        adata.file.close()


def write_h5ad(adata: AnnData, path: str | Path) -> None:
    """Write a section or a prediction atomically.

    Parameters
    ----------
    adata
        A section, or a prediction.
    path
        The file. A missing folder is made, and an existing file is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        adata.write_h5ad(aside)


def _names(root: Path) -> list[str]:
    return [section_name(h5ad_section(root))] if root.is_file() else list(h5ad_files(root))


@register_format("h5ad", _names)
def _sections(root: Path, names: Sequence[str] | None = None, *, patients: str = PATIENTS) -> dict[str, AnnData]:
    """Read one file, or a folder of ``{section}.h5ad``."""
    check_exists(root)
    alone = h5ad_section(root) if root.is_file() else None
    files = h5ad_files(root)

    def read(name: str, patient: str | None) -> AnnData:
        adata = _named(files[name], name) if alone is None else alone
        if patient is not None:
            name_of(adata, Key.obs.patient, patient, None)
        return adata

    known = files if alone is None else [section_name(alone)]
    return read_each(wanted_names(names, known, root), root.parent if alone is not None else root, patients, read)


def _named(path: Path, name: str) -> AnnData:
    adata = h5ad_section(path)
    inside = section_name(adata)
    if inside != name:
        raise DataError(
            f"{path} holds section {inside!r}; name the file {inside}.h5ad, or give the file itself as "
            f"{setting('data.root')}"
        )
    return adata


def _find_image(adata: AnnData, folder: Path) -> None:
    if Key.uns.spatial not in adata.uns:
        return
    found = library(adata)
    if found.source and not Path(found.source).is_absolute() and (folder / found.source).is_file():
        (name,) = adata.uns[Key.uns.spatial]
        adata.uns[Key.uns.spatial] = {name: changed_entry(found.entry, source=folder / found.source)}
