"""Attention message passing over spatial edges."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax

from nh2st_graph._errors import ConfigError, setting
from nh2st_graph.nn._dropout import Dropout
from nh2st_graph.nn._segments import segment_attention

__all__ = ["DotProductAttention", "SpatialAttention", "edge_features", "head_width"]

#: From this number of edges on, one pass over sorted edges is worth compiling it: batches of large sections.
_MANY_EDGES = 8192


def head_width(width: int, heads: int) -> int:
    """Compute the size of one head's share of an embedding.

    Raises
    ------
    ConfigError
        If ``heads`` does not divide ``width``.
    """
    if width % heads:
        raise ConfigError(f"{setting('model.heads', heads)} does not divide the width {width}; choose a divisor")
    return width // heads


def edge_features(edge_attr: Tensor | None, edge_dim: int) -> Tensor | None:
    """Take the first ``edge_dim`` edge features, ``(n_edges, edge_dim)``; None for a layer that reads none.

    Raises
    ------
    ValueError
        If the layer reads edge features and none are given.
    """
    if not edge_dim:
        return None
    if edge_attr is None:
        raise ValueError(f"edge_attr is missing; this layer reads {edge_dim} edge features")
    return edge_attr[:, :edge_dim]


class DotProductAttention(MessagePassing):
    """Weights and sums of :class:`SpatialAttention`, for layers with other pairs of receivers and senders."""

    def __init__(self, width: int, heads: int = 4, edge_dim: int = 0, dropout: float = 0.0) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.width, self.heads, self.edge_dim = width, heads, edge_dim
        self.head_width = head_width(width, heads)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.edge_bias = nn.Linear(edge_dim, heads, bias=False) if edge_dim else None
        self.attention_dropout = Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise keys and values at random, and queries and edge biases with zero (uniform attention)."""
        super().reset_parameters()
        self.key.reset_parameters()
        self.value.reset_parameters()
        nn.init.zeros_(self.query.weight)
        if self.edge_bias is not None:
            nn.init.zeros_(self.edge_bias.weight)

    def weights(self, receivers: Tensor, senders: Tensor, edge_index: Tensor, edge_attr: Tensor | None) -> Tensor:
        """Compute attention weights before dropout, ``(n_edges, heads)``, which sum to 1 for each receiver."""
        sender, receiver = edge_index
        query, key = self._split(self.query(receivers)), self._split(self.key(senders))
        logits = (query[receiver] * key[sender]).sum(dim=-1) / math.sqrt(self.head_width)
        features = edge_features(edge_attr, self.edge_dim)
        if self.edge_bias is not None:
            logits = logits + self.edge_bias(features)
        return softmax(logits, receiver, num_nodes=len(receivers))

    def messages(self, receivers: Tensor, senders: Tensor, edge_index: Tensor, edge_attr: Tensor | None) -> Tensor:
        """Sum the senders' values by their weights, ``(n, width)``."""
        if len(edge_index[0]) >= _MANY_EDGES and receivers.device.type == "cpu" and receivers.dtype == torch.float32:
            return self._in_one_pass(receivers, senders, edge_index, edge_attr)
        weights = self.attention_dropout(self.weights(receivers, senders, edge_index, edge_attr))
        received = self.propagate(
            edge_index,
            value=self._split(self.value(senders)),
            weights=weights,
            size=(len(senders), len(receivers)),
        )
        return received.flatten(start_dim=1)

    def _in_one_pass(self, receivers: Tensor, senders: Tensor, edge_index: Tensor, edge_attr: Tensor | None) -> Tensor:
        """Give the same messages without a value for each edge."""
        (sender, receiver), features = edge_index, edge_features(edge_attr, self.edge_dim)
        if not bool((receiver[1:] >= receiver[:-1]).all()):
            order = receiver.argsort(stable=True)
            sender, receiver, features = sender[order], receiver[order], None if features is None else features[order]
        ones = receivers.new_ones(len(sender), self.heads)
        received, _ = segment_attention(
            self._split(self.query(receivers)),
            self._split(self.key(senders)),
            self._split(self.value(senders)),
            torch.zeros_like(ones) if self.edge_bias is None else self.edge_bias(features),
            self.attention_dropout(ones),
            sender,
            torch.searchsorted(receiver.contiguous(), torch.arange(len(receivers) + 1)),
        )
        return received.flatten(start_dim=1)

    def message(self, value_j: Tensor, weights: Tensor) -> Tensor:
        """Weigh each sender's value, ``(n_edges, heads, width / heads)``."""
        return value_j * weights.unsqueeze(-1)

    def _split(self, h: Tensor) -> Tensor:
        return h.unflatten(-1, (self.heads, self.head_width))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.width}, heads={self.heads}, edge_dim={self.edge_dim})"


class SpatialAttention(DotProductAttention):
    r"""Multi-head attention of each spot over the senders of its incoming edges.

    For a receiver :math:`i`, its senders :math:`j \in N(i)` and each head,

    .. math::
        \alpha_{ij} = \operatorname{softmax}_{j \in N(i)}
            \left( \frac{(W_q h_i)^\top (W_k s_j)}{\sqrt{c}} + b(e_{ij}) \right), \qquad
        m_i = \sum_{j \in N(i)} \alpha_{ij} W_v s_j

    with the heads' messages joined: scaled dot-product attention (Vaswani et al., 2017, eq. 1) whose keys are the
    spatial neighbours, with a learned bias :math:`b` for each head from the edge's length and direction.

    Queries and edge biases start at zero, so that a new layer is the plain mean over neighbours. A spot without
    incoming edges receives the zero message.

    Parameters
    ----------
    width
        Size of node embeddings; divided by ``heads``.
    heads
        Number of heads.
    edge_dim
        Number of edge features; 0 for none.
    dropout
        Dropout of attention weights in training.

    Raises
    ------
    ConfigError
        If ``heads`` does not divide ``width``.

    Shapes
    ------
    - **input:** receivers ``(n, width)``, senders ``(n, width)``, ``edge_index`` ``(2, n_edges)`` (sender, receiver),
      ``edge_attr`` ``(n_edges, >= edge_dim)``
    - **output:** messages ``(n, width)``; :meth:`weights` gives the weights of the senders, ``(n_edges, heads)``
    """

    def forward(
        self, receivers: Tensor, senders: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None
    ) -> Tensor:
        """Send one round of messages. See the class for shapes."""
        return self.messages(receivers, senders, edge_index, edge_attr)
