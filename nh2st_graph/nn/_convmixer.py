"""A convolutional block over patches, as in Hist2ST."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ConvMixerBlock"]


class ConvMixerBlock(nn.Module):
    r"""One block of Hist2ST's ConvMixer (Zeng et al., 2022), after Trockman and Kolter (2022).

    For the feature maps :math:`x` of a patch, depthwise convolutions :math:`D` (in space, for each channel) and a
    pointwise convolution :math:`P` (between channels),

    .. math::
        x \leftarrow x + D'(D(x)), \quad D(x) = \operatorname{GELU}(\operatorname{BN}(\operatorname{Conv}(x))), \qquad
        x \leftarrow P(x) = \operatorname{BN}(\operatorname{GELU}(\operatorname{Conv}_{1 \times 1}(x)))

    The original ConvMixer has one depthwise convolution, and normalises after the activation in both layers.

    Parameters
    ----------
    channels
        Number of feature maps.
    kernel_size
        Side of the depthwise convolutions; borders are padded with zeros.

    Shapes
    ------
    - **input:** ``(n, channels, height, width)``
    - **output:** ``(n, channels, height, width)``
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(*_depthwise(channels, kernel_size), *_depthwise(channels, kernel_size))
        self.pointwise = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=1), nn.GELU(), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix in space, then between channels. See the class for shapes."""
        mixed: Tensor = self.pointwise(x + self.depthwise(x))
        return mixed


def _depthwise(channels: int, kernel_size: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, channels, kernel_size, groups=channels, padding="same")
    return convolution, nn.BatchNorm2d(channels), nn.GELU()
