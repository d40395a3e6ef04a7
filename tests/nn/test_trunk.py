from __future__ import annotations

import pytest
import torch

from nh2st_graph.nn import BlockAttention, GradientEnhancement, ShuffleTrunk


def images(n=2, channels=3, side=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, side, side, generator=generator, dtype=torch.float64)


@torch.no_grad()
def test_stages_are_those_of_shufflenet_v2(drawn):
    """With the same weights, in their order, as torchvision's, which pools between the first two stages."""
    shufflenet = pytest.importorskip("torchvision").models.shufflenet_v2_x0_5(weights=None)
    trunk = ShuffleTrunk((24, 48, 96, 192, 1024), (4, 8, 4)).double().eval()
    theirs = drawn(torch.nn.Sequential(*list(shufflenet.children())[:-1]))
    theirs[1] = torch.nn.Identity()
    for ours, reference in ((trunk.low, theirs[0:5]), (trunk.high, theirs[5])):
        pairs = zip(ours.state_dict().values(), reference.state_dict().values(), strict=True)
        assert all(mine.copy_(yours).shape == yours.shape for mine, yours in pairs)
    x = images(side=40)
    enhanced = trunk.enhance(x)
    low, high, pooled = trunk(x)
    torch.testing.assert_close(low, theirs[0:5](enhanced))
    torch.testing.assert_close(high, theirs[5](low))
    torch.testing.assert_close(pooled, high.amax(dim=(2, 3), keepdim=True))


@pytest.mark.parametrize("border", [True, False])
def test_sides_are_as_told(border):
    trunk = ShuffleTrunk((2, 4, 6, 8), (1, 2), border).double().eval()
    for side in range(1, 30):
        low, high, pooled = trunk(images(side=side))
        last = trunk.last_side(side)
        assert low.shape == (2, 6, last, last)
        assert high.shape == (2, 8, last, last)
        assert pooled.shape == (2, 8, 1, 1)


@pytest.mark.parametrize("side", [6, 7])
@torch.no_grad()
def test_differences_are_of_a_cross_to_its_centre(drawn, side):
    module = drawn(GradientEnhancement(3))
    x, weight = images(side=side), module.differences[0].weight
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    found = module.differences[0](x)
    half = (side + 1) // 2
    assert found.shape == (2, 3, half, half)
    around = [(0, 1), (1, 0), (1, 1), (1, 2), (2, 1)]
    for i in range(half):
        for j in range(half):
            cross = torch.stack([padded[:, :, 2 * i + di, 2 * j + dj] for di, dj in around], dim=-1)
            less = 0.7 * padded[:, :, 2 * i + 1, 2 * j + 1] @ weight.sum(dim=-1).T
            torch.testing.assert_close(found[:, :, i, j], torch.einsum("nct,oct->no", cross, weight) - less)


@torch.no_grad()
def test_enhancement_keeps_a_border_of_one_value_a_channel(drawn):
    bordered, plain = (drawn(GradientEnhancement(3, border)) for border in (True, False))
    outer, inner = bordered(images()), plain(images())
    torch.testing.assert_close(outer[:, :, 1:-1, 1:-1], inner)
    edge = torch.cat([outer[:, :, 0], outer[:, :, -1], outer[:, :, :, 0], outer[:, :, :, -1]], dim=2)
    assert torch.equal(edge, edge[:1, :, :1].expand_as(edge))


@torch.no_grad()
def test_attention_weighs_channels_then_places(drawn):
    module = drawn(BlockAttention(32, ratio=16))
    x = images(channels=32, side=3)
    first, second = (module.channel[i].weight.flatten(1) for i in (0, 2))
    assert first.shape == (2, 32)
    for image, found in zip(x, module(x), strict=True):
        said = sum(second @ (first @ value).relu() for value in (image.mean(dim=(1, 2)), image.amax(dim=(1, 2))))
        weighed = image * said.sigmoid()[:, None, None]
        maps = torch.stack([weighed.mean(dim=0), weighed.max(dim=0).values])
        kernel = module.place.weight[0]
        padded = torch.nn.functional.pad(maps, (3, 3, 3, 3))
        place = [[(padded[:, i : i + 7, j : j + 7] * kernel).sum() for j in range(3)] for i in range(3)]
        scores = torch.tensor(place, dtype=torch.float64) + module.place.bias
        torch.testing.assert_close(found, weighed * scores.sigmoid())
    assert BlockAttention(4).channel[0].out_channels == 1
