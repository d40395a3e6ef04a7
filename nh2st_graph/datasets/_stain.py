"""Render synthetic tissue: haematoxylin and eosin as optical densities, light by the Beer-Lambert law."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.color import rgb_from_hed

from nh2st_graph.datasets._tissue import Ellipses, Tissue

__all__ = ["Rendered", "Stain", "draw_stain", "render", "scan"]

Floats = NDArray[np.float32]

_CHUNK = 4_000_000  # pixels of ellipses in memory at a time
_SCANNERS = 77  # keeps the random streams of scanners apart from those of sections
_WALL_UM = 3.0  # wall between holes that touch


@dataclass(frozen=True)
class Stain:
    """Colours of one section.

    Attributes
    ----------
    vectors
        Optical density of red, green and blue for one unit of haematoxylin and of eosin, ``(2, 3)``.
    strength
        Factor on the two optical densities.
    light
        Red, green and blue of bare glass, 0 to 255.
    """

    vectors: Floats
    strength: Floats
    light: Floats


@dataclass(frozen=True)
class Rendered:
    """A rendered section, in pixels of its image.

    Attributes
    ----------
    rgb
        The image, ``(height, width, 3)``.
    eosin
        Optical density of eosin before the section's stain shift, ``(height, width)``.
    lumen
        1 in holes and on bare glass, 0 in tissue, ``(height, width)``.
    """

    rgb: NDArray[np.uint8]
    eosin: Floats
    lumen: Floats


def draw_stain(rng: np.random.Generator, shift: float) -> Stain:
    """Draw a section's stain around that of Ruifrok and Johnston 2001 (Anal Quant Cytol Histol 23:291).

    Parameters
    ----------
    rng
        Source of randomness.
    shift
        How much sections differ: standard deviation of the log strength of the two stains. Hue and light vary in
        proportion.
    """
    published = rgb_from_hed[:2] / np.linalg.norm(rgb_from_hed[:2], axis=1, keepdims=True)
    # Real eosin is less pure than the published vector: it also absorbs some red and blue light.
    vectors = published + np.array([[0.0, 0.0, 0.0], [0.10, -0.12, 0.27]])
    vectors = np.clip(vectors + 0.25 * shift * rng.standard_normal((2, 3)), 0.02, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strength = np.exp(shift * rng.standard_normal(2))
    light = 243.0 + 20.0 * shift * rng.uniform(-1, 1, 3)
    return Stain(*(np.asarray(part, dtype=np.float32) for part in (vectors, strength, light)))


def render(tissue: Tissue, stain: Stain, microns_per_pixel: float, rng: np.random.Generator) -> Rendered:
    """Render a tissue at a resolution.

    Parameters
    ----------
    tissue
        The tissue.
    stain
        The section's colours.
    microns_per_pixel
        Resolution of the image.
    rng
        Source of the fine grain.

    Returns
    -------
    The image and its optical densities. Intensity is ``light * 10 ** -(density @ vectors)``.
    """
    height, width = (round(side / microns_per_pixel) for side in tissue.size_um)
    shape = (height, width)
    cover = _enlarge(tissue.cover, shape)
    holes = _draw_holes(tissue.holes, shape, microns_per_pixel)
    solid = np.clip(cover, 0, 1) * (1 - holes)
    nuclei = _draw_nuclei(tissue.nuclei, shape, microns_per_pixel)

    grain = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 1.5 / microns_per_pixel)
    grain /= grain.std()
    phase = _enlarge(tissue.fibre_phase, shape)
    fibres = np.cos(2 * np.pi * phase) * (0.7 + 0.3 * np.cos(0.7 * phase))
    texture = np.clip(1 + _enlarge(tissue.fibre_strength, shape) * fibres + 0.12 * grain, 0, None)

    eosin = _enlarge(tissue.eosin, shape) * texture * (1 - 0.5 * np.clip(nuclei, 0, 1)) * solid
    haematoxylin = np.maximum(_enlarge(tissue.haze, shape), nuclei) * (1 + 0.15 * grain) * solid
    return Rendered(_expose(haematoxylin, eosin, stain), eosin, 1 - solid)


def _expose(haematoxylin: Floats, eosin: Floats, stain: Stain) -> NDArray[np.uint8]:
    rgb = np.empty((*eosin.shape, 3), dtype=np.uint8)
    vectors = stain.vectors * stain.strength[:, None]
    for channel, (h, e) in enumerate(vectors.T):
        light = stain.light[channel] * np.exp(-np.log(np.float32(10)) * (h * haematoxylin + e * eosin))
        rgb[..., channel] = np.clip(light + 0.5, 0, 255)
    return rgb


def scan(rgb: NDArray[np.uint8], scanner: int) -> NDArray[np.uint8]:
    """Show an image as another scanner would.

    Parameters
    ----------
    rgb
        The image as :func:`render` gives it.
    scanner
        Number of the scanner; 0 leaves the image as it is.

    Returns
    -------
    The image with the scanner's crosstalk of channels, gamma and white balance.
    """
    if scanner == 0:
        return rgb
    rng = np.random.default_rng(np.random.SeedSequence(scanner, spawn_key=(_SCANNERS,)))
    crosstalk = np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3)) * (1 - np.eye(3))
    crosstalk /= crosstalk.sum(axis=1, keepdims=True)  # grey stays grey
    gamma = rng.uniform(0.8, 1.3) * rng.uniform(0.9, 1.1, 3)
    white = rng.uniform(0.92, 1.03, 3)
    seen = np.empty_like(rgb)
    for channel, weights in enumerate(crosstalk.astype(np.float32)):
        light = np.clip(rgb @ weights / np.float32(255), 0, 1) ** np.float32(gamma[channel])
        seen[..., channel] = np.clip(255 * white[channel] * light + 0.5, 0, 255)
    return seen


def _enlarge(field: Floats, shape: tuple[int, int]) -> Floats:
    """Interpolate a field on the lattice to the pixels of an image of the same area."""
    height, width = shape
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _draw_nuclei(nuclei: Ellipses, shape: tuple[int, int], microns_per_pixel: float) -> Floats:
    """Draw the optical density of filled ellipses with edges one pixel wide; where they overlap, the densest counts."""
    canvas = np.zeros(shape, dtype=np.float32)
    for pixels, depth, which in _stamps(nuclei, shape, microns_per_pixel, margin=0.5 * microns_per_pixel):
        value = np.clip(depth / microns_per_pixel + 0.5, 0, 1) * nuclei.density[which]
        np.maximum.at(canvas.ravel(), pixels, value)
    return canvas


def _draw_holes(holes: Ellipses, shape: tuple[int, int], microns_per_pixel: float) -> Floats:
    """Draw the open share of each pixel. Holes that would overlap keep a thin wall between them, as fat cells do."""
    margin = max(0.5 * microns_per_pixel, 1.5 * _WALL_UM)
    deepest = np.full(shape, -1e3, dtype=np.float32)
    second = np.full(shape, -1e3, dtype=np.float32)
    for pixels, depth, _ in _stamps(holes, shape, microns_per_pixel, margin):
        np.maximum.at(deepest.ravel(), pixels, depth)
    for pixels, depth, _ in _stamps(holes, shape, microns_per_pixel, margin):
        beaten = depth < deepest.ravel()[pixels]
        np.maximum.at(second.ravel(), pixels[beaten], depth[beaten])
    open_ = np.clip(deepest / microns_per_pixel + 0.5, 0, 1)
    return open_ * np.clip((deepest - second) / _WALL_UM - 0.5, 0, 1)


def _stamps(
    ellipses: Ellipses, shape: tuple[int, int], microns_per_pixel: float, margin: float
) -> Iterator[tuple[NDArray[np.intp], Floats, NDArray[np.intp]]]:
    """Yield the pixels of many ellipses, a bounded number at a time.

    Yields
    ------
    Flat indices of pixels; the depth of each inside its ellipse, in um (down to ``-margin`` outside); and the number of
    the ellipse. Depth is exact across the ellipse and stretched along it.
    """
    height, width = shape
    longest = ellipses.long * (1 + margin / ellipses.short)
    reach = np.ceil(longest / microns_per_pixel).astype(np.intp)
    for r in np.unique(reach):
        chosen = np.flatnonzero(reach == r)
        offset = np.arange(-r, r + 1)
        for which in np.array_split(chosen, int(np.ceil(len(chosen) * len(offset) ** 2 / _CHUNK))):
            some = ellipses[which]
            col = np.floor(some.x / microns_per_pixel).astype(np.intp)[:, None, None] + offset[None, None, :]
            row = np.floor(some.y / microns_per_pixel).astype(np.intp)[:, None, None] + offset[None, :, None]
            dx = (col + np.float32(0.5)) * microns_per_pixel - some.x[:, None, None]
            dy = (row + np.float32(0.5)) * microns_per_pixel - some.y[:, None, None]
            cos, sin = (turn(some.angle)[:, None, None] for turn in (np.cos, np.sin))
            long, short = some.long[:, None, None], some.short[:, None, None]
            depth = (1 - np.hypot((cos * dx + sin * dy) / long, (cos * dy - sin * dx) / short)) * short
            near = (depth > -margin) & (col >= 0) & (col < width) & (row >= 0) & (row < height)
            yield (row * width + col)[near], depth[near].astype(np.float32), which[np.nonzero(near)[0]]
