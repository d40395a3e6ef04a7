"""A transformer block over many small sets of tokens at once."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from nh2st_graph.nn._transformer import SelfAttentionBlock

__all__ = ["TokenBlock"]


class TokenBlock(SelfAttentionBlock):
    """A :class:`SelfAttentionBlock` over many small sets of tokens, such as the places of each spot's patch.

    Parameters
    ----------
    width, heads, head_width, hidden, dropout
        As in :class:`SelfAttentionBlock`.

    Shapes
    ------
    - **input:** ``(n, n_tokens, width)``, and a bias of the attention logits that broadcasts to ``(n, heads, n_tokens,
      n_tokens)``, query before key; minus infinity masks a key
    - **output:** ``(n, n_tokens, width)``
    """

    def attend(self, h: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute what tokens read of their set, before the residual sum. See the class for shapes."""
        parts = self.query_key_value(self.norm(h)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        read: Tensor = self.out(attended.transpose(1, 2).flatten(start_dim=2))
        return read

    def forward(self, h: Tensor, bias: Tensor | None = None) -> Tensor:
        """Let the tokens of each set read each other. See the class for shapes."""
        h = h + self.attend(h, bias)
        return h + self.feed_forward(h)
