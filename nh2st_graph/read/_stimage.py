"""Read STimage-1K4M: 1,149 slides of Spatial Transcriptomics, Visium and Visium HD as tables and images.

Chen et al. 2024, "STimage-1K4M: A histopathology image-gene expression dataset for spatial transcriptomics", NeurIPS.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import DataError, reason
from nh2st_graph.read._assemble import assemble, existing, one_file
from nh2st_graph.read._common import check_exists, logger, wanted_names
from nh2st_graph.read._counts import ARRAY_NAME, array_positions, open_text, read_counts, refuse_duplicates
from nh2st_graph.read._patients import PATIENTS, patient_in_name, read_each
from nh2st_graph.read._registry import register_format
from nh2st_graph.read._resolution import VISIUM_PITCH_UM, VISIUM_SPOT_UM, Scale, ring_pitch, st_scale
from nh2st_graph.read._st import StFiles
from nh2st_graph.section import Key

__all__ = ["stimage"]

_TECHNOLOGIES = ("ST", "Visium", "VisiumHD")
_COORD, _COUNTS = "_coord.csv", ("_count.csv", "_count.csv.gz")

_AXES = {"xaxis": "pixel_x", "yaxis": "pixel_y"}
_PIXELS = list(_AXES.values())

#: Size of Visium HD bins whose names do not give it; it follows from their number, 350,000 to 610,000 a slide.
_BIN_UM = 8.0
_BIN = re.compile(r"s_(\d+)um_(\d+)_(\d+)(?:-\d+)?$")

# Sources differ on the width of spots by 10 to 18 % (55 um printed, 65 um in Space Ranger's files).
_RADIUS_AGREES = 0.3


class _Array(NamedTuple):
    """Positions of spots on the array, and the resolution that follows."""

    positions: pd.DataFrame
    scale: Scale


def _slides(root: Path) -> dict[str, Path]:
    """Find the folder of every slide that has spots or counts; reading it reports a missing file."""
    folders = {}
    for folder in (root, *(root / technology for technology in _TECHNOLOGIES)):
        for part, endings in (("coord", (_COORD,)), ("gene_exp", _COUNTS)):
            for path in (folder / part).glob("*.csv*"):
                ending = next((ending for ending in endings if path.name.endswith(ending)), None)
                if ending and not path.name.startswith("."):
                    folders[path.name.removesuffix(ending)] = folder
    return folders


@register_format("stimage", _slides)
def stimage(root: str | Path, names: str | Sequence[str] | None = None) -> dict[str, AnnData]:
    """Read slides of STimage-1K4M.

    Parameters
    ----------
    root
        The folder of the download, with ``ST``, ``Visium`` and ``VisiumHD``, or one of these, each with
        ``coord/{slide}_coord.csv`` (spot names; ``yaxis``, ``xaxis``, ``r``), ``gene_exp/{slide}_count.csv`` (spots x
        genes) and ``image/{slide}.png``. A table ``ids.csv`` (``sample_id,patient``) there can name patients that the
        slide names do not show.
    names
        Names of the slides to read, in this order; None reads all.

    Returns
    -------
    Sections by slide name. ``X``: raw counts ``(n_spots, n_genes)``, CSR; ``obs``: ``section``, ``patient`` and, if
    spot names contain them (ST, Visium HD), ``array_row`` and ``array_col``; ``obsm["spatial"]``: ``(n_spots, 2)``, x
    then y, pixels of the image; ``uns["nh2st_dropped"]``. Spots keep their names, which start with that of the slide;
    gene names are made unique.

    Raises
    ------
    DataError
        If a slide is unknown, one of its files is missing or malformed, the tables share no spot, or they do not give
        the resolution.
    ImageError
        If the image is missing, unreadable or cut off, or does not cover the spots.

    Notes
    -----
    The data do not state um per pixel, so it is computed from the distances of spots: 200 um along the array of ST (150
    um between nearest spots of the denser array, as in GSE144239), 100 um between nearest spots of Visium, and the size
    of Visium HD's bins, from spot names or else 8 um. A warning says if the radius ``r`` differs; in the first release
    it is half of the true value on GSE144239's ST slides.

    Array positions can be fractions (``19.05x11.98``, Stahl et al. 2016). They are rounded; if two spots would share a
    position, there is no ``array_row`` and ``array_col``. Some images are JPEG or TIFF files with another ending.
    """
    root = Path(root)
    check_exists(root)
    folders = _slides(root)

    def read(name: str, patient: str | None) -> AnnData:
        return _read_slide(folders[name], name, patient or patient_in_name(name))

    return read_each(wanted_names(names, folders, root), folders, root, PATIENTS, read)


def _read_slide(folder: Path, name: str, patient: str | None) -> AnnData:
    where = f"section {name!r}"
    files = _files(folder, name, where)
    spots = _read_coord(files.spots, where)
    counts = read_counts(files.counts, where)
    both = spots.index.intersection(counts.spots)
    if both.empty:
        raise DataError(
            f"{where}: {files.spots} and {files.counts} have no spot in common; check that both belong to this section"
        )
    named = _well_named(spots, where)
    array = _array(named, f"{where}: {files.spots}", hd="visiumhd" in f"{folder.name} {name}".lower())
    _compare_radius(spots, array.scale, where)
    both = both.intersection(named.index, sort=False)
    kept = named.join(array.positions).loc[both]
    dropped = {
        "positions_without_counts": len(spots) - len(both),
        "counts_without_position": len(counts.spots) - len(both),
    }
    return assemble(name, patient, counts, kept, files.image, array.scale, dropped)


def _files(folder: Path, name: str, where: str) -> StFiles:
    image = folder / "image" / f"{name}.png"
    return StFiles(
        existing("counts", [folder / "gene_exp" / f"{name}{ending}" for ending in _COUNTS], where),
        existing("spot positions", [folder / "coord" / f"{name}{_COORD}"], where),
        one_file(image.parent.glob(f"{name}.*"), f"{where}: no image; {image} is missing"),
    )


def _read_coord(path: Path, where: str) -> pd.DataFrame:
    try:
        with open_text(path) as handle:
            table = pd.read_csv(handle, dtype=str, keep_default_na=False)
        table = table.set_index(table.columns[0])  # names of spots, which may look like numbers
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{where}: {path} cannot be read ({reason(error)}); download it again") from None
    missing = [column for column in _AXES if column not in table]
    if missing:
        raise DataError(
            f"{where}: {path} has no column {', '.join(missing)} (there: {', '.join(map(str, table))}); "
            "expected yaxis, xaxis and r"
        )
    if table.empty:
        raise DataError(f"{where}: {path} has no spots; the section is empty: leave it out or download it again")
    refuse_duplicates(table.index, path, where)
    table = table.rename(columns=_AXES)
    table[_PIXELS] = table[_PIXELS].apply(pd.to_numeric, errors="coerce")
    bad = ~np.isfinite(table[_PIXELS].to_numpy(np.float64)).all(axis=1)
    if bad.any():
        raise DataError(
            f"{where}: spot {table.index[bad][0]!r} in {path} has a position that is not a number; "
            "correct or remove that spot"
        )
    return table


def _well_named(spots: pd.DataFrame, where: str) -> pd.DataFrame:
    """Leave out spots whose names are not of the form that most have: one would make the slide one of another assay.

    Raises
    ------
    DataError
        If no form is that of most names.
    """
    names = spots.index.to_series().astype(str)
    bins = names.str.extract(_BIN)
    sizes = bins[0].dropna()
    alike = bins[0] == sizes.mode().iloc[0] if len(sizes) else bins[0].notna()
    for known in (names.str.contains(ARRAY_NAME), alike):
        if 0 < known.sum() <= len(names) / 2:
            raise DataError(
                f"{where}: {int((~known).sum())} of {len(names)} spots have names without a position on the array "
                f"(first: {names[~known].iloc[0]!r}), the others have one; correct the names, or leave these spots out"
            )
        if 0 < known.sum() < len(names):
            logger.warning(
                "%s: %d of %d spots have names without a position on the array (first: %r), and are left out",
                where,
                int((~known).sum()),
                len(names),
                names[~known].iloc[0],
            )
            return spots[known.to_numpy()]
    return spots


def _array(spots: pd.DataFrame, where: str, *, hd: bool) -> _Array:
    """Recognise the assay by the names of spots: array positions, bins, or barcodes."""
    pixels = spots[_PIXELS].to_numpy(np.float64)
    positions = array_positions(spots.index)
    if positions is not None:
        return _Array(_positions(positions, spots.index), st_scale(positions, pixels, where))
    bins = spots.index.to_series().str.extract(_BIN)
    if bins.notna().to_numpy().all():
        size, row, column = bins.astype(int).to_numpy().T
        side = float(size[0])
        return _Array(
            _positions(np.column_stack([column, row]), spots.index), Scale(side / ring_pitch(pixels, where), side)
        )
    pitch, spot = (_BIN_UM, _BIN_UM) if hd else (VISIUM_PITCH_UM, VISIUM_SPOT_UM)
    return _Array(pd.DataFrame(index=spots.index), Scale(pitch / ring_pitch(pixels, where), spot))


def _positions(array: NDArray[np.float64], names: pd.Index) -> pd.DataFrame:
    """Round array positions to columns of whole numbers; no columns if two spots would share a position."""
    whole = pd.DataFrame(np.rint(array).astype(int), columns=[Key.obs.array_col, Key.obs.array_row], index=names)
    return pd.DataFrame(index=names) if whole.duplicated().any() else whole[[Key.obs.array_row, Key.obs.array_col]]


def _compare_radius(spots: pd.DataFrame, scale: Scale, where: str) -> None:
    radius = pd.to_numeric(spots["r"], errors="coerce").median() if "r" in spots else np.nan
    said = scale.spot_um / (2 * radius) if radius > 0 else np.nan
    if abs(said / scale.microns_per_pixel - 1) > _RADIUS_AGREES:
        logger.warning(
            "%s: %.3f um per pixel by the distance of spots, which is used, but %.3f by their radius r",
            where,
            scale.microns_per_pixel,
            said,
        )
