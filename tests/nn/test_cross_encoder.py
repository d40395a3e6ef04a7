from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from nh2st_graph import ConfigError
from nh2st_graph.nn import CrossEncoder


def _encoder(width=8, depth=2, heads=2, **settings):
    """An encoder in float64 and evaluation whose norms are no identities."""
    torch.manual_seed(0)
    encoder = CrossEncoder(width, depth, heads, **settings).double().eval()
    for name, weight in encoder.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(weight)
    return encoder


def _inputs(n=5, tokens=4, width=8):
    torch.manual_seed(1)
    return torch.randn(n, width, dtype=torch.float64), torch.randn(n, tokens, width, dtype=torch.float64)


def _by_hand(encoder, query, context):
    """The same row by row and head by head."""
    rows = []
    for h, tokens in zip(query, context, strict=True):
        for layer in encoder.layers:
            q = layer.query.weight @ layer.norm(h)
            key_value = [layer.key_value.weight @ layer.norm(token) for token in tokens]
            keys, values = (torch.stack(part) for part in zip(*[kv.chunk(2) for kv in key_value], strict=True))
            size = len(h) // layer.heads
            heads = []
            for head in range(layer.heads):
                part = slice(head * size, (head + 1) * size)
                weights = torch.softmax(keys[:, part] @ q[part] / size**0.5, dim=0)
                heads.append(weights @ values[:, part])
            h = h + layer.out(torch.cat(heads))
            h = h + layer.feed_forward(h)
        rows.append(encoder.norm(h))
    return torch.stack(rows)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("tokens", [1, 4])
def test_equals_attention_row_by_row_and_head_by_head(heads, tokens):
    encoder = _encoder(heads=heads)
    query, context = _inputs(tokens=tokens)
    torch.testing.assert_close(encoder(query, context), _by_hand(encoder, query, context))


def test_a_context_without_tokens_is_one_token():
    encoder = _encoder()
    query, context = _inputs(tokens=1)
    torch.testing.assert_close(encoder(query, context[:, 0]), encoder(query, context), rtol=0, atol=0)


def test_over_one_key_attention_is_a_projection_of_the_context():
    encoder = _encoder(depth=1)
    query, context = _inputs(tokens=1)
    layer = encoder.layers[0]
    _, value = layer.key_value(layer.norm(context[:, 0])).chunk(2, dim=1)
    attended = query + layer.out(value)
    torch.testing.assert_close(encoder(query, context), encoder.norm(attended + layer.feed_forward(attended)))


@pytest.mark.parametrize(("tokens", "chooses"), [(1, False), (3, True)])
def test_queries_and_keys_learn_only_where_there_is_a_choice(tokens, chooses):
    encoder = _encoder()
    encoder(*_inputs(tokens=tokens)).square().sum().backward()
    for layer in encoder.layers:
        keys, values = layer.key_value.weight.grad.chunk(2)
        learn = [bool(grad.abs().max() > 1e-9) for grad in (layer.query.weight.grad, keys, values)]
        assert learn == [chooses, chooses, True]


def test_masked_tokens_are_as_if_absent():
    encoder = _encoder()
    query, context = _inputs(tokens=4)
    mask = torch.tensor([True, False, True, False]).expand(len(query), 4)
    torch.testing.assert_close(encoder(query, context, mask), encoder(query, context[:, [0, 2]]))


def test_the_order_of_tokens_decides_nothing_and_rows_do_not_mix():
    encoder = _encoder()
    query, context = _inputs()
    whole = encoder(query, context)
    torch.testing.assert_close(encoder(query, context.flip(1)), whole)
    torch.testing.assert_close(encoder(query[2:3], context[2:3]), whole[2:3])


def test_sizes_are_the_published():
    shapes = {name: tuple(weight.shape) for name, weight in CrossEncoder(16, depth=1, heads=8).named_parameters()}
    assert shapes == {
        "layers.0.norm.weight": (16,),
        "layers.0.norm.bias": (16,),
        "layers.0.query.weight": (16, 16),
        "layers.0.key_value.weight": (32, 16),
        "layers.0.out.0.weight": (16, 16),
        "layers.0.out.0.bias": (16,),
        "layers.0.feed_forward.0.weight": (16,),
        "layers.0.feed_forward.0.bias": (16,),
        "layers.0.feed_forward.1.weight": (32, 16),
        "layers.0.feed_forward.1.bias": (32,),
        "layers.0.feed_forward.4.weight": (16, 32),
        "layers.0.feed_forward.4.bias": (16,),
        "norm.weight": (16,),
        "norm.bias": (16,),
    }
    assert not any("out" in name for name, _ in CrossEncoder(16, depth=1, heads=1).named_parameters())
    assert CrossEncoder(16, hidden=5).layers[1].feed_forward[1].out_features == 5


def test_dropout_is_for_training():
    encoder = _encoder(dropout=0.5)
    query, context = _inputs()
    assert torch.equal(encoder(query, context), encoder(query, context))
    encoder.train()
    assert not torch.equal(encoder(query, context), encoder(query, context))


def test_gradients():
    encoder = _encoder(width=4, heads=2)
    query, context = (h.requires_grad_() for h in _inputs(n=2, tokens=3, width=4))
    assert torch.autograd.gradcheck(encoder, (query, context))


def test_output_is_normalised():
    out = CrossEncoder(8, heads=2)(*[h.float() for h in _inputs()])
    torch.testing.assert_close(out, F.layer_norm(out, (8,)), rtol=1e-3, atol=1e-3)


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(ConfigError, match=r"heads=3 .* width 8"):
        CrossEncoder(8, heads=3)
