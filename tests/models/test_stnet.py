from __future__ import annotations

import pytest
import torch
from torch import nn
from torch_geometric.data import Data

from nh2st_graph.config import Config
from nh2st_graph.im import make_encoders
from nh2st_graph.models import STNet, find_method
from nh2st_graph.models._stnet import STNetConfig, random_symmetries, symmetry
from nh2st_graph.nn import PatchEncoder

N_GENES, SIZE, WIDTH = 5, 6, 4


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_section(n_spots=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Data(
        x=drawn(n_spots, WIDTH, seed=seed),
        patches=torch.randint(256, (n_spots, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator),
        y=drawn(n_spots, N_GENES, seed=seed + 1).abs(),
        seeds=torch.arange(n_spots),
        num_nodes=n_spots,
    )


def make_encoder():
    """A small encoder to which a patch and its turned form are not the same."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 4))
    return PatchEncoder(network, [0.5] * 3, [0.25] * 3, WIDTH, standardize=False)


def make_model(encoder=None, **switches):
    torch.manual_seed(1)
    model = STNet(STNetConfig(zero_weights=False, **switches), WIDTH, N_GENES, encoder)
    return model.eval()


def original_symmetries(patch):
    """The authors' eight, of one patch ``(size, size, 3)``: reflected or not, both ways, turned or not."""
    turned = [patch, patch.transpose(0, 1).flip(0)]
    upright = [image.flip(0) if vertical else image for image in turned for vertical in (False, True)]
    return [image.flip(1) if horizontal else image for image in upright for horizontal in (False, True)]


def test_eight_different_symmetries_which_are_the_authors():
    patch = torch.arange(27).reshape(3, 3, 3)
    ours = {tuple(symmetry(patch[None], way)[0].flatten().tolist()) for way in range(8)}
    assert ours == {tuple(image.flatten().tolist()) for image in original_symmetries(patch)}
    assert len(ours) == 8
    assert torch.equal(symmetry(patch[None], 0)[0], patch)


def test_random_symmetries_are_drawn_for_each_patch_alike_and_follow_the_seed():
    patch = torch.arange(27, dtype=torch.uint8).reshape(1, 3, 3, 3)
    torch.manual_seed(0)
    given = random_symmetries(patch.expand(4000, -1, -1, -1))
    ways = torch.stack([(given == symmetry(patch, way)).flatten(1).all(dim=1) for way in range(8)])
    assert (ways.sum(dim=0) == 1).all()
    assert (ways.float().mean(dim=1) - 1 / 8).abs().max() < 0.03
    torch.manual_seed(0)
    assert torch.equal(random_symmetries(patch.expand(4000, -1, -1, -1)), given)


@torch.no_grad()
def test_prediction_is_the_mean_over_the_eight_and_blind_to_how_a_patch_lies():
    section, model = make_section(), make_model(make_encoder())
    each = [
        torch.stack([model.head(model.patch_encoder(image[None])[0]) for image in original_symmetries(patch)]).mean(0)
        for patch in section.patches
    ]
    predicted = model.predict(section)
    torch.testing.assert_close(predicted, torch.stack(each), rtol=1e-5, atol=1e-5)
    for way in range(8):
        turned = Data(patches=symmetry(section.patches, way))
        torch.testing.assert_close(model.predict(turned), predicted, rtol=1e-5, atol=1e-5)
    single = make_model(make_encoder(), average=False)
    torch.testing.assert_close(single.predict(section), single.head(single.patch_encoder(section.patches)))
    assert (single.predict(section) - predicted).abs().max() > 1e-3


@torch.no_grad()
def test_with_given_features_it_is_the_linear_regression_alone():
    section, model = make_section(), make_model()
    expected = section.x @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model.predict(section), expected)
    section.seeds = torch.tensor([4, 1])
    error = (expected[[4, 1]] - section.y[[4, 1]]).square().mean()
    torch.testing.assert_close(model.losses(section)["regression"], error)


def test_before_training_the_training_mean_is_predicted_and_only_the_regression_learns():
    sections = [make_section(seed=0), make_section(n_spots=3, seed=5)]
    model = STNet(STNetConfig(), WIDTH, N_GENES, make_encoder())
    model.prepare(sections)
    mean = torch.cat([section.y for section in sections]).mean(dim=0)
    torch.testing.assert_close(model.predict(sections[0]).detach(), mean.expand(7, -1))
    losses = model.losses(sections[0])
    assert set(losses) == {"loss", *model.loss_parts}
    losses["loss"].backward()
    assert losses["loss"] is losses["regression"]
    assert model.head.weight.grad.abs().max() > 0
    assert all((weight.grad == 0).all() for weight in model.patch_encoder.parameters())


@torch.no_grad()
def test_augmentation_is_in_training_alone_and_can_be_turned_off():
    section, model = make_section(), make_model(make_encoder())
    plain = make_model(make_encoder(), augment=False)
    assert float(plain.losses(section)["loss"]) == float(plain.losses(section)["loss"])
    torch.manual_seed(0)
    seen = random_symmetries(section.patches)
    torch.manual_seed(0)
    error = (model.head(model.patch_encoder(seen)) - section.y).square().mean()
    torch.testing.assert_close(model.losses(section)["loss"], error)
    assert torch.equal(model.predict(section), model.predict(section))


def test_training_moves_the_encoder_and_lowers_the_error():
    section, model = make_section(), make_model(make_encoder(), augment=False).train()
    before = [weight.detach().clone() for weight in model.patch_encoder.parameters()]
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    errors = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = model.losses(section)["loss"]
        loss.backward()
        optimiser.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.5 * errors[0]
    assert all(not torch.equal(old, new) for old, new in zip(before, model.patch_encoder.parameters(), strict=True))


@pytest.mark.parametrize("encoder", [None, make_encoder], ids=["features", "patches"])
@torch.no_grad()
def test_no_gene_value_reaches_the_prediction(encoder):
    section, model = make_section(), make_model(encoder and encoder())
    predicted = model.predict(section)
    section.y = section.y + drawn(*section.y.shape, seed=9)
    assert torch.equal(model.predict(section), predicted)
    del section.y
    assert torch.equal(model.predict(section), predicted)


@torch.no_grad()
def test_the_published_network():
    """DenseNet-121 of timm with the published settings: 1024 features, and every weight trained."""
    values = {"model": {"name": "stnet"}, "features": {"encoder": "timm:densenet121@random", "finetune": True}}
    config = Config.parse(values)
    assert config.model == STNetConfig()
    (densenet,) = make_encoders(config.features.encoder, "cpu")
    encoder = PatchEncoder(densenet.network, [0.5] * 3, [0.25] * 3, densenet.n_features, standardize=False)
    model = find_method("stnet")(config.model, densenet.n_features, N_GENES, encoder)
    assert isinstance(model, STNet)
    assert model.receptive_hops == 0
    assert all(weight.requires_grad for weight in model.parameters())
    n_published = 6_953_856 + 1024 * N_GENES + N_GENES  # DenseNet-121 without its classifier, and the regression
    assert sum(weight.numel() for weight in model.parameters()) == n_published
    patches = torch.randint(256, (1, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert model.predict(Data(patches=patches)).shape == (1, N_GENES)
