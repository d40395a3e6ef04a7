"""Cross-attention between two modalities of the same spots, as in NH2ST."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from nh2st_graph.nn._attention import head_width

__all__ = ["CrossEncoder"]


class _CrossLayer(nn.Module):
    """One round of cross-attention and feed-forward, both pre-norm and residual."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        # One norm for query and context: both modalities share its weights.
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout)) if heads > 1 else nn.Identity()
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def forward(self, query: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """Read ``(n, n_tokens, width)`` into ``(n, 1, width)``."""
        key, value = self.key_value(self.norm(context)).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(
            self._split(self.query(self.norm(query))), self._split(key), self._split(value), attn_mask=mask
        )
        query = query + self.out(attended.transpose(1, 2).flatten(start_dim=2))
        return query + self.feed_forward(query)

    def _split(self, h: Tensor) -> Tensor:
        return h.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class CrossEncoder(nn.Module):
    r"""Let each spot's embedding in one modality read the other modality.

    For a query :math:`h` and the tokens :math:`C` of its context, ``depth`` rounds of

    .. math::
        h \leftarrow h + W_o \operatorname{Attention}\big(W_q \operatorname{LN}(h), W_k \operatorname{LN}(C),
            W_v \operatorname{LN}(C)\big), \qquad
        h \leftarrow h + \operatorname{MLP}(\operatorname{LN}'(h))

    and a final layer norm: the cross-attention of NH2ST (Qu et al., MICCAI 2025, arXiv 2506.23827), a pre-norm
    transformer decoder (Vaswani et al., 2017) without self-attention. Query and context share one norm, queries, keys
    and values have no bias, attention weights have no dropout, and there is an output projection :math:`W_o` only with
    more than one head.

    NH2ST gives each spot a context of **one** token. A softmax over one key is always 1, so that attention is
    :math:`W_o W_v \operatorname{LN}(C)`, a projection of the other modality: queries and keys have no effect and no
    gradient. A choice needs several tokens, such as the other modality of a spot's neighbourhood.

    Parameters
    ----------
    width
        Size of embeddings; divided by ``heads``.
    depth
        Rounds.
    heads
        Number of heads.
    hidden
        Size of the feed-forward's hidden layer; twice ``width`` by default, as published.
    dropout
        Dropout after the output projection and both layers of the feed-forward.

    Raises
    ------
    ConfigError
        If ``heads`` does not divide ``width``.

    Shapes
    ------
    - **input:** query ``(n, width)``, context ``(n, width)`` or ``(n, n_tokens, width)``, mask ``(n, n_tokens)``
    - **output:** ``(n, width)``
    """

    def __init__(
        self, width: int, depth: int = 2, heads: int = 8, hidden: int | None = None, dropout: float = 0.1
    ) -> None:
        super().__init__()
        head_width(width, heads)
        hidden = 2 * width if hidden is None else hidden
        self.layers = nn.ModuleList(_CrossLayer(width, heads, hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, query: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend to a context of one or several tokens in each row.

        Parameters
        ----------
        query
            Embeddings in one modality, ``(n, width)``.
        context
            The other modality, row by row: ``(n, width)`` or ``(n, n_tokens, width)``.
        mask
            Mask of existing tokens, bool, ``(n, n_tokens)``, at least one in each row; by default all exist.

        Returns
        -------
        ``(n, width)``.
        """
        h = query.unsqueeze(1)
        context = context.unsqueeze(1) if context.dim() == 2 else context
        mask = None if mask is None else mask[:, None, None]
        for layer in self.layers:
            h = layer(h, context, mask)
        return self.norm(h.squeeze(1))
