"""Read and write SpatialData: a table, the shapes that it annotates, and the image under them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset

from nh2st_graph._errors import DataError, reason, setting
from nh2st_graph._files import stamp, written_aside
from nh2st_graph.read._common import (
    SECTION_FORMAT,
    check_exists,
    check_written,
    keep_in_tissue,
    logger,
    patient_in_obs,
    report_dropped,
    section_in_obs,
    wanted_names,
)
from nh2st_graph.read._coordinates import (
    GLOBAL,
    MICRONS,
    choose,
    full_resolution,
    image_under,
    meeting_system,
    microns_per_pixel_of,
    spot_diameter,
    spots_in,
    to_pixels,
)
from nh2st_graph.read._patients import PATIENTS, patient_beside, read_each
from nh2st_graph.read._plain import plain_anndata
from nh2st_graph.read._registry import register_format
from nh2st_graph.section import (
    Key,
    Library,
    as_csr,
    as_name,
    check_section,
    copy_of,
    distinct,
    library,
    library_entry,
    neighbour_distance,
    report_pitch,
    section_name,
)
from nh2st_graph.slide import image_exists, keep_pixels, open_full, open_slide, report_size

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["spatialdata_section", "to_spatialdata", "write_spatialdata"]

# Columns that join a table to its shapes, named as in spatialdata-io's reader of Visium.
_REGION, _SPOT = "region", "spot_id"
_TABLE, ATTRS = "table", "spatialdata_attrs"
_AXES = ("x", "y")
# Stored images get smaller copies until the longest side has at most this many pixels.
_SMALLEST_SIDE = 1024


def spatialdata_section(
    path_or_object: str | Path | SpatialData,
    table: str | None = None,
    image: str | None = None,
    coordinate_system: str | None = None,
    *,
    region: str | None = None,
    microns_per_pixel: float | None = None,
    section: str | None = None,
    patient: str | None = None,
    backed: bool = False,
) -> AnnData:
    """Read one section from SpatialData, on disk or in memory.

    Parameters
    ----------
    path_or_object
        A zarr store, or a ``SpatialData`` object.
    table
        The table with the counts; not needed if there is one.
    image
        The image. Not needed if the coordinate system has one image, if one of its images lies under all spots, or if
        an image under all spots is named ``{region}_image``, as :func:`write_spatialdata` names it. Images named like
        that after another region do not count.
    coordinate_system
        The system that spots and image are transformed to, each by its own affine transformation. By default a system
        that has both and no other region of the table, else any that has both: ``global`` first, then that of the
        image with the most pixels. (Stores that ``spatialdata-io`` makes from Visium have one system for each section,
        named after the data set, and others for smaller images.)
    region
        The element that the table annotates (circles, polygons, labels or points); not needed if there is one.
    microns_per_pixel
        Resolution of the image. By default from its transformation to a coordinate system named ``microns``, as
        :func:`write_spatialdata` adds it, else from the size of the spots, in stores that ``spatialdata-io`` made from
        Visium or Visium HD.
    section, patient
        Names. By default those in ``obs``, if they are the same for all rows. Else the section is named after the store
        (in memory: after the region), and the patient is the one in the table
        ``ids.csv`` (``sample_id,patient``) beside the store, which overrides ``obs``, or unknown.
    backed
        Leave the counts of a store in it, from which some spots at a time are read where counts are needed. So they
        stay where the section has all rows of the table; else its rows are read.

    Returns
    -------
    The section. ``X``: raw counts, CSR. ``obs``: the table's rows of this region, in their order.
    ``obsm["spatial"]``: centroids of the annotated shapes, joined by instance, in pixels of the image's highest
    resolution, x then y. ``uns["nh2st_dropped"]``: number of rows without a shape.

    Raises
    ------
    DataError
        If the store cannot be read, the table is missing or not named among several, the table annotates nothing, the
        coordinate system does not exist, or there is no resolution.
    ImageError
        If the coordinate system has no image, several images lie under the spots and none is named, or the image is not
        8-bit RGB.

    Notes
    -----
    Everything downstream reads an image from a file, so the highest resolution of the image is written once, without
    loss, as a tiled TIFF in the cache folder. The section's ``source_image_path`` is that file, and the section does
    not depend on the store. The file is named by a digest of the pixels, which are read at every call, so it never
    holds an outdated image.
    """
    sdata, store = _open(path_or_object, backed)
    return _section(
        sdata, store, table, image, coordinate_system, region, microns_per_pixel, section, patient, backed=backed
    )


def _section(
    sdata: SpatialData,
    store: Path | None,
    table: str | None,
    image: str | None,
    coordinate_system: str | None,
    region: str | None,
    microns_per_pixel: float | None,
    section: str | None,
    patient: str | None,
    *,
    backed: bool,
) -> AnnData:
    """Read one section from an open store, or from an object that has none."""
    where = f"SpatialData {store}" if store else "the SpatialData object"
    everything = sdata.tables[table_name(sdata, table, where)]
    check_written(everything, where)
    counts, region, instances = _rows(everything, region, where)
    others = set(regions(sdata, table, where)) - {region}
    if region not in sdata:
        raise DataError(
            f"{where}: the table annotates {region!r}, which is not in the store; "
            f"name another: {setting('data.options.region', 'NAME')}"
        )
    spots = sdata[region]
    system = coordinate_system or meeting_system(sdata, region, others, image)
    if system not in sdata.coordinate_systems:
        there = ", ".join(sorted(sdata.coordinate_systems))
        raise DataError(
            f"{where}: no coordinate system {system!r}; {setting('data.options.coordinate_system')} may be: {there}"
        )
    of_region = f"{where}: {region!r}"
    points, known = spots_in(spots, instances, system, of_region)
    element = sdata.images[image_under(sdata, region, others, points, system, image, of_region)]
    centres = to_pixels(element, points, system, where)
    diameter = spot_diameter(spots, element, centres, system, where)
    scale = microns_per_pixel_of(element, microns_per_pixel, region, spots, diameter, where)

    adata = copy_of(everything) if backed and counts.n_obs == everything.n_obs and known.all() else counts[known].copy()
    for key in (ATTRS, Key.uns.format):
        adata.uns.pop(key, None)
    if adata.X is not None and hasattr(adata.X, "copy"):
        adata.X = as_csr(adata.X)
    adata.obsm[Key.obsm.spatial] = centres
    name = section_in_obs(adata, section, store.stem if store else region)
    if patient is None and store is not None:
        patient = patient_beside(name, store.parent)
    patient_in_obs(adata, patient, name)
    adata, dropped = keep_in_tissue(adata, name)
    pixels = keep_pixels(full_resolution(element), where)
    with open_slide(pixels) as slide:
        adata.uns[Key.uns.spatial] = {name: library_entry(pixels, scale, diameter, slide.thumbnail())}
        check_section(adata, need=("image",), slide=slide)
        report_size(where, slide.sizes[0], scale)
    report_dropped(adata, name, {"rows_without_shape": int((~known).sum()), **dropped})
    report_pitch(adata)
    return adata


def write_spatialdata(adata: AnnData, path: str | Path, *, image: Literal["full", "hires"] | None = "full") -> None:
    """Write a section or a prediction as a SpatialData store.

    Parameters
    ----------
    adata
        A section, or a prediction.
    path
        The store: a folder, by convention ending in ``.zarr``. An existing store is replaced.
    image
        The image to store. ``full``: full resolution, with smaller copies; it is decoded in memory as a whole.
        ``hires``: the small copy for plots, for whole slides. None: no image. Without the file of the full image, the
        small copy is stored, if there is one.

    Raises
    ------
    DataError
        If the section breaks the contract, SpatialData refuses one of its names, or the path is something else than a
        store.

    Notes
    -----
    The store has the table ``table``, one circle for each spot with the spot's radius, named after the section, and the
    image ``{section}_image``. All are in the coordinate system ``global``, in full-resolution pixels, and in
    ``microns``, if the resolution is known.
    """
    path = Path(path)
    if path.exists() and not is_store(path):
        raise DataError(f"{path} exists and is not a SpatialData store; give another path")
    sdata = to_spatialdata(adata, image=image)
    for table in sdata.tables.values():
        table.uns[Key.uns.format] = stamp(SECTION_FORMAT)
    with written_aside(path, folder=True) as aside:
        sdata.write(aside)


def _found(root: Path, table: str | None = None, region: str | None = None) -> dict[str, tuple[Path, str | None]]:
    """Find the store and region of each section: the regions of one store, or one store for each section."""
    if not is_store(root):
        stores = [path for path in root.iterdir() if is_store(path) and not path.name.startswith(".")]
        return {path.stem: (path, region) for path in stores}
    sdata, _ = _open(root, backed=True, rows_alone=True)
    where = f"SpatialData {root}"
    known = regions(sdata, table, where)
    if region is not None:
        choose("region", known, region, where, DataError)
    names = [root.stem] if len(known) == 1 else _section_of_each(sdata.tables[table_name(sdata, table)], known)
    return {name: (root, each) for name, each in zip(names, known, strict=True) if region in (None, each)}


def _section_of_each(table: AnnData, known: Sequence[str]) -> list[str]:
    """Name the sections after ``obs``, if each region has one of its own there, else after the regions."""
    names = []
    for region in known:
        rows = table.obs[table.obs[region_key(table)].astype(str) == region]
        inside = {as_name(name) for name in distinct(rows[Key.obs.section])} if Key.obs.section in rows else set()
        only = inside.pop() if len(inside) == 1 else None
        names.append(only or region)
    return names if len(set(names)) == len(names) else list(known)


@register_format("spatialdata", _found)
def _sections(
    root: Path,
    names: Sequence[str] | None = None,
    *,
    table: str | None = None,
    image: str | None = None,
    coordinate_system: str | None = None,
    region: str | None = None,
    microns_per_pixel: float | None = None,
    backed: bool = False,
    patients: str = PATIENTS,
) -> dict[str, AnnData]:
    """Read one store, a section for each region of its table, or a folder of ``{section}.zarr``."""
    check_exists(root)
    found = _found(root, table, region)

    @lru_cache(maxsize=1)  # for all regions of a store
    def opened(store: Path) -> SpatialData:
        return _open(store, backed)[0]

    def read(name: str, patient: str | None) -> AnnData:
        store, own = found[name]
        return _section(
            opened(store), store, table, image, coordinate_system, own, microns_per_pixel, name, patient, backed=backed
        )

    beside = root.parent if is_store(root) else root
    alone = is_store(root) and len(found) == 1
    return read_each(wanted_names(names, found, root), found, beside, patients, read, alone=alone)


def is_store(path: Path) -> bool:
    """Say whether a folder is a zarr store, of zarr 2 or 3."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


def _open(
    given: str | Path | SpatialData, backed: bool, *, rows_alone: bool = False
) -> tuple[SpatialData, Path | None]:
    """Open a store; with ``backed``, the counts of its tables stay there.

    With ``rows_alone`` beside it, its tables have no more than their rows and what these annotate.
    """
    if not isinstance(given, str | Path):
        if not hasattr(given, "coordinate_systems"):
            raise DataError(f"{type(given).__name__} is not SpatialData; give a store's path or a SpatialData object")
        return given, None
    path = Path(given)
    check_exists(path, "path_or_object")
    import spatialdata as sd

    try:
        if not backed:
            return sd.read_zarr(path), path
        sdata = sd.read_zarr(path, selection=("images", "labels", "points", "shapes"))
        for name, table in _tables(path, rows_alone).items():
            sdata.tables[name] = table
        return sdata, path
    except Exception as error:  # zarr, ome-zarr and anndata raise nearly any class on a damaged store
        raise DataError(
            f"{path} cannot be read as SpatialData ({type(error).__name__}: {reason(error)}); write it again"
        ) from error


def _tables(store: Path, rows_alone: bool) -> dict[str, AnnData]:
    """Read the tables of a store but for their counts; or their rows alone, and what these annotate."""
    import zarr

    tables = {}
    for path in sorted((store / "tables").iterdir()) if (store / "tables").is_dir() else ():
        if not is_store(path):
            continue
        group = zarr.open_group(path, mode="r")
        if rows_alone:
            annotated = f"uns/{ATTRS}"
            uns = {ATTRS: read_elem(group[annotated])} if annotated in group else {}
            parts = {"obs": read_elem(group["obs"]), "uns": uns}
        else:
            parts = {key: read_elem(group[key]) for key in group if key not in {"X", "raw"}}
            if "X" in group:
                parts["X"] = sparse_dataset(group["X"]) if isinstance(group["X"], zarr.Group) else group["X"]
        attrs = parts.get("uns", {}).get(ATTRS, {})
        if isinstance(attrs.get("region"), np.ndarray):  # SpatialData wants it as it was written
            attrs["region"] = attrs["region"].tolist()
        tables[path.name] = AnnData(**parts)
    return tables


def table_name(sdata: SpatialData, table: str | None = None, where: str = "the SpatialData object") -> str:
    """Choose the wanted table, or the only one, by name."""
    return choose("table", sdata.tables, table, where, DataError)


def region_key(table: AnnData, where: str = "the SpatialData object") -> str:
    """Look up the column of a table's ``obs`` that names the region of each row."""
    attrs = table.uns.get(ATTRS)
    if not attrs:
        raise DataError(
            f"{where}: the table annotates no shapes, so its spots have no place; "
            f"name another: {setting('data.options.table', 'NAME')}"
        )
    return str(attrs["region_key"])


def regions(sdata: SpatialData, table: str | None = None, where: str = "the SpatialData object") -> list[str]:
    """List the regions that a table annotates, in order of name; each is one section.

    Raises
    ------
    DataError
        If the table is missing or not named among several, or annotates nothing.
    """
    counts = sdata.tables[table_name(sdata, table, where)]
    return sorted(counts.obs[region_key(counts, where)].astype(str).unique())


def _rows(table: AnnData, region: str | None, where: str) -> tuple[AnnData, str, pd.Index]:
    """Select the rows of a table that annotate one region; also return the region and the instance of each row."""
    of_row = table.obs[region_key(table, where)].astype(str)
    region = choose("region", of_row.unique(), region, where, DataError)
    rows = table[(of_row == region).to_numpy()]
    return rows, region, pd.Index(rows.obs[table.uns[ATTRS]["instance_key"]])


def to_spatialdata(adata: AnnData, *, image: Literal["full", "hires"] | None = "full") -> SpatialData:
    """Convert a section or a prediction to a SpatialData object, with the elements of :func:`write_spatialdata`.

    Parameters
    ----------
    adata, image
        As for :func:`write_spatialdata`.

    Raises
    ------
    DataError
        If the section has no positions, or SpatialData refuses one of its names.
    """
    import spatialdata as sd
    from spatialdata.models import ShapesModel, TableModel

    section, stored = section_name(adata), library(adata)
    if Key.obsm.spatial not in adata.obsm:
        raise DataError(
            f"section {section!r}: obsm['{Key.obsm.spatial}'] is missing; give spot centres (x, y) in pixels"
        )
    centres = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)
    diameter = stored.spot_diameter or neighbour_distance(centres) / 2
    name = re.sub(r"[^\w.-]", "_", section)  # characters that SpatialData allows
    table = plain_anndata(adata).copy()
    table.uns.pop(ATTRS, None)
    table.obs[_REGION] = pd.Categorical([name] * table.n_obs, pd.Index([name], dtype=object))
    table.obs[_SPOT] = pd.Series(table.obs_names.to_numpy(dtype=object), table.obs_names, dtype=object)
    circles = ShapesModel.parse(
        centres,
        geometry=0,
        radius=(diameter or 1.0) / 2,
        index=pd.Index(table.obs_names.to_numpy(dtype=object)),
        transformations=_placed(1.0, stored.microns_per_pixel),
    )
    try:
        table = TableModel.parse(table, region=name, region_key=_REGION, instance_key=_SPOT)
        return sd.SpatialData(
            images={f"{name}_image": element for element in _elements(stored, image, section)},
            shapes={name: circles},
            tables={_TABLE: table},
        )
    except ValueError as error:
        raise DataError(f"section {section!r} cannot be written as SpatialData ({reason(error)}); rename it") from None


def _placed(pixels: float, microns_per_pixel: float | None) -> dict[str, Any]:
    """Make the transformations of an element whose pixels are this many full-resolution pixels wide."""
    from spatialdata.transformations import Identity, Scale

    placed: dict[str, Any] = {GLOBAL: Identity() if pixels == 1 else Scale([pixels, pixels], axes=_AXES)}
    if microns_per_pixel:
        placed[MICRONS] = Scale([pixels * float(microns_per_pixel)] * 2, axes=_AXES)
    return placed


def _elements(stored: Library, image: Literal["full", "hires"] | None, name: str) -> list[Any]:
    """Make the image element, at full resolution or from the small copy, if any."""
    from spatialdata.models import Image2DModel

    pixels = 1.0
    if image == "full" and stored.source and image_exists(stored.source):
        with open_full(stored.source) as decoded:
            rgb = np.asarray(decoded)
    elif image is not None and stored.hires is not None and stored.hires_scale is not None:
        if image == "full":
            logger.warning("section %r: image %s does not exist; the small one is written instead", name, stored.source)
        rgb = np.asarray(stored.hires)[..., :3]
        pixels = 1 / stored.hires_scale
    else:
        return []
    halvings = max(0, int(np.ceil(np.log2(max(rgb.shape) / _SMALLEST_SIDE))))
    return [
        Image2DModel.parse(
            rgb.transpose(2, 0, 1),
            dims=("c", "y", "x"),
            c_coords=["r", "g", "b"],
            scale_factors=[2] * halvings or None,
            chunks=(3, _SMALLEST_SIDE, _SMALLEST_SIDE),
            transformations=_placed(pixels, stored.microns_per_pixel),
        )
    ]
