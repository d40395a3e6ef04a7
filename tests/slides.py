"""Slides that tests write themselves: tissue on glass, in tiles and levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffWriter

TILE = 256


def tissue_image(side: int, microns_per_pixel: float = 1.0) -> NDArray[np.uint8]:
    """Pink waves in a disc of half the side, off the middle to the left, on glass that is not quite white."""
    x = (np.arange(side) + 0.5) / side
    y = x[:, None]
    disc = (x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.25**2
    waves = 25 * np.sin(x * side * microns_per_pixel / 9) * np.cos(y * side * microns_per_pixel / 11)
    image = np.empty((side, side, 3), np.uint8)
    image[:] = 243, 242, 244
    image[disc] = np.array([190, 110, 160]) + waves[disc][:, None]
    return image


def halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Every pixel the mean of four."""
    height, width = (length // 2 * 2 for length in image.shape[:2])
    rows = image[:height:2, :width].astype(np.uint16) + image[1:height:2, :width]
    return np.round((rows[:, ::2] + rows[:, 1::2]) / np.float32(4)).astype(np.uint8)


def philips(microns_per_pixel: float, levels: int = 3) -> dict[str, str]:
    """Options of :func:`write_pyramid` for a Philips TIFF: the scale, in mm, is in its XML and nowhere else."""

    def attribute(name: str, content: str) -> str:
        return f'<Attribute Name="{name}" Group="0x0028" Element="0x0030" PMSVR="IString">{content}</Attribute>'

    def objects(kind: str, *contents: str) -> str:
        each = (f'<DataObject ObjectType="{kind}">{content}</DataObject>' for content in contents)
        return f"<Array>{''.join(each)}</Array>"

    sides = [f'"{microns_per_pixel * 2**level / 1e3}"' for level in range(levels)]
    spacing = [attribute("DICOM_PIXEL_SPACING", f"{side} {side}") for side in sides]
    pyramid = attribute("PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE", objects("PixelDataRepresentation", *spacing))
    image = attribute("PIM_DP_IMAGE_TYPE", "WSI") + spacing[0] + pyramid
    images = attribute("PIM_DP_SCANNED_IMAGES", objects("DPScannedImage", image))
    xml = f'<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">{images}</DataObject>'
    return {"software": "Philips DP v1.0", "description": xml}


def write_pyramid(
    path: Path,
    side: int,
    microns_per_pixel: float | None = None,
    *,
    image: NDArray[np.uint8] | None = None,
    levels: int = 3,
    compression: str | None = "deflate",
    apart: bool = False,
    tile: int = TILE,
    **first: Any,
) -> Path:
    """Write a tiled TIFF with its smaller copies: as sub-images of the first, or one after another (``apart``).

    ``first`` are options of tifffile for the full resolution.
    """
    image = tissue_image(side, microns_per_pixel or 1.0) if image is None else image
    options = {"tile": (tile, tile), "compression": compression, "photometric": "rgb"}
    if microns_per_pixel is not None:
        first |= {"resolution": (1e4 / microns_per_pixel,) * 2, "resolutionunit": "CENTIMETER"}
    with TiffWriter(path, bigtiff=True) as file:
        file.write(image, subifds=0 if apart else levels - 1, metadata=None, **options, **first)
        for _ in range(1, levels):
            image = halved(image)
            file.write(image, subfiletype=1, metadata=None, **options)
    return path
