"""Compute the image features of spots, and cache them."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from rich.progress import Progress

from nh2st_graph._errors import ConfigError, setting
from nh2st_graph._files import is_count
from nh2st_graph._progress import bars
from nh2st_graph.im._blocks import Block, BlockLike, PatchSize, coarse_slide, make_blocks, off_scale
from nh2st_graph.im._cache import MAPPED_BYTES, FeatureBlock, FeatureCache, cache_folder, cache_key, listed_spots
from nh2st_graph.im._default import AUTO
from nh2st_graph.im._encoders import Encoder
from nh2st_graph.im._made_from import floored, made_from
from nh2st_graph.im._patches import PatchCutter, microns_per_pixel, patch_cutter, resampling
from nh2st_graph.im._reading import read_ahead
from nh2st_graph.im._stain import Recolour, Reference, SlideColours, StainChange, as_stain, stain_values
from nh2st_graph.im._views import number_of_views
from nh2st_graph.read import SpatialObject, documented, given_sections
from nh2st_graph.section import (
    Key,
    changed_entry,
    check_finite,
    check_on_tissue,
    check_section,
    content_digest,
    library,
    open_image,
    section_name,
)
from nh2st_graph.slide import ImageSource, Slide, placed_image

__all__ = ["add_features", "feature_bar", "feature_keys", "features", "on_image", "view_features"]

logger = logging.getLogger("nh2st_graph")

#: Spots that are encoded between two writes to the cache, so that an interruption costs minutes of work at most.
_PART_SPOTS = 1024

#: Batches of patches that are read ahead; 0 reads and encodes in turns.
_AHEAD = 2


@documented
def features(
    adata: SpatialObject,
    encoder: str | Sequence[BlockLike] = AUTO,
    patch_um: PatchSize | None = None,
    *,
    views: int = 1,
    stain: Reference | StainChange | None = None,
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
        ``"auto"``: the best without a download, which is ``handcrafted`` at 112, 224 and 448 um, and beside it
        ``efficientnet-lite0`` at these scales where its weights are installed (the extra ``imagenet``). Or names of
        encoders, joined by commas; their features are concatenated. Known are the names of the table of
        encoders, such as ``uni2-h`` or ``uni2-h@FILE``; ``timm:NAME`` (:class:`TimmEncoder`), ``timm-map:NAME``
        (:class:`TimmMapEncoder`), ``hf:ORG/NAME`` (:class:`TransformersEncoder`), ``lazyslide:NAME``
        (:class:`LazySlideEncoder`), ``squidpy:summary+texture+histogram`` or some of its parts
        (:class:`SquidpyEncoder`), ``handcrafted`` or some of its parts, such as ``handcrafted:colour+stain``
        (:class:`HandcraftedEncoder`), and ``pixels:SIDE`` (:class:`PixelsEncoder`). Options follow a name:
        ``uni2-h?pooling=cls+mean&size=448``. Or a list of names,
        of encoders from :func:`make_encoders`, to share them between calls, or of either with a patch of its own:
        ``[("uni2-h", 56), ("uni2-h", 112), "squidpy:summary"]``.
    patch_um
        Side of the patch around a spot, in um on the tissue. ``"auto"`` is the side that the encoder was trained at:
        its input size times its resolution. By default 224, and the three scales of ``encoder="auto"``, for which a
        size given here is the only one.
    views
        Average features over 4 views of a patch (quarter turns) or 8 (mirrored too), which takes as many times as long;
        1 is the patch alone.
    stain
        Bring the colours of patches to this reference before they are encoded: one of :func:`stain_reference`, or what
        ``uns[key_added]["stain"]`` or a file keeps of one. The section's own stain is measured once, on its tissue at
        4 um per px. Glass stays as it is. Or a :class:`StainJitter`, which changes the section's own stain.
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
        Where networks run: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
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
        ``encoder``, ``patch_um`` (an array if encoders have patches of several sizes), ``views``, ``stain`` (method and
        numbers of the reference) and ``floor_centres`` where used, ``feature_names``; arrays ``encoders``,
        ``input_size``, ``n_features`` and ``cache_key``, with one entry for each encoder; ``normalisation``, which has
        ``interpolation`` and, where used, ``mean`` and ``std`` of each encoder, by its position (``"0"``, ``"1"``,
        ...); and ``made_from``, digests of
        spots, resolution, image and encoders, so that features are used only where all of them agree.

    Raises
    ------
    ConfigError
        If an encoder is unknown, its weights cannot be loaded, its scale is asked for and unknown, or the patch is
        smaller than a pixel or larger than the image.
    DataError
        If the section breaks the contract.
    ImageError
        If the image is missing, cut off, or does not cover the spots; or if the spots lie off the tissue, and would
        lie on it with other coordinates.
    """
    if not is_count(batch_size):
        raise ConfigError(f"{setting('features.batch_size', batch_size)}; give a number of patches above 0")
    given = given_sections(adata, library_key=library_key, table_key=table_key, copy=copy)
    sources = [section if img is None else on_image(section, img, layer) for section in given]
    for source in sources:
        check_section(source, need=("image",))
    blocks = make_blocks(encoder, patch_um, views, device)
    if stain is not None:
        blocks = [block._replace(stain=as_stain(stain)) for block in blocks]
    said: set[str] = set()
    for note in off_scale(blocks):
        warn_once(note, note, said)
    with feature_bar(progress) as bar:
        for section, source in zip(given, sources, strict=True):
            for what, note in coarse_slide(source, blocks):
                warn_once(what, note, said)
            with open_image(source) as slide:
                add_features(
                    section,
                    slide,
                    blocks,
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
    blocks: Sequence[Block],
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
    blocks
        From :func:`make_blocks`.
    bar
        Shows the progress.
    source
        The section's spots on this image, if it is not the section's own image.
    batch_size, cache, check_placement, floor_centres, key_added
        As for :func:`features`.
    """
    own, source = source is None or source is section, section if source is None else source
    source, store = floored(source) if floor_centres else source, FeatureCache(cache_folder(cache))
    image_hash = slide.content_hash
    colours = SlideColours(source, slide)
    keys, found = _found(source, colours, slide, image_hash, blocks, batch_size, bar, store, check_placement)
    _write(section, _joined(section, found, store, keys), found, blocks, keys, key_added)
    prints = [block.fingerprint for block in blocks]
    section.uns[key_added][Key.features.made_from] = made_from(section, prints, image_hash if own else None)
    if floor_centres:
        section.uns[key_added][Key.features.floor_centres] = True


def view_features(
    section: AnnData,
    slide: Slide,
    blocks: Sequence[Block],
    jitters: Sequence[StainChange],
    *,
    bar: Progress,
    batch_size: int = 64,
    cache: str | Path | Literal[False] | None = None,
    floor_centres: bool = False,
) -> NDArray[np.float32 | np.uint8]:
    """Compute the features of one checked section as it would look in other stains, from its open image.

    Parameters
    ----------
    section, slide, blocks, bar, batch_size, cache, floor_centres
        As for :func:`add_features`. Nothing is written into the section.
    jitters
        The changes of its stain.

    Returns
    -------
    ``(n_spots, n_jitters, n_features)``, of the type that the section's own features have.

    Raises
    ------
    ImageError
        If the slide has no tissue, or its stain cannot be measured.
    """
    source, store = floored(section) if floor_centres else section, FeatureCache(cache_folder(cache))
    colours, image_hash, views = SlideColours(source, slide), slide.content_hash, []
    for jitter in jitters:
        jittered = [block._replace(stain=jitter) for block in blocks]
        keys, found = _found(source, colours, slide, image_hash, jittered, batch_size, bar, store, check=False)
        views.append(_joined(section, found, store, keys))
    return np.stack(views, axis=1)


def on_image(section: AnnData, img: ImageSource, layer: str | None) -> AnnData:
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


def _found(
    adata: AnnData,
    colours: SlideColours,
    slide: Slide,
    image_hash: str,
    blocks: Sequence[Block],
    batch_size: int,
    bar: Progress,
    store: FeatureCache,
    check: bool,
) -> tuple[list[str], list[FeatureBlock]]:
    """Take the features of each block from the cache or compute them; give their cache keys beside them."""
    cutters = [patch_cutter(adata, block.patch_um, slide) for block in blocks]
    asked = [(block.encoder.input_size, block.fingerprint, block.patch_um) for block in blocks]
    keys = feature_keys(adata, slide, image_hash, asked)
    kept = [store.read(key) for key in keys]
    if check and any(features is None for features in kept):
        check_on_tissue(adata, slide)
    if blocks[0].stain is not None and any(features is None for features in kept):
        recolour = Recolour(colours, blocks[0].stain)
        for cutter in cutters:
            cutter.recolour = recolour
    scales = len({block.patch_um for block in blocks})
    found = []
    for features, key, block, cutter in zip(kept, keys, blocks, cutters, strict=True):
        if features is None:
            at = f" at {block.patch_um:g} um" if scales > 1 else ""
            what = f"{section_name(adata)}: {block.encoder.name}{at}"
            with store.computing(key, what):
                features = store.read(key)  # another process may have computed it by now
                if features is None:
                    task = bar.add_task(what, total=adata.n_obs)
                    advance = partial(bar.advance, task)
                    features = _compute(adata, cutter, block, batch_size, advance, store, key)
        found.append(features)
    return keys, found


def feature_keys(
    adata: AnnData, slide: Slide, image_hash: str, blocks: Sequence[tuple[int, Mapping[str, Any], float]]
) -> list[str]:
    """Compute the cache key of the features of each block.

    Parameters
    ----------
    adata, slide
        The section with the centres of its patches, and its open image.
    image_hash
        Hash of the image.
    blocks
        Input size and fingerprint of each encoder, and the side of its patch in um.
    """
    scale = microns_per_pixel(adata)
    levels = [patch_cutter(adata, patch_um, slide).level(size) for size, _, patch_um in blocks]
    spots = listed_spots(adata)
    return [
        cache_key(adata, image_hash, patch_um, scale, fingerprint, slide.downsamples[level], spots)
        for level, (_, fingerprint, patch_um) in zip(levels, blocks, strict=True)
    ]


def _compute(
    adata: AnnData,
    cutter: PatchCutter,
    block: Block,
    batch_size: int,
    advance: Callable[[int], object],
    store: FeatureCache,
    key: str,
) -> FeatureBlock:
    """Encode the patches of a section, cache each part when it is done, and then all parts as one block."""
    # A convolution may round differently in another batch. Batches are filled in the order of the names, so that
    # permuting the spots gives the very same numbers.
    order = np.argsort(adata.obs_names.to_numpy(dtype=str), kind="stable")
    names = [str(name) for name in adata.obs_names[order]]
    # A part is whole batches, so that an interruption does not change which spots share a batch.
    step, encoder = batch_size * math.ceil(_PART_SPOTS / batch_size), block.encoder
    starts = range(0, len(order), step)
    # A single part is the whole section and needs no cache of its own.
    parts = store if len(starts) > 1 else FeatureCache(None)
    kept = {start: parts.read(_part_key(key, start, step)) for start in starts}
    batches = {
        start: [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        for start, part in ((start, order[start : start + step]) for start in starts)
        if kept[start] is None
    }
    filter_ = resampling(encoder.interpolation)
    cut = (cutter.stack(batch, encoder.input_size, filter_) for batch in chain.from_iterable(batches.values()))
    rows, about = [], {"section": section_name(adata), "encoder": encoder.name, "patch_um": f"{block.patch_um:g}"}
    # While one batch is encoded, a thread reads the next ones. No one else reads the slide meanwhile.
    with closing(read_ahead(cut, _AHEAD)) as patches:
        for start in starts:
            part = kept[start]
            if part is None:
                encoded = []
                for batch in batches[start]:
                    encoded.append(encoder.encode(next(patches)))
                    advance(len(batch))
                values = np.concatenate(encoded)
                values = values if values.dtype == np.uint8 else values.astype(np.float32, copy=False)
                own = names[start : start + step]
                check_finite(values, own, f"section {section_name(adata)!r}: what encoder {encoder.name} gives")
                part = FeatureBlock(own, encoder.feature_names, values)
                parts.write(_part_key(key, start, step), part, **about)
            else:
                advance(len(part.spots))
            rows.append(part.values)
    whole = FeatureBlock(names, encoder.feature_names, np.concatenate(rows))
    store.write(key, whole, **about)
    for start in starts:
        parts.remove(_part_key(key, start, step))
    # Large features stay in their file from here on.
    return (store.read(key) if whole.values.nbytes >= MAPPED_BYTES else None) or whole


def _part_key(key: str, start: int, step: int) -> str:
    return f"{key}.{start}-{step}"


def _write(
    adata: AnnData,
    values: NDArray[np.float32 | np.uint8],
    found: Sequence[FeatureBlock],
    blocks: Sequence[Block],
    keys: Sequence[str],
    key_added: str,
) -> None:
    adata.obsm[key_added] = values
    encoders, sizes = [block.encoder for block in blocks], [float(block.patch_um) for block in blocks]
    adata.uns[key_added] = {
        "encoder": ",".join(encoder.name for encoder in encoders),
        "patch_um": sizes[0] if len(set(sizes)) == 1 else np.array(sizes),
        "feature_names": np.array(_unique_names(found, blocks), dtype=object),
        "encoders": np.array([encoder.name for encoder in encoders], dtype=object),
        "input_size": np.array([encoder.input_size for encoder in encoders]),
        "n_features": np.array([each.values.shape[1] for each in found]),
        "cache_key": np.array(keys, dtype=object),
        "normalisation": {str(i): _normalisation(encoder) for i, encoder in enumerate(encoders)},
    }
    if (views := number_of_views(encoders[0])) > 1:
        adata.uns[key_added][Key.features.views] = views
    if (stain := blocks[0].stain) is not None:
        adata.uns[key_added][Key.features.stain] = stain_values(stain)


def _joined(
    adata: AnnData, found: Sequence[FeatureBlock], store: FeatureCache, keys: Sequence[str]
) -> NDArray[np.float32 | np.uint8]:
    """Join blocks of features, with spots in the order of the section.

    Large blocks are joined in a file of the cache, and mapped from there.
    """
    rows = [pd.Index(each.spots).get_indexer(adata.obs_names) for each in found]
    if not all(np.array_equal(each, np.arange(adata.n_obs)) for each in rows):
        return np.hstack([each.values[r] for each, r in zip(found, rows, strict=True)])
    if len(found) == 1:
        return found[0].values
    if sum(each.values.nbytes for each in found) >= MAPPED_BYTES:
        key = content_digest(["joined", *keys], [])
        if (joined := store.read(key)) is None:
            store.write(key, *found, section=section_name(adata))
            joined = store.read(key)
        if joined is not None:
            return joined.values
    return np.hstack([each.values for each in found])


def _unique_names(found: Sequence[FeatureBlock], blocks: Sequence[Block]) -> list[str]:
    """Name the features of all blocks; where blocks share names, the size of the patch or the encoder tells them."""
    n_blocks = Counter(name for each in found for name in set(each.names))
    names: list[str] = []
    for each, block in zip(found, blocks, strict=True):
        alike = [other for other, its in zip(blocks, found, strict=True) if its.names == each.names]
        by_size = len({other.patch_um for other in alike}) == len(alike)
        tag = f"{block.patch_um:g}um" if by_size else f"{block.encoder.name} {block.patch_um:g}um"
        names += [name if n_blocks[name] == 1 else f"{name} ({tag})" for name in each.names]
    return names


def _normalisation(encoder: Encoder) -> dict[str, Any]:
    values = {key: np.asarray(value) for key, value in encoder.normalisation.items()}
    return {"interpolation": encoder.interpolation, **values}


def warn_once(what: str, note: str, said: set[str]) -> None:
    """Log a warning unless something was said of this before."""
    if what not in said:
        said.add(what)
        logger.warning("%s", note)


def feature_bar(progress: bool) -> Progress:
    """Make the progress bar of encoding, which is shown on a terminal only."""
    return bars(shown=progress)
