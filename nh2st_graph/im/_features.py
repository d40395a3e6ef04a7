"""Image features of a section's spots, computed once and cached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, TaskID

from nh2st_graph._errors import ConfigError
from nh2st_graph.im._cache import FeatureBlock, FeatureCache, cache_folder, cache_key
from nh2st_graph.im._encoders import Encoder, make_encoders
from nh2st_graph.im._patches import PatchCutter, microns_per_pixel, patch_cutter, resampling, source_image
from nh2st_graph.read import SpatialObject, given_sections
from nh2st_graph.read._docs import documented
from nh2st_graph.section import Key, changed_entry, check_on_tissue, check_section, library, open_image, section_name
from nh2st_graph.slide import ImageSource, Slide, content_hash, placed_image

__all__ = ["add_features", "feature_bar", "features"]

#: Spots that are encoded between two writes to the cache: minutes of work, of which an interruption costs the last.
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
    library_key: str | None = None,
    table_key: str | None = None,
    key_added: str = Key.obsm.image,
    copy: bool = False,
) -> AnnData | None:
    """Compute the image features of every spot, or read them from the cache.

    Of more than a thousand spots, the cache holds what is done so far, and another call goes on from there.

    Parameters
    ----------
    adata
        One section, with a full-resolution image and its scale; several in one, with ``library_key``; or SpatialData,
        whose images are taken by its transformations. Genes may be absent.
    encoder
        Encoder names joined by commas, whose features are put side by side: ``timm:NAME``
        (:class:`TimmEncoder`), ``timm-map:NAME`` (:class:`TimmMapEncoder`),
        ``squidpy:summary+texture+histogram`` or some of its parts (:class:`SquidpyEncoder`),
        ``pixels:SIDE`` (:class:`PixelsEncoder`). Or encoders that :func:`make_encoders` made, to share them between
        calls.
    patch_um
        Side of the patch around a spot, in um on the tissue.
    img, layer
        Another image than the section's own: a file, or squidpy's ``ImageContainer`` and a layer of it, whose z
        positions are named by the sections where it has several. ``obsm["spatial"]`` is in its pixels.
    batch_size
        Patches encoded at a time. Features of a spot depend on its own patch alone.
    cache
        Folder of cached features; by default ``features`` in the folder that the environment variable
        ``NH2ST_GRAPH_CACHE`` names, or in the user's cache directory. ``False`` neither reads nor writes.
    device
        Where timm models run: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    progress
        Show a progress bar, on a terminal.
    check_placement
        Before anything is encoded, look whether spots lie on tissue (:func:`check_placement`). For images other than
        of H&E, in which tissue is not told from glass by its colour, turn it off.
    %(library_key)s
    %(table_key)s
    %(key_added)s
    %(copy)s

    Returns
    -------
    Nothing, or the copy. Written are ``obsm[key_added]``, ``(n_spots, n_features)`` float32 (uint8 where all of
    the joined encoders give bytes, as pixels are), and ``uns[key_added]``: ``encoder``, ``patch_um``,
    ``feature_names``, and for each of the joined encoders ``input_size``, ``n_features``, ``cache_key``
    (arrays) and ``normalisation`` (by its position, ``"0"``, ``"1"``, ...: ``interpolation``, and ``mean`` and
    ``std`` where it has them).

    Raises
    ------
    ConfigError
        If the encoder is unknown or its weights cannot be had, or the patch cannot be cut.
    DataError
        If the section breaks the contract.
    ImageError
        If the image is missing, cut off, or does not cover the spots; or if they lie off the tissue, and other
        coordinates would not.
    """
    if batch_size < 1:
        raise ConfigError(f"features.batch_size = {batch_size!r}; give a number of patches, above 0")
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
    key_added: str = Key.obsm.image,
) -> None:
    """Write the features of one section that was checked, from its open image.

    Parameters
    ----------
    section
        What is written into.
    slide
        The open image.
    encoders
        From :func:`make_encoders`.
    bar
        Shows the progress.
    source
        The section's spots on this image, where it is another than its own.
    patch_um, batch_size, cache, check_placement, key_added
        As for :func:`features`.
    """
    source, store = section if source is None else source, FeatureCache(cache_folder(cache))
    keys, blocks = _blocks(source, slide, encoders, patch_um, batch_size, bar, store, check_placement)
    _write(section, blocks, encoders, keys, patch_um, key_added)


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
    encoders: Sequence[Encoder],
    patch_um: float,
    batch_size: int,
    bar: Progress,
    store: FeatureCache,
    check: bool,
) -> tuple[list[str], list[FeatureBlock]]:
    """Features of each encoder, from the cache where they are there, and their keys in it."""
    image_hash = content_hash(source_image(adata))
    scale = microns_per_pixel(adata)
    cutter = patch_cutter(adata, patch_um, slide)
    levels = [slide.downsamples[cutter.level(e.input_size)] for e in encoders]
    keys = [
        cache_key(adata, image_hash, patch_um, scale, e.fingerprint, level)
        for e, level in zip(encoders, levels, strict=True)
    ]
    kept = [store.read(key) for key in keys]
    if check and any(block is None for block in kept):
        check_on_tissue(adata, slide)
    blocks = [
        _compute(adata, cutter, each, batch_size, bar, store, key) if block is None else block
        for block, key, each in zip(kept, keys, encoders, strict=True)
    ]
    return keys, blocks


def _compute(
    adata: AnnData,
    cutter: PatchCutter,
    encoder: Encoder,
    batch_size: int,
    bar: Progress,
    store: FeatureCache,
    key: str,
) -> FeatureBlock:
    """Encode the patches of a section part by part, each kept as soon as it is done; then store all of them as one."""
    # By name, so that the order of the spots does not decide which share a batch: a convolution may round
    # differently in another batch, and permuting the spots has to give the very same numbers.
    order = np.argsort(adata.obs_names.to_numpy(dtype=str), kind="stable")
    names = [str(name) for name in adata.obs_names[order]]
    # Whole batches, so that a batch holds the same spots whether or not its encoding was interrupted.
    step = batch_size * math.ceil(_PART_SPOTS / batch_size)
    starts = range(0, len(order), step)
    # One part is the whole; there is nothing to go on from.
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
    """Make the bars that show how many patches are encoded, on a terminal."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not (progress and console.is_terminal))
