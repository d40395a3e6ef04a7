"""Turn samples as files keep them into RGB of 8 bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["LUMA", "N_COLOURS", "Colour", "Model", "sideways", "stored_box", "turned"]

Model = Literal["grey", "palette", "RGB", "YCbCr", "CMYK"]

#: Samples of a pixel that are colour.
N_COLOURS: dict[Model, int] = {"grey": 1, "palette": 1, "RGB": 3, "YCbCr": 3, "CMYK": 4}

#: Shares of red, green and blue in luma that hold unless a file says otherwise (CCIR 601).
LUMA = (0.299, 0.587, 0.114)

#: For each orientation (TIFF's tag 274, also in EXIF): exchange rows and columns, then reverse rows, reverse columns.
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@dataclass(frozen=True)
class Colour:
    """What the samples of a pixel mean.

    Attributes
    ----------
    model
        The colour model.
    bits
        Bits a sample.
    top
        The highest value of a sample: white, or full ink.
    inverted
        Grey whose 0 is white.
    alpha
        Index of the sample that is alpha, if any. Other extra samples are no colour, and are left out.
    premultiplied
        Colours are already multiplied by alpha ("associated").
    palette
        ``(n, 3)`` uint8: the RGB of each value.
    luma
        Shares of red, green and blue in luma.
    reference
        Black and white of luma and of both chroma samples, if they differ from the full range.
    """

    model: Model
    bits: int = 8
    top: int = 255
    inverted: bool = False
    alpha: int | None = None
    premultiplied: bool = False
    palette: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    luma: tuple[float, float, float] = LUMA
    reference: tuple[float, ...] | None = None

    def rgb(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        """Convert samples, ``(height, width, n)``, to RGB, ``(height, width, 3)``; what is transparent is on white."""
        colours = samples[..., : N_COLOURS[self.model]]
        if self.model == "palette":
            assert self.palette is not None
            rgb = self.palette[np.minimum(colours[..., 0], len(self.palette) - 1)]
        elif self.model == "YCbCr":
            rgb = self._from_luma(colours)
        elif self.model == "CMYK":
            ink = self._bytes(colours).astype(np.uint16)
            light = 255 - ink[..., 3:]
            rgb = (light - (ink[..., :3] * light + 127) // 255).astype(np.uint8)
        elif self.model == "grey":
            grey = self._bytes(colours)
            rgb = np.repeat(255 - grey if self.inverted else grey, 3, axis=-1)
        else:
            rgb = self._bytes(colours)
        if self.alpha is None:
            return rgb
        alpha = self._bytes(samples[..., self.alpha : self.alpha + 1]).astype(np.uint32)
        if self.premultiplied:
            return np.minimum(rgb + (255 - alpha), 255).astype(np.uint8)
        return ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)

    def _bytes(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        if samples.dtype == np.uint8 and self.top == 255:
            return samples
        if samples.dtype == np.bool_:
            return samples * np.uint8(255)
        return ((np.minimum(samples, self.top).astype(np.uint32) * 255 + self.top // 2) // self.top).astype(np.uint8)

    def _from_luma(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        """Convert luma and chroma; TIFF 6.0, section 21."""
        middle = (self.top + 1) // 2
        black_white = np.reshape(self.reference or (0, self.top, middle, self.top, middle, self.top), (3, 2))
        black, white = black_white.T.astype(np.float32)
        y, cb, cr = np.moveaxis((samples.astype(np.float32) - black) / (white - black) * (255, 127, 127), -1, 0)
        of_red, of_green, of_blue = self.luma
        red = y + cr * (2 - 2 * of_red)
        blue = y + cb * (2 - 2 * of_blue)
        green = (y - of_red * red - of_blue * blue) / of_green
        return np.rint(np.stack((red, green, blue), axis=-1).clip(0, 255)).astype(np.uint8)


def turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn stored pixels, ``(height, width, 3)``, to how they are shown."""
    transposed, rows, columns = _TURNS[orientation]
    shown = pixels.transpose(1, 0, 2) if transposed else pixels
    return shown[:: -1 if rows else 1, :: -1 if columns else 1]


def stored_box(box: tuple[int, int, int, int], size: tuple[int, int], orientation: int) -> tuple[int, int, int, int]:
    """Find where a box of the image as it is shown, of this width and height, lies in the stored pixels."""
    left, top, right, bottom = box
    transposed, rows, columns = _TURNS[orientation]
    if columns:
        left, right = size[0] - right, size[0] - left
    if rows:
        top, bottom = size[1] - bottom, size[1] - top
    return (top, left, bottom, right) if transposed else (left, top, right, bottom)


def sideways(orientation: int) -> bool:
    """Say whether width and height are exchanged when the image is shown."""
    return _TURNS[orientation][0]
