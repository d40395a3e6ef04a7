"""References: predictions from the test section's own genes, to compare scores with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from nh2st_graph._errors import DataError
from nh2st_graph.metrics._scores import gene_blocks

__all__ = ["neighbour_mean"]


def neighbour_mean(observed: ArrayLike, connectivities: Any) -> NDArray[np.floating[Any]]:
    """Predict each spot by the mean of its neighbours' true expression.

    This is a reference and not a method: it shows how far smoothness alone goes, given all measured neighbours.

    Parameters
    ----------
    observed
        Expression, ``(n_spots, n_genes)``.
    connectivities
        The section's graph as squidpy writes it, ``(n_spots, n_spots)``, sparse or dense: row ``i`` lists the
        neighbours of spot ``i``. All non-zero entries have equal weight, and a spot is not its own neighbour.

    Returns
    -------
    ``(n_spots, n_genes)``, of the floating-point type of ``observed``, and float64 of other numbers. A spot without
    neighbours gets the section's mean.

    Raises
    ------
    DataError
        If the graph has another number of spots.
    """
    values = np.asarray(observed)
    graph = sparse.coo_array(connectivities)
    if values.ndim != 2 or graph.shape != (len(values), len(values)):
        raise DataError(
            f"expression of shape {values.shape} and a graph of {graph.shape}; give those of the same section's spots"
        )
    edges = (graph.data != 0) & (graph.row != graph.col)
    ends = graph.row[edges], graph.col[edges]
    neighbours = sparse.csr_array((np.ones(len(ends[0])), ends), shape=graph.shape)
    degree = neighbours.sum(axis=1)[:, None]
    means = np.empty(values.shape, values.dtype if np.issubdtype(values.dtype, np.floating) else np.float64)
    for genes in gene_blocks(*values.shape):
        some = values[:, genes].astype(np.float64)
        means[:, genes] = np.where(degree > 0, neighbours @ some / np.maximum(degree, 1), some.mean(axis=0))
    return means
