"""10x Visium sections as Space Ranger writes them, over squidpy's reader."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st_graph._errors import DataError, ImageError
from nh2st_graph._image import image_size, thumbnail
from nh2st_graph._keys import Key
from nh2st_graph._validate import check_section
from nh2st_graph.read._common import (
    check_exists,
    in_array_order,
    logger,
    picture_in,
    report_dropped,
    wanted_names,
)
from nh2st_graph.read._registry import register_format

__all__ = ["visium"]

#: What ``spot_diameter_fullres`` spans, by 10x's description of it and by the arrays themselves: 65 um, where
#: neighbours are 100 um apart. (The printed spots are smaller, 55 um, and are not what the file measures.)
SCALEFACTOR_SPOT_UM = 65.0

# The array is hexagonal: neighbours in a row, 100 um apart, differ by 2 in array_col.
_COL_UM, _ROW_UM = 50.0, 50.0 * 3**0.5
_SCALES_AGREE = 0.05
_POSITIONS = ("tissue_positions.csv", "tissue_positions_list.csv")


def visium(
    path: str | Path,
    *,
    section: str | None = None,
    patient: str | None = None,
    source_image: str | Path | None = None,
    spot_diameter_um: float = SCALEFACTOR_SPOT_UM,
    counts_file: str = "filtered_feature_bc_matrix.h5",
) -> AnnData:
    """Read one Visium section from a Space Ranger folder.

    Parameters
    ----------
    path
        Space Ranger's output: the folder that holds ``spatial/``, or the one above it with ``outs/``. Space
        Ranger 1 (positions without a header) and later are read.
    section
        The section's name; by default the folder's.
    patient
        The patient's name, which splits go by; by default each section is its own patient, of the same name.
    source_image
        The full-resolution picture that Space Ranger was given. Where it is ``None``, the section uses
        ``tissue_hires_image.png`` instead: positions and scale factors are in that picture's pixels.
    spot_diameter_um
        What Space Ranger's ``spot_diameter_fullres`` spans in um. That is 65 um on Visium slides, though the
        printed spots measure 55 um. The scale is checked against the 100 um pitch of the array.
    counts_file
        Name of the counts file in the folder.

    Returns
    -------
    The section: ``X`` raw counts ``(n_spots, n_genes)`` of the spots in tissue, CSR; ``obs`` with
    ``section``, ``patient``, ``array_row``, ``array_col``, ``in_tissue``; ``obsm["spatial"]`` x then y in
    pixels of ``source_image_path``; ``microns_per_pixel`` = ``spot_diameter_um`` over
    ``spot_diameter_fullres``. Spots are named by barcode and stand in order of array row, then column; gene
    names are made unique.

    Raises
    ------
    DataError
        If a file is missing or malformed, or positions and counts share no barcode.
    ImageError
        If a picture is missing, unreadable or cut off, is not the one that Space Ranger was given, or does
        not cover the spots.
    """
    folder = _spaceranger_folder(Path(path))
    name = section or _folder_name(folder)
    adata = _read(folder, counts_file, name)
    adata, dropped = _keep_tissue(adata, folder, counts_file, name)
    adata.obs[Key.obs.section] = pd.Categorical([name] * adata.n_obs)
    adata.obs[Key.obs.patient] = pd.Categorical([patient or name] * adata.n_obs)
    scale = _set_library(adata, folder, None if source_image is None else Path(source_image), spot_diameter_um, name)
    check_section(adata, need=("genes", "image"))
    report_dropped(adata, name, dropped)
    if source_image is None:
        logger.warning(
            "section %r: no full-resolution picture given; patches are cut from %s (%.2f um per pixel)",
            name,
            _hires_file(folder).name,
            scale,
        )
    _compare_with_array(adata, scale, name)
    return adata


@register_format("visium")
def _sections(root: Path, names: Sequence[str] | None = None) -> dict[str, AnnData]:
    """Read one Space Ranger folder or several; a picture beside ``spatial/`` is the full-resolution one."""
    check_exists(root)
    if _spatial_parent(root) is not None:
        folders = {_folder_name(root): root}
    else:
        folders = {p.name: p for p in root.iterdir() if p.is_dir() and _spatial_parent(p) is not None}
    return {
        name: visium(folders[name], section=name, source_image=picture_in(_spaceranger_folder(folders[name])))
        for name in wanted_names(names, folders, root)
    }


def _spatial_parent(path: Path) -> Path | None:
    return next((folder for folder in (path, path / "outs") if (folder / "spatial").is_dir()), None)


def _spaceranger_folder(path: Path) -> Path:
    check_exists(path)
    folder = _spatial_parent(path)
    if folder is None:
        raise DataError(f"{path} has no folder 'spatial' (nor 'outs/spatial'); give Space Ranger's output folder")
    return folder


def _folder_name(folder: Path) -> str:
    folder = folder.resolve()
    return folder.parent.name if folder.name == "outs" else folder.name


def _read(folder: Path, counts_file: str, name: str) -> AnnData:
    """Read through squidpy, after looking for what it would trip over without a word of where."""
    spatial = folder / "spatial"
    for path in (
        folder / counts_file,
        spatial / "scalefactors_json.json",
        spatial / "tissue_hires_image.png",
        spatial / "tissue_lowres_image.png",
        _positions_file(folder),
    ):
        if not path.is_file():
            raise DataError(f"section {name!r}: {path} is missing; give Space Ranger's complete output folder")
    _check_positions(_positions_file(folder), name)

    import squidpy as sq

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Variable names are not unique")  # made so just after
            adata: AnnData = sq.read.visium(folder, counts_file=counts_file, library_id=name)
    except Exception as error:  # scanpy raises plain Exception on an HDF5 file that is not 10x's
        for level in ("hires", "lowres"):
            thumbnail(spatial / f"tissue_{level}_image.png")  # names the picture, where it is one that is damaged
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"section {name!r}: {folder / counts_file} and {spatial} cannot be read as Space Ranger's output "
            f"({type(error).__name__}: {reason}); copy them again"
        ) from error
    adata.var_names_make_unique()
    return adata


def _positions_file(folder: Path) -> Path:
    new, old = (folder / "spatial" / name for name in _POSITIONS)
    return new if new.is_file() else old


def _check_positions(path: Path, name: str) -> None:
    """Refuse a positions file that squidpy cannot join: not six columns, or a barcode twice."""
    try:
        table = pd.read_csv(path, header=None, dtype=str)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"section {name!r}: {path} cannot be read ({reason}); copy it again") from None
    if table.shape[1] != 6:
        raise DataError(f"section {name!r}: {path} has {table.shape[1]} columns, expected 6; copy it again")
    twice = table[0][table[0].duplicated()]
    if len(twice):
        raise DataError(
            f"section {name!r}: barcode {twice.iloc[0]!r} occurs more than once in {path}; keep one row of each"
        )


def _keep_tissue(adata: AnnData, folder: Path, counts_file: str, name: str) -> tuple[AnnData, dict[str, int]]:
    """Keep spots that have a position and lie in tissue, with numbers as numbers; count the others by the reason."""
    columns = [Key.obs.in_tissue, Key.obs.array_row, Key.obs.array_col]
    placed = adata.obs[Key.obs.in_tissue].notna().to_numpy()
    if not placed.any():
        raise DataError(
            f"section {name!r}: {folder / counts_file} and {_positions_file(folder)} have no barcode "
            "in common; check that both belong to this section"
        )
    table = adata.obs.loc[placed, columns].apply(pd.to_numeric, errors="coerce")
    xy = pd.DataFrame(adata.obsm[Key.obsm.spatial]).apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    bad = ~(np.isfinite(table.to_numpy(np.float64)).all(axis=1) & np.isfinite(xy[placed]).all(axis=1))
    if bad.any():
        raise DataError(
            f"section {name!r}: {_positions_file(folder)} has a position that is not a number "
            f"(barcode {table.index[bad][0]!r}); mend or remove that row"
        )
    tissue = placed.copy()
    tissue[placed] = table[Key.obs.in_tissue].to_numpy() == 1
    if not tissue.any():
        raise DataError(
            f"section {name!r}: no spot with counts lies in tissue (in_tissue = 1 in "
            f"{_positions_file(folder)}); the section is empty: leave it out"
        )
    kept = adata[tissue].copy()
    kept.obs[columns] = table.loc[kept.obs_names].astype(int)
    kept.obsm[Key.obsm.spatial] = xy[tissue]
    dropped = {
        "counts_without_position": int((~placed).sum()),
        "not_in_tissue": int(placed.sum() - tissue.sum()),
    }
    return in_array_order(kept), dropped


def _hires_file(folder: Path) -> Path:
    return folder / "spatial" / "tissue_hires_image.png"


def _set_library(adata: AnnData, folder: Path, source: Path | None, spot_um: float, name: str) -> float:
    """Fill in picture and scale, and return um per pixel; without a full-resolution picture, move to the hires one."""
    hires_file = _hires_file(folder)
    entry: dict[str, Any] = adata.uns[Key.uns.spatial][name]
    factors = _scalefactors(entry, folder, name)
    if source is None:
        source, shrink = hires_file, factors[Key.library.hires_scale]
        adata.obsm[Key.obsm.spatial] = adata.obsm[Key.obsm.spatial] * shrink
        factors = {key: value * shrink if "diameter" in key else value / shrink for key, value in factors.items()}
    else:
        _check_source(source, hires_file, factors[Key.library.hires_scale], name)
    picture, scale = thumbnail(hires_file)
    factors[Key.library.hires_scale] *= scale
    entry[Key.library.images][Key.library.hires] = picture
    entry[Key.library.scalefactors] = factors
    microns_per_pixel = spot_um / factors[Key.library.spot_diameter]
    entry[Key.library.metadata][Key.library.source_image] = str(source.resolve())
    entry[Key.library.metadata][Key.library.microns_per_pixel] = microns_per_pixel
    return microns_per_pixel


def _scalefactors(entry: dict[str, Any], folder: Path, name: str) -> dict[str, float]:
    factors = entry[Key.library.scalefactors]
    for key in (Key.library.spot_diameter, Key.library.hires_scale):
        value = factors.get(key)
        if not isinstance(value, int | float) or not value > 0:
            path = folder / "spatial" / "scalefactors_json.json"
            raise DataError(f"section {name!r}: {path} has {key} = {value!r}, expected a number above 0; copy it again")
    return {key: float(value) for key, value in factors.items() if isinstance(value, int | float)}


def _check_source(source: Path, hires_file: Path, hires_scale: float, name: str) -> None:
    """Refuse a picture that is not the hires one at full resolution: spots would lie elsewhere on it."""
    size, small = np.array(image_size(source)), np.array(image_size(hires_file))
    if (np.abs(size * hires_scale - small) > 1 + 0.01 * small).any():
        width, height = np.rint(small / hires_scale).astype(int)
        raise ImageError(
            f"section {name!r}: image {source} is {size[0]} x {size[1]} px, but Space Ranger was given one "
            f"of about {width} x {height} px; give that picture, or none to use {hires_file.name}"
        )


def _compare_with_array(adata: AnnData, microns_per_pixel: float, name: str) -> None:
    """Warn where the spot diameter and the array pitch disagree on the scale."""
    array = adata.obs[[Key.obs.array_col, Key.obs.array_row]].to_numpy(np.float64) * [_COL_UM, _ROW_UM]
    array -= array.mean(axis=0)
    pixels = adata.obsm[Key.obsm.spatial] - adata.obsm[Key.obsm.spatial].mean(axis=0)
    if np.linalg.matrix_rank(array) < 2:  # spots on one line say nothing across it
        return
    affine, *_ = np.linalg.lstsq(array, pixels, rcond=None)
    fitted = 1 / np.sqrt(abs(np.linalg.det(affine)))
    if abs(microns_per_pixel / fitted - 1) > _SCALES_AGREE:
        logger.warning(
            "section %r: %.3f um per pixel by the spot diameter, %.3f by the array's pitch of 100 um; "
            "check spot_diameter_um",
            name,
            microns_per_pixel,
            fitted,
        )
