"""Read what Visium and Visium HD share: counts and positions joined by barcode, images and scale factors."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nh2st_graph._errors import DataError, ImageError, reason, setting
from nh2st_graph.read._common import in_array_order, logger, report_dropped
from nh2st_graph.section import Key, changed_entry, check_section, unknown_patient
from nh2st_graph.slide import image_size, slide_size, thumbnail

__all__ = ["COUNTS", "Assay", "counts_path", "folder_name", "read_spots"]

#: File of Space Ranger's counts in tissue.
COUNTS = "filtered_feature_bc_matrix.h5"

_BARCODE, _X, _Y = "barcode", "pxl_col_in_fullres", "pxl_row_in_fullres"
_COLUMNS = [Key.obs.in_tissue, Key.obs.array_row, Key.obs.array_col, _Y, _X]
_SCALES_AGREE = 0.05


class Assay(NamedTuple):
    """Physical sizes of an array, in um.

    Attributes
    ----------
    spot_um
        Length of ``spot_diameter_fullres``.
    column_um, row_um
        Distance between adjacent columns and between adjacent rows, as ``array_col`` and ``array_row`` count them.
    pitch_um
        Distance between adjacent spots.
    """

    spot_um: float
    column_um: float
    row_um: float
    pitch_um: float


def read_spots(
    folder: Path,
    name: str,
    patient: str | None,
    *,
    counts: Path,
    positions: Path,
    source_image: str | Path | None,
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
        The HDF5 file, or a folder with ``matrix.mtx.gz``.
    positions
        A CSV file with or without a header, or parquet.
    source_image
        The full-resolution image. With None, the section uses the hires image instead.
    assay
        Sizes of spots and array.
    """
    spatial = folder / "spatial"
    for path in (
        positions,
        spatial / "scalefactors_json.json",
        _hires_file(folder),
        spatial / "tissue_lowres_image.png",
    ):
        if not path.is_file():
            raise DataError(f"section {name!r}: {path} is missing; give Space Ranger's complete output folder")
    adata, dropped = _joined(_read_counts(counts, name), counts, _read_positions(positions, name), positions, name)
    adata.obs[Key.obs.section] = pd.Categorical([name] * adata.n_obs)
    adata.obs[Key.obs.patient] = pd.Categorical([patient or unknown_patient(name)] * adata.n_obs)
    source = None if source_image is None else Path(source_image)
    scale = _set_library(adata, folder, source, assay.spot_um, name)
    check_section(adata, need=("genes", "image"))
    report_dropped(adata, name, dropped)
    if source is None:
        logger.warning(
            "section %r: no full-resolution image given; patches are cut from %s (%.2f um per pixel)",
            name,
            _hires_file(folder).name,
            scale,
        )
    _compare_with_array(adata, scale, assay, name)
    return adata


def folder_name(folder: Path) -> str:
    """Name a section after its folder; ``outs`` does not count."""
    folder = folder.resolve()
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
    raise DataError(f"section {name!r}: {folder / counts_file} is missing; give Space Ranger's complete output folder")


def _read_counts(path: Path, name: str) -> AnnData:
    """Read counts and the chemistry of the assay with squidpy."""
    import squidpy as sq

    folder, file = (path, "matrix.mtx.gz") if path.is_dir() else (path.parent, path.name)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Variable names are not unique")  # make_unique follows
            adata: AnnData = sq.read.visium(folder, counts_file=file, library_id=name, load_images=False)
    except Exception as error:  # scanpy raises plain Exception on an HDF5 file that is not 10x's
        raise DataError(
            f"section {name!r}: {path} cannot be read as Space Ranger's counts "
            f"({type(error).__name__}: {reason(error)}); copy it again"
        ) from error
    adata.X = sparse.csr_matrix(adata.X)
    adata.var_names_make_unique()
    return adata


def _read_positions(path: Path, name: str) -> pd.DataFrame:
    """Read positions by barcode; Space Ranger's CSV has a header and another name from version 2 on."""
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, header=None, dtype=str)
    except (OSError, ValueError) as error:
        raise DataError(f"section {name!r}: {path} cannot be read ({reason(error)}); copy it again") from None
    if table.index.name == _BARCODE:
        table = table.reset_index()
    if table.shape[1] != 1 + len(_COLUMNS):
        raise DataError(f"section {name!r}: {path} has {table.shape[1]} columns, expected 6; copy it again")
    if path.suffix != ".parquet":
        header = str(table.iloc[0, 0]).lower() == _BARCODE
        table = (
            table.iloc[1:].set_axis(table.iloc[0], axis=1) if header else table.set_axis([_BARCODE, *_COLUMNS], axis=1)
        )
    missing = [column for column in (_BARCODE, *_COLUMNS) if column not in table]
    if missing:
        raise DataError(f"section {name!r}: {path} has no column {', '.join(missing)}; copy it again")
    table = table.set_index(_BARCODE)[_COLUMNS]
    twice = table.index[table.index.duplicated()]
    if len(twice):
        raise DataError(f"section {name!r}: barcode {twice[0]!r} occurs more than once in {path}; keep one row of each")
    return table


def _joined(
    adata: AnnData, counts: Path, table: pd.DataFrame, positions: Path, name: str
) -> tuple[AnnData, dict[str, int]]:
    """Keep spots that have a position and lie in tissue; count the others by reason."""
    placed = np.flatnonzero(adata.obs_names.isin(table.index))
    if not len(placed):
        raise DataError(
            f"section {name!r}: {counts} and {positions} have no barcode in common; "
            "check that both belong to this section"
        )
    table = table.loc[adata.obs_names[placed]].apply(pd.to_numeric, errors="coerce")
    bad = ~np.isfinite(table.to_numpy(np.float64)).all(axis=1)
    if bad.any():
        raise DataError(
            f"section {name!r}: {positions} has a position that is not a number "
            f"(barcode {table.index[bad][0]!r}); correct or remove that row"
        )
    tissue = table[Key.obs.in_tissue].to_numpy() == 1
    if not tissue.any():
        raise DataError(
            f"section {name!r}: no spot with counts lies in tissue (in_tissue = 1 in {positions}); "
            "the section is empty: leave it out"
        )
    dropped = {
        "counts_without_position": adata.n_obs - len(placed),
        "not_in_tissue": int((~tissue).sum()),
    }
    adata, table = adata[placed[tissue]].copy(), table[tissue]
    adata.obs = table[[Key.obs.in_tissue, Key.obs.array_row, Key.obs.array_col]].astype(int)
    adata.obsm[Key.obsm.spatial] = table[[_X, _Y]].to_numpy(np.float64)
    return in_array_order(adata), dropped


def _hires_file(folder: Path) -> Path:
    return folder / "spatial" / "tissue_hires_image.png"


def _set_library(adata: AnnData, folder: Path, source: Path | None, spot_um: float, name: str) -> float:
    """Build the entry of the image, and return um per pixel; without a full-resolution image, use the hires one."""
    hires_file = _hires_file(folder)
    factors = _scalefactors(folder / "spatial" / "scalefactors_json.json", name)
    if source is None:
        source, shrink = hires_file, factors[Key.library.hires_scale]
        adata.obsm[Key.obsm.spatial] = adata.obsm[Key.obsm.spatial] * shrink
        factors = {key: value * shrink if "diameter" in key else value / shrink for key, value in factors.items()}
    else:
        _check_source(source, hires_file, factors[Key.library.hires_scale], name)
    image, scale = thumbnail(hires_file)
    microns_per_pixel = spot_um / factors[Key.library.spot_diameter]
    lowres = thumbnail(folder / "spatial" / "tissue_lowres_image.png")[0]
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
    )
    return microns_per_pixel


def _scalefactors(path: Path, name: str) -> dict[str, float]:
    """Read the factors in pixels or per pixel. Visium HD's file also has sizes in um, which do not scale."""
    try:
        factors = dict(json.loads(path.read_bytes()))
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"section {name!r}: {path} cannot be read ({reason(error)}); copy it again") from None
    for key in (Key.library.spot_diameter, Key.library.hires_scale):
        value = factors.get(key)
        if not isinstance(value, int | float) or not value > 0:
            raise DataError(f"section {name!r}: {path} has {key} = {value!r}, expected a number above 0; copy it again")
    return {
        key: float(value)
        for key, value in factors.items()
        if isinstance(value, int | float) and ("diameter" in key or key.endswith("scalef"))
    }


def _check_source(source: Path, hires_file: Path, hires_scale: float, name: str) -> None:
    """Refuse an image that does not match the hires one, because spots would be misplaced on it."""
    size, small = np.array(slide_size(source)), np.array(image_size(hires_file))
    if (np.abs(size * hires_scale - small) > 1 + 0.01 * small).any():
        width, height = np.rint(small / hires_scale).astype(int)
        raise ImageError(
            f"section {name!r}: image {source} is {size[0]} x {size[1]} px, but Space Ranger was given one "
            f"of about {width} x {height} px; give that image, or none to use {hires_file.name}"
        )


def _compare_with_array(adata: AnnData, microns_per_pixel: float, assay: Assay, name: str) -> None:
    """Warn if the spot diameter and the array pitch give different resolutions."""
    array = adata.obs[[Key.obs.array_col, Key.obs.array_row]].to_numpy(np.float64)
    array = (array - array.mean(axis=0)) * [assay.column_um, assay.row_um]
    pixels = adata.obsm[Key.obsm.spatial] - adata.obsm[Key.obsm.spatial].mean(axis=0)
    if np.linalg.matrix_rank(array) < 2:  # spots on one line do not determine the map
        return
    affine, *_ = np.linalg.lstsq(array, pixels, rcond=None)
    fitted = 1 / np.sqrt(abs(np.linalg.det(affine)))
    if abs(microns_per_pixel / fitted - 1) > _SCALES_AGREE:
        logger.warning(
            "section %r: %.3f um per pixel by the spot diameter, %.3f by the array's pitch of %.4g um; "
            "check the length of spot_diameter_fullres in um",
            name,
            microns_per_pixel,
            fitted,
            assay.pitch_um,
        )
