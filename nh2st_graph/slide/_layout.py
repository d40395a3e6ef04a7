"""What one image of a file is, decided once from the statements of the file; every reader of pixels obeys it."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from nh2st_graph.slide._colour import Colour, sideways
from nh2st_graph.slide._resolution import RESOLUTION_UNITS_UM, Sides, agreed, dots_sides

if TYPE_CHECKING:
    from tifffile import TiffPage

__all__ = [
    "EXPORT",
    "ORIENTATION",
    "Layout",
    "Level",
    "UnreadableError",
    "orientation_of",
    "pillow_layout",
    "shown_size",
]

#: What to do with an image whose pixels cannot be shown rightly.
EXPORT = "export it as an RGB image of 8 bits"

#: Tag of the orientation, in TIFF and in EXIF.
ORIENTATION = 274

#: EXIF's tags of dots along x and y and of their unit, as in TIFF; the unit that holds if none is given.
_DOTS, _UNIT, _INCH = (282, 283), 296, 2
#: JFIF's units, an inch and a cm; 0 means that its dots only say whether pixels are square.
_JFIF_UNITS = (1, 2)


class UnreadableError(Exception):
    """What an image holds that cannot be shown rightly."""


@dataclass(frozen=True)
class Level:
    """The slide, or a smaller copy of it.

    Attributes
    ----------
    size
        Width and height in pixels, as it is shown.
    colour
        What its samples mean.
    page
        Its page in a TIFF.
    """

    size: tuple[int, int]
    colour: Colour
    page: TiffPage | None = None


@dataclass(frozen=True)
class Layout:
    """One image of a file.

    Attributes
    ----------
    levels
        The slide, then its smaller copies, the largest first.
    orientation
        How stored pixels are turned to be shown: 1 to 8, as in TIFF and EXIF.
    resolution
        Width and height of a pixel in um, as the file states them for this image; None if it does not.
    by_openslide
        OpenSlide reads these pixels as we do.
    scene
        The image that was asked for, if the file has others.
    scenes
        All images of the file with their numbers, names and sizes, if it has several.
    """

    levels: tuple[Level, ...]
    orientation: int = 1
    resolution: Sides | None = None
    by_openslide: bool = False
    scene: str | None = None
    scenes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the slide, as it is shown."""
        return self.levels[0].size

    @property
    def microns_per_pixel(self) -> float | None:
        """The one resolution, if the file states one and x and y agree."""
        return agreed(self.resolution)

    @property
    def reading(self) -> str:
        """How pixels are read, where it is not the common way: a part of what features depend on."""
        level = self.levels[0]
        common = level.colour in _COMMON and (level.page is None or self.by_openslide or level.colour.model == "grey")
        if common and self.orientation == 1 and self.scene is None:
            return ""
        return f"{self.scene}, {self.orientation}, {level.colour}"


_COMMON = (Colour("RGB"), Colour("grey"))


def shown_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Return width and height of an image as it is shown."""
    return (height, width) if sideways(orientation) else (width, height)


def orientation_of(value: object) -> int:
    """Return an orientation; what is none of the eight means nothing."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


#: What Pillow's modes mean; it converts these itself.
_MODES = {
    "1": Colour("grey", 1, 1),
    "L": Colour("grey"),
    "LA": Colour("grey", alpha=1),
    "La": Colour("grey", alpha=1, premultiplied=True),
    "P": Colour("palette"),
    "PA": Colour("palette", alpha=1),
    "RGB": Colour("RGB"),
    "RGBX": Colour("RGB"),
    "RGBA": Colour("RGB", alpha=3),
    "RGBa": Colour("RGB", alpha=3, premultiplied=True),
    "CMYK": Colour("CMYK"),
    "YCbCr": Colour("YCbCr"),
}
_GREY_16 = Colour("grey", 16, 2**16 - 1)


def pillow_layout(image: ImageFile) -> Layout:
    """Decide what an image is that Pillow opened, before it is decoded.

    Raises
    ------
    UnreadableError
        If its pixels cannot be shown rightly.
    """
    grey_16 = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    colour = _GREY_16 if grey_16 else _MODES.get(image.mode)
    if colour is None:
        kinds = {"F": "floating-point numbers", "I": "integers of 32 bits", "LAB": "CIE L*a*b*"}
        raise UnreadableError(f"{kinds.get(image.mode, f'pixels of mode {image.mode}')}")
    if isinstance(image, JpegImageFile) and image.mode == "CMYK" and "adobe" not in image.info:
        # Adobe keeps inks inverted, others do not; a file without its marker says neither.
        raise UnreadableError("inks (CMYK) in a JPEG without Adobe's marker, which may be inverted or not")
    orientation = orientation_of(image.getexif().get(ORIENTATION)) if _has_exif(image) else 1
    return Layout(
        (Level(shown_size(*image.size, orientation), colour),),
        orientation,
        _sides(image),
    )


def _sides(image: ImageFile) -> Sides | None:
    """Read um per pixel, as the format states it or else EXIF.

    For a JPEG, Pillow takes EXIF's dots along x for those along y, and dots without a unit for those of an inch.
    """
    if "dpi" in image.info and (not isinstance(image, JpegImageFile) or image.info.get("jfif_unit") in _JFIF_UNITS):
        return dots_sides(image.info["dpi"])
    if not _has_exif(image):
        return None
    exif = image.getexif()
    unit_um = RESOLUTION_UNITS_UM.get(exif.get(_UNIT, _INCH))
    dots = [float(each) for each in map(exif.get, _DOTS) if isinstance(each, Real)]
    return None if unit_um is None or len(dots) < len(_DOTS) else dots_sides(dots, unit_um)


def _has_exif(image: ImageFile) -> bool:
    """Look for EXIF without decoding: Pillow would decode a PNG whole to find a chunk behind the pixels."""
    if image.format != "PNG" or {"exif", "Raw profile type exif", "xmp"} & set(image.info):
        return True
    with Path(str(image.filename)).open("rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            if header[4:] == b"eXIf":
                return True
            file.seek(int.from_bytes(header[:4], "big") + 4, 1)
    return False
