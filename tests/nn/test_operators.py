"""Every operator against its formula over all pairs of spots, and what all have in common."""

from __future__ import annotations

import math
from functools import cache, partial

import pytest
import torch
import torch_geometric.typing
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch_geometric import EdgeIndex
from torch_geometric.utils import scatter

from nh2st_graph import ConfigError
from nh2st_graph.nn import OPERATORS, SpatialAttention, make_operator

WIDTH, HEADS, EDGE_DIM = 4, 2, 3

#: Operators by what they look at.
ATTENDING = ("attention", "gatv2", "transformer")
ALONG_EDGES = (*ATTENDING, "gcn", "sage")
HYPERGRAPHS = ("hypergraph", "hypergraph_similarity")

every_operator = pytest.mark.parametrize("name", OPERATORS)


@pytest.fixture(scope="module")
def operator(drawn):
    """Make an operator with drawn weights; the same one for the same name."""
    return cache(lambda name, **more: drawn(make_operator(name, WIDTH, HEADS, EDGE_DIM, **more)))


# Formulas over all pairs: [receiver, sender]


def heads(x):
    return x.unflatten(-1, (HEADS, WIDTH // HEADS))


def linked(graph):
    pairs = torch.zeros(len(graph.h), len(graph.h), dtype=torch.float64)
    for sender, receiver in graph.edge_index.T.tolist():
        pairs[receiver, sender] = 1
    return pairs


def edges_of_pairs(graph):
    pairs = graph.h.new_zeros(len(graph.h), len(graph.h), EDGE_DIM)
    for (sender, receiver), features in zip(graph.edge_index.T.tolist(), graph.edge_attr, strict=True):
        pairs[receiver, sender] = features
    return pairs


def attention_logits(op, h, edges):
    query, key, value = heads(op.query(h)), heads(op.key(h)), heads(op.value(h))
    logits = torch.einsum("ihc,jhc->ijh", query, key) / math.sqrt(WIDTH // HEADS) + op.edge_bias(edges)
    return logits, value.expand(len(h), -1, -1, -1)


def gatv2_logits(op, h, edges):
    sent, own = heads(op.conv.lin_l(h)), heads(op.conv.lin_r(h))
    hidden = F.leaky_relu(sent[None] + own[:, None] + heads(op.conv.lin_edge(edges)), 0.2)
    return (hidden * op.conv.att).sum(dim=-1), sent.expand(len(h), -1, -1, -1)


def transformer_logits(op, h, edges):
    query, key, value = heads(op.conv.lin_query(h)), heads(op.conv.lin_key(h)), heads(op.conv.lin_value(h))
    edges = heads(op.conv.lin_edge(edges))
    logits = (query[:, None] * (key[None] + edges)).sum(dim=-1) / math.sqrt(WIDTH // HEADS)
    return logits, value[None] + edges


LOGITS = {"attention": attention_logits, "gatv2": gatv2_logits, "transformer": transformer_logits}


def dense_attention(name, op, graph):
    """Weights ``(n, n, heads)`` and messages."""
    logits, values = LOGITS[name](op, graph.h, edges_of_pairs(graph))
    weights = logits.masked_fill(linked(graph)[..., None] == 0, -torch.inf).softmax(dim=1).nan_to_num(0)
    return weights, torch.einsum("ijh,ijhc->ihc", weights, values).flatten(start_dim=1)


def dense_gcn(op, graph):
    pairs = linked(graph)
    scale = pairs.sum(dim=1).pow(-0.5).nan_to_num(posinf=0).diag()
    return scale @ pairs @ scale @ op.conv.lin(graph.h)


def dense_sage(op, graph):
    pairs = linked(graph)
    return op.conv.lin_l(pairs / pairs.sum(dim=1, keepdim=True).clamp_min(1) @ graph.h)


def dense_hypergraph(op, graph, n_similar=None):
    """``D^-1 H B^-1 H^T h Theta``, hyperedges found one by one."""
    incidence = torch.zeros(len(graph.h), len(graph.h), dtype=torch.float64)
    for spot, row in enumerate(linked(graph)):
        senders = row.nonzero().flatten().tolist()
        similarity = F.cosine_similarity(graph.h, graph.h[spot : spot + 1]).tolist()
        senders = sorted(senders, key=similarity.__getitem__, reverse=True)[:n_similar]
        if senders:
            incidence[[spot, *senders], spot] = 1
    of_spot, of_hyperedge = (incidence.sum(dim=dim).pow(-1).nan_to_num(posinf=0).diag() for dim in (1, 0))
    return of_spot @ incidence @ of_hyperedge @ incidence.T @ op.conv.lin(graph.h)


def dense_global(op, graph):
    query, key, value = heads(op.query(graph.h)), heads(op.key(graph.h)), heads(op.value(graph.h))
    weights = (torch.einsum("ihc,jhc->ijh", query, key) / math.sqrt(WIDTH // HEADS)).softmax(dim=1)
    return torch.einsum("ijh,jhc->ihc", weights, value).flatten(start_dim=1)


DENSE = {
    **{name: lambda op, graph, name=name: dense_attention(name, op, graph)[1] for name in ATTENDING},
    "gcn": dense_gcn,
    "sage": dense_sage,
    "hypergraph": dense_hypergraph,
    "hypergraph_similarity": lambda op, graph: dense_hypergraph(op, graph, n_similar=3),
    "global": dense_global,
    "none": lambda op, graph: op.linear(graph.h),
}


@every_operator
@given(st.data())
def test_messages_are_those_of_the_formula_over_all_pairs(name, operator, graphs, data):
    graph = data.draw(graphs)
    op = operator(name)
    messages = op(*graph)
    assert messages.shape == graph.h.shape
    torch.testing.assert_close(messages, DENSE[name](op, graph))


def test_every_operator_has_a_formula_here():
    assert set(DENSE) == set(OPERATORS)


@pytest.mark.parametrize("name", ATTENDING)
@given(st.data())
def test_attention_is_that_of_the_formula_and_adds_to_one(name, operator, graphs, data):
    graph = data.draw(graphs)
    op = operator(name)
    found = op.attention(*graph)
    sender, receiver = graph.edge_index
    torch.testing.assert_close(found, dense_attention(name, op, graph)[0][receiver, sender])
    total = scatter(found, receiver, dim_size=len(graph.h))[receiver.unique()]
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("name", sorted(set(OPERATORS) - set(ATTENDING)))
def test_those_that_do_not_attend_over_edges_have_no_attention(name, operator, graph_of):
    assert operator(name).attention(*graph_of(3, [(0, 1), (2, 1)])) is None


# Who hears whom


def influence(op, graph):
    """Pairs (sender, receiver) with any effect of an embedding on a message."""
    jacobian = torch.autograd.functional.jacobian(lambda h: op(h, *graph[1:]), graph.h)
    return {(j, i) for i, j in jacobian.abs().sum(dim=(1, 3)).nonzero().tolist()}


@pytest.mark.parametrize("name", ALONG_EDGES)
def test_messages_go_from_sender_to_receiver(name, operator, graph_of):
    graph = graph_of(3, [(0, 1), (1, 2), (2, 0)])
    assert influence(operator(name), graph) == {(0, 1), (1, 2), (2, 0)}


@pytest.mark.parametrize("name", HYPERGRAPHS)
def test_members_of_a_hyperedge_hear_each_other(name, operator, graph_of):
    together = {(i, j) for i in range(3) for j in range(3)}
    assert influence(operator(name), graph_of(4, [(0, 1), (2, 1)])) == together, "0, 1 and 2 are the hyperedge of 1"


def test_all_of_a_section_hear_each_other_in_global_attention(operator, graph_of):
    assert influence(operator("global"), graph_of(4, [(0, 1)])) == {(i, j) for i in range(4) for j in range(4)}


def test_without_messages_a_spot_hears_itself(operator, graph_of):
    assert influence(operator("none"), graph_of(3, [(0, 1), (1, 2)])) == {(0, 0), (1, 1), (2, 2)}


@pytest.mark.parametrize("name", [*ALONG_EDGES, *HYPERGRAPHS])
@given(st.data())
def test_a_spot_without_edges_receives_zero(name, operator, graphs, data):
    graph = data.draw(graphs)
    touched = graph.edge_index[1] if name in ALONG_EDGES else graph.edge_index
    without = torch.ones(len(graph.h), dtype=torch.bool).index_fill(0, touched.flatten(), False)
    assert operator(name)(*graph)[without].count_nonzero() == 0


@every_operator
def test_a_single_spot_is_a_graph(name, operator, graph_of):
    graph = graph_of(1, [])
    op = operator(name)
    expected = {"global": lambda h: op.value(h), "none": lambda h: op.linear(h)}.get(name, torch.zeros_like)
    torch.testing.assert_close(op(*graph), expected(graph.h))


@every_operator
@given(st.data())
def test_the_order_of_spots_and_edges_decides_nothing(name, operator, graphs, data):
    h, edge_index, edge_attr = data.draw(graphs)
    order = torch.tensor(data.draw(st.permutations(range(len(h)))))
    edge_order = torch.tensor(data.draw(st.permutations(range(edge_index.shape[1]))), dtype=torch.long)
    moved = order.argsort()[edge_index][:, edge_order]
    op = operator(name)
    torch.testing.assert_close(op(h[order], moved, edge_attr[edge_order]), op(h, edge_index, edge_attr)[order])


# Hyperedges


def hyperedges(op, graph):
    found: dict[int, list[int]] = {}
    for member, hyperedge in op.members(graph.h, graph.edge_index).T.tolist():
        found.setdefault(hyperedge, []).append(member)
    return {hyperedge: sorted(members) for hyperedge, members in found.items()}


def test_a_hyperedge_is_a_spot_with_its_senders(operator, graph_of):
    graph = graph_of(5, [(1, 0), (2, 0), (2, 1)])
    assert hyperedges(operator("hypergraph"), graph) == {0: [0, 1, 2], 1: [1, 2]}


def test_similarity_keeps_the_three_senders_most_like_the_spot(operator, graph_of):
    graph = graph_of(6, [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (1, 5)])
    angle = torch.tensor([0.0, 0.5, 0.1, 3.0, 0.2, -0.3], dtype=torch.float64)
    length = torch.tensor([1.0, 1.0, 9.0, 1.0, 0.1, 1.0], dtype=torch.float64)
    h = torch.stack([angle.cos(), angle.sin(), 0 * angle, 0 * angle], dim=1) * length[:, None]
    found = hyperedges(operator("hypergraph_similarity"), graph._replace(h=h))
    assert found == {0: [0, 2, 4, 5], 5: [1, 5]}


def test_among_equals_the_first_edges_are_kept(operator, graph_of):
    graph = graph_of(6, [(4, 0), (2, 0), (5, 0), (1, 0), (3, 0)])
    found = hyperedges(operator("hypergraph_similarity"), graph._replace(h=torch.ones_like(graph.h)))
    assert found == {0: [0, 2, 4, 5]}


@pytest.mark.parametrize("name", HYPERGRAPHS)
@given(st.data())
def test_loops_give_only_spots_without_senders_a_hyperedge(name, operator, graphs, data):
    graph = data.draw(graphs)
    loops = torch.arange(len(graph.h)).expand(2, -1)
    op = operator(name)
    with_loops = hyperedges(op, graph._replace(edge_index=torch.cat([loops, graph.edge_index], dim=1)))
    assert with_loops == {spot: [spot] for spot in range(len(graph.h))} | hyperedges(op, graph)


# Learning


@pytest.fixture
def crossed(graph_of):
    """Five spots: 4 has no senders, and 0 has four."""
    return graph_of(5, [(1, 0), (2, 0), (3, 0), (4, 0), (0, 1), (3, 1), (1, 2), (2, 3)])


@every_operator
def test_gradients_are_those_of_finite_differences(name, operator, crossed):
    op = operator(name)
    names, weights = zip(*op.named_parameters(), strict=True)

    def messages(h, features, *values):
        named = dict(zip(names, values, strict=True))
        return torch.func.functional_call(op, named, (h, crossed.edge_index, features))

    h, features, *values = (
        value.detach().clone().requires_grad_() for value in (crossed.h, crossed.edge_attr, *weights)
    )
    assert torch.autograd.gradcheck(messages, (h, features.detach().requires_grad_(name in ATTENDING), *values))


@every_operator
def test_every_weight_learns(name, operator, crossed):
    op = operator(name)
    op.zero_grad()
    op(*crossed).square().sum().backward()
    for weight_name, weight in op.named_parameters():
        assert weight.grad is not None, weight_name
        assert weight.grad.count_nonzero() > 0, weight_name


@every_operator
def test_no_operator_has_a_constant(name, operator, crossed):
    nothing = operator(name)(torch.zeros_like(crossed.h), crossed.edge_index, torch.zeros_like(crossed.edge_attr))
    assert nothing.count_nonzero() == 0


@every_operator
def test_dropout_is_for_training(name, operator, crossed):
    op = operator(name, dropout=1.0)
    assert torch.equal(op(*crossed), operator(name)(*crossed))
    attention = op.attention(*crossed)
    op.train()
    try:
        assert op(*crossed).count_nonzero() == 0
        if attention is not None:
            assert torch.equal(op.attention(*crossed), attention), "weights are those before dropout"
        assert all(module.training for module in op.modules())
    finally:
        op.eval()


# Making one


def test_the_default_is_spatial_attention_with_the_same_draws_and_names():
    torch.manual_seed(0)
    layer = SpatialAttention(WIDTH, HEADS, EDGE_DIM)
    torch.manual_seed(0)
    op = make_operator("attention", WIDTH, HEADS, EDGE_DIM)
    op.load_state_dict(layer.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), op.parameters(), strict=True))


def test_the_control_has_as_many_weights_as_the_mean():
    sizes = [sum(w.numel() for w in make_operator(name, WIDTH).parameters()) for name in ("none", "sage", "gcn")]
    assert sizes == [WIDTH * WIDTH] * 3


@every_operator
def test_an_operator_is_made_by_its_name(name):
    made = OPERATORS[name]
    assert type(make_operator(name, WIDTH, HEADS, EDGE_DIM, 0.1)) is getattr(made, "func", made)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"operator='gatv3'.*'gatv2'"):
        make_operator("gatv3", WIDTH)


@pytest.mark.parametrize("name", [*ATTENDING, "global"])
def test_heads_must_divide_the_width(name):
    with pytest.raises(ConfigError, match=r"heads=3 .* width 4"):
        make_operator(name, WIDTH, heads=3)


@pytest.mark.parametrize("name", ATTENDING)
def test_edge_features_are_read_where_asked_for_and_then_needed(name, operator, drawn, crossed):
    h, edge_index, edge_attr = crossed
    with pytest.raises(ValueError, match=r"edge_attr is missing.* 3"):
        operator(name)(h, edge_index)
    reads_one = drawn(make_operator(name, WIDTH, HEADS, 1))
    assert torch.equal(reads_one(*crossed), reads_one(h, edge_index, edge_attr[:, :1]))
    reads_none = drawn(make_operator(name, WIDTH, HEADS, 0))
    assert torch.equal(reads_none(*crossed), reads_none(h, edge_index))
    assert torch.equal(reads_none.attention(*crossed), reads_none.attention(h, edge_index))


# With and without torch-scatter


@pytest.fixture
def deterministic():
    """In this mode PyG adds up sorted edges by segments, as it does for their softmax in any."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def scatter_calls(monkeypatch):
    """What PyG asks of torch-scatter, which goes on doing it."""
    torch_scatter = pytest.importorskip("torch_scatter")
    calls = []

    def recorded(name, function, *args, **more):
        calls.append(name)
        return function(*args, **more)

    for name in ("scatter", "scatter_max", "segment_csr", "gather_csr"):
        monkeypatch.setattr(torch_scatter, name, partial(recorded, name, getattr(torch_scatter, name)))
    return calls


def with_gradient(op, h, *edges):
    h = h.clone().requires_grad_()
    messages = op(h, *edges)
    return messages.detach(), torch.autograd.grad(messages.square().sum(), h)[0]


@pytest.mark.parametrize("name", ALONG_EDGES)
@pytest.mark.usefixtures("deterministic")
def test_torch_scatter_changes_nothing_where_it_is_used(name, drawn, crossed, scatter_calls, monkeypatch):
    op = drawn(make_operator(name, WIDTH, HEADS, EDGE_DIM))  # made anew: PyG looks at the mode then
    order = crossed.edge_index[1].argsort()
    edges, features = crossed.edge_index[:, order], crossed.edge_attr[order]
    by_receiver = EdgeIndex(edges, sparse_size=(5, 5), sort_order="col")
    expected = with_gradient(op, crossed.h, edges, features)
    assert not scatter_calls, "plain edges never need it"
    for there in (True, False):
        monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SCATTER", there)
        scatter_calls.clear()
        found = with_gradient(op, crossed.h, by_receiver, features)
        assert ("segment_csr" in scatter_calls) is there
        torch.testing.assert_close(found, expected)


@every_operator
def test_without_torch_scatter_plain_edges_give_the_same_numbers(name, operator, crossed, monkeypatch):
    found = []
    for there in (True, False):
        monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SCATTER", there)
        found.append(with_gradient(operator(name), *crossed))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
