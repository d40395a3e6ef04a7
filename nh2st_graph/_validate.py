"""The one validator of the section contract: everything downstream trusts what passed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph._errors import DataError, ImageError
from nh2st_graph._keys import Key
from nh2st_graph._slide import slide_size

__all__ = ["Need", "array_positions", "check_section", "library", "section_name"]

#: What a caller needs a section to have, beside spot positions.
Need = Literal["genes", "image", "graph", "features"]


def section_name(adata: AnnData) -> str:
    """Name of the one section that an AnnData holds.

    Raises
    ------
    DataError
        If ``obs["section"]`` is missing, or names several sections.
    """
    if Key.obs.section not in adata.obs:
        raise DataError(
            f"section without a name: obs['{Key.obs.section}'] is missing; "
            f"set adata.obs['{Key.obs.section}'] = 'NAME' or read it with a reader of ng.read"
        )
    names = adata.obs[Key.obs.section].astype(str).unique()
    if len(names) != 1:
        shown = ", ".join(names[:5]) or "none"
        raise DataError(
            f"one AnnData holds one section, this one holds {len(names)} ({shown}); "
            f"split it by obs['{Key.obs.section}'] first, or give library_key='{Key.obs.section}'"
        )
    return str(names[0])


def library(adata: AnnData) -> dict[str, Any]:
    """Look up the section's entry of ``uns["spatial"]`` (images, scale factors, metadata).

    Raises
    ------
    DataError
        If there is none, or more than one.
    """
    entries = adata.uns.get(Key.uns.spatial)
    if not isinstance(entries, Mapping) or len(entries) != 1:
        count = len(entries) if isinstance(entries, Mapping) else 0
        raise DataError(
            f"section {section_name(adata)!r}: uns['{Key.uns.spatial}'] has {count} libraries, expected 1; "
            "read the section with a reader of ng.read"
        )
    entry: dict[str, Any] = next(iter(entries.values()))
    return entry


def array_positions(adata: AnnData) -> NDArray[np.int64] | None:
    """Look up the array positions of a section's spots.

    Returns
    -------
    ``(n_spots, 2)``, column then row (x then y). None where the section has no array: one of the columns of ``obs`` is
    missing or all empty, as it is in a section that was joined with others that have one.

    Raises
    ------
    DataError
        If a position is missing or no whole number.
    """
    keys = (Key.obs.array_col, Key.obs.array_row)
    if any(key not in adata.obs or adata.obs[key].isna().all() for key in keys):
        return None
    return np.stack([_whole_numbers(adata, key) for key in keys], axis=1)


def _whole_numbers(adata: AnnData, key: str) -> NDArray[np.int64]:
    given = adata.obs[key]
    values = pd.to_numeric(given, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    whole = np.isfinite(values) & (values == np.rint(values))
    if not whole.all():
        raise DataError(
            f"section {section_name(adata)!r}: obs['{key}'] of {int((~whole).sum())} spots is no whole number (first: "
            f"{adata.obs_names[~whole][0]!r} has {given[~whole].iloc[0]}); number the array's rows and columns, drop "
            f"these spots, or take the section for one without an array: del adata.obs['{key}']"
        )
    return values.astype(np.int64)


def check_section(adata: AnnData, need: Iterable[Need] = ()) -> AnnData:
    """Check an AnnData against the section contract.

    Parameters
    ----------
    adata
        One tissue section.
    need
        What must be there beside names and positions: ``"genes"`` (raw counts in ``X``), ``"image"``
        (a full-resolution picture that covers the spots, and its scale), ``"graph"`` (squidpy's spatial
        keys), ``"features"`` (``obsm["X_image"]``).

    Returns
    -------
    The same object, so that a reader can end with ``return check_section(adata)``.

    Raises
    ------
    DataError
        Naming the section, the field, and what to do.
    ImageError
        Where the picture is missing or does not cover the spots.
    """
    needs = set(need)
    if adata.n_obs == 0:
        # No row says the section's name; the library does.
        name = next(iter(adata.uns.get(Key.uns.spatial, {})), "without a name")
        raise DataError(f"section {name!r}: no spots; check that its files are not empty and share spot names")
    where = f"section {section_name(adata)!r}"
    _check_name(adata)
    _check_spots(adata, where)
    if Key.uns.prediction in adata.uns:
        if "genes" in needs:
            raise DataError(f"{where}: X holds predicted expression; training and scoring need measured counts in X")
    elif adata.n_vars:
        _check_counts(adata, where)
    elif "genes" in needs:
        raise DataError(f"{where}: no genes (X is empty); training and scoring need measured counts in X")
    if "image" in needs:
        _check_image(adata, where)
    if "graph" in needs:
        _check_graph(adata, where)
    if "features" in needs:
        _check_features(adata, where)
    return adata


def _check_name(adata: AnnData) -> None:
    """Files and figures are named by the section."""
    name = section_name(adata)
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise DataError(
            f"section {name!r}: its name cannot be that of a file (empty, with a slash, or with a dot in front); "
            f"set adata.obs['{Key.obs.section}'] to another"
        )


def _check_spots(adata: AnnData, where: str) -> None:
    if not adata.obs_names.is_unique:
        twice = adata.obs_names[adata.obs_names.duplicated()][0]
        raise DataError(
            f"{where}: spot name {twice!r} occurs more than once; "
            "spots are joined by name: make obs_names unique in the source"
        )
    if adata.n_vars and not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()][0]
        raise DataError(f"{where}: gene {twice!r} occurs more than once; call adata.var_names_make_unique()")
    for column in (Key.obs.section, Key.obs.patient):
        if column not in adata.obs:
            raise DataError(f"{where}: obs['{column}'] is missing; splits need it: adata.obs['{column}'] = 'NAME'")
        if adata.obs[column].dtype.name != "category":
            raise DataError(f"{where}: obs['{column}'] must be categorical; adata.obs['{column}'].astype('category')")
    if Key.obsm.spatial not in adata.obsm:
        raise DataError(f"{where}: obsm['{Key.obsm.spatial}'] is missing; give spot centres (x, y) in image pixels")
    spatial = np.asarray(adata.obsm[Key.obsm.spatial])
    if spatial.shape != (adata.n_obs, 2):
        raise DataError(f"{where}: obsm['{Key.obsm.spatial}'] has shape {spatial.shape}, expected ({adata.n_obs}, 2)")
    if spatial.dtype.kind not in "fiu":
        raise DataError(f"{where}: obsm['{Key.obsm.spatial}'] holds {spatial.dtype}, not numbers; give x, y in pixels")
    finite = np.isfinite(spatial).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{where}: {int((~finite).sum())} spots have coordinates that are not numbers "
            f"(first: {adata.obs_names[~finite][0]!r}); drop or mend them in the source"
        )
    array_positions(adata)


def _check_counts(adata: AnnData, where: str) -> None:
    if adata.X is None:
        raise DataError(f"{where}: {adata.n_vars} genes named but X is missing; X holds the raw counts")
    values = adata.X.data if sparse.issparse(adata.X) else np.asarray(adata.X)
    if not np.isfinite(values).all():
        raise DataError(f"{where}: X has counts that are not numbers; X holds raw counts")
    if values.size and values.min() < 0:
        raise DataError(
            f"{where}: X has negative counts (lowest {values.min():g}); X holds raw counts, not scaled values"
        )
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        first = values[values != np.rint(values)][0]
        raise DataError(
            f"{where}: X has counts that are not integers (for example {first:g}); X holds raw counts, "
            "normalisation is done by this package (data.normalize)"
        )


def _check_image(adata: AnnData, where: str) -> None:
    metadata = library(adata).get(Key.library.metadata, {})
    source = metadata.get(Key.library.source_image)
    if not source:
        raise ImageError(
            f"{where}: metadata['{Key.library.source_image}'] is missing; give the path of the full-resolution picture"
        )
    scale = metadata.get(Key.library.microns_per_pixel)
    if not isinstance(scale, Real) or not 0 < float(scale) < np.inf:
        raise DataError(
            f"{where}: metadata['{Key.library.microns_per_pixel}'] is {scale!r}; give um per pixel, above 0"
        )
    width, height = slide_size(str(source))
    x, y = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64).T
    outside = (x < 0) | (y < 0) | (x >= width) | (y >= height)
    if outside.any():
        # Only here, where it is about to fail: pictures are looked at by `im`, which builds on this.
        from nh2st_graph.im._placement import likely_mistake

        mistake = likely_mistake(adata)
        raise ImageError(
            f"{where}: {int(outside.sum())} of {adata.n_obs} spots lie outside the image {source} "
            f"({width} x {height} px; first: {adata.obs_names[outside][0]!r} at "
            f"({x[outside][0]:.0f}, {y[outside][0]:.0f})); "
            + (f"{mistake}; or " if mistake else "")
            + "give the picture that the coordinates were measured on"
        )


def _check_graph(adata: AnnData, where: str) -> None:
    for key in (Key.obsp.connectivities, Key.obsp.distances):
        if key not in adata.obsp:
            raise DataError(f"{where}: no obsp['{key}']; run ng.gr.spatial_graph(adata) first")


def _check_features(adata: AnnData, where: str) -> None:
    if Key.obsm.image not in adata.obsm:
        present = ", ".join(adata.obsm.keys())
        raise DataError(f"{where}: no obsm['{Key.obsm.image}'] (there: {present}); run ng.im.features(adata) first")
    features = np.asarray(adata.obsm[Key.obsm.image])
    if features.dtype != np.uint8 and not np.isfinite(features).all():
        raise DataError(f"{where}: obsm['{Key.obsm.image}'] has values that are not numbers; compute it again")
