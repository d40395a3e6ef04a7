"""BLEEP: images and genes in one space, and prediction by retrieval from the training spots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Data

from nh2st_graph._settings import Share
from nh2st_graph.models._bimodal import ENCODER_NAMES, HEAD_NAMES, Bimodal, BimodalConfig, original_weights
from nh2st_graph.models._original import load_original, original_weight, parse_settings
from nh2st_graph.models._registry import register_method
from nh2st_graph.models._stnet import random_symmetries
from nh2st_graph.nn import Averaging

__all__ = ["BLEEP", "BLEEPConfig"]


class BLEEPConfig(BimodalConfig):
    """BLEEP's settings, as published; see :class:`nh2st_graph.models.BLEEP`.

    Attributes
    ----------
    name
        The method.
    width, temperature, k
        Size of embeddings; what similarities are divided by; training spots that a prediction averages over.
    dropout
        Of the projection heads.
    normalize
        Embeddings have length 1 wherever they are compared; then a temperature of 0.1 or less is in place. Published:
        for finding the nearest alone.
    augment
        In training, turn and reflect each patch at random. Of a trained patch encoder only.
    averaging
        ``simple``, the nearest spot alone; ``average`` of the ``k`` nearest; or ``weighted_average``.
    transpose_targets
        Targets of the images are those of the spots transposed, as published; otherwise the same as the spots'.
    learn_targets
        Targets are minimised over, too, as published; otherwise they are taken as given.
    """

    name: Literal["bleep"] = "bleep"
    dropout: Share = 0.1
    averaging: Averaging = "average"
    transpose_targets: bool = True
    learn_targets: bool = True


@register_method
class BLEEP(Bimodal):
    r"""BLEEP (Xie et al., NeurIPS 2023), from the authors' code (``bowang-lab/BLEEP``): same numbers, same weights.

    A spot's image features :math:`x` and its genes :math:`g` are projected into one space by a head each
    (:class:`nh2st_graph.nn.ProjectionHead`), :math:`p = f(x)` and :math:`q = h(g)`. With the embeddings of a batch as
    the rows of :math:`P` and :math:`Q`, and softmax and cross-entropy (CE) by row,

    .. math::
        S = Q P^\top / \tau, \qquad
        T = \operatorname{softmax}\big(\tfrac{1}{2}(P P^\top + Q Q^\top) / \tau\big), \qquad
        L = \tfrac{1}{2} \operatorname{CE}(S, T) + \tfrac{1}{2} \operatorname{CE}(S^\top, T^\top):

    a spot is to be like its image, and like others as far as either modality says so. The prediction for a patch is
    the mean expression of the ``k`` training spots whose :math:`q` is nearest to its :math:`p` by cosine, or the
    nearest one's, or a mean with weights :math:`e^{-\|p - q\|^2}` (:func:`nh2st_graph.nn.retrieve`).

    The published encoder is ResNet-50, trained with the rest: ``features.encoder: timm:resnet50``, ``features.finetune:
    true``, ``features.standardize: none``. **With features that are not trained, there are the two heads alone.** The
    authors' code trains by AdamW at a learning rate of 1e-3 with weight decay 1e-3, in batches of 256, 4 epochs where
    it is not told, and keeps the epoch with the lowest loss on a random fifth of the training spots.

    What is odd about the published form, and the switch for each:

    - Embeddings are compared as they come in training, where their length is 16 by the layer normalisation, so that a
      temperature of 1 is one of 1/256 between cosines and soft targets are nearly hard; but by cosine in retrieval,
      and as they come again in its weights, most of which so go to a single spot: ``normalize``.
    - :math:`T^\top` sums to 1 by column, so that some images count more than others: ``transpose_targets``.
    - Targets are computed from what is trained on them, and the gradient goes through both: ``learn_targets``.
    - The temperature divides the targets' similarities with ResNet-50, as here, and multiplies them with any other
      encoder. At the published temperature of 1 it is the same; no switch.
    - Expression is corrected for batches (Harmony) over all sections, and the genes vary most in any of them: the test
      section is among both. Here targets are what ``data.*`` says; no switch.
    - Patches are read as blue, green, red and scaled as red, green, blue. No switch.
    - A batch holds spots of all sections; here of one, so that stain and depth tell no pairs.

    Parameters
    ----------
    settings, n_features, n_genes, patch_encoder
        As in :class:`Network`.
    """

    Settings: ClassVar[type[BLEEPConfig]] = BLEEPConfig
    config: BLEEPConfig

    @property
    def averaging(self) -> Averaging:
        """How training spots that were found are averaged."""
        return self.config.averaging

    def embed_genes(self, data: Data, spots: Tensor) -> Tensor:
        """Embed the genes of some spots, each by itself; see :class:`Bimodal`."""
        embedded: Tensor = self.spot_projection(self._here(data.y[spots]))
        return embedded

    def contrast(self, p: Tensor, q: Tensor) -> Tensor:
        """Cross-entropy with soft targets; see the class."""
        temperature = self.config.temperature
        logits = q @ p.T / temperature
        targets = ((p @ p.T + q @ q.T) / 2 / temperature).softmax(dim=1)
        targets = targets if self.config.learn_targets else targets.detach()
        # Similarities within a modality are symmetric: softmax by column would give the transposed targets.
        of_images = targets.T if self.config.transpose_targets else targets
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, of_images)) / 2

    def augmented(self, patches: Tensor) -> Tensor:
        """Turn and reflect each patch at random; see :class:`Bimodal`."""
        return random_symmetries(patches)

    @classmethod
    def from_original(cls, state_dict: Mapping[str, Any], **settings: Any) -> BLEEP:
        """Take the heads of a model trained with the authors' code.

        Sizes are read off the weights. It embeds the same image features and expression as the original does; those of
        its image encoder are left out, and :meth:`encoder_from_original` makes an encoder of them. It predicts after
        ``remember(sections)``, from the spots of these.

        Parameters
        ----------
        state_dict
            ``state_dict`` of the authors' model, with any of their image encoders.
        **settings
            Settings that leave no trace in the weights, such as ``temperature``.

        Raises
        ------
        ModelError
            If a weight is missing, unknown or of the wrong shape.
        ConfigError
            If there is no such setting.
        """
        weights = original_weights(state_dict)
        width, n_features = original_weight(weights, "image_projection.projection.weight", "BLEEP").shape
        n_genes = original_weight(weights, "spot_projection.projection.weight", "BLEEP").shape[1]
        model = cls(parse_settings(BLEEPConfig, {"width": width, **settings}), n_features, n_genes)
        load_original(model, weights, HEAD_NAMES, "BLEEP", ENCODER_NAMES)
        return model
