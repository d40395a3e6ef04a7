"""Join image features that another package computed to the spots of a section."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from nh2st_graph._errors import DataError, listed, setting
from nh2st_graph.im._cache import FORMAT
from nh2st_graph.im._embedding_files import ENDINGS, EmbeddingFile, read_embeddings
from nh2st_graph.im._made_from import EMBEDDINGS, SAME_PATCH, differences
from nh2st_graph.im._recipes import recipes
from nh2st_graph.read import SpatialObject, documented, given_sections
from nh2st_graph.section import (
    SYMBOL_COLUMNS,
    Key,
    check_section,
    library,
    library_id,
    section_name,
    spot_digests,
    spot_pitch,
)

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["Missing", "add_embeddings", "embedding_file", "embeddings", "in_obsm", "known_as", "source_of"]

logger = logging.getLogger("nh2st_graph")

#: What happens to spots without a row.
Missing = Literal["fail", "drop"]

#: Resolutions and patch sizes that differ by less agree; beyond the second, positions are of another image.
_AGREE, _APART = SAME_PATCH, 1.25

#: What a class of magnification may be off by: TRIDENT's 20 is 0.3 to 0.6 um per px, and not 0.5.
_OF_A_CLASS = (0.55, 1.5)

#: What coordinates of patches may be off by, in pitches: they are whole pixels.
_ROUNDED = 0.05

#: Names of an entry of ``obsm``, in place of a file.
OBSM = "obsm:"

#: Keys of ``obsm`` that scanpy and scvi-tools write from expression.
_OF_EXPRESSION = {"X_pca", "X_umap", "X_tsne", "X_diffmap", "X_scVI", "X_nh2st_gene"}

_UNKNOWN = "unknown"

#: Names of TRIDENT (``trident/patch_encoder_models/load.py``), slide2vec (``slide2vec/encoders/models``) and LazySlide
#: (``lazyslide_models``) for the recipes of this package, without their punctuation.
_OTHER_NAMES = {
    "univ1": "uni",
    "univ2": "uni2-h",
    "uni2": "uni2-h",
    "conchv1": "conch",
    "gigapath": "prov-gigapath",
    "midnight12k": "midnight",
    "resnet50": "resnet50-imagenet",
    **{f"lunit{each}": f"lunit-resnet50-{each}" for each in ("bt", "mocov2", "swav")},
    **{f"lunit{kind}{each}": f"lunit-{each}" for kind in ("vit", "dino") for each in ("s8", "s16")},
    **{f"kaikovit{each}": f"kaiko-{each}" for each in ("s8", "s16", "b8", "b16", "l14")},
}


def known_as(encoder: str) -> str:
    """Give this package's name of an encoder that another package names; others stay as they are."""
    plain = _plain(encoder)
    alike = {_plain(name): name for name in recipes()}
    return alike.get(plain) or _OTHER_NAMES.get(plain, encoder)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@documented
def embeddings(
    adata: SpatialObject,
    source: str | Path | Mapping[str, str | Path] | SpatialData,
    *,
    encoder: str | None = None,
    patch_um: float | None = None,
    missing: Missing = "fail",
    library_key: str | None = None,
    table_key: str | None = None,
    key_added: str = Key.obsm.image,
    copy: bool = False,
) -> AnnData | None:
    """Take image features that another package computed, one row a spot.

    No image is opened, and no encoder is needed. Rows are joined to spots by name; or, where the file has positions
    alone, each spot gets the row whose patch has its centre within half a pitch of the spot.

    Parameters
    ----------
    adata
        One section, an AnnData of several sections, or SpatialData.
    source
        HDF5 of TRIDENT or HEST; ``.pt`` or ``.npz`` of slide2vec; SpatialData of LazySlide (a zarr folder, the WSIData
        itself, or the AnnData of its features as h5ad); a table (CSV, TSV or parquet) with a column of spot names, or
        with ``x`` and ``y`` of the spot centres, and one column a feature. Positions are in pixels of the section's
        image. For several sections: a folder with one file a section, a pattern such as ``"embeddings/{section}.h5"``,
        or files by section. ``"obsm:KEY"`` takes an entry of ``obsm``.
    encoder
        Name of the encoder, where the file does not say it. It also chooses among several tables of LazySlide.
    patch_um
        Side of a patch on the tissue, in um, where the file does not say it.
    missing
        What happens to spots without a row: ``fail`` raises an error, ``drop`` leaves them out of ``adata``.
    %(library_key)s
    %(table_key)s
    %(key_added)s
    %(copy)s

    Returns
    -------
    None, or the copy. The result is

    ``obsm[key_added]``
        The features, ``(n_spots, n_features)`` float32.
    ``uns[key_added]``
        ``encoder`` (``unknown`` where nothing says it), ``patch_um`` (NaN where nothing says it), ``feature_names``,
        ``n_features``; ``file``, ``layout`` and ``joined_by`` (``names`` or ``positions``); and ``made_from``, digests
        of spots, resolution and embeddings.

    Raises
    ------
    DataError
        If a file is missing or damaged, is of another section or image, contradicts ``encoder`` or ``patch_um``, has a
        spot twice, none for a spot, values that are not numbers, or columns that are genes.

    Examples
    --------
    >>> ng.im.embeddings(adata, "trident/features_uni_v2/C6.h5")
    >>> model = ng.tl.fit(sections, **{"features.embeddings": "obsm:X_image"})
    """
    given = given_sections(adata, library_key=library_key, table_key=table_key, copy=copy, image=False)
    single = len(given.sections) == 1
    kept = np.ones(given.table.n_obs, dtype=bool)
    for section in given:
        check_section(section)
    sources = {name: source_of(source, name, single=single) for name in given.sections}
    found = {name: embedding_file(section, sources[name], encoder) for name, section in given.sections.items()}
    for name, section in given.sections.items():
        without = add_embeddings(section, found[name], encoder, patch_um, missing=missing, key_added=key_added)
        kept[given.rows[name][without]] = False
    given.write(obsm=[key_added], uns=[key_added])
    if not kept.all():
        given.table._inplace_subset_obs(kept)
    return given.table if copy else None


def in_obsm(place: object) -> bool:
    """Whether a place of embeddings is an entry of ``obsm``, written ``obsm:KEY``."""
    return str(place).startswith(OBSM)


def source_of(source: Any, name: str, *, single: bool) -> Any:
    """Choose the file of a section."""
    if isinstance(source, Mapping):
        if name not in source:
            raise DataError(f"section {name!r} has no file of embeddings (there: {listed(source)}); give one")
        return source[name]
    if not isinstance(source, str | Path) or in_obsm(source):
        if not single and not isinstance(source, str):
            raise DataError(
                f"one {type(source).__name__} for several sections; give a mapping by section: "
                f"{setting('source', argument='source')}"
            )
        return source
    text = str(source)
    if "{section}" in text:
        return Path(text.replace("{section}", name)).expanduser()
    path = Path(text).expanduser()
    if path.is_dir() and not any((path / each).is_file() for each in ("zarr.json", ".zgroup")):
        there = [each for each in sorted(path.iterdir()) if _stem(each) == name]
        if len(there) != 1:
            what = f"has {len(there)} files" if there else "has no file"
            names = listed(each.name for each in there or sorted(path.iterdir()))
            raise DataError(
                f"{path} {what} of section {name!r} (there: {names or 'nothing'}); give one named "
                f"{name} with one of {', '.join(ENDINGS)}, or a pattern such as {path}/{{section}}.h5"
            )
        return there[0]
    if not single and not path.exists():
        raise DataError(f"the folder of embeddings {path} does not exist; check {setting('features.embeddings')}")
    if not single:
        raise DataError(
            f"one file of embeddings for several sections, {path}; give a folder or a pattern such as "
            f"{path.parent}/{{section}}{path.suffix}"
        )
    return path


def _stem(path: Path) -> str | None:
    """Give the name of the section of a file in a folder; None if it is no file of embeddings."""
    ending = next((each for each in sorted(ENDINGS, key=len, reverse=True) if path.name.lower().endswith(each)), None)
    return None if ending is None else path.name[: -len(ending)]


def embedding_file(section: AnnData, source: Any, encoder: str | None = None) -> EmbeddingFile:
    """Read the embeddings of one section from a file, or from the section's own ``obsm``."""
    if not in_obsm(source):
        return read_embeddings(source, encoder)
    key, where = str(source).removeprefix(OBSM), f"section {section_name(section)!r}"
    if key not in section.obsm:
        raise DataError(f"{where} has no obsm['{key}'] (there: {listed(section.obsm)}); name one that it has")
    if key in _OF_EXPRESSION:
        raise DataError(
            f"{where}: obsm['{key}'] is the name that scanpy gives to coordinates of expression, and a prediction may "
            "read the image alone; name the key of an image embedding"
        )
    values = section.obsm[key]
    columns = list(map(str, values.columns)) if isinstance(values, pd.DataFrame) else None
    values = np.asarray(values.toarray() if hasattr(values, "toarray") else values)
    if values.ndim != 2 or values.dtype.kind not in "fiub" or key == Key.obsm.spatial:
        raise DataError(
            f"{where}: obsm['{key}'] of shape {values.shape} and {values.dtype} holds no features; name "
            "the key of an embedding"
        )
    known = section.uns.get(key)
    entry = known if isinstance(known, Mapping) else {}
    changed = differences(section, entry)
    if changed:
        raise DataError(f"{where}: obsm['{key}'] was made from other content ({', '.join(changed)}); compute it again")
    patch = entry.get("patch_um")
    return EmbeddingFile(
        f"obsm['{key}']",
        "obsm",
        np.ascontiguousarray(values, dtype=np.float32),
        names=section.obs_names,
        encoder=None if entry.get("encoder") in {None, _UNKNOWN} else str(entry["encoder"]),
        patch_um=float(patch) if patch is not None and np.isfinite(patch) else None,
        columns=columns,
    )


def add_embeddings(
    section: AnnData,
    file: EmbeddingFile,
    encoder: str | None = None,
    patch_um: float | None = None,
    *,
    missing: Missing = "fail",
    key_added: str = Key.obsm.image,
    fitted: bool = False,
) -> NDArray[np.intp]:
    """Write embeddings into one checked section.

    Parameters
    ----------
    section
        The section, which is written into.
    file
        Its embeddings.
    encoder, patch_um, missing, key_added
        As for :func:`embeddings`.
    fitted
        Whether they are for a fitted model, whose settings stay as they are.

    Returns
    -------
    Positions of the spots without a row, ``(n_missing,)``; they have NaN.
    """
    where = f"section {section_name(section)!r}"
    _refuse_genes(section, file, where)
    scale = library(section).microns_per_pixel if library_id(section) is not None else None
    file = _stated(_scaled(file, scale, where), encoder, patch_um, scale, where)
    rows = _by_name(section, file, where) if file.names is not None else _by_position(section, file, where)
    without = np.flatnonzero(rows < 0)
    if len(without) and missing == "fail":
        leave = "remove these spots" if fitted else f"leave these out: {setting('features.missing', 'drop')}"
        raise DataError(
            f"{where}: {len(without):,} of {section.n_obs:,} spots have no row in {file.place} "
            f"({listed(section.obs_names[without])}); give the embeddings of all spots, or {leave}"
        )
    values = np.full((section.n_obs, file.values.shape[1]), np.nan, dtype=np.float32)
    values[rows >= 0] = file.values[rows[rows >= 0]]
    bad = np.flatnonzero((rows >= 0) & ~np.isfinite(values).all(axis=1))
    if len(bad):
        raise DataError(
            f"{where}: {len(bad):,} spots have embeddings in {file.place} that are not numbers (NaN or infinite: "
            f"{listed(section.obs_names[bad])}); compute them again"
        )
    if len(without):
        logger.warning("%s: %d spots have no row in %s, and are left out", where, len(without), file.place)
        dropped = dict(section.uns.get(Key.uns.dropped, {}))
        section.uns[Key.uns.dropped] = {**dropped, "spots_without_embedding": len(without)}
    _say_unknown(file, where)
    section.obsm[key_added] = values
    section.uns[key_added] = _entry(section, file, scale)
    return without


def _stated(
    file: EmbeddingFile, encoder: str | None, patch_um: float | None, scale: float | None, where: str
) -> EmbeddingFile:
    """Add what the caller says and the file does not, and refuse what they disagree on."""
    if encoder is not None and file.encoder is not None and known_as(encoder) != known_as(file.encoder):
        raise DataError(
            f"{where}: {file.place} has features of {file.encoder}, not of {encoder}; name its encoder, or "
            "give the file of the other"
        )
    name = encoder or file.encoder
    file = replace(file, encoder=None if name is None else known_as(name))
    if patch_um is None:
        return file
    if file.patch_um is not None and not _near(file.patch_um, patch_um):
        raise DataError(
            f"{where}: {file.place} has features of patches of {file.patch_um:.4g} um, not of "
            f"{patch_um:.4g}; leave {setting('features.patch_um')} out, or give the other file"
        )
    return replace(file, patch_um=float(patch_um), patch_px=file.patch_px or (scale and patch_um / scale))


def _near(first: float, second: float) -> bool:
    return abs(first / second - 1) <= _AGREE


def _scaled(file: EmbeddingFile, scale: float | None, where: str) -> EmbeddingFile:
    """Check the resolution of a file's positions against the section's, and complete the side of its patches."""
    if scale is None:
        return file
    if file.um_per_px is not None:
        factor = file.um_per_px / scale
        if not 1 / _APART <= factor <= _APART:
            raise DataError(
                f"{where}: {file.place} is of an image of {file.um_per_px:.4g} um per px, the section's "
                f"has {scale:.4g}; {_OTHER_IMAGE}"
            )
        if not _near(file.um_per_px, scale):
            logger.warning("%s: %s states %.4g um per px, the section %.4g", where, file.place, file.um_per_px, scale)
    if file.magnification is not None:
        factor = scale * file.magnification / 10  # 10 is 1 um per px
        if not _OF_A_CLASS[0] <= factor <= _OF_A_CLASS[1]:
            raise DataError(
                f"{where}: {file.place} is of an image of magnification {file.magnification:g}, which is "
                f"about {10 / file.magnification:.2g} um per px, the section's has {scale:.4g}; "
                f"{_OTHER_IMAGE}"
            )
    if file.patch_px is None:
        return file if file.patch_um is None else replace(file, patch_px=file.patch_um / scale)
    side = file.patch_px * scale
    if file.patch_um is not None and not _near(file.patch_um, side):
        raise DataError(
            f"{where}: {file.place} has patches of {file.patch_px:g} px, {side:.4g} um at the section's "
            f"{scale:.4g} um per px, and not of {file.patch_um:.4g} um; {_OTHER_IMAGE}"
        )
    return replace(file, patch_um=side)


_OTHER_IMAGE = "give the embeddings of the section's image, or correct the section's um per px"


def _by_name(section: AnnData, file: EmbeddingFile, where: str) -> NDArray[np.intp]:
    """Find the row of each spot by its name; -1 where there is none."""
    assert file.names is not None
    rows = np.asarray(file.names.get_indexer(section.obs_names), dtype=np.intp)
    if (rows < 0).all():
        raise DataError(
            f"{where}: no spot is named as a row of {file.place} (such as {section.obs_names[0]!r} and "
            f"{file.names[0]!r}); give the file of this section, with the names of its spots"
        )
    if file.coords is None:
        return rows
    # All slides of Visium have the same barcodes, so that names alone do not tell a section. Coordinates are centres or
    # corners, x then y or y then x: of its own section, all are as far above a spot as to the left of it.
    spots = np.asarray(section.obsm[Key.obsm.spatial], dtype=np.float64)[rows >= 0]
    apart = [spots - each for each in _both_orders(file.coords[rows[rows >= 0]])]
    off = min(float(np.abs(each - np.median(each)).max()) for each in apart)
    if off > max(2.0, _ROUNDED * spot_pitch(section)):
        raise DataError(
            f"{where}: {file.place} has rows with the names of its spots at other places (up to {off:,.0f} px off); "
            "it may be of another section with the same barcodes: give the file of this one, or leave out coordinates"
        )
    return rows


def _both_orders(coords: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return coords, coords[:, ::-1]


def _by_position(section: AnnData, file: EmbeddingFile, where: str) -> NDArray[np.intp]:
    """Find the row whose patch is centred within half a pitch of each spot; -1 where there is none."""
    assert file.coords is not None
    spots = np.asarray(section.obsm[Key.obsm.spatial], dtype=np.float64)
    if file.size is not None and ((spots < 0) | (spots >= file.size)).any():
        raise DataError(
            f"{where}: its spots lie outside the slide of {file.place} ({file.size[0]} x {file.size[1]} "
            f"px); {_OTHER_IMAGE}"
        )
    if file.corners and file.patch_px is None:
        raise DataError(
            f"{where}: {file.place} has the corners of patches, and does not say how wide they are; give "
            f"their side in um: {setting('features.patch_um')}"
        )
    centres = file.coords + ((file.patch_px or 0) / 2 if file.corners else 0)
    reach = spot_pitch(section) / 2 if len(spots) > 1 else (file.patch_px or 2) / 2
    distances, rows = cKDTree(centres).query(spots)
    rows = np.where(distances <= reach, rows, -1)
    if (rows < 0).all():
        raise DataError(
            f"{where}: no patch of {file.place} is centred within half a pitch ({reach:.4g} px) of a spot "
            f"(the nearest is {distances.min():,.4g} px away); it is of another section or image"
        )
    several = [row for row, count in Counter(rows[rows >= 0].tolist()).items() if count > 1]
    if several:
        spots_of = section.obs_names[rows == several[0]]
        raise DataError(
            f"{where}: {len(several)} rows of {file.place} are nearest to several spots (such as "
            f"{listed(spots_of)}); give one row a spot"
        )
    return rows


def _refuse_genes(section: AnnData, file: EmbeddingFile, where: str) -> None:
    """Refuse features that are named like the section's genes: a prediction may read the image alone."""
    if file.columns is None or not section.n_vars:
        return
    known = set(map(str, section.var_names))
    for column in section.var:
        if str(column).lower() in SYMBOL_COLUMNS:
            known |= set(map(str, section.var[column]))
    stems = [re.sub(r"\d+$", "", column) for column in file.columns]
    everything = Counter(stems)
    of_genes = Counter(stem for stem, column in zip(stems, file.columns, strict=True) if column in known)
    # F2 is a gene, and F1 to F512 are not.
    found = [
        column
        for stem, column in zip(stems, file.columns, strict=True)
        if column in known and 2 * of_genes[stem] > everything[stem]
    ]
    if found:
        raise DataError(
            f"{where}: {len(found)} columns of {file.place} are named like its genes ({listed(found)}); "
            "image features hold no expression: remove these columns"
        )


def _say_unknown(file: EmbeddingFile, where: str) -> None:
    """Say what cannot be checked, and where the number of features is not the encoder's."""
    unknown = [what for what, value in (("encoder", file.encoder), ("patch size", file.patch_um)) if value is None]
    if unknown:
        logger.warning(
            "%s: %s does not say its %s, and nothing was checked by it", where, file.place, " and ".join(unknown)
        )
    recipe = recipes().get(file.encoder or "")
    if recipe is not None and recipe.embedding_size != file.values.shape[1]:
        logger.warning(
            "%s: %s has %d features a spot, %s gives %d",
            where,
            file.place,
            file.values.shape[1],
            recipe.name,
            recipe.embedding_size,
        )


def _entry(section: AnnData, file: EmbeddingFile, scale: float | None) -> dict[str, Any]:
    """Describe the features in ``uns``."""
    n_features = file.values.shape[1]
    columns: Sequence[str] = file.columns or [f"{file.encoder or 'embedding'}_{i}" for i in range(n_features)]
    fingerprint = {
        "encoder": EMBEDDINGS,
        "name": file.encoder,
        "n_features": n_features,
        "patch_um": None if file.patch_um is None else round(file.patch_um, 3),
    }
    known: dict[str, Any] = {
        "format": FORMAT,
        "spots": spot_digests(section),
        "encoders": np.array([json.dumps(fingerprint, sort_keys=True)], dtype=object),
        "embeddings": file.digest,
    }
    return {
        "encoder": file.encoder or _UNKNOWN,
        "patch_um": np.nan if file.patch_um is None else file.patch_um,
        "feature_names": np.array(columns, dtype=object),
        "n_features": np.array([n_features]),
        "file": file.place,
        "layout": file.layout,
        "joined_by": "positions" if file.names is None else "names",
        Key.features.made_from: known if scale is None else {**known, "microns_per_pixel": scale},
    }
