"""ST-Net: a linear regression of expression on the features of a patch, from a DenseNet that is trained with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from nh2st_graph.models._network import Network
from nh2st_graph.models._registry import register_method
from nh2st_graph.models._settings import MethodConfig
from nh2st_graph.nn import PatchEncoder, mse

__all__ = ["STNet", "STNetConfig", "random_symmetries", "symmetry"]

#: Rotations and reflections of a square.
_SYMMETRIES = 8


class STNetConfig(MethodConfig):
    """Settings of ST-Net, as published; see :class:`STNet`.

    Attributes
    ----------
    name
        The method.
    augment
        Rotate and reflect each patch at random in training, if the patch encoder is trained.
    average
        Predict the mean over the eight rotations and reflections of a patch, if the patch encoder is trained.
    zero_weights
        Start the weights of the regression at zero, so that it predicts the training mean.
    """

    name: Literal["stnet"] = "stnet"
    augment: bool = True
    average: bool = True
    zero_weights: bool = True


@register_method
class STNet(Network):
    r"""ST-Net (He et al., Nature Biomedical Engineering 2020; ``bryanhe/ST-Net``).

    Log expression of a spot is a linear function of the features of DenseNet-121, and all of it is trained on the
    squared error. The bias starts at the training mean and the weights at zero, so that the first step changes the
    regression alone. In training, a patch is rotated and reflected at random, in eight equally likely ways; a
    prediction is the mean over all eight.

    ``features.encoder: timm:densenet121`` with ``features.finetune: true`` and ``features.standardize: none`` is the
    published network. **With fixed features, this is the linear regression alone**, without augmentation and without
    the mean over rotations and reflections.

    Differences of the public code:

    - The loss is summed over a batch and averaged over genes; here it is averaged over both, which makes no difference
      to Adam. The code has SGD with momentum 0.9, at a learning rate of 1e-6 for 50 epochs of batches of 32, without
      weight decay.
    - Pixels are normalised by mean and standard deviation of a dozen training batches; here as in the encoder's
      pretraining.
    - Batch normalisation uses the statistics of each batch in training; here those of pretraining.
    - A target is :math:`\ln((1 + c) / (g + \sum c))` for counts :math:`c` of :math:`g` genes; here it is that of
      ``data.normalize``.

    Parameters
    ----------
    settings
        The switches.
    n_features
        Size of a spot's image features.
    n_genes
        Size of the panel.
    patch_encoder
        Computes image features from patches, and is trained with the rest; None if features are given.
    """

    Settings: ClassVar[type[MethodConfig]] = STNetConfig
    config: STNetConfig
    loss_parts = ("regression",)

    def __init__(
        self, settings: STNetConfig, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None
    ) -> None:
        super().__init__(settings, n_features, n_genes, patch_encoder)
        self.head = nn.Linear(n_features, n_genes)
        if settings.zero_weights:
            nn.init.zeros_(self.head.weight)

    @property
    def receptive_hops(self) -> int:
        """0: a spot is predicted by itself."""
        return 0

    @torch.no_grad()
    def prepare(self, sections: Sequence[Data]) -> None:
        """Start the bias at the mean of the training targets."""
        self.head.bias.copy_(torch.cat([section.y for section in sections]).mean(dim=0))

    def losses(self, data: Data) -> dict[str, Tensor]:
        """Compute the squared error on the seeds; see :class:`Network`."""
        if self.patch_encoder is None:
            features = self.features(data)[data.seeds]
        else:
            patches = data.patches[data.seeds]
            features = self.patch_encoder(random_symmetries(patches) if self.config.augment else patches)
        error = mse(self.head(features), data.y[data.seeds])
        return {"loss": error, "regression": error}

    def predict(self, data: Data) -> Tensor:
        """Predict each spot from its patch; see :class:`Network`."""
        if self.patch_encoder is None or not self.config.average:
            predicted: Tensor = self.head(self.features(data))
            return predicted
        ways = [self.head(self.patch_encoder(symmetry(data.patches, way))) for way in range(_SYMMETRIES)]
        return torch.stack(ways).mean(dim=0)


def symmetry(patches: Tensor, way: int) -> Tensor:
    """Apply one of the eight symmetries of a square to patches: ``way`` quarter turns, with a reflection from 4 on.

    Parameters
    ----------
    patches
        ``(n, size, size, channels)``.
    way
        0 to 7; 0 is the identity.
    """
    turned = patches.rot90(way % 4, dims=(1, 2))
    return turned.flip(2) if way >= 4 else turned


def random_symmetries(patches: Tensor) -> Tensor:
    """Apply a random symmetry to each patch, by torch's generator, ``(n, size, size, channels)``."""
    drawn = torch.randint(_SYMMETRIES, (len(patches),), device=patches.device)
    given = torch.empty_like(patches)
    for way in range(_SYMMETRIES):
        given[drawn == way] = symmetry(patches[drawn == way], way)
    return given
