"""Read the data of ST-Net: breast cancer of 23 patients, three sections each, except for one.

He et al. 2020, "Integrating spatial gene expression and breast tumour morphology via deep learning", Nature Biomedical
Engineering 4:827.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from anndata import AnnData

from nh2st_graph.read._registry import register_format
from nh2st_graph.read._st import IMAGES, StFiles, find_raw, named_in, read_named

__all__ = ["stnet"]

_NAME = r"((?:BC)?\d+_[A-Z]\d+)"
_FILES = {
    "counts": re.compile(rf"^{_NAME}(?:_stdata)?\.tsv(?:\.gz)?$"),
    "spots": re.compile(rf"^(?:spots_)?{_NAME}(?:\.csv(?:\.gz)?|\.spots\.txt)$"),
    "image": re.compile(rf"^(?:HE_)?{_NAME}{IMAGES}$", re.IGNORECASE),
}


def _names(root: Path) -> set[str]:
    return named_in(root, _raw)


def _raw(root: Path) -> dict[str, dict[str, list[Path]]]:
    return find_raw(chain(root.glob("*"), root.glob("*/*/*")), _FILES)


@register_format("stnet", _names)
def stnet(root: str | Path, names: str | Sequence[str] | None = None) -> dict[str, AnnData]:
    """Read sections of the breast cancers of ST-Net.

    Parameters
    ----------
    root
        One of three folders; ``S`` is a section such as ``BC23209_C1``. The deposited files in one folder:
        ``{S}_stdata.tsv.gz``, ``spots_{S}.csv.gz`` (named by array position; pixels in ``X`` and ``Y``),
        ``HE_{S}.jpg``. The folder that ST-Net's code reads, ``{subtype}/{patient}/``: ``{S}.tsv.gz``,
        ``{S}.spots.txt`` (``x y pixel_x pixel_y``), ``{S}.jpg``. Or the folder ``stnet`` of TRIPLEX's download, which
        NH2ST reads: ``ST-cnts/{S}_sub.parquet`` (or ``_stdata``), ``ST-spotfiles/{S}_selection.tsv``,
        ``ST-imgs/*{S}.tif``. A table ``ids.csv`` (``sample_id,patient``) there names the patients of sections with
        other names.
    names
        Names of the sections to read, in this order; None reads all.

    Returns
    -------
    Sections by name, as :func:`her2st` gives them: ``X`` raw counts ``(n_spots, n_genes)``, CSR; ``obs`` with
    ``section``, ``patient`` (``BC23209``), ``array_row`` (the array's y) and ``array_col`` (its x);
    ``obsm["spatial"]`` ``(n_spots, 2)``, x then y, full-resolution pixels; ``uns["nh2st_dropped"]``. Spots are named
    ``{section}_{x}x{y}``.

    Raises
    ------
    DataError
        If a section is unknown, one of its files is missing or malformed, the tables share no spot, or they do not give
        the resolution.
    ImageError
        If the image is missing, packed, unreadable or cut off, or does not cover the spots.

    Notes
    -----
    Spots are 200 um apart; um per pixel follow from that. Genes that a section does not express are missing from its
    counts. The deposited files name genes by Ensembl id: for a panel of symbols, add ``adata.var["gene_name"]``. ST-Net
    leaves out spots without a tumour label (``{S}_Coords.tsv``) and spots whose patch would leave the image; this
    reader keeps all spots.
    """
    return read_named(root, names, _raw, _expected, lambda root: root)


def _expected(root: Path, name: str) -> StFiles:
    return StFiles(root / f"{name}_stdata.tsv.gz", root / f"spots_{name}.csv.gz", root / f"HE_{name}.jpg")
