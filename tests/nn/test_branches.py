"""A new encoder is linear; rounds of messages against a plain loop, how far they reach and how they are joined."""

from __future__ import annotations

from functools import cache, reduce
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch_geometric.utils import scatter

from nh2st_graph import ConfigError
from nh2st_graph.nn import OPERATORS, FeatureEncoder, NeighbourBranch, SpatialAttention

WIDTH, HEADS, EDGE_DIM = 4, 2, 3
ATTENDING = ("attention", "gatv2", "transformer")
JUMPING = ("last", "sum", "max", "cat")

#: How many edges away a round hears of a spot, in a graph whose edges have a reverse.
REACH = dict.fromkeys((*ATTENDING, "gcn", "sage"), 1) | {"hypergraph": 2, "hypergraph_similarity": 2, "none": 0}


# The spot's own features


@pytest.fixture
def x():
    return torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("n_spots", "width"), [(6, 3), (1, 8), (0, 3)])
def test_an_embedding_has_the_width_for_each_spot(x, n_spots, width):
    assert FeatureEncoder(5, width).double()(x[:n_spots]).shape == (n_spots, width)


def test_a_new_encoder_is_linear(x):
    encoder = FeatureEncoder(5, 3).double()
    assert torch.equal(encoder(x), encoder.linear(x))
    torch.testing.assert_close(encoder(2 * x[:1] - x[1:2]), 2 * encoder(x[:1]) - encoder(x[1:2]))


def test_a_new_encoder_learns_to_bend(x):
    encoder = FeatureEncoder(5, 3).double()
    encoder(x).square().sum().backward()
    assert encoder.out.weight.grad.count_nonzero() > 0


def test_an_encoder_is_its_formula(x, drawn):
    encoder = drawn(FeatureEncoder(5, 3))
    norm, hidden = encoder.hidden[:2]
    centred = (x - x.mean(dim=1, keepdim=True)) / (x.var(dim=1, keepdim=True, correction=0) + norm.eps).sqrt()
    bent = F.gelu((centred * norm.weight + norm.bias) @ hidden.weight.T + hidden.bias)
    linear, out = encoder.linear, encoder.out
    torch.testing.assert_close(encoder(x), x @ linear.weight.T + linear.bias + bent @ out.weight.T + out.bias)


def test_reset_makes_an_encoder_linear_again(x, drawn):
    encoder = drawn(FeatureEncoder(5, 3))
    before = [weight.clone() for weight in encoder.parameters()]
    encoder.reset_parameters()
    assert torch.equal(encoder(x), encoder.linear(x))
    assert not any(torch.equal(a, b) for a, b in zip(before, encoder.parameters(), strict=True))


def test_an_encoder_drops_features_and_hidden_units_in_training_alone(x, drawn):
    encoder, whole = drawn(FeatureEncoder(5, 3, dropout=1.0)), drawn(FeatureEncoder(5, 3))
    assert torch.equal(encoder(x), whole(x))
    constant = encoder.linear.bias + encoder.out.bias
    assert torch.equal(encoder.train()(x), constant.expand(6, -1))


# The neighbourhood


@pytest.fixture(scope="module")
def branch(drawn):
    """Make a branch with drawn weights; the same one for the same settings."""

    def make(hops=1, **switches):
        return drawn(NeighbourBranch(WIDTH, HEADS, hops, EDGE_DIM, **switches))

    return cache(make)


@pytest.fixture
def crossed(graph_of):
    """Six spots: 5 has no edges, 4 no senders, and 0 has four."""
    return graph_of(6, [(1, 0), (2, 0), (3, 0), (4, 0), (0, 1), (3, 1), (1, 2), (2, 3)])


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("edge_dim", [0, EDGE_DIM])
def test_the_default_is_the_sum_of_rounds_of_spatial_attention(hops, edge_dim, crossed):
    torch.manual_seed(0)
    layers = nn.ModuleList(SpatialAttention(WIDTH, HEADS, edge_dim) for _ in range(hops))
    after = torch.rand(3)
    torch.manual_seed(0)
    branch = NeighbourBranch(WIDTH, HEADS, hops, edge_dim)
    assert torch.equal(torch.rand(3), after), "as many numbers are drawn"
    saved = {f"layers.{name}": weight for name, weight in layers.state_dict().items()}
    assert list(branch.state_dict()) == list(saved)
    assert all(torch.equal(weight, saved[name]) for name, weight in branch.state_dict().items())

    h = crossed.h.float()
    received = torch.zeros_like(h)
    for layer in layers:
        state = h + received
        received = received + layer(state, state, crossed.edge_index, crossed.edge_attr.float())
    assert torch.equal(branch(h, crossed.edge_index, crossed.edge_attr.float()), received)


def plain_loop(branch, graph):
    """The rounds one after the other, written out; gives the states and the joined messages."""
    h, edge_index, edge_attr = graph
    if branch.self_loops:
        edge_index = torch.cat([edge_index, torch.arange(len(h)).expand(2, -1)], dim=1)
        edge_attr = torch.cat([edge_attr, edge_attr.new_zeros(len(h), EDGE_DIM)])
    states, rounds = [h], []
    for layer in branch.layers:
        messages = layer(states[-1], edge_index, edge_attr)
        rounds.append(messages.clamp_min(0) if branch.activation else messages)
        states.append(states[-1] + rounds[-1] if branch.residual else rounds[-1])
    joined = {
        "last": lambda: rounds[-1],
        "sum": lambda: sum(rounds),
        "max": lambda: reduce(torch.maximum, rounds),
        "cat": lambda: sum(m @ w.T for m, w in zip(rounds, branch.joint.weight.split(WIDTH, dim=1), strict=True)),
    }
    return states, joined[branch.jumping]()


@pytest.mark.parametrize("jumping", JUMPING)
@pytest.mark.parametrize("operator", ["attention", "sage", "hypergraph"])
@pytest.mark.parametrize("hops", [1, 3])
def test_rounds_and_their_joining_are_a_plain_loop(operator, hops, jumping, branch, crossed):
    found = []
    for residual, activation, self_loops in product([True, False], repeat=3):
        switches = {"residual": residual, "activation": activation, "self_loops": self_loops}
        made = branch(hops, operator=operator, jumping=jumping, **switches)
        found.append(made(*crossed))
        torch.testing.assert_close(found[-1], plain_loop(made, crossed)[1], msg=lambda text, s=switches: f"{s}: {text}")
    distinct = 8 if hops > 1 else 4  # after one round there is no state to add to
    assert len({tuple(one.flatten().tolist()) for one in found}) == distinct, "every switch does something"


@pytest.mark.parametrize("jumping", JUMPING)
@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - {"global", "none"}))
def test_an_isolated_spot_has_the_zero_embedding(operator, jumping, branch, crossed):
    embedding = branch(2, operator=operator, jumping=jumping)(*crossed)
    assert embedding[5].count_nonzero() == 0
    assert embedding[:4].count_nonzero() > 0


def test_with_self_loops_an_isolated_spot_hears_itself(branch, crossed):
    made = branch(operator="attention", self_loops=True)
    torch.testing.assert_close(made(*crossed)[5], made.layers[0].value(crossed.h[5]))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("operator", REACH)
def test_rounds_reach_exactly_so_far(operator, hops, residual, branch, graph_of):
    n_spots, centre, reach = 15, 7, hops * REACH[operator]
    line = [(i, i + 1) for i in range(n_spots - 1)]
    graph = graph_of(n_spots, line + [(j, i) for i, j in line])
    made = branch(hops, operator=operator, residual=residual, jumping="last")
    expected = made(*graph)[centre]
    for distance in range(1, 8):
        for spot in (centre - distance, centre + distance):
            h = graph.h.clone()
            h[spot] += 1
            embedding = made(h, *graph[1:])[centre]
            if distance == reach:
                assert not torch.allclose(embedding, expected), f"{spot} is {distance} edges away"
            if distance > reach:
                assert torch.equal(embedding, expected), f"{spot} is {distance} edges away"


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("operator", [*ATTENDING, "sage"])
def test_rounds_go_upstream(operator, hops, branch, graph_of):
    graph = graph_of(6, [(i, i + 1) for i in range(5)])
    graph.h.requires_grad_()
    made = branch(hops, operator=operator)
    (gradient,) = torch.autograd.grad(made(*graph)[4].sum(), graph.h)
    heard = (gradient.abs().sum(dim=1) > 1e-9).nonzero().flatten().tolist()
    assert heard == list(range(4 - hops, 4))


@pytest.mark.parametrize("operator", ATTENDING)
@pytest.mark.parametrize("residual", [True, False])
def test_attention_is_that_of_each_round(operator, residual, branch, crossed):
    made = branch(3, operator=operator, residual=residual)
    found = made.attention(*crossed)
    assert found.shape == (3, crossed.edge_index.shape[1], HEADS)
    states, _ = plain_loop(made, crossed)
    for weights, layer, state in zip(found, made.layers, states, strict=False):
        torch.testing.assert_close(weights, layer.attention(state, *crossed[1:]))
    total = scatter(found, crossed.edge_index[1], dim=1)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("operator", ATTENDING)
def test_attention_leaves_out_loops_but_not_their_share(operator, branch, crossed):
    made = branch(2, operator=operator, self_loops=True)
    found = made.attention(*crossed)
    assert found.shape == (2, crossed.edge_index.shape[1], HEADS)
    total = scatter(found, crossed.edge_index[1], dim=1)
    assert (total < 1).all()
    loops = torch.arange(len(crossed.h)).expand(2, -1)
    edge_index = torch.cat([crossed.edge_index, loops], dim=1)
    edge_attr = F.pad(crossed.edge_attr, (0, 0, 0, len(crossed.h)))
    own = made.layers[0].attention(crossed.h, edge_index, edge_attr)[-len(crossed.h) :]
    torch.testing.assert_close(total[0] + own[:4], torch.ones_like(total[0]))


@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - set(ATTENDING)))
def test_others_have_no_attention(operator, branch, crossed):
    assert branch(2, operator=operator).attention(*crossed) is None


@pytest.mark.parametrize("operator", OPERATORS)
@given(st.data())
def test_the_order_of_spots_decides_nothing(operator, branch, graphs, data):
    h, edge_index, edge_attr = data.draw(graphs)
    order = torch.tensor(data.draw(st.permutations(range(len(h)))))
    made = branch(2, operator=operator, self_loops=True)
    moved = made(h[order], order.argsort()[edge_index], edge_attr)
    torch.testing.assert_close(moved, made(h, edge_index, edge_attr)[order])


@pytest.mark.parametrize("self_loops", [True, False])
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_single_spot_without_edges_is_a_section(operator, self_loops, branch, graph_of):
    graph = graph_of(1, [])
    made = branch(2, operator=operator, self_loops=self_loops)
    embedding = made(*graph)
    assert embedding.shape == (1, WIDTH)
    hears_itself = self_loops or operator in {"global", "none"}
    assert bool(embedding.any()) is hears_itself
    attention = made.attention(*graph)
    assert attention is None or attention.shape == (2, 0, HEADS)


@pytest.mark.parametrize("jumping", JUMPING)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_weight_learns(operator, jumping, branch, crossed):
    made = branch(2, operator=operator, jumping=jumping)
    made.zero_grad()
    made(*crossed).square().sum().backward()
    for name, weight in made.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.count_nonzero() > 0, name


@pytest.mark.parametrize("jumping", JUMPING)
def test_gradients_are_those_of_finite_differences(jumping, branch, crossed):
    made = branch(2, jumping=jumping, self_loops=True)
    h, edge_attr = crossed.h.requires_grad_(), crossed.edge_attr.requires_grad_()
    assert torch.autograd.gradcheck(lambda h, e: made(h, crossed.edge_index, e), (h, edge_attr))


def test_edge_features_are_not_needed_where_none_are_read(crossed):
    made = NeighbourBranch(WIDTH, HEADS, 2, self_loops=True).double()
    assert torch.equal(made(crossed.h, crossed.edge_index), made(*crossed))


def test_dropout_is_for_training(drawn, crossed):
    made = drawn(NeighbourBranch(WIDTH, HEADS, 2, EDGE_DIM, dropout=1.0))
    assert made(*crossed).count_nonzero() > 0
    assert made.train()(*crossed).count_nonzero() == 0


@pytest.mark.parametrize("self_loops", [True, False])
def test_missing_edge_features_are_named(self_loops, branch, crossed):
    with pytest.raises(ValueError, match="edge_attr is missing"):
        branch(self_loops=self_loops)(crossed.h, crossed.edge_index)


@pytest.mark.parametrize(
    ("switches", "error", "message"),
    [
        ({"operator": "hypergraf"}, ConfigError, r"operator='hypergraf'.*'hypergraph'"),
        ({"jumping": "mix"}, ConfigError, r"jumping='mix'.*'max'"),
        ({"hops": 0}, ConfigError, "hops=0"),
        ({"heads": 3}, ConfigError, r"heads=3 .* width 4"),
    ],
)
def test_what_cannot_be_made_is_named(switches, error, message):
    with pytest.raises(error, match=message):
        NeighbourBranch(WIDTH, **switches)
