"""Helpers of all readers: wanted names, images in a folder, names of sections, dropped spots."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nh2st_graph._errors import DataError, ImageError, nearest, reason, setting
from nh2st_graph._files import check_format
from nh2st_graph.read._hdf5 import check_declared
from nh2st_graph.section import (
    Key,
    as_name,
    distinct,
    in_tissue,
    layers_of,
    on_disk,
    patient_name,
    patient_of,
    unknown_patient,
)
from nh2st_graph.slide import IMAGE_ENDINGS

logger = logging.getLogger("nh2st_graph")

#: The format of sections and predictions as h5ad and SpatialData.
SECTION_FORMAT = 1


def wanted_names(names: str | Sequence[str] | None, known: Iterable[str], root: Path) -> list[str]:
    """List the sections to read: all known ones in order, or the given ones, if all of them are known."""
    known = sorted(known)
    if not known:
        raise DataError(f"no sections found in {root}; check {setting('data.root')} and {setting('data.format')}")
    if names is None:
        return known
    wanted = [names] if isinstance(names, str) else list(names)
    twice = sorted({name for name in wanted if wanted.count(name) > 1})
    if twice:
        raise DataError(f"section {twice[0]!r} is named {wanted.count(twice[0])} times; name each section once")
    for name in wanted:
        if name not in known:
            raise DataError(f"no section {name!r} in {root}; {nearest(str(name), known)}")
    return wanted


def h5ad_files(root: Path) -> dict[str, Path]:
    """Find one h5ad file, or those in a folder, by their names without the ending."""
    paths = [root] if root.is_file() else [path for path in root.glob("*.h5ad") if not path.name.startswith(".")]
    return {path.stem: path for path in paths}


def check_exists(path: Path, argument: str = "root") -> None:
    """Refuse a path that does not exist; the error names the argument that gave it."""
    if not path.exists():
        raise DataError(f"{path} does not exist; check {setting('data.root', argument=argument)}")


def stored_anndata(path: Path, *, backed: bool = False) -> AnnData:
    """Read an h5ad file; with ``backed``, ``X`` stays in it.

    Raises
    ------
    DataError
        If it is damaged, not h5ad, or a later version wrote it.
    """
    try:
        adata = on_disk(backed_anndata(path)) if backed else whole_anndata(path)
        check_sparse(adata)
    except DataError:
        raise
    except Exception as error:  # anndata and h5py raise nearly any class on a damaged file
        raise _damaged(path, error) from error
    check_written(adata, str(path))
    adata.uns.pop(Key.uns.format, None)
    return adata


def whole_anndata(path: Path) -> AnnData:
    """Read an h5ad file; anndata's and h5py's errors are not caught.

    Raises
    ------
    DataError
        If it declares more than it can hold.
    """
    check_declared(path)
    return ad.read_h5ad(path)


def check_sparse(adata: AnnData) -> None:
    """Refuse sparse matrices in memory whose parts do not belong together; SciPy would read beyond their ends.

    Raises
    ------
    ValueError
        If one is such.
    """
    raw = None if adata.raw is None or adata.isbacked else adata.raw.X
    for name, values in (("X", adata.X), ("raw", raw), *layers_of(adata).items(), *adata.obsp.items()):
        if sparse.issparse(values) and values.format in {"csr", "csc"}:
            try:
                values.check_format(full_check=True)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name} is damaged: {error}") from None


def backed_anndata(path: Path) -> AnnData:
    """Open an h5ad file without reading ``X``; anndata's and h5py's errors are not caught.

    Raises
    ------
    DataError
        If it declares more than it can hold.
    ValueError
        If ``X`` has another shape than the names of spots and genes, which anndata checks only if it reads ``X``.
    """
    check_declared(path)
    adata = ad.read_h5ad(path, backed="r")
    found = getattr(adata.X, "shape", adata.shape)
    if tuple(found) != adata.shape:
        adata.file.close()
        raise ValueError(
            f"X has shape {tuple(found)}, and obs and var name {adata.n_obs} spots and {adata.n_vars} genes"
        )
    return adata


def check_written(adata: AnnData, where: str) -> None:
    """Refuse a section or prediction that a later version wrote.

    Raises
    ------
    DataError
        If one did.
    """
    about, predicted = (adata.uns.get(key, {}) for key in (Key.uns.format, Key.uns.prediction))
    check_format(where, about if isinstance(about, Mapping) else {"format": about}, SECTION_FORMAT, DataError)
    if isinstance(predicted, Mapping):
        check_format(where, {"version": predicted.get("version")}, SECTION_FORMAT, DataError)


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read as h5ad ({reason(error)}); write it again")


@contextmanager
def open_h5ad(path: str | Path) -> Iterator[AnnData]:
    """Open any h5ad file without reading ``X`` while the block runs.

    Parameters
    ----------
    path
        The file; it need not hold a section.

    Yields
    ------
    Its content. ``X`` stays in the file until it is asked for.

    Raises
    ------
    DataError
        If the file is missing, is not h5ad, or a later version wrote it.
    """
    path = Path(path)
    check_exists(path, "path")
    try:
        adata = backed_anndata(path)
    except DataError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error
    try:
        check_written(adata, str(path))
        adata.uns.pop(Key.uns.format, None)
        yield adata
    finally:
        adata.file.close()


def images_in(folder: Path, stem: str | None = None) -> list[Path]:
    """List the images in a folder, of any ending that :func:`~nh2st_graph.slide.open_slide` reads.

    Parameters
    ----------
    folder
        The folder; it may be missing.
    stem
        Name of the images without the ending; all by default.

    Raises
    ------
    ImageError
        If there is none, but a packed one.
    """
    files = sorted(path for path in folder.glob("*") if path.is_file() and not path.name.startswith("."))
    if stem is not None:
        files = [path for path in files if _stem(path) == stem]
    found = [path for path in files if path.suffix.lower() in IMAGE_ENDINGS]
    packed = [path for path in files if _packed(path)]
    if packed and not found:
        raise ImageError(f"image {packed[0]} is packed; unpack it (gunzip)")
    return _whole_slides(found)


def _stem(path: Path) -> str:
    """Name of an image without its endings, such as ``.ome.tif`` or ``.tif.gz``."""
    name = Path(path.name.removesuffix(".gz")).stem
    return Path(name).stem if name.lower().endswith(".ome") else name


def _packed(path: Path) -> bool:
    return path.suffix == ".gz" and Path(path.stem).suffix.lower() in IMAGE_ENDINGS


def _whole_slides(files: list[Path]) -> list[Path]:
    """Leave out the parts of slides that lie in several files: Hamamatsu's JPEGs, all but one file of DICOM."""
    parts = tuple(path.stem for path in files if path.suffix.lower() in {".vms", ".vmu"})
    dicom = [path for path in files if path.suffix.lower() in {".dcm", ".dicom"}]
    return [
        path
        for path in files
        if path not in dicom[1:] and not (path.suffix.lower() == ".jpg" and parts and path.name.startswith(parts))
    ]


def image_in(folder: Path, option: str | None = None) -> Path | None:
    """Find the one image in a folder; None without one. Several are an error, which names the format's option.

    Raises
    ------
    ImageError
        If there are several, or only a packed one.
    """
    found = images_in(folder)
    if len(found) > 1:
        shown = ", ".join(path.name for path in found)
        named = f", or name it: {setting(f'data.options.{option}', 'NAME')}" if option else ""
        raise ImageError(f"{folder} holds {len(found)} images ({shown}); leave only the full-resolution one{named}")
    return found[0] if found else None


def named_image(folder: Path, named: str | None) -> Path | None:
    """Return the image of this name in a section's folder; None if none is named."""
    return None if named is None else folder / named


def section_in_obs(adata: AnnData, given: str | None, default: str | None) -> str:
    """Name the section in ``obs``: by the given name, the one there, or the default.

    Raises
    ------
    DataError
        If ``obs`` names several sections, or nothing names it.
    """
    column = Key.obs.section
    there = {as_name(value) for value in distinct(adata.obs[column])} if column in adata.obs else set()
    known = sorted(name for name in there if name is not None)
    if len(known) > 1:
        raise DataError(
            f"obs['{column}'] names {len(known)} ({', '.join(known[:5])}); split the AnnData, for it holds one section "
            f"of one patient; or give {setting('data.options.library_key', column)}"
        )
    name = given or next(iter(known), default)
    if name is None:
        raise DataError(f"the {column} has no name; give {column}='NAME', or set adata.obs['{column}']")
    adata.obs[column] = pd.Categorical([name] * adata.n_obs, categories=[name])
    return name


def patient_in_obs(adata: AnnData, given: str | None, section: str) -> None:
    """Name the patient in ``obs``: the given one, the one there, or the stand-in for an unknown one.

    Raises
    ------
    DataError
        If ``obs`` names several patients, and none is given.
    """
    if patient_name(given) is None and Key.obs.patient not in adata.obs:
        patient = unknown_patient(section)
    else:
        patient = patient_name(given) or patient_of(adata, section)
        there = {patient_name(each) for each in distinct(adata.obs.get(Key.obs.patient, pd.Series(dtype=object)))}
        if there - {patient, None}:
            others = ", ".join(sorted(each for each in there - {patient, None} if each))
            logger.warning(
                "section %r: patient %r is given, and obs says %s; the given one counts", section, patient, others
            )
    adata.obs[Key.obs.patient] = pd.Categorical([patient] * adata.n_obs, categories=[patient])


def keep_in_tissue(
    adata: AnnData, section: str, because: str = "obs['in_tissue'] = 1", spot: str = "spot"
) -> tuple[AnnData, dict[str, int]]:
    """Leave out the spots off the tissue, and count them; without ``obs["in_tissue"]`` all are kept.

    Raises
    ------
    DataError
        If no spot lies in tissue.
    """
    inside = in_tissue(adata, f"section {section!r}")
    if inside is None or not adata.n_obs:
        return adata, {}
    if not inside.any():
        raise DataError(
            f"section {section!r}: no {spot} lies in tissue ({because}); the section is empty: leave it out"
        )
    if inside.all():
        return adata, {}
    return adata[inside].copy(), {"not_in_tissue": int((~inside).sum())}


def as_given(path: Path) -> Path:
    """Make a path absolute, and leave links as they are: a linked folder names its section."""
    here, shell = Path.cwd(), Path(os.environ.get("PWD", ""))  # the shell knows by which link it came here
    if shell.is_absolute() and shell.exists() and shell.samefile(here):
        here = shell
    return Path(os.path.normpath(here / path))


def folder_above(path: Path) -> Path:
    """Return the folder above the folder of one section; Space Ranger's ``outs`` does not count."""
    path = as_given(path)
    return (path.parent if path.name == "outs" else path).parent


def in_array_order(adata: AnnData) -> AnnData:
    """Sort spots by array row, then column, so the order of rows in files does not matter."""
    order = np.lexsort((adata.obs[Key.obs.array_col], adata.obs[Key.obs.array_row]))
    return adata if np.array_equal(order, np.arange(adata.n_obs)) else adata[order].copy()


def report_dropped(adata: AnnData, section: str, dropped: Mapping[str, int]) -> None:
    """Write the number of spots left out, by reason, to ``uns``, and log it if there are any."""
    adata.uns[Key.uns.dropped] = {**adata.uns.get(Key.uns.dropped, {}), **dropped}
    some = [f"{count} ({why.replace('_', ' ')})" for why, count in dropped.items() if count]
    if some:
        logger.warning("section %r: kept %d spots, dropped %s", section, adata.n_obs, ", ".join(some))
