"""What methods share that contrast a spot's image with its genes, and predict by retrieval from training spots."""

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

#: From names of the heads' weights here to those in the authors' code, which is BLEEP's.
HEAD_NAMES: Names = (
    (r"(image|spot)_projection\.first\.", r"\1_projection.projection."),
    (r"(image|spot)_projection\.second\.", r"\1_projection.fc."),
    (r"(image|spot)_projection\.norm\.", r"\1_projection.layer_norm."),
)

#: Beginnings of the names of an image encoder's weights in the authors' code; the second is of mclSTExp's perceptron.
ENCODER_NAMES = ("image_encoder.", "image_ecode.")

#: Parts of torchvision's models, whose names are timm's, by their numbers where the authors take a model apart.
_DENSENET_PARTS = {"0": "features"}
_RESNET_PARTS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


class BimodalConfig(MethodConfig):
    """Settings that these methods share; see their own.

    Attributes
    ----------
    width
        Size of embeddings.
    temperature
        What similarities are divided by in the contrast.
    dropout
        Of the projection heads.
    k
        Training spots that a prediction averages over; all where there are fewer.
    normalize
        Embeddings have length 1 wherever they are compared; then a temperature of 0.1 or less is in place. Published:
        for finding the nearest alone.
    augment
        In training, draw a view of each patch. Of a trained patch encoder only.
    """

    width: Positive = 256
    temperature: Annotated[float, Field(gt=0)] = 1.0
    dropout: Share = 0.0
    k: Positive = 50
    normalize: bool = False
    augment: bool = True


class Bimodal(Network):
    """Two projections into one space, contrasted in training; a prediction is an average over training spots.

    A subclass says what embeds a spot's genes, how both modalities are contrasted, and how those that were found are
    averaged.

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
        """Spots are seen one by one, or with those of their batch."""
        return 0

    @property
    @abstractmethod
    def averaging(self) -> Averaging | Weighting:
        """How training spots that were found are averaged; see :func:`nh2st_graph.nn.retrieve`."""

    @abstractmethod
    def embed_genes(self, data: Data, spots: Tensor) -> Tensor:
        """Embed the genes of some spots in training, ``(n_spots, width)``, on the weights' device."""

    def embed_bank(self, data: Data) -> Tensor:
        """Embed the genes of a whole section, ``(n_spots, width)``, as they are retrieved."""
        return self.embed_genes(data, torch.arange(len(data.y)))

    @abstractmethod
    def contrast(self, p: Tensor, q: Tensor) -> Tensor:
        """Contrast the embeddings of the same spots' images and genes, ``(n, width)`` each; a scalar."""

    @abstractmethod
    def augmented(self, patches: Tensor) -> Tensor:
        """Draw a view of each patch, ``(n, size, size, 3)``."""

    def losses(self, data: Data) -> dict[str, Tensor]:
        """Compute the contrast on the seeds; see :class:`Network`.

        Returns
        -------
        ``loss``; the same as ``contrast_spot``, with its chance level, where all similarities are the same; and
        ``retrieval_spot``, the share of pairs found among the nearest ten.
        """
        p = self._compared(self.image_projection(self._seen(data)))
        q = self._compared(self.embed_genes(data, data.seeds))
        # Similarities may be as large as squared lengths, of which half precision would leave no decimals.
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
        """Keep the bank: gene embeddings of the training spots and their expression, on the CPU."""
        self.memory = {
            "keys": torch.cat([self._compared(self.embed_bank(section)).cpu() for section in sections]),
            "expression": torch.cat([section.y.cpu() for section in sections]),
        }

    def predict(self, data: Data) -> Tensor:
        """Predict a whole section from its image and the bank; see :class:`Network`.

        Raises
        ------
        ModelError
            If there is no bank yet, or embeddings are no numbers.
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
        """Share of a section's spots whose gene embedding is among the ten nearest to their image's (cosine)."""
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
        """Features of the seeds alone, of drawn views where patches are encoded here."""
        seen = self.image_input(data)[data.seeds]
        if self.patch_encoder is None:
            return seen.float()
        encoded: Tensor = self.patch_encoder(self.augmented(seen) if self.config.augment else seen)
        return encoded

    def _here(self, values: Tensor) -> Tensor:
        """Values where the weights are, and as precise."""
        return values.to(self.spot_projection.first.weight)

    @staticmethod
    def encoder_from_original(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
        """Take the image encoder's weights out of a checkpoint of the authors' code, by their names in timm.

        Saved (``torch.save``), they are a checkpoint that an encoder can be made of: ``timm:resnet50@FILE``, with
        ``features.standardize: none``, since the heads were trained on features as they come.

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
    """Weights by their names in the authors' code as it is now.

    A model that was trained on several devices begins its names with ``module.``, and BLEEP's first ones call spots
    wells.
    """
    return {
        name.removeprefix("module.").replace("well_projection.", "spot_projection."): weight
        for name, weight in state_of(checkpoint).items()
    }
