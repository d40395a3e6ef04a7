"""Spatial attention against dense attention with a mask, and what a new layer is."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.utils import scatter

from nh2st_graph import ConfigError
from nh2st_graph.nn import SpatialAttention

WIDTH, HEADS, EDGE_DIM = 4, 2, 3


@pytest.fixture(scope="module")
def layer(drawn):
    return drawn(SpatialAttention(WIDTH, HEADS, EDGE_DIM))


def dense_attention(layer, receivers, senders, edge_index, edge_attr):
    """Messages and weights ``(n_receivers, n_senders, heads)``, one head after the other, over all pairs."""
    sender, receiver = edge_index
    shape = (len(receivers), len(senders))
    linked = torch.zeros(shape, dtype=torch.bool)
    linked[receiver, sender] = True
    bias = receivers.new_zeros(*shape, layer.heads)
    bias[receiver, sender] = edge_attr @ layer.edge_bias.weight.T
    size = layer.width // layer.heads
    messages, weights = [], []
    for head in range(layer.heads):
        rows = slice(head * size, (head + 1) * size)
        query, key, value = (m.weight[rows] for m in (layer.query, layer.key, layer.value))
        logits = (receivers @ query.T) @ (senders @ key.T).T / math.sqrt(size) + bias[..., head]
        weight = logits.masked_fill(~linked, -torch.inf).softmax(dim=1).nan_to_num(0)
        weights.append(weight)
        messages.append(weight @ (senders @ value.T))
    return torch.cat(messages, dim=1), torch.stack(weights, dim=-1)


@given(st.data())
def test_messages_and_weights_are_those_of_dense_attention(layer, graphs, data):
    h, edge_index, edge_attr = data.draw(graphs)
    senders = h.flip(1) + 1
    messages, weights = dense_attention(layer, h, senders, edge_index, edge_attr)
    torch.testing.assert_close(layer(h, senders, edge_index, edge_attr), messages)
    sender, receiver = edge_index
    torch.testing.assert_close(layer.weights(h, senders, edge_index, edge_attr), weights[receiver, sender])


def test_there_may_be_more_senders_than_receivers(layer, graph_of):
    senders, edge_index, edge_attr = graph_of(5, [(4, 0), (3, 0), (3, 1), (0, 1)])
    receivers = senders[:2] - 1
    expected, _ = dense_attention(layer, receivers, senders, edge_index, edge_attr)
    torch.testing.assert_close(layer(receivers, senders, edge_index, edge_attr), expected)


@given(st.data())
def test_weights_add_to_one_over_the_edges_of_each_receiver(layer, graphs, data):
    h, edge_index, edge_attr = data.draw(graphs)
    weights = layer.weights(h, h, edge_index, edge_attr)
    assert weights.shape == (edge_index.shape[1], HEADS)
    total = scatter(weights, edge_index[1], dim_size=len(h))
    has_senders = torch.zeros(len(h), dtype=torch.bool).index_fill(0, edge_index[1], True)
    torch.testing.assert_close(total, has_senders[:, None].expand_as(total).double())


def test_a_spot_receives_from_its_senders_and_sends_nothing_back(layer, graph_of):
    h, edge_index, edge_attr = graph_of(3, [(0, 1), (2, 1)])
    received = layer(h, h, edge_index, edge_attr)
    assert received[1].abs().min() > 0
    assert received[[0, 2]].count_nonzero() == 0
    shifted = layer(h, h + torch.tensor([[0.0], [1.0], [0.0]]), edge_index, edge_attr)
    assert torch.equal(shifted, received), "spot 1 is nobody's sender"


@given(st.data())
def test_a_new_layer_is_the_mean_over_the_neighbours(graphs, data):
    h, edge_index, edge_attr = data.draw(graphs)
    layer = SpatialAttention(WIDTH, HEADS, EDGE_DIM).double()
    sender, receiver = edge_index
    mean = scatter(layer.value(h)[sender], receiver, dim_size=len(h), reduce="mean")
    torch.testing.assert_close(layer(h, h, edge_index, edge_attr), mean)


def test_reset_draws_keys_and_values_and_makes_attention_uniform(drawn):
    layer = drawn(SpatialAttention(WIDTH, HEADS, EDGE_DIM))
    key, value = layer.key.weight.clone(), layer.value.weight.clone()
    layer.reset_parameters()
    assert not torch.equal(layer.key.weight, key)
    assert not torch.equal(layer.value.weight, value)
    assert layer.query.weight.count_nonzero() == layer.edge_bias.weight.count_nonzero() == 0


def test_dropout_takes_weights_in_training_alone(graph_of, drawn):
    graph = graph_of(4, [(1, 0), (2, 0), (3, 0)])
    layer, whole = (
        drawn(SpatialAttention(WIDTH, HEADS, EDGE_DIM, dropout=1.0)),
        drawn(SpatialAttention(WIDTH, HEADS, EDGE_DIM)),
    )
    given_ = (graph.h, *graph)
    assert torch.equal(layer(*given_), whole(*given_))
    layer.train()
    assert layer(*given_).count_nonzero() == 0
    assert torch.equal(layer.weights(*given_), whole.weights(*given_)), "weights are those before dropout"


@pytest.mark.parametrize("edge_dim", [0, 1, EDGE_DIM])
def test_a_layer_reads_the_first_edge_features(edge_dim, graph_of, drawn):
    h, edge_index, edge_attr = graph_of(4, [(1, 0), (2, 0), (3, 0)])
    layer = drawn(SpatialAttention(WIDTH, HEADS, edge_dim))
    expected = layer(h, h, edge_index, edge_attr)
    others = torch.cat([edge_attr[:, :edge_dim], edge_attr[:, edge_dim:] + 1], dim=1)
    assert torch.equal(layer(h, h, edge_index, others), expected)
    for column in range(edge_dim):
        changed = edge_attr.clone()
        changed[0, column] += 1
        assert not torch.allclose(layer(h, h, edge_index, changed), expected)


def test_without_edge_features_none_are_needed(graph_of):
    h, edge_index, edge_attr = graph_of(3, [(1, 0), (2, 0)])
    plain = SpatialAttention(WIDTH, HEADS).double()
    assert torch.equal(plain(h, h, edge_index), plain(h, h, edge_index, edge_attr))


def test_missing_edge_features_are_named(layer, graph_of):
    h, edge_index, _ = graph_of(3, [(1, 0), (2, 0)])
    with pytest.raises(ValueError, match=r"edge_attr is missing.* 3"):
        layer(h, h, edge_index)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match=r"heads=3 .* width 8"):
        SpatialAttention(8, heads=3)


def test_gradients_are_those_of_finite_differences(layer, graph_of):
    h, edge_index, edge_attr = graph_of(5, [(1, 0), (2, 0), (0, 1), (3, 1), (2, 3)])
    names, weights = zip(*layer.named_parameters(), strict=True)

    def messages(receivers, senders, features, *values):
        named = dict(zip(names, values, strict=True))
        return torch.func.functional_call(layer, named, (receivers, senders, edge_index, features))

    inputs = [value.detach().clone().requires_grad_() for value in (h, h + 1, edge_attr, *weights)]
    assert torch.autograd.gradcheck(messages, inputs)


def test_it_says_what_it_is():
    assert repr(SpatialAttention(8, heads=2, edge_dim=1)) == "SpatialAttention(8, heads=2, edge_dim=1)"
