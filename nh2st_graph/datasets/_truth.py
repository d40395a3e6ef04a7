"""From morphology to counts: what synthetic genes depend on, and how their counts are drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import softmax
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import radius_neighbors_graph
from sklearn.preprocessing import PolynomialFeatures, scale

from nh2st_graph.datasets._stain import Rendered
from nh2st_graph.datasets._tissue import Tissue

__all__ = [
    "KINDS",
    "MORPHOLOGY",
    "PATCH_UM",
    "Genes",
    "draw_counts",
    "draw_depth",
    "draw_genes",
    "expected_counts",
    "measure_morphology",
    "patch_means",
    "surroundings",
]

Floats = NDArray[np.float64]

#: Kinds of genes, and the beginning of their names.
KINDS = {"own": "OWN", "neighbour": "NBR", "noise": "NOISE"}
#: Variables of a spot's patch, in the order of the columns everywhere.
MORPHOLOGY = ("nuclear_density", "nuclear_size", "eosin", "lumen")
#: Side of the square in which the morphology of a spot is measured; squares of neighbours do not touch.
PATCH_UM = 112.0

_ABUNDANCE_SD = 0.5  # standard deviation of the natural log of a gene's base abundance
_SPOT_DEPTH_SD = 0.35  # standard deviation of the natural log of a spot's depth within its section


class Genes(NamedTuple):
    """Genes, which all sections of a study share.

    Attributes
    ----------
    names
        ``OWN01``, ..., in the order of :data:`KINDS`.
    kind
        A key of :data:`KINDS` for each gene.
    base
        Natural log of the relative abundance, ``(n_genes,)``.
    loadings
        Change of the log-mean for one standard deviation of each morphology variable, ``(n_genes, 4)``.
    """

    names: pd.Index
    kind: NDArray[np.str_]
    base: Floats
    loadings: Floats


def draw_genes(rng: np.random.Generator, numbers: dict[str, int], strength: float) -> Genes:
    """Draw base abundances and loadings; the loadings of each kind have mean 0.

    Parameters
    ----------
    rng
        Source of randomness.
    numbers
        Number of genes of each kind.
    strength
        Length of a gene's loadings; those of ``noise`` genes are 0.
    """
    loadings = []
    for kind, n in numbers.items():
        direction = rng.standard_normal((n, len(MORPHOLOGY)))
        if kind == "noise" or n == 0:
            loadings.append(np.zeros_like(direction))
            continue
        direction -= direction.mean(axis=0)
        loadings.append(strength * direction / np.linalg.norm(direction, axis=1, keepdims=True))
    names = [f"{KINDS[kind]}{i:02d}" for kind, n in numbers.items() for i in range(1, n + 1)]
    base = _ABUNDANCE_SD * rng.standard_normal(len(names))
    return Genes(pd.Index(names), np.repeat(list(numbers), list(numbers.values())), base, np.vstack(loadings))


def patch_means(field: NDArray, centres: Floats, step: float) -> Floats:
    """Average a field over the square patch around each centre.

    Parameters
    ----------
    field
        Values on a raster, ``(..., height, width)``.
    centres
        x and y of the patches in um, ``(n, 2)``.
    step
        um per step of the raster.

    Returns
    -------
    Means, ``(n, ...)``.
    """
    first = np.rint((centres - PATCH_UM / 2) / step).astype(np.intp)
    side = round(PATCH_UM / step)
    return np.stack([field[..., y : y + side, x : x + side].mean(axis=(-2, -1)) for x, y in first])


def measure_morphology(tissue: Tissue, image: Rendered, centres: Floats, microns_per_pixel: float) -> Floats:
    """Measure the :data:`MORPHOLOGY` of each spot's patch, and standardise it within the section.

    Density is the log number of nuclei; size their mean log radius, shrunken towards the section's mean by one nucleus
    of that size; eosin the mean optical density of solid tissue; and lumen the root of the white share.

    Returns
    -------
    Standardised variables, ``(n_spots, 4)``.
    """
    nuclei = tissue.nuclei
    radius = np.log(nuclei.long * nuclei.short) / 2
    tree = cKDTree(np.column_stack([nuclei.x, nuclei.y]))
    inside = tree.query_ball_point(centres, PATCH_UM / 2, p=np.inf)
    count = np.array([len(which) for which in inside])
    total = np.array([radius[which].sum() for which in inside])
    lumen = patch_means(image.lumen, centres, microns_per_pixel)
    eosin = patch_means(image.eosin, centres, microns_per_pixel)
    size = (total + radius.mean()) / (count + 1)
    return scale(np.column_stack([np.log1p(count), size, eosin / np.maximum(1 - lumen, 0.05), np.sqrt(lumen)]))


def surroundings(own: Floats, domains: Floats, array: NDArray[np.intp]) -> Floats:
    """Average the morphology of a spot's neighbours, and regress out what its own patch tells about it.

    Parameters
    ----------
    own
        Morphology of each spot, ``(n_spots, 4)``.
    domains
        Shares of the domains in each spot's patch, ``(n_spots, 4)``.
    array
        Row and column of each spot, ``(n_spots, 2)``.

    Returns
    -------
    Mean over the up to eight spots around each spot (0 if there is none), minus its least-squares fit by the spot's own
    variables, their squares and products, and its domains; standardised, ``(n_spots, 4)``.
    """
    adjacency = radius_neighbors_graph(array, 1.0, metric="chebyshev", include_self=False)
    degree = np.diff(adjacency.indptr)[:, None]
    mean = (adjacency @ own) / np.maximum(degree, 1)
    # Tissue continues beyond a patch, so that the domains of the patch tell about its neighbours too.
    known = np.hstack([PolynomialFeatures(degree=2).fit_transform(own), domains])
    return scale(mean - LinearRegression().fit(known, mean).predict(known))


def expected_counts(genes: Genes, own: Floats, around: Floats, depth: Floats) -> Floats:
    """Compute the mean of each count.

    Each kind of gene has a constant share of the library, and genes compete within their kind. A spot's total therefore
    does not depend on its morphology, and library-size normalisation carries no signal from one kind to another.

    Parameters
    ----------
    genes
        Abundances and loadings.
    own, around
        What ``own`` and ``neighbour`` genes depend on, ``(n_spots, 4)`` each.
    depth
        Expected total of each spot, ``(n_spots,)``.

    Returns
    -------
    Means, ``(n_spots, n_genes)``.
    """
    library = softmax(genes.base)
    share = np.empty((len(own), len(genes.base)))
    for kind in KINDS:
        chosen = genes.kind == kind
        if chosen.any():
            effect = (around if kind == "neighbour" else own) @ genes.loadings[chosen].T
            share[:, chosen] = library[chosen].sum() * softmax(genes.base[chosen] + effect, axis=1)
    return depth[:, None] * share


def draw_depth(rng: np.random.Generator, n_spots: int, depth: float, shift: float) -> Floats:
    """Draw the expected totals of a section's spots: log-normal around a log-normal level of the section.

    Parameters
    ----------
    rng
        Source of randomness.
    n_spots
        Number of spots.
    depth
        Median total.
    shift
        Standard deviation of the log level of a section.
    """
    level = np.log(depth) + shift * rng.standard_normal()
    return np.exp(level + _SPOT_DEPTH_SD * rng.standard_normal(n_spots))


def draw_counts(rng: np.random.Generator, mean: Floats, dispersion: float) -> NDArray[np.int64]:
    """Draw negative-binomial counts of variance ``mean + dispersion * mean ** 2``, as a gamma mixture."""
    if dispersion > 0:
        mean = mean * rng.gamma(1 / dispersion, dispersion, mean.shape)
    return rng.poisson(mean)
