"""Read 10x Visium HD sections as Space Ranger 3 and later write them: square bins without gaps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from anndata import AnnData

from nh2st_graph._errors import DataError, setting
from nh2st_graph.read._common import as_given, check_exists, folder_above, named_image, wanted_names
from nh2st_graph.read._patients import PATIENTS, patient_beside, read_each
from nh2st_graph.read._registry import register_format
from nh2st_graph.read._spaceranger import COUNTS, Assay, counts_path, folder_name, read_spots, spatial_file

__all__ = ["visium_hd_section"]

_BINS = "binned_outputs"
_BIN = re.compile(r"square_(\d{3})um")
_BIN_UM = 16


def visium_hd_section(
    path: str | Path,
    bin_um: int = _BIN_UM,
    *,
    section: str | None = None,
    patient: str | None = None,
    source_image: str | Path | None = None,
    counts_file: str = COUNTS,
) -> AnnData:
    """Read the bins of one Visium HD section from a Space Ranger folder.

    Parameters
    ----------
    path
        Space Ranger's output: the folder that holds ``binned_outputs/``, or the one above it with ``outs/``.
    bin_um
        Side of a bin, in um: 16 reads ``binned_outputs/square_016um``, 8 reads ``square_008um``. There are millions of
        bins of 2 um, most of them empty.
    section
        Name of the section; by default that of the folder.
    patient
        Name of the patient, for splits. By default the one in the table ``ids.csv`` (``sample_id,patient``) beside the
        section's folder, else unknown.
    source_image
        The full-resolution microscope image that Space Ranger was given (``--image``). With None, the one beside
        ``binned_outputs/`` (or ``outs``). If there is none, the section uses ``tissue_hires_image.png`` instead, whose
        pixels are hardly smaller than a bin.
    counts_file
        Name of the counts file in the folder of the bins.

    Returns
    -------
    The section, as :func:`visium_section` gives it; a spot is a bin, ``array_row`` and ``array_col`` count bins, and
    ``spot_diameter_fullres`` is a bin's side in pixels, so ``microns_per_pixel`` = ``bin_um`` over it.

    Raises
    ------
    DataError
        If there are no bins of this size, a file is missing or malformed, or positions and counts share no barcode.
    ImageError
        If an image is missing, unreadable or cut off, is not the one that Space Ranger was given, or does not
        cover the bins.
    """
    path = Path(path)
    check_exists(path, "path")
    outs = _outs(path)
    if outs is None:
        raise DataError(f"{path} has no folder '{_BINS}' (nor 'outs/{_BINS}'); give Space Ranger's output of Visium HD")
    name = section or folder_name(outs)
    patient = patient or patient_beside(name, folder_above(outs))
    return _section(outs, bin_um, name, patient, source_image, counts_file)


def _section(
    outs: Path, bin_um: int, name: str, patient: str | None, source_image: str | Path | None, counts_file: str
) -> AnnData:
    folder = _bins(outs, bin_um, name)
    return read_spots(
        folder,
        name,
        patient,
        counts=counts_path(folder, counts_file, name),
        positions=spatial_file(folder, ["tissue_positions.parquet", "tissue_positions.csv"], name),
        source_image=source_image,
        outs=outs,
        assay=Assay(bin_um, bin_um),
    )


def _folders(root: Path) -> dict[str, Path]:
    """Find Space Ranger's ``outs`` of each section: of the given folder, of a folder of bins, or of those in it."""
    if (bins := _folder_of_bins(root)) is not None:
        return {folder_name(bins.parents[1]) if bins == as_given(root) else root.name: bins.parents[1]}
    if (outs := _outs(root)) is not None:
        return {folder_name(root): outs}
    found = {path.name: _outs(path) for path in root.iterdir() if path.is_dir()}
    return {name: outs for name, outs in found.items() if outs is not None}


@register_format("visium_hd", _folders)
def _sections(
    root: Path,
    names: Sequence[str] | None = None,
    *,
    bin_um: int | None = None,
    source_image: str | None = None,
    counts_file: str = COUNTS,
    patients: str = PATIENTS,
) -> dict[str, AnnData]:
    """Read one Space Ranger folder or several, with bins of 16 um, or one folder of other bins.

    An image beside ``binned_outputs/`` is the full-resolution one.
    """
    check_exists(root)
    folders, bins = _folders(root), _folder_of_bins(root)
    side = bin_um or (int(bins.name[7:10]) if bins else _BIN_UM)

    def read(name: str, patient: str | None) -> AnnData:
        image = named_image(folders[name], source_image)
        return _section(folders[name], side, name, patient, image, counts_file)

    wanted = wanted_names(names, folders, root)
    alone = bins is not None or _outs(root) is not None
    linked = bins is not None and bins != as_given(root)
    above = as_given(root).parent if linked else folder_above(next(iter(folders.values())))
    beside = above if alone else root
    return read_each(wanted, folders, beside, patients, read, alone=alone)


def _folder_of_bins(root: Path) -> Path | None:
    """Return the folder of bins of one size, if that is what was given, maybe by a link of another name."""
    return next((path for path in (as_given(root), root.resolve()) if _BIN.fullmatch(path.name)), None)


def _outs(path: Path) -> Path | None:
    return next((folder for folder in (path, path / "outs") if (folder / _BINS).is_dir()), None)


def _bins(outs: Path, bin_um: int, name: str) -> Path:
    folder = outs / _BINS / f"square_{bin_um:03d}um"
    if not folder.is_dir():
        matches = (_BIN.fullmatch(path.name) for path in (outs / _BINS).iterdir())
        there = ", ".join(f"{size:g}" for size in sorted(int(match[1]) for match in matches if match)) or "none"
        raise DataError(
            f"section {name!r}: no bins of {bin_um:g} um in {outs / _BINS}; "
            f"{setting('data.options.bin_um')} may be: {there}"
        )
    return folder
