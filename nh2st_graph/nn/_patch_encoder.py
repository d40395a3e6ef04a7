"""An image encoder of patches that is trained with the rest of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import psutil
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["PatchEncoder"]

#: Patches that are encoded at a time, which bounds the memory of a whole section.
_CHUNK = 64

#: Share of the free memory that activations may take; those of more patches are recomputed in the backward pass.
_SHARE = 0.4

#: A feature is constant if its standard deviation, relative to its mean or 1, is below this.
_ROUNDING = 1e-7


class PatchEncoder(nn.Module):
    """Encode patches by a network that is fine-tuned with the rest of the model.

    Features are standardised by their statistics on the training sections before fine-tuning, so that a model starts as
    with frozen features; or they are not standardised. Batch normalisation keeps the statistics of pretraining:
    otherwise the features of a spot would depend on the other spots of its batch, and differ between training and
    prediction. Patches are encoded in chunks. Activations of the first ones are kept for the backward pass, as far as
    memory is free, and those of the rest are recomputed there, which takes a third longer and gives the same numbers.

    Parameters
    ----------
    model
        Network from normalised images, ``(n, 3, size, size)``, to ``(n, n_features)``.
    pixel_mean, pixel_std
        Mean and standard deviation of the images of pretraining, for each channel, from 0 to 1.
    n_features
        Size of the output.
    standardize
        Whether :meth:`set_scale` gives features mean 0 and standard deviation 1.

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
        # In the order of the images' channels, so that no call has to bring them to it.
        self.model = model.requires_grad_(True).to(memory_format=torch.channels_last)
        self.standardize = standardize
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(1, 3, 1, 1))
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(1, 3, 1, 1))
        self.register_buffer("feature_mean", torch.zeros(n_features))
        self.register_buffer("feature_std", torch.ones(n_features))

    @torch.no_grad()
    def set_scale(self, features: Tensor) -> None:
        """Take the statistics of training features before fine-tuning, ``(n_spots, n_features)``.

        A constant feature keeps its scale. Without standardisation, nothing is taken.
        """
        if not self.standardize:
            return
        exact = features.double()
        mean, std = exact.mean(dim=0), exact.std(dim=0, correction=0)
        # A constant feature has a small deviation by rounding, which would magnify its changes in training.
        varies = std > _ROUNDING * mean.abs().clamp_min(1)
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(torch.where(varies, std, torch.ones_like(std)))

    def train(self, mode: bool = True) -> Self:
        """Switch all but batch normalisation to training."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, patches: Tensor) -> Tensor:
        """Encode. See the class for shapes."""
        chunks, held, room = [], 0, _room(patches.device) if torch.is_grad_enabled() else 0
        for chunk in patches.split(_CHUNK):
            if not torch.is_grad_enabled():
                chunks.append(self._encode(chunk))
                continue
            # Beside what is kept, the backward pass may need the activations of one more chunk.
            if held and held * (1 + 2 / len(chunks)) > room:
                chunks.append(checkpoint(self._encode, chunk, use_reentrant=False))
                continue
            with _counted() as saved:
                chunks.append(self._encode(chunk))
            held += sum(saved.values())
        return (torch.cat(chunks) - self.feature_mean) / self.feature_std

    def _encode(self, patches: Tensor) -> Tensor:
        images = patches.permute(0, 3, 1, 2).to(self.pixel_mean.dtype) / 255
        encoded: Tensor = self.model((images - self.pixel_mean) / self.pixel_std)
        return encoded.flatten(start_dim=1)


def _room(device: torch.device) -> float:
    """Bytes that activations may take."""
    free: int = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return _SHARE * free


@contextmanager
def _counted() -> Iterator[dict[int, int]]:
    """Count the bytes that are saved for the backward pass while the block runs, by their address, without weights."""
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved
