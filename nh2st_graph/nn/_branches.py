"""The two branches of one modality: a spot's own embedding, and its neighbourhood's."""

from __future__ import annotations

from torch import Tensor, nn

from nh2st_graph.nn._attention import SpatialAttention

__all__ = ["FeatureEncoder", "NeighbourBranch"]


class FeatureEncoder(nn.Module):
    r"""Embed a spot's features: a linear path plus a two-layer perceptron that starts at zero.

    .. math:: f(x) = W x + b + \operatorname{MLP}(\operatorname{LayerNorm}(x))

    The perceptron's last layer starts at zero, so that a new encoder is linear: with a few hundred spots the linear
    path carries most of what can be learned, and the perceptron adds to it what the data supports.

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
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(n_features, width)
        self.hidden = nn.Sequential(
            nn.LayerNorm(n_features), nn.Linear(n_features, width), nn.GELU(), nn.Dropout(dropout)
        )
        self.out = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew; the perceptron's last layer is zero."""
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


class NeighbourBranch(nn.Module):
    r"""Embed a spot's neighbourhood by rounds of attention message passing.

    .. math::
        m^{(l)}_i = \operatorname{SpatialAttention}_l\Big(h + \sum_{k<l} m^{(k)}, E\Big)_i, \qquad
        P_i = \sum_{l=1}^{L} m^{(l)}_i

    ``P`` holds what the messages brought and not the spot itself, so that it is zero for an isolated spot and adds
    nothing there to the query branch.

    Parameters
    ----------
    width, heads, edge_dim, dropout
        As in :class:`SpatialAttention`.
    hops
        Rounds of message passing: how far, in edges, a neighbourhood reaches.

    Shapes
    ------
    - **input:** ``(n, width)``, ``edge_index`` ``(2, n_edges)``, ``edge_attr`` ``(n_edges, >= edge_dim)``
    - **output:** ``(n, width)``
    """

    def __init__(self, width: int, heads: int = 4, hops: int = 1, edge_dim: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SpatialAttention(width, heads, edge_dim, dropout) for _ in range(hops))

    def forward(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Embed the neighbourhoods. See the class for shapes."""
        received = h.new_zeros(h.shape)
        for layer in self.layers:
            state = h + received
            received = received + layer(state, state, edge_index, edge_attr)
        return received
