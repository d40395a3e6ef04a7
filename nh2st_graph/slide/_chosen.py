"""Choose between the resolution that a caller gives and the one that a file states."""

from __future__ import annotations

import logging
import math
from typing import Any

from nh2st_graph._errors import ConfigError, DataError, setting
from nh2st_graph._files import positive

__all__ = ["check_scale", "chosen_scale"]

logger = logging.getLogger("nh2st_graph")

#: Warn if a given resolution differs from that of the file by more than this share.
_AGREE = 0.05
#: A resolution this many times that of the file corrects nothing: it is a slip, or of another image.
_SLIP = 4.0


def check_scale(where: str, found: Any, given: float) -> None:
    """Refuse a resolution that is none, or no correction of the one that a file states.

    Raises
    ------
    ConfigError
        If the given value is not a number above 0, or four times that of the file or more, or a fourth or less.
    """
    if not (math.isfinite(given) and given > 0):
        raise ConfigError(f"{setting('microns_per_pixel', given)}; give um per pixel, above 0")
    stated = positive(found)
    if stated is None:
        return
    factor = given / stated
    if not 1 / _SLIP < factor < _SLIP:
        times = f"{factor:.3g} times that" if factor > 1 else f"{factor:.2g} of that"
        raise ConfigError(
            f"{where}: the file says {stated:.4g} um per pixel, and {setting('microns_per_pixel', given)} is "
            f"{times}; leave it out to use {stated:.4g}, or save the image without its resolution if the file is "
            "wrong (um per pixel is about 10 divided by the magnification: 0.5 at 20x, 0.25 at 40x)"
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
            raise DataError(
                f"{where}: the file does not say how many um a pixel is; give {setting('microns_per_pixel')}{advice}"
            )
        return found
    check_scale(where, found, given)
    stated = positive(found)
    if stated is not None and abs(stated - given) > _AGREE * given:
        logger.warning("%s: the file says %.4g um per pixel; the given %.4g is used", where, found, given)
    return float(given)
