"""Projection of one modality into the space of the contrast."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ProjectionHead"]


class ProjectionHead(nn.Module):
    r"""A linear map, a residual layer and a layer norm: the projection head of BLEEP (Xie et al., 2023).

    .. math::
        u = U x, \qquad z = \operatorname{LN}\big(u + \operatorname{dropout}(V \operatorname{GELU}(u))\big)

    Parameters
    ----------
    n_inputs, width
        Sizes before and after.
    dropout
        Dropout of the residual layer.

    Shapes
    ------
    - **input:** ``(..., n_inputs)``
    - **output:** ``(..., width)``; with length :math:`\sqrt{\text{width}}` at first, by the layer norm
    """

    def __init__(self, n_inputs: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(n_inputs, width)
        self.second = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Project. See the class for shapes."""
        first = self.first(x)
        projected: Tensor = self.norm(first + self.dropout(self.second(F.gelu(first))))
        return projected
