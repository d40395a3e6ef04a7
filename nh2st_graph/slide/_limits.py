"""Refuse images by the size that they declare, before anything is decoded: a file of 1 kB can declare terabytes."""

from __future__ import annotations

from pathlib import Path

from nh2st_graph._errors import ImageError

__all__ = ["LONGEST_SIDE", "MOST_HELD", "check_held", "check_windows"]

#: Most pixels of an image that is decoded as a whole, 6.4 GB as RGB.
MOST_HELD = 2**31

#: Longest side of an image that is read by windows: 13 cm at 0.25 um per pixel.
LONGEST_SIDE = 2**19

#: More pixels than this, 0.4 GB as RGB, are decoded as a whole only if the file has a byte for every 200 of them: a
#: blank image as JPEG has one for 170.
FREE, MOST_A_BYTE = 2**27, 200


def check_held(path: Path, size: tuple[int, int]) -> None:
    """Refuse to decode an image as a whole that is too large, or declares more than its file can hold.

    Parameters
    ----------
    path
        The file.
    size
        Width and height that it declares, in pixels.

    Raises
    ------
    ImageError
        If it is.
    """
    width, height = _shape(path, size)
    if width * height > MOST_HELD:
        raise ImageError(
            f"image {path} declares {width} x {height} px, {width * height * 3 / 1e9:,.0f} GB if it is decoded as a "
            f"whole, and at most {MOST_HELD:,} px are; export it as a tiled TIFF, which is read by windows"
        )
    n_bytes = path.stat().st_size
    if width * height > max(FREE, MOST_A_BYTE * n_bytes):
        raise ImageError(
            f"image {path} declares {width} x {height} px and has {n_bytes:,} bytes, and no image of tissue has more "
            f"than {MOST_A_BYTE} px a byte; copy or download it again"
        )


def check_windows(path: Path, size: tuple[int, int]) -> None:
    """Refuse an image that no slide is as large as, even if it is read by windows.

    Raises
    ------
    ImageError
        If it is.
    """
    if max(_shape(path, size)) > LONGEST_SIDE:
        raise ImageError(
            f"image {path} declares {size[0]} x {size[1]} px, and no slide is longer than {LONGEST_SIDE:,} px; copy or "
            "download it again"
        )


def _shape(path: Path, size: tuple[int, int]) -> tuple[int, int]:
    if min(size) < 1:
        raise ImageError(f"image {path} declares {size[0]} x {size[1]} px; copy or download it again")
    return size
