"""Read HEST-1k: sections of many studies and assays, each with its slide, patches and metadata.

Jaume et al. 2024, "HEST-1k: A dataset for spatial transcriptomics and histology image analysis", NeurIPS.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.utils import make_index_unique
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph._errors import DataError, reason
from nh2st_graph._files import parse_json, positive
from nh2st_graph.read._assemble import add_names, in_order, one_file
from nh2st_graph.read._common import backed_anndata, check_exists, keep_in_tissue, logger, report_dropped, wanted_names
from nh2st_graph.read._counts import refuse_duplicates, to_csr
from nh2st_graph.read._hest_known import known_errors
from nh2st_graph.read._patches import PATCH_UM, mosaic, patch_names, slide_scale
from nh2st_graph.read._patients import PATIENTS, read_each
from nh2st_graph.read._registry import register_format
from nh2st_graph.section import (
    Key,
    Library,
    as_csr,
    as_dense,
    check_section,
    in_tissue,
    libraries,
    library_entry,
    name_columns,
    patient_name,
    report_pitch,
)
from nh2st_graph.slide import IMAGE_ENDINGS, open_slide

__all__ = ["hest", "metadata", "read_sample", "slide_files"]

#: Name of the resolution in the metadata. It comes from the distances of spots; the slide's own may be wrong.
SCALE = "pixel_size_um_estimated"

_ROWS = 1000
_COLUMNS = (Key.obs.array_row, Key.obs.array_col)
_PIXELS = ("pxl_col_in_fullres", "pxl_row_in_fullres")
_SMALL, _SMALL_SCALE = "downscaled_fullres", "tissue_downscaled_fullres_scalef"


def _names(root: Path) -> set[str]:
    if not (root / "st").is_dir():
        raise DataError(f"{root} has no folder 'st'; give the folder of HEST-1k's download (st, wsis, metadata)")
    return {path.stem for path in (root / "st").glob("*.h5ad") if not path.name.startswith(".")}


@register_format("hest", _names)
def hest(
    root: str | Path, names: str | Sequence[str] | None = None, *, with_patch_only: bool = False
) -> dict[str, AnnData]:
    """Read sections of HEST-1k.

    Parameters
    ----------
    root
        The folder of the download: ``st/{id}.h5ad``, ``wsis/{id}.tif``, ``metadata/{id}.json`` and, optionally,
        ``patches/{id}.h5`` (``img``, ``coords``, ``barcode``). A table ``ids.csv`` (``sample_id,patient``) there can
        name patients that the metadata do not name.
    names
        Ids of the sections to read, in this order; None reads all of ``st``.
    with_patch_only
        Keep only spots with a patch in ``patches``, joined by barcode: those on tissue in HEST's segmentation, which
        HEST-Benchmark scores.

    Returns
    -------
    Sections by id. ``X``: raw counts ``(n_spots, n_genes)``, CSR; ``obs``: ``section``, ``patient``, ``array_row``,
    ``array_col``, ``in_tissue`` (of the assay; spots off the tissue are left out); ``obsm["spatial"]``:
    ``(n_spots, 2)``, x then y, full-resolution pixels; ``microns_per_pixel``: ``pixel_size_um_estimated``;
    ``uns["nh2st_dropped"]``. Spots are named by barcode. Gene names are made unique.

    Raises
    ------
    DataError
        If a section is unknown, one of its files is missing or malformed, the metadata have no resolution, or patches
        and spots share no barcode.
    ImageError
        If there is neither slide nor patches, or the slide does not cover the spots.

    Notes
    -----
    The slide is not decoded: its small copy comes from the h5ad file. Without a slide, the patches are assembled to an
    image in the cache folder. Then spots without a patch are left out, and positions are in pixels of that image.

    The patient comes from the metadata, which name none for two of three sections. Patients of different studies can
    share a name, such as ``Patient 1``. They are then held out together, which is safe. Samples with known errors are
    logged.

    In the legacy ST sections of HEST-1k ``array_row`` is the array's x. NH2ST takes pixel rows for x and columns for y
    on these data; here x is the column.
    """
    root = Path(root)
    check_exists(root)
    stored = _names(root)
    others = {path.stem for folder in ("metadata", "wsis", "patches") for path in (root / folder).glob("*.*")}

    def read(name: str, patient: str | None) -> AnnData:
        about = metadata(root, name)
        patient = patient or patient_name(about.get("patient"))
        return read_sample(root, "st", name, patient, about, with_patch_only=with_patch_only)

    wanted = wanted_names(names, stored if names is None else stored | others, root)
    for sentence in known_errors(wanted, corrected=False):
        logger.warning("HEST-1k: %s", sentence)
    return read_each(wanted, stored, root, PATIENTS, read)


def metadata(root: Path, name: str) -> dict[str, Any]:
    """Read the metadata of a section of HEST-1k.

    Raises
    ------
    DataError
        If the file is missing, cannot be read, or has no resolution.
    """
    path = root / "metadata" / f"{name}.json"
    if not path.is_file():
        raise DataError(f"section {name!r}: {path} is missing; download it too, for the resolution and the patient")
    try:
        about = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"section {name!r}: {path} cannot be read ({reason(error)}); download it again") from None
    scale = about.get(SCALE) if isinstance(about, dict) else None
    if positive(scale) is None:
        raise DataError(
            f"section {name!r}: {path} has {SCALE} = {scale!r}; give um per pixel of the slide there, above 0"
        )
    return dict(about)


def read_sample(
    root: Path,
    folder: str,
    name: str,
    patient: str | None,
    about: dict[str, Any] | None,
    *,
    with_patch_only: bool,
    with_image: bool = True,
) -> AnnData:
    """Read one section.

    Parameters
    ----------
    root, folder
        The folder of the data set, and the name of its folder of h5ad files.
    name, patient
        Names of the section and its patient; None for an unknown patient.
    about
        Its metadata. Without them, the resolution comes from the side of the patches.
    with_patch_only
        Keep only spots with a patch, even if there is a slide.
    with_image
        Read its image too. Otherwise it has none, and positions are in pixels of the slide.
    """
    where = f"section {name!r}"
    path, patches = root / folder / f"{name}.h5ad", root / "patches" / f"{name}.h5"
    if not path.is_file():
        raise DataError(f"{where}: {path} is missing; download it")
    slide = _slide(root, name, patches) if with_image else None
    adata, entry = _read_h5ad(path, where)
    adata.obs = add_names(adata.obs, name, patient)
    check_section(adata)
    if not with_image:
        adata, dropped = _keep_with_patch(adata, patches, path, where) if with_patch_only else (adata, {})
        adata.uns[Key.uns.dropped] = dropped
        return in_order(adata)
    scale = float(about[SCALE]) if about else slide_scale(patches, adata.obs_names, _centres(adata), where)
    spot_um = (Library.of(entry).spot_diameter or PATCH_UM / scale) * scale
    adata, dropped = keep_in_tissue(adata, name, f"in_tissue = 1 in {path}")
    if slide is None or with_patch_only:
        adata, more = _keep_with_patch(adata, patches, path, where)
        dropped |= more
    if slide is None:
        # Slides are a part of HEST-1k, and not of folders that were made from it.
        level = logging.WARNING if folder == "st" else logging.INFO
        told = "%s: no slide in %s; the image is assembled from the patches in %s"
        logger.log(level, told, where, root / "wsis", patches)
        slide, adata.obsm[Key.obsm.spatial], scale = mosaic(patches, adata.obs_names, _centres(adata), scale, where)
        entry = {}  # its small copy shows the slide
    adata = in_order(adata)
    with open_slide(slide) as opened:
        small = _small(entry) or opened.thumbnail()
        adata.uns[Key.uns.spatial] = {name: library_entry(slide, scale, spot_um / scale, small)}
        check_section(adata, need=("genes", "image"), slide=opened)
    report_dropped(adata, name, dropped)
    report_pitch(adata)
    return adata


def _slide(root: Path, name: str, patches: Path) -> Path | None:
    """Find the slide; None if there are only patches."""
    missing = f"section {name!r}: no slide; {root / 'wsis' / f'{name}.tif'} (or {patches}) is missing: download it"
    found = slide_files(root, name)
    return None if not found and patches.is_file() else one_file(found, missing)


def slide_files(root: Path, name: str) -> list[Path]:
    """List the slides of a section."""
    return [path for path in (root / "wsis").glob(f"{name}.*") if path.suffix.lower() in IMAGE_ENDINGS]


def _read_h5ad(path: Path, where: str) -> tuple[AnnData, dict[str, Any]]:
    """Read the parts of a section, with counts as CSR, and the file's entry for the image."""
    try:
        stored = backed_anndata(path)
        try:
            counts = _read_counts(stored)
        finally:
            stored.file.close()
    except DataError as error:
        raise DataError(f"{where}: {error.args[0]}") from error
    except Exception as error:  # anndata and h5py raise nearly any class on a damaged file
        raise DataError(f"{where}: {path} cannot be read as h5ad ({reason(error)}); download it again") from error
    columns = {
        column: pd.to_numeric(stored.obs[column], errors="coerce") for column in _COLUMNS if column in stored.obs
    }
    whole = {
        # What is no whole number stays, and is refused by its name.
        column: values.astype(int) if (values.abs() < 2**31).all() and (values == values.round()).all() else values
        for column, values in columns.items()
        if values.notna().all()
    }
    inside = in_tissue(stored, f"{where}: {path}")
    if inside is not None:
        whole[Key.obs.in_tissue] = pd.Series(inside.astype(int), index=stored.obs_names)
    if not stored.n_obs:
        raise DataError(f"{where}: {path} has no spots; the section is empty: leave it out")
    refuse_duplicates(stored.obs_names, path, where)
    genes = name_columns(stored.var).set_axis(make_index_unique(stored.var_names))
    adata = AnnData(X=counts, obs=pd.DataFrame(whole, index=stored.obs_names), var=genes)
    adata.obsm[Key.obsm.spatial] = _spatial(stored, path, where)
    return adata, dict(next(iter(libraries(stored).values()), {}))


def _read_counts(stored: AnnData) -> sparse.csr_matrix:
    """Read the counts of a backed AnnData; dense ones in pieces, because they are mostly zeros."""
    counts = stored.X
    if isinstance(counts, h5py.Dataset):
        starts = range(0, stored.n_obs, _ROWS)
        return sparse.vstack([to_csr(counts[start : start + _ROWS]) for start in starts], format="csr")
    matrix = counts.to_memory()
    matrix.check_format(full_check=True)
    return as_csr(matrix).astype(np.float32)


def _spatial(stored: AnnData, path: Path, where: str) -> NDArray[np.float64]:
    """Read the spot centres, x then y, from ``obsm``, or else from the columns of ``obs``."""
    missing = [column for column in _PIXELS if column not in stored.obs]
    if Key.obsm.spatial not in stored.obsm and missing:
        raise DataError(
            f"{where}: {path} has neither obsm['{Key.obsm.spatial}'] nor obs['{missing[0]}']; "
            "spot centres in pixels of the slide are missing: download it again"
        )
    given = stored.obsm[Key.obsm.spatial] if Key.obsm.spatial in stored.obsm else stored.obs[list(_PIXELS)]
    given = as_dense(given)
    if given.shape != (stored.n_obs, 2):
        raise DataError(
            f"{where}: obsm['{Key.obsm.spatial}'] of {path} has shape {given.shape}, expected ({stored.n_obs}, 2): x "
            "and y of each spot; download it again"
        )
    return pd.DataFrame(given).apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)


def _centres(adata: AnnData) -> NDArray[np.float64]:
    return np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)


def _keep_with_patch(adata: AnnData, patches: Path, path: Path, where: str) -> tuple[AnnData, dict[str, int]]:
    """Keep spots that have a patch, joined by barcode."""
    if not patches.is_file():
        raise DataError(f"{where}: {patches} is missing, and lists the spots with a patch; download it")
    barcodes = patch_names(patches, where)
    kept = adata.obs_names.isin(barcodes)
    if not kept.any():
        raise DataError(
            f"{where}: {patches} and {path} have no barcode in common; check that both belong to this section"
        )
    dropped = {
        "spots_without_patch": int((~kept).sum()),
        "patches_without_spot": len(barcodes) - int(kept.sum()),
    }
    return adata[kept].copy(), dropped


def _small(entry: dict[str, Any]) -> tuple[NDArray[np.uint8], float] | None:
    """Look up the small copy of the slide and its scale; with these the slide is not decoded."""
    image = entry.get(Key.library.images, {}).get(_SMALL)
    scale = Library.of(entry).scalefactors.get(_SMALL_SCALE)
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8):
        return None
    return None if (factor := positive(scale)) is None else (image, factor)
