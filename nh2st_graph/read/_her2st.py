"""Read the layout of the public HER2ST repository: Spatial Transcriptomics arrays of breast tumours.

Andersson et al. 2021, "Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated
cell type interactions", Nature Communications 12:6012.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from nh2st_graph._errors import DataError, ImageError, reason
from nh2st_graph.read._assemble import add_names
from nh2st_graph.read._common import check_exists, image_in, report_dropped, wanted_names
from nh2st_graph.read._packed import open_packed
from nh2st_graph.read._patients import PATIENTS, patient_in_name, read_each
from nh2st_graph.read._registry import register_format
from nh2st_graph.section import Key, check_section, library_entry
from nh2st_graph.slide import open_slide

__all__ = ["her2st"]

#: Distance of neighbouring spot centres, and diameter of a spot, of the array (Andersson et al. 2021).
PITCH_UM = 200.0
SPOT_UM = 100.0

# Pixels of a slide scanner are square: if the axes differ by more, they were not measured on one image.
_AXES_AGREE = 0.03
_COUNTS, _SPOTS, _IMAGES = "ST-cnts", "ST-spotfiles", "ST-imgs"
_COUNTS_ENDINGS = (".tsv.gz", ".tsv")
_SPOTS_ENDING = "_selection.tsv"
#: Whole numbers from here on are read by pandas, which knows those that no computer's whole number holds.
_LARGEST = 10**15


def _names(root: Path) -> set[str]:
    """Name every section that has counts or spots; reading it reports a missing file."""
    endings = [(_COUNTS, ending) for ending in _COUNTS_ENDINGS] + [(_SPOTS, _SPOTS_ENDING)]
    return {
        path.name.removesuffix(ending)
        for folder, ending in endings
        for path in (_data(root) / folder).glob(f"*{ending}")
        if not path.name.startswith(".")
    }


def _data(root: Path) -> Path:
    return root / "data" if (root / "data" / _COUNTS).is_dir() else root


@register_format("her2st", _names)
def her2st(root: str | Path, names: str | Sequence[str] | None = None) -> dict[str, AnnData]:
    """Read sections in the layout of the public HER2ST repository.

    Parameters
    ----------
    root
        The repository's root, or its ``data`` folder, with ``ST-cnts/{S}.tsv.gz`` (or ``.tsv``; spots x
        genes, rows named ``10x14`` by array x and y), ``ST-spotfiles/{S}_selection.tsv`` (``x y new_x new_y
        pixel_x pixel_y selected``) and one image in ``ST-imgs/{P}/{S}/``, where ``P`` is the first letter of the
        section's name: in the public data, ``A1`` to ``H3``, the patient. A table ``ids.csv``
        (``sample_id,patient``) in one of these folders names the patients of other sections.
    names
        The sections to read, in this order; None reads all.

    Returns
    -------
    Sections by name. ``X``: raw counts, ``(n_spots, n_genes)``, CSR. ``obs``: ``section``, ``patient``,
    ``array_col`` (the array's x) and ``array_row`` (the array's y). ``obsm["spatial"]``: ``(n_spots, 2)``, x
    then y, full-resolution pixels. ``uns["nh2st_dropped"]``: number of spots left out, by reason. Spots are named
    ``{section}_{x}x{y}`` and sorted by array row, then column.

    Raises
    ------
    DataError
        If a section is unknown, one of its files is missing or malformed, the files share no spot, or the spot file
        does not give the resolution.
    ImageError
        If the image is missing, unreadable or cut off, or does not cover the spots.

    Notes
    -----
    Counts and positions are joined by array coordinates. Um per pixel is the array pitch of 200 um over the slope of a
    robust line (Theil-Sen) through pixel against array coordinates (``new_x`` and ``new_y``, the positions of the spots
    as they were found), averaged over both axes.

    Examples
    --------
    Sections of one patient in training and test would flatter a model. Hold out each patient in turn:

    >>> import nh2st_graph as ng
    >>> cohort = ng.read.her2st("her2st")
    >>> for split in ng.datasets.leave_one_patient_out(cohort):
    ...     train = {name: cohort[name] for name in split.train}
    ...     held_out = {name: cohort[name] for name in split.test}
    """
    root = Path(root)
    check_exists(root)
    data, known = _data(root), _names(root)

    def read(name: str, patient: str | None) -> AnnData:
        return _read_section(data, name, patient or patient_in_name(name))

    return read_each(wanted_names(names, known, data), known, [root, data], PATIENTS, read)


def _read_section(data: Path, name: str, patient: str | None) -> AnnData:
    counts_file, spots_file, image_file = _section_files(data, name)
    spots = _read_spots(spots_file)
    counts, genes = _read_counts(counts_file)
    both = spots.index.intersection(counts.index)
    if both.empty:
        raise DataError(
            f"section {name!r}: {spots_file} and {counts_file} have no spot in common; "
            "check that both belong to this section"
        )
    kept = spots.loc[both]
    kept = kept[kept["selected"] != 0].sort_values(["y", "x"])
    if kept.empty:
        raise DataError(
            f"section {name!r}: no spots with counts are selected (selected = 1 in {spots_file}); "
            "the section is empty: leave it out"
        )
    array = kept[["y", "x"]].set_axis([Key.obs.array_row, Key.obs.array_col], axis=1)
    adata = AnnData(
        X=sparse.csr_matrix(counts.loc[kept.index].to_numpy(np.float32)),
        obs=add_names(array.set_axis(f"{name}_" + kept.index), name, patient),
        var=pd.DataFrame(index=genes),
        obsm={Key.obsm.spatial: kept[["pixel_x", "pixel_y"]].to_numpy(np.float64)},
    )
    scale = _microns_per_pixel(spots, spots_file)
    with open_slide(image_file) as slide:
        adata.uns[Key.uns.spatial] = {name: library_entry(image_file, scale, SPOT_UM / scale, slide.thumbnail())}
        check_section(adata, need=("genes", "image"), slide=slide)
    dropped = {
        "positions_without_counts": len(spots) - len(both),
        "counts_without_position": len(counts) - len(both),
        "not_selected": len(both) - len(kept),
    }
    report_dropped(adata, name, dropped)
    return adata


def _section_files(data: Path, name: str) -> tuple[Path, Path, Path]:
    """Find the counts, spots and image of a section; each must exist."""
    candidates = [data / _COUNTS / f"{name}{ending}" for ending in _COUNTS_ENDINGS]
    counts = next((path for path in candidates if path.is_file()), None)
    if counts is None:
        raise DataError(f"section {name!r}: no counts; {candidates[0]} (or .tsv) is missing")
    spots = data / _SPOTS / f"{name}{_SPOTS_ENDING}"
    if not spots.is_file():
        raise DataError(f"section {name!r}: no spot positions; {spots} is missing")
    folder = data / _IMAGES / name[0] / name
    image = image_in(folder)
    if image is None:
        raise ImageError(f"section {name!r}: no image; {folder / '*.jpg'} is missing")
    return counts, spots, image


def _read_spots(path: Path) -> pd.DataFrame:
    """Read a spot file as a table of numbers, indexed by ``{x}x{y}``; without a column, all spots are selected."""
    try:
        table = pd.read_csv(path, sep="\t")
    except (OSError, ValueError) as error:  # pandas' parser errors and encoding errors are ValueErrors
        raise DataError(f"spot file {path} cannot be read ({reason(error)}); download it again") from None
    columns = ["x", "y", "new_x", "new_y", "pixel_x", "pixel_y"]
    missing = [column for column in columns if column not in table]
    if missing:
        raise DataError(
            f"spot file {path} has no column {', '.join(missing)}; expected tab-separated {' '.join(columns)}"
        )
    if table.empty:
        raise DataError(f"spot file {path} has no spots; the section is empty: leave it out or download it again")
    if "selected" not in table:
        table["selected"] = 1
    table = table[[*columns, "selected"]].apply(pd.to_numeric, errors="coerce")
    bad = ~np.isfinite(table.to_numpy(np.float64))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"spot file {path}: {table.columns[column]} in line {row + 2} is not a number; correct or remove that spot"
        )
    if (table[["x", "y"]] % 1 != 0).to_numpy().any():
        raise DataError(f"spot file {path}: x and y are not integers; give positions on the array")
    table = table.astype({"x": int, "y": int})
    table.index = pd.Index([f"{x}x{y}" for x, y in zip(table["x"], table["y"], strict=True)])
    return _unique(table, f"spot file {path}")


def _read_counts(path: Path) -> tuple[pd.DataFrame, pd.Index]:
    """Read a counts file as a table, indexed by ``{x}x{y}`` with numbered columns, and its gene names."""
    try:
        with open_packed(path) as file:
            content = file.read()
        head, _, body = content.partition(b"\n")
        genes = pd.Index(head.decode().rstrip("\r").split("\t")[1:], dtype=object)
        table = _whole_numbers(body, len(genes))
        if table is None:
            # With the header, pandas would rename genes that occur twice; with types of the 15,000 columns, it would
            # take two to ten times as long.
            table = pd.read_csv(io.BytesIO(content), sep="\t", header=None, skiprows=1, index_col=0)
    except pd.errors.EmptyDataError:
        raise DataError(
            f"counts file {path} has no spots; the section is empty: leave it out or download it again"
        ) from None
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"counts file {path} cannot be read ({reason(error)}); download it again") from None
    if len(genes) != table.shape[1] or not len(genes):
        raise DataError(
            f"counts file {path} names {len(genes)} genes and has {table.shape[1]} columns of counts; "
            "it is cut off, or not a tab-separated table of spots x genes: download it again"
        )
    values = table.to_numpy()
    if values.dtype == object:
        values = table.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise DataError(
            f"counts file {path}: gene {genes[column]!r} in spot {table.index[row]!r} is not a number; "
            "the file is cut off or damaged: download it again"
        )
    return _unique(pd.DataFrame(values, index=_array_names(table.index, path)), f"counts file {path}"), genes


def _whole_numbers(body: bytes, n_columns: int) -> pd.DataFrame | None:
    """Read lines of a name and whole numbers between tabs, much faster than pandas does; None of anything else."""
    lines = [line.partition(b"\t") for line in body.replace(b"\r\n", b"\n").split(b"\n") if line]
    numbers = b"\t".join(rest for _, _, rest in lines)
    # Spaces, signs, points and quotes are for pandas, and so are lines of another length, and what is missing in one.
    even = all(rest.count(b"\t") == n_columns - 1 for _, _, rest in lines)
    if not lines or not even or numbers.translate(None, b"0123456789\t") or b'"' in body:
        return None
    values = np.fromstring(numbers, dtype=np.int64, sep="\t")
    if len(values) != len(lines) * n_columns or values.max() >= _LARGEST:
        return None
    return pd.DataFrame(values.reshape(len(lines), n_columns), index=[name.decode() for name, _, _ in lines])


def _array_names(names: pd.Index, path: Path) -> pd.Index:
    parts = pd.Series(names, dtype=str).str.extract(r"^(\d+)x(\d+)$")
    bad = parts.isna().any(axis=1).to_numpy()
    if bad.any():
        raise DataError(
            f"counts file {path}: spot name {names[bad][0]!r} is not array x and y; expected a name such as '10x14'"
        )
    return pd.Index([f"{int(x)}x{int(y)}" for x, y in zip(parts[0], parts[1], strict=True)])


def _unique(table: pd.DataFrame, what: str) -> pd.DataFrame:
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise DataError(f"{what}: spot {twice!r} occurs more than once; keep one row of each")
    return table


def _microns_per_pixel(spots: pd.DataFrame, path: Path) -> float:
    """Fit the resolution on each axis that has spots at different positions, and average."""
    from scipy.stats import theilslopes  # takes half a second to import, and only this reader needs it

    spots = spots.sort_values(["y", "x"])
    scales = {}
    for axis in "xy":
        array, pixel = spots[f"new_{axis}"].to_numpy(), spots[f"pixel_{axis}"].to_numpy()
        if np.ptp(array) < 0.5:  # all spots are in one row or column, with only noise along this axis
            continue
        slope = abs(float(theilslopes(pixel, array).slope))
        if slope > 0:
            scales[axis] = PITCH_UM / slope
    if not scales:
        count = "one spot" if len(spots) == 1 else f"{len(spots)} spots that do not differ in position"
        raise DataError(
            f"spot file {path}: um per pixel cannot be fitted from {count}; "
            "a section needs at least two array positions"
        )
    low, high = min(scales.values()), max(scales.values())
    if high > low * (1 + _AXES_AGREE):
        raise DataError(
            f"spot file {path}: x says {scales['x']:.3f} and y says {scales['y']:.3f} um per pixel; "
            "pixel and array coordinates do not belong together: download it again"
        )
    return float(np.mean(list(scales.values())))
