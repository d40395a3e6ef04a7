"""Read cutaneous squamous cell carcinoma (GSE144240): four patients, three Spatial Transcriptomics sections each.

Ji et al. 2020, "Multimodal analysis of composition and spatial architecture in human squamous cell carcinoma",
Cell 182:497.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from anndata import AnnData

from nh2st_graph.read._registry import register_format
from nh2st_graph.read._st import IMAGES, StFiles, find_raw, named_in, read_named

__all__ = ["skin"]

_NAME = r"(P\d+_ST_rep\d+)"
_FILES = {
    "counts": re.compile(rf"^(?:GSM\d+_)?{_NAME}_stdata\.tsv(?:\.gz)?$"),
    "spots": re.compile(rf"^(?:GSM\d+_)?spot_data-selection-{_NAME}\.tsv(?:\.gz)?$"),
    "image": re.compile(rf"^(?:GSM\d+_)?{_NAME}{IMAGES}$", re.IGNORECASE),
}


def _names(root: Path) -> set[str]:
    return named_in(root, _raw)


def _raw(root: Path) -> dict[str, dict[str, list[Path]]]:
    return find_raw(_geo(root).iterdir(), _FILES)


def _geo(root: Path) -> Path:
    return root / "GSE144240_RAW" if (root / "GSE144240_RAW").is_dir() else root


@register_format("skin", _names)
def skin(root: str | Path, names: str | Sequence[str] | None = None) -> dict[str, AnnData]:
    """Read sections of cutaneous squamous cell carcinoma (GSE144240).

    Parameters
    ----------
    root
        Either the folder of GEO's files (or the one above ``GSE144240_RAW``), as HisToGene and Hist2ST read them:
        ``GSM*_{S}_stdata.tsv`` and ``GSM*_spot_data-selection-{S}.tsv``, maybe with ``.gz``, and ``GSM*_{S}.jpg``,
        unpacked; ``S`` is a section such as ``P2_ST_rep1``. Or the folder ``skin`` of TRIPLEX's download, which NH2ST
        reads: ``ST-cnts/{S}_sub.parquet``, ``ST-spotfiles/{S}_selection.tsv``, ``ST-imgs/*{S}.jpg``. A table
        ``ids.csv`` (``sample_id,patient``) there names the patients of sections with other names.
    names
        Names of the sections to read, in this order; None reads all.

    Returns
    -------
    Sections by name, as :func:`her2st` gives them: ``X`` raw counts ``(n_spots, n_genes)``, CSR; ``obs`` with
    ``section``, ``patient`` (``P2``, ``P5``, ``P9``, ``P10``), ``array_row`` (the array's y) and ``array_col`` (its x);
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
    These arrays have 1934 spots 110 um wide on every second position, the nearest 150 um apart along both diagonals;
    um per pixel follow from that. (HEST-1k takes 110 um for a step along the array, so it gives the same sections
    slightly smaller pixels.) If spots are on fields of both colours of the chessboard, the array is the one with 1007
    spots, 200 um apart. The parquet files of NH2ST and TRIPLEX hold a selection of the genes.
    """
    return read_named(root, names, _raw, _expected, lambda root: [root, _geo(root)])


def _expected(root: Path, name: str) -> StFiles:
    folder = _geo(root)
    return StFiles(
        folder / f"GSM*_{name}_stdata.tsv",
        folder / f"GSM*_spot_data-selection-{name}.tsv",
        folder / f"GSM*_{name}.jpg",
    )
