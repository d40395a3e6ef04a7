"""Hypergraphs in the regions around spots, as in NH2ST, for a whole section at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import HypergraphConv, global_mean_pool
from torch_geometric.utils import add_remaining_self_loops, coalesce, scatter, to_dense_batch

__all__ = ["EgoHyperedges", "EgoHypergraph", "HypergraphBranch", "ego_hyperedges", "similarity_hyperedges"]

#: Values that are gathered at a time for similarities within groups; 64 MiB in float32.
_GATHERED = 2**24


class EgoHyperedges(NamedTuple):
    """Indices of the regions of a section's spots, and of the hyperedges within each region.

    A spot is a member of several regions, and has another embedding in each.
    """

    member: Tensor
    """The spot that each member is, ``(n_members,)``."""
    group: Tensor
    """The spot in whose region each member is, ``(n_members,)``, ascending."""
    hyperedge_index: Tensor
    """Members and hyperedges, ``(2, n_incidences)``; there is one hyperedge for each member."""


@torch.no_grad()
def similarity_hyperedges(
    features: Tensor, group: Tensor | None = None, member: Tensor | None = None, k: int = 3
) -> Tensor:
    """Join each member of a group to the ``k`` most similar members of the same group (cosine).

    The hyperedge of a member holds its ``k`` most similar others and itself, as in NH2ST (Qu et al., MICCAI 2025, arXiv
    2506.23827), where a group is the region of nine patches around a spot. The authors' code gives a member the
    similarity -1 to itself, which ranks it last since feature maps after a ReLU have no negative cosine; here it is
    always left out. A group of ``k`` members or fewer, for which the authors' code fails or lists a member twice, has
    hyperedges of all its members. Of ties, the first member is taken.

    Parameters
    ----------
    features
        ``(n_groups, n_members, d)``, or ``(n, d)`` with the group of each row.
    group
        The group of each member, ``(n,)``, ascending.
    member
        The row of ``features`` of each member, ``(n,)``, if members share rows; by default row ``i`` for member ``i``.
    k
        Number of other members in a hyperedge.

    Returns
    -------
    PyG's ``hyperedge_index`` (member, hyperedge), ``(2, n_incidences)``. Hyperedge ``i`` belongs to member ``i``, and
    members are numbered across groups. No gradient flows through the choice.
    """
    if group is None:
        group = torch.arange(len(features), device=features.device).repeat_interleave(features.shape[1])
        features = features.flatten(end_dim=1)
    if member is None:
        member = torch.arange(len(group), device=group.device)
    unit = F.normalize(features, dim=1)
    rows, taken = to_dense_batch(member, group)
    size = max(1, _GATHERED // max(1, rows.shape[1] * unit.shape[1]))
    joined, kept = zip(
        *[_closest(unit[r], t, k) for r, t in zip(rows.split(size), taken.split(size), strict=True)], strict=True
    )
    first = F.pad(taken.sum(dim=1).cumsum(dim=0)[:-1], (1, 0))
    nodes = torch.cat(joined) + first[:, None, None]
    hyperedges = nodes[..., -1:].expand_as(nodes)  # a member's own place is its hyperedge's number
    incident = torch.cat(kept)
    return torch.stack([nodes[incident], hyperedges[incident]])


def _closest(unit: Tensor, taken: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the places of the ``k`` closest others and of each member, and which exist, ``(n_groups, m, k + 1)``.

    ``unit`` is ``(n_groups, m, d)``, with padding where ``taken`` is false.
    """
    n_groups, m = taken.shape
    own = torch.eye(m, dtype=torch.bool, device=unit.device)
    barred = own | ~taken[:, None]
    similarity = (unit @ unit.mT).masked_fill(barred, -torch.inf)
    others = similarity.argsort(dim=-1, descending=True, stable=True)[..., :k]
    itself = torch.arange(m, device=unit.device)[None, :, None].expand(n_groups, m, 1)
    exist = torch.cat([~barred.gather(-1, others), torch.ones_like(itself, dtype=torch.bool)], dim=-1)
    return torch.cat([others, itself], dim=-1), exist & taken[..., None]


def ego_hyperedges(edge_index: Tensor, similarity: Tensor, k: int = 3) -> EgoHyperedges:
    """Find the region of every spot of a section, and the similarity hyperedges within each.

    A spot's region is the spot itself and the senders of its edges: with edges from the eight spots around it, the 3x3
    region of NH2ST. Regions at the border of a section are smaller. Only indices are expanded. The order of edges has
    no effect, and repeated edges and loops count once.

    Parameters
    ----------
    edge_index
        Sender and receiver, ``(2, n_edges)``.
    similarity
        Features of spots that give the similarity, ``(n_spots, d)``.
    k
        As in :func:`similarity_hyperedges`.
    """
    n_spots = len(similarity)
    with_itself, _ = add_remaining_self_loops(edge_index, num_nodes=n_spots)
    member, group = coalesce(with_itself, num_nodes=n_spots, sort_by_row=False)
    return EgoHyperedges(member, group, similarity_hyperedges(similarity, group, member, k))


class HypergraphBranch(nn.Module):
    r"""Embed groups of nodes by two hypergraph convolutions and the mean over each group.

    .. math::
        h = \operatorname{ReLU}(A\, x\, \Theta_1 + b_1), \quad h' = \operatorname{ReLU}(A\, h\, \Theta_2 + b_2), \quad
        P_g = \frac{1}{|g|} \sum_{i \in g} h'_i, \qquad A = D^{-1} H B^{-1} H^\top

    with the incidences :math:`H` and the degrees :math:`D` of nodes and :math:`B` of hyperedges: PyG's
    :class:`~torch_geometric.nn.HypergraphConv` (Bai et al., 2021). It is the neighbour branch of NH2ST (Qu et al.,
    MICCAI 2025), with sizes 25088, 1024 and 512 for the image and 512, 1024 and 512 for the genes.

    :math:`A` mixes rows and :math:`\Theta_1` columns. If several nodes share features, give ``member``: the product
    :math:`x \Theta_1` is then computed once for each row of ``x``, and not for each node.

    Parameters
    ----------
    in_features, hidden, out
        Sizes before, between and after the convolutions.

    Shapes
    ------
    - **input:** ``x`` ``(n_nodes, in_features)``, ``hyperedge_index`` ``(2, n_incidences)`` (node, hyperedge),
      ``group`` ``(n_nodes,)``; with ``member`` ``(n_nodes,)``, ``x`` may have any number of rows
    - **output:** ``(n_groups, out)``
    """

    def __init__(self, in_features: int, hidden: int, out: int) -> None:
        super().__init__()
        self.first = HypergraphConv(in_features, hidden)
        self.second = HypergraphConv(hidden, out)

    def forward(self, x: Tensor, hyperedge_index: Tensor, group: Tensor, member: Tensor | None = None) -> Tensor:
        """Embed the groups; with ``member``, node ``i`` has the features ``x[member[i]]``. See the class for shapes."""
        if member is None:
            h = self.first(x, hyperedge_index)
        else:
            h = _convolve_members(self.first, x, hyperedge_index, member)
        h = self.second(h.relu(), hyperedge_index).relu()
        return global_mean_pool(h, group)


def _convolve_members(conv: HypergraphConv, x: Tensor, hyperedge_index: Tensor, member: Tensor) -> Tensor:
    """Compute ``conv(x[member], hyperedge_index)``, with one row of its matrix product for each row of ``x``."""
    node, hyperedge = hyperedge_index
    # Without weights, D^-1 H B^-1 H^T is the mean over a hyperedge's nodes, then over a node's hyperedges.
    means = scatter(conv.lin(x)[member[node]], hyperedge, reduce="mean")
    return scatter(means[hyperedge], node, dim_size=len(member), reduce="mean") + conv.bias


class EgoHypergraph(nn.Module):
    """Embed the region of every spot of a section: the neighbour branch of NH2ST on a graph of spots.

    Each spot's group is its region (:func:`ego_hyperedges`). Regions overlap and read features through indices, so that
    everything that depends on one spot alone, such as the first matrix product, is computed once for a section.

    Two branches over the same regions share their hyperedges::

        regions = image_branch.hyperedges(edge_index, image_features)
        P, Q = image_branch.embed(p, regions), gene_branch.embed(q, regions)

    Parameters
    ----------
    in_features, hidden, out
        As in :class:`HypergraphBranch`.
    k
        As in :func:`similarity_hyperedges`.

    Shapes
    ------
    - **input:** ``x`` ``(n_spots, in_features)``, ``edge_index`` ``(2, n_edges)`` (sender, receiver), ``similarity``
      ``(n_spots, d)``
    - **output:** ``(n_spots, out)``
    """

    def __init__(self, in_features: int, hidden: int, out: int, k: int = 3) -> None:
        super().__init__()
        self.k = k
        self.branch = HypergraphBranch(in_features, hidden, out)

    def hyperedges(self, edge_index: Tensor, similarity: Tensor) -> EgoHyperedges:
        """Find regions and hyperedges; see :func:`ego_hyperedges`."""
        return ego_hyperedges(edge_index, similarity, self.k)

    def embed(self, x: Tensor, hyperedges: EgoHyperedges) -> Tensor:
        """Embed known regions, ``(n_spots, out)``."""
        return self.branch(x, hyperedges.hyperedge_index, hyperedges.group, hyperedges.member)

    def forward(self, x: Tensor, edge_index: Tensor, similarity: Tensor) -> Tensor:
        """Embed the regions. See the class for shapes."""
        return self.embed(x, self.hyperedges(edge_index, similarity))
