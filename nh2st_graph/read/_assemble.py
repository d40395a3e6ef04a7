"""Build sections in the readers: names, patients, and the entry of the image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.utils import make_index_unique

from nh2st_graph._errors import DataError, ImageError, reason
from nh2st_graph.read._common import in_array_order, logger, report_dropped
from nh2st_graph.read._counts import Counts
from nh2st_graph.read._resolution import Scale
from nh2st_graph.section import Key, check_section, library_entry, unknown_patients

__all__ = [
    "PATIENTS",
    "add_names",
    "assemble",
    "existing",
    "in_order",
    "one_file",
    "patients_given",
    "read_each",
    "report_patients",
]

#: Name of the table of patients beside the sections, as TRIPLEX prepares it.
PATIENTS = "ids.csv"


def assemble(
    name: str,
    patient: str,
    counts: Counts,
    spots: pd.DataFrame,
    image: Path,
    scale: Scale,
    dropped: Mapping[str, int],
    *,
    prefix: str = "",
) -> AnnData:
    """Build a section from counts and spots, joined by name, and check it.

    Parameters
    ----------
    name, patient
        Names of the section and its patient.
    counts
        Counts of these spots, and maybe of others, which are left out. Gene names are made unique.
    spots
        Table of the spots, indexed by their names in ``counts``: ``pixel_x``, ``pixel_y`` and, if they are known,
        ``array_row`` and ``array_col``.
    image, scale
        The full-resolution image, its resolution, and the spot diameter.
    dropped
        Number of spots left out, by reason.
    prefix
        Prefix of the spot names.
    """
    array = [column for column in (Key.obs.array_row, Key.obs.array_col) if column in spots]
    adata = AnnData(
        X=counts.matrix[counts.spots.get_indexer(spots.index)],
        obs=add_names(spots[array].set_axis(prefix + spots.index), name, patient),
        var=pd.DataFrame(index=make_index_unique(counts.genes)),
        obsm={Key.obsm.spatial: spots[["pixel_x", "pixel_y"]].to_numpy(np.float64)},
    )
    adata = in_order(adata)
    entry = library_entry(image, scale.microns_per_pixel, scale.spot_um / scale.microns_per_pixel)
    adata.uns[Key.uns.spatial] = {name: entry}
    check_section(adata, need=("genes", "image"))
    report_dropped(adata, name, dropped)
    return adata


def in_order(adata: AnnData) -> AnnData:
    """Sort spots by array row, then column, or by name without an array, so the order in files does not matter."""
    if {Key.obs.array_row, Key.obs.array_col} <= set(adata.obs):
        return in_array_order(adata)
    return adata[np.argsort(adata.obs_names.to_numpy(dtype=str), kind="stable")].copy()


def add_names(obs: pd.DataFrame, section: str, patient: str) -> pd.DataFrame:
    """Add section and patient as categorical columns, before the other columns."""
    names = {Key.obs.section: section, Key.obs.patient: patient}
    columns = {column: pd.Categorical([name] * len(obs), categories=[name]) for column, name in names.items()}
    return pd.concat([pd.DataFrame(columns, index=obs.index), obs], axis=1)


def patients_given(root: Path, table_name: str = PATIENTS) -> dict[str, str]:
    """Read the patient of each section from a table beside the sections.

    Parameters
    ----------
    root
        Folder of the sections.
    table_name
        Path of the table, relative to that folder. Only ``ids.csv``, the default, may be missing or lack the column
        ``patient``.

    Returns
    -------
    Patients by section.

    Raises
    ------
    DataError
        If the table cannot be read, or lacks a column.
    """
    path = root / table_name
    if table_name == PATIENTS and not path.is_file():
        return {}
    try:
        table = pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({reason(error)}); give a table sample_id,patient") from None
    missing = [column for column in ("sample_id", "patient") if column not in table]
    if missing == ["patient"] and table_name == PATIENTS:
        return {}
    if missing:
        there = ", ".join(map(str, table))
        raise DataError(f"{path} has no column {missing[0]} (there: {there}); give a table sample_id,patient")
    table = table.dropna(subset=["sample_id", "patient"])
    return dict(zip(table["sample_id"].str.strip(), table["patient"].str.strip(), strict=True))


def read_each(
    names: Iterable[str], root: Path, table_name: str, read: Callable[[str, str | None], AnnData]
) -> dict[str, AnnData]:
    """Read sections, take their patients from a table, and warn of sections whose patient is unknown.

    Parameters
    ----------
    names
        Names of the sections.
    root, table_name
        As for :func:`patients_given`. The table overrides what the files say.
    read
        Reads a section by its name and patient; the patient is None if the table does not name one.
    """
    given = patients_given(root, table_name)
    sections = {name: read(name, given.get(name)) for name in names}
    report_patients(unknown_patients(sections), root, table_name)
    return sections


def report_patients(unknown: Iterable[str], root: Path, table_name: str = PATIENTS) -> None:
    """Warn that sections without a known patient count as patients of their own."""
    names = list(unknown)
    if len(names) > 1:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        logger.warning(
            "the patients of %d sections are unknown (%s): each section counts as its own patient, so splits by "
            "patient may separate sections of one patient; name the patients in %s (sample_id,patient)",
            len(names),
            shown,
            root / table_name,
        )


def existing(what: str, paths: Sequence[Path], where: str) -> Path:
    """Return the first file that exists.

    Raises
    ------
    DataError
        If none exists.
    """
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        other = " (or with another ending)" if len(paths) > 1 else ""
        raise DataError(f"{where}: no {what}; {paths[0]}{other} is missing: download it")
    return found


def one_file(found: Iterable[Path], missing: str) -> Path:
    """Return the one image among the files found.

    Raises
    ------
    ImageError
        If there is none (``missing`` is the message), only a packed one, or several.
    """
    files = sorted(path for path in found if not path.name.startswith("."))
    # The same scan in two formats counts once: ST-Net converts its images.
    images = list({path.stem: path for path in reversed(files) if path.suffix != ".gz"}.values())
    if len(images) > 1:
        shown = ", ".join(path.name for path in reversed(images))
        raise ImageError(f"{missing.split(':')[0]}: {len(images)} images ({shown}); leave only one")
    if not images:
        packed = f"; {files[0]} is packed: unpack it (gunzip)" if files else ""
        raise ImageError(f"{missing}{packed}")
    return images[0]
