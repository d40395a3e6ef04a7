"""Colour, stain and texture of a patch as an encoder, without a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, cached_property, reduce
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nh2st_graph.im._encoders import Encoder, register_encoder
from nh2st_graph.im._names import chosen_parts

__all__ = ["HandcraftedEncoder"]

#: Side of the patches in pixels; with a patch of 224 um, 2 um per pixel.
WORKING_SIZE = 112

#: Patches whose intermediate arrays fit into a core's cache together.
_AT_ONCE = 8

#: Quantiles of channels. Each is a value that occurs: the smallest that as large a share of the pixels does not pass.
_QUANTILES = (0.1, 0.5, 0.9)
#: Bins of histograms.
_BINS = 10

#: Distances of pairs of pixels, in pixels, and levels of their channels.
_DISTANCES = (1, 2, 4)
_LEVELS = 32
#: Properties of a co-occurrence matrix, in the order of their columns.
_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "correlation", "energy", "entropy")
#: Sides of the squares of pixels whose means are compared, for local binary patterns and for gradients.
_PATTERN_SCALES, _GRADIENT_SCALES = (1, 2), (1, 2, 4)

#: A pixel with more haematoxylin counts as nucleus, in the numbers of skimage's ``rgb2hed``.
_NUCLEUS = 0.1
#: A pixel counts as white if all its colours reach this value: glass, fat and lumen.
_WHITE = 210
#: A pixel whose largest and smallest colour differ by less has no hue.
_GREY = 10


class _Stain(NamedTuple):
    """A stain's steps: values are counted in ``1 / per_unit``, and textures and histograms end at ``top`` steps."""

    name: str
    per_unit: int
    top: int


#: Haematoxylin is counted to 0.8 and eosin and the residual to 0.2, far beyond tissue. What tissue has of them lies
#: below 0.4 and 0.05, to which histograms and textures go; what is above counts in the last bin or level.
_STAINS = (_Stain("haematoxylin", 2560, 1024), _Stain("eosin", 10240, 512), _Stain("residual", 10240, 512))
_STEPS = 2048

Levels: TypeAlias = NDArray[np.integer]
Counts: TypeAlias = NDArray[np.int64]
Columns: TypeAlias = dict[str, NDArray[np.float64]]


@register_encoder("handcrafted")
class HandcraftedEncoder(Encoder):
    """Colour, stain and texture of a patch, 255 numbers that do not change when the patch is turned or mirrored.

    Parameters
    ----------
    parts
        Any of ``colour``, ``stain`` and ``texture``, joined by ``+``. Columns always come in this order.
    device
        Unused: these features are computed on the CPU, in one thread.

    Notes
    -----
    ``colour`` (75 features)
        Of red, green, blue, saturation and hue: mean, standard deviation, three quantiles, and shares of ten bins.
    ``stain`` (74)
        Of haematoxylin and eosin the same, of the residual without bins; the share of pixels that are nuclei-like and
        the share that are white. All of these for the patch, and as the difference between the disc of half its
        diameter and the ring around it. Stains are those of skimage's ``rgb2hed``, by Ruifrok's matrix.
    ``texture`` (106)
        Of haematoxylin, eosin and grey: six properties (Haralick) of the co-occurrence matrix of 32 levels, pooled
        over four directions, at 1, 2 and 4 px. Of haematoxylin and grey: shares of the ten uniform local binary
        patterns (Ojala) of 3 x 3 means over 1 and 2 px; mean and standard deviation of the gradient of means over 1, 2
        and 4 px.

    Patches are first resampled to ``112 x 112`` px. All ranges are fixed. Nearly all numbers come from counts of whole
    numbers, so that no rounding depends on the batch or on how the patch lies.

    References
    ----------
    - Ruifrok and Johnston, Quantification of histochemical staining by color deconvolution, 2001.
    - Haralick, Shanmugam and Dinstein, Textural features for image classification, 1973.
    - Ojala, Pietikainen and Maenpaa, Multiresolution gray-scale and rotation invariant texture classification
      with local binary patterns, 2002.
    """

    input_size = WORKING_SIZE
    options: frozenset[str] = frozenset()
    #: What the prefix alone stands for.
    all_parts = "colour+stain+texture"

    def __init__(self, parts: str = all_parts, device: str = "cpu") -> None:
        del device
        self.name = f"handcrafted:{parts}"
        self.parts = chosen_parts("handcrafted", parts, PARTS)
        self.normalisation: Mapping[str, Any] = {}
        self.fingerprint: Mapping[str, Any] = {
            "encoder": "handcrafted",
            "parts": list(self.parts),
            # Goes up with every change of what is computed, since cached features would stay otherwise.
            "version": 1,
            "input_size": self.input_size,
            "interpolation": self.interpolation,
        }

    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the features of each patch; see :meth:`Encoder.encode`."""
        found = np.empty((len(patches), self.n_features), dtype=np.float32)
        for start in range(0, len(patches), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            found[some] = np.stack(list(self._columns(patches[some]).values()), axis=1)
        return found

    @staticmethod
    def check(parts: str) -> None:
        """Refuse parts that there are not."""
        chosen_parts("handcrafted", parts, PARTS)

    @staticmethod
    def outside(rest: str) -> None:
        """Say that nothing is opened."""

    @cached_property
    def n_features(self) -> int:
        """Length of a feature vector."""
        return len(self.feature_names)

    @cached_property
    def feature_names(self) -> list[str]:
        """Names such as ``stain_eosin_mean``, ``texture_grey_contrast_dist-2``, ``stain_nuclei_disc-ring``."""
        return list(self._columns(self._blank()))

    def _columns(self, patches: NDArray[np.uint8]) -> Columns:
        channels = _Channels(patches)
        return {f"{part}_{name}": column for part in self.parts for name, column in PARTS[part](channels).items()}


class _Channels:
    """Channels of patches as whole numbers, each computed when it is asked for.

    Parameters
    ----------
    patches
        ``(n, height, width, 3)``.
    """

    def __init__(self, patches: NDArray[np.uint8]) -> None:
        self.rgb = np.ascontiguousarray(patches.transpose(3, 0, 1, 2))

    @cached_property
    def saturation(self) -> Levels:
        """Saturation of the HSV model, 0 to 255."""
        top, low = self.rgb.max(axis=0).astype(np.int32), self.rgb.min(axis=0)
        return np.asarray((top - low) * 255 // np.maximum(top, 1))

    @cached_property
    def hue(self) -> Levels:
        """Hue of the HSV model, 0 to 255.

        It begins and ends at green, which no stain of H&E comes near; grey counts as the opposite, magenta.
        """
        red, green, blue = self.rgb.astype(np.int32)
        top = np.maximum(np.maximum(red, green), blue)
        chroma = top - np.minimum(np.minimum(red, green), blue)
        # Sixths of the circle from magenta, times the chroma: red comes first, green is 3 sixths away on both sides.
        sixths = np.where(top == red, chroma + (green - blue), (red - green) - chroma)
        of_green = (blue - red) + np.where(red >= blue, 3, -3) * chroma
        sixths = np.where(top == green, of_green, sixths)
        hue = 255 * (sixths + 3 * chroma) // np.maximum(6 * chroma, 1)
        return np.where(chroma < _GREY, 127, hue)

    @cached_property
    def grey(self) -> Levels:
        """Luminance, 0 to 255, the numbers of Pillow's mode L."""
        red, green, blue = self.rgb.astype(np.int32)
        return np.asarray((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16)

    @cached_property
    def white(self) -> Levels:
        """1 where a pixel is white, else 0."""
        return (self.rgb.min(axis=0) >= _WHITE).astype(np.int32)

    @cached_property
    def stains(self) -> dict[str, Levels]:
        """Haematoxylin, eosin and residual in their steps."""
        red, green, blue = (_density()[plane] for plane in self.rgb)
        return {
            stain.name: _steps(red * weights[0] + green * weights[1] + blue * weights[2])
            for stain, weights in zip(_STAINS, _unmixing(), strict=True)
        }

    def of(self, name: str) -> tuple[Levels, int]:
        """Give grey or a stain, and the number of its steps to the end of the range."""
        if name == "grey":
            return self.grey, 256
        return self.stains[name], next(stain.top for stain in _STAINS if stain.name == name)


@cache
def _density() -> NDArray[np.float32]:
    """Optical density of the 256 values of a colour, in skimage's unit."""
    values = np.maximum(np.arange(256) / 255, 1e-6)
    return (np.log(values) / np.log(1e-6)).astype(np.float32)


@cache
def _unmixing() -> NDArray[np.float32]:
    """Weights of red, green and blue in the steps of each stain, ``(3 stains, 3 colours)``."""
    from skimage.color import hed_from_rgb

    return np.array([hed_from_rgb[:, i] * stain.per_unit for i, stain in enumerate(_STAINS)], dtype=np.float32)


def _steps(values: NDArray[np.float32]) -> Levels:
    return np.clip(np.rint(values), 0, _STEPS - 1).astype(np.int32)


def _colour(channels: _Channels) -> Columns:
    columns: Columns = {}
    red, green, blue = channels.rgb
    named = {"red": red, "green": green, "blue": blue, "saturation": channels.saturation, "hue": channels.hue}
    for name, values in named.items():
        counts = _counted(values.reshape(len(values), -1), 256)
        columns |= {f"{name}_{what}": column for what, column in _statistics(counts, 256).items()}
    return columns


def _stain(channels: _Channels) -> Columns:
    places = _places(WORKING_SIZE)
    patch: Columns = {}
    disc: Columns = {}
    ring: Columns = {}

    def count(values: Levels, n_values: int) -> list[tuple[Columns, Counts]]:
        found = _counted(values.reshape(len(values), -1) + places * n_values, 3 * n_values).reshape(-1, 3, n_values)
        return [(patch, found.sum(axis=1)), (disc, found[:, 0]), (ring, found[:, 1])]

    for stain in _STAINS:
        for columns, counts in count(channels.stains[stain.name], _STEPS):
            known = _statistics(counts, None if stain.name == "residual" else stain.top, stain.per_unit)
            columns |= {f"{stain.name}_{what}": column for what, column in known.items()}
            if stain.name == "haematoxylin":
                columns["nuclei"] = _share(counts, round(_NUCLEUS * stain.per_unit))
    for columns, counts in count(channels.white, 2):
        columns["white"] = _share(counts, 1)
    return patch | {f"{name}_disc-ring": disc[name] - ring[name] for name in disc}


def _texture(channels: _Channels) -> Columns:
    columns: Columns = {}
    for name in ("haematoxylin", "eosin", "grey"):
        values, top = channels.of(name)
        levels = np.minimum(values // (top // _LEVELS), _LEVELS - 1)
        for distance, counts in _pairs(levels).items():
            for what, column in _properties(counts).items():
                columns[f"{name}_{what}_dist-{distance}"] = column
    for name in ("haematoxylin", "grey"):
        values, top = channels.of(name)
        for scale in _PATTERN_SCALES:
            shares = _patterns(_block_sums(values, scale))
            columns |= {f"{name}_pattern-{i}_scale-{scale}": share for i, share in enumerate(shares.T)}
        for scale in _GRADIENT_SCALES:
            mean, deviation = _gradient(_block_sums(values, scale))
            unit = top * scale**2
            columns[f"{name}_gradient-mean_scale-{scale}"] = mean / unit
            columns[f"{name}_gradient-std_scale-{scale}"] = deviation / unit
    return columns


#: What each part computes, in the order of the columns.
PARTS: dict[str, Callable[[_Channels], Columns]] = {"colour": _colour, "stain": _stain, "texture": _texture}


# Counts of values


def _counted(values: Levels, n_values: int) -> Counts:
    """Count how often each of ``n_values`` values occurs in each row."""
    rows = np.arange(len(values))[:, None] * n_values
    return np.bincount((values + rows).ravel(), minlength=len(values) * n_values).reshape(-1, n_values)


def _statistics(counts: Counts, top: int | None, per_unit: int = 1) -> Columns:
    """Compute mean, standard deviation, quantiles and histogram from counts.

    Parameters
    ----------
    counts
        ``(n, n_values)``.
    top
        Where the histogram's last bin ends; it also has all values beyond. None leaves the histogram out.
    per_unit
        Values that make 1.
    """
    n, values = int(counts[0].sum()), np.arange(counts.shape[1], dtype=np.int64)
    first, second = counts @ values, counts @ values**2
    columns: Columns = {"mean": first / (n * per_unit), "std": np.sqrt(n * second - first**2) / (n * per_unit)}
    up_to = counts.cumsum(axis=1)
    for quantile in _QUANTILES:
        below = (up_to < math.ceil(quantile * n)).sum(axis=1)
        columns[f"quantile-{quantile}"] = below / per_unit
    if top is not None:
        starts = [math.ceil(i * top / _BINS) for i in range(_BINS)]
        shares = np.add.reduceat(counts, starts, axis=1) / n
        columns |= {f"bin-{i}": shares[:, i] for i in range(_BINS)}
    return columns


def _share(counts: Counts, start: int) -> NDArray[np.float64]:
    return np.asarray(counts[:, start:].sum(axis=1) / counts.sum(axis=1))


@cache
def _places(side: int) -> NDArray[np.intp]:
    """Tell the inner disc (0) from the ring around it (1) and the corners (2), pixel by pixel."""
    from_centre = np.arange(side) - (side - 1) / 2
    radius = np.hypot(from_centre, from_centre[:, None]).ravel()
    return np.digitize(radius, [side / 4, side / 2])


# Co-occurrence of levels


def _pairs(levels: Levels) -> dict[int, Counts]:
    """Count pairs of levels in four directions and both orders.

    Parameters
    ----------
    levels
        ``(n, height, width)``.

    Returns
    -------
    By distance, ``(n, 32 * 32)``: the sum over directions of skimage's ``graycomatrix(..., symmetric=True)``, whose
    steps along diagonals are rounded to whole pixels.
    """
    n, height, width = levels.shape
    second = levels.astype(np.intp)
    first = second * _LEVELS + np.arange(n)[:, None, None] * _LEVELS**2

    @cache
    def along(down: int, right: int) -> Counts:
        """Count the pairs of each pixel and the one so far from it."""
        one = first[:, : height - down, max(0, -right) : width - max(0, right)]
        other = second[:, down:, max(0, right) : width - max(0, -right)]
        return np.bincount((one + other).ravel(), minlength=n * _LEVELS**2)

    found = {}
    for distance in _DISTANCES:
        slant = round(distance / math.sqrt(2))
        steps = ((0, distance), (distance, 0), (slant, slant), (slant, -slant))
        counts = np.sum([along(*step) for step in steps], axis=0).reshape(n, _LEVELS, _LEVELS)
        found[distance] = (counts + counts.transpose(0, 2, 1)).reshape(n, -1)
    return found


@cache
def _weights() -> NDArray[np.float64]:
    """Weights of pairs of levels i and j whose sums are counts of each distance, and sums of i, i * j and i * i."""
    i, j = np.indices((_LEVELS, _LEVELS)).reshape(2, -1)
    apart = np.abs(i - j)[:, None] == np.arange(_LEVELS)
    return np.column_stack([apart, i, i * j, i * i]).astype(np.float64)


def _properties(counts: Counts) -> Columns:
    """Compute Haralick's properties of co-occurrence, as skimage's ``graycoprops`` defines them (entropy in nats)."""
    n, distance = int(counts[0].sum()), np.arange(_LEVELS)
    # Doubles hold these sums of whole numbers exactly, in whatever order they are added.
    sums = counts.astype(np.float64) @ _weights()
    apart, (first, product, second) = sums[:, :_LEVELS], sums[:, _LEVELS:].T
    spread = n * second - first**2
    columns = (
        apart @ distance**2 / n,
        apart @ distance / n,
        (apart / (1 + distance**2)).sum(axis=1) / n,
        # A channel of one level is as alike as can be.
        np.where(spread > 0, (n * product - first**2) / np.maximum(spread, 1), 1.0),
        np.sqrt((counts**2).sum(axis=1)) / n,
        np.maximum(math.log(n) - (counts * np.log(np.maximum(counts, 1))).sum(axis=1) / n, 0),
    )
    return dict(zip(_PROPERTIES, columns, strict=True))


# Patterns and gradients


def _block_sums(values: Levels, side: int) -> Levels:
    """Sum squares of ``side x side`` pixels."""
    rows = reduce(np.add, [values[:, i::side] for i in range(side)])
    return np.asarray(reduce(np.add, [rows[:, :, i::side] for i in range(side)]))


@cache
def _uniform() -> NDArray[np.intp]:
    """Number of set bits of each of 256 circular patterns with at most two changes; 9 for the others."""
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    changes = (bits != np.roll(bits, 1, axis=1)).sum(axis=1)
    return np.where(changes <= 2, bits.sum(axis=1), 9)


def _patterns(values: Levels) -> NDArray[np.float64]:
    """Compute the shares of the ten uniform local binary patterns, ``(n, 10)``.

    The neighbours are the eight of the 3 x 3 square, so that nothing is interpolated.
    """
    _, height, width = values.shape
    centre = values[:, 1:-1, 1:-1]
    codes = np.zeros(centre.shape, dtype=np.uint8)
    around = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    for i, (down, right) in enumerate(around):
        beside = values[:, down : height - 2 + down, right : width - 2 + right]
        codes |= (beside >= centre).view(np.uint8) << np.uint8(i)
    counts = _counted(_uniform()[codes].reshape(len(values), -1), 10)
    return np.asarray(counts / centre[0].size)


def _gradient(values: Levels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute mean and standard deviation of the gradient's length, per step from one value to the next."""
    across = values[:, 1:-1, 2:] - values[:, 1:-1, :-2]
    down = values[:, 2:, 1:-1] - values[:, :-2, 1:-1]
    # Differences are below 2**15, since channels have 2048 values and blocks 16 pixels: the squares do not overflow.
    length = np.sqrt((across * across + down * down).reshape(len(values), -1).astype(np.float32))
    return length.mean(axis=1, dtype=np.float64) / 2, length.std(axis=1, dtype=np.float64) / 2
