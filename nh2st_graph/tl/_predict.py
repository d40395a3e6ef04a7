"""Predict and embed sections with a fitted model."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from torch_geometric.data import Data

from nh2st_graph import __version__
from nh2st_graph._errors import DataError, ModelError, RenamedWarning, setting
from nh2st_graph.models import EMBEDDINGS, Estimator, Network
from nh2st_graph.read import SpatialObject, annotate, documented, given_sections, is_spatialdata
from nh2st_graph.section import Key, libraries, library_id, named_patients, section_digest
from nh2st_graph.tl._believe import (
    believe,
    blank_barely_measured,
    chosen_genes,
    kind_of_slides,
    refuse_genes,
    say_barely_measured,
)
from nh2st_graph.tl._order import data_first
from nh2st_graph.tl._wsidata import SlideTiles, is_wsidata
from nh2st_graph.train import (
    FittedModel,
    PreparedSection,
    add_familiarity,
    dense_graph,
    one_thread,
    predicted_expression,
    weights_digest,
)
from nh2st_graph.train._record import record

__all__ = [
    "as_prediction",
    "embed",
    "embedded",
    "embedding_entry",
    "finished",
    "network",
    "predict",
    "predict_prepared",
    "prediction_origin",
    "varies",
    "with_genes",
]

logger = logging.getLogger("nh2st_graph")

#: Keys that no prediction may take: they hold a section's coordinates and features, or mark an AnnData as predicted.
_TAKEN = {key for slot in (Key.obsm, Key.uns) for name, key in vars(slot).items() if not name.startswith("_")}

#: Letters by which a network of another package may still call its embeddings.
_EARLIER = {"p": "image", "q": "gene", "P": "image_neighbourhood", "Q": "gene_neighbourhood"}


@documented
def predict(
    adata: SpatialObject,
    model: FittedModel,
    *,
    library_key: str | None = None,
    table_key: str | None = None,
    key_added: str | None = None,
    genes: str | Sequence[str] | None = None,
    intervals: bool | None = None,
) -> AnnData:
    """Predict the expression of a section from its image, and say how far to believe it.

    Parameters
    ----------
    adata
        One section; several in one, with ``library_key``; SpatialData; or a slide as the WSIData of LazySlide. Genes
        may be absent; the prediction does not read them. Of a WSIData, the spots are its tiles, and features of the
        model's encoder that are there are taken; tiles and features that it lacks are added to it. There,
        ``table_key`` names a table of features, or tiles.
    model
        A model of :func:`fit` or :func:`nh2st_graph.load`.
    %(library_key)s
    %(table_key)s
    key_added
        Key under which the prediction is also written into ``adata``; None writes nothing. In SpatialData, this is the
        name of a table, which annotates the same shapes as the section's own table, so that spatialdata-plot draws it.
        In AnnData, this is a key of ``obsm`` for a table with one column a gene, from which ``sq.pl.extract`` takes
        genes to draw; ``uns[key_added]`` describes the prediction. Into a WSIData, a table is always written:
        ``{key_added}_{tile_key}``, as LazySlide and OmicVerse name it, by default ``nh2st_graph_tiles``.
    genes
        Names of genes to keep; ``"reliable"`` keeps the reliable ones; None keeps all.
    intervals
        Write the layers ``lower``, ``upper`` and ``sd``; None writes them for sections of fewer than 50,000 spots.

    Returns
    -------
    AnnData with ``X`` the predicted log expression (spots x panel genes, float32; the base of the logarithm is
    ``uns["nh2st_prediction"]["log_base"]``), ``layers["observed"]`` if the whole panel was measured (raw counts), and
    the section's ``obs``, ``obsm["spatial"]``, graph and ``uns["spatial"]``, so that squidpy and scanpy run on it.
    Several sections have one ``uns["spatial"]`` entry each and no edge between them.

    ``var`` holds what held-out training data said of each gene, for slides of a training patient or of a new one:
    ``held_out_pcc``, ``held_out_pcc_partial`` (given depth) with its interval ``held_out_low`` and ``held_out_high``,
    ``held_out_ceiling`` and ``held_out_share_of_ceiling``, ``n_sections``, ``n_patients``, and ``reliable``
    (:func:`nh2st_graph.confidence.gene_table` has the rule). A gene that was detected in fewer than ten training spots
    is NaN. ``layers["lower"]`` and ``layers["upper"]`` are intervals that are to hold ``evaluate.coverage`` of the
    measured values in a whole new section (:class:`nh2st_graph.confidence.Calibration`);
    ``uns["nh2st_prediction"]["coverage"]`` says how far that is known. ``layers["sd"]`` is the standard deviation
    between the models of the folds. :func:`call` finds the spots where a gene is high or low.

    ``obs["familiarity"]`` says how near the image features of a spot are to those of training spots, from 0 to 1: one
    half is what a usual spot of another section like those of training has, and 0 is farther than all of them were. A
    warning names a section that is unlike all training: of another stain, tissue or resolution.
    ``uns["nh2st_prediction"]["familiarity"]`` holds the judgement.

    ``var["nh2st_varies"]`` says which genes vary over the spots. squidpy and scanpy need them left out that do not:
    one such gene takes the FDR of Moran's I from all genes, and ``sc.pp.scale`` makes it NaN. A value of ``X`` can be
    below 0, as of no count; functions that take the logarithm back, such as ``sc.tl.rank_genes_groups``, need it
    clipped at 0. The guide shows both.

    Raises
    ------
    DataError, ImageError
        If the section breaks the contract, or ``key_added`` is a key that AnnData has for something else.
    ModelError
        If the method gave another shape, or values that are not finite; if a gene is none of the model's, or
        none is reliable.

    Examples
    --------
    Write a prediction beside the measurement, in SpatialData and in AnnData, and beside the tiles of a slide:

    >>> import nh2st_graph as ng
    >>> import spatialdata as sd
    >>> model, sdata = ng.load("model"), sd.read_zarr("store.zarr")
    >>> prediction = ng.tl.predict(sdata, model, key_added="predicted")
    >>> section = ng.read.sections("visium", "sections")["D1"]
    >>> prediction = ng.tl.predict(section, model, key_added="predicted")  # obsm["predicted"], a column a gene
    """
    adata, model = data_first("predict", adata, model)
    if is_wsidata(adata):
        if library_key is not None:
            raise DataError(
                f"{setting('library_key', library_key)} is for several sections, and a slide is one; leave it out"
            )
        slide = SlideTiles.of(adata, model, table_key)
        predicted = finished(predict_prepared(model, slide.prepared, intervals=intervals), model, slide.prepared)
        return slide.written(with_genes(predicted, model, genes), model, key_added)
    given = given_sections(adata, library_key=library_key, table_key=table_key)
    if key_added in _TAKEN and not is_spatialdata(adata):
        raise DataError(f"{setting('key_added', key_added)} is the key of something else in AnnData; give another")
    preparation, prepared, parts = model.preparation, {}, {}
    refuse_genes(model, list(given.sections.values()), genes)
    for name, section in given.sections.items():
        prepared[name] = preparation.prepare(section)
    patients = [named_patients(each.section) for each in prepared.values()]
    kind = None if model.confidence is None else kind_of_slides(model, patients)
    for name, each in prepared.items():
        done = finished(predict_prepared(model, each, intervals=intervals, kind=kind), model, each)
        parts[name] = with_genes(done, model, genes)
    predicted = given.joined(parts)
    predicted.var[Key.var.varies] = varies(predicted.X)
    if is_spatialdata(adata):
        annotate(predicted, given.table)
        if key_added is not None:
            adata.tables[key_added] = predicted
    elif key_added is not None:
        given.table.obsm[key_added] = predicted.to_df().copy()
        given.table.uns[key_added] = deepcopy(predicted.uns[Key.uns.prediction])
    return predicted


def finished(predicted: AnnData, model: FittedModel, prepared: PreparedSection) -> AnnData:
    """Put the spots in the order in which the section was given, and make NaN what nobody can know."""
    # A prediction of a large section is not held twice if nothing is to be put in order.
    done = predicted if predicted.obs_names.equals(prepared.spots) else predicted[prepared.spots].copy()
    blank_barely_measured(done, model)
    return done


def with_genes(done: AnnData, model: FittedModel, genes: str | Sequence[str] | None) -> AnnData:
    """Keep some genes of a finished prediction, and say which of them are NaN."""
    kept = done if genes is None else done[:, chosen_genes(done, model, genes)].copy()
    say_barely_measured(kept, model)
    return kept


def predict_prepared(
    model: FittedModel, prepared: PreparedSection, *, intervals: bool | None = None, kind: str | None = None
) -> AnnData:
    """Predict a prepared section, with spots in its order, and say how far to believe it."""
    predicted = as_prediction(model, prepared, predicted_expression(model, prepared.graph))
    believe(predicted, model, prepared, intervals=not prepared.is_large if intervals is None else intervals, kind=kind)
    return predicted


def as_prediction(
    model: FittedModel, prepared: PreparedSection, expression: NDArray[np.float32], *, observed: bool = True
) -> AnnData:
    """Put expression, ``(n_spots, n_genes)`` in the order of a prepared section, beside copies of all else.

    What was observed is put beside it if the whole panel was; a warning says why not. Nothing is read of it if
    ``observed`` is false.
    """
    completed = prepared.section
    predicted = AnnData(
        X=expression,
        obs=completed.obs.drop(columns=Key.obs.measured, errors="ignore"),  # of an earlier imputation
        var=pd.DataFrame(index=pd.Index(model.genes, name="gene")),
        obsm={Key.obsm.spatial: np.array(completed.obsm[Key.obsm.spatial], dtype=np.float64)},
        obsp={
            key: sparse.csr_matrix(completed.obsp[key], copy=True)
            for key in (Key.obsp.connectivities, Key.obsp.distances)
        },
        uns={key: deepcopy(completed.uns[key]) for key in (Key.uns.neighbors,) if key in completed.uns},
    )
    own = library_id(completed)
    if own is not None:
        predicted.uns[Key.uns.spatial] = {own: deepcopy(libraries(completed)[own])}
    predicted.var[Key.var.varies] = varies(predicted.X)
    predicted.uns[Key.uns.prediction] = {
        "section": prepared.name,
        Key.prediction.mode: "image",
        "version": __version__,
        "normalize": model.config.data.normalize,
        "smooth": model.config.data.smooth,
        "log_base": str(model.config.data.log_base),
        "encoder": model.config.features.described,
        "train_sections": list(model.train_sections),
        Key.prediction.origin: prediction_origin(completed, model),
        Key.prediction.record: json.dumps(record(model.config)),
    }
    adapted = list(model.origin.get("adapted", {}).get("sections", ()))
    if adapted:
        predicted.uns[Key.uns.prediction]["adapted_sections"] = adapted
    if prepared.name in adapted:
        logger.warning(
            "section %r: the model was adapted on it; what is said of its genes and intervals holds for other sections",
            prepared.name,
        )
    add_familiarity(predicted, model.familiarity, prepared, model.config.train.n_threads)
    if model.config.data.log_base != "e":
        predicted.uns[Key.uns.log] = {"base": float(model.config.data.log_base)}
    if observed and prepared.has_panel:
        predicted.layers[Key.layers.observed] = prepared.observed.to_numpy(np.float32)
    return predicted


def prediction_origin(section: AnnData, model: FittedModel) -> dict[str, str]:
    """Describe what a prediction rests on, by digests: ``model``, and ``positions`` and ``resolution`` of the section.

    The prediction reads no genes, so that their counts are not a part of it.
    """
    digest = section_digest(section, counts=False)
    return {"model": model.digest, "positions": digest["positions"], "resolution": digest["resolution"]}


def varies(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether a gene varies over spots by more than the rounding of its values."""
    low, high = values.min(axis=0), values.max(axis=0)
    found: NDArray[np.bool_] = high - low > 1e-6 * np.maximum(-low, high)
    return found


@documented
def embed(
    adata: SpatialObject,
    model: FittedModel,
    *,
    library_key: str | None = None,
    table_key: str | None = None,
    key_added: str = Key.prefix,
    copy: bool = False,
) -> AnnData | None:
    """Embed a section's spots in the space where image and genes are compared.

    Parameters
    ----------
    adata
        One section; several in one, with ``library_key``; or SpatialData.
    model
        A fitted model.
    %(library_key)s
    %(table_key)s
    %(key_added)s
    %(copy)s

    Returns
    -------
    None, or the copy. These keys are written, with ``key_added`` in place of ``nh2st``. ``obsm["X_nh2st_image"]`` holds
    the image embeddings of the spot and of its neighbourhood side by side, ``(n_spots, 2 * width)``, or of the spot
    alone if the method has no neighbourhoods. ``obsm["X_nh2st_gene"]`` holds the gene embeddings, if the section has
    the panel and the model a gene side. Both are in the space where the contrast compares them, if there is a contrast.
    ``uns["nh2st_embed"]`` holds the scales and a digest of the model's weights, for :func:`retrieve`.

    Raises
    ------
    DataError, ImageError
        If the section breaks the contract.
    ModelError
        If the method has no embeddings.
    """
    adata, model = data_first("embed", adata, model)
    network(model)
    given = given_sections(adata, library_key=library_key, table_key=table_key, copy=copy)
    preparation = model.preparation
    for section in given:
        _embed(model, section, preparation.prepare(section), key_added)
    image, gene, entry = _embedding_keys(key_added)
    given.write(obsm=[image, gene], uns=[entry])
    return given.table if copy else None


def _embedding_keys(prefix: str) -> tuple[str, str, str]:
    """Give the keys of the image embeddings, the gene embeddings, and the entry that describes them."""
    image, gene, entry = (Key.under(key, prefix) for key in (Key.obsm.embed_image, Key.obsm.embed_gene, Key.uns.embed))
    return image, gene, entry


def _embed(model: FittedModel, adata: AnnData, prepared: PreparedSection, key_added: str) -> None:
    embeddings = embedded(model, dense_graph(prepared.measured if prepared.has_panel else prepared.graph))
    rows = prepared.section.obs_names.get_indexer(adata.obs_names)
    image, gene, entry = _embedding_keys(key_added)
    for key, names in zip((image, gene), zip(*EMBEDDINGS.values(), strict=True), strict=True):
        there = [embeddings[name] for name in names if name in embeddings]
        if there:
            adata.obsm[key] = torch.cat(there, dim=1).numpy()[rows]
        else:
            adata.obsm.pop(key, None)
    adata.uns[entry] = embedding_entry(model, [scale for scale, (name, _) in EMBEDDINGS.items() if name in embeddings])


@torch.no_grad()
def embedded(model: FittedModel, graph: Data) -> dict[str, torch.Tensor]:
    """Embed a graph's spots; see :meth:`nh2st_graph.models.Network.embeddings`.

    Raises
    ------
    ModelError
        If the method has no embeddings.
    """
    with one_thread():
        embeddings = network(model).embeddings(graph)
    if not embeddings:
        raise ModelError(f"method {model.config.model.name!r} has no embeddings; train another")
    if _EARLIER.keys() & embeddings.keys():
        warnings.warn(
            f"embeddings() of method {model.config.model.name!r} gives letters; give {', '.join(_EARLIER.values())}: "
            "letters are read until version 0.2",
            RenamedWarning,
            stacklevel=2,
        )
    return {_EARLIER.get(name, name): value for name, value in embeddings.items()}


def network(model: FittedModel) -> Network:
    """Give the network of a model; refuse an estimator."""
    if isinstance(model.module, Estimator):
        raise ModelError(f"method {model.config.model.name!r} has no embeddings; train a network")
    return model.module


def embedding_entry(model: FittedModel, scales: Sequence[str]) -> dict[str, Any]:
    """Describe embeddings by their scales and a digest of the model's weights."""
    return {
        Key.embed.scales: np.array(scales, dtype=object),
        Key.embed.model: weights_digest(network(model).state_dict()),
    }
