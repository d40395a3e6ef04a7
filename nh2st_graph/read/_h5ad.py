"""Read and write sections as h5ad, one file a section."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anndata import AnnData

from nh2st_graph._errors import DataError, setting
from nh2st_graph._files import stamp, written_aside
from nh2st_graph.read._common import (
    SECTION_FORMAT,
    check_exists,
    h5ad_files,
    keep_in_tissue,
    patient_in_obs,
    report_dropped,
    stored_anndata,
    wanted_names,
)
from nh2st_graph.read._hdf5 import check_heaps
from nh2st_graph.read._objects import sections_in
from nh2st_graph.read._patients import PATIENTS, patient_beside, read_each
from nh2st_graph.read._plain import plain_anndata
from nh2st_graph.read._registry import register_format
from nh2st_graph.section import Key, Library, changed_entry, check_section, libraries, library_id, section_name
from nh2st_graph.slide import image_exists

__all__ = ["h5ad_section", "write_h5ad"]


def h5ad_section(path: str | Path, *, backed: bool = False) -> AnnData:
    """Read a section that was saved as h5ad, and check it.

    Parameters
    ----------
    path
        A file with one section: raw counts in ``X``, no genes at all, or a prediction of
        :func:`~nh2st_graph.tl.predict`. A relative ``source_image_path`` starts at the file's folder if the image
        exists there, so that a section and its image can be moved together. A table ``ids.csv``
        (``sample_id,patient``) beside the file overrides its patient.
    backed
        Leave ``X`` in the file, from which some spots at a time are read where counts are needed. It should be stored
        by spots (CSR or dense), and the spots be in the order of their names: else all of it is read for training.

    Returns
    -------
    The section, or the prediction.

    Raises
    ------
    DataError
        If the file is missing, is not h5ad, breaks the section contract, or a later version wrote it.
    """
    path = Path(path)
    adata = _stored(path, backed)
    name = section_name(adata)
    patient = patient_beside(name, path.parent)
    if patient is not None:
        patient_in_obs(adata, patient, name)
    return adata


def _stored(path: Path, backed: bool = False) -> AnnData:
    """Read and check a section, with the patient that the file says."""
    check_exists(path, "path")
    return _checked(stored_anndata(path, backed=backed), path)


def _checked(adata: AnnData, path: Path) -> AnnData:
    """Check a section of a file, keep its spots in tissue, and find its image beside the file."""
    try:
        check_section(adata)
        name = section_name(adata)
        adata, dropped = keep_in_tissue(adata, name)
    except DataError as error:
        raise type(error)(f"{path}: {error.args[0]}") from None
    if dropped:
        report_dropped(adata, name, dropped)
    _find_image(adata, path.parent)
    return adata


def write_h5ad(adata: AnnData, path: str | Path) -> None:
    """Write a section or a prediction atomically.

    Parameters
    ----------
    adata
        A section, or a prediction.
    path
        The file. A missing folder is made, and an existing file is replaced. The oldest anndata that this package
        works with can read it: values that it has no form for are written in another, such as a tuple as an array.

    Raises
    ------
    DataError
        If the object holds a value that cannot be written.
    """
    path = Path(path)
    plain = plain_anndata(adata)
    plain.uns[Key.uns.format] = stamp(SECTION_FORMAT)
    with written_aside(path) as aside:
        plain.write_h5ad(aside)


def section_files(root: Path, names: Sequence[str]) -> list[Path]:
    """List the h5ad files of sections: the one file, those of the names, or all of a folder whose names say nothing."""
    there = h5ad_files(root)
    return [there[name] for name in names if name in there] or list(there.values())


def stored_encoders(path: Path) -> list[str]:
    """List the encoders whose features an h5ad file holds. Nothing else of it is read; a damaged file holds none."""
    import h5py

    try:
        check_heaps(path)
        with h5py.File(path) as file:
            keys = list(file.get("obsm", ()))
            entries = [file.get(f"uns/{key}/encoder") for key in keys]
            return [str(entry.asstr()[()]) for entry in entries if isinstance(entry, h5py.Dataset)]
    except (DataError, OSError, TypeError, ValueError):
        return []


def _names(root: Path, library_key: str | None = None) -> list[str]:
    if library_key is None and root.is_file():
        return [section_name(_stored(root))]
    return list(sections_in(h5ad_files(root), library_key))


@register_format("h5ad", _names)
def _sections(
    root: Path,
    names: Sequence[str] | None = None,
    *,
    library_key: str | None = None,
    backed: bool = False,
    patients: str = PATIENTS,
) -> dict[str, AnnData]:
    """Read one file, or a folder of ``{section}.h5ad``; or files of several sections, by a column of ``obs``.

    With ``backed``, the counts of files of one section stay in their file.
    """
    check_exists(root)
    alone = _stored(root, backed) if root.is_file() and library_key is None else None
    found = {section_name(alone): (root, None)} if alone is not None else sections_in(h5ad_files(root), library_key)

    def read(name: str, patient: str | None) -> AnnData:
        path, part = found[name]
        adata = alone if alone is not None else _named(path, name, backed) if part is None else _checked(part(), path)
        patient_in_obs(adata, patient, name)
        return adata

    beside = root.parent if root.is_file() else root
    return read_each(wanted_names(names, found, root), found, beside, patients, read, alone=alone is not None)


def _named(path: Path, name: str, backed: bool) -> AnnData:
    adata = _stored(path, backed)
    inside = section_name(adata)
    if inside != name:
        raise DataError(
            f"{path} holds section {inside!r}; name the file {inside}.h5ad, or give the file itself as "
            f"{setting('data.root')}"
        )
    return adata


def _find_image(adata: AnnData, folder: Path) -> None:
    own = library_id(adata)
    if own is None:
        return
    found = Library.of(libraries(adata)[own])
    if found.source and not Path(found.source).is_absolute() and image_exists(folder / found.source):
        entry = changed_entry(found.entry, source=folder / found.source)
        adata.uns[Key.uns.spatial] = {**adata.uns[Key.uns.spatial], own: entry}
