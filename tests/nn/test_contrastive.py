"""Contrastive losses against loops over anchors and candidates, and against what they cost without knowledge."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from nh2st_graph.nn import (
    chance_level,
    collapse_level,
    info_nce,
    info_nce_and_ranks,
    partner_rank,
    retrieval_at_k,
)


def embeddings(n, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, width, generator=generator, dtype=torch.float64) for _ in range(2))


def cosine(u, v):
    u, v = u.tolist(), v.tolist()
    return sum(x * y for x, y in zip(u, v, strict=True)) / math.hypot(*u) / math.hypot(*v)


def negatives_of(i, n, excluded):
    pairs = set() if excluded is None else {frozenset(pair) for pair in excluded.T.tolist()}
    return [j for j in range(n) if j != i and frozenset((i, j)) not in pairs]


def one_way(a, b, temperature, weight, anchors, excluded):
    """The formula, one anchor and one candidate at a time."""
    costs = []
    for i in range(len(a)) if anchors is None else anchors.tolist():
        own = math.exp(cosine(a[i], b[i]) / temperature)
        others = sum(math.exp(weight * cosine(a[i], b[j]) / temperature) for j in negatives_of(i, len(a), excluded))
        costs.append(-math.log(own / (own + others)))
    return sum(costs) / len(costs)


@st.composite
def switches(draw) -> tuple[int, dict[str, Any]]:
    """A number of spots, and a setting of every switch."""
    n = draw(st.integers(1, 7))
    spot = st.integers(0, n - 1)
    anchors = draw(st.none() | st.lists(spot, min_size=1, max_size=n))
    pairs = draw(st.none() | st.lists(st.tuples(spot, spot), max_size=12))
    return n, {
        "anchors": None if anchors is None else torch.tensor(anchors),
        "excluded": None if pairs is None else torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T,
        "negative_weight": draw(st.sampled_from([0.1, 0.5, 1.0])),
        "temperature": draw(st.sampled_from([0.05, 0.1, 1.0])),
    }


# Against loops, and what was published


@given(setting=switches(), symmetric=st.booleans(), width=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_equals_a_loop_over_anchors_and_candidates(setting, symmetric, width, seed):
    n, options = setting
    a, b = embeddings(n, width, seed)
    rest = options["temperature"], options["negative_weight"], options["anchors"], options["excluded"]
    expected = one_way(a, b, *rest)
    if symmetric:
        expected = (expected + one_way(b, a, *rest)) / 2
    assert float(info_nce(a, b, symmetric=symmetric, **options)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_by_default_it_is_the_plain_symmetric_loss_to_the_bit():
    a, b = (each.float() for each in embeddings(40, 8))
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.1
    own = torch.arange(40)
    assert torch.equal(info_nce(a, b), (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2)


def test_the_published_loss_is_one_setting_to_the_bit():
    image, gene = (each.float() for each in embeddings(8, 512))
    weight = torch.full((8, 8), 0.1).fill_diagonal_(1.0)
    logits = F.normalize(image, dim=1) @ F.normalize(gene, dim=1).T / 0.05 * weight
    expected = F.cross_entropy(logits, torch.arange(8))
    assert torch.equal(info_nce(image, gene, 0.05, symmetric=False, negative_weight=0.1), expected)


def test_eight_identical_embeddings_cost_nothing_in_the_published_loss():
    same = torch.randn(1, 16, dtype=torch.float64).expand(8, 16)
    published = {"temperature": 0.05, "negative_weight": 0.1}
    cost = float(info_nce(same, same, symmetric=False, **published))
    assert cost == pytest.approx(7 * math.exp(-18), rel=1e-6)
    assert cost == pytest.approx(collapse_level(8, **published), rel=1e-6)
    assert cost < 1.1e-7 < 2.07 < chance_level(8)
    assert float(info_nce(same, same, 0.05)) == pytest.approx(math.log(8))


# Invariances


@given(setting=switches(), seed=st.integers(0, 10**6))
def test_length_rotation_and_order_of_embeddings_do_not_matter(setting, seed):
    n, options = setting
    a, b = embeddings(n, 3, seed)
    expected = info_nce(a, b, **options)
    lengths = torch.rand(n, 1, dtype=torch.float64) + 0.5
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    torch.testing.assert_close(info_nce(a * lengths, b / lengths, **options), expected)
    torch.testing.assert_close(info_nce(a @ rotation, b @ rotation, **options), expected)
    torch.testing.assert_close(info_nce(b, a, **options), expected)

    order = torch.randperm(n)
    place = torch.argsort(order)
    moved = {name: place[options[name]] for name in ("anchors", "excluded") if options[name] is not None}
    torch.testing.assert_close(info_nce(a[order], b[order], **{**options, **moved}), expected)


def test_symmetric_is_the_mean_of_both_directions():
    a, b = embeddings(9, 4)
    there, back = info_nce(a, b, symmetric=False), info_nce(b, a, symmetric=False)
    torch.testing.assert_close(info_nce(a, b), (there + back) / 2)


# Candidates


def test_anchors_look_among_the_whole_section():
    a, b = embeddings(30, 4)
    some = torch.tensor([4, 17, 29])
    by_hand = F.cross_entropy(F.normalize(a[some], dim=1) @ F.normalize(b, dim=1).T / 0.1, some)
    torch.testing.assert_close(info_nce(a, b, anchors=some, symmetric=False), by_hand)
    torch.testing.assert_close(info_nce(a, b, anchors=torch.arange(30)), info_nce(a, b))
    assert info_nce(a, b, anchors=some) > info_nce(a[some], b[some])


def test_excluded_pairs_hold_in_either_order_and_never_bar_the_partner():
    a, b = embeddings(6, 4)
    edges = torch.tensor([[0, 2, 3], [1, 5, 3]])
    without_loop = edges[:, :2]
    expected = info_nce(a, b, excluded=edges)
    assert torch.equal(info_nce(a, b, excluded=without_loop.flip(0)), expected)
    assert torch.equal(info_nce(a, b, excluded=torch.cat([edges, edges.flip(0)], dim=1)), expected)
    assert torch.equal(info_nce(a, b, excluded=edges[:, :0]), info_nce(a, b))
    assert expected < info_nce(a, b)


def test_an_excluded_candidate_gets_no_gradient():
    a, b = (each.requires_grad_() for each in embeddings(4, 3))
    info_nce(a, b, symmetric=False, anchors=torch.tensor([0]), excluded=torch.tensor([[0], [2]])).backward()
    assert not b.grad[2].any()
    assert all(b.grad[i].any() for i in (0, 1, 3))


@pytest.mark.parametrize("n", [1, 5])
def test_without_negatives_the_loss_and_its_gradient_are_zero(n):
    a, b = (each.requires_grad_() for each in embeddings(n, 3))
    everything = torch.combinations(torch.arange(n), 2).T
    loss = info_nce(a, b, negative_weight=0.1, excluded=everything)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not a.grad.any()
    assert not b.grad.any()
    assert chance_level(n, excluded=everything) == collapse_level(n, excluded=everything) == 0


def test_one_candidate_costs_nothing_and_so_does_chance():
    a, b = embeddings(1, 3)
    assert float(info_nce(a, b)) == chance_level(1) == collapse_level(1, negative_weight=0.1) == 0


def test_different_spots_on_both_sides_are_refused():
    a, b = embeddings(5, 3)
    with pytest.raises(ValueError, match=r"a \(5, 3\) and b \(4, 3\)"):
        info_nce(a, b[:4])


# What embeddings cost that know nothing


@given(setting=switches())
def test_chance_is_the_loss_of_similarities_that_are_all_zero(setting):
    n, options = setting
    a, b = torch.zeros(2, n, 2, dtype=torch.float64)
    a[:, 0], b[:, 1] = 1.0, 1.0
    chance = chance_level(n, anchors=options["anchors"], excluded=options["excluded"])
    assert float(info_nce(a, b, **options)) == pytest.approx(chance, abs=1e-12)


@given(setting=switches())
def test_collapse_is_the_loss_of_embeddings_that_are_all_the_same(setting):
    n, options = setting
    same = torch.ones(n, 3, dtype=torch.float64)
    level = collapse_level(n, **options)
    assert float(info_nce(same, same, **options)) == pytest.approx(level, rel=1e-6, abs=1e-12)


def test_chance_with_excluded_pairs_is_the_mean_over_anchors():
    excluded = torch.tensor([[0, 0, 1], [1, 2, 1]])
    assert chance_level(4) == math.log(4)
    left = [2, 3, 3, 4]
    assert chance_level(4, excluded=excluded) == pytest.approx(sum(math.log(k) for k in left) / 4)
    assert chance_level(4, anchors=torch.tensor([3, 0]), excluded=excluded) == pytest.approx(math.log(8) / 2)
    assert collapse_level(4, excluded=excluded) == pytest.approx(chance_level(4, excluded=excluded))


@pytest.mark.parametrize("weight", [0.1, 1.0])
@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_random_embeddings_cost_chance_and_more_where_the_temperature_is_low(temperature, weight):
    n, width = 1000, 400
    a, b = embeddings(n, width)
    # Cosines of independent embeddings are about normal, with mean 0 and variance 1 / width, and the mean of e^x over
    # such candidates is e^(variance / 2). Four standard errors of the mean similarity to the partner are allowed.
    excess = weight**2 / (2 * width * temperature**2)
    allowed = 4 / (temperature * math.sqrt(n * width))
    loss = float(info_nce(a, b, temperature, negative_weight=weight))
    assert loss == pytest.approx(chance_level(n) + excess, abs=allowed)


@given(
    n=st.integers(2, 7),
    temperature=st.floats(0.05, 2),
    weight=st.floats(0.05, 1),
    spread=st.floats(0, 3),
    seed=st.integers(0, 10**6),
)
def test_embeddings_that_know_nothing_cannot_undercut_collapse(n, temperature, weight, spread, seed):
    """Over all shifts of the partners, no candidate is more often a partner than another: nothing is known."""
    a, b = embeddings(n, 3, seed)
    a, b = 1 + spread * a, 1 + spread * b
    options = {"symmetric": False, "negative_weight": weight}
    costs = [float(info_nce(a, b.roll(shift, 0), temperature, **options)) for shift in range(n)]
    assert sum(costs) / n >= collapse_level(n, temperature, negative_weight=weight) - 1e-12


# Gradients


@given(setting=switches(), symmetric=st.booleans(), seed=st.integers(0, 10**6))
def test_gradients_also_of_a_learned_temperature(setting, symmetric, seed):
    n, options = setting
    a, b = (each.requires_grad_() for each in embeddings(n, 3, seed))
    temperature = torch.tensor(options.pop("temperature") + 0.2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, b, temperature: info_nce(a, b, temperature, symmetric=symmetric, **options), (a, b, temperature)
    )


def test_descent_finds_the_partners():
    a, b = (each.requires_grad_() for each in embeddings(20, 16))
    optimiser = torch.optim.Adam([a, b], lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        info_nce(a, b).backward()
        optimiser.step()
    assert float(info_nce(a, b).detach()) < 0.1 * chance_level(20)
    assert retrieval_at_k(a, b, k=1) == 1


# Many spots: in tiles


def with_gradients(setting, symmetric, seed=0, dtype=torch.float64, width=3):
    """The loss, and its gradients of both embeddings and of a learned temperature."""
    n, options = setting
    a, b = (each.to(dtype).requires_grad_() for each in embeddings(n, width, seed))
    temperature = torch.tensor(options["temperature"], dtype=dtype, requires_grad=True)
    loss = info_nce(a, b, **{**options, "temperature": temperature}, symmetric=symmetric)
    loss.backward()
    return loss.detach(), a.grad, b.grad, temperature.grad


@given(setting=switches(), symmetric=st.booleans(), tile=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_tiles_give_the_loss_and_the_gradients_of_all_similarities_at_once(setting, symmetric, tile, seed):
    expected = with_gradients(setting, symmetric, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nh2st_graph.nn._contrastive.AT_ONCE", 0)
        patch.setattr("nh2st_graph.nn._contrastive._TILE", tile)
        found = with_gradients(setting, symmetric, seed)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_tiles_are_as_good_in_single_precision(temperature, monkeypatch):
    excluded = torch.randint(300, (2, 900))
    setting = (300, {"temperature": temperature, "negative_weight": 0.5, "excluded": excluded})
    dense, exact = (with_gradients(setting, True, dtype=dtype, width=64) for dtype in (torch.float32, torch.float64))
    monkeypatch.setattr("nh2st_graph.nn._contrastive.AT_ONCE", 0)
    monkeypatch.setattr("nh2st_graph.nn._contrastive._TILE", 64)
    found = with_gradients(setting, True, dtype=torch.float32, width=64)
    for one, other, best in zip(found, dense, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6 / temperature, atol=1e-6)
        torch.testing.assert_close(one.double(), best, rtol=1e-6 / temperature, atol=1e-6)


@pytest.mark.parametrize("every", [1, 2])
def test_many_spots_need_no_matrix_of_all_pairs(every):
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            sizes.extend(each.numel() for each in torch.utils._pytree.tree_leaves(found) if torch.is_tensor(each))
            return found

    n = 4200 * every
    a, b = (torch.randn(n, 2, requires_grad=True) for _ in "ab")
    with Sizes():
        info_nce(a, b, anchors=torch.arange(0, n, every) if every > 1 else None, symmetric=every == 1).backward()
    assert a.grad.any()
    assert b.grad.any()
    assert max(sizes) == 1024**2 < n * n / 16


# Retrieval


@given(setting=switches(), seed=st.integers(0, 10**6), at_once=st.sampled_from([0, 10**6]))
def test_ranks_are_told_with_the_loss(setting, seed, at_once):
    n, options = setting
    a, b = embeddings(n, 3, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nh2st_graph.nn._contrastive.AT_ONCE", at_once)
        loss, ranks = info_nce_and_ranks(a, b, **options)
        assert torch.equal(loss, info_nce(a, b, **options))
    own = torch.arange(n) if options["anchors"] is None else options["anchors"]
    assert torch.equal(ranks, partner_rank(a[own], b, own))


@given(n=st.integers(1, 9), k=st.integers(1, 10), seed=st.integers(0, 10**6))
def test_retrieval_counts_partners_among_the_nearest(n, k, seed):
    a, b = embeddings(n, 3, seed)
    found = 0
    for i in range(n):
        by_similarity = sorted(range(n), key=lambda j: -cosine(a[i], b[j]))
        found += i in by_similarity[:k]
    assert retrieval_at_k(a, b, k) == pytest.approx(found / n)


@pytest.mark.parametrize("value", [1.0, 0.0, math.nan])
def test_embeddings_that_are_all_the_same_or_broken_retrieve_nothing(value):
    same = torch.full((11, 4), value)
    assert retrieval_at_k(same, same, k=10) == 0
    assert retrieval_at_k(same[:10], same[:10], k=10) == 1
