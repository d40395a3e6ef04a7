"""Open a slide or an image with the reader that fits it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nh2st_graph._errors import ImageError
from nh2st_graph.slide._base import Slide
from nh2st_graph.slide._pillow import HeldImage, image_info
from nh2st_graph.slide._resolution import dots_scale
from nh2st_graph.slide._tiff import open_tiff
from nh2st_graph.slide._wsi import APERIO, EXTRA, OTHER_PACKAGES, SCANNERS, WsiSlide, has_extra

__all__ = ["IMAGE_ENDINGS", "open_slide", "or_extra", "slide_size"]

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
        JPEG, PNG or TIFF. Tiled and pyramidal TIFFs, including OME and Aperio's ``.svs``, are read by windows. The
        extra ``[wsi]`` adds what OpenSlide reads: ``.svs``, ``.ndpi``, ``.mrxs``, ``.scn`` and more, and the TIFFs of
        scanners whose pixels or resolution only OpenSlide can read (Philips, Ventana, Leica).

    Yields
    ------
    The slide.

    Raises
    ------
    ImageError
        If the file is missing, damaged, or of a format that no installed reader opens.
    """
    slide = _open(Path(path))
    try:
        yield slide
    finally:
        slide.close()


def slide_size(path: str | Path) -> tuple[int, int]:
    """Read the width and height of a slide or image at full resolution, without decoding it.

    Raises
    ------
    ImageError
        As for :func:`open_slide`.
    """
    with open_slide(path) as slide:
        return slide.sizes[0]


def _open(path: Path) -> Slide:
    if not path.is_file():
        raise ImageError(f"image {path} does not exist; give the full-resolution image of the section")
    suffix = path.suffix.lower()
    of_scanner = suffix in SCANNERS
    if of_scanner and has_extra():
        return WsiSlide(path)
    if (not of_scanner or suffix == APERIO) and _is_tiff(path):
        slide = _open_tiff(path)
        if slide is not None:
            return slide
    if of_scanner:
        packages = f"{EXTRA} {OTHER_PACKAGES.get(suffix, '')}".rstrip()
        raise ImageError(f"slide {path}: no installed reader opens {suffix}; {packages}")
    try:
        size, info = image_info(path)
    except ImageError as error:
        raise ImageError(f"{error.args[0]}{or_extra(path)}") from None
    return HeldImage(path, size, dots_scale(info.get("dpi")))


def _open_tiff(path: Path) -> Slide | None:
    """Open with tifffile, or with the extra if tifffile cannot open it or finds no resolution."""
    plain = open_tiff(path)
    if not has_extra() or (plain is not None and plain.microns_per_pixel is not None):
        return plain
    try:
        by_extra = WsiSlide(path)
    except ImageError:
        return plain
    if plain is None:
        return by_extra
    # If only the scanner's own reader finds the resolution, it also places tiles and levels right.
    chosen, other = (plain, by_extra) if by_extra.microns_per_pixel is None else (by_extra, plain)
    other.close()
    return chosen


def or_extra(path: Path) -> str:
    """Advise to install the extra, if it is missing and may read more of a file; else return an empty string."""
    if has_extra() or not _is_tiff(path):
        return ""
    return f"; if a scanner wrote this TIFF, its own reader may know more: {EXTRA}"


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}
