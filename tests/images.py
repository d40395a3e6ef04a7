"""One image written as TIFF in many ways, and what a right reader shows of each."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import TiffFile, TiffWriter

from .slides import halved

Pixels = NDArray[Any]

WIDTH, HEIGHT, TILE = 96, 64, 16

COLOURS = ("RGB", "YCbCr", "palette", "CMYK", "grey", "grey, 0 is white")
BESIDE = (
    "nothing",
    "thumbnail first",
    "thumbnail last",
    "unmarked thumbnail first",
    "overview",
    "named overview first",
    "small unmarked overview",
)
PYRAMIDS = ("none", "sub-images", "pages", "unmarked pages")
EXTRA = ("none", "associated", "unassociated", "unspecified")
CODECS = ("none", "deflate", "lzw", "jpeg")

_PHOTOMETRIC = {
    "RGB": "rgb",
    "YCbCr": "ycbcr",
    "palette": "palette",
    "CMYK": "separated",
    "grey": "minisblack",
    "grey, 0 is white": "miniswhite",
}
_EXTRA = {"associated": 1, "unassociated": 2, "unspecified": 0}


@dataclass(frozen=True)
class Variant:
    """A way to write the image."""

    colour: str = "RGB"
    tiled: bool = True
    planar: bool = False
    bits: Literal[8, 16] = 8
    beside: str = "nothing"
    pyramid: str = "none"
    orientation: int = 1
    extra: str = "none"
    codec: str = "deflate"
    subsampling: tuple[int, int] = (1, 1)

    @property
    def exists(self) -> bool:
        """Whether the format and the writer have such files."""
        if self.subsampling != (1, 1):
            return self.colour == "YCbCr" and not self.planar and self.bits == 8 and self.extra == "none"
        if self.colour == "palette":
            return self.bits == 8 and self.codec != "jpeg" and self.extra == "none"
        if self.codec == "jpeg":
            return self.bits == 8 and (self.planar or self.extra == "none" or self.colour.startswith("grey"))
        return True

    @property
    def tolerance(self) -> float:
        """Largest difference of a patch that is rounding, or the codec's."""
        if self.codec == "jpeg":
            return 16
        # A smaller copy has a palette of its own.
        own_palette = self.colour == "palette" and self.pyramid != "none"
        return 12 if own_palette or self.subsampling != (1, 1) else 3


@cache
def source_image() -> Pixels:
    """Smooth, in colour, and different under every turn."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    dark = np.exp(-((x - 30) ** 2 + (y - 20) ** 2) / 300)
    red, green = 240 - 60 * dark - x * 0.7, 235 - 160 * dark - y * 0.9
    return np.stack([red, green, 230 - 70 * dark - x * 0.3 - y * 0.4], axis=-1).clip(0, 255).astype(np.uint8)


def shown(variant: Variant) -> Pixels:
    """What a right reader shows, ``(HEIGHT, WIDTH, 3)``."""
    return _shown(source_image(), variant)


def _alpha(shape: tuple[int, ...]) -> Pixels:
    """Opaque, but for a ramp in one corner."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    return np.minimum(255, (x / shape[1] + y / shape[0]) * 600).astype(np.uint8)


def _shown(rgb: Pixels, variant: Variant) -> Pixels:
    if variant.colour.startswith("grey"):
        rgb = np.repeat(np.asarray(Image.fromarray(rgb).convert("L"))[..., None], 3, axis=-1)
    elif variant.colour == "palette":
        rgb = np.asarray(_quantised(rgb.tobytes(), rgb.shape).convert("RGB"))
    if variant.extra in {"associated", "unassociated"}:
        alpha = _alpha(rgb.shape)[..., None] / 255
        rgb = np.rint(rgb * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return rgb


@cache
def _quantised(pixels: bytes, shape: tuple[int, ...]) -> Image.Image:
    return Image.frombytes("RGB", shape[1::-1], pixels).quantize(64)


def stored(rgb: Pixels, variant: Variant) -> Pixels:
    """The samples of the image as a file keeps them, ``(height, width, n)``."""
    samples = _colours(rgb, variant)
    if variant.extra != "none":
        alpha = _alpha(rgb.shape)[..., None]
        if variant.extra == "associated":
            samples = np.rint(samples * (alpha / 255)).astype(np.uint8)
        samples = np.concatenate([samples, alpha], axis=-1)
    if variant.bits == 16:
        middle = np.zeros(samples.shape[-1], int)
        if variant.colour == "YCbCr":
            middle[1:3] = 128
        samples = ((samples.astype(int) - middle) * 257 + middle * 256).clip(0, 65535).astype(np.uint16)
    return np.ascontiguousarray(_unturned(samples, variant.orientation))


def _colours(rgb: Pixels, variant: Variant) -> Pixels:
    image = Image.fromarray(rgb)
    if variant.colour.startswith("grey"):
        grey = np.asarray(image.convert("L"))[..., None]
        return 255 - grey if "white" in variant.colour else grey
    if variant.colour == "palette":
        return np.asarray(_quantised(rgb.tobytes(), rgb.shape))[..., None]
    if variant.colour == "CMYK":
        black = (255 - rgb.max(axis=-1, keepdims=True)) // 2
        ink = 255 - np.rint(rgb * 255.0 / (255 - black))
        return np.concatenate([ink.clip(0, 255).astype(np.uint8), black], axis=-1)
    return np.asarray(image.convert("YCbCr")) if variant.colour == "YCbCr" else rgb


def _unturned(samples: Pixels, orientation: int) -> Pixels:
    """Store pixels so that this tag turns them right: Pillow's own list of what undoes it, one by one."""
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    return undo[orientation](samples)


def write(path: Path, variant: Variant) -> Path:
    """Write the image."""
    small = np.asarray(Image.fromarray(source_image()).resize((WIDTH // 4, HEIGHT // 4), Image.Resampling.BOX))
    other = np.full((20, 50, 3), (10, 90, 40), np.uint8)
    beside = {
        "nothing": [],
        "thumbnail first": [(small, {"subfiletype": 1})],
        "thumbnail last": [(small, {"subfiletype": 1})],
        "unmarked thumbnail first": [(small, {})],
        "overview": [(other, {"subfiletype": 9})],
        "named overview first": [(other, {"description": "overview"})],
        "small unmarked overview": [(other[:16, :24], {})],
    }[variant.beside]
    with TiffWriter(path) as file:
        if "first" in variant.beside:
            _write_rest(file, beside, variant)
        levels = [source_image()]
        while variant.pyramid != "none" and len(levels) < 3:
            levels.append(halved(levels[-1]))
        for number, level in enumerate(levels):
            reduced = number > 0 and variant.pyramid != "unmarked pages"
            n_below = len(levels) - 1 if number == 0 and variant.pyramid == "sub-images" else 0
            _write_page(file, level, variant, subfiletype=int(reduced), subifds=n_below)
        if "first" not in variant.beside:
            _write_rest(file, beside, variant)
    if variant.subsampling != (1, 1):  # tifffile does not write such files by itself
        with TiffFile(path, mode="r+") as file:
            for page in [each for first in file.pages for each in (first, *(first.aspage().pages or ()))]:
                tags = page.aspage().tags
                if 530 in tags:
                    tags[530].overwrite(variant.subsampling)
    return path


def _write_rest(file: TiffWriter, rest: list[tuple[Pixels, dict[str, Any]]], variant: Variant) -> None:
    for pixels, options in rest:
        as_main = Variant(variant.colour, False, variant.planar, variant.bits, extra=variant.extra)
        _write_page(file, pixels, as_main, **options)


def _write_page(file: TiffWriter, rgb: Pixels, variant: Variant, **options: Any) -> None:
    samples = stored(rgb, variant)
    tags: list[tuple[Any, ...]] = []
    if variant.orientation != 1:
        tags.append((274, 3, 1, variant.orientation, True))
    if variant.colour == "palette":
        table = np.zeros((256, 3), np.uint16)
        palette = np.reshape(_quantised(rgb.tobytes(), rgb.shape).getpalette(), (-1, 3))
        table[: len(palette)] = palette * 257
        options["colormap"] = table.T
    if variant.colour == "YCbCr" and variant.bits == 16:  # tifffile writes 255
        tags.append((532, 5, 6, (0, 1, 65535, 1, 32768, 1, 65535, 1, 32768, 1, 65535, 1), True))
    if variant.extra != "none":
        options["extrasamples"] = [_EXTRA[variant.extra]]
    options |= {
        "photometric": _PHOTOMETRIC[variant.colour],
        "compression": None if variant.codec == "none" else variant.codec,
        "extratags": tags,
        "metadata": None,
    }
    if variant.codec == "jpeg":
        options["compressionargs"] = {"level": 95}
    if variant.tiled:
        options["tile"] = (TILE, TILE)
    else:
        options["rowsperstrip"] = TILE
    if variant.subsampling != (1, 1):
        parts = _units(samples, variant)
        file.write(iter(parts), shape=samples.shape, dtype=np.uint8, **options)
        return
    if variant.planar and samples.shape[-1] > 1:
        options["planarconfig"] = "separate"
        samples = samples.transpose(2, 0, 1)
    elif samples.shape[-1] == 1:
        samples = samples[..., 0]
    elif variant.colour != "RGB" or variant.extra != "none":
        options["planarconfig"] = "contig"
    file.write(samples, **options)


def _units(samples: Pixels, variant: Variant) -> list[bytes]:
    """Encode strips or tiles of luma with fewer chroma samples, unit by unit (TIFF 6.0, section 21)."""
    h, v = variant.subsampling
    width = TILE if variant.tiled else samples.shape[1]
    parts = []
    for top in range(0, samples.shape[0], TILE):
        for left in range(0, samples.shape[1], width):
            part = samples[top : top + TILE, left : left + width].astype(int)
            rows = TILE if variant.tiled else part.shape[0]
            part = np.pad(
                part, ((0, -(-rows // v) * v - part.shape[0]), (0, -(-width // h) * h - part.shape[1]), (0, 0)), "edge"
            )
            data = bytearray()
            for y in range(0, part.shape[0], v):
                for x in range(0, part.shape[1], h):
                    unit = part[y : y + v, x : x + h]
                    data += bytes(unit[..., 0].ravel().tolist())
                    data += bytes(np.rint(unit[..., 1:].mean(axis=(0, 1))).astype(int).tolist())
            parts.append(zlib.compress(bytes(data)) if variant.codec == "deflate" else bytes(data))
    return parts
