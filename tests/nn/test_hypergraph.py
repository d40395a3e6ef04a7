from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from nh2st_graph.nn import EgoHypergraph, HypergraphBranch, ego_hyperedges, similarity_hyperedges

SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=5)


def _features(n, d=6, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _groups(sizes):
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def _sets(hyperedge_index):
    """The members of each hyperedge, sorted, repeats kept."""
    sets = {}
    for node, hyperedge in hyperedge_index.T.tolist():
        sets.setdefault(hyperedge, []).append(node)
    return {hyperedge: sorted(nodes) for hyperedge, nodes in sets.items()}


def _by_hand(features, group, k):
    """Hyperedges from a loop over members."""
    sets = {}
    for i in range(len(features)):
        others = [j for j in range(len(features)) if group[j] == group[i] and j != i]
        others.sort(key=lambda j: -float(F.cosine_similarity(features[i], features[j], dim=0)))
        sets[i] = sorted([i, *others[:k]])
    return sets


def _random_edges(n, n_edges, seed=0):
    return torch.randint(n, (2, n_edges), generator=torch.Generator().manual_seed(seed))


# Hyperedges


@given(SIZES, st.integers(1, 4), st.integers(0, 1000))
def test_hyperedges_equal_a_loop(sizes, k, seed):
    features, group = _features(sum(sizes), seed=seed), _groups(sizes)
    assert _sets(similarity_hyperedges(features, group, k=k)) == _by_hand(features, group, k)


def test_regions_of_nine_have_hyperedges_of_four():
    features = _features(18).relu().unflatten(0, (2, 9))
    hyperedge_index = similarity_hyperedges(features)
    assert hyperedge_index.shape == (2, 18 * 4)
    assert _sets(hyperedge_index) == _by_hand(features.flatten(end_dim=1), _groups([9, 9]), 3)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_group_too_small_for_k_is_one_hyperedge_for_each_member(size):
    assert _sets(similarity_hyperedges(_features(size)[None])) == {i: list(range(size)) for i in range(size)}


def test_a_member_is_never_its_own_neighbour():
    # The others are opposite, cosine -1, or equal.
    features = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0], [-2.0, 0.0]])
    assert _sets(similarity_hyperedges(features[None], k=1)) == {0: [0, 1], 1: [1, 2], 2: [1, 2], 3: [1, 3]}


def test_features_of_zeros_make_hyperedges_too():
    assert _sets(similarity_hyperedges(torch.zeros(1, 4, 3), k=2)) == {
        0: [0, 1, 2],
        1: [0, 1, 2],
        2: [0, 1, 2],
        3: [0, 1, 3],
    }


@given(SIZES, st.integers(0, 1000))
def test_members_that_share_rows(sizes, seed):
    features, group = _features(8, seed=seed), _groups(sizes)
    member = torch.cat([torch.randperm(8, generator=torch.Generator().manual_seed(seed))[:size] for size in sizes])
    shared = similarity_hyperedges(features, group, member)
    assert torch.equal(shared, similarity_hyperedges(features[member], group))


def test_work_in_pieces_changes_nothing(monkeypatch):
    features, group = _features(23), _groups([5, 1, 9, 8])
    whole = similarity_hyperedges(features, group)
    monkeypatch.setattr("nh2st_graph.nn._hypergraph._GATHERED", 1)
    assert torch.equal(similarity_hyperedges(features, group), whole)


# Regions


def test_a_region_is_a_spot_and_those_it_has_edges_from():
    edges = torch.tensor([[1, 2, 2], [0, 0, 1]])  # 0 reads from 1 and 2, 1 from 2, 2 from nobody, nor does 3
    member, group, _ = ego_hyperedges(edges, _features(4))
    assert list(zip(group.tolist(), member.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
        (2, 2),
        (3, 3),
    ]


@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 1000))
def test_order_repeats_and_loops_of_edges_decide_nothing(n, n_edges, seed):
    features, edges = _features(n), _random_edges(n, n_edges, seed)
    again = torch.cat([edges.flip(1), edges[:, : n_edges // 2], torch.arange(n).expand(2, n)], dim=1)
    for a, b in zip(ego_hyperedges(edges, features), ego_hyperedges(again, features), strict=True):
        assert torch.equal(a, b)


# Branch


def _matrix_formula(branch, x, hyperedge_index, group):
    """Dense, with the incidence matrix H and the weights W = 1."""
    node, hyperedge = hyperedge_index
    H = torch.zeros(len(group), int(hyperedge.max()) + 1, dtype=x.dtype)
    H[node, hyperedge] = 1
    D, B, W = H.sum(dim=1), H.sum(dim=0), torch.eye(H.shape[1], dtype=x.dtype)
    for conv in (branch.first, branch.second):
        x = (D.diag().inverse() @ H @ W @ B.diag().inverse() @ H.T @ x @ conv.lin.weight.T + conv.bias).relu()
    return torch.stack([x[group == g].mean(dim=0) for g in range(int(group.max()) + 1)])


def _branch(sizes=(6, 5, 4)):
    torch.manual_seed(0)
    branch = HypergraphBranch(*sizes).double()
    for conv in (branch.first, branch.second):
        torch.nn.init.normal_(conv.bias)
    return branch


@given(SIZES, st.integers(1, 4), st.integers(0, 1000))
def test_branch_equals_the_matrix_formula(sizes, k, seed):
    features, group, branch = _features(sum(sizes), seed=seed), _groups(sizes), _branch()
    hyperedge_index = similarity_hyperedges(features, group, k=k)
    out = branch(features, hyperedge_index, group)
    assert out.shape == (len(sizes), 4)
    torch.testing.assert_close(out, _matrix_formula(branch, features, hyperedge_index, group))


@given(SIZES, st.integers(0, 1000))
def test_one_product_for_each_row_equals_one_for_each_member(sizes, seed):
    x, group, branch = _features(5, seed=seed), _groups(sizes), _branch()
    member = torch.randint(5, (len(group),), generator=torch.Generator().manual_seed(seed))
    hyperedge_index = similarity_hyperedges(_features(len(group), seed=seed + 1), group)
    once = branch(x, hyperedge_index, group, member)
    torch.testing.assert_close(once, branch(x[member], hyperedge_index, group))


def test_the_first_product_has_one_row_for_each_spot():
    x, edges, ego = _features(7), _random_edges(7, 30), EgoHypergraph(6, 5, 4).double()
    rows = []
    ego.branch.first.lin.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    ego(x, edges, x)
    assert rows == [7]


def test_groups_do_not_mix():
    sizes = [9, 1, 3, 6]
    features, group, branch = _features(sum(sizes)), _groups(sizes), _branch()
    together = branch(features, similarity_hyperedges(features, group), group)
    alone = [branch(x, similarity_hyperedges(x[None]), _groups([len(x)])) for x in features.split(sizes)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_of_the_branch(shared):
    group, branch = _groups([3, 2]), _branch((3, 4, 2))
    x = _features(4 if shared else 5, 3).requires_grad_()
    member = torch.tensor([0, 1, 2, 1, 3]) if shared else None
    hyperedge_index = similarity_hyperedges(x, group, member, k=1)
    names, weights = zip(*branch.named_parameters(), strict=True)

    def call(x, *weights):
        values = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(branch, values, (x, hyperedge_index, group, member))

    assert torch.autograd.gradcheck(call, (x, *weights))


# Regions of a section


def test_regions_of_a_section_equal_a_loop_over_spots():
    x, similarity, edges = _features(12), _features(12, 8, seed=1), _random_edges(12, 60)
    torch.manual_seed(0)
    ego = EgoHypergraph(6, 5, 4).double()
    expected = []
    for spot in range(12):
        region = sorted({spot, *edges[0, edges[1] == spot].tolist()})
        hyperedges = similarity_hyperedges(similarity[region][None])
        expected.append(ego.branch(x[region], hyperedges, torch.zeros(len(region), dtype=torch.long)))
    torch.testing.assert_close(ego(x, edges, similarity), torch.cat(expected))


def test_hyperedges_are_shared_between_modalities():
    x, similarity, edges = _features(9), _features(9, 8, seed=1), _random_edges(9, 40)
    ego = EgoHypergraph(6, 5, 4, k=2).double()
    assert torch.equal(ego.embed(x, ego.hyperedges(edges, similarity)), ego(x, edges, similarity))


def test_a_single_spot_is_its_own_region():
    x, edges, ego = _features(1), torch.empty(2, 0, dtype=torch.long), EgoHypergraph(6, 5, 4).double()
    first, second = ego.branch.first, ego.branch.second
    alone = (second.lin((first.lin(x) + first.bias).relu()) + second.bias).relu()
    torch.testing.assert_close(ego(x, edges, x), alone)


def test_the_order_of_spots_decides_nothing():
    x, edges, order = (
        _features(10),
        _random_edges(10, 50),
        torch.randperm(10, generator=torch.Generator().manual_seed(1)),
    )
    torch.manual_seed(0)
    ego = EgoHypergraph(6, 5, 4).double()
    place = order.argsort()
    torch.testing.assert_close(ego(x[order], place[edges], x[order]), ego(x, edges, x)[order])
