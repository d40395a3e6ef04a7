"""Image features of a section's spots, computed once and cached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from rich.console import Console
from rich.progress import Progress

from nh2st_graph._errors import ConfigError
from nh2st_graph._image import content_hash
from nh2st_graph._keys import Key
from nh2st_graph._validate import check_section, section_name
from nh2st_graph.im._cache import FeatureBlock, FeatureCache, cache_folder, cache_key
from nh2st_graph.im._encoders import Encoder, make_encoders
from nh2st_graph.im._patches import PatchCutter, microns_per_pixel, open_patches, resampling, source_image

__all__ = ["features"]


def features(
    adata: AnnData,
    encoder: str = "squidpy:summary+texture+histogram",
    patch_um: float = 112.0,
    *,
    batch_size: int = 64,
    cache: str | Path | Literal[False] | None = None,
    device: str = "auto",
    progress: bool = True,
    key_added: str = Key.obsm.image,
    copy: bool = False,
) -> AnnData | None:
    """Compute the image features of every spot, or read them from the cache.

    Parameters
    ----------
    adata
        One section, with a full-resolution picture and its scale; genes may be absent.
    encoder
        Encoder names joined by commas, whose features are put side by side: ``timm:NAME``
        (:class:`TimmEncoder`), ``timm-map:NAME`` (:class:`TimmMapEncoder`),
        ``squidpy:summary+texture+histogram`` or some of its parts (:class:`SquidpyEncoder`),
        ``pixels:SIDE`` (:class:`PixelsEncoder`).
    patch_um
        Side of the patch around a spot, in um on the tissue.
    batch_size
        Patches encoded at a time. Features of a spot depend on its own patch alone.
    cache
        Folder of cached features; by default ``features`` in the folder that the environment variable
        ``NH2ST_GRAPH_CACHE`` names, or in the user's cache directory. ``False`` neither reads nor writes.
    device
        Where timm models run: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    progress
        Show a progress bar, on a terminal.
    key_added
        Key of ``obsm`` and ``uns`` to write to.
    copy
        Return a copy with the features rather than write into ``adata``.

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
        If the picture is missing, cut off, or does not cover the spots.
    """
    check_section(adata, need=("image",))
    if batch_size < 1:
        raise ConfigError(f"features.batch_size = {batch_size!r}; give a number of patches, above 0")
    encoders = make_encoders(encoder, device)
    image_hash = content_hash(source_image(adata))
    scale = microns_per_pixel(adata)
    keys = [cache_key(adata, image_hash, patch_um, scale, e.fingerprint) for e in encoders]
    store = FeatureCache(cache_folder(cache))
    blocks = [store.read(key) for key in keys]
    missing = [i for i, block in enumerate(blocks) if block is None]
    if missing:
        with open_patches(adata, patch_um) as cutter, _bar(progress) as bar:
            for i in missing:
                blocks[i] = block = _compute(adata, cutter, encoders[i], batch_size, bar)
                store.write(keys[i], block)
    target = adata.copy() if copy else adata
    _write(target, [b for b in blocks if b is not None], encoders, keys, encoder, patch_um, key_added)
    return target if copy else None


def _compute(adata: AnnData, cutter: PatchCutter, encoder: Encoder, batch_size: int, bar: Progress) -> FeatureBlock:
    # By name, so that the order of the spots does not decide which share a batch: a convolution may round
    # differently in another batch, and permuting the spots has to give the very same numbers.
    order = np.argsort(adata.obs_names.to_numpy(dtype=str), kind="stable")
    filter_ = resampling(encoder.interpolation)
    task = bar.add_task(f"{section_name(adata)}: {encoder.name}", total=len(order))
    rows = []
    for start in range(0, len(order), batch_size):
        batch = [cutter.cut(int(i), encoder.input_size, filter_) for i in order[start : start + batch_size]]
        rows.append(encoder.encode(np.stack(batch)))
        bar.advance(task, len(batch))
    values = np.concatenate(rows)
    if values.dtype != np.uint8:
        values = values.astype(np.float32, copy=False)
    return FeatureBlock([str(name) for name in adata.obs_names[order]], encoder.feature_names, values)


def _write(
    adata: AnnData,
    blocks: Sequence[FeatureBlock],
    encoders: Sequence[Encoder],
    keys: Sequence[str],
    name: str,
    patch_um: float,
    key_added: str,
) -> None:
    rows = [pd.Index(block.spots).get_indexer(adata.obs_names) for block in blocks]
    adata.obsm[key_added] = np.hstack([b.values[r] for b, r in zip(blocks, rows, strict=True)])
    adata.uns[key_added] = {
        "encoder": name,
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


def _bar(progress: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not (progress and console.is_terminal))
