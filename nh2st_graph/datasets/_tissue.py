"""Synthetic tissue in micrometres: domains, local fields, nuclei and holes, without any pixels.

A section is drawn from smoothed Gaussian random fields. Slow fields compete (softmax) for the tissue's domains. Fast
fields, whose correlation length is below one array pitch, change density, size and staining from spot to spot, so that
a spot's surroundings are no function of the spot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from scipy.special import softmax

__all__ = [
    "DOMAINS",
    "FIRST_SPOT_UM",
    "LATTICE_UM",
    "PITCH_UM",
    "Ellipses",
    "Tissue",
    "grow_lattice",
    "grow_tissue",
    "smooth_field",
]

Floats = NDArray[np.float32]

#: Spacing of the lattice of the fields.
LATTICE_UM = 8.0
#: Distance between spot centres, as in Stahl et al. 2016 (Science 353:78) and in HER2ST.
PITCH_UM = 200.0
#: x and y of the array's first spot.
FIRST_SPOT_UM = 250.0

_DOMAIN_UM = 230.0  # smoothing of the fields that make domains
_LOCAL_UM = 70.0  # smoothing of the fields that change from spot to spot
_SHARPNESS = 12.0  # sharpness of the borders between domains
_NUCLEUS_UM = 8.0  # spacing of the sites that a nucleus can take
_HOLE_UM = 62.0  # spacing of the sites of holes: fat cells touch at this distance
_FIBRE_UM = 17.0  # distance between collagen fibres


class Domain(NamedTuple):
    """Look of one kind of tissue under the microscope."""

    share: float  # log-weight in the competition for area
    density: float  # nuclei per mm2
    radius: float  # of a nucleus, um
    elongation: float  # long over short axis of a nucleus
    chromatin: float  # haematoxylin optical density of a nucleus
    haze: float  # haematoxylin optical density between nuclei
    eosin: float  # optical density
    fibres: float  # relative amplitude of the fibre texture
    holes: float  # probability that a hole site is open
    hole_radius: float  # um


DOMAINS: dict[str, Domain] = {
    "tumour": Domain(0.1, 5200, 4.6, 1.25, 0.70, 0.09, 0.24, 0.10, 0.16, 13.0),
    "stroma": Domain(0.2, 1700, 3.3, 2.4, 0.80, 0.03, 0.31, 0.28, 0.08, 9.0),
    "immune": Domain(-0.4, 8200, 3.2, 1.1, 1.00, 0.07, 0.16, 0.08, 0.03, 8.0),
    "fat": Domain(-0.5, 900, 3.0, 1.8, 0.80, 0.02, 0.30, 0.15, 0.90, 33.0),
}


@dataclass(frozen=True)
class Ellipses:
    """Many ellipses: centres and half axes in um, angle of the long axis in radians, optical density."""

    x: Floats
    y: Floats
    long: Floats
    short: Floats
    angle: Floats
    density: Floats

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> Ellipses:
        return Ellipses(*(column[index] for column in self._columns()))

    def __add__(self, other: Ellipses) -> Ellipses:
        pairs = zip(self._columns(), other._columns(), strict=True)
        return Ellipses(*(np.concatenate(pair) for pair in pairs))

    def _columns(self) -> tuple[Floats, ...]:
        return self.x, self.y, self.long, self.short, self.angle, self.density


@dataclass(frozen=True)
class Tissue:
    """One section of tissue, in um.

    Attributes
    ----------
    domains
        Share of each domain of :data:`DOMAINS` at each lattice site, ``(4, height, width)``; the shares sum to 1.
    cover
        1 on tissue, 0 on bare glass, ``(height, width)``.
    eosin, haze
        Optical densities between the nuclei, ``(height, width)``.
    fibre_phase, fibre_strength
        The fibre texture is ``1 + strength * cos(2 pi phase)``, ``(height, width)``.
    nuclei, holes
        The objects drawn on top.
    """

    domains: Floats
    cover: Floats
    eosin: Floats
    haze: Floats
    fibre_phase: Floats
    fibre_strength: Floats
    nuclei: Ellipses
    holes: Ellipses

    def rows(self, start: int, stop: int, halo: int) -> Tissue:
        """Cut out some rows of the lattice, and up to ``halo`` rows on either side of them."""
        first, last = max(0, start - halo), min(len(self.cover), stop + halo)
        low, high = (row * LATTICE_UM for row in (first, last))
        fields = ("domains", "cover", "eosin", "haze", "fibre_phase", "fibre_strength")
        objects = (each[(each.y >= low) & (each.y < high)] for each in (self.nuclei, self.holes))
        nuclei, holes = (replace(each, y=each.y - np.float32(low)) for each in objects)
        return Tissue(**{name: getattr(self, name)[..., first:last, :] for name in fields}, nuclei=nuclei, holes=holes)

    @property
    def size_um(self) -> tuple[float, float]:
        """Height and width in um."""
        height, width = self.cover.shape
        return height * LATTICE_UM, width * LATTICE_UM


def grow_tissue(rng: np.random.Generator, n_rows: int, n_cols: int) -> Tissue:
    """Draw the tissue of a section that holds an array of spots.

    Parameters
    ----------
    rng
        Source of randomness.
    n_rows, n_cols
        Size of the array, whose first spot lies at :data:`FIRST_SPOT_UM`.

    Returns
    -------
    The tissue. Its outline is irregular and may cut off spots at the array's corners.
    """
    sides = ((n - 1) * PITCH_UM + 2 * FIRST_SPOT_UM for n in (n_rows, n_cols))
    height, width = (int(np.ceil(side / LATTICE_UM)) for side in sides)
    return grow_lattice(rng, (height, width))


def grow_lattice(rng: np.random.Generator, shape: tuple[int, int]) -> Tissue:
    """Draw the tissue of a section on a lattice of this shape; see :func:`grow_tissue`."""
    slow = np.stack([smooth_field(rng, shape, _DOMAIN_UM) + 0.2 * smooth_field(rng, shape, _LOCAL_UM) for _ in DOMAINS])
    share = np.array([d.share for d in DOMAINS.values()])[:, None, None]
    domains = softmax(_SHARPNESS * (slow + share), axis=0).astype(np.float32)
    local = {name: smooth_field(rng, shape, _LOCAL_UM) for name in ("density", "size", "eosin", "haze", "holes")}
    phase = _fibres(rng, shape)
    holes = _holes(rng, domains, local["holes"])
    nuclei = _nuclei(rng, domains, local["density"], local["size"], phase)
    nuclei = nuclei + _lining(rng, domains, holes)
    return Tissue(
        domains=domains,
        cover=_outline(rng, shape),
        eosin=_blend(domains, "eosin") * np.exp(0.28 * local["eosin"]),
        haze=_blend(domains, "haze") * np.exp(0.3 * local["haze"]),
        fibre_phase=phase,
        fibre_strength=_blend(domains, "fibres"),
        nuclei=nuclei[~_inside(nuclei, holes)],
        holes=holes,
    )


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], length_um: float) -> Floats:
    """Draw a smooth Gaussian random field of mean 0 and variance 1 over the lattice."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    smooth = gaussian_filter(noise, length_um / LATTICE_UM, mode="reflect", truncate=3.0)
    return (smooth - smooth.mean()) / smooth.std()


def _blend(domains: Floats, attribute: str) -> Floats:
    """Mix an attribute of the domains by their share at each site."""
    values = np.array([getattr(d, attribute) for d in DOMAINS.values()], dtype=np.float32)
    return np.tensordot(values, domains, axes=1)


def _outline(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Draw a rounded outline with an uneven edge, in the proportions of the lattice."""
    v, u = (np.abs(np.linspace(-1, 1, n)) for n in shape)
    radius = (u[None, :] ** 4 + v[:, None] ** 4) ** 0.25
    edge = 0.965 + 0.03 * smooth_field(rng, shape, 160.0) + 0.006 * smooth_field(rng, shape, 24.0)
    sharp = min(shape) * LATTICE_UM / 2 / 10.0  # fades out over 10 um
    return np.clip((np.minimum(edge, 0.99) - radius) * sharp + 0.5, 0, 1).astype(np.float32)


def _fibres(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Draw the phase of parallel fibres, which smooth fields bend."""
    turn = rng.uniform(0, np.pi)
    y, x = np.indices(shape, dtype=np.float32) * LATTICE_UM / _FIBRE_UM
    bent = 7.0 * smooth_field(rng, shape, 190.0) + 0.9 * smooth_field(rng, shape, 30.0)
    return (x * np.cos(turn) + y * np.sin(turn) + bent).astype(np.float32)


def _sites(rng: np.random.Generator, shape: tuple[int, ...], step: float) -> tuple[Floats, Floats]:
    """Scatter points over the area of the lattice, about ``step`` um apart: a jittered hexagonal grid."""
    height, width = (n * LATTICE_UM for n in shape)
    rows = np.arange(0, height, step * np.sqrt(3) / 2)
    cols = np.arange(0, width, step)
    x = cols[None, :] + np.where(np.arange(len(rows)) % 2, step / 2, 0)[:, None]
    y = np.broadcast_to(rows[:, None], x.shape)
    shaken = np.stack([x, y]).reshape(2, -1) + rng.uniform(-0.33, 0.33, (2, x.size)) * step
    kept = (shaken >= 0).all(axis=0) & (shaken[0] < width) & (shaken[1] < height)
    x, y = shaken[:, kept].astype(np.float32)
    return x, y


def _at(field: Floats, x: Floats, y: Floats) -> Floats:
    """Give the value of a field at the lattice sites nearest to points."""
    height, width = field.shape[-2:]
    row = np.clip((y / LATTICE_UM).astype(np.intp), 0, height - 1)
    col = np.clip((x / LATTICE_UM).astype(np.intp), 0, width - 1)
    return field[..., row, col]


def _holes(rng: np.random.Generator, domains: Floats, local: Floats) -> Ellipses:
    """Draw fat cells, gland lumina and vessels: sites that are open with the probability of their domain."""
    x, y = _sites(rng, local.shape, _HOLE_UM)
    mix = _at(domains, x, y)
    chance = _blend(mix, "holes") * np.exp(1.3 * _at(local, x, y))
    fat = mix[list(DOMAINS).index("fat")]
    chance = np.where(fat > 0.5, np.maximum(chance, 0.85), chance)
    opened = rng.uniform(size=len(x)) < chance
    x, y, fat = x[opened], y[opened], fat[opened]
    radius = _blend(mix[:, opened], "hole_radius") * np.exp((0.35 - 0.3 * fat) * rng.standard_normal(len(x)))
    stretch = np.exp(rng.uniform(0, 0.3, len(x)))
    angle = rng.uniform(0, np.pi, len(x))
    return _ellipses(x, y, radius, stretch, angle, np.ones(len(x)))


def _nuclei(rng: np.random.Generator, domains: Floats, density: Floats, size: Floats, phase: Floats) -> Ellipses:
    """Draw the nuclei of the domains: sites are taken with a probability that gives the wanted density."""
    x, y = _sites(rng, density.shape, _NUCLEUS_UM)
    mix = _at(domains, x, y)
    area_mm2 = _NUCLEUS_UM**2 * np.sqrt(3) / 2 * 1e-6
    taken = rng.uniform(size=len(x)) < _blend(mix, "density") * area_mm2 * np.exp(0.5 * _at(density, x, y))
    x, y, mix = x[taken], y[taken], mix[:, taken]
    n = len(x)
    radius = _blend(mix, "radius") * np.exp(0.2 * _at(size, x, y) + 0.12 * rng.standard_normal(n))
    stretch = _blend(mix, "elongation") * np.exp(0.12 * rng.standard_normal(n))
    down, right = _at(np.array(np.gradient(phase)), x, y)
    along = np.arctan2(right, -down)  # fibres run across the gradient of their phase
    fibrous = rng.uniform(size=n) < 2.2 * _blend(mix, "fibres")
    angle = np.where(fibrous, along + 0.25 * rng.standard_normal(n), rng.uniform(0, np.pi, n))
    chromatin = _blend(mix, "chromatin") * np.exp(0.15 * rng.standard_normal(n))
    return _ellipses(x, y, radius, stretch, angle, chromatin)


def _lining(rng: np.random.Generator, domains: Floats, holes: Ellipses) -> Ellipses:
    """Draw nuclei side by side around the lumina of the tumour's glands."""
    glands = holes[_at(domains, holes.x, holes.y)[list(DOMAINS).index("tumour")] > 0.5]
    ring = glands.long + 5.0
    count = (2 * np.pi * ring / 9.5).astype(np.intp)
    which = np.repeat(np.arange(len(glands)), count)
    n = len(which)
    turn = rng.uniform(0, 2 * np.pi, len(glands))[which]
    step = np.arange(n) - np.repeat(np.cumsum(count) - count, count)
    angle = turn + 2 * np.pi * (step + rng.uniform(-0.2, 0.2, n)) / count[which]
    x = glands.x[which] + ring[which] * np.cos(angle)
    y = glands.y[which] + ring[which] * np.sin(angle)
    tumour = DOMAINS["tumour"]
    radius = tumour.radius * 0.9 * np.exp(0.12 * rng.standard_normal(n))
    return _ellipses(x, y, radius, np.full(n, 1.4), angle, np.full(n, tumour.chromatin))


def _ellipses(x: NDArray, y: NDArray, radius: NDArray, stretch: NDArray, angle: NDArray, density: NDArray) -> Ellipses:
    """Make ellipses of a circle's area: half axes are the radius times, and over, the root of the stretch."""
    root = np.sqrt(stretch)
    columns = (x, y, radius * root, radius / root, angle, density)
    return Ellipses(*(np.asarray(column, dtype=np.float32) for column in columns))


def _inside(points: Ellipses, holes: Ellipses) -> NDArray[np.bool_]:
    """Find the centres that lie in a hole, taken as a circle of its mean radius."""
    inside = np.zeros(len(points), dtype=bool)
    if not len(holes):
        return inside
    radius = np.sqrt(holes.long * holes.short)
    tree = cKDTree(np.column_stack([points.x, points.y]))
    for hits in tree.query_ball_point(np.column_stack([holes.x, holes.y]), radius + 1.0):
        inside[hits] = True
    return inside
