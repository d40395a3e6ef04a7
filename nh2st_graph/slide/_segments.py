"""Decode tiles and strips of a TIFF page to RGB, and put windows together from them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from zlib import error as zlib_error

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nh2st_graph._errors import ImageError, reason
from nh2st_graph.slide._colour import Colour

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = [
    "APERIO_LUMA",
    "APERIO_RGB",
    "DAMAGE",
    "JPEG",
    "JPEG_2000",
    "grid",
    "of_luma",
    "raw_segment",
    "segment",
    "subsampling",
    "window",
]

#: Compressions of JPEG, whose decoder converts colours by itself.
JPEG = frozenset({6, 7, 34892, 33007})

#: Compressions of JPEG 2000; Aperio's first keeps luma and chroma, and its last RGB, whatever the colour tag says.
APERIO_LUMA, APERIO_RGB = 33003, 33005
JPEG_2000 = frozenset({APERIO_LUMA, 33004, APERIO_RGB, 34712})

#: Errors of tifffile and the codecs on a damaged file; those of imagecodecs are RuntimeErrors.
DAMAGE = (OSError, EOFError, KeyError, IndexError, ValueError, TypeError, RuntimeError, struct.error, zlib_error)


def grid(page: TiffPage) -> tuple[int, int, int, int]:
    """Return the width and height of a tile or strip, and how many lie beside and below each other."""
    width, height = int(page.imagewidth), int(page.imagelength)
    tile = (int(page.tilewidth), int(page.tilelength)) if page.is_tiled else (width, int(page.rowsperstrip))
    if min(tile) < 1:
        raise ImageError(
            f"image {page.parent.filehandle.path} declares tiles or strips of {tile[0]} x {tile[1]} px; copy or "
            "download it again"
        )
    return *tile, -(-width // tile[0]), -(-height // tile[1])


def subsampling(page: TiffPage) -> tuple[int, int]:
    """Columns and rows of pixels that share a chroma sample and that no codec takes apart."""
    by_codec = page.compression in JPEG_2000 or (page.compression in JPEG and page.planarconfig == 1)
    if page.photometric != 6 or by_codec:
        return 1, 1
    # Without the tag it is 2 x 2 (TIFF 6.0); tifffile knows only of its presence.
    stated = page.tags.valueof(530, (2, 2))
    return int(stated[0]), int(stated[1])


def segment(page: TiffPage, colour: Colour, index: int) -> NDArray[np.uint8] | None:
    """Decode a tile or strip to RGB, ``(height, width, 3)``; None if the file leaves it out.

    Raises
    ------
    ImageError
        If it is damaged.
    """
    samples = raw_segment(page, index)
    return None if samples is None else colour.rgb(samples)


def raw_segment(page: TiffPage, index: int) -> NDArray[Any] | None:
    """Decode a tile or strip as the file keeps it, ``(height, width, samples)``; None if the file leaves it out.

    Raises
    ------
    ImageError
        If it is damaged.
    """
    *_, across, down = grid(page)
    planes = 1 if page.planarconfig == 1 else int(page.samplesperpixel)
    try:
        parts = [_decode(page, plane * across * down + index) for plane in range(planes)]
    except DAMAGE as error:
        path = page.parent.filehandle.path
        raise ImageError(f"image {path} is cut off or damaged ({reason(error)}); copy or download it again") from error
    there = [part for part in parts if part is not None]
    return np.concatenate(there, axis=-1) if len(there) == planes else None


def window(
    page: TiffPage, box: tuple[int, int, int, int], decoded: Callable[[int], NDArray[np.uint8] | None]
) -> NDArray[np.uint8]:
    """Put a box of a page together from its tiles or strips, as they are stored.

    Parameters
    ----------
    page
        The page.
    box
        Left, top, right and bottom, in stored pixels.
    decoded
        Gives a tile or strip as RGB, by its index.
    """
    left, top, right, bottom = box
    width, height, across, _ = grid(page)
    # A file may leave out tiles without tissue: white is the colour of glass.
    pixels = np.full((bottom - top, right - left, 3), 255, dtype=np.uint8)
    for row in range(top // height, -(-bottom // height)):
        for column in range(left // width, -(-right // width)):
            tile = decoded(row * across + column)
            if tile is None:
                continue
            x, y = column * width, row * height
            source = tile[max(top - y, 0) : bottom - y, max(left - x, 0) : right - x]
            below, beside = max(y - top, 0), max(x - left, 0)
            pixels[below : below + source.shape[0], beside : beside + source.shape[1]] = source
    return pixels


def _decode(page: TiffPage, index: int) -> NDArray[Any] | None:
    n_bytes = page.databytecounts[index]
    if n_bytes == 0:
        return None
    options: dict[str, Any] = {"_fullsize": page.is_tiled}
    if page.compression in JPEG:
        options |= {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
    shared = subsampling(page)
    special = page.compression in JPEG_2000 or shared != (1, 1)
    decode, handle = None if special else page.decode, page.parent.filehandle
    # Seek last: the first access to an attribute of the page moves the file position.
    handle.seek(page.dataoffsets[index])
    # A file that declares more bytes than it has would be given the memory for them.
    data = handle.read(min(n_bytes, max(0, handle.size - page.dataoffsets[index])))
    if page.compression in JPEG_2000:
        return _jpeg_2000(data, of_luma(page))
    if decode is None:
        return _shared_chroma(page, data, index, shared)
    decoded, _, shape = decode(data, index, **options)
    return np.asarray(decoded).reshape(shape[1:] if len(shape) == 4 else shape)


def of_luma(page: TiffPage) -> bool:
    """Say whether the samples of a page of JPEG 2000 are luma and chroma."""
    return page.compression == APERIO_LUMA or (page.photometric == 6 and page.compression != APERIO_RGB)


def _jpeg_2000(data: bytes, luma: bool) -> NDArray[Any]:
    import imagecodecs

    at = data.index(b"\xff\x4f\xff\x51")
    n_samples = int.from_bytes(data[at + 40 : at + 42], "big")
    steps = {data[at + 43 + 3 * i : at + 45 + 3 * i] for i in range(n_samples)}
    if luma and at:
        raise ValueError("JPEG 2000 in a box, which states colours of its own")
    decoded = np.asarray(imagecodecs.jpeg2k_decode(data))
    if len(steps) > 1:
        if not luma or n_samples != 3:
            raise ValueError("JPEG 2000 whose red, green and blue differ in size")
        # The decoder enlarges chroma that has fewer pixels than luma, and then also converts to RGB.
        return np.asarray(Image.fromarray(decoded).convert("YCbCr"))
    return decoded[..., None] if decoded.ndim == 2 else decoded


def _shared_chroma(page: TiffPage, data: bytes, index: int, shared: tuple[int, int]) -> NDArray[np.uint8]:
    """Take apart units of several luma samples and one of each chroma (TIFF 6.0, section 21)."""
    from tifffile import TIFF

    if page.compression != 1:
        data = TIFF.DECOMPRESSORS[page.compression](data)
    width, height, across, _ = grid(page)
    rows = height if page.is_tiled else min(height, int(page.imagelength) - index // across * height)
    h, v = shared
    units_across, units_down, unit = -(-width // h), -(-rows // v), h * v + 2
    units = np.frombuffer(data, np.uint8, units_across * units_down * unit).reshape(units_down, units_across, unit)
    luma = units[..., :-2].reshape(units_down, units_across, v, h).swapaxes(1, 2).reshape(units_down * v, -1)
    chroma = units[..., -2:].repeat(v, axis=0).repeat(h, axis=1)
    return np.concatenate((luma[..., None], chroma), axis=-1)[:rows, :width]
