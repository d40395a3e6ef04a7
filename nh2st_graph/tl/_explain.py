"""Explain what a model takes from the neighbourhood: where it looks, and how that changes its predictions."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from torch_geometric.data import Data

from nh2st_graph import __version__
from nh2st_graph.metrics import pearson
from nh2st_graph.read import SpatialObject, documented, given_sections
from nh2st_graph.section import Key, find_genes, section_name
from nh2st_graph.tl._order import data_first
from nh2st_graph.train import FittedModel, PreparedSection, dense_graph, one_thread

__all__ = ["explain"]

logger = logging.getLogger("nh2st_graph")

#: Columns of the gene table that are also written to ``var``.
_IN_VAR = {"gain": Key.var.neighbour_gain, "change": Key.var.neighbour_change}


@documented
def explain(
    adata: SpatialObject,
    model: FittedModel,
    *,
    library_key: str | None = None,
    table_key: str | None = None,
    key_added: str = Key.prefix,
    copy: bool = False,
) -> AnnData | None:
    r"""Explain what a model takes from each spot's neighbourhood: attention, shares, and the gain of each gene.

    Let :math:`\hat y_i` be the prediction of spot :math:`i`, and :math:`\hat y^\circ_i` the prediction of the same
    model as if no spot had neighbours: the neighbourhood's embedding is zero, and so is the neighbours' mean that the
    closed form reads (``model.closed_form``). Then :math:`\Delta_i = \hat y_i - \hat y^\circ_i` is what the
    neighbour branch changes. A constant in :math:`\Delta` says nothing about a neighbourhood, since training is free to
    move it between the two branches. So everything is measured from the section's mean, marked by a tilde:

    .. math::
        \text{share}_i =
            \frac{\lVert \tilde\Delta_i \rVert}{\lVert \tilde\Delta_i \rVert + \lVert \tilde y^\circ_i \rVert}, \qquad
        \text{change}_g = \frac{\operatorname{sd}_i(\Delta_{ig})}{\operatorname{sd}_i(\hat y_{ig})}

    Norms are Euclidean over genes, in log expression. A component decoder adds both branches, and its loadings are
    orthonormal, so that these norms are the norms of the branches' component scores. A gate weighs the branches against
    each other: there, :math:`\Delta` also holds how the neighbourhood makes the gate shut out the spot's own embedding.

    Parameters
    ----------
    adata
        One section; several in one, with ``library_key``; or SpatialData. Its genes matter for ``pcc``,
        ``pcc_without`` and ``gain`` only.
    model
        A fitted model.
    %(library_key)s
    %(table_key)s
    %(key_added)s
    %(copy)s

    Returns
    -------
    None, or the copy. These keys are written, with ``key_added`` in place of ``nh2st``:

    ``obsp["nh2st_attention"]``
        Attention of the image's neighbour branch, mean over heads and hops: sparse ``(n_spots, n_spots)``, float32. As
        in squidpy's graph, row ``i`` is the spot that reads, and column ``j`` the neighbour that it reads. A row adds
        to 1, or is empty if the spot has no neighbour. With ``model.self_loops``, the diagonal holds a spot's attention
        to itself. The key is absent, with a warning, if the branch is off or its operator does not attend over edges.
    ``obs["nh2st_neighbour_share"]``
        The share above, in [0, 1]. It is 0 if the branch is off, for a spot without an edge, and for a spot that the
        branch does not change; means are over the other spots. It is 1 if the decoder reads the neighbourhood alone.
    ``uns["nh2st_explain"]``
        ``section``, ``version``, and ``gene_gain``: a table with one row a gene of the panel. ``change`` is the one
        above, in standard deviations of the gene's prediction (NaN if that is constant). If the whole panel was
        measured, ``pcc`` and ``pcc_without`` are Pearson's r of each prediction with the measurement over spots, and
        ``gain`` is their difference.
    ``var["nh2st_neighbour_gain"]``, ``var["nh2st_neighbour_change"]``
        ``gain`` and ``change`` of the genes in ``adata`` (NaN for genes outside the panel); means over sections, if
        there are several.

    Keys of an earlier call are replaced, or removed if there is nothing to write.

    Raises
    ------
    DataError, ImageError
        If the section breaks the contract, or names two genes alike.
    ModelError
        If the model is not of NH2ST-Graph.

    Notes
    -----
    ``model.operator = "attention"`` starts as the plain mean over the neighbours, 1 / degree, and moves away from it
    only as far as the data require. After some tens of epochs on a few sections, most weights are within a quarter of
    1 / degree: compare them with it, as :func:`nh2st_graph.pl.attention` does. Attention shows where a branch looks,
    not what it gains there; the share and the gain measure effects. The branch is part of the network, whose correction
    of the closed form may have the factor 0 (``model.module.chosen["correction"]``): then attention does not matter to
    the prediction, and all that neighbours bring is their mean. With more than one hop, a neighbour's embedding
    holds the neighbour's own neighbourhood from the second hop on.

    ``gain`` is what this model loses without its neighbour branch. A model that is trained without the branch makes up
    for part of that: to know what the branch is worth, train both. On a training section, gains are too high.

    The control ``model.operator = "none"`` reads no neighbour: its share and gain show how much the weights of the
    branch alone bring.
    """
    adata, model = data_first("explain", adata, model)
    given = given_sections(adata, library_key=library_key, table_key=table_key, copy=copy)
    preparation = model.preparation
    # First, so that genes of one name are refused before features are computed.
    places = [find_genes(section, model.genes).positions for section in given]
    for section, place in zip(given, places, strict=True):
        _explain(model, section, preparation.prepare(section), place, key_added)
    share, attention, entry, *in_var = (
        Key.under(key, key_added)
        for key in (Key.obs.neighbour_share, Key.obsp.attention, Key.uns.explain, *_IN_VAR.values())
    )
    given.write(obs=[share], obsp=[attention], uns=[entry], var=in_var)
    return given.table if copy else None


def _explain(
    model: FittedModel, adata: AnnData, prepared: PreparedSection, place: NDArray[np.intp], key_added: str
) -> None:
    network, attention_key = model.nh2st_graph, Key.under(Key.obsp.attention, key_added)
    graph = dense_graph(prepared.graph)
    full, own = _with_and_without(model, graph)
    attention = _attention(model, graph, adata.obs_names)
    if attention is None:
        does_not_attend = f"the model's operator {network.config.operator!r} does not attend over edges"
        reason = does_not_attend if network.config.neighbours else "the model's neighbour branch is off"
        logger.warning("section %r: no obsp[%r]: %s", section_name(adata), attention_key, reason)
    observed = prepared.observed.to_numpy() if prepared.has_panel else None
    genes = _gene_table(full, own, observed, pd.Index(model.genes, name="gene"))

    adata.obsp.pop(attention_key, None)
    if attention is not None:
        adata.obsp[attention_key] = attention
    # Joined by name: the model reads spots in another order.
    share = pd.Series(_share(full, own, _reached(model, graph)), index=graph.spots)
    adata.obs[Key.under(Key.obs.neighbour_share, key_added)] = share
    adata.uns[Key.under(Key.uns.explain, key_added)] = {
        "section": section_name(adata),
        "version": __version__,
        Key.explain.gene_gain: genes,
    }
    in_var = {column: Key.under(key, key_added) for column, key in _IN_VAR.items()}
    adata.var = adata.var.drop(columns=list(in_var.values()), errors="ignore")
    there = place >= 0
    if there.any():
        for column in genes.columns.intersection(list(in_var)):
            values = pd.Series(genes[column].to_numpy()[there], adata.var_names[place[there]])
            adata.var[in_var[column]] = values.reindex(adata.var_names)


@torch.no_grad()
def _with_and_without(model: FittedModel, graph: Data) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Predict with and without the neighbour branch, ``(n_spots, n_genes)`` each, in the graph's order."""
    module = model.nh2st_graph
    with one_thread():
        return module.predict(graph).numpy(), module.predict_alone(graph).numpy()


@torch.no_grad()
def _attention(model: FittedModel, graph: Data, spots: pd.Index) -> sparse.csr_matrix | None:
    """Average attention over heads and hops, rows and columns in the order of ``spots``; None without attention."""
    module = model.nh2st_graph
    with one_thread():
        weights = module.attention(module.image_input(graph), graph.edge_index, graph.edge_attr)
    if weights is None:
        return None
    mean = weights.double().mean(dim=(0, 2)).numpy()
    place = spots.get_indexer(graph.spots)
    sender, receiver = place[graph.edge_index.numpy()]
    if model.nh2st_graph.config.self_loops:
        # The branch does not return the weights of loops; with them, a row adds to 1.
        reading = np.unique(receiver)
        to_itself = 1 - np.bincount(receiver, mean, len(spots))[reading]
        mean = np.concatenate([mean, to_itself.clip(min=0)])
        sender, receiver = np.concatenate([sender, reading]), np.concatenate([receiver, reading])
    shape = (len(spots), len(spots))
    return sparse.csr_matrix((mean.astype(np.float32), (receiver, sender)), shape=shape)


def _reached(model: FittedModel, graph: Data) -> NDArray[np.bool_]:
    """Find the spots that have a neighbourhood, ``(n_spots,)``."""
    if model.nh2st_graph.config.operator == "global":
        return np.ones(graph.num_nodes, dtype=bool)
    # In either direction: a hypergraph also brings messages against an edge.
    return np.isin(np.arange(graph.num_nodes), graph.edge_index.numpy())


def _share(full: NDArray, own: NDArray, reached: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compute the share of each spot's prediction that the neighbour branch brings, ``(n_spots,)``."""
    change = np.subtract(full, own, dtype=np.float64)
    moved = reached & change.any(axis=1)
    share = np.zeros(len(full))
    if moved.any():
        around, alone = (_distance_from_mean(part[moved]) for part in (change, own))
        total = around + alone
        share[moved] = np.divide(around, total, out=np.zeros_like(total), where=total > 0)
    return share


def _distance_from_mean(values: NDArray) -> NDArray[np.float64]:
    """Compute the distance of each row from the mean row, ``(n_spots,)``."""
    return np.linalg.norm(values - values.mean(axis=0, dtype=np.float64), axis=1)


def _gene_table(full: NDArray, own: NDArray, observed: NDArray | None, genes: pd.Index) -> pd.DataFrame:
    """Make one row a gene: how much the branch changes its prediction, and how much better that gets."""
    spread = full.std(axis=0, dtype=np.float64)
    # Rounding gives a constant prediction a standard deviation of about its size times the precision.
    varies = spread > np.finfo(np.float32).eps * np.abs(full).max(axis=0)
    change = np.subtract(full, own, dtype=np.float64).std(axis=0)
    table = pd.DataFrame(
        {"change": np.divide(change, spread, out=np.full_like(spread, np.nan), where=varies)}, index=genes
    )
    if observed is None:
        return table
    pcc, without = pearson(full, observed), pearson(own, observed)
    return table.assign(pcc=pcc, pcc_without=without, gain=pcc - without)
