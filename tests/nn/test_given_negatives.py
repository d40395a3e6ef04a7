"""The contrast against given negatives, and the nearest values, against loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from nh2st_graph.nn import info_nce, info_nce_against, nearest_values, nearest_values_apart

NUMBERS = st.lists(st.integers(-20, 20).map(lambda x: x / 2), max_size=12)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(
    n=st.integers(1, 6),
    k=st.integers(0, 5),
    temperature=st.sampled_from([0.02, 0.1, 1.0]),
    symmetric=st.booleans(),
    weight=st.sampled_from([0.1, 1.0]),
    seed=st.integers(0, 99),
)
def test_each_spot_is_told_from_its_own_negatives(n, k, temperature, symmetric, weight, seed):
    a, b, bank_a, bank_b = drawn(2, n, 3, seed=seed).unbind() + drawn(2, 9, 3, seed=seed + 1).unbind()
    negatives = torch.randint(9, (n, k), generator=torch.Generator().manual_seed(seed))
    costs = []
    for rows, partners, bank in ((a, b, bank_b), (b, a, bank_a))[: 1 + symmetric]:
        for i in range(n):
            own = F.cosine_similarity(rows[i], partners[i], dim=0) / temperature
            others = [F.cosine_similarity(rows[i], bank[j], dim=0) * weight / temperature for j in negatives[i]]
            costs.append(torch.stack([own, *others]).logsumexp(dim=0) - own)
    found = info_nce_against(a, b, bank_a, bank_b, negatives, temperature, symmetric=symmetric, negative_weight=weight)
    torch.testing.assert_close(found, torch.stack(costs).mean())


def test_with_all_others_as_negatives_it_is_info_nce():
    a, b = drawn(2, 7, 4).unbind()
    others = torch.stack([torch.tensor([j for j in range(7) if j != i]) for i in range(7)])
    torch.testing.assert_close(info_nce_against(a, b, a, b, others), info_nce(a, b))


@given(wanted=NUMBERS, there=NUMBERS, k=st.integers(0, 14))
def test_nearest_values_are_those_of_a_loop(wanted, there, k):
    found = nearest_values(torch.tensor(wanted).double(), torch.tensor(there).double(), k)
    assert found.shape == (len(wanted), min(k, len(there)))
    for value, row in zip(wanted, found.tolist(), strict=True):
        assert len({*row}) == len(row)
        expected = sorted(there, key=lambda x: (abs(x - value), x))[: len(row)]
        assert sorted(there[j] for j in row) == sorted(expected)


@given(data=st.data(), values=NUMBERS.filter(bool), k=st.integers(0, 14))
def test_neither_the_spot_nor_its_pairs_are_among_the_nearest_apart(data, values, k):
    n, place = len(values), st.integers(0, len(values) - 1)
    spots = data.draw(st.lists(place, unique=True).map(sorted))
    pairs = data.draw(st.lists(st.tuples(place, place), max_size=8))
    excluded = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T
    found = nearest_values_apart(
        torch.tensor(values).double(), torch.tensor(spots, dtype=torch.int64), k, excluded
    ).tolist()
    allowed = [[j for j in spots if j != i and (i, j) not in pairs and (j, i) not in pairs] for i in range(n)]
    wanted = min(k, *(len(each) for each in allowed)) if n > 1 else min(k, len(allowed[0]))
    for i, row in enumerate(found):
        assert len(row) == len({*row}) == wanted
        chosen = [spots[j] for j in row]
        assert {*chosen} <= {*allowed[i]}
        distances = sorted(abs(values[j] - values[i]) for j in allowed[i])
        assert [abs(values[j] - values[i]) for j in chosen] == pytest.approx(distances[: len(row)])
