"""What the readers of public data sets put sections together from: names, patients, the image's entry."""

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

#: A table of patients beside the sections, as TRIPLEX prepares it.
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
    """Make a section of counts and spots, joined by name, and check it.

    Parameters
    ----------
    name, patient
        Of the section.
    counts
        Of these spots, and of others that are left out. Names of genes are made unique.
    spots
        By their names in ``counts``: ``pixel_x``, ``pixel_y`` and, where they are known, ``array_row``, ``array_col``.
    image, scale
        The full-resolution image, and what is known of it.
    dropped
        How many spots were left out, by the reason.
    prefix
        Put before the names of spots.
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
    """Order spots by array row, then column, or by name where there is no array, so that no file's order matters."""
    if {Key.obs.array_row, Key.obs.array_col} <= set(adata.obs):
        return in_array_order(adata)
    return adata[np.argsort(adata.obs_names.to_numpy(dtype=str), kind="stable")].copy()


def add_names(obs: pd.DataFrame, section: str, patient: str) -> pd.DataFrame:
    """Put section and patient before the other columns, as categories."""
    names = {Key.obs.section: section, Key.obs.patient: patient}
    columns = {column: pd.Categorical([name] * len(obs), categories=[name]) for column, name in names.items()}
    return pd.concat([pd.DataFrame(columns, index=obs.index), obs], axis=1)


def patients_given(root: Path, table_name: str = PATIENTS) -> dict[str, str]:
    """Read the patients that a table beside the sections names, by section.

    Parameters
    ----------
    root
        Folder of the sections.
    table_name
        The table, from that folder. ``ids.csv``, which is looked for without being asked for, may be missing, and may
        have no column ``patient``.

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
    """Read sections, each of the patient that a table names, and say of which sections nothing tells the patient.

    Parameters
    ----------
    names
        Of the sections.
    root, table_name
        As for :func:`patients_given`. The table has the last word: who wrote it knew what the files say.
    read
        Reads a section by its name; the patient is None where the table does not name one.
    """
    given = patients_given(root, table_name)
    sections = {name: read(name, given.get(name)) for name in names}
    report_patients(unknown_patients(sections), root, table_name)
    return sections


def report_patients(unknown: Iterable[str], root: Path, table_name: str = PATIENTS) -> None:
    """Say which sections count as patients of their own, since nothing tells whose they are."""
    names = list(unknown)
    if len(names) > 1:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        logger.warning(
            "nothing tells the patients of %d sections (%s): each counts as its own, so that splits by patient may "
            "separate sections of one patient; name them in %s (sample_id,patient)",
            len(names),
            shown,
            root / table_name,
        )


def existing(what: str, paths: Sequence[Path], where: str) -> Path:
    """Pick the first file that exists.

    Raises
    ------
    DataError
        If none does.
    """
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        other = " (or with another ending)" if len(paths) > 1 else ""
        raise DataError(f"{where}: no {what}; {paths[0]}{other} is missing: download it")
    return found


def one_file(found: Iterable[Path], missing: str) -> Path:
    """Pick the one image among those found.

    Raises
    ------
    ImageError
        If there is none (``missing`` says which and where), only a packed one, or several.
    """
    files = sorted(path for path in found if not path.name.startswith("."))
    # The same scan in two formats, as ST-Net converts its images, is one.
    images = list({path.stem: path for path in reversed(files) if path.suffix != ".gz"}.values())
    if len(images) > 1:
        shown = ", ".join(path.name for path in reversed(images))
        raise ImageError(f"{missing.split(':')[0]}: {len(images)} images ({shown}); leave only one")
    if not images:
        packed = f"; {files[0]} is packed: unpack it (gunzip)" if files else ""
        raise ImageError(f"{missing}{packed}")
    return images[0]
