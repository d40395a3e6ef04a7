"""The one validator of the section contract. Everything downstream trusts a section that passed it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph._errors import DataError, ImageError, setting
from nh2st_graph.section._access import is_real, section_name
from nh2st_graph.section._array import check_array
from nh2st_graph.section._counts import count_blocks
from nh2st_graph.section._genes import same_genes
from nh2st_graph.section._keys import Key
from nh2st_graph.section._library import full_image, libraries
from nh2st_graph.section._pitch import check_pitch
from nh2st_graph.section._placement import likely_mistake
from nh2st_graph.slide import Slide, check_size, open_slide

__all__ = [
    "Need",
    "check_features",
    "check_finite",
    "check_parts",
    "check_section",
    "counts_mistake",
    "open_image",
    "refuse_backed",
    "spot_centres",
]

#: Counts that are checked at a time.
_SOME = 2**22

#: Spots whose features are checked at a time.
_ROWS = 2**14

#: No coordinate is as large, in pixels.
_FARTHEST = 2**31

#: A count above this is no number of reads, and sums of such are not exact.
MOST_READS = 2**31

#: Parts of a section that a caller may need, besides spot positions.
Need = Literal["genes", "image", "graph", "features"]


def check_section(adata: AnnData, need: Iterable[Need] = (), *, slide: Slide | None = None) -> AnnData:
    """Check an AnnData against the section contract.

    Parameters
    ----------
    adata
        One tissue section.
    need
        Parts that must exist besides names and positions: ``"genes"`` (raw counts in ``X``), ``"image"``
        (a full-resolution image that covers the spots, and its scale), ``"graph"`` (squidpy's spatial
        keys), ``"features"`` (``obsm["X_image"]``).
    slide
        The image, if it is open already.

    Returns
    -------
    The same object, so a reader can end with ``return check_section(adata)``.

    Raises
    ------
    DataError
        If the section breaks the contract; the message names the section, the field, and what to do.
    ImageError
        If the image is missing or does not cover the spots.
    """
    refuse_backed(adata)
    if adata.n_obs == 0:
        # Without rows there is no obs['section'], so the library names the section.
        name = next(iter(libraries(adata)), "without a name")
        raise DataError(f"section {name!r}: no spots; check that its files are not empty and share spot names")
    where = f"section {section_name(adata)!r}"
    _check_name(adata)
    _check_spots(adata, where)
    check_parts(adata, need, slide=slide)
    return adata


def check_parts(adata: AnnData, need: Iterable[Need], *, slide: Slide | None = None) -> None:
    """Check that a section that passed :func:`check_section` has more parts; the arguments are the same.

    Raises
    ------
    DataError, ImageError
        As :func:`check_section` does.
    """
    needs, where = set(need), f"section {section_name(adata)!r}"
    if "genes" in needs and (mistake := counts_mistake(adata)) is not None:
        raise DataError(f"{where}: {mistake}")
    if "image" in needs and slide is not None:
        full_image(adata)
        _check_covered(adata, slide)
    elif "image" in needs:
        with open_image(adata):
            pass
    if "graph" in needs:
        _check_graph(adata, where)
    if "features" in needs:
        check_features(adata)


def _check_name(adata: AnnData) -> None:
    """Refuse a section name that cannot name files."""
    name = section_name(adata)
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise DataError(
            f"section {name!r}: its name cannot name a file (it is empty, has a slash, or starts with a dot); "
            f"give it another in adata.obs['{Key.obs.section}']"
        )


#: Names of a data frame's columns that hold y and x.
_TURNED = (r"(?:.*_)?y(?:_.*)?", r"(?:.*_)?x(?:_.*)?"), (r".*row.*", r".*col.*")


def _check_spots(adata: AnnData, where: str) -> None:
    if not adata.obs_names.is_unique:
        twice = adata.obs_names[adata.obs_names.duplicated()][0]
        raise DataError(
            f"{where}: spot name {twice!r} occurs more than once; "
            "make obs_names unique in the source, because spots are joined by name"
        )
    for column in (Key.obs.section, Key.obs.patient):
        if column not in adata.obs:
            raise DataError(
                f"{where}: obs['{column}'] is missing; adata.obs['{column}'] = pd.Categorical(['NAME'] * adata.n_obs)"
            )
        if adata.obs[column].dtype.name != "category":
            raise DataError(
                f"{where}: obs['{column}'] must be categorical; "
                f"adata.obs['{column}'] = adata.obs['{column}'].astype('category')"
            )
    spot_centres(adata, where)
    check_array(adata)


def spot_centres(adata: AnnData, where: str | None = None) -> NDArray[np.float64]:
    """Look up the centres of a section's spots, ``(n_spots, 2)``: x and y in pixels of the full-resolution image.

    Raises
    ------
    DataError
        If they are missing, or no numbers of an image's size.
    """
    where = where or f"section {section_name(adata)!r}"
    if Key.obsm.spatial not in adata.obsm:
        raise DataError(f"{where}: obsm['{Key.obsm.spatial}'] is missing; give spot centres (x, y) in image pixels")
    if sparse.issparse(adata.obsm[Key.obsm.spatial]):
        raise DataError(f"{where}: obsm['{Key.obsm.spatial}'] is a sparse matrix; call its toarray()")
    names = [str(name).casefold() for name in getattr(adata.obsm[Key.obsm.spatial], "columns", ())]
    if len(names) == 2 and any(all(map(re.fullmatch, each, names)) for each in _TURNED):
        raise DataError(
            f"{where}: obsm['{Key.obsm.spatial}'] has columns {names[0]!r} and {names[1]!r}, and is read as x and y; "
            "put x first"
        )
    spatial = np.asarray(adata.obsm[Key.obsm.spatial])
    if spatial.shape != (adata.n_obs, 2):
        raise DataError(f"{where}: obsm['{Key.obsm.spatial}'] has shape {spatial.shape}, expected ({adata.n_obs}, 2)")
    if spatial.dtype.kind not in "fiu":
        raise DataError(f"{where}: obsm['{Key.obsm.spatial}'] holds {spatial.dtype}, not numbers; give x, y in pixels")
    finite = (np.abs(spatial) < _FARTHEST).all(axis=1)  # not so for NaN
    if not finite.all():
        raise DataError(
            f"{where}: {int((~finite).sum())} spots have coordinates that are not numbers, or beyond any image "
            f"(first: {adata.obs_names[~finite][0]!r}); correct or drop them in the source"
        )
    return spatial.astype(np.float64)


def counts_mistake(adata: AnnData) -> str | None:
    """Say why the genes of a section cannot be trained on or scored, and what to do; None for raw counts."""
    if Key.uns.prediction in adata.uns:
        return "X holds predicted expression; give measured counts for training and scoring"
    if not adata.n_vars:
        return "no genes (X is empty); give measured counts for training and scoring"
    if not adata.var_names.is_unique:
        return same_genes(adata)
    if adata.X is None:
        return f"{adata.n_vars} genes are named but X is missing; put raw counts into X"
    if not is_real(adata.X.dtype):
        return f"X holds {adata.X.dtype}, not real numbers; put raw counts into X"
    lowest = highest = 0.0
    bad: list[NDArray[np.generic]] = []
    broken: list[np.generic] = []
    for values in _values(adata):
        lowest, highest = min(lowest, float(values.min(initial=0))), max(highest, float(values.max(initial=0)))
        if values.dtype.kind != "f":
            continue
        finite = np.isfinite(values)
        bad += [values[~finite]] if not finite.all() else []
        if not broken and not np.array_equal(values, np.rint(values), equal_nan=True):
            broken = [values[values != np.rint(values)][0]]
    if bad:
        return (
            f"X has counts that are not numbers ({sum(map(len, bad)):,}, NaN or infinite; first: {bad[0][0]}); correct "
            "or remove these spots or genes, or put raw counts into X"
        )
    if highest > MOST_READS:
        return (
            f"X has a count of {highest:.3g}, and no gene of a spot has more than {MOST_READS:,} reads; correct or "
            "remove it in the source"
        )
    if lowest < 0:
        return f"X has negative counts (lowest {lowest:g}); put raw counts into X, not scaled values"
    if broken:
        return (
            f"X has counts that are not integers (for example {broken[0]:g}); put raw counts into "
            f"X{_raw_counts(adata)}, this package normalises them ({setting('data.normalize')})"
        )
    return None


def _values(adata: AnnData) -> Iterator[NDArray[np.generic]]:
    """Give the counts that are not zero some at a time, so that what is computed of them takes little memory."""
    for block in count_blocks(adata):
        for start in range(0, len(block.data), _SOME):
            yield block.data[start : start + _SOME]


def _raw_counts(adata: AnnData) -> str:
    """Name where an analysed AnnData keeps its raw counts."""
    there = [f"adata.layers['{name}']" for name in ("counts", "raw_counts", "raw") if name in adata.layers]
    there += ["adata.raw.X"] if adata.raw is not None else []
    return f" (maybe {there[0]})" if there else ""


def refuse_column(key_added: str | None) -> None:
    """Refuse to write a result over a column of ``obs`` that says what a section is.

    Raises
    ------
    DataError
        If ``key_added`` is one of these.
    """
    if key_added in {Key.obs.section, Key.obs.patient, Key.obs.array_row, Key.obs.array_col, Key.obs.in_tissue}:
        raise DataError(f"{setting('key_added', key_added)} is a column that says what a section is; give another")


def refuse_backed(adata: AnnData) -> None:
    """Refuse an AnnData in backed mode: it can be neither copied nor written to (see :func:`on_disk`).

    Raises
    ------
    DataError
        If it is.
    """
    if adata.isbacked:
        raise DataError(f"the AnnData is backed by {adata.filename}; load it: adata = adata.to_memory()")


@contextmanager
def open_image(adata: AnnData) -> Iterator[Slide]:
    """Open the full-resolution image of a section while the block runs, and check that it covers the spots.

    Parameters
    ----------
    adata
        One section that passed :func:`check_section`.

    Yields
    ------
    The open image.

    Raises
    ------
    ImageError
        If the section names no image, or the image is missing, damaged, or does not cover the spots.
    DataError
        If the image has no resolution, or another one than its spots' positions are in.
    """
    with open_slide(full_image(adata).path) as slide:
        _check_covered(adata, slide)
        yield slide


def _check_covered(adata: AnnData, slide: Slide) -> None:
    """Check that the image covers the spots, and that their positions are in its pixels."""
    where, (width, height) = f"section {section_name(adata)!r}", slide.sizes[0]
    x, y = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64).T
    outside = (x < 0) | (y < 0) | (x >= width) | (y >= height)
    if outside.any():
        mistake = likely_mistake(adata, slide)
        raise ImageError(
            f"{where}: {int(outside.sum())} of {adata.n_obs} spots lie outside the image {slide.path} "
            f"({width} x {height} px; first: {adata.obs_names[outside][0]!r} at "
            f"({x[outside][0]:.0f}, {y[outside][0]:.0f})); "
            + (f"{mistake}; or " if mistake else "")
            + "give the image that the coordinates were measured on"
        )
    check_pitch(adata, slide.sizes[0])
    check_size(where, slide.sizes[0], full_image(adata).microns_per_pixel)


def _check_graph(adata: AnnData, where: str) -> None:
    for key in (Key.obsp.connectivities, Key.obsp.distances):
        if key not in adata.obsp:
            raise DataError(f"{where}: no obsp['{key}']; run ng.gr.spatial_graph(adata) first")


def check_features(adata: AnnData) -> None:
    """Check that a section has image features, and that they are numbers.

    Raises
    ------
    DataError
        If they are missing, or not numbers.
    """
    where = f"section {section_name(adata)!r}"
    if Key.obsm.image not in adata.obsm:
        present = ", ".join(adata.obsm.keys())
        raise DataError(f"{where}: no obsm['{Key.obsm.image}'] (there: {present}); run ng.im.features(adata) first")
    check_finite(np.asarray(adata.obsm[Key.obsm.image]), list(adata.obs_names), f"{where}: obsm['{Key.obsm.image}']")


def check_finite(features: NDArray[Any], spots: Sequence[str], what: str) -> None:
    """Refuse features that are NaN or infinite; they may be mapped from a file.

    Parameters
    ----------
    features
        ``(n_spots, n_features)``.
    spots
        Names of the spots.
    what
        The features, to start an error message with.

    Raises
    ------
    DataError
        If there are any; the message names the first spot and feature.
    """
    if features.dtype.kind not in "biuf":
        raise DataError(f"{what} holds {features.dtype}, not real numbers; compute it again")
    for start in range(0, len(features), _ROWS) if features.dtype.kind == "f" else ():
        finite = np.isfinite(features[start : start + _ROWS])
        if not finite.all():
            row, column = np.argwhere(~finite)[0][:2]
            raise DataError(
                f"{what} has values that are not numbers (first: {features[start + row, column]}, feature {column} of "
                f"spot {spots[start + row]!r}); compute it again, or check the encoder and its weights"
            )
