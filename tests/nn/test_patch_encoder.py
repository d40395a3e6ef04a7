"""The trainable patch encoder: at the start what the plain one gives, and then what the losses ask of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from nh2st_graph.im import TimmEncoder
from nh2st_graph.nn import PatchEncoder

#: Patches that are encoded at a time.
AT_ONCE = 64
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def drawn_patches(n, size=8, seed=0):
    return torch.randint(256, (n, size, size, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def network():
    """A small convolutional model with batch normalisation whose statistics are not those of any batch."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2)
    return model


@pytest.fixture
def encoder():
    return PatchEncoder(network(), MEAN, STD, 4)


def plainly(model, patches):
    """Patches one by one, normalised by hand."""
    images = patches.double().permute(0, 3, 1, 2) / 255
    for channel in range(3):
        images[:, channel] = (images[:, channel] - MEAN[channel]) / STD[channel]
    return torch.cat([model(image[None].float()) for image in images])


@torch.no_grad()
@pytest.mark.parametrize("n_spots", [1, 7, 2 * AT_ONCE + 3])
def test_a_new_one_gives_the_features_of_its_model_whatever_the_chunks(encoder, n_spots):
    patches = drawn_patches(n_spots)
    assert encoder.eval()(patches).shape == (n_spots, 4)
    torch.testing.assert_close(encoder(patches), plainly(network().eval(), patches))


def test_equals_the_plain_encoder_once_it_is_scaled():
    plain = TimmEncoder("test_resnet@random", "cpu")
    patches = drawn_patches(6, size=160)
    features = plain.encode(patches.numpy())
    mean, std = features.mean(axis=0), features.std(axis=0)
    varies = std > 1e-6
    pixels = plain.normalisation
    encoder = PatchEncoder(plain.network, pixels["mean"], pixels["std"], plain.n_features).eval()
    encoder.set_scale(torch.from_numpy(features))
    with torch.no_grad():
        found = encoder(patches).numpy()
    expected = (features - mean) / std.clip(1e-6)
    assert varies.sum() > 10
    np.testing.assert_allclose(found[:, varies], expected[:, varies], rtol=1e-3, atol=1e-3)


def test_the_scale_is_that_of_the_training_features_and_stays(encoder):
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 9, 0.1, 3]) + 5
    raw = encoder.eval()(drawn_patches(5)).detach()
    encoder.set_scale(features)
    expected = (raw - features.mean(dim=0)) / features.std(dim=0, correction=0)
    torch.testing.assert_close(encoder(drawn_patches(5)).detach(), expected)
    assert {"feature_mean", "feature_std", "pixel_mean", "pixel_std"} <= set(encoder.state_dict())


@pytest.mark.parametrize("constant", [0.0, 0.1, -333.3])
def test_a_constant_feature_keeps_its_scale(encoder, constant):
    """Networks round: the last digit leaves a deviation, by whose inverse nothing may be multiplied."""
    features = torch.randn(100, 4, generator=torch.Generator().manual_seed(1))
    features[:, 2] = constant
    features[::3, 2] = features[::3, 2].nextafter(torch.tensor(torch.inf))
    encoder.set_scale(features)
    assert encoder.feature_std[2] == 1
    torch.testing.assert_close(encoder.feature_mean[2], torch.tensor(constant))


def test_features_can_be_read_as_they_come():
    encoder = PatchEncoder(network(), MEAN, STD, 4, standardize=False).eval()
    raw = encoder(drawn_patches(5)).detach()
    encoder.set_scale(torch.randn(9, 4) + 5)
    assert torch.equal(encoder(drawn_patches(5)).detach(), raw)


@pytest.mark.parametrize("room", [1e12, 0], ids=["kept", "recomputed"])
def test_gradients_are_those_of_one_pass_without_chunks(encoder, room, monkeypatch):
    monkeypatch.setattr("nh2st_graph.nn._patch_encoder._room", lambda device: room)
    patches = drawn_patches(AT_ONCE + 5)
    wanted = torch.randn(len(patches), 4)
    (encoder.eval()(patches) * wanted).sum().backward()
    model = network().eval()
    (plainly(model, patches) * wanted).sum().backward()
    for (name, weight), direct in zip(encoder.model.named_parameters(), model.parameters(), strict=True):
        assert weight.grad.count_nonzero() > 0, name
        torch.testing.assert_close(weight.grad, direct.grad, rtol=1e-4, atol=1e-4)


def test_activations_are_kept_as_far_as_memory_is_free(encoder, monkeypatch):
    passes, saved, gradients = [], [], []
    patches = drawn_patches(5 * AT_ONCE)
    images = patches[:AT_ONCE].permute(0, 3, 1, 2) / 255
    with torch.autograd.graph.saved_tensors_hooks(lambda each: saved.append(each) or each, lambda each: each):
        encoder.model(images)
    storages = [each.untyped_storage() for each in saved if not isinstance(each, nn.Parameter)]
    a_chunk = sum({each.data_ptr(): each.nbytes() for each in storages}.values())
    encoder.model.register_forward_pre_hook(lambda *_: passes.append(1))
    # The first chunk is kept, for there must be room for one in any case. Beside what is kept, one is recomputed.
    for room, recomputed in ((0, 4), (4.2 * a_chunk, 2), (100 * a_chunk, 0)):
        monkeypatch.setattr("nh2st_graph.nn._patch_encoder._room", lambda device, room=room: room)
        passes.clear()
        encoder.zero_grad()
        torch.manual_seed(2)
        encoder(patches).square().sum().backward()
        assert len(passes) == 5 + recomputed
        gradients.append(encoder.model[0].weight.grad.clone())
    assert all(torch.equal(each, gradients[0]) for each in gradients)


def test_weights_of_a_frozen_model_are_trained():
    model = network().requires_grad_(False)
    assert all(weight.requires_grad for weight in PatchEncoder(model, MEAN, STD, 4).parameters())


def test_batch_normalisation_keeps_its_statistics_in_training(encoder):
    norm = encoder.model[1]
    before = {name: value.clone() for name, value in norm.named_buffers()}
    encoder.train()
    step = torch.optim.SGD(encoder.parameters(), lr=0.1)
    for seed in range(3):
        encoder(drawn_patches(6, seed=seed)).square().sum().backward()
        step.step()
    assert all(torch.equal(value, before[name]) for name, value in norm.named_buffers())
    assert norm.weight.grad.count_nonzero() > 0, "its weights learn all the same"
    assert (norm.training, encoder.training, encoder.model[3].training) == (False, True, True)
    assert not encoder.eval().model[3].training
    parent = nn.ModuleList([encoder]).train()
    assert parent.training
    assert not norm.training


def test_a_spot_does_not_depend_on_its_companions_in_training(encoder):
    encoder.model[3] = nn.Identity()
    patches = drawn_patches(6)
    together, alone = encoder.train()(patches), encoder(patches[:1])
    torch.testing.assert_close(together[:1], alone)


def test_dropout_is_drawn_once_for_a_step(encoder):
    """Activations are computed again on the way back: with other noise, gradients would be of another loss."""
    encoder.train()
    torch.manual_seed(1)
    output = encoder(drawn_patches(6))
    output.sum().backward()
    again = encoder.model[0].weight.grad.clone()
    encoder.zero_grad()
    torch.manual_seed(1)
    images = drawn_patches(6).permute(0, 3, 1, 2) / 255
    direct = encoder.model((images - encoder.pixel_mean) / encoder.pixel_std)
    torch.testing.assert_close(direct, output)
    direct.sum().backward()
    torch.testing.assert_close(encoder.model[0].weight.grad, again)
