from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.utils import k_hop_subgraph, to_dense_adj

from nh2st_graph import ModelError
from nh2st_graph.config import Config
from nh2st_graph.models import STGCHB
from nh2st_graph.nn import PatchEncoder, hsic, info_nce, normalized_hsic, retrieval_at_k

GOLDEN = Path(__file__).parent / "golden" / "stgchb.json"
N_FEATURES, N_GENES = 6, 5
SMALL = {"width": 8, "width_projection": 4, "k": 3}


# Weights and inputs are drawn as they were for golden/stgchb.json: weights in the order of their names here.


def draw_weights(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.4)
    model.gene_mean.fill_(0.5)
    return model.eval()


def draw_section(n_spots=14, seed=2):
    """A section in which each spot has edges from three, not all with a reverse, and no two spots from the same."""
    generator = torch.Generator().manual_seed(seed)
    senders = (torch.arange(n_spots)[:, None] + torch.tensor([1, 2, 5])) % n_spots
    return Data(
        x=6 * torch.randn(n_spots, N_FEATURES, generator=generator),
        y=6 * torch.rand(n_spots, N_GENES, generator=generator),
        edge_index=torch.stack([senders.flatten(), torch.arange(n_spots).repeat_interleave(3)]),
        seeds=torch.tensor([3, 0, 11, 7, 8]),
        num_nodes=n_spots,
    )


def small_model(seed=1, **switches):
    return draw_weights(STGCHB(STGCHB.Settings(**SMALL | switches), N_FEATURES, N_GENES), seed)


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@torch.no_grad()
def test_gives_the_authors_numbers(golden):
    model, section = small_model(), draw_section()
    for name, letter in {"image": "p", "gene": "q"}.items():
        found = model.embeddings(section)[name]
        torch.testing.assert_close(found, torch.tensor(golden[letter]), rtol=1e-5, atol=1e-5)
    torch.manual_seed(4)
    losses = model.losses(section)
    assert set(losses) == {"loss", *model.loss_parts}
    for name in ("contrast_spot", "bottleneck", "contrast_neighbourhood"):
        assert float(losses[name]) == pytest.approx(golden[name], rel=1e-5), name


@pytest.mark.parametrize(("retrieval", "name"), [("average", "average"), ("weighted_inverse", "weighted")])
@torch.no_grad()
def test_predictions_are_the_authors(golden, retrieval, name):
    model = small_model(retrieval=retrieval)
    model.remember([draw_section(seed=5), draw_section(9, seed=6)])
    torch.testing.assert_close(model.predict(draw_section()), torch.tensor(golden[name]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
@torch.no_grad()
def test_embeddings_equal_their_dense_form(normalize):
    model, section = small_model(normalize_edges=normalize).double(), draw_section()
    adjacency = to_dense_adj(section.edge_index).squeeze(0).T.double() + torch.eye(14)
    if normalize:
        scale = adjacency.sum(dim=1).rsqrt()
        adjacency = scale[:, None] * adjacency * scale
    genes = section.y.double() - 0.5
    for module, x, found in (
        (model.image, section.x.double(), model.image(section.x.double(), section.edge_index)),
        (model.gene, genes, model._gene_embedding(Data(y=section.y.double(), edge_index=section.edge_index))),
    ):
        convolution, slope = module.encoder.convolution, module.encoder.activation.weight
        h = F.prelu(adjacency @ x @ convolution.lin.weight.T + convolution.bias, slope)
        head = module.projection
        u = h @ head.first.weight.T + head.first.bias
        z = u + F.gelu(u) @ head.second.weight.T + head.second.bias
        torch.testing.assert_close(found, F.layer_norm(z, (4,), head.norm.weight, head.norm.bias))


@torch.no_grad()
def test_graphs_are_contrasted_with_exchanged_spots_or_between_two_views():
    model, section = small_model(), draw_section()
    section.x = section.x / 6
    h = model.image.encoder(section.x, section.edge_index)
    torch.manual_seed(0)
    found = model.image.contrast(section.x, h, section.edge_index)
    torch.manual_seed(0)
    exchanged = model.image.encoder(section.x[torch.randperm(14)], section.edge_index)
    form, bias = model.image.discriminator.weight[0], model.image.discriminator.bias
    summary = h.mean(dim=0).sigmoid()
    real, false = ((embedding @ form @ summary + bias).sigmoid() for embedding in (h, exchanged))
    torch.testing.assert_close(found, -(real.log().mean() + (1 - false).log().mean()) / 2)

    whole, lacking = small_model(views="augmented", drop=0.0), small_model(views="augmented", drop=0.5)
    h = whole.image.encoder(section.x, section.edge_index)
    same = info_nce(h, h, 0.5)
    torch.testing.assert_close(whole.image.contrast(section.x, h, section.edge_index), same)
    assert float(lacking.image.contrast(section.x, h, section.edge_index)) > 1.2 * float(same)
    chances = [m.losses(section)["contrast_neighbourhood_chance"] for m in (model, whole)]
    assert [float(chance) for chance in chances] == pytest.approx([math.log(2), math.log(14)])


@torch.no_grad()
def test_alignment_costs_its_chance_level_where_nothing_is_known():
    section = draw_section()
    nothing = torch.zeros(5, 4)
    assert float(small_model()._align(nothing, nothing)) == pytest.approx(math.log(5))
    assert float(small_model().losses(section)["contrast_spot_chance"]) == pytest.approx(math.log(5))
    pairs = small_model(alignment="pairs", temperature=0.2)
    of_all = pairs.embeddings(section)
    p, q = of_all["image"][section.seeds], of_all["gene"][section.seeds]
    losses = pairs.losses(section)
    torch.testing.assert_close(losses["contrast_spot"], info_nce(p, q, 0.2))
    assert float(losses["retrieval_spot"]) == retrieval_at_k(p, q)


@pytest.mark.parametrize("sigma", [10.0, None])
@torch.no_grad()
def test_normalised_bottleneck(sigma):
    model, section = small_model(normalize_hsic=True, sigma=sigma, beta=3.0), draw_section()
    expected = torch.zeros(())
    for module, x in ((model.image, section.x), (model.gene, section.y - 0.5)):
        h = module.encoder(x, section.edge_index)
        x, h, z = x[section.seeds], h[section.seeds], module.projection(h)[section.seeds]
        norms = [hsic(each, each, sigma).sqrt() for each in (x, h, z)]
        dependence = hsic(x, h, sigma) / (norms[0] * norms[1])
        expected = expected + dependence - 3 * hsic(z, h, sigma) / (norms[1] * norms[2])
        assert float(dependence) == pytest.approx(float(normalized_hsic(x, h, sigma)), rel=1e-4)
    torch.testing.assert_close(model.losses(section)["bottleneck"], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_losses_are_weighed_and_can_be_left_out():
    section, model = draw_section(), small_model(weight_graph=0.3, weight_bottleneck=2.0)
    losses = model.losses(section)
    total = losses["contrast_spot"] + 2 * losses["bottleneck"] + 0.3 * losses["contrast_neighbourhood"]
    torch.testing.assert_close(losses["loss"], total)
    alone = small_model(weight_graph=0, weight_bottleneck=0)
    assert set(alone.losses(section)) == {"loss", "contrast_spot", "contrast_spot_chance", "retrieval_spot"}
    assert not any("discriminator" in name for name in alone.state_dict())
    assert small_model().receptive_hops is None


@pytest.mark.parametrize("normalize", [False, True])
@torch.no_grad()
def test_a_cut_out_as_wide_as_told_gives_the_losses_of_the_section(normalize):
    section, model = draw_section(30), small_model(weight_graph=0, normalize_edges=normalize)
    index, edges, place, _ = k_hop_subgraph(section.seeds, model.receptive_hops, section.edge_index, True, 30)
    part = Data(x=section.x[index], y=section.y[index], edge_index=edges, seeds=place)
    assert len(index) < 30
    whole = model.losses(section)
    for name, loss in model.losses(part).items():
        torch.testing.assert_close(loss, whole[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@torch.no_grad()
def test_predictions_average_the_training_spots_that_are_found(similarity):
    bank, section = [draw_section(seed=5), draw_section(9, seed=6)], draw_section()
    keys = torch.cat([small_model()._gene_embedding(part) for part in bank])
    values = torch.cat([part.y for part in bank])
    p = small_model().embeddings(section)["image"]
    alike = F.normalize(p, dim=1) @ F.normalize(keys, dim=1).T if similarity == "cosine" else p @ keys.T
    nearest = alike.argsort(dim=1, descending=True)[:, :3]
    weights = {
        "simple": torch.tensor([1.0, 0, 0]).expand(14, 3),
        "average": torch.full((14, 3), 1 / 3),
        "weighted": ((p @ keys.T).gather(1, nearest) / 20).softmax(dim=1),
        "weighted_inverse": ((p @ keys.T).gather(1, nearest) / -20).softmax(dim=1),
    }
    for how, weight in weights.items():
        model = small_model(retrieval=how, similarity=similarity)
        model.remember(bank)
        torch.testing.assert_close(model.predict(section), (weight[..., None] * values[nearest]).sum(dim=1))


@torch.no_grad()
def test_no_gene_value_reaches_the_prediction_and_memory_is_all_it_needs():
    section, model = draw_section(), small_model()
    model.remember([draw_section(seed=5)])
    predicted = model.predict(section)
    section.y = section.y.flip(0) + 1
    assert torch.equal(model.predict(section), predicted)
    del section.y
    assert torch.equal(model.predict(section), predicted)
    assert set(model.embeddings(section)) == {"image"}
    with pytest.raises(ModelError, match="call remember"):
        small_model().predict(section)
    loaded = STGCHB(model.config, N_FEATURES, N_GENES).eval()
    loaded.load_state_dict(model.state_dict())
    loaded.memory = model.memory
    assert torch.equal(loaded.predict(section), predicted)


def test_genes_are_centred_by_the_training_mean():
    sections = [draw_section(seed=5), draw_section(9, seed=6)]
    model = small_model()
    model.prepare(sections)
    torch.testing.assert_close(model.gene_mean, torch.cat([section.y for section in sections]).mean(dim=0))


@pytest.mark.parametrize("views", ["corrupted", "augmented"])
def test_training_aligns_the_modalities_and_moves_every_weight(views):
    section = draw_section(40)
    section.x = 6 * (section.y - 3) @ torch.randn(N_GENES, N_FEATURES, generator=torch.Generator().manual_seed(9))
    section.seeds = torch.arange(40)
    torch.manual_seed(0)
    model = STGCHB(STGCHB.Settings(**SMALL, views=views, dropout=0.0, sigma=None), N_FEATURES, N_GENES).train()
    model.prepare([section])
    before, start = model.alignment(section), {name: w.detach().clone() for name, w in model.named_parameters()}
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        model.losses(section)["loss"].backward()
        optimiser.step()
    assert model.alignment(section)["retrieval_spot"] > before["retrieval_spot"] + 0.3
    assert all(not torch.equal(weight, start[name]) for name, weight in model.named_parameters())


def test_a_patch_encoder_learns_with_it():
    encoder = PatchEncoder(nn.Sequential(nn.Flatten(), nn.Linear(48, N_FEATURES)), [0.5] * 3, [0.2] * 3, N_FEATURES)
    model = STGCHB(STGCHB.Settings(**SMALL), N_FEATURES, N_GENES, encoder)
    section = draw_section()
    generator = torch.Generator().manual_seed(0)
    section.patches = torch.randint(256, (14, 4, 4, 3), dtype=torch.uint8, generator=generator)
    model.losses(section)["loss"].backward()
    assert all(weight.grad.abs().max() > 0 for weight in encoder.parameters())


def test_published_settings():
    config = Config.parse({"model": {"name": "stgchb"}}).model
    assert (config.width, config.width_projection, config.dropout) == (256, 128, 0.4)
    assert (config.beta, config.sigma, config.temperature, config.k) == (25, 10, 1, 50)
    with torch.device("meta"):
        model = STGCHB(config, 1000, 813)
    # Graph convolution, PReLU, bilinear form and projection head of each modality.
    shared = 256 + 1 + (256 * 256 + 1) + (256 * 128 + 128) + (128 * 128 + 128) + 2 * 128
    assert sum(weight.numel() for weight in model.parameters()) == 2 * shared + (1000 + 813) * 256
