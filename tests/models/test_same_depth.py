"""Negatives of the same depth: who they are, and what the model does with them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from nh2st_graph import ModelError
from nh2st_graph.models import EMBEDDINGS
from nh2st_graph.models._same_depth import find_same_depth
from nh2st_graph.train import cut_out

SIZES = (20, 15, 9)


@pytest.fixture
def sections(section_of):
    """Three sections of other depths."""
    found = [section_of(n, k=2, seed=seed) for seed, n in enumerate(SIZES)]
    for seed, section in enumerate(found):
        section.library *= 1 + seed * torch.rand(len(section.y), 1, generator=torch.Generator().manual_seed(seed))
    return found


@pytest.fixture
def at_depth(model_of, sections):
    """A model with negatives of the same depth, and the graphs that it trains on."""

    def make(**switches):
        model = model_of(negatives="depth", closed_form=False, **switches)
        graphs = model.training_graphs(sections)
        if model.compared:
            hops = model.receptive_hops
            model.compare_with([cut_out(each, s, hops) for each, s in zip(graphs, model.compared, strict=True)])
        return model, graphs

    return make


def log_ratio(a, b):
    return abs(math.log1p(float(a)) - math.log1p(float(b)))


@pytest.mark.parametrize("most", [99, 7])
def test_they_are_spots_of_other_sections_with_the_nearest_depth(sections, most):
    spots, negatives = find_same_depth(sections, 4, most)
    assert [len(each) for each in spots] == [min(n, most) for n in SIZES]
    bank = [(number, spot) for number, some in enumerate(spots) for spot in some.tolist()]
    for number, (section, rows) in enumerate(zip(sections, negatives, strict=True)):
        assert rows.shape == (len(section.y), 4)
        others = [place for place in bank if place[0] != number]
        for own, row in zip(section.library[:, 0], rows.tolist(), strict=True):
            assert all(bank[j][0] != number for j in row)
            distances = sorted(log_ratio(own, sections[n].library[spot, 0]) for n, spot in others)
            found = sorted(log_ratio(own, sections[bank[j][0]].library[bank[j][1], 0]) for j in row)
            assert found == pytest.approx(distances[:4])


def test_of_many_spots_some_of_every_depth_are_chosen_from(sections):
    depth = sections[0].library[:, 0]
    chosen = depth[find_same_depth(sections, 4, 7)[0][0]]
    assert chosen.min() == depth.min()
    assert chosen.max() == depth.max()


def test_a_single_section_has_its_own_distant_spots_and_says_so(sections, caplog):
    section = sections[0]
    section.section = "C3"
    (spots,), (negatives,) = find_same_depth([section], 4)
    assert "'C3'" in caplog.text
    near = {(i, j) for i, j in section.edge_index.T.tolist()}
    for i, row in enumerate(spots[negatives].tolist()):
        assert len(row) == 4
        assert all(j != i and (i, j) not in near and (j, i) not in near for j in row)


def test_seeds_are_told_from_the_negatives_of_their_depth_alone(at_depth):
    """The loss is that of each seed against the embeddings of its negatives, one at a time."""
    model, graphs = at_depth(weight_cross=0.0)
    whole = [model.contrast.projected(model._section_pairs(graph)[0]) for graph in graphs]
    bank = {name: torch.cat([each[name] for each in whole]) for name in whole[0]}
    graph = copy.copy(graphs[1])
    graph.seeds = torch.tensor([3, 0, 11])
    losses = model.losses(graph)
    for scale, (image, gene) in EMBEDDINGS.items():
        costs = []
        for a, b in ((image, gene), (gene, image)):
            for i in graph.seeds:
                own = F.cosine_similarity(whole[1][a][i], whole[1][b][i], dim=0) / model.config.temperature
                others = [bank[b][j] for j in graph.same_depth[i]]
                cosines = F.cosine_similarity(whole[1][a][i], torch.stack(others)) / model.config.temperature
                costs.append(torch.cat([own[None], cosines]).logsumexp(dim=0) - own)
        torch.testing.assert_close(losses[f"contrast_{scale}"], torch.stack(costs).mean())
        assert float(losses[f"contrast_{scale}_chance"]) == pytest.approx(math.log(graph.same_depth.shape[1] + 1))


@pytest.mark.parametrize("contrast_on", ["independent", "attended"])
def test_a_cut_out_has_the_losses_of_the_whole_section(at_depth, contrast_on):
    model, graphs = at_depth(contrast_on=contrast_on)
    assert model.receptive_hops is not None
    whole = copy.copy(graphs[0])
    whole.seeds = seeds = torch.tensor([7, 2])
    cut = model.losses(cut_out(graphs[0], seeds, model.receptive_hops))
    for name, loss in model.losses(whole).items():
        torch.testing.assert_close(cut[name], loss)


def test_negatives_learn_too(at_depth):
    """Otherwise all embeddings could drift away from them together, and the loss fall without learning."""
    model, graphs = at_depth()
    parts = [copy.copy(part) for part in model._others]
    for part in parts:
        part.x = part.x.clone().requires_grad_()
    model.compare_with(parts)
    model.losses(graphs[0])["loss"].backward()
    assert not parts[0].x.grad.any(), "negatives are of other sections"
    assert all(part.x.grad.any() for part in parts[1:])


def test_no_prediction_depends_on_the_genes_of_other_sections(at_depth, sections):
    model, graphs = at_depth()
    before = model(sections[0].x, sections[0].edge_index).expression
    loss = model.losses(graphs[0])["contrast_spot"]
    parts = [copy.copy(part) for part in model._others]
    for part in parts:
        part.scores = 2 - part.scores
    model.compare_with(parts)
    assert model.losses(graphs[0])["contrast_spot"] != loss
    assert torch.equal(model(sections[0].x, sections[0].edge_index).expression, before)


def test_without_a_contrast_nothing_is_compared(at_depth):
    model, graphs = at_depth(contrast="none")
    assert not model.compared
    assert "same_depth" not in graphs[0]
    model.losses(graphs[0])


def test_losses_without_the_other_sections_say_what_to_call(model_of, sections):
    model = model_of(negatives="depth", closed_form=False)
    with pytest.raises(ModelError, match="compare_with"):
        model.losses(model.training_graphs(sections)[0])
