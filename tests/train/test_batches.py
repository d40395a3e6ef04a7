"""Training batches: every spot once an epoch, and surroundings wide enough for exact losses."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Data

from nh2st_graph.config import ModelConfig
from nh2st_graph.models import NH2STGraph
from nh2st_graph.train import SpotBatches, as_view, cut_out


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
