"""Compute the image features of spots, and cache them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from rich.progress import Progress, TaskID

from nh2st_graph._errors import ConfigError, setting
from nh2st_graph._progress import console
from nh2st_graph.im._cache import FeatureBlock, FeatureCache, cache_folder, cache_key
from nh2st_graph.im._encoders import Encoder, make_encoders
from nh2st_graph.im._made_from import floored, made_from
from nh2st_graph.im._patches import PatchCutter, microns_per_pixel, patch_cutter, resampling
from nh2st_graph.read import SpatialObject, given_sections
from nh2st_graph.read._docs import documented
from nh2st_graph.section import Key, changed_entry, check_on_tissue, check_section, library, open_image, section_name
from nh2st_graph.slide import ImageSource, Slide, placed_image

__all__ = ["add_features", "feature_bar", "feature_keys", "features"]

#: Spots that are encoded between two writes to the cache, so that an interruption costs minutes of work at most.
_PART_SPOTS = 1024


@documented
def features(
    adata: SpatialObject,
    encoder: str | Sequence[Encoder] = "squidpy:summary+texture+histogram",
    patch_um: float = 224.0,
    *,
    img: ImageSource | None = None,
    layer: str | None = None,
    batch_size: int = 64,
    cache: str | Path | Literal[False] | None = None,
    device: str = "auto",
    progress: bool = True,
    check_placement: bool = True,
    floor_centres: bool = False,
    library_key: str | None = None,
    table_key: str | None = None,
    key_added: str = Key.obsm.image,
    copy: bool = False,
) -> AnnData | None:
    """Compute the image features of every spot, or read them from the cache.

    After an interruption, another call continues: a section of more than 1,024 spots is cached part by part.

    Parameters
    ----------
    adata
        One section with a full-resolution image and its resolution; an AnnData of several sections; or SpatialData,
        whose transformations place the spots on the image. Genes may be absent.
    encoder
        Names of encoders, joined by commas; their features are concatenated. Known are ``timm:NAME``
        (:class:`TimmEncoder`), ``timm-map:NAME`` (:class:`TimmMapEncoder`), ``squidpy:summary+texture+histogram`` or
        some of its parts (:class:`SquidpyEncoder`), and ``pixels:SIDE`` (:class:`PixelsEncoder`). Or encoders from
        :func:`make_encoders`, to share them between calls.
    patch_um
        Side of the patch around a spot, in um on the tissue.
    img, layer
        An image to use in place of the section's own: a file, or squidpy's ``ImageContainer`` and one of its layers.
        If the container has several z positions, their names are those of the sections. ``obsm["spatial"]`` is then
        in pixels of this image.
    batch_size
        Patches that are encoded at a time. The features of a spot depend on its own patch alone.
    cache
        Folder of cached features; by default ``features`` in the folder that the environment variable
        ``NH2ST_GRAPH_CACHE`` names, or in the user's cache directory. False turns the cache off.
    device
        Where timm models run: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    progress
        Show a progress bar on a terminal.
    check_placement
        Check first that spots lie on tissue (:func:`check_placement`). Turn it off for images other than H&E, in which
        colour does not tell tissue from glass.
    floor_centres
        Round the centres of patches down to whole pixels, as some published methods do.
    %(library_key)s
    %(table_key)s
    %(key_added)s
    %(copy)s

    Returns
    -------
    None, or the copy. The result is

    ``obsm[key_added]``
        The features, ``(n_spots, n_features)`` float32; uint8 if all encoders give bytes, such as pixels.
    ``uns[key_added]``
        ``encoder``, ``patch_um``, ``floor_centres``, ``feature_names``; arrays ``input_size``, ``n_features`` and
        ``cache_key``, with one entry for each encoder; ``normalisation``, which has ``interpolation`` and, where used,
        ``mean`` and ``std`` of each encoder, by its position (``"0"``, ``"1"``, ...); and ``made_from``, digests of
        spots, resolution, image and encoders, so that features are used only where all of them agree.

    Raises
    ------
    ConfigError
        If an encoder is unknown, its weights cannot be loaded, or the patch is smaller than a pixel or larger than the
        image.
    DataError
        If the section breaks the contract.
    ImageError
        If the image is missing, cut off, or does not cover the spots; or if the spots lie off the tissue, and would
        lie on it with other coordinates.
    """
    if batch_size < 1:
        raise ConfigError(f"{setting('features.batch_size', batch_size)}; give a number of patches above 0")
    given = given_sections(adata, library_key=library_key, table_key=table_key, copy=copy)
    sources = [section if img is None else _on_image(section, img, layer) for section in given]
    for source in sources:
        check_section(source, need=("image",))
    encoders = make_encoders(encoder, device) if isinstance(encoder, str) else list(encoder)
    with feature_bar(progress) as bar:
        for section, source in zip(given, sources, strict=True):
            with open_image(source) as slide:
                add_features(
                    section,
                    slide,
                    encoders,
                    patch_um,
                    bar=bar,
                    source=source,
                    batch_size=batch_size,
                    cache=cache,
                    check_placement=check_placement,
                    floor_centres=floor_centres,
                    key_added=key_added,
                )
    given.write(obsm=[key_added], uns=[key_added])
    return given.table if copy else None


def add_features(
    section: AnnData,
    slide: Slide,
    encoders: Sequence[Encoder],
    patch_um: float,
    *,
    bar: Progress,
    source: AnnData | None = None,
    batch_size: int = 64,
    cache: str | Path | Literal[False] | None = None,
    check_placement: bool = True,
    floor_centres: bool = False,
    key_added: str = Key.obsm.image,
) -> None:
    """Write the features of one checked section, from its open image.

    Parameters
    ----------
    section
        The section, which is written into.
    slide
        The open image.
    encoders
        From :func:`make_encoders`.
    bar
        Shows the progress.
    source
        The section's spots on this image, if it is not the section's own image.
    patch_um, batch_size, cache, check_placement, floor_centres, key_added
        As for :func:`features`.
    """
    own, source = source is None or source is section, section if source is None else source
    source, store = floored(source) if floor_centres else source, FeatureCache(cache_folder(cache))
    image_hash = slide.content_hash
    keys, blocks = _blocks(source, slide, image_hash, encoders, patch_um, batch_size, bar, store, check_placement)
    _write(section, blocks, encoders, keys, patch_um, key_added)
    section.uns[key_added][Key.features.made_from] = made_from(section, encoders, image_hash if own else None)
    if floor_centres:
        section.uns[key_added][Key.features.floor_centres] = True


def _on_image(section: AnnData, img: ImageSource, layer: str | None) -> AnnData:
    """Put the spots of a section on another image."""
    placed = placed_image(img, section_name(section), layer)
    stored = library(section)
    scale = stored.microns_per_pixel and stored.microns_per_pixel / placed.scale
    entry = changed_entry(stored.entry, source=placed.path, microns_per_pixel=scale)
    return AnnData(
        obs=section.obs,
        obsm={Key.obsm.spatial: placed.pixels(section.obsm[Key.obsm.spatial])},
        uns={Key.uns.spatial: {section_name(section): entry}},
    )


def _blocks(
    adata: AnnData,
    slide: Slide,
    image_hash: str,
    encoders: Sequence[Encoder],
    patch_um: float,
    batch_size: int,
    bar: Progress,
    store: FeatureCache,
    check: bool,
) -> tuple[list[str], list[FeatureBlock]]:
    """Take the features of each encoder from the cache or compute them; give their cache keys beside them."""
    cutter = patch_cutter(adata, patch_um, slide)
    keys = feature_keys(adata, slide, image_hash, [(e.input_size, e.fingerprint) for e in encoders], patch_um)
    kept = [store.read(key) for key in keys]
    if check and any(block is None for block in kept):
        check_on_tissue(adata, slide)
    blocks = [
        _compute(adata, cutter, each, batch_size, bar, store, key) if block is None else block
        for block, key, each in zip(kept, keys, encoders, strict=True)
    ]
    return keys, blocks


def feature_keys(
    adata: AnnData,
    slide: Slide,
    image_hash: str,
    encoders: Sequence[tuple[int, Mapping[str, Any]]],
    patch_um: float,
) -> list[str]:
    """Compute the cache key of the features of each encoder.

    Parameters
    ----------
    adata, slide
        The section with the centres of its patches, and its open image.
    image_hash
        Hash of the image.
    encoders
        Input size and fingerprint of each encoder.
    patch_um
        Side of a patch, in um.
    """
    scale, cutter = microns_per_pixel(adata), patch_cutter(adata, patch_um, slide)
    return [
        cache_key(adata, image_hash, patch_um, scale, fingerprint, slide.downsamples[cutter.level(size)])
        for size, fingerprint in encoders
    ]


def _compute(
    adata: AnnData,
    cutter: PatchCutter,
    encoder: Encoder,
    batch_size: int,
    bar: Progress,
    store: FeatureCache,
    key: str,
) -> FeatureBlock:
    """Encode the patches of a section, cache each part when it is done, and then all parts as one block."""
    # A convolution may round differently in another batch. Batches are filled in the order of the names, so that
    # permuting the spots gives the very same numbers.
    order = np.argsort(adata.obs_names.to_numpy(dtype=str), kind="stable")
    names = [str(name) for name in adata.obs_names[order]]
    # A part is whole batches, so that an interruption does not change which spots share a batch.
    step = batch_size * math.ceil(_PART_SPOTS / batch_size)
    starts = range(0, len(order), step)
    # A single part is the whole section and needs no cache of its own.
    parts = store if len(starts) > 1 else FeatureCache(None)
    task = bar.add_task(f"{section_name(adata)}: {encoder.name}", total=len(order))
    rows = []
    for start in starts:
        part_key = _part_key(key, start, step)
        part = parts.read(part_key)
        if part is None:
            values = _encode(cutter, encoder, order[start : start + step], batch_size, bar, task)
            part = FeatureBlock(names[start : start + step], encoder.feature_names, values)
            parts.write(part_key, part)
        rows.append(part.values)
        bar.update(task, completed=min(start + step, len(order)))
    block = FeatureBlock(names, encoder.feature_names, np.concatenate(rows))
    store.write(key, block)
    for start in starts:
        parts.remove(_part_key(key, start, step))
    return block


def _part_key(key: str, start: int, step: int) -> str:
    return f"{key}.{start}-{step}"


def _encode(
    cutter: PatchCutter, encoder: Encoder, rows: NDArray[np.intp], batch_size: int, bar: Progress, task: TaskID
) -> NDArray[np.float32 | np.uint8]:
    filter_ = resampling(encoder.interpolation)
    encoded = []
    for start in range(0, len(rows), batch_size):
        batch = [cutter.cut(int(i), encoder.input_size, filter_) for i in rows[start : start + batch_size]]
        encoded.append(encoder.encode(np.stack(batch)))
        bar.advance(task, len(batch))
    values = np.concatenate(encoded)
    return values if values.dtype == np.uint8 else values.astype(np.float32, copy=False)


def _write(
    adata: AnnData,
    blocks: Sequence[FeatureBlock],
    encoders: Sequence[Encoder],
    keys: Sequence[str],
    patch_um: float,
    key_added: str,
) -> None:
    rows = [pd.Index(block.spots).get_indexer(adata.obs_names) for block in blocks]
    adata.obsm[key_added] = np.hstack([b.values[r] for b, r in zip(blocks, rows, strict=True)])
    adata.uns[key_added] = {
        "encoder": ",".join(encoder.name for encoder in encoders),
        "patch_um": float(patch_um),
        "feature_names": np.array([n for block in blocks for n in block.names], dtype=object),
        "input_size": np.array([e.input_size for e in encoders]),
        "n_features": np.array([block.values.shape[1] for block in blocks]),
        "cache_key": np.array(keys, dtype=object),
        "normalisation": {str(i): _normalisation(e) for i, e in enumerate(encoders)},
    }


def _normalisation(encoder: Encoder) -> dict[str, Any]:
    values = {key: np.asarray(value) for key, value in encoder.normalisation.items()}
    return {"interpolation": encoder.interpolation, **values}


def feature_bar(progress: bool) -> Progress:
    """Make the progress bar of encoding, which is shown on a terminal only."""
    return Progress(console=console(), transient=True, disable=not (progress and console().is_terminal))
