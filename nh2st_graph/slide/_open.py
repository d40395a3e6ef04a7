"""Open a slide or an image with the reader that fits it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nh2st_graph._errors import ImageError
from nh2st_graph.slide._base import Slide
from nh2st_graph.slide._log import say_once, tifffile_said
from nh2st_graph.slide._pillow import open_plain
from nh2st_graph.slide._scene import split_scene
from nh2st_graph.slide._tiff import open_tiff
from nh2st_graph.slide._wsi import APERIO, EXTRA, OTHER_PACKAGES, SCANNERS, WsiSlide, has_extra

__all__ = [
    "IMAGE_ENDINGS",
    "content_hash",
    "image_size",
    "open_full",
    "open_slide",
    "scale_advice",
    "scan_origin",
    "slide_size",
    "thumbnail",
]

#: Endings of the files that :func:`open_slide` reads, some of them with the extra.
IMAGE_ENDINGS = SCANNERS | {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".jp2", ".j2k", ".jpf", ".jpx"),
    *(".tif", ".tiff", ".btf", ".tf2", ".tf8", ".qptiff"),
}


@contextmanager
def open_slide(path: str | Path) -> Iterator[Slide]:
    """Open a slide or image while the block runs.

    Parameters
    ----------
    path
        JPEG, PNG or TIFF. Tiled and pyramidal TIFFs, including OME and Aperio's ``.svs``, are read by windows. If a
        TIFF holds several images, the largest is the slide; another is chosen by its name or number: ``FILE#NAME``,
        ``FILE#1``, or ``FILE##1`` where a number is the name of another image. The extra ``[wsi]`` adds what OpenSlide
        reads: ``.svs``, ``.ndpi``, ``.mrxs``, ``.scn`` and more, and the TIFFs of scanners whose pixels or resolution
        only OpenSlide can read (Philips, Ventana, Leica).

    Yields
    ------
    The slide.

    Raises
    ------
    ImageError
        If the file is missing, damaged, or of a format that no installed reader opens; if its pixels cannot be shown
        rightly; or if it holds several images of equal standing, and none is chosen.
    """
    slide = _open(path)
    try:
        yield slide
    finally:
        slide.close()


@contextmanager
def open_full(path: str | Path) -> Iterator[Image.Image]:
    """Decode a full-resolution image to RGB, and hold it while the block runs.

    Yields
    ------
    The decoded image. Cut regions out of it (``crop``, ``resize(box=...)``): an array of it would be a second copy.

    Raises
    ------
    ImageError
        As for :func:`open_slide`.
    """
    with open_slide(path) as slide:
        decoded = slide.whole()
    try:
        yield decoded
    finally:
        decoded.close()


def slide_size(path: str | Path) -> tuple[int, int]:
    """Read the width and height of a slide or image at full resolution, as it is shown, without decoding it.

    Raises
    ------
    ImageError
        As for :func:`open_slide`.
    """
    with open_slide(path) as slide:
        return slide.sizes[0]


#: The same for a small image.
image_size = slide_size


def scan_origin(path: str | Path) -> tuple[int, int]:
    """Find the pixel from which QuPath counts, x then y; ``(0, 0)`` also for an image that is not there any more.

    See :class:`Slide`. All other viewers and libraries count from ``(0, 0)``.
    """
    try:
        with open_slide(path) as slide:
            return slide.scan_origin
    except ImageError:
        return 0, 0


def thumbnail(path: str | Path, max_side: int = 2000) -> tuple[NDArray[np.uint8], float]:
    """Make a small copy of an image for plots.

    Parameters
    ----------
    path
        The full-resolution image. A JPEG is decoded at reduced size, so that the full image is never in memory.
    max_side
        Longest side of the result, in pixels.

    Returns
    -------
    The RGB image, ``(height, width, 3)``, and its scale: thumbnail pixels per full-resolution pixel.

    Raises
    ------
    ImageError
        As for :func:`open_slide`.
    """
    with open_slide(path) as slide:
        return slide.thumbnail(max_side)


def content_hash(path: str | Path) -> str:
    """Compute the SHA-256 of a file, and of how its pixels are read if that is not the common way, in hexadecimal."""
    with open_slide(path) as slide:
        return slide.content_hash


def _open(source: str | Path) -> Slide:
    path, scene = split_scene(source)
    if not path.is_file():
        raise ImageError(f"image {path} does not exist; give the full-resolution image of the section")
    suffix = path.suffix.lower()
    of_scanner = suffix in SCANNERS
    if (not of_scanner or suffix == APERIO) and _is_tiff(path):
        with tifffile_said() as said:
            slide = _open_tiff(path, scene, suffix == APERIO)
        about = f" ({said[0]})" if said else ""
        if slide is not None:
            if said:
                say_once(f"image {path} is opened, but tifffile says: {said[0]}; if it was cut off, copy it again")
            return slide
        if not of_scanner:
            raise ImageError(
                f"image {path} cannot be read as an image{about}; give a JPEG, PNG or TIFF{_or_extra(path)}"
            )
    if scene is not None:
        raise ImageError(f"image {path} is no TIFF, of which one image could be chosen; give it without #{scene}")
    if of_scanner and has_extra():
        return WsiSlide(path)
    if of_scanner:
        packages = f"{EXTRA} {OTHER_PACKAGES.get(suffix, '')}".rstrip()
        raise ImageError(f"slide {path}: no installed reader opens {suffix}; {packages}")
    return open_plain(path)


def _open_tiff(path: Path, scene: str | None, of_scanner: bool) -> Slide | None:
    """Open with tifffile, or with the extra if it reads the same pixels and knows more of the file.

    It knows more of a scanner's file; of another one if tifffile cannot open it or finds no resolution.
    """
    plain = open_tiff(path, scene)
    if not has_extra() or scene is not None:
        return plain
    layout = None if plain is None else plain.layout
    if layout is not None and (not layout.by_openslide or (layout.resolution is not None and not of_scanner)):
        return plain
    try:
        by_extra = WsiSlide(path)
    except ImageError:
        return plain
    if plain is None or layout is None:
        return by_extra
    # If only the scanner's own reader finds the resolution, it also places tiles and levels right.
    better = by_extra.sizes[0] == plain.sizes[0] if of_scanner else by_extra.microns_per_pixel is not None
    chosen, other = (by_extra, plain) if better else (plain, by_extra)
    other.close()
    if better:
        by_extra.layout = layout
        if layout.resolution is not None:
            by_extra.microns_per_pixel = layout.microns_per_pixel
    return chosen


def _or_extra(path: Path) -> str:
    """Advise to install the extra, if it is missing and may read more of a file; else return an empty string."""
    if has_extra() or not _is_tiff(split_scene(path)[0]):
        return ""
    return f"; if a scanner wrote this TIFF, its own reader may know more: {EXTRA}"


def scale_advice(slide: Slide) -> str:
    """Say why a slide has no resolution, or what may know it: the end of an error message, or an empty string."""
    if slide.layout is not None and slide.layout.resolution is not None:
        x, y = slide.layout.resolution
        return (
            f"; it states {x:.4g} um along x and {y:.4g} um along y: if its pixels are not square, no one value is "
            "right; resample the image so that they are"
        )
    return _or_extra(slide.path)


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}
