"""Read folders that TRIPLEX prepares: those of its present code, and those of the download with the paper.

Chung et al. 2024, "Accurate spatial gene expression prediction by integrating multi-resolution features", CVPR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from anndata import AnnData

from nh2st_graph._errors import DataError
from nh2st_graph.read._common import check_exists, wanted_names
from nh2st_graph.read._hest import metadata, read_sample
from nh2st_graph.read._patients import PATIENTS, patient_in_name, read_each
from nh2st_graph.read._registry import register_format
from nh2st_graph.read._st import is_prepared, prepared_files, prepared_names, read_st

__all__ = ["triplex"]

_VISIUM = "10x_breast"


def _names(root: Path) -> set[str]:
    return _layout(root)[1]


@register_format("triplex", _names)
def triplex(root: str | Path, names: str | Sequence[str] | None = None) -> dict[str, AnnData]:
    """Read sections that TRIPLEX has prepared.

    Parameters
    ----------
    root
        One data set, in one of two layouts. The layout of the present code and of HEST-Benchmark's tasks:
        ``adata/{id}.h5ad``, ``patches/{id}.h5`` (``img``, ``coords``, ``barcode``), ``ids.csv`` (``sample_id``, and
        ``patient`` if it is known) and, optionally, ``wsis/{id}.tif`` and ``metadata/{id}.json`` as in HEST-1k. The
        layout of the download: ``ST-cnts/{S}_sub.parquet``, ``ST-spotfiles/{S}_selection.tsv``, and images in
        ``ST-imgs`` (the folders ``her2st``, ``skin``, ``stnet`` and ``test/10x_breast_ff*``).
    names
        Ids of the sections to read, in this order; None reads all.

    Returns
    -------
    Sections by id: ``X`` raw counts ``(n_spots, n_genes)``, CSR; ``obs`` with ``section``, ``patient``, ``array_row``,
    ``array_col``; ``obsm["spatial"]`` ``(n_spots, 2)``, x then y, pixels of ``source_image_path``;
    ``uns["nh2st_dropped"]``.

    Raises
    ------
    DataError
        If a section is unknown, one of its files is missing or malformed, files share no spot, or they do not give the
        resolution.
    ImageError
        If there is no image of the section, or it does not cover the spots.

    Notes
    -----
    Without slides in the folder, the patches are assembled to an image in the cache folder. Prepared features
    (``emb``), neighbour patches, gene lists and folds (``splits``) are not read.

    Patients come from ``ids.csv``, else from the section names of Andersson (the first letter), Ji (``P2``) and He
    (``BC23209``), else they are unknown. In the spot files of ``10x_breast_ff*``, ``pixel_x`` is the row of the image.
    """
    root = Path(root)
    check_exists(root)
    read_one, known = _layout(root)

    def read(name: str, patient: str | None) -> AnnData:
        return read_one(root, name, patient or patient_in_name(name))

    return read_each(wanted_names(names, known, root), known, root, PATIENTS, read)


def _layout(root: Path) -> tuple[Callable[[Path, str, str | None], AnnData], set[str]]:
    """Return the reader for the layout of this folder, and the names of its sections."""
    if (root / "adata").is_dir():
        return _read_new, {path.stem for path in (root / "adata").glob("*.h5ad") if not path.name.startswith(".")}
    if is_prepared(root):
        return _read_old, prepared_names(root)
    raise DataError(f"{root} has neither a folder 'adata' nor 'ST-spotfiles'; give one data set that TRIPLEX prepared")


def _read_new(root: Path, name: str, patient: str | None) -> AnnData:
    about = metadata(root, name) if (root / "metadata" / f"{name}.json").is_file() else None
    return read_sample(root, "adata", name, patient, about, with_patch_only=False)


def _read_old(root: Path, name: str, patient: str | None) -> AnnData:
    return read_st(name, patient, prepared_files(root, name), visium=name.startswith(_VISIUM))
