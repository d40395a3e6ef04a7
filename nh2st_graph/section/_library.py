"""A section's entry of ``uns["spatial"]``: one place that builds it, and one that reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import DataError, ImageError, shortened
from nh2st_graph._files import positive
from nh2st_graph.section._access import as_name, distinct, section_name
from nh2st_graph.section._keys import Key
from nh2st_graph.slide import scan_origin

__all__ = [
    "FullImage",
    "Library",
    "changed_entry",
    "full_image",
    "libraries",
    "library",
    "library_entry",
    "library_id",
    "slide_origin",
]


@dataclass(frozen=True, eq=False)
class Library:
    """What an entry of ``uns["spatial"]`` says of a section's image.

    Each value but ``entry`` is None where the entry has none, or has one that cannot be used.

    Attributes
    ----------
    entry
        The entry itself.
    source
        Path of the full-resolution image.
    microns_per_pixel
        Resolution of that image, above 0.
    spot_diameter
        Diameter of a spot in full-resolution pixels, above 0.
    hires
        Small copy of the image for plots, ``(height, width, channels)``.
    hires_scale
        Pixels of the small copy per full-resolution pixel, above 0.
    array_pitch_um
        Distance of adjacent spots of the array, in um, above 0, where it is not the assay's usual one.
    """

    entry: Mapping[str, Any] = field(repr=False)
    source: str | None
    microns_per_pixel: float | None
    spot_diameter: float | None
    hires: NDArray[Any] | None = field(repr=False)
    hires_scale: float | None
    array_pitch_um: float | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Library:
        """Read an entry of ``uns["spatial"]``."""
        factors, metadata = _part(entry, Key.library.scalefactors), _part(entry, Key.library.metadata)
        source, hires = metadata.get(Key.library.source_image), _part(entry, Key.library.images).get(Key.library.hires)
        return cls(
            entry,
            source=str(source) if isinstance(source, str | Path) and str(source) else None,
            microns_per_pixel=positive(metadata.get(Key.library.microns_per_pixel)),
            spot_diameter=positive(factors.get(Key.library.spot_diameter)),
            hires=hires if getattr(hires, "ndim", 0) in (2, 3) else None,
            hires_scale=positive(factors.get(Key.library.hires_scale)),
            array_pitch_um=positive(metadata.get(Key.library.array_pitch)),
        )

    @property
    def scalefactors(self) -> Mapping[str, Any]:
        """All scale factors of the entry."""
        return _part(self.entry, Key.library.scalefactors)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """All metadata of the entry."""
        return _part(self.entry, Key.library.metadata)


class FullImage(NamedTuple):
    """Path of a full-resolution image, and its resolution."""

    path: str
    microns_per_pixel: float


def libraries(adata: AnnData) -> dict[str, Mapping[str, Any]]:
    """Give the entries of ``uns["spatial"]`` by library; flags beside them, as CELLxGENE's ``is_single``, are none."""
    entries = adata.uns.get(Key.uns.spatial)
    if not isinstance(entries, Mapping):
        return {}
    return {str(name): entry for name, entry in entries.items() if isinstance(entry, Mapping)}


def library_id(adata: AnnData, section: str | None = None) -> str | None:
    """Find the library of the one section that an AnnData holds; None if there is none, or several may be meant.

    A section that was cut out of joined ones keeps the libraries of all. Its own has the section's name, or the name
    that a column of ``obs`` has in all rows.

    Parameters
    ----------
    adata
        One section.
    section
        Its name, if it is known.
    """
    known = libraries(adata)
    if len(known) < 2 or section in known:
        return section if section in known else next(iter(known), None)
    named = set()
    for column in adata.obs:
        if not pd.api.types.is_float_dtype(adata.obs[column]):
            values = distinct(adata.obs[column])
            named |= {as_name(values[0])} & known.keys() if len(values) == 1 else set()
    return named.pop() if len(named) == 1 else None


def library(adata: AnnData) -> Library:
    """Read the section's entry of ``uns["spatial"]``.

    Raises
    ------
    DataError
        If there is none, or several and none is named after the section.
    """
    name, known = section_name(adata), libraries(adata)
    own = library_id(adata, name)
    if own is None:
        cure = f"keep its own: one named {name!r}" if known else "read the section with a reader of ng.read"
        raise DataError(f"section {name!r}: uns['{Key.uns.spatial}'] has {len(known)} libraries, expected 1; {cure}")
    return Library.of(known[own])


def full_image(adata: AnnData) -> FullImage:
    """Look up a section's full-resolution image and its resolution.

    Raises
    ------
    ImageError
        If the section names no image.
    DataError
        If the image has no resolution above 0, or the section has no library, or several.
    """
    found, where = library(adata), f"section {section_name(adata)!r}"
    if found.source is None:
        there = found.metadata.get(Key.library.source_image)
        missing = there is None or (isinstance(there, str) and not there)
        wrong = "is missing" if missing else f"is {shortened(there)}, not text"
        raise ImageError(
            f"{where}: metadata['{Key.library.source_image}'] {wrong}; give the path of the full-resolution image"
        )
    if found.microns_per_pixel is None:
        there = found.metadata.get(Key.library.microns_per_pixel)
        raise DataError(
            f"{where}: metadata['{Key.library.microns_per_pixel}'] is {shortened(there)}; give um per pixel, above 0"
        )
    return FullImage(found.source, found.microns_per_pixel)


def slide_origin(adata: AnnData) -> tuple[int, int]:
    """Find the pixel of a section's slide from which QuPath counts; see :func:`nh2st_graph.slide.scan_origin`."""
    source = library(adata).source if libraries(adata) else None
    return (0, 0) if source is None else scan_origin(source)


def library_entry(
    source: str | Path,
    microns_per_pixel: float,
    spot_diameter: float,
    hires: tuple[NDArray[np.uint8], float],
) -> dict[str, Any]:
    """Build a section's entry of ``uns["spatial"]``.

    Parameters
    ----------
    source
        The full-resolution image, in any format that :func:`~nh2st_graph.slide.open_slide` opens.
    microns_per_pixel
        Its resolution.
    spot_diameter
        Diameter of a spot, in its pixels.
    hires
        Small copy for plots and its scale, as :meth:`~nh2st_graph.slide.Slide.thumbnail` gives them.
    """
    entry = {Key.library.scalefactors: {Key.library.spot_diameter: spot_diameter}}
    return changed_entry(entry, source=source, microns_per_pixel=microns_per_pixel, hires=hires)


def changed_entry(
    entry: Mapping[str, Any],
    *,
    source: str | Path | None = None,
    microns_per_pixel: float | None = None,
    hires: tuple[NDArray[Any], float] | None = None,
    array_pitch_um: float | None = None,
) -> dict[str, Any]:
    """Copy an entry of ``uns["spatial"]`` with some values changed.

    Parameters
    ----------
    entry
        The entry; it is left as it is.
    source, microns_per_pixel, hires
        As for :func:`library_entry`. A value that is None stays as it is.
    array_pitch_um
        As in :class:`Library`.
    """
    images, factors, metadata = (
        dict(_part(entry, part)) for part in (Key.library.images, Key.library.scalefactors, Key.library.metadata)
    )
    if hires is not None:
        images[Key.library.hires], factors[Key.library.hires_scale] = hires
    if source is not None:
        metadata[Key.library.source_image] = str(Path(source).resolve())
    if microns_per_pixel is not None:
        metadata[Key.library.microns_per_pixel] = microns_per_pixel
    if array_pitch_um is not None:
        metadata[Key.library.array_pitch] = array_pitch_um
    return {
        **entry,
        Key.library.images: images,
        Key.library.scalefactors: factors,
        Key.library.metadata: metadata,
    }


def _part(entry: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Give a part of an entry; an empty one if the entry has something else there."""
    part = entry.get(key)
    return part if isinstance(part, Mapping) else {}
