"""Read Spatial Transcriptomics from a table of counts, a table of spots and an image, joined by name.

The data sets of skin and breast share these tables and differ in the names of files. TRIPLEX's download, which NH2ST
reads, has the same folders for all of them: ``ST-cnts``, ``ST-spotfiles`` and ``ST-imgs``.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import DataError, reason
from nh2st_graph.read._assemble import assemble, existing, one_file
from nh2st_graph.read._common import check_exists, wanted_names
from nh2st_graph.read._counts import Counts, array_positions, open_text, read_counts, refuse_duplicates
from nh2st_graph.read._patients import PATIENTS, patient_in_name, read_each
from nh2st_graph.read._resolution import VISIUM_PITCH_UM, VISIUM_SPOT_UM, Scale, ring_pitch, st_scale
from nh2st_graph.section import Key
from nh2st_graph.slide import IMAGE_ENDINGS

__all__ = [
    "IMAGES",
    "StFiles",
    "find_raw",
    "is_prepared",
    "named_in",
    "prepared_files",
    "prepared_names",
    "raw_files",
    "read_named",
    "read_st",
]

#: Endings of images, also compressed ones as in GEO.
IMAGES = rf"(?:{'|'.join(map(re.escape, sorted(IMAGE_ENDINGS)))})(?:\.gz)?"

_SPOTS, _IMAGES = "ST-spotfiles", "ST-imgs"
_COUNTS = ("ST-cnts", "ST-cnts_new")
_COUNTS_ENDINGS = ("_sub.parquet", "_stdata.parquet", ".tsv.gz", ".tsv")
_SPOTS_ENDING = "_selection.tsv"
_COLUMNS = ("x", "y", "pixel_x", "pixel_y")
_SUFFIXES = IMAGE_ENDINGS | {".gz"}


#: Finds the files of a deposit in a folder: by kind and section.
FindRaw = Callable[[Path], dict[str, dict[str, list[Path]]]]


class StFiles(NamedTuple):
    """Files of one section."""

    counts: Path
    spots: Path
    image: Path


def read_st(name: str, patient: str | None, files: StFiles, *, visium: bool = False) -> AnnData:
    """Read one section.

    Parameters
    ----------
    name, patient
        Names of the section and its patient; None for an unknown patient.
    files
        Files of the section.
    visium
        Whether the spots are on a Visium array, in a table with pixel rows as ``pixel_x`` and columns as ``pixel_y``
        (TRIPLEX's independent test sections).

    Raises
    ------
    DataError
        If a file cannot be read, the tables share no spot, or they do not give the resolution.
    ImageError
        If the image is unreadable or does not cover the spots.
    """
    where = f"section {name!r}"
    spots = _read_spots(files.spots, where)
    if visium:
        spots = spots.rename(columns={"pixel_x": "pixel_y", "pixel_y": "pixel_x"})
    counts = _named_by_array(read_counts(files.counts, where), files.counts, where)
    both = spots.index.intersection(counts.spots)
    if both.empty:
        raise DataError(
            f"{where}: {files.spots} and {files.counts} have no spot in common; check that both belong to this section"
        )
    kept = spots.loc[both]
    kept = kept[kept["selected"] != 0]
    if kept.empty:
        raise DataError(
            f"{where}: no spots with counts are selected (selected = 1 in {files.spots}); "
            "the section is empty: leave it out"
        )
    scale = _scale(spots, f"{where}: {files.spots}", visium)
    dropped = {
        "positions_without_counts": len(spots) - len(both),
        "counts_without_position": len(counts.spots) - len(both),
        "not_selected": len(both) - len(kept),
    }
    return assemble(name, patient, counts, kept, files.image, scale, dropped, prefix=f"{name}_")


def is_prepared(root: Path) -> bool:
    """Say whether a folder has the layout of TRIPLEX's download."""
    return (root / _SPOTS).is_dir()


def prepared_names(root: Path) -> set[str]:
    """Name every section that has spots or counts; reading it reports a missing file."""
    names = {path.name.removesuffix(_SPOTS_ENDING) for path in (root / _SPOTS).glob(f"*{_SPOTS_ENDING}")}
    for folder in _COUNTS:
        for path in (root / folder).glob("*"):
            ending = next((ending for ending in _COUNTS_ENDINGS if path.name.endswith(ending)), None)
            if ending:
                names.add(path.name.removesuffix(ending))
    return {name for name in names if not name.startswith(".")}


def prepared_files(root: Path, name: str) -> StFiles:
    """Find the files of a section; each must exist."""
    where = f"section {name!r}"
    images = root / _IMAGES
    # Andersson's images lie in one folder for each section; others have an accession number before the name.
    beside = [path for path in images.glob(f"*{name}.*") if path.name.startswith(name) or f"_{name}." in path.name]
    found = beside or list((images / name[:1] / name).glob("*"))
    return StFiles(
        existing(
            "counts", [root / folder / f"{name}{ending}" for folder in _COUNTS for ending in _COUNTS_ENDINGS], where
        ),
        existing("spot positions", [root / _SPOTS / f"{name}{_SPOTS_ENDING}"], where),
        one_file(
            [path for path in found if path.suffix.lower() in _SUFFIXES],
            f"{where}: no image; {images / f'*{name}.tif'} (or .jpg) is missing",
        ),
    )


def named_in(root: Path, raw: FindRaw) -> set[str]:
    """Name the sections of a folder, as TRIPLEX prepared it or as the data were deposited."""
    if is_prepared(root):
        return prepared_names(root)
    found = raw(root)
    return found["counts"].keys() | found["spots"].keys()


def read_named(
    root: str | Path,
    names: str | Sequence[str] | None,
    raw: FindRaw,
    expected: Callable[[Path, str], StFiles],
    tables: Callable[[Path], Path | list[Path]],
) -> dict[str, AnnData]:
    """Read the sections of a folder, as TRIPLEX prepared it or as the data were deposited.

    Parameters
    ----------
    root, names
        The folder, and the sections to read; None reads all.
    raw
        Finds the files of the deposit.
    expected
        Names the files that a section should have, for messages.
    tables
        Names the folders in which a table of patients may lie.
    """
    root = Path(root)
    check_exists(root)
    known = named_in(root, raw)
    wanted = wanted_names(names, known, root)
    found = {} if is_prepared(root) else raw(root)

    def read(name: str, patient: str | None) -> AnnData:
        files = raw_files(found, name, expected(root, name)) if found else prepared_files(root, name)
        return read_st(name, patient or patient_in_name(name), files)

    return read_each(wanted, known, tables(root), PATIENTS, read)


def find_raw(paths: Iterable[Path], patterns: Mapping[str, re.Pattern[str]]) -> dict[str, dict[str, list[Path]]]:
    """Sort files by kind (``counts``, ``spots``, ``image``) and by the section in their names.

    Parameters
    ----------
    paths
        The files.
    patterns
        Pattern of the names of each kind; its first group is the section.
    """
    found: dict[str, dict[str, list[Path]]] = {what: {} for what in patterns}
    for path in sorted(paths):
        for what, pattern in patterns.items():
            match = pattern.match(path.name)
            if match:
                found[what].setdefault(match.group(1), []).append(path)
    return found


def raw_files(found: Mapping[str, Mapping[str, list[Path]]], name: str, expected: StFiles) -> StFiles:
    """Choose the files of a section among those found; errors name the ``expected`` ones."""
    where = f"section {name!r}"
    return StFiles(
        existing("counts", found["counts"].get(name) or [expected.counts], where),
        existing("spot positions", found["spots"].get(name) or [expected.spots], where),
        one_file(found["image"].get(name, []), f"{where}: no image; {expected.image} is missing"),
    )


def _read_spots(path: Path, where: str) -> pd.DataFrame:
    """Read a spot file as numbers, indexed by ``{x}x{y}``; without a column, all spots are selected."""
    try:
        with open_text(path) as handle:
            table = pd.read_csv(handle, sep="," if ".csv" in path.suffixes else "\t")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{where}: {path} cannot be read ({reason(error)}); download it again") from None
    if {"X", "Y"} <= set(
        table
    ) and "pixel_x" not in table:  # He et al.: names are array positions, pixels are in X and Y
        table = table.rename(columns={"X": "pixel_x", "Y": "pixel_y"})
        names = pd.Index(table.iloc[:, 0].astype(str))
        table["x"], table["y"] = _positions(names, path, where).T
    missing = [column for column in _COLUMNS if column not in table]
    if missing:
        raise DataError(
            f"{where}: {path} has no column {', '.join(missing)} (there: {', '.join(map(str, table))}); "
            f"expected {', '.join(_COLUMNS)}"
        )
    if table.empty:
        raise DataError(f"{where}: {path} has no spots; the section is empty: leave it out or download it again")
    for column, default in (("new_x", table["x"]), ("new_y", table["y"]), ("selected", 1)):
        if column not in table:
            table[column] = default
    table = table[[*_COLUMNS, "new_x", "new_y", "selected"]].apply(pd.to_numeric, errors="coerce")
    bad = ~np.isfinite(table.to_numpy(np.float64))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"{where}: {table.columns[column]} in line {row + 2} of {path} is not a number; correct or remove that spot"
        )
    table.index = _keys(table[["x", "y"]].to_numpy(np.float64))
    refuse_duplicates(table.index, path, where)
    table[Key.obs.array_row], table[Key.obs.array_col] = (np.rint(table[axis]).astype(int) for axis in "yx")
    return table


def _named_by_array(counts: Counts, path: Path, where: str) -> Counts:
    named = counts._replace(spots=_keys(_positions(counts.spots, path, where)))
    refuse_duplicates(named.spots, path, where)
    return named


def _positions(names: pd.Index, path: Path, where: str) -> NDArray[np.float64]:
    positions = array_positions(names)
    if positions is None:
        bad = next(name for name in names if array_positions(pd.Index([name])) is None)
        raise DataError(f"{where}: spot name {bad!r} in {path} is not array x and y; expected a name such as '10x14'")
    return positions


def _keys(positions: NDArray[np.float64]) -> pd.Index:
    """Name array positions; they are whole numbers, except for noise."""
    return pd.Index([f"{x}x{y}" for x, y in np.rint(positions).astype(int)], dtype=object)


def _scale(spots: pd.DataFrame, where: str, visium: bool) -> Scale:
    pixels = spots[["pixel_x", "pixel_y"]].to_numpy(np.float64)
    if visium:
        return Scale(VISIUM_PITCH_UM / ring_pitch(pixels, where), VISIUM_SPOT_UM)
    return st_scale(spots[["new_x", "new_y"]].to_numpy(np.float64), pixels, where)
