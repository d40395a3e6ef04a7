from __future__ import annotations

import pytest
import torch

from nh2st_graph.nn import ArrayEmbedding, SelfAttentionBlock


def _block(drawn, width=6, heads=2, head_width=4, hidden=5, dropout=0.0):
    return drawn(SelfAttentionBlock(width, heads, head_width, hidden, dropout))


def _by_hand(block, h, heads, head_width):
    """The same spot by spot and head by head."""
    query, key, value = (block.query_key_value.weight @ block.norm(h).T).chunk(3)
    rows = []
    for spot in range(len(h)):
        parts = []
        for head in range(heads):
            part = slice(head * head_width, (head + 1) * head_width)
            weights = torch.softmax(query[part, spot] @ key[part] / head_width**0.5, dim=0)
            parts.append(value[part] @ weights)
        row = h[spot] + block.out(torch.cat(parts))
        rows.append(row + block.feed_forward(row))
    return torch.stack(rows)


@pytest.mark.parametrize(("heads", "head_width"), [(1, 6), (1, 4), (2, 3), (3, 4)])
@pytest.mark.parametrize("n_spots", [1, 5])
def test_equals_attention_spot_by_spot_and_head_by_head(drawn, heads, head_width, n_spots):
    block = _block(drawn, heads=heads, head_width=head_width)
    h = torch.randn(n_spots, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(block(h), _by_hand(block, h, heads, head_width))


def test_one_head_of_the_embeddings_size_has_no_output_projection(drawn):
    assert isinstance(_block(drawn, heads=1, head_width=6).out, torch.nn.Identity)
    assert not isinstance(_block(drawn, heads=1, head_width=5).out, torch.nn.Identity)
    assert not isinstance(_block(drawn, heads=2, head_width=6).out, torch.nn.Identity)


def test_dropout_is_for_training(drawn):
    block = _block(drawn, dropout=0.5)
    h = torch.randn(5, 6, dtype=torch.float64)
    assert torch.equal(block(h), block(h))
    assert not torch.equal(block.train()(h), block(h))


def test_a_position_is_its_column_and_its_row():
    torch.manual_seed(0)
    embedding = ArrayEmbedding(5, 3)
    array = torch.tensor([[0, 4], [3, 3], [4, 0]])
    expected = torch.stack([embedding.x.weight[x] + embedding.y.weight[y] for x, y in array.tolist()])
    assert torch.equal(embedding(array), expected)
