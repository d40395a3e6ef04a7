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
from nh2st_graph.train import SpotBatches, cut_out


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
