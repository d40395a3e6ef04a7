"""Resolution in um per pixel, as files state it: dots per inch, TIFF tags, OME-XML, Aperio's description."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

__all__ = ["aperio_scale", "dots_scale", "ome_scale", "plausible_scale"]

_INCH_UM = 25_400.0

#: Resolutions of microscopes. A file with 72 dots per inch (353 um per pixel) means a screen, one with 300 a printer.
_PLAUSIBLE_UM = (0.02, 20.0)

#: The resolutions along x and y are equal, except for rounding.
_AGREE = 0.02

_UM = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}


def dots_scale(dots: tuple[float, float] | None, unit_um: float = _INCH_UM) -> float | None:
    """Convert dots per unit (x, y; an inch by default) to um per pixel; None if no microscope has that resolution."""
    if dots is None or not min(dots) > 0:
        return None
    return _agreed(*(unit_um / float(each) for each in dots))


def aperio_scale(description: str) -> float | None:
    """Read um per pixel from the description of an Aperio slide (``...|MPP = 0.2521|...``); None if it has none."""
    if not description.startswith("Aperio"):
        return None
    found = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", description)
    return _agreed(float(found[1]), float(found[1])) if found else None


def ome_scale(xml: str | None) -> float | None:
    """Read um per pixel from OME-XML (``PhysicalSizeX``, ``PhysicalSizeY`` and their units); None if it has none."""
    if not xml:
        return None
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    pixels: Any = next((each for each in root.iter() if each.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None or "PhysicalSizeX" not in pixels.attrib:
        return None
    x, y = (
        float(pixels.get(f"PhysicalSize{axis}", pixels.get("PhysicalSizeX")))
        * _UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"), 0.0)
        for axis in "XY"
    )
    return _agreed(x, y)


def plausible_scale(um: float | None) -> float | None:
    """Return the resolution if a microscope can have it, else None."""
    return None if um is None else _agreed(um, um)


def _agreed(x: float, y: float) -> float | None:
    """Return the mean of two resolutions if they agree and a microscope can have it, else None."""
    low, high = _PLAUSIBLE_UM
    mean = (x + y) / 2
    return mean if low <= mean <= high and abs(x - y) <= _AGREE * mean else None
