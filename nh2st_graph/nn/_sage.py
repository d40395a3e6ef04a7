"""A GraphSAGE block with normalised outputs, as in Hist2ST."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import SAGEConv
from torch_geometric.utils import add_self_loops

__all__ = ["SAGEBlock"]


class SAGEBlock(nn.Module):
    r"""One round of GraphSAGE (Hamilton et al., 2017, algorithm 1) with its convolutional aggregator.

    For spot :math:`i` with senders :math:`N(i)`,

    .. math::
        m_i = \frac{1}{|N(i)|} \sum_{j \in N(i)} h_j, \qquad
        h'_i = \frac{\operatorname{ReLU}(W m_i)}{\lVert \operatorname{ReLU}(W m_i) \rVert_2}

    A spot without senders, or without an active unit, becomes zero.

    Parameters
    ----------
    width
        Size of embeddings.
    aggregation
        ``"mean"`` or ``"max"`` of the senders, in each dimension.
    self_loops
        Whether a spot is among its own senders, as in GraphSAGE; it is not in Hist2ST.

    Shapes
    ------
    - **input:** ``h`` ``(n, width)``, ``edge_index`` ``(2, n_edges)`` (sender, receiver), without loops
    - **output:** ``(n, width)``
    """

    def __init__(self, width: int, aggregation: Literal["mean", "max"] = "mean", self_loops: bool = False) -> None:
        super().__init__()
        self.self_loops = self_loops
        self.conv = SAGEConv(width, width, aggr=aggregation, root_weight=False, bias=False)
        nn.init.xavier_uniform_(self.conv.lin_l.weight)

    def forward(self, h: Tensor, edge_index: Tensor) -> Tensor:
        """Send one round of messages. See the class for shapes."""
        if self.self_loops:
            edge_index, _ = add_self_loops(edge_index, num_nodes=len(h))
        return F.normalize(F.relu(self.conv(h, edge_index)), dim=1)
