"""Score how alike a gene is in spots whose images are alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import NearestNeighbors

from nh2st_graph._errors import DataError, setting

__all__ = ["expression_predictability"]


def expression_predictability(
    features: ArrayLike, expression: ArrayLike, *, n_neighbours: int = 5
) -> NDArray[np.float64]:
    r"""Compute the expression predictability score (EPS) of each gene: no model is fitted, and nothing is held out.

    Each spot is joined to the spots whose images are nearest by cosine distance. EPS is the negative logarithm of
    Geary's :math:`C` on this graph, which compares the squared difference of a gene between joined spots with its
    variance:

    .. math::
        C_g = \frac{(n - 1) \sum_i \sum_{j \in N(i)} (y_{ig} - y_{jg})^2}{2 n k \sum_i (y_{ig} - \bar y_g)^2},
        \qquad \text{EPS}_g = -\ln C_g

    It is about 0 for a gene that has nothing to do with the image, and grows with what both share. Sequencing depth
    counts as shared where dense tissue has more of it.

    Parameters
    ----------
    features
        Image features of the spots of one section, ``(n_spots, n_features)``. Only their directions are read.
    expression
        Log expression, ``(n_spots, n_genes)``, in the same order. A linear change of a gene changes nothing.
    n_neighbours
        Number of nearest other spots, :math:`k`.

    Returns
    -------
    ``(n_genes,)``; NaN for a constant gene.

    Raises
    ------
    DataError
        If the numbers of spots differ, or there are no more than ``n_neighbours``.

    References
    ----------
    Xia et al., *Expression Copilot* (github.com/gao-lab/ExpressionCopilot, version 0.3.0), whose numbers this function
    gives. Geary 1954, The Incorporated Statistician 5:115.
    """
    x, y = np.asarray(features, dtype=np.float64), np.asarray(expression, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise DataError(f"features of shape {x.shape} and expression of {y.shape}; give those of the same spots")
    if len(x) <= n_neighbours:
        raise DataError(
            f"{len(x)} spots are too few for {setting('n_neighbours', n_neighbours)}; give fewer neighbours"
        )
    length = np.linalg.norm(x, axis=1, keepdims=True)
    found = NearestNeighbors(n_neighbors=n_neighbours).fit(x / np.where(length == 0, 1.0, length))
    nearest = found.kneighbors(return_distance=False)  # of other spots, since none are given
    y = y - y.mean(axis=0)
    between = np.sum([np.square(y - y[column]).sum(axis=0) for column in nearest.T], axis=0)
    variation = np.square(y).sum(axis=0)
    varies = np.ptp(y, axis=0) > 0
    with np.errstate(divide="ignore"):  # a gene that is the same in all joined spots has an infinite score
        score = -np.log((len(x) - 1) * between[varies] / (2 * nearest.size * variation[varies]))
    result = np.full(y.shape[1], np.nan)
    result[varies] = score
    return result
