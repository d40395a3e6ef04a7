"""A light convolutional trunk for patches: gradient enhancement, ShuffleNet V2, and attention over its maps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["BlockAttention", "GradientEnhancement", "ShuffleTrunk"]

#: Share of the summed weights that a difference convolution subtracts at its centre (theta in the code).
_DIFFERENCE = 0.7

#: Places of the five weights of a cross in a 3 x 3 kernel, row by row.
_CROSS = [1, 3, 4, 5, 7]


class ShuffleTrunk(nn.Module):
    """Gradient enhancement, then ShuffleNet V2 (Ma et al., ECCV 2018) without its pooling: the trunk of HGGEP.

    Parameters
    ----------
    channels
        Channels of the first convolution, of each shuffled stage (even), and of the last convolution.
    blocks
        Number of units of each shuffled stage.
    border
        As in :class:`GradientEnhancement`.

    Shapes
    ------
    - **input:** images ``(n, 3, side, side)``
    - **output:** three maps: of the last shuffled stage, ``(n, channels[-2], last, last)``; of the last convolution,
      ``(n, channels[-1], last, last)``; and their maxima, ``(n, channels[-1], 1, 1)``; :meth:`last_side` gives ``last``
    """

    def __init__(self, channels: Sequence[int], blocks: Sequence[int], border: bool = True) -> None:
        super().__init__()
        self.halvings = 1 + len(blocks)
        self.enhance = GradientEnhancement(3, border)
        stages = [
            ShuffleUnit(before if i == 0 else after, after, stride=2 if i == 0 else 1)
            for (before, after), n_units in zip(pairwise(channels[:-1]), blocks, strict=True)
            for i in range(n_units)
        ]
        self.low = nn.Sequential(*_convolution(3, channels[0], 3, stride=2), *stages)
        self.high = _convolution(channels[-2], channels[-1], 1)

    def last_side(self, side: int) -> int:
        """Compute the side of the last maps from that of the images."""
        side = self.enhance.side(side)
        for _ in range(self.halvings):
            side = (side + 1) // 2
        return side

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode. See the class for shapes."""
        low = self.low(self.enhance(images))
        high = self.high(low)
        return low, high, F.adaptive_max_pool2d(high, 1)


class GradientEnhancement(nn.Module):
    """A convolution and a cross difference convolution in parallel, joined by a 1 x 1 convolution.

    The gradient enhancement module of HGGEP (Li et al., Briefings in Bioinformatics 2024).

    Parameters
    ----------
    channels
        Channels of image and result.
    border
        Pad the last convolution by one pixel as the authors do, which adds a constant border to each channel.

    Shapes
    ------
    - **input:** ``(n, channels, side, side)``
    - **output:** ``(n, channels, half, half)``, where :meth:`side` gives ``half``
    """

    def __init__(self, channels: int, border: bool = True) -> None:
        super().__init__()
        self.border = int(border)
        self.plain = _bounded(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
        self.differences = _bounded(CrossDifference(channels, channels))
        self.join = _bounded(nn.Conv2d(2 * channels, channels, 1, padding=self.border))

    def side(self, side: int) -> int:
        """Compute the side of the result from that of the image."""
        return (side + 1) // 2 + 2 * self.border

    def forward(self, x: Tensor) -> Tensor:
        """Enhance. See the class for shapes."""
        joined: Tensor = self.join(torch.cat([self.plain(x), self.differences(x)], dim=1))
        return joined


class CrossDifference(nn.Module):
    r"""Convolve a cross of five pixels with stride 2, minus a share of its centre pixel.

    .. math:: y = \sum_{c \in \text{cross}} w_c x_c - \theta \sum_c w_c \; x_\text{centre}, \qquad \theta = 0.7

    With :math:`\theta = 1`, only differences to the centre count (Yu et al., 2021, cross central difference).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, len(_CROSS)))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # initialised as convolutions of torch

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, inputs, side, side)`` to ``(n, outputs, side', side')``, with half the side."""
        kernel = self.weight.new_zeros(*self.weight.shape[:2], 9)
        kernel[..., _CROSS] = self.weight
        kernel[..., 4] = kernel[..., 4] - _DIFFERENCE * self.weight.sum(dim=-1)
        return F.conv2d(x, kernel.unflatten(-1, (3, 3)), stride=2, padding=1)


class ShuffleUnit(nn.Module):
    """A unit of ShuffleNet V2: half of the channels are convolved; with stride 2, all channels twice."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.halves = stride == 1
        self.passed = (
            nn.Identity() if self.halves else nn.Sequential(*_depthwise(inputs, stride), *_convolution(inputs, half, 1))
        )
        self.convolved = nn.Sequential(
            *_convolution(half if self.halves else inputs, half, 1),
            *_depthwise(half, stride),
            *_convolution(half, half, 1),
        )
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Give ``(n, outputs, side', side')``."""
        passed, convolved = x.chunk(2, dim=1) if self.halves else (x, x)
        shuffled: Tensor = self.shuffle(torch.cat([self.passed(passed), self.convolved(convolved)], dim=1))
        return shuffled


class BlockAttention(nn.Module):
    """Weight channels, then places, by their mean and maximum (CBAM; Woo et al., ECCV 2018).

    Parameters
    ----------
    channels
        Channels of the maps.
    ratio
        Ratio of channels to hidden units, of which there is at least one.

    Shapes
    ------
    - **input, output:** ``(n, channels, side, side)``
    """

    def __init__(self, channels: int, ratio: int = 16) -> None:
        super().__init__()
        between = max(1, channels // ratio)
        self.channel = nn.Sequential(
            nn.Conv2d(channels, between, 1, bias=False), nn.ReLU(), nn.Conv2d(between, channels, 1, bias=False)
        )
        self.place = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """Weight. See the class for shapes."""
        x = x * (self.channel(F.adaptive_avg_pool2d(x, 1)) + self.channel(F.adaptive_max_pool2d(x, 1))).sigmoid()
        weighed: Tensor = x * self.place(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()
        return weighed


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _depthwise(channels: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels))


def _bounded(convolution: nn.Conv2d | CrossDifference) -> nn.Sequential:
    outputs = len(convolution.weight)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())
