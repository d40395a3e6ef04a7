"""Operators of message passing on a section's graph, with one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GATv2Conv, GCNConv, HypergraphConv, SAGEConv, TransformerConv
from torch_geometric.utils import cumsum, degree, lexsort, remove_self_loops

from nh2st_graph._errors import ConfigError, nearest, setting
from nh2st_graph.nn._attention import DotProductAttention, edge_features, head_width

__all__ = ["OPERATORS", "Operator", "make_operator"]


class Operator(nn.Module, ABC):
    """One round of message passing.

    Operators that follow edges have no term for the spot itself and no bias, so that a spot without edges receives
    zero.

    Parameters
    ----------
    width
        Size of node embeddings.
    heads
        Number of attention heads, which divides ``width``, of operators with attention.
    edge_dim
        Number of edge features, of operators that read them; 0 for none.
    dropout
        Dropout in training: of attention weights, or of messages in operators without attention.

    Shapes
    ------
    - **input:** of one section, ``h`` ``(n, width)``, ``edge_index`` ``(2, n_edges)`` (sender, receiver), ``edge_attr``
      ``(n_edges, >= edge_dim)``
    - **output:** messages ``(n, width)``; :meth:`attention` gives their weights, ``(n_edges, heads)``
    """

    @abstractmethod
    def forward(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Send one round of messages. See the class for shapes."""

    def attention(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor | None:
        """Compute attention weights before dropout, ``(n_edges, heads)``, which sum to 1 for each receiver.

        None for an operator without attention over edges.
        """
        return None


class NeighbourAttention(DotProductAttention, Operator):
    """:class:`SpatialAttention` of each spot over its neighbours."""

    def forward(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Send one round of messages. See :class:`Operator` for shapes."""
        return self.messages(h, h, edge_index, edge_attr)

    def attention(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Attention weights, ``(n_edges, heads)``."""
        return self.weights(h, h, edge_index, edge_attr)


class _Attending(Operator):
    """An attention layer of PyG over edges with features."""

    def __init__(self, conv: nn.Module, edge_dim: int) -> None:
        super().__init__()
        self.conv = conv
        self.edge_dim = edge_dim

    def forward(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Send one round of messages. See :class:`Operator` for shapes."""
        return self.conv(h, edge_index, edge_features(edge_attr, self.edge_dim))

    def attention(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Attention weights, ``(n_edges, heads)``."""
        features = edge_features(edge_attr, self.edge_dim)
        with _without_dropout(self.conv):
            _, (_, weights) = self.conv(h, edge_index, features, return_attention_weights=True)
        return weights


class GATv2(_Attending):
    """Attention by a perceptron of both embeddings and the edge (Brody et al., 2022, eq. 7)."""

    def __init__(self, width: int, heads: int = 4, edge_dim: int = 0, dropout: float = 0.0) -> None:
        conv = GATv2Conv(
            width,
            head_width(width, heads),
            heads,
            dropout=dropout,
            add_self_loops=False,
            edge_dim=edge_dim or None,
            bias=False,
        )
        super().__init__(conv, edge_dim)


class Transformer(_Attending):
    """Dot-product attention whose keys and values include edge features (Shi et al., 2021)."""

    def __init__(self, width: int, heads: int = 4, edge_dim: int = 0, dropout: float = 0.0) -> None:
        conv = TransformerConv(
            width,
            head_width(width, heads),
            heads,
            dropout=dropout,
            edge_dim=edge_dim or None,
            bias=False,
            root_weight=False,
        )
        # PyG makes the map of the spot itself even if it is not used, which would be a weight that never learns.
        conv.lin_skip = None
        super().__init__(conv, edge_dim)


class GCN(Operator):
    """Sum over neighbours by the degrees of both ends (Kipf and Welling, 2017, eq. 2), without the spot itself.

    Degrees count incoming edges, so that a spot without incoming edges sends nothing, and a sender's weight depends on
    edges that are one further away than the sender.
    """

    def __init__(self, width: int, heads: int = 4, edge_dim: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = GCNConv(width, width, add_self_loops=False, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Send one round of messages. See :class:`Operator` for shapes."""
        return self.dropout(self.conv(h, edge_index))


class SAGE(Operator):
    """A linear map of the mean over neighbours (GraphSAGE, Hamilton et al., 2017), without the spot itself."""

    def __init__(self, width: int, heads: int = 4, edge_dim: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = SAGEConv(width, width, aggr="mean", root_weight=False, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Send one round of messages. See :class:`Operator` for shapes."""
        return self.dropout(self.conv(h, edge_index))


class Hypergraph(Operator):
    r"""Means over hyperedges, then over the hyperedges that a spot is in (Bai et al., 2021).

    .. math:: m = D^{-1} H B^{-1} H^\top h \Theta

    The hyperedge of a spot holds its senders and itself. :math:`H` are the incidences, and :math:`D` and :math:`B` the
    degrees of spots and hyperedges. A spot without incoming edges has no hyperedge. A spot is also in the hyperedges of
    the spots that it sends to, so that a round reaches two edges far, also against the direction of edges without a
    reverse.

    Parameters
    ----------
    width, heads, edge_dim, dropout
        As in :class:`Operator`.
    n_similar
        Number of senders in a hyperedge, the most similar to its spot (cosine of ``h``); by default all.
    """

    def __init__(
        self, width: int, heads: int = 4, edge_dim: int = 0, dropout: float = 0.0, *, n_similar: int | None = None
    ) -> None:
        super().__init__()
        self.n_similar = n_similar
        self.conv = HypergraphConv(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Send one round of messages. See :class:`Operator` for shapes."""
        return self.dropout(self.conv(h, self.members(h, edge_index), num_edges=len(h)))

    def members(self, h: Tensor, edge_index: Tensor) -> Tensor:
        """List the members of hyperedges, ``(2, n_members)``: a spot, and the spot that owns the hyperedge."""
        others, _ = remove_self_loops(edge_index)
        if self.n_similar is not None:
            others = _most_similar(h.detach(), others, self.n_similar)
        return torch.cat([others, edge_index[1].unique().expand(2, -1)], dim=1)


class Global(Operator):
    """Multi-head attention over all spots of the section, without edges.

    As in HisToGene (Pang et al., 2021), where the spots of a section are the tokens of a vision transformer.
    """

    def __init__(self, width: int, heads: int = 4, edge_dim: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width(width, heads)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.dropout = dropout

    def forward(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Send one round of messages. See :class:`Operator` for shapes."""
        query, key, value = (
            layer(h).unflatten(-1, (self.heads, self.head_width)).transpose(0, 1).unsqueeze(0)
            for layer in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        received = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return received.squeeze(0).transpose(0, 1).flatten(start_dim=1)


class NoMessages(Operator):
    """A linear map of the spot's own embedding: a control with as many weights as :class:`SAGE`, and no graph."""

    def __init__(self, width: int, heads: int = 4, edge_dim: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Map. See :class:`Operator` for shapes."""
        return self.dropout(self.linear(h))


def _most_similar(h: Tensor, edge_index: Tensor, k: int) -> Tensor:
    """Select the ``k`` edges of each receiver whose senders have the largest cosine; of ties, the first."""
    sender, receiver = edge_index
    similarity = F.cosine_similarity(h[sender], h[receiver])
    order = lexsort([-similarity, receiver])
    start = cumsum(degree(receiver, len(h), dtype=torch.long))
    rank = torch.arange(len(order), device=order.device) - start[receiver[order]]
    return edge_index[:, order[rank < k]]


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


#: Operators by their name in ``model.operator``.
OPERATORS: dict[str, Callable[..., Operator]] = {
    "attention": NeighbourAttention,
    "gatv2": GATv2,
    "transformer": Transformer,
    "gcn": GCN,
    "sage": SAGE,
    "hypergraph": Hypergraph,
    "hypergraph_similarity": partial(Hypergraph, n_similar=3),
    "global": Global,
    "none": NoMessages,
}


def make_operator(name: str, width: int, heads: int = 4, edge_dim: int = 0, dropout: float = 0.0) -> Operator:
    """Make an operator.

    Parameters
    ----------
    name
        One of :data:`OPERATORS`.
    width, heads, edge_dim, dropout
        As in :class:`Operator`.

    Raises
    ------
    ConfigError
        If the operator is unknown, or has attention and ``heads`` does not divide ``width``.
    """
    if name not in OPERATORS:
        raise ConfigError(f"{setting('model.operator', name)} is unknown; {nearest(name, OPERATORS)}")
    return OPERATORS[name](width, heads, edge_dim, dropout)
