"""Image features of squidpy as an encoder, without a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nh2st_graph.im._encoders import Encoder, register_encoder
from nh2st_graph.im._names import chosen_parts

__all__ = ["SquidpyEncoder"]

#: Names of squidpy's features in the order of their columns, with their parameters. The histogram has the range of
#: 8-bit pixels: with squidpy's default, the range of the patch, bins would differ between patches.
PARTS: dict[str, dict[str, Any]] = {"summary": {}, "texture": {}, "histogram": {"v_range": (0, 255)}}

#: Quantiles of squidpy's summary, in the order of its columns.
_QUANTILES = (0.9, 0.5, 0.1)

#: Side of the patches in pixels; with the default patch of 224 um, 2 um per pixel.
WORKING_SIZE = 112


@register_encoder("squidpy")
class SquidpyEncoder(Encoder):
    """Summary, texture and histogram of each colour channel, by ``squidpy.im.ImageContainer``.

    Parameters
    ----------
    parts
        Any of ``summary`` (15 features of an RGB patch: quantiles, mean, standard deviation), ``texture``
        (60: five properties of the grey-level co-occurrence matrix, in four directions) and ``histogram``
        (30: pixels in each of ten bins of 0 to 255), joined by ``+``. Columns always come in this order.
    device
        Unused: these features are computed on the CPU, with one thread for each core.

    Notes
    -----
    Patches are first resampled to ``112 x 112`` px, so that the texture's step of one pixel has the same length on the
    tissue at any resolution of the scan. The summary is computed here, from how often each of the 256 values occurs:
    the same numbers as squidpy's, 20 times as fast.
    """

    input_size = WORKING_SIZE
    options: frozenset[str] = frozenset()

    def __init__(self, parts: str = "summary+texture+histogram", device: str = "cpu") -> None:
        del device
        self.name = f"squidpy:{parts}"
        self.parts = chosen_parts("squidpy", parts, PARTS)
        self.normalisation: Mapping[str, Any] = {}
        self.fingerprint: Mapping[str, Any] = {
            "encoder": "squidpy",
            "parts": {part: PARTS[part] for part in self.parts},
            "input_size": self.input_size,
            "interpolation": self.interpolation,
            "versions": {name: version(name) for name in ("squidpy", "scikit-image")},
        }

    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the features of each patch; see :meth:`Encoder.encode`."""
        found = [_summary(patches)] if "summary" in self.parts else []
        others = [part for part in self.parts if part != "summary"]
        if others:
            # Threads start fast and need no copy of the patches. scikit-image releases the interpreter lock in the
            # co-occurrence matrices, which take most of the time.
            with ThreadPoolExecutor() as pool:
                rows = pool.map(lambda patch: list(_describe(patch, others).values()), patches)
                found.append(np.array(list(rows), dtype=np.float64).reshape(len(patches), -1))
        return np.hstack(found).astype(np.float32)

    @staticmethod
    def check(parts: str) -> None:
        """Refuse parts that squidpy does not have."""
        chosen_parts("squidpy", parts, PARTS)

    @staticmethod
    def outside(rest: str) -> None:
        """Say that nothing is opened."""

    @property
    def feature_names(self) -> list[str]:
        """Names by squidpy, such as ``texture_ch-0_contrast_dist-1_angle-0.00``."""
        return list(_feature_names(tuple(self.parts)))


@cache
def _feature_names(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Ask squidpy how it names features, once: it has to compute them, of a blank patch."""
    return tuple(_describe(np.zeros((WORKING_SIZE, WORKING_SIZE, 3), dtype=np.uint8), parts))


def _describe(patch: NDArray[np.uint8], parts: Iterable[str]) -> dict[str, float]:
    from squidpy.im import ImageContainer

    image = ImageContainer(patch, layer="image", dims=("y", "x", "channels"))
    features: dict[str, float] = {}
    for part in parts:
        features.update(getattr(image, f"features_{part}")("image", **PARTS[part]))
    return features


def _summary(patches: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Compute squidpy's ``features_summary`` of each patch.

    Parameters
    ----------
    patches
        ``(n, height, width, 3)``.

    Returns
    -------
    ``(n, 15)``: of each channel three quantiles, the mean and the standard deviation.
    """
    n_pixels, values = patches.shape[1] * patches.shape[2], np.arange(256.0)
    histograms = [Image.fromarray(patch).histogram() for patch in patches]
    counts = np.array(histograms, dtype=np.int64).reshape(len(patches), 3, 256)
    mean = counts @ values / n_pixels
    std = np.sqrt((counts * (values - mean[..., None]) ** 2).sum(axis=-1) / n_pixels)
    up_to = counts.cumsum(axis=-1)
    columns = []
    for quantile in _QUANTILES:
        at = (n_pixels - 1) * quantile
        rank = int(at)
        # The value of a rank is the first one that as many pixels do not pass.
        below, above = ((up_to <= r).sum(axis=-1) for r in (rank, min(rank + 1, n_pixels - 1)))
        share = at - rank
        # NumPy interpolates from the nearer side.
        columns.append(below + (above - below) * share if share < 0.5 else above - (above - below) * (1 - share))
    return np.stack([*columns, mean, std], axis=-1).reshape(len(patches), -1)
