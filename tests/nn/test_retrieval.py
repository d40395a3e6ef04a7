from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from nh2st_graph.nn import nearest, partner_rank, retrieve

SIMILARITIES = ["cosine", "dot", "euclidean"]
N_KEYS = 11


def drawn(n, d, seed, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def dense(query, keys, similarity):
    """The matrix of all pairs, pair by pair."""
    if similarity == "cosine":
        query, keys = F.normalize(query, dim=1), F.normalize(keys, dim=1)
    if similarity == "euclidean":
        return torch.stack([-(keys - q).square().sum(dim=1).sqrt() for q in query])
    return torch.stack([(keys * q).sum(dim=1) for q in query])


def best_of(row, k):
    """By similarity, then by number."""
    return sorted(range(len(row)), key=lambda j: (-float(row[j]), j))[:k]


@pytest.mark.parametrize("similarity", SIMILARITIES)
@given(block=st.integers(1, N_KEYS + 1), k=st.integers(1, N_KEYS + 3))
def test_equals_sorting_all_pairs_at_every_size_of_block(similarity, block, k):
    query, keys = drawn(5, 3, 0), drawn(N_KEYS, 3, 1)
    found, index = nearest(query, keys, k, similarity=similarity, block=block)
    pairs = dense(query, keys, similarity)
    assert index.tolist() == [best_of(row, k) for row in pairs]
    assert index.dtype == torch.int64
    torch.testing.assert_close(found, pairs.gather(1, index), rtol=1e-7, atol=1e-7)


@given(
    n_keys=st.integers(1, 30),
    k=st.integers(1, 12),
    block=st.integers(1, 31),
    at_once=st.integers(1, 60),
    seed=st.integers(0, 999),
)
def test_exact_ties_go_to_the_lowest_number_whatever_the_blocks(n_keys, k, block, at_once, seed):
    generator = torch.Generator().manual_seed(seed)
    # Small whole numbers: scalar products are exact, and most of them ties.
    query, keys = (torch.randint(-1, 2, (n, 2), generator=generator).double() for n in (6, n_keys))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nh2st_graph.nn._retrieval.AT_ONCE", at_once)
        found, index = nearest(query, keys, k, similarity="dot", block=block)
    pairs = query @ keys.T
    assert index.tolist() == [best_of(row, k) for row in pairs]
    assert torch.equal(found, pairs.gather(1, index))


def test_cosine_is_blind_to_lengths_and_a_query_or_key_of_length_zero_is_like_none():
    query, keys = drawn(4, 3, 0), drawn(9, 3, 1)
    _, index = nearest(query, keys, 5)
    lengths = torch.rand(9, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.1
    assert torch.equal(nearest(3 * query, lengths * keys, 5)[1], index)
    nothing = torch.zeros(1, 3, dtype=torch.float64)
    found, index = nearest(nothing, keys, 3)
    assert found.tolist() == [[0.0, 0.0, 0.0]]
    assert index.tolist() == [[0, 1, 2]]
    alike, _ = nearest(query, nothing, 1)
    assert alike.flatten().tolist() == [0.0] * 4


def in_words(query, keys, values, k, how):
    """BLEEP's three ways, a query at a time: its weights as it writes them."""
    rows = []
    for q, row in zip(query.numpy(), dense(query, keys, "cosine"), strict=True):
        index = best_of(row, 1 if how == "simple" else k)
        squared = ((keys.numpy()[index] - q) ** 2).sum(axis=1)
        weights = np.exp(-(squared - squared[0] + 1)) if how == "weighted_average" else None
        rows.append(np.average(values.numpy()[index], axis=0, weights=weights))
    return torch.from_numpy(np.stack(rows))


@pytest.mark.parametrize("how", ["simple", "average", "weighted_average"])
@given(block=st.integers(1, 12), k=st.integers(1, 14), at_once=st.sampled_from([1, 50, 2**24]))
def test_averages_are_those_of_the_published_code(how, block, k, at_once):
    query, keys, values = drawn(6, 4, 0), drawn(N_KEYS, 4, 1), drawn(N_KEYS, 7, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nh2st_graph.nn._retrieval.AT_ONCE", at_once)
        averaged = retrieve(query, keys, values, k, how=how, block=block)
    torch.testing.assert_close(averaged, in_words(query, keys, values, k, how), rtol=1e-10, atol=1e-12)


def test_weights_of_ones_own():
    query, keys, values = drawn(3, 4, 0), drawn(8, 4, 1), drawn(8, 5, 2)

    def second(query, keys):
        assert query.shape == (3, 1, 4)
        return torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(3, -1)

    _, index = nearest(query, keys, 3, similarity="euclidean")
    assert torch.equal(retrieve(query, keys, values, 3, how=second, similarity="euclidean"), values[index[:, 1]])


def test_far_keys_do_not_take_the_weights_to_nothing():
    query, keys = torch.zeros(1, 1), torch.tensor([[50.0], [50.5], [60.0]])
    averaged = retrieve(query, keys, torch.eye(3), 3, how="weighted_average", similarity="euclidean")
    expected = torch.softmax(-keys.double().square().T, dim=1)
    torch.testing.assert_close(averaged.double(), expected)


@pytest.mark.parametrize("how", ["average", "weighted_average"])
def test_a_bank_in_half_precision_is_compared_and_averaged_in_single(how):
    query, keys, values = drawn(4, 6, 0, torch.float32), drawn(40, 6, 1, torch.float16), drawn(40, 3, 2, torch.float16)
    found, index = nearest(query, keys, 5)
    assert found.dtype == torch.float32
    assert torch.equal(index, nearest(query, keys.float(), 5)[1])
    expected = retrieve(query, keys.float(), values.float(), 5, how=how)
    torch.testing.assert_close(retrieve(query, keys, values, 5, how=how), expected)
    assert nearest(query.half(), keys, 5)[0].dtype == torch.float32


def test_mixed_precision_does_not_round_similarities():
    query, keys = drawn(4, 6, 0, torch.float32), drawn(200, 6, 1, torch.float32)
    expected = nearest(query, keys, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, index = nearest(query, keys, 20)
    assert torch.equal(found, expected[0])
    assert torch.equal(index, expected[1])


def test_no_matrix_of_all_pairs_is_made(monkeypatch):
    """No more pairs at once than the bound, and no more keys than a block."""
    seen = []

    class Products(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__):
                seen.append((args[0].shape[0], args[1].shape[1]))
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr("nh2st_graph.nn._retrieval.AT_ONCE", 64)
    with Products():
        nearest(drawn(50, 2, 0), drawn(100, 2, 1), 3, block=16)
    assert max(n_keys for _, n_keys in seen) == 16
    assert max(n_queries * n_keys for n_queries, n_keys in seen) <= 64
    assert sum(n_queries * n_keys for n_queries, n_keys in seen) == 50 * 100


def test_no_queries_find_nothing():
    found, index = nearest(drawn(0, 3, 0), drawn(5, 3, 1), 2)
    assert found.shape == index.shape == (0, 2)
    assert retrieve(drawn(0, 3, 0), drawn(5, 3, 1), drawn(5, 4, 2), 2).shape == (0, 4)


def test_refuses_an_empty_bank_wrong_counts_and_what_is_no_number():
    query, keys = drawn(2, 3, 0), drawn(4, 3, 1)
    for wrong in ({"keys": keys[:0]}, {"k": 0}, {"block": 0}):
        with pytest.raises(ValueError, match="at least one"):
            nearest(**{"query": query, "keys": keys, "k": 1} | wrong)
    with pytest.raises(ValueError, match="4 keys and 3 values"):
        retrieve(query, keys, drawn(3, 2, 0), 1)
    broken = keys.clone()
    broken[2, 1] = torch.nan
    for given_query, given_keys in ((query, broken), (broken, keys)):
        with pytest.raises(ValueError, match="not finite"):
            nearest(given_query, given_keys, 1)


@given(n=st.integers(1, 8), m=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_rank_of_a_partner_is_its_place_among_all_keys(n, m, seed):
    query, keys = drawn(n, 3, seed).double(), drawn(m, 3, seed + 1).double()
    partner = torch.randint(m, (n,), generator=torch.Generator().manual_seed(seed))
    ranks = partner_rank(query, keys, partner)
    for i in range(n):
        cosines = torch.cosine_similarity(query[i : i + 1], keys)
        assert int(ranks[i]) == 1 + int((cosines > cosines[partner[i]] + 1e-12).sum())


def test_ranks_do_not_depend_on_how_many_queries_meet_the_keys_at_once(monkeypatch):
    query, keys = drawn(50, 4, 0), drawn(50, 4, 1)
    expected = partner_rank(query, keys)
    monkeypatch.setattr("nh2st_graph.nn._retrieval.AT_ONCE", 120)
    assert torch.equal(partner_rank(query, keys), expected)


def test_equal_keys_rank_last():
    assert partner_rank(torch.ones(3, 2), torch.ones(7, 2), torch.tensor([0, 3, 6])).tolist() == [7, 7, 7]
