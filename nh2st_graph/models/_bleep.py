"""BLEEP: images and genes in a common space, and prediction by retrieval from training spots."""

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
        Size of embeddings; divisor of similarities; training spots that a prediction averages over.
    dropout
        Dropout of the projection heads.
    normalize
        Embeddings have length 1 in every comparison; choose a temperature of 0.1 or less. Published: only in the search
        for the nearest.
    augment
        Rotate and reflect each patch at random in training, if the patch encoder is trained.
    averaging
        ``simple``: the nearest spot; ``average``: the mean of the ``k`` nearest; or ``weighted_average``.
    transpose_targets
        Targets of the images are those of the spots, transposed as published, or not.
    learn_targets
        The gradient also flows through the targets, as published, or not.
    """

    name: Literal["bleep"] = "bleep"
    dropout: Share = 0.1
    averaging: Averaging = "average"
    transpose_targets: bool = True
    learn_targets: bool = True


@register_method
class BLEEP(Bimodal):
    r"""BLEEP (Xie et al., NeurIPS 2023), with the results of the authors' code (``bowang-lab/BLEEP``).

    A spot's image features :math:`x` and its genes :math:`g` are projected into a common space by one head each
    (:class:`nh2st_graph.nn.ProjectionHead`), :math:`p = f(x)` and :math:`q = h(g)`. With the embeddings of a batch as
    the rows of :math:`P` and :math:`Q`, and softmax and cross-entropy (CE) by row,

    .. math::
        S = Q P^\top / \tau, \qquad
        T = \operatorname{softmax}\big(\tfrac{1}{2}(P P^\top + Q Q^\top) / \tau\big), \qquad
        L = \tfrac{1}{2} \operatorname{CE}(S, T) + \tfrac{1}{2} \operatorname{CE}(S^\top, T^\top):

    a spot should be similar to its image, and to other spots as far as they are similar in either modality. The
    prediction for a patch is the mean expression of the ``k`` training spots whose :math:`q` is nearest to its
    :math:`p` by cosine, or that of the nearest one, or a mean with weights :math:`e^{-\|p - q\|^2}`
    (:func:`nh2st_graph.nn.retrieve`).

    The published encoder is ResNet-50, trained with the rest: ``features.encoder: timm:resnet50``, ``features.finetune:
    true``, ``features.standardize: none``. **With fixed features, only the two heads are trained.** The authors' code
    trains by AdamW at a learning rate of 1e-3 with weight decay 1e-3, in batches of 256, 4 epochs by default, and keeps
    the epoch with the lowest loss on a random fifth of the training spots.

    Oddities of the published form, with the switch for each:

    - In training, embeddings are compared by scalar products. Their length is 16 by the layer norm, so that a
      temperature of 1 means 1/256 between cosines, and soft targets are nearly hard. Retrieval compares by cosine, but
      its weights use distances of the unscaled embeddings, so that most of the weight is on a single spot:
      ``normalize``.
    - The rows of :math:`T^\top` do not sum to 1, so that some images count more than others: ``transpose_targets``.
    - Targets are computed from the embeddings that are trained on them, and the gradient flows through both:
      ``learn_targets``.
    - The temperature divides the similarities of the targets with ResNet-50, as here, and multiplies them with any
      other encoder. At the published temperature of 1 both are the same; no switch.
    - Expression is batch-corrected (Harmony) over all sections, and genes are the most variable ones of any section;
      both include the test section. Here ``data.*`` defines the targets; no switch.
    - Patches are read as blue, green, red and normalised as red, green, blue. No switch.
    - A batch holds spots of all sections; here of one section, so that stain and depth do not identify pairs.

    Parameters
    ----------
    settings, n_features, n_genes, patch_encoder
        As in :class:`Network`.
    """

    Settings: ClassVar[type[BLEEPConfig]] = BLEEPConfig
    config: BLEEPConfig

    @property
    def averaging(self) -> Averaging:
        """Average over retrieved training spots."""
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
        # Similarities within a modality are symmetric: a softmax by column would give the transposed targets.
        of_images = targets.T if self.config.transpose_targets else targets
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, of_images)) / 2

    def augmented(self, patches: Tensor) -> Tensor:
        """Rotate and reflect each patch at random; see :class:`Bimodal`."""
        return random_symmetries(patches)

    @classmethod
    def from_original(cls, state_dict: Mapping[str, Any], **settings: Any) -> BLEEP:
        """Take the heads of a model trained with the authors' code.

        Sizes are those of the weights. The model reads the same image features and expression as the original. Weights
        of the image encoder are left out; :meth:`encoder_from_original` makes an encoder of them. The model predicts
        after ``remember(sections)``, from the spots of these sections.

        Parameters
        ----------
        state_dict
            ``state_dict`` of the authors' model, with any of their image encoders.
        **settings
            Settings that the weights do not determine, such as ``temperature``.

        Raises
        ------
        ModelError
            If a weight is missing, unknown or of the wrong shape.
        ConfigError
            If a setting is unknown.
        """
        weights = original_weights(state_dict)
        width, n_features = original_weight(weights, "image_projection.projection.weight", "BLEEP").shape
        n_genes = original_weight(weights, "spot_projection.projection.weight", "BLEEP").shape[1]
        model = cls(parse_settings(BLEEPConfig, {"width": width, **settings}), n_features, n_genes)
        load_original(model, weights, HEAD_NAMES, "BLEEP", ENCODER_NAMES)
        return model
