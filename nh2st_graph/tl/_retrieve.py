"""Finding spots by what they look like or what they express: the model's two modalities as a search."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data

from nh2st_graph._errors import ConfigError, DataError, ModelError
from nh2st_graph.models import Network
from nh2st_graph.nn import nearest, partner_rank
from nh2st_graph.read._objects import Sections, sections_by_name
from nh2st_graph.section import Key, section_name, targets
from nh2st_graph.tl._order import data_first
from nh2st_graph.tl._predict import embedded, embedding_entry, network
from nh2st_graph.train import FittedModel

__all__ = ["Retrieval", "embed_profiles", "retrieve"]

Modality = Literal["image", "gene"]
Scale = Literal["spot", "neighbourhood"]

#: Where recall is given.
_RECALL_AT = (1, 5, 10, 50)

#: What profiles are called where a section has its name.
_PROFILES = "profiles"


@dataclass(frozen=True)
class Retrieval:
    """What was found in a bank.

    Attributes
    ----------
    found
        One row a query and rank: ``query_section``, ``query``, ``rank`` (from 1), ``section`` and ``spot`` of the bank,
        and ``similarity``, the mean over scales of the cosine, in [-1, 1].
    recall
        Where all queries are spots of the bank: for k of 1, 5, 10 and 50 the share of queries whose own spot is among
        the k nearest, with the number that chance gives, k / n. Between modalities, this measures how well they are
        aligned. Empty where a query is no spot of the bank.
    """

    found: pd.DataFrame
    recall: pd.DataFrame


def retrieve(
    query: Sections,
    bank: Sections,
    *,
    of: Modality = "image",
    among: Modality = "gene",
    k: int = 10,
    scales: Sequence[Scale] | None = None,
    library_key: str | None = None,
    table_key: str | None = None,
    query_library_key: str | None = None,
    query_table_key: str | None = None,
    embed_key: str = Key.prefix,
) -> Retrieval:
    """Find the spots of a bank that are nearest to an image or to an expression profile.

    Parameters
    ----------
    query
        Sections, or spots of one (``adata["spot"]``), after :func:`embed`; or profiles from :func:`embed_profiles`.
    bank
        Sections after :func:`embed` with the same model, in a list, a mapping, one AnnData or SpatialData.
    of, among
        Which embeddings of the query are compared with which of the bank: from an image to expression by default,
        ``of="gene", among="image"`` the other way, and one modality with itself.
    k
        How many spots to find for each query; all where the bank has fewer.
    scales
        ``"spot"``, ``"neighbourhood"``, or both, whose cosines are averaged; those that query and bank both have where
        None.
    library_key, table_key
        Of the bank: the column of ``obs`` that names the section of each spot, where one AnnData holds several; the
        table of SpatialData, which may be left out where there is one.
    query_library_key, query_table_key
        Of the query. Where both are None, the bank's, as far as they fit it: profiles, say, have no such column.
    embed_key
        ``key_added`` of :func:`embed`, of query and bank alike.

    Returns
    -------
    What was found, and how often a spot found itself. The bank is searched block by block: its size is bounded by its
    own embeddings alone.

    Raises
    ------
    DataError
        If embeddings are missing, of different models, or of other scales; or a key does not fit, or no section is
        given.
    ConfigError
        If ``k`` is not positive, or a modality is unknown.
    """
    if k < 1:
        raise ConfigError(f"k = {k!r}; give a number of spots, above 0")
    own_keys = query_library_key is not None or query_table_key is not None
    if not own_keys:
        query_library_key, query_table_key = library_key, table_key
    asking = sections_by_name(
        query, library_key=query_library_key, table_key=query_table_key, image=False, shared=not own_keys
    )
    searched = sections_by_name(bank, library_key=library_key, table_key=table_key, image=False)
    queries, banks = list(asking.values()), list(searched.values())
    if not queries or not banks:
        raise DataError("no section given to search for or in; give at least one")
    shared = _shared_scales([*queries, *banks], scales, embed_key)
    rows, keys = _vectors(queries, of, shared, embed_key), _vectors(banks, among, shared, embed_key)
    asked, known = _spots(queries), _spots(banks)
    similarity, index = nearest(rows, keys, k)
    n_found = index.shape[1]
    found = asked.loc[asked.index.repeat(n_found)].reset_index(drop=True)
    found.columns = pd.Index(["query_section", "query"])
    place = known.iloc[index.ravel().numpy()]
    found = found.assign(
        rank=np.tile(np.arange(1, n_found + 1), len(asked)),
        section=place["section"].to_numpy(),
        spot=place["spot"].to_numpy(),
        similarity=similarity.ravel().numpy(),
    )
    partner = pd.MultiIndex.from_frame(known).get_indexer(pd.MultiIndex.from_frame(asked))
    return Retrieval(found, _recall(rows, keys, partner))


def embed_profiles(counts: pd.DataFrame, model: FittedModel, *, key_added: str = Key.prefix) -> AnnData:
    """Embed expression profiles that have no place and no image, such as pseudobulks, to find tissue that has them.

    Parameters
    ----------
    counts
        Raw counts, profiles x genes, named, with all of the model's panel. Whole profiles rather than markers alone:
        they are normalised as the model's targets are.
    model
        A fitted model with a gene side.
    key_added
        As for :func:`embed`.

    Returns
    -------
    AnnData with ``obsm["X_nh2st_gene"]`` of the spot's own scale, ``(n_profiles, width)``; what lies around a profile
    is not known.

    Raises
    ------
    DataError
        If a gene of the panel is missing, or a profile or count cannot be used.
    ModelError
        If the model has no gene side, or one that reads where on the array a spot is.
    """
    counts, model = data_first("embed_profiles", counts, model)
    if "array" in network(model).needs:
        raise ModelError(
            f"method {model.config.model.name!r} reads array positions, which profiles do not have; train another"
        )
    names = pd.Categorical([_PROFILES] * len(counts))
    obs = pd.DataFrame({Key.obs.section: names, Key.obs.patient: names}, index=counts.index.astype(str))
    profiles = AnnData(
        sparse.csr_matrix(counts.to_numpy()), obs=obs, var=pd.DataFrame(index=counts.columns.astype(str))
    )
    profiles.obsm[Key.obsm.spatial] = np.zeros((len(counts), 2))
    # Neighbours on the array would be averaged; a profile has none.
    wanted = targets(profiles, model.genes, normalize=model.config.data.normalize)
    n = len(counts)
    parameter = next(network(model).parameters())
    embeddings = embedded(
        replace(model, module=_without_encoder(network(model))),
        Data(
            x=torch.zeros(n, model.n_features, dtype=parameter.dtype),
            y=torch.from_numpy(wanted.to_numpy(np.float32)),
            edge_index=torch.zeros(2, 0, dtype=torch.int64),
            edge_attr=torch.zeros(0, 3),
            pos=torch.zeros(n, 2),
            section=_PROFILES,
            num_nodes=n,
        ),
    )
    if "gene" not in embeddings:
        raise ModelError(f"method {model.config.model.name!r} has no gene side; train with model.contrast on")
    profiles.obsm[Key.under(Key.obsm.embed_gene, key_added)] = embeddings["gene"].numpy()
    profiles.uns[Key.under(Key.uns.embed, key_added)] = embedding_entry(model, ["spot"])
    return profiles


def _without_encoder(module: Network) -> Network:
    """Give the same network without its patch encoder, so that there need be no image to encode."""
    bare = copy.copy(module)
    bare._modules = {**module._modules, "patch_encoder": None}
    return bare


def _shared_scales(sections: Sequence[AnnData], wanted: Sequence[Scale] | None, embed_key: str) -> list[str]:
    models, there, key = set(), None, Key.under(Key.uns.embed, embed_key)
    for section in sections:
        entry = section.uns.get(key)
        if entry is None:
            added = "" if embed_key == Key.prefix else f", key_added={embed_key!r}"
            raise DataError(
                f"section {section_name(section)!r}: no uns['{key}']; run ng.tl.embed(adata, model{added}) first"
            )
        models.add(str(entry[Key.embed.model]))
        own = [str(scale) for scale in entry[Key.embed.scales]]
        there = own if there is None else [scale for scale in there if scale in own]
    if len(models) > 1:
        raise DataError(f"query and bank were embedded by {len(models)} different models; run ng.tl.embed with one")
    assert there is not None
    missing = [scale for scale in wanted or () if scale not in there]
    if missing:
        raise DataError(
            f"query and bank do not both have embeddings of scale {missing[0]!r}; they have {', '.join(there)}"
        )
    return [scale for scale in there if wanted is None or scale in wanted]


def _vectors(sections: Sequence[AnnData], modality: Modality, scales: Sequence[str], embed_key: str) -> Tensor:
    """Embeddings of all spots, whose cosine is the mean of the scales' cosines, ``(n_spots, width)`` float32."""
    known = {"image": Key.obsm.embed_image, "gene": Key.obsm.embed_gene}
    if modality not in known:
        raise ConfigError(f"{modality!r} is no modality; there are 'image' and 'gene'")
    key, entry, rows = Key.under(known[modality], embed_key), Key.under(Key.uns.embed, embed_key), []
    for section in sections:
        if key not in section.obsm:
            raise DataError(
                f"section {section_name(section)!r}: no obsm['{key}']; it needs "
                + ("an image" if modality == "image" else "all genes of the panel, and a model with a gene side")
            )
        there = [str(scale) for scale in section.uns[entry][Key.embed.scales]]
        parts = torch.from_numpy(np.asarray(section.obsm[key], dtype=np.float32)).chunk(len(there), dim=1)
        rows.append(torch.cat([F.normalize(parts[there.index(scale)], dim=1) for scale in scales], dim=1))
    return torch.cat(rows)


def _spots(sections: Sequence[AnnData]) -> pd.DataFrame:
    names = [pd.DataFrame({"section": section_name(each), "spot": each.obs_names.astype(str)}) for each in sections]
    return pd.concat(names, ignore_index=True)


def _recall(rows: Tensor, keys: Tensor, partner: np.ndarray) -> pd.DataFrame:
    at = [k for k in _RECALL_AT if k < len(keys)]
    if (partner < 0).any():
        at = []
    ranks = partner_rank(rows, keys, torch.from_numpy(partner)).numpy() if at else np.zeros(0)
    return pd.DataFrame(
        {"recall": [float((ranks <= k).mean()) for k in at], "chance": [k / len(keys) for k in at]},
        index=pd.Index(at, name="k"),
    )
