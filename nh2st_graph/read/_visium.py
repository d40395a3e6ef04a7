"""Read 10x Visium sections as Space Ranger writes them, with squidpy's reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anndata import AnnData

from nh2st_graph._errors import DataError, setting
from nh2st_graph.read._common import check_exists, folder_above, named_image, wanted_names
from nh2st_graph.read._patients import PATIENTS, patient_beside, read_each
from nh2st_graph.read._registry import register_format
from nh2st_graph.read._spaceranger import COUNTS, Assay, counts_path, folder_name, read_spots, spatial_file
from nh2st_graph.section import VISIUM_PITCH_UM

__all__ = ["visium_section"]

#: Length of ``spot_diameter_fullres``, by 10x's description and by the arrays, whose neighbours are 100 um apart. (The
#: printed spots are smaller, 55 um; the file does not measure them.)
SCALEFACTOR_SPOT_UM = 65.0

_POSITIONS = ("tissue_positions.csv", "tissue_positions_list.csv", "tissue_positions.parquet")


def visium_section(
    path: str | Path,
    *,
    section: str | None = None,
    patient: str | None = None,
    source_image: str | Path | None = None,
    spot_diameter_um: float = SCALEFACTOR_SPOT_UM,
    counts_file: str = COUNTS,
) -> AnnData:
    """Read one Visium section from a Space Ranger folder.

    Parameters
    ----------
    path
        Space Ranger's output: the folder that holds ``spatial/``, or the one above it with ``outs/``. Versions 1
        (``tissue_positions_list.csv``, no header) to 3 (``tissue_positions.csv``, a header) are read; the first word
        shows whether there is a header.
    section
        Name of the section; by default that of the folder.
    patient
        Name of the patient, for splits. By default the one in the table ``ids.csv`` (``sample_id,patient``) beside the
        section's folder, else unknown.
    source_image
        The full-resolution image that Space Ranger was given. With None, the one beside ``spatial/`` (or ``outs``). If
        there is none, the section uses ``tissue_hires_image.png`` instead, and positions and scale factors are in its
        pixels.
    spot_diameter_um
        Length of Space Ranger's ``spot_diameter_fullres`` in um: 65 um on Visium slides, although the printed spots
        measure 55 um. The resolution is checked against the 100 um pitch of the array.
    counts_file
        Name of the counts file in the folder. If it does not exist, the folder of the same name with ``matrix.mtx``,
        packed or not, is read, or the one file with a prefix (``{sample}_filtered_feature_bc_matrix.h5``, as 10x
        publishes it).

    Returns
    -------
    The section: ``X`` raw counts ``(n_spots, n_genes)`` of the spots in tissue, CSR; ``obs`` with
    ``section``, ``patient``, ``array_row``, ``array_col``, ``in_tissue``; ``obsm["spatial"]`` x then y in
    pixels of ``source_image_path``; ``microns_per_pixel`` = ``spot_diameter_um`` over
    ``spot_diameter_fullres``. Spots are named by barcode and sorted by array row, then column; gene names are made
    unique.

    Raises
    ------
    DataError
        If a file is missing or malformed, or positions and counts share no barcode.
    ImageError
        If an image is missing, unreadable or cut off, is not the one that Space Ranger was given, or does
        not cover the spots.
    """
    folder = _spaceranger_folder(Path(path))
    name = section or folder_name(folder)
    patient = patient or patient_beside(name, folder_above(folder))
    return _section(folder, name, patient, source_image, spot_diameter_um, counts_file)


def _section(
    folder: Path,
    name: str,
    patient: str | None,
    source_image: str | Path | None,
    spot_diameter_um: float,
    counts_file: str,
) -> AnnData:
    if (folder / "binned_outputs").is_dir() and not (folder / counts_file).exists():
        raise DataError(
            f"section {name!r}: {folder} is Visium HD; read it with ng.read.visium_hd_section, "
            f"or as {setting('data.format', 'visium_hd')}"
        )
    return read_spots(
        folder,
        name,
        patient,
        counts=counts_path(folder, counts_file, name),
        positions=spatial_file(folder, _POSITIONS, name),
        source_image=source_image,
        outs=folder,
        assay=Assay(spot_diameter_um, VISIUM_PITCH_UM),
    )


def _folders(root: Path) -> dict[str, Path]:
    """Find Space Ranger's folder of each section: the given one, or those in it."""
    if _spatial_parent(root) is not None:
        return {folder_name(root): root}
    return {path.name: path for path in root.iterdir() if path.is_dir() and _spatial_parent(path) is not None}


@register_format("visium", _folders)
def _sections(
    root: Path,
    names: Sequence[str] | None = None,
    *,
    source_image: str | None = None,
    spot_diameter_um: float = SCALEFACTOR_SPOT_UM,
    counts_file: str = COUNTS,
    patients: str = PATIENTS,
) -> dict[str, AnnData]:
    """Read one Space Ranger folder or several; an image beside ``spatial/`` is the full-resolution one."""
    check_exists(root)
    folders = _folders(root)

    def read(name: str, patient: str | None) -> AnnData:
        folder = _spaceranger_folder(folders[name])
        return _section(folder, name, patient, named_image(folder, source_image), spot_diameter_um, counts_file)

    beside = root if _spatial_parent(root) is None else folder_above(root)
    alone = _spatial_parent(root) is not None
    return read_each(wanted_names(names, folders, root), folders, beside, patients, read, alone=alone)


def _spatial_parent(path: Path) -> Path | None:
    return next((folder for folder in (path, path / "outs") if (folder / "spatial").is_dir()), None)


def _spaceranger_folder(path: Path) -> Path:
    check_exists(path, "path")
    folder = _spatial_parent(path)
    if folder is None:
        raise DataError(f"{path} has no folder 'spatial' (nor 'outs/spatial'); give Space Ranger's output folder")
    return folder
