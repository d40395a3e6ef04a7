"""NH2ST from the switches of the graph form: with the same weights it gives the same numbers as the published model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from nh2st_graph.config import load_config
from nh2st_graph.models import NH2ST, NH2STGraph
from nh2st_graph.train import cut_out

CONFIG = Path(__file__).parents[2] / "configs" / "nh2st.yaml"
SMALLER = ["model.width=16", "model.heads=2", "model.n_hidden=8", "model.dropout=0.1"]
N_FEATURES, N_GENES = 5, 7
#: Of the published model's embeddings, those that have another name in the graph form.
OURS = {"image_spot": "image", "gene_spot": "gene"}


def copied(model, published):
    """Give the graph form the weights of the published one, whose gene encoder is two linear layers in a row."""
    first, second = published.gene_encoder
    with torch.no_grad():
        model.gene_encoder.weight.copy_(second.weight @ first.weight)
        model.gene_encoder.bias.copy_(second.weight @ first.bias + second.bias)
    for ours, theirs in (
        (model.image_encoder, published.image_projection),
        (model.image_neighbours, published.image_neighbours),
        (model.gene_neighbours, published.gene_neighbours),
        (model.cross_single, published.cross),
        (model.decoder.hidden, published.decoder[0]),
        (model.decoder.out, published.decoder[2]),
    ):
        if theirs is not None:
            ours.load_state_dict(theirs.state_dict())
    return model


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def case(request, section_of):
    """Both models with equal weights, and a section; how far they may be apart."""
    switches = load_config(CONFIG, SMALLER).model
    torch.manual_seed(0)
    sizes = {"width": 16, "heads": 2, "hidden": 32, "decoder_hidden": 8, "n_features": N_FEATURES}
    published = NH2ST(N_GENES, encoder=nn.Flatten(), **sizes).to(request.param).eval()
    model = NH2STGraph(switches, N_FEATURES, N_GENES).to(request.param).eval()
    section = section_of(20, k=8, seed=3, isolated=1)
    for name in ("x", "y", "edge_attr"):
        section[name] = section[name].to(request.param)
    close = {"rtol": 1e-5, "atol": 1e-6} if request.param == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    return published, copied(model, published), section, close


def patches(section):
    """Patches that are features already: what the published model's encoder passes on."""
    return section.x[:, :, None, None]


@torch.no_grad()
def test_embeddings_prediction_and_losses_agree(case):
    published, model, section, close = case
    theirs = published.on_graph(patches(section), section.y, section.edge_index)
    ours = model._attend(*model._section_pairs(section))
    for name in ("image_spot", "gene_spot", "image_neighbourhood", "gene_neighbourhood"):
        torch.testing.assert_close(ours[OURS.get(name, name)], getattr(theirs, name), **close)
    side = model(section.x, section.edge_index, section.edge_attr)
    torch.testing.assert_close(side.expression, theirs.predicted, **close)
    losses = model.losses(section)
    for name, loss in published.losses(theirs, section.y).items():
        torch.testing.assert_close(losses[name], loss, **close, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
def test_embeddings_before_cross_attention_agree(case):
    published, model, section, close = case
    published.cross = None
    theirs = published.on_graph(patches(section), section.y, section.edge_index)
    ours = model.embeddings(section)
    for name in ("image_spot", "gene_spot", "image_neighbourhood", "gene_neighbourhood"):
        torch.testing.assert_close(ours[OURS.get(name, name)], getattr(theirs, name), **close)


def test_gradients_agree(case):
    """For one step of training on the same loss; dropout aside."""
    published, model, section, _ = case
    published.losses(published.on_graph(patches(section), section.y, section.edge_index), section.y)["loss"].backward()
    model.losses(section)["loss"].backward()
    for ours, theirs in (
        (model.image_encoder, published.image_projection),
        (model.image_neighbours, published.image_neighbours),
        (model.gene_neighbours, published.gene_neighbours),
        (model.decoder.hidden, published.decoder[0]),
        (model.decoder.out, published.decoder[2]),
    ):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_a_batch_of_spots_agrees_with_the_published_batch(case):
    """Losses on some spots, their surroundings cut out: the published training batch, region by region."""
    published, model, section, close = case
    seeds = torch.tensor([2, 11, 5, 19])
    theirs = published.on_graph(patches(section), section.y, section.edge_index)
    batch = type(theirs)(*[output[seeds] for output in theirs])
    losses = model.losses(cut_out(section, seeds, model.receptive_hops))
    for name, loss in published.losses(batch, section.y[seeds]).items():
        torch.testing.assert_close(losses[name], loss, **close, msg=lambda text, name=name: f"{name}: {text}")


def test_sizes_and_weights_are_those_that_are_published():
    """Every weight of the published model has its place, the full size included."""
    config = load_config(CONFIG)
    assert (config.model.width, config.model.heads, config.model.n_hidden) == (512, 8, 256)
    assert (config.graph.mode, config.graph.n_neighs) == ("knn", 8)
    with torch.device("meta"):
        published = NH2ST(250, encoder=nn.Flatten())
        model = NH2STGraph(config.model, 25088, 250)
        first, second = published.gene_encoder
    n_theirs = sum(weight.numel() for weight in published.parameters())
    n_first = sum(weight.numel() for weight in first.parameters())
    n_second = sum(weight.numel() for weight in second.parameters())
    n_joined = 250 * 512 + 512
    assert sum(weight.numel() for weight in model.parameters()) == n_theirs - n_first - n_second + n_joined
