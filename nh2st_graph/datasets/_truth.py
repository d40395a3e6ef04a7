"""From morphology to counts: what synthetic genes depend on, and how their counts are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
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
    "selected_neighbour",
    "surroundings",
]

Floats = NDArray[np.float64]

#: Kinds of genes, and the beginning of their names.
KINDS = {"own": "OWN", "neighbour": "NBR", "interaction": "INT", "noise": "NOISE"}
#: Variables of a spot's patch, in the order of the columns everywhere.
MORPHOLOGY = ("nuclear_density", "nuclear_size", "eosin", "lumen")
#: Side of the square in which the morphology of a spot is measured; squares of neighbours do not touch.
PATCH_UM = 112.0

_ABUNDANCE_SD = 0.5  # standard deviation of the natural log of a gene's base abundance
_SPOT_DEPTH_SD = 0.35  # standard deviation of the natural log of a spot's depth within its section

_BY_DENSITY = 2.0  # change of a neighbour's log weight for one standard deviation of its nuclear density
_BY_CORNER = -1.0  # change of it for a neighbour across the corner, 1.41 pitches away


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
    mean = _weighted_means(_adjacent(array), own)
    return _left_over(mean, _known(own, domains))


def selected_neighbour(own: Floats, domains: Floats, array: NDArray[np.intp]) -> Floats:
    r"""Take the morphology of the neighbour with the most nuclei, and regress out what the neighbours' mean tells.

    Neighbour :math:`j` of a spot has the weight :math:`\exp(2 d_j - c_j)` over the sum of the weights, with its nuclear
    density :math:`d_j` (standardised) and :math:`c_j = 1` across the corner and 0 across the side. Which neighbour
    counts thus depends on what is in it and in the neighbours beside it, and on its distance.

    Parameters
    ----------
    own, domains, array
        As in :func:`surroundings`.

    Returns
    -------
    Weighted mean over the up to eight spots around each spot (0 if there is none), minus its least-squares fit by the
    neighbours' plain mean, the spot's own variables, their squares and products, and its domains; standardised,
    ``(n_spots, 4)``. No linear function of a spot's own variables and its neighbours' mean explains it.
    """
    weights = _adjacent(array)
    mean = _weighted_means(weights, own)
    receiver, sender = weights.nonzero()
    across_corner = np.abs(array[receiver] - array[sender]).sum(axis=1) == 2
    weights.data = np.exp(_BY_DENSITY * own[sender, MORPHOLOGY.index("nuclear_density")] + _BY_CORNER * across_corner)
    return _left_over(_weighted_means(weights, own), np.hstack([_known(own, domains), mean]))


def _adjacent(array: NDArray[np.intp]) -> csr_matrix:
    """Join each spot to the up to eight around it."""
    return radius_neighbors_graph(array, 1.0, metric="chebyshev", include_self=False)


def _weighted_means(weights: csr_matrix, values: Floats) -> Floats:
    """Average values by the weights of each row; 0 for a row without any."""
    total = np.asarray(weights.sum(axis=1))
    return (weights @ values) / np.where(total > 0, total, 1.0)


def _known(own: Floats, domains: Floats) -> Floats:
    """List what a spot's patch tells: tissue continues beyond it, so that its domains tell about its neighbours too."""
    return np.hstack([PolynomialFeatures(degree=2).fit_transform(own), domains])


def _left_over(values: Floats, known: Floats) -> Floats:
    """Take from values what a linear function of other values explains, and standardise the rest."""
    return scale(values - LinearRegression().fit(known, values).predict(known))


def expected_counts(genes: Genes, variables: Mapping[str, Floats], depth: Floats) -> Floats:
    """Compute the mean of each count.

    Each kind of gene has a constant share of the library, and genes compete within their kind. A spot's total therefore
    does not depend on its morphology, and library-size normalisation carries no signal from one kind to another.

    Parameters
    ----------
    genes
        Abundances and loadings.
    variables
        What the genes of each kind depend on, ``(n_spots, 4)`` each; ``noise`` genes have none.
    depth
        Expected total of each spot, ``(n_spots,)``.

    Returns
    -------
    Means, ``(n_spots, n_genes)``.
    """
    library = softmax(genes.base)
    share = np.empty((len(depth), len(genes.base)))
    for kind in KINDS:
        chosen = genes.kind == kind
        if chosen.any():
            effect = variables[kind] @ genes.loadings[chosen].T if kind in variables else np.zeros((len(depth), 1))
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
