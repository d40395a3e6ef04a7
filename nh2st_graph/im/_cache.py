"""The cache of image features: one file for each section and encoder, with the names of the spots."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nh2st_graph._atomic import cache_root, written_aside
from nh2st_graph.section import Key

__all__ = ["FeatureBlock", "FeatureCache", "cache_folder", "cache_key"]

logger = logging.getLogger(__name__)

#: Part of every key. Raise it when what is stored, or how patches are cut, changes.
FORMAT = 3


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
        ``(n_spots, n_features)``, float32 or uint8.
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
) -> str:
    """Hash everything that the features of a section depend on (SHA-256).

    The key depends neither on the order of the spots nor on the place of a file. ``downsample`` is the downsampling
    factor of the slide's level that patches are cut from.
    """
    centres = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64).tolist()
    content = {
        "format": FORMAT,
        "image": image_hash,
        "spots": sorted([str(name), x, y] for name, (x, y) in zip(adata.obs_names, centres, strict=True)),
        "patch_um": float(patch_um),
        "microns_per_pixel": float(microns_per_pixel),
        "encoder": fingerprint,
    }
    if downsample != 1:
        content["downsample"] = downsample
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class FeatureCache:
    """Read and write feature blocks in a folder; without a folder the cache is empty.

    Files are safetensors, so that reading one executes no code. They are written atomically and carry a digest of
    their numbers, so that a damaged file is never used.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def path(self, key: str) -> Path | None:
        """Path of the block of a key, whether it exists or not."""
        return self.folder / f"{key}.safetensors" if self.folder else None

    def read(self, key: str) -> FeatureBlock | None:
        """Read the block of a key; None if there is none or it is damaged."""
        path = self.path(key)
        if path is None:
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                about, values = file.metadata() or {}, file.get_tensor("features")
            digest = _digest(key, about["spots"], about["names"], values)
            # The digest covers the bytes alone, so the type is checked by itself.
            if values.dtype not in (np.float32, np.uint8) or about["digest"] != digest:
                raise ValueError("its content does not match its digest")
            block = FeatureBlock(json.loads(about["spots"]), json.loads(about["names"]), values)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            logger.warning("cached features %s are damaged (%s); computing them again", path, error)
            return None
        return block

    def write(self, key: str, block: FeatureBlock) -> None:
        """Store a block atomically.

        Warn if the folder is not writable: features are then computed again in the next run.
        """
        path = self.path(key)
        if path is None:
            return
        values = np.ascontiguousarray(block.values)
        about = {"spots": json.dumps(block.spots), "names": json.dumps(block.names)}
        about["digest"] = _digest(key, about["spots"], about["names"], values)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_aside(path) as aside:
                aside.write_bytes(save({"features": values}, metadata=about))
        except OSError as error:
            logger.warning("features cannot be cached in %s (%s); choose another folder", path.parent, error)

    def remove(self, key: str) -> None:
        """Delete the block of a key, if there is one."""
        path = self.path(key)
        if path is not None:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _digest(key: str, spots: str, names: str, values: NDArray[np.float32 | np.uint8]) -> str:
    """Hash a file's content and its key (SHA-256)."""
    digest = hashlib.sha256("\n".join((key, spots, names, str(values.shape))).encode())
    digest.update(values.tobytes())
    return digest.hexdigest()
