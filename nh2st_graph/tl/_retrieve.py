"""Find spots by an image or by expression, in the space where the model compares both."""

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

from nh2st_graph._errors import ConfigError, DataError, ModelError, setting
from nh2st_graph._files import is_count
from nh2st_graph.models import Network
from nh2st_graph.nn import nearest, partner_rank
from nh2st_graph.read import Sections, documented, sections_by_name
from nh2st_graph.section import Key, counts_mistake, is_real, library_size, panel_counts, section_name, targets
from nh2st_graph.tl._order import data_first
from nh2st_graph.tl._predict import embedded, embedding_entry, network
from nh2st_graph.train import FittedModel

__all__ = ["Retrieval", "embed_profiles", "retrieve"]

Modality = Literal["image", "gene"]
Scale = Literal["spot", "neighbourhood"]

#: Numbers of nearest spots for which recall is given.
_RECALL_AT = (1, 5, 10, 50)

#: Name of profiles, in place of a section's name.
_PROFILES = "profiles"


@dataclass(frozen=True)
class Retrieval:
    """Result of a search in a bank.

    Attributes
    ----------
    found
        One row for each query and rank: ``query_section``, ``query``, ``rank`` (from 1), ``section`` and ``spot`` of
        the bank, and ``similarity``, the mean over scales of the cosine, in [-1, 1].
    recall
        The share of queries whose own spot is among the k nearest, for k of 1, 5, 10 and 50, and the share by chance,
        k / n. Between modalities, this measures how well they are aligned. Empty unless all queries are spots of the
        bank.
    """

    found: pd.DataFrame
    recall: pd.DataFrame


@documented
def retrieve(
    query: Sections,
    bank: Sections,
    *,
    of: Modality = "image",
    among: Modality = "gene",
    k: int = 10,
    scales: Scale | Sequence[Scale] | None = None,
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
        Sections, or spots of one (``adata["spot"]``), after :func:`embed`; or profiles of :func:`embed_profiles`.
    bank
        Sections after :func:`embed` with the same model, in a list, a mapping, one AnnData or SpatialData.
    of, among
        Modality of the query and of the bank. The default searches from an image to expression; ``of="gene",
        among="image"`` searches the other way. A modality may also be compared with itself.
    k
        Number of spots to find for each query; all spots if the bank has fewer.
    scales
        ``"spot"``, ``"neighbourhood"``, or both, whose cosines are averaged. None takes all scales that query and bank
        share.
    %(library_key)s
    %(table_key)s
    query_library_key, query_table_key
        The same for the query. If both are None, the keys of the bank are used as far as the query has them; profiles
        have no such column.
    embed_key
        ``key_added`` of :func:`embed`, for query and bank.

    Returns
    -------
    The spots found, and how often a spot found itself. The bank is searched block by block, so that memory holds little
    more than its embeddings.

    Raises
    ------
    DataError
        If embeddings are missing, not finite, or from different models, or lack a scale; if a key does not fit; or if
        no section is given.
    ConfigError
        If ``k`` is not positive, ``scales`` is empty, or a modality is unknown.
    """
    if not is_count(k):
        raise ConfigError(f"{setting('k', k)}; give a number of spots above 0")
    own_keys = query_library_key is not None or query_table_key is not None
    if not own_keys:
        query_library_key, query_table_key = library_key, table_key
    asking = sections_by_name(
        query, library_key=query_library_key, table_key=query_table_key, image=False, shared=not own_keys
    )
    searched = sections_by_name(bank, library_key=library_key, table_key=table_key, image=False)
    queries, banks = list(asking.values()), list(searched.values())
    if not queries or not banks:
        raise DataError("query or bank holds no section; give at least one in each")
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
    """Embed expression profiles without position and image, such as pseudobulks, to find tissue that has them.

    Parameters
    ----------
    counts
        Raw counts, profiles x genes, with names and with the model's whole panel. Give whole profiles rather than
        markers alone: they are normalised like the model's targets.
    model
        A fitted model with a gene side.
    key_added
        The same as for :func:`embed`.

    Returns
    -------
    AnnData with ``obsm["X_nh2st_gene"]`` at the scale of the spot, ``(n_profiles, width)``; a profile has no known
    neighbourhood.

    Raises
    ------
    DataError
        If a gene of the panel is missing, or there is no profile, two have one name, one has no counts, or counts are
        no raw counts.
    ModelError
        If the model has no gene side, reads array positions, or was trained on residuals, which profiles do not have.
    """
    counts, model = data_first("embed_profiles", counts, model)
    if "array" in network(model).needs:
        raise ModelError(
            f"method {model.config.model.name!r} reads array positions, which profiles do not have; train another"
        )
    if model.config.data.normalize == "residuals":
        raise ModelError(
            "residuals of a profile depend on which others are given with it, and those of one alone are zero; train "
            f"with another {setting('data.normalize')}"
        )
    profiles = _profiles(counts, model)
    # Not smoothed: a profile has no neighbours on the array.
    wanted = targets(profiles, model.genes, **{**model.config.data.target, "smooth": "none"})
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
        raise ModelError(
            f"method {model.config.model.name!r} has no gene side; train with {setting('model.contrast', 'both')}"
        )
    profiles.obsm[Key.under(Key.obsm.embed_gene, key_added)] = embeddings["gene"].numpy()
    profiles.uns[Key.under(Key.uns.embed, key_added)] = embedding_entry(model, ["spot"])
    return profiles


def _profiles(counts: pd.DataFrame, model: FittedModel) -> AnnData:
    """Take profiles as spots without a place.

    Raises
    ------
    DataError
        If there is none, two have one name, counts are no raw counts, or a profile has none.
    """
    where, spots = setting("counts"), counts.index.astype(str)
    if not len(counts):
        raise DataError(f"{where} has no profile; give at least one row")
    if not spots.is_unique:
        raise DataError(f"{where}: two profiles are named {spots[spots.duplicated()][0]!r}; give each its own name")
    names = pd.Categorical([_PROFILES] * len(counts))
    obs = pd.DataFrame({Key.obs.section: names, Key.obs.patient: names}, index=spots)
    var = pd.DataFrame(index=counts.columns.astype(str))
    values = counts.to_numpy()
    if not is_real(values.dtype):
        raise DataError(f"{where} holds {values.dtype}, not real numbers; give raw counts, profiles x genes")
    profiles = AnnData(sparse.csr_matrix(values), obs=obs, var=var)
    mistake = counts_mistake(profiles)
    if mistake is not None:
        raise DataError(f"{where}, as X: {mistake}")
    by_panel = model.config.data.normalize == "panel"
    depth = panel_counts(profiles, model.genes).to_numpy().sum(axis=1) if by_panel else library_size(profiles)
    if (depth == 0).any():
        of = " of the panel" if by_panel else ""
        raise DataError(f"{where}: profile {spots[depth == 0][0]!r} has no counts{of}; leave it out")
    profiles.obsm[Key.obsm.spatial] = np.zeros((len(counts), 2))
    return profiles


def _without_encoder(module: Network) -> Network:
    """Copy a network without its patch encoder, so that no image is needed."""
    bare = copy.copy(module)
    bare._modules = {**module._modules, "patch_encoder": None}
    return bare


def _shared_scales(sections: Sequence[AnnData], wanted: Scale | Sequence[Scale] | None, embed_key: str) -> list[str]:
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
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if wanted is not None and not len(wanted):
        raise ConfigError(f"{setting('scales')} is empty; give {' or '.join(map(repr, there))}, or leave it out")
    missing = [scale for scale in wanted or () if scale not in there]
    if missing:
        raise DataError(
            f"query and bank do not both have embeddings of scale {missing[0]!r}; they have {', '.join(there)}"
        )
    return [scale for scale in there if wanted is None or scale in wanted]


def _vectors(sections: Sequence[AnnData], modality: Modality, scales: Sequence[str], embed_key: str) -> Tensor:
    """Join the scales of all spots, ``(n_spots, width)`` float32; the cosine is then the mean of their cosines."""
    known = {"image": Key.obsm.embed_image, "gene": Key.obsm.embed_gene}
    if modality not in known:
        raise ConfigError(f"{modality!r} is not a modality; give 'image' or 'gene'")
    key, entry, rows = Key.under(known[modality], embed_key), Key.under(Key.uns.embed, embed_key), []
    for section in sections:
        if key not in section.obsm:
            raise DataError(
                f"section {section_name(section)!r}: no obsm['{key}']; it needs "
                + ("an image" if modality == "image" else "all genes of the panel, and a model with a gene side")
            )
        there = [str(scale) for scale in section.uns[entry][Key.embed.scales]]
        vectors = np.asarray(section.obsm[key], dtype=np.float32)
        broken = ~np.isfinite(vectors).all(axis=1)
        if broken.any():
            raise DataError(
                f"section {section_name(section)!r}: obsm['{key}'] of {int(broken.sum())} spots is not finite (first: "
                f"{str(section.obs_names[broken][0])!r}); leave these spots out"
            )
        parts = torch.from_numpy(vectors).chunk(len(there), dim=1)
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
