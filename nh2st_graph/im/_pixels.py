"""Pixels of the patch as features, for methods that read images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nh2st_graph._errors import ConfigError, setting
from nh2st_graph.im._encoders import Encoder, register_encoder

__all__ = ["PixelsEncoder"]


@register_encoder("pixels")
class PixelsEncoder(Encoder):
    """Use the pixels of the patch as features: row by row, column by column, red, green and blue, from 0 to 255.

    Parameters
    ----------
    side
        Side of the patch in pixels, a whole number: ``pixels:112`` gives ``112 * 112 * 3`` features, and ``pixels:1``
        gives the mean colour of the patch.
    device
        Unused.

    Raises
    ------
    ConfigError
        If the side is not a whole number above 0.

    Notes
    -----
    Features are bytes, a quarter of the size of float32. A pixel is the mean over its area if the patch is downsampled,
    and is the image's own pixel if the patch keeps its size, so that nothing is blurred.
    """

    interpolation = "box"
    options: frozenset[str] = frozenset()

    def __init__(self, side: str, device: str = "cpu") -> None:
        del device
        self.check(side)
        self.name = f"pixels:{side}"
        self.input_size = int(side)
        self.normalisation: Mapping[str, Any] = {}
        self.fingerprint: Mapping[str, Any] = {
            "encoder": "pixels",
            "input_size": self.input_size,
            "interpolation": self.interpolation,
        }

    @staticmethod
    def check(side: str) -> None:
        """Refuse a side that is no whole number above 0."""
        if not re.fullmatch("[1-9][0-9]*", side):
            raise ConfigError(
                f"{setting('features.encoder', f'pixels:{side}')}: {side!r} is no side in pixels; "
                "give a whole number above 0, such as pixels:112"
            )

    @staticmethod
    def outside(rest: str) -> None:
        """Say that nothing is opened."""

    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Flatten the patches; see :meth:`Encoder.encode`."""
        return patches.reshape(len(patches), -1)

    @cached_property
    def feature_names(self) -> list[str]:
        """Names by row, column and colour, such as ``pixels_0_0_r``."""
        side = range(self.input_size)
        return [f"pixels_{row}_{column}_{colour}" for row in side for column in side for colour in "rgb"]
