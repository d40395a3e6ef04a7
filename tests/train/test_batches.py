"""Training batches: every spot once an epoch, and surroundings wide enough for exact losses."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from torch_geometric.data import Data

from nh2st_graph.config import ModelConfig
from nh2st_graph.models import NH2STGraph
from nh2st_graph.nn import Rows
from nh2st_graph.train import SpotBatches, Surroundings, as_view, cut_out


def random_graph(n_spots: int, n_edges: int, seed: int = 0, section: str = "S") -> Data:
    """A directed graph without self-loops, with all that a training batch carries."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(n_spots, (2, n_edges), generator=generator)
    edges = edges[:, edges[0] != edges[1]].unique(dim=1)
    return Data(
        x=torch.randn(n_spots, 5, generator=generator),
        y=torch.rand(n_spots, 7, generator=generator),
        counts=torch.randint(9, (n_spots, 7), generator=generator).float(),
        library=100 * (seed + 1) + torch.randperm(n_spots, generator=generator).float()[:, None],  # no two alike
        edge_index=edges,
        edge_attr=torch.rand(edges.shape[1], 3, generator=generator),
        section=section,
        num_nodes=n_spots,
    )


def with_views(section: Data, n_views: int) -> Data:
    """The section with views of which each spot and number can be told."""
    section = section.clone()
    section.x_views = torch.stack([section.x + 1000 * (k + 1) for k in range(n_views)], dim=1)
    return section


def views_of(batches: SpotBatches) -> dict[str, set[int]]:
    """The views of each section that an epoch shows; 0 is the section as it is."""
    shown: dict[str, set[int]] = {}
    for batch in batches:
        assert "x_views" not in batch
        shown.setdefault(batch.section, set()).update(((batch.x + 500) // 1000).int().flatten().tolist())
    return shown


def seeds_of(batch: Data) -> list[float]:
    """What identifies the wanted spots of a batch: their library size."""
    return batch.library[batch.seeds, 0].tolist()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 20), st.integers(0, 5))
def test_every_spot_is_wanted_once_an_epoch_in_equal_batches_of_one_section(sizes, batch_spots, epoch):
    sections = [random_graph(n, 3 * n, seed=i) for i, n in enumerate(sizes)]
    batches = SpotBatches(sections, batch_spots, hops=1, seed=3, epoch=epoch)
    found = list(batches)
    assert len(found) == len(batches)
    wanted = Counter(spot for batch in found for spot in seeds_of(batch))
    assert wanted == Counter(spot for section in sections for spot in section.library[:, 0].tolist())
    lengths = [len(batch.seeds) for batch in found]
    assert max(lengths) <= batch_spots
    for section in sections:
        own = set(section.library[:, 0].tolist())
        of_it = [len(batch.seeds) for batch in found if own & set(seeds_of(batch))]
        assert max(of_it) - min(of_it) <= 1
        assert all(set(b.library[:, 0].tolist()) <= own for b in found if own & set(seeds_of(b))), "one section each"


def test_the_order_follows_from_seed_and_epoch_alone():
    sections = [random_graph(30, 90)]

    def order(seed: int, epoch: int) -> list[list[float]]:
        torch.manual_seed(torch.randint(1000, ()).item())  # the global generator has no say
        return [seeds_of(batch) for batch in SpotBatches(sections, 8, 1, seed, epoch)]

    assert order(1, 4) == order(1, 4)
    assert order(1, 4) != order(1, 5)
    assert order(1, 4) != order(2, 4)


def test_a_cut_out_holds_everything_upstream_and_nothing_else():
    # 0 -> 1 -> 2 -> 3, and 4 -> 0; 3 reads from 2, which reads from 1.
    section = random_graph(5, 0)
    section.edge_index = torch.tensor([[0, 1, 2, 4], [1, 2, 3, 0]])
    section.edge_attr = torch.arange(12.0).view(4, 3)
    for hops, upstream in ((0, [3]), (1, [2, 3]), (2, [1, 2, 3]), (3, [0, 1, 2, 3]), (4, [0, 1, 2, 3, 4])):
        cut = cut_out(section, torch.tensor([3]), hops)
        assert sorted(cut.library[:, 0].tolist()) == sorted(section.library[upstream, 0].tolist())
        assert seeds_of(cut) == section.library[[3], 0].tolist()
        assert cut.num_edges == len([e for e in section.edge_index.T.tolist() if set(e) <= set(upstream)])


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("cross", ["none", "neighbourhood"])
@pytest.mark.parametrize("regression", ["mse", "nb"])
def test_losses_on_a_cut_out_are_those_of_the_spots_in_the_whole_section(hops, cross, regression):
    section = random_graph(40, 100)
    config = ModelConfig(width=8, n_components=4, heads=2, hops=hops, cross_attention=cross, regression=regression)
    torch.manual_seed(0)
    model = NH2STGraph(config, 5, 7).eval()
    model.set_targets(section.y)
    for weight in model.parameters():  # what starts at zero would hide a difference
        torch.nn.init.normal_(weight, std=0.3)
    seeds = torch.tensor([7, 31, 2])
    whole = section.clone()
    whole.seeds = seeds
    on_cut = model.losses(cut_out(section, seeds, model.receptive_hops))
    for name, value in model.losses(whole).items():
        torch.testing.assert_close(on_cut[name], value, msg=lambda text, name=name: f"{name}: {text}")
    assert not torch.isclose(model.losses(cut_out(section, seeds, 0))["loss"], on_cut["loss"])


@pytest.mark.parametrize("hops", [1, None])
def test_an_epoch_shows_one_view_of_each_section_all_with_equal_chance(hops):
    sections = [with_views(random_graph(12, 20, seed=i, section=f"S{i}"), 2) for i in range(3)]
    sections.append(random_graph(12, 20, seed=3, section="plain"))
    counts: Counter[tuple[int, ...]] = Counter()
    for epoch in range(100):
        shown = views_of(SpotBatches(sections, 5, hops, seed=1, epoch=epoch))
        assert len(shown) == 4
        assert all(len(views) == 1 for views in shown.values())
        assert shown.pop("plain") == {0}
        counts[tuple(next(iter(shown[each])) for each in sorted(shown))] += 1
    assert len(counts) > 20, "sections are drawn one by one"
    each = Counter(view for views, n in counts.items() for view in views for _ in range(n))
    assert all(75 < each[view] < 125 for view in range(3))
    assert "x_views" in sections[0], "the training graphs stay"


def test_views_follow_from_seed_and_epoch_alone():
    sections = [with_views(random_graph(20, 30, seed=i, section=f"S{i}"), 5) for i in range(4)]

    def seen(seed: int, epoch: int) -> list[torch.Tensor]:
        return [batch.x for batch in SpotBatches(sections, 8, 1, seed, epoch)]

    assert all(torch.equal(a, b) for a, b in zip(seen(1, 4), seen(1, 4), strict=True))
    epochs = [views_of(SpotBatches(sections, 8, 1, 1, epoch)) for epoch in range(5)]
    assert any(each != epochs[0] for each in epochs)


def test_a_graph_as_a_view_and_as_it_is():
    section = with_views(random_graph(9, 20), 3)
    for view in range(3):
        shown = as_view(section, view)
        assert torch.equal(shown.x, section.x_views[:, view])
        assert shown.x.data_ptr() != section.x.data_ptr()
        assert "x_views" not in shown
        assert torch.equal(shown.y, section.y)
    own = as_view(section, None)
    assert torch.equal(own.x, section.x)
    assert "x_views" not in own
    assert section.x_views.shape == (9, 3, 5)


def test_views_are_cut_with_their_spots():
    section = with_views(random_graph(30, 60), 2)
    part = cut_out(section, torch.tensor([4, 9]), 1)
    added = torch.tensor([1000.0, 2000.0])[:, None].expand_as(part.x_views)
    torch.testing.assert_close(part.x_views - part.x[:, None], added)
    assert part.x_views.shape == (part.num_nodes, 2, 5)


# Large sections


def grid(side: int, section: str = "S") -> Data:
    """Spots of a square grid, each with its four neighbours as senders, in the order of receivers."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pos = torch.stack([x.flatten(), y.flatten()], dim=1)
    spots = torch.arange(side * side).view(side, side)
    ways = [(spots[1:], spots[:-1]), (spots[:, 1:], spots[:, :-1])]
    one, other = (torch.cat([way[i].flatten() for way in ways]) for i in range(2))
    pairs = torch.stack([torch.cat([one, other]), torch.cat([other, one])])
    receiver, sender = pairs[:, (pairs[0] * side * side + pairs[1]).argsort()]
    made = random_graph(side * side, 1, section=section)
    made.pos, made.edge_index = pos.float(), torch.stack([sender, receiver])
    made.edge_attr = torch.rand(len(sender), 3, generator=torch.Generator().manual_seed(1))
    return made


@given(st.integers(3, 12), st.integers(1, 30), st.integers(0, 3))
def test_pieces_hold_every_spot_once_in_equal_numbers(side, batch_spots, epoch):
    section = grid(side)
    batches = [piece for (piece,) in SpotBatches([section], batch_spots, 1, seed=2, epoch=epoch, large=1)]
    found = [spot for batch in batches for spot in seeds_of(batch)]
    assert Counter(found) == Counter(section.library[:, 0].tolist())
    sizes = [len(batch.seeds) for batch in batches]
    assert max(sizes) <= batch_spots
    assert max(sizes) - min(sizes) <= 1


def test_pieces_are_compact_and_others_at_each_epoch():
    section = grid(30)
    epochs = [[piece for (piece,) in SpotBatches([section], 25, 1, 0, epoch, large=1)] for epoch in (0, 2)]
    for batches in epochs:
        assert max(len(batch.x) for batch in batches) <= 25 + 4 * 11
        extents = [batch.pos[batch.seeds].std(dim=0).max() for batch in batches]
        assert sum(extents) / len(extents) < 3  # of 8.7 if spots were drawn from the whole section
    cut = [{tuple(sorted(seeds_of(batch))) for batch in batches} for batches in epochs]
    assert len(cut[0] & cut[1]) < 5


@pytest.mark.parametrize("hops", [1, 2])
def test_gradients_of_a_section_are_the_sum_over_its_pieces(hops):
    section = grid(9)
    torch.manual_seed(0)
    settings = ModelConfig(width=8, heads=2, hops=hops, dropout=0.0, closed_form=False, contrast="none")
    model = NH2STGraph(settings, 5, 7).double()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    section = section.apply(lambda value: value.double() if value.is_floating_point() else value)
    model.set_targets(section.y)

    def gradients(part: Data, weight: float) -> list[torch.Tensor]:
        losses = model.losses(part)["loss"] * weight
        return list(torch.autograd.grad(losses, list(model.parameters())))

    whole = cut_out(section, torch.arange(81), None)
    expected = gradients(whole, 1.0)
    summed = [torch.zeros_like(each) for each in expected]
    for (batch,) in SpotBatches([section], 10, model.receptive_hops, seed=3, large=1):
        for total, part in zip(summed, gradients(batch, len(batch.seeds) / 81), strict=True):
            total += part
    for found, wanted in zip(summed, expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-12)


@given(st.integers(1, 3), st.integers(0, 50))
def test_a_lean_part_has_the_edges_that_reach_its_seeds(hops, seed):
    section = random_graph(40, 90, seed)
    seeds = torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:5]
    lean = Surroundings(section).cut(seeds, hops, lean=True)
    whole = cut_out(section, seeds, hops)
    assert torch.equal(lean.x, whole.x)
    assert torch.equal(lean.seeds, whole.seeds)
    near = torch.zeros(len(lean.x), dtype=torch.bool)
    near[lean.seeds] = True
    for _ in range(hops - 1):
        near[whole.edge_index[0, near[whole.edge_index[1]]]] = True
    kept = near[whole.edge_index[1]]
    assert torch.equal(lean.edge_index, whole.edge_index[:, kept])
    assert torch.equal(lean.edge_attr, whole.edge_attr[kept])


def test_values_that_are_sparse_or_on_disk_become_dense_in_a_batch(tmp_path):
    section = grid(9)
    held = copy.copy(section)
    np.save(tmp_path / "x.npy", section.x.numpy())
    held.x, held.counts = Rows(np.load(tmp_path / "x.npy", mmap_mode="r")), Rows(sparse.csr_matrix(section.counts))
    for (batch,), (dense,) in zip(
        SpotBatches([held], 10, 1, large=1), SpotBatches([section], 10, 1, large=1), strict=True
    ):
        assert torch.equal(batch.x, dense.x)
        assert torch.equal(batch.counts, dense.counts)


def test_a_large_batch_is_several_pieces_of_equal_size():
    section = grid(75)
    batches = list(SpotBatches([section], 5000, 1, large=1))
    assert [len(batch) for batch in batches] == [1, 1]
    whole = list(SpotBatches([section], 5625, 1, large=1))
    assert [len(batch) for batch in whole] == [3]
    sizes = {len(piece.seeds) for batch in whole for piece in batch}
    assert max(sizes) <= 4096
    assert len(batches[0][0].seeds) == 2813
    assert max(sizes) - min(sizes) <= 2
    assert len(list(SpotBatches([section], "auto", 1, large=1))) == 3
    assert len(list(SpotBatches([section], "auto", 1))) == 22
