"""The two branches of one modality: embeddings of the spot and of its neighbourhood."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch_geometric.utils import add_self_loops

from nh2st_graph._errors import ConfigError, nearest, setting
from nh2st_graph.nn._dropout import Dropout
from nh2st_graph.nn._operators import Operator, make_operator

__all__ = ["JUMPING", "FeatureEncoder", "NeighbourBranch"]

#: Ways to join the rounds of a neighbour branch.
JUMPING = ("last", "sum", "max", "cat")


class FeatureEncoder(nn.Module):
    r"""Embed a spot's features by a linear path, and a two-layer perceptron that starts at zero.

    .. math:: f(x) = W x + b + \operatorname{MLP}(\operatorname{LayerNorm}(x))

    The last layer of the perceptron starts at zero, so that a new encoder is linear. With a few hundred spots, the
    linear path carries most of what can be learned, and the perceptron adds what the data support.

    Parameters
    ----------
    n_features
        Size of the input.
    width
        Size of the embedding.
    dropout
        Dropout of the input and of the hidden layer.

    Shapes
    ------
    - **input:** ``(n, n_features)``
    - **output:** ``(n, width)``
    """

    def __init__(self, n_features: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(n_features, width)
        self.hidden = nn.Sequential(nn.LayerNorm(n_features), nn.Linear(n_features, width), nn.GELU(), Dropout(dropout))
        self.out = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights at random, and the perceptron's last layer with zero."""
        self.linear.reset_parameters()
        for layer in self.hidden:
            if isinstance(layer, nn.LayerNorm | nn.Linear):
                layer.reset_parameters()
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Embed. See the class for shapes."""
        x = self.dropout(x)
        return self.linear(x) + self.out(self.hidden(x))


class _Round(NamedTuple):
    """A round's operator, its input state, its messages, and the sum of all messages so far."""

    operator: Operator
    state: Tensor
    messages: Tensor
    received: Tensor


class NeighbourBranch(nn.Module):
    r"""Embed a spot's neighbourhood by rounds of message passing.

    .. math::
        m^{(l)} = \operatorname{operator}_l\big(s^{(l-1)}, E\big), \qquad
        s^{(0)} = h, \quad s^{(l)} = s^{(l-1)} + m^{(l)}, \qquad
        P = \sum_{l=1}^{L} m^{(l)}

    by default; each part is a switch. ``P`` holds the messages and not the spot itself, so that it is zero for an
    isolated spot and adds nothing to its query branch.

    Parameters
    ----------
    width, heads, edge_dim, dropout
        As in :class:`Operator`.
    hops
        Rounds of message passing: the reach of a neighbourhood in edges.
    operator
        Operator of message passing: one of :data:`OPERATORS`.
    self_loops
        Whether each spot is among its own senders, by an edge with zero features.
    jumping
        How rounds are joined (jumping knowledge, Xu et al., 2018): ``"last"`` round alone, ``"sum"``, ``"max"`` of each
        number, or ``"cat"``, a linear map of all.
    residual
        Whether the messages of a round are added to the state, or replace it (:math:`s^{(l)} = m^{(l)}`).
    activation
        Apply a ReLU to the messages of each round.

    Raises
    ------
    ConfigError
        If the operator or ``jumping`` is unknown, there is no round, or ``heads`` does not divide ``width``.

    Shapes
    ------
    - **input:** of one section, ``(n, width)``, ``edge_index`` ``(2, n_edges)``, ``edge_attr``
      ``(n_edges, >= edge_dim)``
    - **output:** ``(n, width)``
    """

    def __init__(
        self,
        width: int,
        heads: int = 4,
        hops: int = 1,
        edge_dim: int = 0,
        dropout: float = 0.0,
        *,
        operator: str = "attention",
        self_loops: bool = False,
        jumping: str = "sum",
        residual: bool = True,
        activation: bool = False,
    ) -> None:
        super().__init__()
        if hops < 1:
            raise ConfigError(f"{setting('model.hops', hops)}; give at least 1")
        if jumping not in JUMPING:
            raise ConfigError(f"{setting('model.jumping', jumping)} is unknown; {nearest(jumping, JUMPING)}")
        self.self_loops, self.jumping, self.residual, self.activation = self_loops, jumping, residual, activation
        self.layers = nn.ModuleList(make_operator(operator, width, heads, edge_dim, dropout) for _ in range(hops))
        self.joint = nn.Linear(hops * width, width, bias=False) if jumping == "cat" else None

    def forward(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Embed the neighbourhoods. See the class for shapes."""
        edge_index, edge_attr = self._edges(h, edge_index, edge_attr)
        return self._join(list(self._rounds(h, edge_index, edge_attr)))

    def attention(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor | None:
        """Compute the attention weights of each round before dropout, ``(hops, n_edges, heads)``.

        They sum to 1 over the incoming edges of a spot; with ``self_loops``, to 1 minus the weight of the spot itself,
        which is left out. None if the operator has no attention over edges.
        """
        n_edges = edge_index.shape[1]
        edge_index, edge_attr = self._edges(h, edge_index, edge_attr)
        rounds = self._rounds(h, edge_index, edge_attr)
        found = [done.operator.attention(done.state, edge_index, edge_attr) for done in rounds]
        weights = [of_round[:n_edges] for of_round in found if of_round is not None]
        return torch.stack(weights) if weights else None

    @property
    def _operators(self) -> Sequence[Operator]:
        return cast("Sequence[Operator]", self.layers)

    def _edges(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Add self-loops to the edges, if they are on."""
        if not self.self_loops:
            return edge_index, edge_attr
        with_loops: tuple[Tensor, Tensor | None] = add_self_loops(edge_index, edge_attr, 0.0, num_nodes=len(h))
        return with_loops

    def _rounds(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None) -> Iterator[_Round]:
        messages, received = None, torch.zeros_like(h)
        for layer in self._operators:
            state = h + received if self.residual or messages is None else messages
            messages = layer(state, edge_index, edge_attr)
            messages = messages.relu() if self.activation else messages
            received = received + messages
            yield _Round(layer, state, messages, received)

    def _join(self, rounds: Sequence[_Round]) -> Tensor:
        messages = [done.messages for done in rounds]
        if self.joint is not None:
            return self.joint(torch.cat(messages, dim=-1))
        if self.jumping == "max":
            return torch.stack(messages).amax(dim=0)
        return rounds[-1].messages if self.jumping == "last" else rounds[-1].received
