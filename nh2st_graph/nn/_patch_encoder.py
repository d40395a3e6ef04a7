"""A patch encoder that is trained with the rest of a model."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["PatchEncoder"]

#: Patches that pass through the encoder at a time, which bounds the memory that a whole section takes.
_CHUNK = 64

#: A deviation this small, against a feature's mean or 1, is none.
_ROUNDING = 1e-7


class PatchEncoder(nn.Module):
    """Encode patches by a convolutional or transformer model, fine-tuned with what reads its features.

    Features are standardised by their statistics on the training sections before fine-tuning, so that a model starts
    where it would with frozen features; or given as they come. Batch normalisation keeps the statistics of its
    pretraining: a batch of spots of one section would otherwise tell a spot's features by its companions, and
    differently in training than after. Patches are encoded in chunks whose activations are computed again on the way
    back rather than kept, so that memory does not grow with the section.

    Parameters
    ----------
    model
        Takes normalised images, ``(n, 3, size, size)``, and gives ``(n, n_features)``.
    pixel_mean, pixel_std
        Of the images that it was trained on, one value a channel, on a scale of 0 to 1.
    n_features
        Size of its output.
    standardize
        Whether features are brought to mean 0 and deviation 1 by :meth:`set_scale`.

    Shapes
    ------
    - **input:** patches ``(n, size, size, 3)`` uint8
    - **output:** ``(n, n_features)``
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(
        self,
        model: nn.Module,
        pixel_mean: list[float],
        pixel_std: list[float],
        n_features: int,
        standardize: bool = True,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(True)
        self.standardize = standardize
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(1, 3, 1, 1))
        self.register_buffer("feature_mean", torch.zeros(n_features))
        self.register_buffer("feature_std", torch.ones(n_features))

    @torch.no_grad()
    def set_scale(self, features: Tensor) -> None:
        """Take the statistics of training features, ``(n_spots, n_features)``, as they are before fine-tuning.

        A constant feature keeps its scale; nothing is taken where features are not standardised.
        """
        if not self.standardize:
            return
        exact = features.double()
        mean, std = exact.mean(dim=0), exact.std(dim=0, correction=0)
        # Rounding leaves a constant feature a deviation, which would multiply what it becomes in training.
        varies = std > _ROUNDING * mean.abs().clamp_min(1)
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(torch.where(varies, std, torch.ones_like(std)))

    def train(self, mode: bool = True) -> Self:
        """Switch to training, all but batch normalisation."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, patches: Tensor) -> Tensor:
        """Encode. See the class for shapes."""
        chunks = [
            checkpoint(self._encode, chunk, use_reentrant=False) if torch.is_grad_enabled() else self._encode(chunk)
            for chunk in patches.split(_CHUNK)
        ]
        return (torch.cat(chunks) - self.feature_mean) / self.feature_std

    def _encode(self, patches: Tensor) -> Tensor:
        images = patches.permute(0, 3, 1, 2).to(self.pixel_mean.dtype) / 255
        encoded: Tensor = self.model((images - self.pixel_mean) / self.pixel_std)
        return encoded.flatten(start_dim=1)
