"""A vision transformer block over the spots of a section, and embeddings of array positions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ArrayEmbedding", "SelfAttentionBlock"]


class ArrayEmbedding(nn.Module):
    """Learned embeddings of array positions: the sum of an embedding of the column and one of the row.

    Parameters
    ----------
    n_positions
        Length of both tables, for array positions from 0 to ``n_positions - 1``.
    width
        Size of embeddings.

    Shapes
    ------
    - **input:** ``(n, 2)`` int64, x then y
    - **output:** ``(n, width)``
    """

    def __init__(self, n_positions: int, width: int) -> None:
        super().__init__()
        self.x = nn.Embedding(n_positions, width)
        self.y = nn.Embedding(n_positions, width)

    def forward(self, array: Tensor) -> Tensor:
        """Embed. See the class for shapes."""
        column, row = array.T
        return self.x(column) + self.y(row)


class SelfAttentionBlock(nn.Module):
    r"""One block of a vision transformer (Dosovitskiy et al., 2021), with the spots of a section as its tokens.

    .. math::
        h \leftarrow h + W_o \operatorname{Attention}\big(\operatorname{LN}(h)\big), \qquad
        h \leftarrow h + \operatorname{MLP}\big(\operatorname{LN}'(h)\big)

    Queries, keys and values have no bias and attention weights no dropout. The size of a head is independent of
    ``width``; the output projection :math:`W_o` is left out if there is one head of size ``width``.

    Parameters
    ----------
    width
        Size of embeddings.
    heads, head_width
        Number of heads, and the size of each.
    hidden
        Size of the feed-forward's hidden layer.
    dropout
        Dropout after the output projection and both layers of the feed-forward.

    Shapes
    ------
    - **input:** ``(n, width)``, the spots of one section
    - **output:** ``(n, width)``
    """

    def __init__(self, width: int, heads: int, head_width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * inner, bias=False)
        alone = heads == 1 and head_width == width
        self.out = nn.Identity() if alone else nn.Sequential(nn.Linear(inner, width), nn.Dropout(dropout))
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def forward(self, h: Tensor) -> Tensor:
        """Let the spots of a section read each other. See the class for shapes."""
        parts = self.query_key_value(self.norm(h)).unflatten(-1, (3, 1, self.heads, -1))
        # Torch's fast kernels, which keep no matrix of all pairs, need a batch dimension.
        query, key, value = parts.permute(1, 2, 3, 0, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        h = h + self.out(attended.squeeze(0).transpose(0, 1).flatten(start_dim=1))
        return h + self.feed_forward(h)
