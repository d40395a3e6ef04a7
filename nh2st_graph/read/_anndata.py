"""Read plain AnnData: counts, ``obsm["spatial"]``, and an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
from anndata import AnnData
from scipy import sparse

from nh2st_graph._errors import DataError, ImageError, reason, setting
from nh2st_graph.read._assemble import PATIENTS, read_each
from nh2st_graph.read._common import IMAGES, check_exists, h5ad_files, name_of, wanted_names
from nh2st_graph.read._registry import register_format
from nh2st_graph.section import Key, Library, check_section, library_entry, neighbour_distance, unknown_patient
from nh2st_graph.slide import ImageSource, image_exists, placed_image

__all__ = ["anndata_section"]


def anndata_section(
    path_or_object: str | Path | AnnData,
    image: ImageSource | None = None,
    microns_per_pixel: float | None = None,
    *,
    image_layer: str | None = None,
    layer: str | None = None,
    section: str | None = None,
    patient: str | None = None,
) -> AnnData:
    """Make a section of a plain AnnData and an image.

    Parameters
    ----------
    path_or_object
        An h5ad file or an AnnData (it is copied) with one section: raw counts, and spot centres in
        ``obsm["spatial"]``, x then y, in pixels of the image.
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
        Layer of the AnnData with the raw counts, if they are not in ``X``.
    section, patient
        Names. By default those in ``obs``, if they are the same for all spots. Else the section is named after the file
        (of an object: after the library in ``uns["spatial"]``), and the patient is unknown.

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
    libraries = adata.uns.get(Key.uns.spatial) or {}
    stored = Library.of(next(iter(libraries.values())) if len(libraries) == 1 else {})
    name = name_of(adata, Key.obs.section, section, path.stem if path else next(iter(libraries), None))
    name_of(adata, Key.obs.patient, patient, unknown_patient(name))
    where = f"section {name!r}"
    if len(libraries) > 1:
        raise DataError(
            f"{where}: uns['{Key.uns.spatial}'] has {len(libraries)} libraries; split it into one AnnData a section"
        )
    if adata.n_vars:
        adata.X = _counts(adata, layer, where)
    # Check names, positions and counts before the image.
    check_section(adata)
    if image is None:
        image = _find_image(stored.source, path, where)
    placed = placed_image(image, name, image_layer)
    scale = stored.microns_per_pixel if microns_per_pixel is None else microns_per_pixel
    if scale is None:
        raise DataError(
            f"{where}: no scale; give um per pixel of {placed.path.name} "
            f"({setting('data.options.microns_per_pixel', 0.5)}), or write it into "
            f"uns['{Key.uns.spatial}'][{name!r}]['{Key.library.metadata}']"
            f"['{Key.library.microns_per_pixel}']"
        )
    diameter = stored.spot_diameter or _spot_diameter(adata)
    adata.obsm[Key.obsm.spatial] = placed.pixels(adata.obsm[Key.obsm.spatial])
    adata.uns[Key.uns.spatial] = {
        name: library_entry(placed.path, float(scale) / placed.scale, diameter * placed.scale)
    }
    return check_section(adata, need=("genes", "image") if adata.n_vars else ("image",))


@register_format("anndata", h5ad_files)
def _sections(
    root: Path,
    names: Sequence[str] | None = None,
    *,
    image: str | None = None,
    microns_per_pixel: float | None = None,
    layer: str | None = None,
    patients: str = PATIENTS,
) -> dict[str, AnnData]:
    """Read one h5ad file or a folder of them, with images beside the files; each file names its section."""
    check_exists(root)
    files = h5ad_files(root)

    def read(name: str, patient: str | None) -> AnnData:
        source = None if image is None else files[name].parent / image
        return anndata_section(files[name], source, microns_per_pixel, layer=layer, section=name, patient=patient)

    beside = root.parent if root.is_file() else root
    return read_each(wanted_names(names, files, root), beside, patients, read)


def _open(given: str | Path | AnnData) -> tuple[AnnData, Path | None]:
    if isinstance(given, AnnData):
        return given.copy(), None
    path = Path(given)
    check_exists(path, "path_or_object")
    try:
        return ad.read_h5ad(path), path
    except Exception as error:  # anndata and h5py raise nearly any class on a damaged file
        raise DataError(f"{path} cannot be read as h5ad ({reason(error)}); write it again") from error


def _counts(adata: AnnData, layer: str | None, where: str) -> sparse.csr_matrix:
    """Look up raw counts in ``X`` or a layer; if ``X`` is not raw, the error names the layers that exist."""
    if layer is not None and layer not in adata.layers:
        there = ", ".join(adata.layers) or "none"
        raise DataError(f"{where}: no layer {layer!r}; {setting('data.options.layer')} may be: {there}")
    given = adata.X if layer is None else adata.layers[layer]
    if given is None:
        raise DataError(
            f"{where}: X is missing; name the layer with raw counts: {setting('data.options.layer', 'NAME')}"
        )
    counts = sparse.csr_matrix(given)
    if layer is None and adata.layers and not np.array_equal(counts.data, np.rint(counts.data)):
        raise DataError(
            f"{where}: X has counts that are not integers; name the layer with raw counts: "
            f"{setting('data.options.layer', 'NAME')} (there: {', '.join(adata.layers)})"
        )
    return counts


def _find_image(named: str | None, path: Path | None, where: str) -> Path:
    """Find the image that the metadata names, or the one beside the file."""
    folder = path.parent if path else Path()
    beside = [folder / f"{path.stem}{ending}" for ending in sorted(IMAGES)] if path else []
    found = next((file for file in [*([folder / named] if named else []), *beside] if image_exists(file)), None)
    if found is None:
        missing = f"{named} does not exist" if named else "none is named in it or lies beside it"
        raise ImageError(f"{where}: no image ({missing}); give {setting('data.options.image', 'PATH')}")
    return found


def _spot_diameter(adata: AnnData) -> float:
    """Take half the distance of neighbouring spots, as on ST and Visium. Only plots use it."""
    return neighbour_distance(np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)) / 2 or 1.0
