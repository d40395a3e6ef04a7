"""Descriptions of spots against plain formulas, read whole and in parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from nh2st_graph.nn import Description, Rows


def test_a_description_is_z_scores_cut_off_and_the_mean_of_senders():
    x = torch.tensor([[0.0, 5.0], [0.0, 5.0], [0.0, 5.0], [1.0, 5.0]]).repeat(5, 1)
    x[-1, 0] = 100.0
    description = Description.fit([x[:11], x[11:]])
    section, edge_index = x[-4:], torch.tensor([[1, 3, 3], [0, 0, 1]])
    described = description(section, edge_index)
    own = ((section[:, 0].double().numpy() - x[:, 0].numpy().mean()) / x[:, 0].double().numpy().std()).clip(-3, 3) / 2
    assert own[3] == 1.5
    assert_allclose(described[:, 0], own)
    assert_allclose(described[:, 2], [(own[1] + own[3]) / 2, own[3], 0, 0])
    assert (described[:, [1, 3]] == 0).all()  # a constant feature says nothing


def test_a_wider_group_counts_no_more():
    x = torch.randn(10, 5, generator=torch.Generator().manual_seed(0))
    edge_index = torch.randint(10, (2, 20), generator=torch.Generator().manual_seed(1))
    twice = torch.cat([x, x[:, 2:]], dim=1)
    described, again = (
        Description.fit([each], groups)(each, edge_index)
        for each, groups in ((x, torch.tensor([7, 7, 1, 1, 1])), (twice, torch.tensor([7, 7, 1, 1, 1, 1, 1, 1])))
    )
    assert_allclose(described @ described.T, again @ again.T, atol=1e-12)


@pytest.mark.parametrize(("own", "around"), [(True, True), (True, False), (False, True)])
def test_a_description_may_leave_out_a_part(own, around):
    x, edge_index = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([[1, 2], [0, 0]])
    description = Description.fit([x], own=own, around=around)
    described, both = description(x, edge_index), Description.fit([x])(x, edge_index)
    factor = 1 if own and around else 2**0.5
    assert_allclose(described[:, :4], own * factor * both[:, :4])
    assert_allclose(described[:, 4:], around * factor * both[:, 4:])
    assert_allclose(description.weight.square().sum(), 1)
    assert_allclose(description.parts.square().sum(), 1)


def described_one_by_one(description: Description, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
    """Describe each spot by a walk against the edges, one ring after the other; a single ring counts edges."""
    z, (sender, receiver) = description.own(x), edge_index.tolist()
    single = description.n_rings == 1
    whole = torch.zeros(len(x), len(description.parts), x.shape[1], dtype=torch.float64)
    for i in range(len(x)):
        whole[i, 0] = z[i] * description.parts[0]
        ring = [s for s, r in zip(sender, receiver, strict=True) if r == i]
        ring = ring if single else sorted({*ring} - {i})
        seen = {i, *ring}
        for k in range(1, len(description.parts)):
            if ring:
                whole[i, k] = z[ring].mean(dim=0) * description.parts[k]
            ring = sorted({s for s, r in zip(sender, receiver, strict=True) if r in ring} - seen)
            seen.update(ring)
    return whole.flatten(1)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 12),
    n_edges=st.integers(0, 40),
    n_rings=st.integers(1, 5),
    wanted=st.lists(st.integers(0, 11), max_size=12),
)
def test_some_spots_are_described_as_in_the_whole(seed, n, n_edges, n_rings, wanted):
    draw = torch.Generator().manual_seed(seed)
    x, edge_index = torch.randn(n, 3, generator=draw), torch.randint(n, (2, n_edges), generator=draw)
    description = Description.fit([x]).with_rings(n_rings)
    whole = described_one_by_one(description, x, edge_index)
    torch.testing.assert_close(description(x, edge_index), whole)
    spots = np.array([i for i in wanted if i < n], dtype=np.int64)
    described = description.of(Rows(x.numpy()), edge_index)
    torch.testing.assert_close(described.read(spots), whole[spots])
    torch.testing.assert_close(described.read(spots, torch.float32), whole[spots].float())


def test_spots_all_over_a_section_do_not_read_all_of_it_at_once(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    x, edge_index = torch.randn(500, 3, generator=draw), torch.arange(1000) % 500
    edge_index = torch.stack([edge_index, (edge_index + 1 + torch.arange(1000) // 500) % 500])
    description = Description.fit([x])
    whole, spots, read = description(x, edge_index), np.arange(0, 500, 3), []
    monkeypatch.setattr("nh2st_graph.nn._description._SPREAD", 10)
    described = description.of(Recorded(x.numpy(), read), edge_index).read(spots)
    assert torch.equal(described, whole[spots])
    assert max(read) <= 3 * 10


class Recorded(Rows):
    """Rows that note how many of them were read at a time."""

    def __init__(self, source, read):
        super().__init__(source)
        self.asked = read

    def __getitem__(self, index):
        self.asked.append(len(index))
        return super().__getitem__(index)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_those_of_the_descriptions(dtype):
    draw = torch.Generator().manual_seed(0)
    x, edge_index = torch.randn(40, 3, generator=draw), torch.randint(40, (2, 90), generator=draw)
    description, coefficients = Description.fit([x]).with_rings(5), torch.randn(18, 4, generator=draw).double()
    products = description.of(Rows(x.numpy()), edge_index).products(coefficients, dtype)
    torch.testing.assert_close(products, (description(x, edge_index) @ coefficients).to(dtype))


@pytest.mark.parametrize(("own", "around"), [(True, True), (True, False), (False, True)])
def test_rings_share_the_weight_of_the_surroundings(own, around):
    narrow = Description.fit([torch.randn(10, 4, generator=torch.Generator().manual_seed(0))], own=own, around=around)
    assert narrow.reach == around
    wide = narrow.with_rings(5)
    assert wide.reach == 5 * around
    assert wide.parts[0] == narrow.parts[0]
    assert_allclose(wide.parts[1:], narrow.parts[1] / wide.n_rings**0.5)
    assert_allclose(wide.parts.square().sum(), 1)
    assert_allclose(wide.with_rings(1).parts, narrow.parts)


def test_features_that_are_left_out_do_not_count_and_others_take_their_weight():
    draw = torch.Generator().manual_seed(0)
    x, edge_index = torch.randn(20, 4, generator=draw), torch.randint(20, (2, 50), generator=draw)
    group = torch.tensor([0, 0, 1, 2])
    before, kept = Description.fit([x], group).with_rings(2), group != 1
    after = before.by_features(kept)
    assert_allclose(after.weight.square().sum(), 1)
    assert_allclose(after.weight, [0.5, 0.5, 0, 0.5**0.5])
    described = after(x, edge_index).unflatten(1, (3, 4))
    assert (described[..., 2] == 0).all()
    alone = Description.fit([x[:, kept]], group[kept]).with_rings(2)(x[:, kept], edge_index)
    assert_allclose(described[..., kept].flatten(1), alone)


def test_blocks_are_the_whole_and_statistics_are_those_of_all_sections(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    x, edge_index = 5 + torch.randn(50, 3, generator=draw), torch.randint(50, (2, 200), generator=draw)
    before = Description.fit([x])
    assert_allclose(before.mean, x.double().mean(dim=0))
    assert_allclose(before.std, x.double().std(dim=0, correction=0))
    monkeypatch.setattr("nh2st_graph.nn._description._ROWS", 7)
    after = Description.fit([Rows(x.numpy(), np.arange(20)), x[20:]])
    assert_allclose(after.std, before.std)
    blocks = list(after.of(Rows(x.numpy()), edge_index).blocks())
    assert [len(each) for each in blocks] == [7] * 7 + [1]
    assert_allclose(torch.cat(blocks), before(x, edge_index))
