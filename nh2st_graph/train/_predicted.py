"""Predict the expression of a prepared section."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch_geometric.data import Data

from nh2st_graph._errors import ModelError
from nh2st_graph.models import NH2STGraph
from nh2st_graph.section import Key
from nh2st_graph.train._large import predict_graph
from nh2st_graph.train._prepare import image_only

if TYPE_CHECKING:
    from nh2st_graph.train._model import FittedModel

__all__ = ["predicted_expression"]

logger = logging.getLogger("nh2st_graph")


def predicted_expression(model: FittedModel, graph: Data) -> NDArray[np.float32]:
    """Predict over a prepared graph, ``(n_spots, n_genes)`` float32. The method does not get the graph's genes.

    Raises
    ------
    ModelError
        If the method gave another shape, or values that are not finite.
    """
    image = image_only(graph)
    if isinstance(model.module, NH2STGraph) and model.module.closed_form is not None:
        known = "a training patient" if model.module.knows(image) else "a new patient"
        why = "" if "patient" in image else f", since no patient is named (obs['{Key.obs.patient}'])"
        logger.info("section %r: predicted as of %s%s", graph.section, known, why)
    predicted = predict_graph(model.module, image, model.config.train.n_threads)
    expected = (image.num_nodes, len(model.genes))
    if predicted.shape != expected or not np.isfinite(predicted).all():
        what = f"shape {predicted.shape}" if predicted.shape != expected else "values that are not finite"
        raise ModelError(
            f"method {model.config.model.name!r} predicted {what} for section {graph.section!r}, "
            f"expected {expected} finite values; mend the method"
        )
    return predicted
