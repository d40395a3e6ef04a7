"""Predict a section of which some spots or genes were measured."""

from __future__ import annotations

import logging

import numpy as np
import torch
from anndata import AnnData

from nh2st_graph._errors import ModelError
from nh2st_graph.nn import MeasuredSpots
from nh2st_graph.read import SpatialObject, documented, given_sections
from nh2st_graph.section import Key, content_digest
from nh2st_graph.tl._believe import blank_barely_measured, of_training_patient, say_barely_measured
from nh2st_graph.tl._measured import Entries, Measured, MeasuredValues, measured_entries, measured_values
from nh2st_graph.tl._order import fitted
from nh2st_graph.tl._predict import as_prediction, varies
from nh2st_graph.train import FittedModel, Imputation, PreparedSection, one_thread, predicted_expression, weights_digest

__all__ = ["impute"]

logger = logging.getLogger("nh2st_graph")

#: Mode of a prediction that has read genes.
_IMPUTED = "imputed"
#: Spots that are computed with at a time.
_ROWS = 8192


@documented
def impute(
    adata: SpatialObject,
    model: FittedModel,
    *,
    measured: Measured,
    library_key: str | None = None,
    table_key: str | None = None,
) -> AnnData:
    """Predict a section from its image and from what was measured of it.

    The prediction from the image is the start. What was measured corrects it, through a gene encoder and a neighbour
    branch that were trained on held-out sections with masked genes (:class:`nh2st_graph.nn.MaskedGenes`). Counts that
    are not said to be measured are not read.

    This is a mode of its own: :func:`predict` never reads genes, and its result says nothing of this one.

    Parameters
    ----------
    adata
        One section; several in one, with ``library_key``; or SpatialData.
    model
        A model of :func:`fit` or :func:`nh2st_graph.load`.
    measured
        What was measured: True or False for each spot (an array, or a Series by spot); or a list of genes, measured at
        every spot; or True or False for each spot and gene (an array with the genes of ``adata``, or a table by spot
        and gene). Raw counts of these are in ``adata.X``; others may be any number, or NaN.
    %(library_key)s
    %(table_key)s

    Returns
    -------
    AnnData as :func:`predict` gives it, without the evidence and intervals of predictions from the image, and without
    ``layers["observed"]``. ``X`` holds the measured values where there are some, in the units of the prediction, and
    ``layers["measured"]`` says where.
    ``obs["nh2st_measured"]`` is the share of a spot's genes that were measured, and ``var["nh2st_measured"]`` the share
    of a gene's spots. ``uns["nh2st_prediction"]["mode"]`` is ``"imputed"``.

    Of a spot with some measured genes, the library size is estimated by these.

    Raises
    ------
    DataError, ImageError
        If the section breaks the contract, ``measured`` does not fit it, or measured counts are no raw counts.
    ModelError
        If the model has not learned to do this, or its targets need all genes of a spot.

    Examples
    --------
    Fill in a section of which every fourth spot was sequenced, and one of which 50 genes were stained:

    >>> import nh2st_graph as ng
    >>> model, sections = ng.load("model"), ng.read.sections("visium", "sections")
    >>> sequenced = [number % 4 == 0 for number in range(sections["D1"].n_obs)]
    >>> filled = ng.tl.impute(sections["D1"], model, measured=sequenced)
    >>> filled = ng.tl.impute(sections["D2"], model, measured=model.genes[:50])
    """
    imputation = fitted("impute", model).imputation
    if imputation is None:
        raise ModelError("the model has not learned from masked genes; train it again, on sections with counts")
    given = given_sections(adata, library_key=library_key, table_key=table_key)
    entries = measured_entries(given.table, measured)
    preparation, parts = model.preparation, {}
    for name, section in given.sections.items():
        prepared = preparation.prepare(section)
        rows = given.rows[name][section.obs_names.get_indexer(prepared.section.obs_names)]
        parts[name] = _imputed(model, imputation, prepared, entries.of_spots(rows))[prepared.spots].copy()
    joined = given.joined(parts)
    joined.var[Key.var.varies] = varies(joined.X)
    joined.var[Key.var.measured] = joined.layers[Key.layers.measured].mean(axis=0)
    return joined


def _imputed(model: FittedModel, imputation: Imputation, prepared: PreparedSection, entries: Entries) -> AnnData:
    """Impute a prepared section, with spots in its order."""
    section, data = prepared.section, model.config.data
    found = measured_values(section, entries, model.genes, data, imputation.shares.numpy())
    expression = predicted_expression(model, prepared.graph)
    if len(found.spots):
        _correct(expression, model, imputation, prepared, found)
    predicted = as_prediction(model, prepared, expression, observed=False)
    blank_barely_measured(predicted, model)
    say_barely_measured(predicted, model)
    everywhere = np.zeros(predicted.shape, dtype=bool)
    everywhere[found.spots] = found.entries
    predicted.X[everywhere] = found.values[found.entries]
    predicted.layers[Key.layers.measured] = everywhere
    predicted.obs[Key.obs.measured] = everywhere.mean(axis=1)
    about = predicted.uns[Key.uns.prediction]
    about[Key.prediction.mode] = _IMPUTED
    about["measured_spots"], about["measured_genes"] = len(found.spots), int(everywhere.any(axis=0).sum())
    spots = [str(name) for name in section.obs_names[found.spots]]
    about[Key.prediction.origin] |= {
        "measured": content_digest([*spots, *model.genes], [found.values.astype(np.float32), found.entries]),
        "imputation": weights_digest(imputation.memory()),
    }
    logger.info(
        "section %r: %d of %d spots have measured genes, and inform the others",
        prepared.name,
        len(found.spots),
        section.n_obs,
    )
    return predicted


@torch.no_grad()
def _correct(
    expression: np.ndarray,
    model: FittedModel,
    imputation: Imputation,
    prepared: PreparedSection,
    found: MeasuredValues,
) -> None:
    """Add to a prediction from the image, in place, what measured values say of its error."""
    learned = imputation.of(known=of_training_patient(model, prepared))
    pos, spots = prepared.graph.pos, torch.from_numpy(found.spots)
    error = torch.from_numpy(found.values - expression[found.spots])
    given = MeasuredSpots(pos[spots], error, torch.from_numpy(found.depth))
    with one_thread():
        scores = learned.scores(pos, spots, given, torch.from_numpy(found.entries))
        for rows in torch.arange(len(scores)).split(_ROWS):
            expression[rows.numpy()] += (scores[rows] @ learned.basis).float().numpy()
