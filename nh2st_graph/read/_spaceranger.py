"""Read what Visium and Visium HD share: counts and positions joined by barcode, images and scale factors."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image

from nh2st_graph._errors import DataError, ImageError, listed, reason, setting
from nh2st_graph._files import parse_json, positive
from nh2st_graph.read._common import (
    as_given,
    folder_above,
    image_in,
    images_in,
    in_array_order,
    keep_in_tissue,
    logger,
    report_dropped,
)
from nh2st_graph.read._counts import open_text
from nh2st_graph.read._packed import open_packed
from nh2st_graph.read._tenx import TenX, read_tenx
from nh2st_graph.section import VISIUM_PITCH_UM, Key, changed_entry, check_section, report_pitch, unknown_patient
from nh2st_graph.slide import image_size, slide_size, thumbnail

__all__ = ["COUNTS", "Assay", "counts_path", "folder_name", "read_spots", "spatial_file"]

#: File of Space Ranger's counts in tissue.
COUNTS = "filtered_feature_bc_matrix.h5"

_SCALES, _HIRES = "scalefactors_json.json", "tissue_hires_image.png"
#: The most bytes of the former when it is unpacked; it has 200.
_FACTORS_BYTES = 2**20
_BARCODE, _X, _Y = "barcode", "pxl_col_in_fullres", "pxl_row_in_fullres"
_ROW = "row"
_COLUMNS = [Key.obs.in_tissue, Key.obs.array_row, Key.obs.array_col, _Y, _X]

#: What tools append to a barcode: the number of the well, or of the sample.
_SUFFIX = r"[-_.]\d+$"
#: Images are compared at this length, in pixels. They show the same from one correlation on, and something else below
#: another; a turn is believed if it correlates by so much more.
_COMPARED_SIDE, _ALIKE, _UNLIKE, _CLEARLY = 200, 0.5, 0.3, 0.2
_TURNS = {
    Image.Transpose.FLIP_LEFT_RIGHT: "mirrored from left to right",
    Image.Transpose.FLIP_TOP_BOTTOM: "mirrored from top to bottom",
    Image.Transpose.ROTATE_90: "turned by 90 degrees",
    Image.Transpose.ROTATE_180: "turned by 180 degrees",
    Image.Transpose.ROTATE_270: "turned by 90 degrees",
    Image.Transpose.TRANSPOSE: "mirrored and turned by 90 degrees",
    Image.Transpose.TRANSVERSE: "mirrored and turned by 90 degrees",
}
#: Names that are looked for in the names of another file, before these count as different.
_TRIED = 10


class Assay(NamedTuple):
    """Physical sizes of an array, in um.

    Attributes
    ----------
    spot_um
        Length of ``spot_diameter_fullres``.
    pitch_um
        Distance between adjacent spots.
    """

    spot_um: float
    pitch_um: float


def read_spots(
    folder: Path,
    name: str,
    patient: str | None,
    *,
    counts: Path,
    positions: Path,
    source_image: str | Path | None,
    outs: Path,
    assay: Assay,
) -> AnnData:
    """Read the section in a folder with counts and ``spatial/``, and check it.

    Parameters
    ----------
    folder
        The folder that holds ``spatial/``.
    name, patient
        Names of the section and its patient; None for an unknown patient.
    counts
        The HDF5 file, or a folder with ``matrix.mtx``, packed or not.
    positions
        A CSV file with or without a header, packed or not, or parquet.
    source_image
        The full-resolution image. With None, the one in ``outs``; if there is none, the section uses the hires image.
    outs
        Space Ranger's output folder.
    assay
        Sizes of spots and array.
    """
    found = _Files(
        positions,
        *(spatial_file(folder, [file], name) for file in (_SCALES, _HIRES, "tissue_lowres_image.png")),
    )
    adata, dropped = _joined(read_tenx(counts, name), counts, _read_positions(positions, name), positions, name)
    adata.obs[Key.obs.section] = pd.Categorical([name] * adata.n_obs)
    adata.obs[Key.obs.patient] = pd.Categorical([patient or unknown_patient(name)] * adata.n_obs)
    source = _image_beside(outs, name) if source_image is None else Path(source_image)
    scale = _set_library(adata, found, source, assay, name)
    check_section(adata, need=("genes", "image"))
    report_dropped(adata, name, dropped)
    if source is None:
        logger.warning(
            "section %r: no full-resolution image given; patches are cut from %s (%.2f um per pixel)",
            name,
            found.hires.name,
            scale,
        )
    report_pitch(adata, by="the spot diameter")
    return adata


class _Files(NamedTuple):
    positions: Path
    scales: Path
    hires: Path
    lowres: Path


def spatial_file(folder: Path, names: Sequence[str], section: str) -> Path:
    """Find a file in ``spatial/``: by one of its names, packed (``.gz``), or with a prefix, as GEO keeps it.

    Raises
    ------
    DataError
        If there is none, or a packed image.
    """
    spatial = folder / "spatial"
    endings = ("",) if names[0].endswith(".png") else ("", ".gz")
    for ending in endings:
        for name in names:
            if (spatial / f"{name}{ending}").is_file():
                return spatial / f"{name}{ending}"
    prefixed = [path for ending in endings for name in names for path in sorted(spatial.glob(f"*_{name}{ending}"))]
    if len(prefixed) == 1:
        return prefixed[0]
    packed = [path for name in names for path in sorted(spatial.glob(f"*{name}.gz"))]
    if packed:
        raise DataError(f"section {section!r}: {packed[0]} is packed; unpack it (gunzip)")
    raise DataError(f"section {section!r}: {spatial / names[0]} is missing; give Space Ranger's complete output folder")


def _image_beside(outs: Path, section: str) -> Path | None:
    """Find the full-resolution image beside ``spatial/``, beside ``outs``, or beside the folder by its name."""
    folders = [outs, as_given(outs).parent] if as_given(outs).name == "outs" else [outs]
    found = next((image for image in (image_in(folder, "source_image") for folder in folders) if image), None)
    return found or next(iter(images_in(folder_above(outs), section)), None)


def folder_name(folder: Path) -> str:
    """Name a section after its folder; ``outs`` does not count."""
    folder = as_given(folder)
    return folder.parent.name if folder.name == "outs" else folder.name


def counts_path(folder: Path, counts_file: str, name: str) -> Path:
    """Find the counts: the file, the folder with the same matrix, or the file with a prefix, as 10x publishes it.

    Raises
    ------
    DataError
        If there is none, or several with a prefix.
    """
    for path in (folder / counts_file, folder / counts_file.removesuffix(".h5")):
        if path.exists():
            return path
    prefixed = sorted(path for path in folder.glob(f"*_{counts_file}") if not path.name.startswith("."))
    if len(prefixed) == 1:
        return prefixed[0]
    if prefixed:
        shown = ", ".join(path.name for path in prefixed)
        raise DataError(
            f"section {name!r}: {folder} has several counts files ({shown}); "
            f"name one: {setting('data.options.counts_file', 'NAME')}"
        )
    if any(folder.glob("*matrix.mtx*")):
        return folder
    others = sorted(path.name for path in folder.glob("*feature_bc_matrix*"))
    cure = (
        f"name the counts that are there ({', '.join(others)}): {setting('data.options.counts_file', others[0])}"
        if others
        else "give Space Ranger's complete output folder"
    )
    raise DataError(f"section {name!r}: {folder / counts_file} is missing; {cure}")


def _read_positions(path: Path, name: str) -> pd.DataFrame:
    """Read positions by barcode; Space Ranger's CSV has a header and another name from version 2 on.

    A table that was saved again is read too: by Excel with semicolons, or by pandas with its index.
    """
    where, parquet = f"section {name!r}", path.suffix == ".parquet"
    try:
        table = pd.read_parquet(path).reset_index() if parquet else _read_text(path)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{where}: {path} cannot be read ({reason(error)}); copy it again") from None
    if not parquet:
        first = table.iloc[0].fillna("").str.strip()
        if not first.str.lower().isin([_BARCODE, *_COLUMNS]).any():
            counted = table[0].tolist() == [str(i) for i in range(len(table))]  # an index that was saved
            table = table.iloc[:, 1:] if counted else table
            if table.shape[1] != 1 + len(_COLUMNS):
                raise DataError(
                    f"{where}: {path} has {table.shape[1]} columns, expected 6 ({', '.join([_BARCODE, *_COLUMNS])})"
                )
            first = pd.Series([_BARCODE, *_COLUMNS])
        else:
            table = table.iloc[1:]
        table.columns = pd.Index(first)
    table.columns = table.columns.astype(str).str.lower()
    if _BARCODE not in table and table.columns[0] in {"", "index", "unnamed: 0"}:
        table = table.set_axis([_BARCODE, *table.columns[1:]], axis=1)
    missing = [column for column in (_BARCODE, *_COLUMNS) if column not in table]
    if missing:
        raise DataError(
            f"{where}: {path} has no column {', '.join(missing)} (there: {listed(table.columns, 10)}); name it so"
        )
    table = table[[_BARCODE, *_COLUMNS]]
    barcodes = table[_BARCODE].astype(str)
    table = table.assign(**{_BARCODE: barcodes if parquet else barcodes.str.strip()}).set_index(_BARCODE)
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()]
        raise DataError(f"{where}: barcode {twice[0]!r} occurs more than once in {path}; keep one row of each")
    return table


def _read_text(path: Path) -> pd.DataFrame:
    """Read a table without header as text; with semicolons, a comma is a decimal point."""
    with open_text(path) as lines:
        first = lines.readline()
    separator = max(",;\t", key=first.count)
    with open_packed(path) as file:
        table = pd.read_csv(file, header=None, dtype=str, sep=separator)
    return table.replace(",", ".", regex=True) if separator == ";" else table


def _joined(
    given: TenX, counts: Path, table: pd.DataFrame, positions: Path, name: str
) -> tuple[AnnData, dict[str, int]]:
    """Keep spots that have a position and lie in tissue, in order of the array; count the others by reason."""
    rows = table.index.get_indexer(given.barcodes)
    if not (rows >= 0).any():
        table = _named_alike(given.barcodes, table, f"section {name!r}")
        rows = table.index.get_indexer(given.barcodes)
    placed = np.flatnonzero(rows >= 0)
    for path, names in ((counts, given.barcodes), (positions, table.index)):
        if not len(names):
            raise DataError(
                f"section {name!r}: {path} has no spots; the section is empty: leave it out or copy it again"
            )
    if not len(placed):
        raise DataError(
            f"section {name!r}: {counts} and {positions} have no barcode in common (such as {given.barcodes[0]!r} and "
            f"{table.index[0]!r}); check that both belong to this section, and that what stands before or after the "
            "barcodes is the same in all of one file"
        )
    table = table.iloc[rows[placed]].apply(pd.to_numeric, errors="coerce")
    bad = ~np.isfinite(table.to_numpy(np.float64)).all(axis=1)
    if bad.any():
        raise DataError(
            f"section {name!r}: {positions} has a position that is not a number "
            f"(barcode {table.index[bad][0]!r}); correct or remove that row"
        )
    # The counts come last, and are copied at most once: they are by far the largest.
    obs = table[[Key.obs.in_tissue, Key.obs.array_row, Key.obs.array_col]].set_axis(given.barcodes[placed])
    spots = AnnData(obs=obs.assign(**{_ROW: placed}), obsm={Key.obsm.spatial: table[[_X, _Y]].to_numpy(np.float64)})
    spots, dropped = keep_in_tissue(spots, name, f"in_tissue = 1 in {positions}", "spot with counts")
    spots = in_array_order(spots)
    obs = spots.obs.astype(int)
    kept = obs.pop(_ROW).to_numpy()
    whole = np.array_equal(kept, np.arange(len(given.barcodes)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # make_unique follows
        adata = AnnData(given.matrix if whole else given.matrix[kept], obs=obs, var=given.var, obsm=dict(spots.obsm))
    adata.var_names_make_unique()
    adata.uns[Key.uns.spatial] = {name: {Key.library.metadata: given.metadata}}
    without = len(given.barcodes) - len(placed)
    return adata, {"counts_without_position": without, "not_in_tissue": 0, **dropped}


def _named_alike(barcodes: pd.Index, table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Name positions as the counts do, if the barcodes of one file all have more before or after them."""
    renamed = _without_suffix(barcodes, table)
    if renamed is not table:
        return renamed
    for longer, shorter in ((barcodes, table.index), (table.index, barcodes)):
        around = _around(longer, shorter)
        if around is None:
            continue
        before, after = around
        said = " and ".join(repr(each) for each in around if each)
        logger.warning("%s: barcodes such as %r and %r are joined without %s", where, longer[0], shorter[0], said)
        if longer is barcodes:
            return table.set_axis(before + table.index + after)
        return table.set_axis(table.index.str.slice(len(before), -len(after) or None))
    return table


def _around(longer: pd.Index, shorter: pd.Index) -> tuple[str, str] | None:
    """Find what stands before and after the barcodes in all longer names; None if that is not one thing."""
    known = set(shorter)
    for name in longer[:_TRIED]:
        inside = [each for each in known if each in name]
        if len(inside) == 1:
            before, _, after = name.partition(inside[0])
            fits = longer.str.startswith(before) & longer.str.endswith(after)
            shared = longer.str.slice(len(before), -len(after) or None).isin(known).sum()
            return (before, after) if fits.all() and 2 * shared >= min(len(longer), len(shorter)) else None
    return None


def _without_suffix(barcodes: pd.Index, table: pd.DataFrame) -> pd.DataFrame:
    """Name positions as the counts do, if the barcodes differ in a suffix such as ``-1`` only."""
    plain, theirs = barcodes.str.replace(_SUFFIX, "", regex=True), table.index.str.replace(_SUFFIX, "", regex=True)
    if not (plain.is_unique and theirs.is_unique):
        return table
    names = pd.Series(barcodes, index=plain)
    rows = theirs.isin(names.index)
    return table[rows].set_axis(names[theirs[rows]].to_numpy()) if rows.any() else table


def _set_library(adata: AnnData, files: _Files, source: Path | None, assay: Assay, name: str) -> float:
    """Build the entry of the image, and return um per pixel; without a full-resolution image, use the hires one."""
    hires_file, factors = files.hires, _scalefactors(files.scales, name)
    if source is None:
        source, shrink = hires_file, factors[Key.library.hires_scale]
        adata.obsm[Key.obsm.spatial] = adata.obsm[Key.obsm.spatial] * shrink
        factors = {key: value * shrink if "diameter" in key else value / shrink for key, value in factors.items()}
    else:
        _check_source(source, hires_file, factors[Key.library.hires_scale], name)
    image, scale = thumbnail(hires_file)
    microns_per_pixel = assay.spot_um / factors[Key.library.spot_diameter]
    lowres = thumbnail(files.lowres)[0]
    entry = {
        **adata.uns[Key.uns.spatial][name],
        Key.library.images: {"lowres": lowres},
        Key.library.scalefactors: factors,
    }
    adata.uns[Key.uns.spatial][name] = changed_entry(
        entry,
        source=source,
        microns_per_pixel=microns_per_pixel,
        hires=(image, factors[Key.library.hires_scale] * scale),
        array_pitch_um=assay.pitch_um if assay.pitch_um != VISIUM_PITCH_UM else None,
    )
    return microns_per_pixel


def _scalefactors(path: Path, name: str) -> dict[str, float]:
    """Read the factors in pixels or per pixel. Visium HD's file also has sizes in um, which do not scale."""
    try:
        with open_packed(path, _FACTORS_BYTES) as file:
            factors = dict(parse_json(file.read()))
    except (OSError, EOFError, zlib.error, TypeError, ValueError) as error:
        raise DataError(f"section {name!r}: {path} cannot be read ({reason(error)}); copy it again") from None
    needed = (Key.library.spot_diameter, Key.library.hires_scale)
    given = {key: factors.get(key) for key in needed} | {
        key: value
        for key, value in factors.items()
        if isinstance(value, int | float) and ("diameter" in key or key.endswith("scalef"))
    }
    found = {key: positive(value) for key, value in given.items()}
    for key, number in found.items():
        if number is None:
            raise DataError(
                f"section {name!r}: {path} has {key} = {given[key]!r}, expected a number above 0; copy it again"
            )
    return {key: number for key, number in found.items() if number is not None}


def _check_source(source: Path, hires_file: Path, hires_scale: float, name: str) -> None:
    """Refuse an image that does not match the hires one, because spots would be misplaced on it."""
    size, small = np.array(slide_size(source)), np.array(image_size(hires_file))
    if (np.abs(size * hires_scale - small) > 1 + 0.01 * small).any():
        width, height = np.rint(small / hires_scale).astype(int)
        raise ImageError(
            f"section {name!r}: image {source} is {size[0]} x {size[1]} px, but Space Ranger was given one "
            f"of about {width} x {height} px; give that image, or move this one away to use "
            f"{hires_file.name}"
        )
    _check_shown(source, hires_file, name)


def _check_shown(source: Path, hires_file: Path, name: str) -> None:
    """Refuse an image that shows the hires one turned or mirrored, and warn of one that shows something else."""
    image = Image.fromarray(thumbnail(source, _COMPARED_SIDE)[0]).convert("L")
    hires = np.asarray(Image.fromarray(thumbnail(hires_file)[0]).convert("L").resize(image.size, Image.Resampling.BOX))
    alike = {None: _correlation(image, hires)} | {turn: _correlation(image.transpose(turn), hires) for turn in _TURNS}
    best = max(alike, key=lambda turn: alike[turn])
    if best is not None and alike[best] > max(_ALIKE, alike[None] + _CLEARLY):
        raise ImageError(
            f"section {name!r}: image {source} is {_TURNS[best]}, compared with {hires_file.name}, on which the spots "
            "were placed; give the image as Space Ranger was given it, or move this one away to use "
            f"{hires_file.name}"
        )
    if -1 < alike[None] < _UNLIKE:
        logger.warning(
            "section %r: image %s does not show what %s shows; check that it is of this section",
            name,
            source,
            hires_file.name,
        )


def _correlation(image: Image.Image, other: np.ndarray) -> float:
    """Correlate the grey values of two images; -1 if they differ in size or have one grey value."""
    pixels = np.asarray(image, np.float64)
    if pixels.shape != other.shape or not (pixels.std() and other.std()):
        return -1.0
    return float(np.corrcoef(pixels.ravel(), other.ravel())[0, 1])
