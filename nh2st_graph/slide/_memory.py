"""Write pixels from memory or from a store to files that :func:`open_slide` reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nh2st_graph._errors import ImageError, reason
from nh2st_graph._files import cache_root, written_aside
from nh2st_graph.slide._limits import LONGEST_SIDE, MOST_HELD

__all__ = ["keep_pixels"]

_TILE = 512
_CHANNELS = ("r", "g", "b", "a")


def keep_pixels(image: Any, where: str) -> Path:
    """Write an image as a tiled TIFF into the cache folder, unless the file exists.

    Parameters
    ----------
    image
        ``xarray.DataArray`` of dask with the dimensions ``y``, ``x`` and ``c``: 8-bit RGB or RGBA. If channels are
        named ``r``, ``g`` and ``b``, other channels are left out.
    where
        The section, to start an error message with.

    Returns
    -------
    The file, named by a digest of the pixels. One band of rows is in memory at a time.

    Raises
    ------
    ImageError
        If the image is not 8-bit RGB or RGBA, too large, or damaged.
    """
    names = [str(name).lower() for name in image.coords["c"].values] if "c" in image.coords else []
    if set(_CHANNELS[:3]) <= set(names):
        image = image.isel(c=[names.index(name) for name in _CHANNELS if name in names])
    if image.dtype != np.uint8 or image.sizes["c"] not in (3, 4):
        raise ImageError(
            f"{where}: the image has {image.sizes['c']} channels of {image.dtype}, expected red, green and blue "
            "as uint8; give the H&E image"
        )
    pixels = image.transpose("y", "x", "c").data
    height, width = pixels.shape[:2]
    if max(height, width) > LONGEST_SIDE or min(height, width) < 1 or pixels.chunks[0][0] * width > MOST_HELD:
        raise ImageError(
            f"{where}: the image declares {width} x {height} px in chunks of {pixels.chunks[0][0]} rows; at most "
            f"{LONGEST_SIDE:,} px a side and {MOST_HELD:,} px a chunk are read: write it again"
        )
    digest = hashlib.sha256(str(pixels.shape).encode())
    try:
        for band in _bands(pixels):
            digest.update(band.tobytes())
    except Exception as error:  # each codec of a store has its own errors
        raise ImageError(f"{where}: the image is damaged ({reason(error)}); copy or write it again") from error
    path = cache_root() / "images" / f"{digest.hexdigest()}.tif"
    if not path.is_file():
        _write(path, pixels)
    return path


def _bands(pixels: Any) -> Iterator[NDArray[np.uint8]]:
    """Yield bands of whole rows: a multiple of the tile high, and at least as high as a chunk of the store."""
    rows = -(-pixels.chunks[0][0] // _TILE) * _TILE
    for top in range(0, pixels.shape[0], rows):
        yield np.asarray(pixels[top : top + rows])


def _tiles(pixels: Any) -> Iterator[NDArray[np.uint8]]:
    for band in _bands(pixels):
        for top in range(0, band.shape[0], _TILE):
            for left in range(0, band.shape[1], _TILE):
                tile = np.zeros((_TILE, _TILE, band.shape[2]), dtype=np.uint8)
                part = band[top : top + _TILE, left : left + _TILE]
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile


def _write(path: Path, pixels: Any) -> None:
    import tifffile

    with written_aside(path) as aside:
        tifffile.imwrite(
            aside,
            _tiles(pixels),
            shape=pixels.shape,
            dtype=np.uint8,
            tile=(_TILE, _TILE),
            photometric="rgb",
            extrasamples=["unassalpha"] if pixels.shape[2] == 4 else None,
            compression="zlib",
            bigtiff=pixels.nbytes > 2**31,
            metadata=None,
        )
