"""mclSTExp: spots as the words of a sentence, contrasted with their images; prediction by retrieval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from nh2st_graph._settings import Positive
from nh2st_graph.models._bimodal import ENCODER_NAMES, HEAD_NAMES, Bimodal, BimodalConfig, original_weights
from nh2st_graph.models._inputs import check_positions
from nh2st_graph.models._original import (
    block_names,
    count_blocks,
    load_original,
    original_weight,
    parse_settings,
    size_of_head,
)
from nh2st_graph.models._registry import register_method
from nh2st_graph.nn import ArrayEmbedding, PatchEncoder, SelfAttentionBlock, Weighting, random_views

__all__ = ["MclSTExp", "MclSTExpConfig"]

#: From names of weights here to those in the authors' code.
_ORIGINAL_NAMES = (
    (r"positions\.([xy])\.", r"\1_embed."),
    *block_names(r"spot_encoder\.(\d+)", r"spot_encoder.\1.attn", r"spot_encoder.\1.ff"),
    *HEAD_NAMES,
)


class MclSTExpConfig(BimodalConfig):
    """mclSTExp's settings, as published for HER2ST; see :class:`nh2st_graph.models.MclSTExp`.

    Attributes
    ----------
    name
        The method.
    width, temperature, dropout
        Size of embeddings; what similarities are divided by; dropout of the projection heads.
    k
        Training spots that a prediction averages over: 200, and for cSCC 600.
    normalize
        Embeddings have length 1 wherever they are compared; then a temperature of 0.1 or less is in place. Published:
        for finding the nearest alone.
    augment
        In training, rotate and flip each patch at random. Of a trained patch encoder only.
    depth, heads, head_width
        Transformer blocks of the spot encoder (0 is the authors' variant without), attention heads of a block, and the
        size of each.
    n_positions
        Length of the tables of array positions. Rows that no spot has are never read.
    sentence
        Spots that attend to each other: those of a ``batch``, as published, or of a ``section``, in training and in
        the bank alike.
    bank_spots
        Spots of a batch in the bank, consecutive in their section.
    distance
        By whose inverse square training spots are weighed: ``l1``, as published for HER2ST, or ``l2``, for the others.
    """

    name: Literal["mclstexp"] = "mclstexp"
    k: Positive = 200
    depth: Annotated[int, Field(ge=0)] = 2
    heads: Positive = 8
    head_width: Positive = 64
    n_positions: Positive = 65536
    sentence: Literal["batch", "section"] = "batch"
    bank_spots: Positive = 32
    distance: Literal["l1", "l2"] = "l1"


@register_method
class MclSTExp(Bimodal):
    r"""mclSTExp (Min et al., 2024, arXiv 2407.08216), from the authors' code: same numbers from the same weights.

    Spots are words: spot :math:`i` with genes :math:`g_i`, at column :math:`a_i` and row :math:`b_i` of the array, is
    :math:`s_i = g_i + X_{a_i} + Y_{b_i}`, with learned tables :math:`X` and :math:`Y`. A sentence of spots passes
    through a transformer as wide as there are genes, and a projection head (:class:`nh2st_graph.nn.ProjectionHead`);
    image features :math:`x_i` through a head of their own:

    .. math::
        Q = h(\operatorname{Transformer}(s)), \qquad p_i = f(x_i), \qquad
        L = \tfrac{1}{2} \operatorname{CE}(Q P^\top / \tau, I) + \tfrac{1}{2} \operatorname{CE}(P Q^\top / \tau, I)

    over a batch (CE: cross-entropy of the softmax by row). The prediction for a patch is a mean over the ``k`` training
    spots whose :math:`q` is nearest to its :math:`p` by cosine, with weights :math:`1 / \|p - q\|^2`. Neither genes nor
    positions of the section that is predicted are read.

    The published encoder is DenseNet-121, trained with the rest: ``features.encoder: timm:densenet121``,
    ``features.finetune: true``, ``features.standardize: none``. The authors train 90 epochs of batches of 128 by Adam
    at a learning rate of 1e-4 with an L2 penalty of 1e-3, and keep the weights after the last; nothing is held out.

    What is odd about the published form, and the switch for each:

    - Embeddings are compared as they come in training, where their length is 16 by the layer normalisation, although
      the code calls it cosine; by cosine in retrieval, and as they come in its weights: ``normalize``.
    - A sentence in training is a batch drawn from all sections; in the bank it is 32 consecutive spots, whatever they
      are, so that a spot's key depends on its file's order: ``bank_spots``, or ``sentence: section``. The authors'
      batches in the bank run on from section to section, the test section among them, whose genes so reach the keys of
      training spots. Here no sentence holds spots of two sections.
    - Position tables have 65536 rows, of which an array uses some tens and at most some hundreds; they make up most of
      the model, 131072 times as many weights as genes: ``n_positions``. They start as unit normal, with more variance
      than most log expression; no switch.
    - For Visium the authors embed rounded pixels, of which hardly any two spots share a row. Here always the array's
      positions.
    - The weights' distance is L1 for HER2ST and L2 for the other data: ``distance``. A spot that lies on its query is
      no number there; here it takes all of the weight.
    - The code's setting of dropout, 0, reaches nothing; here it is that of the heads: ``dropout``.
    - Pixels reach a pretrained encoder as 0 to 1, for Visium as 0 to 255 in blue, green, red, turned at random in
      prediction too; and the last ReLU of DenseNet-121 is left out. Here they are scaled as for its pretraining, and
      timm's has its ReLU. No switch.
    - In training, patches are jittered in colour, flipped and rotated by any angle; here flipped and rotated:
      ``augment``.

    Parameters
    ----------
    settings, n_features, n_genes, patch_encoder
        As in :class:`Network`.
    """

    Settings: ClassVar[type[MclSTExpConfig]] = MclSTExpConfig
    needs: ClassVar[frozenset[str]] = frozenset({"array"})
    config: MclSTExpConfig

    def __init__(
        self, settings: MclSTExpConfig, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None
    ) -> None:
        super().__init__(settings, n_features, n_genes, patch_encoder)
        self.positions = ArrayEmbedding(settings.n_positions, n_genes)
        self.spot_encoder = nn.Sequential(
            *(SelfAttentionBlock(n_genes, settings.heads, settings.head_width, n_genes) for _ in range(settings.depth))
        )

    @property
    def receptive_hops(self) -> int | None:
        """Those of a batch, or all of a section."""
        return 0 if self.config.sentence == "batch" else None

    @property
    def averaging(self) -> Weighting:
        """Weights by the inverse square of a distance."""
        order = {"l1": 1, "l2": 2}[self.config.distance]

        def weigh(query: Tensor, keys: Tensor) -> Tensor:
            distance = torch.linalg.vector_norm(keys - query, ord=order, dim=-1)
            nothing = torch.finfo(distance.dtype).tiny
            return (-2 * distance.clamp_min(nothing).log()).softmax(dim=1)

        return weigh

    def check(self, data: Data) -> None:
        """Raise a DataError where array positions lie outside the tables."""
        check_positions(data, self.config.n_positions)

    def embed_genes(self, data: Data, spots: Tensor) -> Tensor:
        """Embed the genes of some spots, which are the sentence, or of which the section is; see :class:`Bimodal`."""
        if self.config.sentence == "section":
            return self._embed_sentence(self._words(data))[spots]
        return self._embed_sentence(self._words(data)[spots])

    def embed_bank(self, data: Data) -> Tensor:
        """Embed the genes of a section in sentences of the bank; see :class:`Bimodal`."""
        words = self._words(data)
        n_words = len(words) if self.config.sentence == "section" else self.config.bank_spots
        return torch.cat([self._embed_sentence(sentence) for sentence in words.split(n_words)])

    def _words(self, data: Data) -> Tensor:
        genes = self._here(data.y)
        words: Tensor = genes + self.positions(data.array.to(genes.device))
        return words

    def _embed_sentence(self, words: Tensor) -> Tensor:
        embedded: Tensor = self.spot_projection(self.spot_encoder(words))
        return embedded

    def contrast(self, p: Tensor, q: Tensor) -> Tensor:
        """Cross-entropy in both directions; see the class."""
        logits = q @ p.T / self.config.temperature
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def augmented(self, patches: Tensor) -> Tensor:
        """Rotate each patch by an angle of its own, and flip every other; see :class:`Bimodal`."""
        images = patches.permute(0, 3, 1, 2).float()
        return random_views(images, grey=0.0, degrees=180.0, flip=0.5, apart=True).permute(0, 2, 3, 1)

    @classmethod
    def from_original(cls, state_dict: Mapping[str, Any], **settings: Any) -> MclSTExp:
        """Take heads, spot encoder and position tables of a model trained with the authors' code.

        Sizes are read off the weights. It embeds the same image features, expression and positions as the original
        does, a batch being the sentence; the weights of its image encoder are left out, and
        :meth:`encoder_from_original` makes an encoder of them. It predicts after ``remember(sections)``, from the spots
        of these.

        Parameters
        ----------
        state_dict
            ``state_dict`` of the authors' model, with any of their image encoders; or of their variant without a
            transformer.
        **settings
            Settings that leave no trace in the weights, such as ``heads`` where they are not 8.

        Raises
        ------
        ModelError
            If a weight is missing, unknown or of the wrong shape.
        ConfigError
            If there is no such setting.
        """
        weights = original_weights(state_dict)
        width, n_features = original_weight(weights, "image_projection.projection.weight", "mclSTExp").shape
        n_positions, n_genes = original_weight(weights, "x_embed.weight", "mclSTExp").shape
        sizes = {"width": width, "n_positions": n_positions, **_sizes(weights, settings.get("heads", 8))}
        model = cls(parse_settings(MclSTExpConfig, {**sizes, **settings}), n_features, n_genes)
        load_original(model, weights, _ORIGINAL_NAMES, "mclSTExp", ENCODER_NAMES)
        return model


def _sizes(weights: Mapping[str, Tensor], heads: int) -> dict[str, int]:
    """Settings of the transformer that the authors' weights tell."""
    depth = count_blocks(weights, r"spot_encoder\.\d+\.attn\.norm\.weight")
    if not depth:
        return {"depth": 0}
    attention = original_weight(weights, "spot_encoder.0.attn.fn.to_qkv.weight", "mclSTExp")
    return {"depth": depth, "head_width": size_of_head(attention, heads)}
