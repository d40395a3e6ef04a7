from __future__ import annotations

import pytest
import torch

from nh2st_graph.nn import SelfAttentionBlock, TokenBlock


def _points(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("heads", "head_width"), [(1, 6), (2, 3), (3, 4)])
def test_each_set_is_one_of_the_block_for_sections(drawn, heads, head_width):
    block = drawn(TokenBlock(6, heads, head_width, 5))
    alone = SelfAttentionBlock(6, heads, head_width, 5).double()
    alone.load_state_dict(block.state_dict())
    h = _points(4, 3, 6)
    torch.testing.assert_close(block(h), torch.stack([alone(each) for each in h]))


def test_a_bias_is_added_to_the_logits_query_before_key(drawn):
    block = drawn(TokenBlock(6, 2, 4, 5))
    h, bias = _points(3, 4, 6), _points(2, 4, 4, seed=2)
    query, key, value = block.query_key_value(block.norm(h[1])).chunk(3, dim=1)
    heads = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        heads.append((query[:, part] @ key[:, part].T / 2 + bias[head]).softmax(dim=1) @ value[:, part])
    torch.testing.assert_close(block.attend(h, bias)[1], block.out(torch.cat(heads, dim=1)))


def test_a_hidden_key_is_not_read(drawn):
    block = drawn(TokenBlock(6, 2, 4, 5))
    h = _points(3, 4, 6)
    bias = torch.zeros(1, 1, 1, 4, dtype=torch.float64)
    bias[..., 2] = -torch.inf
    kept = [0, 1, 3]
    torch.testing.assert_close(block(h, bias)[:, kept], block(h[:, kept]))
