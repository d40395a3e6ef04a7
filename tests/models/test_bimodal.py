"""What BLEEP and mclSTExp share, on both."""

from __future__ import annotations

import math

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch_geometric.data import Data

from nh2st_graph import ModelError
from nh2st_graph.models import BLEEP, MclSTExp
from nh2st_graph.nn import PatchEncoder, retrieval_at_k
from nh2st_graph.train import cut_out

N_GENES, SIZE, N_FEATURES = 5, 6, 4
METHODS = [BLEEP, MclSTExp]


def make_section(n_spots=14, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Data(
        x=torch.randn(n_spots, N_FEATURES, generator=generator),
        patches=torch.randint(256, (n_spots, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator),
        y=torch.randn(n_spots, N_GENES, generator=generator).abs(),
        array=torch.randint(6, (n_spots, 2), generator=generator),
        edge_index=torch.zeros(2, 0, dtype=torch.long),
        edge_attr=torch.zeros(0, 3),
        seeds=torch.arange(n_spots),
        section=f"section {seed}",
        num_nodes=n_spots,
    )


def make_encoder():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, N_FEATURES, 3), nn.ReLU(), nn.Conv2d(N_FEATURES, N_FEATURES, 4))
    return PatchEncoder(network, [0.5] * 3, [0.25] * 3, N_FEATURES, standardize=False)


def make_model(method, encoder=None, **switches):
    torch.manual_seed(1)
    small = {"width": 8, "k": 3, "dropout": 0.0}
    if method is MclSTExp:
        small |= {"heads": 2, "head_width": 3, "n_positions": 6}
    return method(method.Settings(**small | switches), N_FEATURES, N_GENES, encoder).eval()


def image(section):
    return Data(x=section.x, patches=section.patches, section=section.section, num_nodes=section.num_nodes)


@pytest.fixture(params=METHODS, ids=lambda method: method.__name__)
def method(request):
    return request.param


@torch.no_grad()
def test_the_loss_is_of_the_seeds_whatever_stands_beside_them(method):
    model, section = make_model(method), make_section()
    seeds = torch.tensor([3, 11, 0, 6, 9])
    batch = cut_out(section, seeds, model.receptive_hops)
    section.seeds = seeds
    losses, of_batch = model.losses(section), model.losses(batch)
    assert set(losses) == {"loss", *model.loss_parts}
    assert losses["loss"] is losses["contrast_spot"]
    torch.testing.assert_close(of_batch["loss"], losses["loss"])
    assert float(losses["contrast_spot_chance"]) == pytest.approx(math.log(5))
    assert float(losses["retrieval_spot"]) in {0.0, 0.2, 0.4, 0.6, 0.8, 1.0}


@torch.no_grad()
@pytest.mark.parametrize("encoder", [None, make_encoder], ids=["features", "patches"])
def test_no_gene_value_of_the_section_reaches_its_prediction(method, encoder):
    model, section = make_model(method, encoder and encoder()), make_section(seed=7)
    model.remember([make_section(seed=0), make_section(seed=1)])
    predicted = model.predict(image(section))
    assert predicted.shape == (14, N_GENES)
    assert torch.equal(model.predict(section), predicted)
    section.y = section.y + 1
    section.array = 5 - section.array
    assert torch.equal(model.predict(section), predicted)


@torch.no_grad()
def test_a_prediction_reads_the_bank_and_nothing_else_of_training(method):
    model, section = make_model(method), make_section(seed=7)
    model.remember([make_section(seed=0), make_section(seed=1)])
    loaded = make_model(method)
    loaded.load_state_dict(model.state_dict())
    loaded.memory = {name: values.clone() for name, values in model.memory.items()}
    assert torch.equal(loaded.predict(section), model.predict(section))
    loaded.memory["expression"] += 1
    torch.testing.assert_close(loaded.predict(section), model.predict(section) + 1)


@torch.no_grad()
def test_a_bank_smaller_than_k_is_averaged_whole(method):
    model = make_model(method, k=50)
    model.remember([make_section(4)])
    predicted, bank = model.predict(make_section(seed=7)), model.memory["expression"]
    assert len(bank) == 4
    assert (predicted >= bank.amin(0) - 1e-6).all()
    assert (predicted <= bank.amax(0) + 1e-6).all()


@torch.no_grad()
def test_without_a_bank_or_with_numbers_that_are_none_it_says_so(method):
    model, section = make_model(method), make_section()
    with pytest.raises(ModelError, match=rf"{method.__name__} has no spots to retrieve from; call remember"):
        model.predict(section)
    model.remember([section])
    model.image_projection.first.bias[0] = torch.nan
    with pytest.raises(ModelError, match=rf"{method.__name__}: .* not finite; lower learning_rate"):
        model.predict(section)


@torch.no_grad()
def test_embeddings_and_their_retrieval(method):
    model, section = make_model(method), make_section(30)
    embeddings = model.embeddings(section)
    torch.testing.assert_close(embeddings["image"], model.image_projection(section.x))
    torch.testing.assert_close(embeddings["gene"], model.embed_bank(section))
    assert model.alignment(section) == {"retrieval_spot": retrieval_at_k(embeddings["image"], embeddings["gene"])}
    alone = model.embeddings(image(section))
    assert set(alone) == {"image"}
    assert torch.equal(alone["image"], embeddings["image"])


@torch.no_grad()
def test_normalised_embeddings_have_length_one_in_contrast_and_bank(method):
    model, section = make_model(method, normalize=True), make_section()
    model.remember([section])
    p, q = model.embeddings(section).values()
    plain = make_model(method)
    torch.testing.assert_close(q, nn.functional.normalize(plain.embeddings(section)["gene"], dim=1))
    torch.testing.assert_close(model.memory["keys"].norm(dim=1), torch.ones(14))
    torch.testing.assert_close(model.losses(section)["loss"], plain.contrast(p, q))


@torch.no_grad()
def test_views_are_drawn_in_training_alone_and_can_be_turned_off(method):
    section = make_section()
    model, plain = make_model(method, make_encoder()), make_model(method, make_encoder(), augment=False)
    torch.manual_seed(0)
    loss = model.losses(section)["loss"]
    torch.manual_seed(0)
    section.patches = model.augmented(section.patches)
    torch.testing.assert_close(plain.losses(section)["loss"], loss)
    section = make_section()
    assert (plain.losses(section)["loss"] - loss).abs() > 1e-4
    assert torch.equal(model.embeddings(section)["image"], plain.embeddings(section)["image"])


def test_training_aligns_a_section_and_moves_all_that_it_reads(method):
    section, model = make_section(24), make_model(method, make_encoder(), augment=False, temperature=4.0).train()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = model.losses(section)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    # Soft targets have an entropy, below which the loss of BLEEP cannot fall.
    assert losses[-1] < 0.9 * losses[0]
    assert model.eval().alignment(section)["retrieval_spot"] > 0.6  # 10 of 24 by chance
    assert all(not torch.equal(before[name], weight) for name, weight in model.named_parameters())


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_an_encoder_that_was_taken_apart_has_its_names_in_timm(name):
    """As the authors of mclSTExp do: the parts of torchvision's model but the last, by number."""
    with torch.device("meta"):
        whole = torchvision.models.get_model(name)
        apart = nn.Sequential(*list(whole.children())[:-1]).state_dict()
        expected = timm.create_model(name, num_classes=0).state_dict()
    given = {f"image_encoder.model.{n}": weight for n, weight in apart.items()}
    found = MclSTExp.encoder_from_original(given | {"x_embed.weight": torch.zeros(1)})
    assert {n: w.shape for n, w in found.items()} == {n: w.shape for n, w in expected.items()}


def test_an_encoder_of_timm_keeps_its_names():
    """As in BLEEP, whose encoders are timm's."""
    with torch.device("meta"):
        expected = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    given = {f"module.image_encoder.model.{name}": weight for name, weight in expected.items()}
    found = BLEEP.encoder_from_original(given | {"module.image_projection.fc.bias": torch.zeros(1)})
    assert found.keys() == expected.keys()
