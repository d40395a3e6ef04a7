"""Read plain AnnData: counts, ``obsm["spatial"]``, and an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from nh2st_graph._errors import DataError, ImageError, setting
from nh2st_graph.read._common import (
    check_exists,
    h5ad_files,
    images_in,
    keep_in_tissue,
    patient_in_obs,
    report_dropped,
    section_in_obs,
    stored_anndata,
    wanted_names,
)
from nh2st_graph.read._objects import sections_in
from nh2st_graph.read._patients import PATIENTS, patient_beside, read_each
from nh2st_graph.read._registry import register_format
from nh2st_graph.section import (
    Key,
    Library,
    as_csr,
    as_name,
    changed_entry,
    check_pitch,
    check_section,
    counts_mistake,
    distinct,
    is_real,
    layers_of,
    libraries,
    library_entry,
    library_id,
    neighbour_distance,
    report_pitch,
)
from nh2st_graph.slide import ImageSource, check_scale, image_in, open_slide, placed_image, report_size

__all__ = ["anndata_section"]


def anndata_section(
    path_or_object: str | Path | AnnData,
    image: ImageSource | None = None,
    microns_per_pixel: float | None = None,
    *,
    image_layer: str | None = None,
    layer: str | None = None,
    genes: bool = True,
    section: str | None = None,
    patient: str | None = None,
) -> AnnData:
    """Make a section of a plain AnnData and an image.

    Parameters
    ----------
    path_or_object
        An h5ad file or an AnnData (it is copied) with one section: raw counts, and spot centres in
        ``obsm["spatial"]``, x then y, in pixels of the image. Spots off the tissue (``obs["in_tissue"]`` is 0) are left
        out.
    image
        The full-resolution image: a file, or squidpy's ``ImageContainer``. By default the ``source_image_path`` in
        ``uns["spatial"]`` (a relative path starts at the file's folder), else an image beside the file with the file's
        name. The pixels of a container are written to a file in the cache folder. If the container was cropped or
        scaled, positions are converted from pixels of the uncut image, as squidpy has them.
    microns_per_pixel
        Resolution of the image (of a container: before it was scaled). By default the one in ``uns["spatial"]``.
    image_layer
        Layer of the container; not needed if it has one.
    layer
        Layer of the AnnData with the raw counts, if they are not in ``X``; ``raw`` also means ``adata.raw``.
    genes
        Whether to keep the genes. Without them, the section can be predicted, whatever ``X`` holds.
    section, patient
        Names. By default those in ``obs``, if they are the same for all spots. Else the section is named after the file
        (of an object: after the library in ``uns["spatial"]``), and the patient is the one in the table
        ``ids.csv`` (``sample_id,patient``) beside the file, which overrides ``obs``, or unknown.

    Returns
    -------
    The section, with its spots in the given order. ``X`` is CSR. ``uns["spatial"]`` is built anew, with the spot
    diameter that it had, or half the distance of neighbouring spots.

    Raises
    ------
    DataError
        If the file cannot be read, has several sections, has no positions or no resolution, or breaks the contract.
    ImageError
        If there is no image, or it cannot be read or does not cover the spots.
    """
    adata, path = _open(path_or_object)
    known = libraries(adata)
    # An object that holds one of several libraries is named after its own.
    own = library_id(adata, section or _only(adata))
    name = section_in_obs(adata, section, path.stem if path else own)
    if patient is None and path is not None:
        patient = patient_beside(name, path.parent)
    patient_in_obs(adata, patient, name)
    where = f"section {name!r}"
    if own is None and known:
        raise DataError(
            f"{where}: uns['{Key.uns.spatial}'] has {len(known)} libraries; split it into one AnnData a section; if it "
            f"is split, keep its own library there: one named {name!r}"
        )
    stored = Library.of(known[own] if own is not None else {})
    if not genes:
        adata = adata[:, :0].copy()
    if adata.n_vars:
        adata = _with_counts(adata, layer, where)
    # Check names, positions and counts before the image.
    check_section(adata, need=("genes",) if adata.n_vars else ())
    adata, dropped = keep_in_tissue(adata, name)
    if image is None:
        image = _find_image(stored.source, path, where)
    placed = placed_image(image, name, image_layer, argument="image_layer")
    scale = stored.microns_per_pixel if microns_per_pixel is None else microns_per_pixel
    if scale is None:
        raise DataError(
            f"{where}: no scale; give um per pixel of {placed.path.name} "
            f"({setting('data.options.microns_per_pixel', 0.5)}), or write it into "
            f"uns['{Key.uns.spatial}'][{name!r}]['{Key.library.metadata}']"
            f"['{Key.library.microns_per_pixel}']"
        )
    check_scale(where, None, scale)
    diameter = stored.spot_diameter or _spot_diameter(adata)
    adata.obsm[Key.obsm.spatial] = placed.pixels(adata.obsm[Key.obsm.spatial])
    with open_slide(placed.path) as slide:
        entry = library_entry(placed.path, float(scale) / placed.scale, diameter * placed.scale, slide.thumbnail())
        adata.uns[Key.uns.spatial] = {name: changed_entry(entry, array_pitch_um=stored.array_pitch_um)}
        check_pitch(adata, slide.sizes[0], stored.scalefactors)
        check_section(adata, need=("image",), slide=slide)
        report_size(where, slide.sizes[0], float(scale) / placed.scale)
    report_pitch(adata)
    if dropped:
        report_dropped(adata, name, dropped)
    return adata


def _only(adata: AnnData) -> str | None:
    """Name of the section in ``obs``, if there is exactly one."""
    names = distinct(adata.obs[Key.obs.section]) if Key.obs.section in adata.obs else []
    return as_name(names[0]) if len(names) == 1 else None


def _names(root: Path, library_key: str | None = None) -> list[str]:
    return list(sections_in(h5ad_files(root), library_key))


@register_format("anndata", _names)
def _sections(
    root: Path,
    names: Sequence[str] | None = None,
    *,
    image: str | None = None,
    microns_per_pixel: float | None = None,
    layer: str | None = None,
    genes: bool = True,
    library_key: str | None = None,
    patients: str = PATIENTS,
) -> dict[str, AnnData]:
    """Read one h5ad file or a folder of them, with images beside the files.

    Each file names its section, or holds several, which a column of ``obs`` names.
    """
    check_exists(root)
    found = sections_in(h5ad_files(root), library_key)

    def read(name: str, patient: str | None) -> AnnData:
        file, part = found[name]
        given = file if part is None else part()
        source = None if image is None else file.parent / image
        if source is None and isinstance(given, AnnData):
            own = library_id(given, name)
            named = Library.of(libraries(given)[own]).source if own is not None else None
            source = _find_image(named, file.parent / f"{name}.h5ad", f"section {name!r}")
        return anndata_section(
            given, source, microns_per_pixel, layer=layer, genes=genes, section=name, patient=patient
        )

    beside = root.parent if root.is_file() else root
    alone = root.is_file() and library_key is None
    return read_each(wanted_names(names, found, root), found, beside, patients, read, alone=alone)


def _open(given: str | Path | AnnData) -> tuple[AnnData, Path | None]:
    if isinstance(given, AnnData):
        return given.to_memory(copy=True) if given.isbacked else given.copy(), None
    path = Path(given)
    check_exists(path, "path_or_object")
    return stored_anndata(path), path


def _with_counts(adata: AnnData, layer: str | None, where: str) -> AnnData:
    """Put raw counts into ``X``, from a layer or ``raw``; if ``X`` is not raw, the error says where raw counts are."""
    there = [*layers_of(adata), *(["raw"] if adata.raw is not None and "raw" not in adata.layers else [])]
    if layer is not None and layer not in there:
        raise DataError(
            f"{where}: no layer {layer!r}; {setting('data.options.layer')} may be: {', '.join(there) or 'none'}"
        )
    if layer is not None and layer not in adata.layers:
        raw = adata.raw.to_adata()
        adata = AnnData(raw.X, obs=adata.obs, var=raw.var, obsm=dict(adata.obsm), uns=dict(adata.uns))
    elif layer is not None:
        adata.X = adata.layers[layer]
    if adata.X is None:
        raise DataError(
            f"{where}: X is missing; name the layer with raw counts: {setting('data.options.layer', 'NAME')}"
        )
    if not is_real(adata.X.dtype):
        raise DataError(
            f"{where}: {'X' if layer is None else f'layer {layer!r}'} holds {adata.X.dtype}, not real numbers; name "
            f"the layer with raw counts: {setting('data.options.layer', 'NAME')}"
        )
    adata.X = as_csr(adata.X)
    if not np.isfinite(adata.X.data).all():
        raise DataError(f"{where}: {counts_mistake(adata)}")
    if layer is None and not np.array_equal(adata.X.data, np.rint(adata.X.data)):
        values = {"raw": adata.raw.X if adata.raw is not None else None, **layers_of(adata)}
        raw = [name for name in there if _whole(values[name])]
        if there:
            whole = f"; whole numbers: {', '.join(raw)}" if raw else ""
            cure = f"name the layer with raw counts: {setting('data.options.layer', 'NAME')}"
            cure += f" (there: {', '.join(there)}{whole})"
        else:
            cure = "put raw counts there"
        raise DataError(
            f"{where}: X has counts that are not integers; {cure}; or, only to predict, leave the genes out: "
            f"{setting('data.options.genes', False)}"
        )
    return adata


def _whole(values: Any) -> bool:
    """Whether values are whole numbers and not below 0, as counts are."""
    values = values.data if sparse.issparse(values) else np.asarray(values)
    return bool(np.array_equal(values, np.rint(values)) and (not values.size or values.min() >= 0))


def _find_image(named: str | None, path: Path | None, where: str) -> Path:
    """Find the image that the metadata name, or the one beside the file; beside a link, or where it leads."""
    folders = [path.parent, path.resolve().parent] if path else [Path()]
    found = next((there for folder in folders if named and (there := image_in(folder, named))), None)
    if found is not None:
        return found
    for folder in folders if path else ():
        beside = images_in(folder, path.stem if path else None)
        if len(beside) > 1:
            raise ImageError(
                f"{where}: {len(beside)} images beside it ({', '.join(each.name for each in beside)}); "
                f"name one: {setting('data.options.image', 'NAME')}"
            )
        if beside:
            return beside[0]
    missing = f"{named} does not exist" if named else "none is named in it or lies beside it"
    raise ImageError(f"{where}: no image ({missing}); give {setting('data.options.image', 'PATH')}")


def _spot_diameter(adata: AnnData) -> float:
    """Take half the distance of neighbouring spots, as on ST and Visium. Only plots use it."""
    return neighbour_distance(np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)) / 2 or 1.0
