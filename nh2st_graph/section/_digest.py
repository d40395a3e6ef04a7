"""Digests of a section's content, so that results are never taken for those of other data."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import DataError
from nh2st_graph.section._access import array_positions
from nh2st_graph.section._counts import count_blocks
from nh2st_graph.section._keys import Key
from nh2st_graph.section._library import library, library_id
from nh2st_graph.section._patients import patients_in
from nh2st_graph.slide import content_hash, split_scene

__all__ = [
    "DIGITS",
    "content_digest",
    "image_digest",
    "other_sections",
    "say_same_sections",
    "section_digest",
    "spot_digests",
]

logger = logging.getLogger("nh2st_graph")

#: Number of hexadecimal digits of a digest that is written down.
DIGITS = 16

#: Stands for the counts of a section without genes.
_NO_COUNTS = "none"

#: Spots whose counts are hashed at a time.
_BLOCK = 2**14


def section_digest(adata: AnnData, *, counts: bool = True) -> dict[str, str]:
    """Compute a digest of each part of a section, whatever the order of its spots and genes.

    Parameters
    ----------
    adata
        One section.
    counts
        Whether the counts are a part of it: they take the longest.

    Returns
    -------
    ``counts`` (all genes by name), ``positions`` (spots by name, in pixels and on the array), ``resolution`` (um per
    pixel of the image) and ``patient``, each with 16 hexadecimal digits or as it is.
    """
    spots = np.argsort(adata.obs_names.to_numpy(dtype=str), kind="stable")
    names = [str(name) for name in adata.obs_names[spots]]
    in_pixels, array = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64), array_positions(adata)
    positions = [each[spots] for each in (in_pixels, array) if each is not None]
    scale = library(adata).microns_per_pixel if library_id(adata) is not None else None
    return {
        **({"counts": _counts(adata, spots, names)} if counts else {}),
        "positions": content_digest(names, positions),
        "resolution": "unknown" if scale is None else f"{scale:.6g}",
        "patient": ", ".join(patients_in(adata)),
    }


def _counts(adata: AnnData, spots: NDArray[np.intp], names: list[str]) -> str:
    if not adata.n_vars or adata.X is None:
        return _NO_COUNTS
    genes = np.argsort(adata.var_names.to_numpy(dtype=str), kind="stable")
    digest = hashlib.sha256("\n".join([*names, "", *map(str, adata.var_names[genes])]).encode())
    small = np.uint16 if len(genes) <= 2**16 else np.int32
    indices, stored = [], [np.zeros(1, dtype=np.int64)]
    for block in count_blocks(adata, spots, _BLOCK):
        # Two transpositions sort the genes of each spot faster than sorting does.
        counts = block.tocsc()[:, genes].tocsr()
        counts.sum_duplicates()
        counts.eliminate_zeros()
        digest.update(counts.data.astype(np.float64))
        # All counts come before the first index, which waits in few bytes.
        indices.append(counts.indices.astype(small))
        stored.append(np.diff(counts.indptr))
    for each in indices:
        digest.update(each.astype(np.int64))
    digest.update(np.cumsum(np.concatenate(stored), dtype=np.int64).tobytes())
    return digest.hexdigest()[:DIGITS]


def content_digest(names: Iterable[str], arrays: Iterable[NDArray[Any]]) -> str:
    """Compute a digest of names and arrays in this order, of 16 hexadecimal digits."""
    digest = hashlib.sha256("\n".join(names).encode())
    for each in arrays:
        digest.update(np.ascontiguousarray(each).tobytes())
    return digest.hexdigest()[:DIGITS]


def image_digest(source: str | None) -> str | None:
    """Hash the image of a section, once in a process for each state of the file.

    Parameters
    ----------
    source
        The ``source_image_path`` of a section.

    Returns
    -------
    The hash; None without an image, or if it is not there.
    """
    if source is None:
        return None
    try:
        about = split_scene(source)[0].stat()
        return _hash_of(source, about.st_size, about.st_mtime_ns)
    except (OSError, DataError):
        return None


@lru_cache(maxsize=1024)
def _hash_of(source: str, size: int, modified: int) -> str:
    del size, modified  # they tell the states of a file apart
    return content_hash(source)


def spot_digests(adata: AnnData) -> NDArray[np.uint64]:
    """Compute a digest of each spot's name and position, ``(n_spots,)``, so that some of the spots can be compared."""
    # One buffer for all positions: a section may have a million spots.
    places = np.ascontiguousarray(adata.obsm[Key.obsm.spatial], dtype=np.float64).tobytes()
    hashed, size = hashlib.blake2b, 16
    each = [
        hashed(str(name).encode() + b"\0" + places[i * size : (i + 1) * size], digest_size=8).digest()
        for i, name in enumerate(adata.obs_names)
    ]
    return np.frombuffer(b"".join(each), dtype="<u8").astype(np.uint64)


def other_sections(
    before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]], words: str
) -> list[str]:
    """List the sections whose content differs, of those that are in both.

    Parameters
    ----------
    before, now
        Digests of each part by section.
    words
        How to say it: a template of the section's name and its parts.
    """
    found = []
    for name in [each for each in before if each in now]:
        parts = [part for part in before[name] if part in now[name] and before[name][part] != now[name][part]]
        found += [words.format(name, _listed(parts))] if parts else []
    return found


def say_same_sections(digests: Mapping[str, Mapping[str, str]]) -> None:
    """Warn of sections that are there under two names: a score on what was trained on says nothing.

    Parameters
    ----------
    digests
        Those of :func:`section_digest`, by section.
    """
    first: dict[str, str] = {}
    for name, parts in digests.items():
        counts = parts.get("counts", _NO_COUNTS)
        before = name if counts == _NO_COUNTS else first.setdefault(counts, name)
        if before != name:
            logger.warning(
                "sections %r and %r have the same counts in the same spots: one section under two names, whose scores "
                "say nothing where it was trained on; leave one out",
                before,
                name,
            )


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
