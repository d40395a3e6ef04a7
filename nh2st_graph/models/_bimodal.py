"""Base of methods that contrast a spot's image with its genes and predict by retrieval from training spots."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data

from nh2st_graph._errors import ModelError, setting
from nh2st_graph._settings import Positive, Share
from nh2st_graph.models._network import Network
from nh2st_graph.models._original import Names, state_of
from nh2st_graph.models._settings import MethodConfig
from nh2st_graph.nn import Averaging, PatchEncoder, ProjectionHead, Weighting, chance_level, retrieval_at_k, retrieve

__all__ = ["ENCODER_NAMES", "HEAD_NAMES", "Bimodal", "BimodalConfig", "original_weights"]

#: Names of the heads' weights here, and in the authors' code, which is that of BLEEP.
HEAD_NAMES: Names = (
    (r"(image|spot)_projection\.first\.", r"\1_projection.projection."),
    (r"(image|spot)_projection\.second\.", r"\1_projection.fc."),
    (r"(image|spot)_projection\.norm\.", r"\1_projection.layer_norm."),
)

#: Prefixes of the image encoder's weights in the authors' code; the second is that of the perceptron of mclSTExp.
ENCODER_NAMES = ("image_encoder.", "image_ecode.")

#: Names of the parts of torchvision's models, as in timm, by their numbers in the authors' code.
_DENSENET_PARTS = {"0": "features"}
_RESNET_PARTS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


class BimodalConfig(MethodConfig):
    """Settings that these methods share.

    Attributes
    ----------
    width
        Size of embeddings.
    temperature
        Divisor of the similarities in the contrast.
    dropout
        Dropout of the projection heads.
    k
        Training spots that a prediction averages over; all if there are fewer.
    normalize
        Embeddings have length 1 in every comparison; choose a temperature of 0.1 or less. Published: only in the search
        for the nearest.
    augment
        Augment each patch at random in training, if the patch encoder is trained.
    """

    width: Positive = 256
    temperature: Annotated[float, Field(gt=0)] = 1.0
    dropout: Share = 0.0
    k: Positive = 50
    normalize: bool = False
    augment: bool = True


class Bimodal(Network):
    """Two projections into a common space, with a contrast in training; a prediction averages over training spots.

    A subclass defines the embedding of genes, the contrast between the modalities, and the average over retrieved
    spots.

    Parameters
    ----------
    settings, n_features, n_genes, patch_encoder
        As in :class:`Network`.
    """

    config: BimodalConfig
    loss_parts = ("contrast_spot", "contrast_spot_chance", "retrieval_spot")
    alignment_parts = ("retrieval_spot",)

    def __init__(
        self, settings: BimodalConfig, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None
    ) -> None:
        super().__init__(settings, n_features, n_genes, patch_encoder)
        self.image_projection = ProjectionHead(n_features, settings.width, settings.dropout)
        self.spot_projection = ProjectionHead(n_genes, settings.width, settings.dropout)

    @property
    def receptive_hops(self) -> int | None:
        """0: a spot is embedded by itself, or with its batch."""
        return 0

    @property
    @abstractmethod
    def averaging(self) -> Averaging | Weighting:
        """Average over retrieved training spots; see :func:`nh2st_graph.nn.retrieve`."""

    @abstractmethod
    def embed_genes(self, data: Data, spots: Tensor) -> Tensor:
        """Embed the genes of some spots in training, ``(n_spots, width)``, on the weights' device."""

    def embed_bank(self, data: Data) -> Tensor:
        """Embed the genes of a whole section for the bank, ``(n_spots, width)``."""
        return self.embed_genes(data, torch.arange(len(data.y)))

    @abstractmethod
    def contrast(self, p: Tensor, q: Tensor) -> Tensor:
        """Contrast the embeddings of the same spots' images and genes, ``(n, width)`` each; a scalar."""

    @abstractmethod
    def augmented(self, patches: Tensor) -> Tensor:
        """Augment each patch at random, ``(n, size, size, 3)``."""

    def losses(self, data: Data) -> dict[str, Tensor]:
        """Compute the contrast on the seeds; see :class:`Network`.

        Returns
        -------
        ``loss``; the same as ``contrast_spot``, with its chance level, at which all similarities are equal; and
        ``retrieval_spot``, the share of pairs among the nearest ten.
        """
        p = self._compared(self.image_projection(self._seen(data)))
        q = self._compared(self.embed_genes(data, data.seeds))
        # Similarities may be as large as squared lengths, and half precision would lose their decimals.
        with torch.autocast(p.device.type, enabled=False):
            loss = self.contrast(p, q)
        return {
            "loss": loss,
            "contrast_spot": loss,
            "contrast_spot_chance": loss.new_tensor(chance_level(len(p))),
            "retrieval_spot": loss.new_tensor(retrieval_at_k(p, q)),
        }

    @torch.no_grad()
    def remember(self, sections: Sequence[Data]) -> None:
        """Store the bank: gene embeddings and expression of the training spots, on the CPU."""
        self.memory = {
            "keys": torch.cat([self._compared(self.embed_bank(section)).cpu() for section in sections]),
            "expression": torch.cat([section.y.cpu() for section in sections]),
        }

    def predict(self, data: Data) -> Tensor:
        """Predict a whole section from its image and the bank; see :class:`Network`.

        Raises
        ------
        ModelError
            If there is no bank yet, or embeddings are not finite.
        """
        if not self.memory:
            raise ModelError(f"{type(self).__name__} has no spots to retrieve from; call remember(sections) first")
        p = self._compared(self.image_projection(self.features(data)))
        try:
            return retrieve(p, self.memory["keys"], self.memory["expression"], self.config.k, how=self.averaging)
        except ValueError as error:
            raise ModelError(
                f"{type(self).__name__}: {error}; lower {setting('train.learning_rate')}, or check the features"
            ) from None

    @torch.no_grad()
    def alignment(self, data: Data) -> dict[str, float]:
        """Compute the share of spots with their gene embedding among the ten nearest to their image embedding."""
        found = self.embeddings(data)
        return {"retrieval_spot": retrieval_at_k(found["image"], found["gene"])}

    @torch.no_grad()
    def embeddings(self, data: Data) -> dict[str, Tensor]:
        """Embed a section's spots, ``(n_spots, width)``: ``image``, and ``gene`` as the bank has it."""
        found = {"image": self._compared(self.image_projection(self.features(data)))}
        return found | {"gene": self._compared(self.embed_bank(data))} if "y" in data else found

    def _compared(self, embedded: Tensor) -> Tensor:
        return F.normalize(embedded, dim=-1) if self.config.normalize else embedded

    def _seen(self, data: Data) -> Tensor:
        """Give the features of the seeds alone, of augmented patches if the encoder is trained."""
        seen = self.image_input(data)[data.seeds]
        if self.patch_encoder is None:
            return seen.float()
        encoded: Tensor = self.patch_encoder(self.augmented(seen) if self.config.augment else seen)
        return encoded

    def _here(self, values: Tensor) -> Tensor:
        """Move values to the device and precision of the weights."""
        return values.to(self.spot_projection.first.weight)

    @staticmethod
    def encoder_from_original(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
        """Extract the weights of the image encoder from a checkpoint of the authors' code, with their names in timm.

        Save them by ``torch.save`` as a checkpoint for the encoder ``timm:resnet50@FILE``, with ``features.standardize:
        none``, since the heads were trained on unscaled features.

        Parameters
        ----------
        state_dict
            As for ``from_original``.
        """
        encoder = ENCODER_NAMES[0] + "model."
        weights = {
            name.removeprefix(encoder): weight
            for name, weight in original_weights(state_dict).items()
            if name.startswith(encoder)
        }
        parts = _DENSENET_PARTS if "0.conv0.weight" in weights else _RESNET_PARTS
        split = ((name.partition("."), weight) for name, weight in weights.items())
        return {f"{parts.get(part, part)}{dot}{rest}": weight for (part, dot, rest), weight in split}


def original_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename weights as in the current version of the authors' code.

    The names start with ``module.`` if the model was trained on several devices, and the first models of BLEEP have
    wells in place of spots.
    """
    return {
        name.removeprefix("module.").replace("well_projection.", "spot_projection."): weight
        for name, weight in state_of(checkpoint).items()
    }
