"""The cache of image features: one file for each section and encoder, with the names of the spots."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from nh2st_graph._errors import RunError
from nh2st_graph._files import cache_root, one_at_a_time, written_aside
from nh2st_graph.im._cache_limit import cache_limit, keep_in_use, shrink_cache
from nh2st_graph.section import Key

__all__ = ["MAPPED_BYTES", "FeatureBlock", "FeatureCache", "cache_folder", "cache_key", "listed_spots"]

logger = logging.getLogger(__name__)

#: Part of every key. Raise it when what is stored, or how patches are cut, changes.
FORMAT = 3

#: Spots that are written as text at a time, and bytes that are read at a time.
_SPOTS, _BYTES = 2**16, 2**24

#: Features of this many bytes and more stay in their file, and are read where they are asked for.
MAPPED_BYTES = 2**27

#: safetensors' names of the types.
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "U8": np.dtype(np.uint8)}


@dataclass(frozen=True)
class FeatureBlock:
    """The features of one section by one encoder.

    Attributes
    ----------
    spots
        Spot names, one for each row.
    names
        Feature names, one for each column.
    values
        ``(n_spots, n_features)``, float32 or uint8; large ones from the cache are mapped from their file, read-only.
    """

    spots: list[str]
    names: list[str]
    values: NDArray[np.float32 | np.uint8]


def cache_folder(cache: str | Path | Literal[False] | None) -> Path | None:
    """Find the folder of cached features: the given one, or the default; None if the cache is off."""
    if cache is False:
        return None
    if cache is not None:
        return Path(cache).expanduser()
    return cache_root() / "features"


def cache_key(
    adata: AnnData,
    image_hash: str,
    patch_um: float,
    microns_per_pixel: float,
    fingerprint: Mapping[str, Any],
    downsample: float = 1.0,
    spots: Sequence[str] | None = None,
) -> str:
    """Hash everything that the features of a section depend on (SHA-256).

    The key depends neither on the order of the spots nor on the place of a file. ``downsample`` is the downsampling
    factor of the slide's level that patches are cut from; ``spots`` is :func:`listed_spots` of the section, for several
    keys of one section.
    """
    content = {
        "format": FORMAT,
        "image": image_hash,
        "patch_um": float(patch_um),
        "microns_per_pixel": float(microns_per_pixel),
        "encoder": fingerprint,
    }
    if downsample != 1:
        content["downsample"] = downsample
    # The spots come last in the order of the keys: they are written by blocks, and the rest stays short.
    digest = hashlib.sha256(json.dumps(content, sort_keys=True)[:-1].encode())
    digest.update(b', "spots": [')
    for block in listed_spots(adata) if spots is None else spots:
        digest.update(block.encode())
    digest.update(b"]}")
    return digest.hexdigest()


def listed_spots(adata: AnnData) -> list[str]:
    """List the name, x and y of each spot as JSON without the outer brackets, in order of the names, by blocks."""
    names = adata.obs_names.to_numpy(dtype=str)
    order = np.argsort(names, kind="stable")
    x, y = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64)[order].T
    blocks = []
    for start in range(0, len(order), _SPOTS):
        part = slice(start, start + _SPOTS)
        rows = zip(names[order[part]].tolist(), x[part].tolist(), y[part].tolist(), strict=True)
        blocks.append((", " if start else "") + json.dumps(list(rows))[1:-1])
    return blocks


class FeatureCache:
    """Read and write feature blocks in a folder; without a folder the cache is empty.

    Files are safetensors, so that reading one executes no code. They are written atomically and carry a digest of
    their numbers, so that a damaged file is never used. The files that were not used for longest go once all are larger
    than the limit.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.limit = folder, cache_limit()
        self._damaged: set[str] = set()

    def path(self, key: str) -> Path | None:
        """Path of the block of a key, whether it exists or not."""
        return self.folder / f"{key}.safetensors" if self.folder else None

    def read(self, key: str) -> FeatureBlock | None:
        """Read the block of a key; None if there is none or it is damaged."""
        path = self.path(key)
        if path is None or key in self._damaged:
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                about, stored = file.metadata() or {}, file.get_slice("features")
                shape, type_ = stored.get_shape(), _TYPES.get(stored.get_dtype())
            # The digest covers the bytes alone, so the type is checked by itself.
            if type_ is None or about["digest"] != _digest(key, about["spots"], about["names"], shape, _bytes(path)):
                raise ValueError("its content does not match its digest")
            block = FeatureBlock(json.loads(about["spots"]), json.loads(about["names"]), _values(path, shape, type_))
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            logger.warning("cached features %s are damaged (%s); computing them again", path, error)
            self._damaged.add(key)
            return None
        with suppress(OSError):  # the time of a file is that of its last use
            os.utime(path)
        return block

    @contextmanager
    def computing(self, key: str, what: str) -> Iterator[None]:
        """Let one process at a time compute the block of a key; the others wait, and should look for it then.

        Parameters
        ----------
        key
            The key.
        what
            What a message calls the block.
        """
        with ExitStack() as stack:
            if self.folder is not None:
                message = f"{what}: another process computes these features; waiting for them"
                place = self.folder / f".{key}.lock"
                stack.enter_context(one_at_a_time(place, lambda: logger.info("%s", message)))
            yield

    def write(self, key: str, *blocks: FeatureBlock, **about: str) -> None:
        """Store a block atomically, or several of the same spots side by side.

        Warn if the folder is not writable: features are then computed again in the next run.

        Parameters
        ----------
        key
            The key.
        blocks
            The block, or several.
        about
            What :func:`cached` shows of the file: ``section``, ``encoder`` and ``patch_um``.
        """
        path = self.path(key)
        if path is None:
            return
        shape = (len(blocks[0].spots), sum(len(block.names) for block in blocks))
        type_ = np.result_type(*(block.values.dtype for block in blocks))
        step = max(1, _BYTES // max(1, shape[1] * type_.itemsize))

        def rows() -> Iterator[bytes]:
            for start in range(0, shape[0], step):
                parts = [block.values[start : start + step] for block in blocks]
                yield np.hstack(parts, dtype=type_, casting="unsafe").tobytes()

        names = [name for block in blocks for name in block.names]
        about |= {"spots": json.dumps(blocks[0].spots), "names": json.dumps(names)}
        about["digest"] = _digest(key, about["spots"], about["names"], shape, rows())
        try:
            with written_aside(path) as aside, aside.open("wb") as file:
                file.write(_header(about, shape, type_))
                file.writelines(rows())
            self._damaged.discard(key)
            shrink_cache(path.parent, self.limit, keep=path)
        except (OSError, RunError) as error:
            logger.warning("features cannot be cached in %s (%s); choose another folder", path.parent, error)

    def remove(self, key: str) -> None:
        """Delete the block of a key, if there is one."""
        path = self.path(key)
        if path is not None:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _header(about: Mapping[str, str], shape: tuple[int, int], type_: np.dtype[Any]) -> bytes:
    """Write the beginning of a safetensors file: its length, and JSON that ends at a multiple of 8 bytes."""
    name = next(name for name, known in _TYPES.items() if known == type_)
    features = {"dtype": name, "shape": shape, "data_offsets": [0, shape[0] * shape[1] * type_.itemsize]}
    text = json.dumps({"__metadata__": about, "features": features}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _start(path: Path) -> int:
    """Find the first byte of the numbers in a file that safetensors opens: all of its one tensor."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _bytes(path: Path) -> Iterator[bytes]:
    """Read the numbers of a file some at a time; a mapped file would count as memory once it is read."""
    with path.open("rb") as file:
        file.seek(_start(path))
        while block := file.read(_BYTES):
            yield block


def _values(path: Path, shape: Sequence[int], type_: np.dtype[Any]) -> NDArray[np.float32 | np.uint8]:
    """Give the numbers of a file: mapped and read-only if they are large."""
    start = _start(path)
    if shape[0] * shape[1] * type_.itemsize < MAPPED_BYTES:
        return np.fromfile(path, dtype=type_, offset=start).reshape(shape)
    mapped = np.memmap(path, dtype=type_, mode="r", offset=start, shape=(shape[0], shape[1]))
    keep_in_use(path, mapped)
    return np.asarray(mapped)


def _digest(key: str, spots: str, names: str, shape: Sequence[int], values: Iterable[bytes]) -> str:
    """Hash a file's content and its key (SHA-256)."""
    digest = hashlib.sha256("\n".join((key, spots, names, str(tuple(shape)))).encode())
    for block in values:
        digest.update(block)
    return digest.hexdigest()
