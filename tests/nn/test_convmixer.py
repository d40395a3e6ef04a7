from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from nh2st_graph.nn import ConvMixerBlock


def _normalised(norm, x):
    shape = (1, -1, 1, 1)
    standard = (x - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + norm.eps).sqrt()
    return standard * norm.weight.view(shape) + norm.bias.view(shape)


def _by_hand(block, x, kernel_size):
    """The same channel by channel and pixel by pixel."""

    def in_space(x, convolution):
        out = torch.zeros_like(x)
        reach = kernel_size // 2
        padded = F.pad(x, (reach,) * 4)
        for channel in range(x.shape[1]):
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    window = padded[:, channel, row : row + kernel_size, column : column + kernel_size]
                    out[:, channel, row, column] = (window * convolution.weight[channel, 0]).sum(dim=(1, 2))
        return out + convolution.bias.view(1, -1, 1, 1)

    conv_1, norm_1, _, conv_2, norm_2, _ = block.depthwise
    h = F.gelu(_normalised(norm_1, in_space(x, conv_1)))
    h = x + F.gelu(_normalised(norm_2, in_space(h, conv_2)))
    conv_3, _, norm_3 = block.pointwise
    mixed = torch.einsum("nchw,dc->ndhw", h, conv_3.weight[:, :, 0, 0]) + conv_3.bias.view(1, -1, 1, 1)
    return _normalised(norm_3, F.gelu(mixed))


@torch.no_grad()
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_equals_convolutions_pixel_by_pixel(drawn, kernel_size):
    block = drawn(ConvMixerBlock(3, kernel_size))
    generator = torch.Generator().manual_seed(1)
    for name, statistic in block.named_buffers():
        if statistic.is_floating_point():
            statistic.copy_(torch.rand(statistic.shape, generator=generator) + 0.5 * name.endswith("var"))
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(block(x), _by_hand(block, x, kernel_size))
