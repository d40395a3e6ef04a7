"""Large sections: predicted in pieces, held out in a sample, and cut without reading their values."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from nh2st_graph.config import ModelConfig
from nh2st_graph.models import NH2STGraph
from nh2st_graph.nn import Rows
from nh2st_graph.train import image_only, predict_section
from nh2st_graph.train._large import dense_graph, held_out_sample, part_of, scored


def section_of(side: int, patient: str, seed: int = 0) -> Data:
    """A grid of spots with eight neighbours each, with something to learn."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pos = torch.stack([x.flatten(), y.flatten()], dim=1)
    near = (pos[:, None] - pos).abs().amax(dim=2) == 1
    receiver, sender = near.nonzero().T
    features = torch.randn(side * side, 5, generator=generator)
    genes = features @ torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    return Data(
        x=features,
        y=genes + torch.randn(side * side, 7, generator=generator) / 10,
        library=torch.full((side * side, 1), 100.0),
        pos=pos.float(),
        edge_index=torch.stack([sender, receiver]),
        edge_attr=(pos[sender] - pos[receiver]).float().norm(dim=1, keepdim=True).expand(-1, 3).clone(),
        section=patient,
        patient=patient,
        num_nodes=side * side,
    )


@pytest.fixture(scope="module")
def model() -> NH2STGraph:
    torch.manual_seed(0)
    made = NH2STGraph(ModelConfig(width=8, heads=2, n_components=3), 5, 7)
    made.prepare([section_of(14, "Ada")])
    made.memory["correction"] = torch.tensor([1.0, 0.5])
    return made.eval()


@pytest.mark.parametrize("patient", ["Ada", "Eve"])
def test_pieces_predict_what_the_whole_section_does(model, patient, monkeypatch):
    monkeypatch.setattr("nh2st_graph.train._large._PIECE", 60)
    section = image_only(section_of(18, patient, seed=3))
    with torch.no_grad():
        whole = model.predict(section)
    held = copy.copy(section)
    held.x = Rows(section.x.numpy())
    for threads in (1, 3):
        found = predict_section(model, held, threads=threads, large=1)
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)
    assert torch.equal(predict_section(model, held, threads=2, large=1), found)


def test_a_sample_has_what_the_prediction_of_its_seeds_reads(model, monkeypatch):
    monkeypatch.setattr("nh2st_graph.train._large._MOST_HELD_OUT", 120)
    monkeypatch.setattr("nh2st_graph.train._large._SAMPLED", 30)
    section = section_of(20, "Eve", seed=4)
    sample = held_out_sample(section, model, large=1)
    assert 60 <= len(sample.seeds) <= 130
    with torch.no_grad():
        found, whole = scored(sample, model.predict(image_only(sample))), model.predict(image_only(section))
    place = {tuple(spot): i for i, spot in enumerate(section.pos.tolist())}
    spots = torch.tensor([place[tuple(spot)] for spot in scored(sample, sample.pos).tolist()])
    torch.testing.assert_close(found, whole[spots], rtol=1e-4, atol=1e-5)
    assert torch.equal(scored(sample, sample.y), section.y[spots])
    assert held_out_sample(section, model).num_nodes == 400


def test_a_part_takes_its_rows_and_the_edges_between_them():
    section = section_of(6, "Ada")
    held = copy.copy(section)
    held.x = Rows(section.x.numpy())
    held.spots = section.spots = [f"spot {i}" for i in range(36)]
    inside = torch.from_numpy(np.random.default_rng(0).random(36) < 0.6)
    part, expected = dense_graph(part_of(held, inside)), section.subgraph(inside)
    for key in ("x", "y", "pos", "edge_index", "edge_attr"):
        assert torch.equal(part[key], expected[key])
    assert part.spots == expected.spots
