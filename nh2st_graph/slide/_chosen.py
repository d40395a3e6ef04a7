"""Choose between the resolution that a caller gives and the one that a file states, and check what follows from it."""

from __future__ import annotations

import logging
from typing import Any

from nh2st_graph._errors import ConfigError, DataError, setting
from nh2st_graph._files import positive

__all__ = ["check_scale", "check_size", "chosen_scale", "report_size"]

logger = logging.getLogger("nh2st_graph")

#: Warn if a given resolution differs from that of the file by more than this share.
_AGREE = 0.05
#: No glass slide is longer (the largest are 6 by 8 inches), and one of the usual ones, 76 by 26 or 52 mm, in mm.
_LONGEST_MM, _USUAL_MM = 210.0, 80.0
#: Usual um per pixel of scanned tissue: from a lens of 100x to a small copy of the slide.
_USUAL_UM = (0.05, 10.0)
_KEY = "data.options.microns_per_pixel"
_BY_LENS = "um per pixel is about 10 divided by the magnification: 0.5 at 20x, 0.25 at 40x"

#: A resolution this many times that of the file corrects nothing: it is a slip, or of another image.
_SLIP = 4.0


def check_size(where: str, size: tuple[int, int], scale: float) -> None:
    """Refuse a resolution by which an image is larger than any glass slide.

    Parameters
    ----------
    where
        The image, for messages.
    size
        Its width and height in full-resolution pixels.
    scale
        Its um per pixel.

    Raises
    ------
    ConfigError
        If it is.
    """
    if max(size) * scale > 1e3 * _LONGEST_MM:
        raise ConfigError(
            f"{where}: {_in_mm(size, scale)}, and no glass slide is that long; give another "
            f"{setting(_KEY)} ({_BY_LENS})"
        )


def report_size(where: str, size: tuple[int, int], scale: float) -> None:
    """Warn of a resolution that is unusual, and say how large it makes the image; the arguments are the same.

    Raises
    ------
    ConfigError
        As :func:`check_size` does.
    """
    check_size(where, size, scale)
    low, high = _USUAL_UM
    if not low <= scale <= high or max(size) * scale > 1e3 * _USUAL_MM:
        logger.warning(
            "%s: %s; a usual glass slide is 76 by 26 mm, and %s: check the resolution",
            where,
            _in_mm(size, scale),
            _BY_LENS,
        )


def _in_mm(size: tuple[int, int], scale: float) -> str:
    width, height = (side * scale / 1e3 for side in size)
    return f"{size[0]} x {size[1]} px are {width:.3g} by {height:.3g} mm at {scale:.4g} um per pixel"


def check_scale(where: str, found: Any, given: float) -> None:
    """Refuse a resolution that is none, or no correction of the one that a file states.

    Raises
    ------
    ConfigError
        If the given value is not a number above 0, or four times that of the file or more, or a fourth or less.
    """
    if positive(given) is None:
        raise ConfigError(f"{setting(_KEY, given)}; give um per pixel, above 0")
    stated, named = positive(found), setting(_KEY, given)
    if stated is None:
        return
    factor = given / stated
    if not 1 / _SLIP < factor < _SLIP:
        times = f"{factor:.3g} times that" if factor > 1 else f"{factor:.2g} of that"
        raise ConfigError(
            f"{where}: the file says {stated:.4g} um per pixel, and {named} is {times}; leave "
            f"it out to use {stated:.4g}, or save the image without its resolution if the file is wrong ({_BY_LENS})"
        )


def chosen_scale(where: str, found: Any, given: float | None, advice: str = "") -> float:
    """Choose the um per pixel of an image: the given value, or that of the file.

    Parameters
    ----------
    where
        The image, for messages.
    found
        The value in the file, a number or not; None if there is none.
    given
        The value of the caller.
    advice
        Another way to get the value, for messages.

    Raises
    ------
    ConfigError
        As :func:`check_scale` does.
    DataError
        If there is no value.
    """
    if given is None:
        if found is None:
            raise DataError(f"{where}: the file does not say how many um a pixel is; give {setting(_KEY)}{advice}")
        return found
    check_scale(where, found, given)
    stated = positive(found)
    if stated is not None and abs(stated - given) > _AGREE * given:
        logger.warning("%s: the file says %.4g um per pixel; the given %.4g is used", where, found, given)
    return float(given)
