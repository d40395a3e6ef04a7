"""Resolution in um per pixel, as files state it: dots per inch, TIFF tags, OME-XML, descriptions of Aperio and ImageJ.

A statement is a pair, along x and y. Where both differ, the file states no one resolution, and nothing else is asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

__all__ = [
    "RESOLUTION_UNITS_UM",
    "OmeImage",
    "Sides",
    "agreed",
    "aperio_scale",
    "dots_sides",
    "imagej_sides",
    "ome_images",
    "plausible_scale",
]

#: Width and height of a pixel in um.
Sides = tuple[float, float]

_INCH_UM = 25_400.0

#: What the tag of the unit means, in TIFF and in EXIF; another value names no length.
RESOLUTION_UNITS_UM = {2: _INCH_UM, 3: 10_000.0}

#: Resolutions of microscopes. A file with 72 dots per inch (353 um per pixel) means a screen, one with 300 a printer.
_PLAUSIBLE_UM = (0.02, 20.0)

#: The resolutions along x and y are equal, except for rounding.
_AGREE = 0.02

_UM = {
    "pm": 1e-6,
    "Å": 1e-4,
    "\u212b": 1e-4,
    "nm": 1e-3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "in": _INCH_UM,
}

#: Units of ImageJ in um. ImageJ escapes what is not ASCII, and users type units themselves.
_IMAGEJ_UM = {
    **_UM,
    **dict.fromkeys(("micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"), 1.0),
    **dict.fromkeys(("inch", "inches"), _INCH_UM),
}


@dataclass(frozen=True)
class OmeImage:
    """An ``Image`` of OME-XML.

    Attributes
    ----------
    name
        Its name, if it has one.
    page
        Number of its first page in the file.
    sides
        Width and height of a pixel in um, if they are stated.
    bits
        Bits of a sample that are used, if they are stated.
    """

    name: str | None
    page: int
    sides: Sides | None
    bits: int | None


def agreed(sides: Sides | None) -> float | None:
    """Return the one resolution of a statement; None if x and y differ, or no microscope has it."""
    if sides is None:
        return None
    x, y = sides
    low, high = _PLAUSIBLE_UM
    mean = (x + y) / 2
    return mean if low <= mean <= high and abs(x - y) <= _AGREE * mean else None


def plausible(sides: Sides) -> Sides | None:
    """Return a statement if a microscope can have the resolution of either side, else None: it means something else."""
    low, high = _PLAUSIBLE_UM
    return sides if any(low <= each <= high for each in sides) else None


def plausible_scale(um: float | None) -> float | None:
    """Return the resolution if a microscope can have it, else None."""
    return None if um is None else agreed((um, um))


def dots_sides(dots: Sequence[float] | None, unit_um: float = _INCH_UM) -> Sides | None:
    """Convert dots per unit (x, y; an inch by default) to um per pixel; None if no microscope has that resolution."""
    if dots is None or not min(dots) > 0:
        return None
    x, y = dots
    return plausible((unit_um / float(x), unit_um / float(y)))


def imagej_sides(about: Mapping[str, Any] | None, dots: Sequence[float]) -> Sides | None:
    """Convert dots (x, y) per unit, which ImageJ names in its description, to um per pixel; None if it names none."""
    across = (about or {}).get("unit")
    units = [_imagej_um(each) for each in (across, (about or {}).get("yunit", across))]
    if None in units or not min(dots) > 0:
        return None
    x, y = (unit / float(each) for unit, each in zip(units, dots, strict=True) if unit is not None)
    return plausible((x, y))


def _imagej_um(unit: Any) -> float | None:
    name = re.sub(r"\\u(00b5|03bc)", "u", str(unit).strip(), flags=re.IGNORECASE)
    return _IMAGEJ_UM.get(name, _IMAGEJ_UM.get(name.lower()))


def aperio_scale(description: str) -> float | None:
    """Read um per pixel from the description of an Aperio slide (``...|MPP = 0.2521|...``); None if it has none."""
    if not description.startswith("Aperio"):
        return None
    found = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", description)
    return plausible_scale(float(found[1])) if found else None


def ome_images(xml: str | None) -> list[OmeImage]:
    """List the images that OME-XML describes: each with its own resolution (``PhysicalSizeX``, ``PhysicalSizeY``)."""
    if not xml:
        return []
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return []
    found = []
    for image in _named(root, "Image"):
        for pixels in _named(image, "Pixels"):
            first = next(iter(_named(pixels, "TiffData")), None)
            page = 0 if first is None else int(first.get("IFD", 0))
            bits = pixels.get("SignificantBits", "")
            found.append(OmeImage(image.get("Name"), page, _ome_sides(pixels), int(bits) if bits.isdecimal() else None))
    return found


def _named(above: Any, tag: str) -> list[Any]:
    return [each for each in above.iter() if each.tag.rpartition("}")[2] == tag]


def _ome_sides(pixels: Any) -> Sides | None:
    if "PhysicalSizeX" not in pixels.attrib:
        return None
    # Without a height, pixels are square, and the unit is that of the width too.
    axes = ("X", "Y" if "PhysicalSizeY" in pixels.attrib else "X")
    try:
        x, y = (
            float(pixels.get(f"PhysicalSize{axis}")) * _UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"), 0.0)
            for axis in axes
        )
    except ValueError:
        return None
    return plausible((x, y))
