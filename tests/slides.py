"""Slides that tests write themselves: tissue on glass, in tiles and levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffWriter

TILE = 256


def tissue_picture(side: int, microns_per_pixel: float = 1.0) -> NDArray[np.uint8]:
    """Pink waves in a disc of half the side, off the middle to the left, on glass that is not quite white."""
    x = (np.arange(side) + 0.5) / side
    y = x[:, None]
    disc = (x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.25**2
    waves = 25 * np.sin(x * side * microns_per_pixel / 9) * np.cos(y * side * microns_per_pixel / 11)
    stain, glass = np.array([190, 110, 160]), np.array([243, 242, 244])
    picture = np.where(disc[..., None], stain + waves[..., None], glass)
    return picture.astype(np.uint8)


def halved(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Every pixel the mean of four."""
    height, width = (length // 2 for length in picture.shape[:2])
    blocks = picture[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
    return blocks.mean(axis=(1, 3), dtype=np.float32).round().astype(np.uint8)


def write_pyramid(
    path: Path,
    side: int,
    microns_per_pixel: float | None = None,
    *,
    picture: NDArray[np.uint8] | None = None,
    levels: int = 3,
    compression: str | None = "deflate",
    apart: bool = False,
    tile: int = TILE,
    **first: Any,
) -> Path:
    """Write a tiled TIFF with its smaller copies: as sub-images of the first, or one after another (``apart``).

    ``first`` are options of tifffile for the full resolution.
    """
    picture = tissue_picture(side, microns_per_pixel or 1.0) if picture is None else picture
    options = {"tile": (tile, tile), "compression": compression, "photometric": "rgb"}
    if microns_per_pixel is not None:
        first |= {"resolution": (1e4 / microns_per_pixel,) * 2, "resolutionunit": "CENTIMETER"}
    with TiffWriter(path, bigtiff=True) as file:
        file.write(picture, subifds=0 if apart else levels - 1, metadata=None, **options, **first)
        for _ in range(1, levels):
            picture = halved(picture)
            file.write(picture, subfiletype=1, metadata=None, **options)
    return path
