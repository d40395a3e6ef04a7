"""mclSTExp: spots as words of a sentence, a contrast with their images, and prediction by retrieval."""

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

#: Names of weights here, and in the authors' code.
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
        Size of embeddings; divisor of similarities; dropout of the projection heads.
    k
        Training spots that a prediction averages over: 200, or 600 for cSCC.
    normalize
        Embeddings have length 1 in every comparison; choose a temperature of 0.1 or less. Published: only in the search
        for the nearest.
    augment
        Rotate and flip each patch at random in training, if the patch encoder is trained.
    depth, heads, head_width
        Number of transformer blocks of the spot encoder (0 is the authors' variant without a transformer), and number
        and size of attention heads in a block.
    n_positions
        Length of the tables of array positions. Rows without spots are never read.
    sentence
        Spots that attend to each other, in training and in the bank: those of a ``batch``, as published, or of a
        ``section``.
    bank_spots
        Number of consecutive spots of a section in a batch of the bank.
    distance
        Distance whose inverse square weights training spots: ``l1``, as published for HER2ST, or ``l2``, as for other
        data.
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
    r"""mclSTExp (Min et al., 2024, arXiv 2407.08216), with the results of the authors' code.

    Spots are words: spot :math:`i` with genes :math:`g_i`, column :math:`a_i` and row :math:`b_i` on the array is
    :math:`s_i = g_i + X_{a_i} + Y_{b_i}`, with learned tables :math:`X` and :math:`Y`. A sentence of spots passes
    through a transformer whose width is the number of genes, and a projection head
    (:class:`nh2st_graph.nn.ProjectionHead`). Image features :math:`x_i` have their own head:

    .. math::
        Q = h(\operatorname{Transformer}(s)), \qquad p_i = f(x_i), \qquad
        L = \tfrac{1}{2} \operatorname{CE}(Q P^\top / \tau, I) + \tfrac{1}{2} \operatorname{CE}(P Q^\top / \tau, I)

    over a batch (CE: cross-entropy of the softmax by row). The prediction for a patch is a mean over the ``k`` training
    spots whose :math:`q` is nearest to its :math:`p` by cosine, with weights :math:`1 / \|p - q\|^2`. Prediction reads
    neither genes nor positions of its section.

    The published encoder is DenseNet-121, trained with the rest: ``features.encoder: timm:densenet121``,
    ``features.finetune: true``, ``features.standardize: none``. The authors train 90 epochs of batches of 128 by Adam
    at a learning rate of 1e-4 with an L2 penalty of 1e-3, and keep the last weights, without held-out data.

    Oddities of the published form, with the switch for each:

    - In training, embeddings are compared by scalar products, although the code calls it cosine; their length is 16 by
      the layer norm. Retrieval compares by cosine, but its weights use unscaled embeddings: ``normalize``.
    - A sentence in training is a random batch of all sections; in the bank it is 32 consecutive spots, so that a spot's
      key depends on the order of its file: ``bank_spots``, or ``sentence: section``. The authors' batches of the bank
      cross sections, also the test section, whose genes thus reach the keys of training spots. Here no sentence holds
      spots of two sections.
    - Position tables have 65536 rows, of which an array uses some tens or hundreds. They are most of the model: 131072
      weights for each gene: ``n_positions``. They are initialised with unit variance, more than that of most log
      expression; no switch.
    - For Visium the authors embed rounded pixels, so that hardly any two spots share a row. Here positions are always
      those of the array.
    - The distance of the weights is L1 for HER2ST and L2 for the other data: ``distance``. A spot with the embedding of
      the query gives NaN there; here it gets all of the weight.
    - The dropout setting of the code, 0, has no effect; here it is the dropout of the heads: ``dropout``.
    - Pixels for the pretrained encoder are from 0 to 1; for Visium, from 0 to 255 in blue, green, red, and rotated at
      random in prediction too. The last ReLU of DenseNet-121 is left out. Here pixels are normalised as in pretraining,
      and timm's model has its ReLU. No switch.
    - In training, patches are flipped, rotated by any angle, and jittered in colour; here without the jitter:
      ``augment``.

    Targets are logarithms of base 10 and patches have their centres at whole pixels in the authors' code:
    ``data.log_base: 10``, ``features.floor_centres: true``. These switches of the configuration are in
    :attr:`published`, and off by default.

    Parameters
    ----------
    settings, n_features, n_genes, patch_encoder
        As in :class:`Network`.
    """

    Settings: ClassVar[type[MclSTExpConfig]] = MclSTExpConfig
    needs: ClassVar[frozenset[str]] = frozenset({"array"})
    config: MclSTExpConfig
    published: ClassVar[Mapping[str, Any]] = {"data.log_base": 10, "features.floor_centres": True}

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
        """0 for the spots of a batch; None for all of a section."""
        return 0 if self.config.sentence == "batch" else None

    @property
    def averaging(self) -> Weighting:
        """Weight by the inverse square of a distance."""
        order = {"l1": 1, "l2": 2}[self.config.distance]

        def weigh(query: Tensor, keys: Tensor) -> Tensor:
            distance = torch.linalg.vector_norm(keys - query, ord=order, dim=-1)
            nothing = torch.finfo(distance.dtype).tiny
            return (-2 * distance.clamp_min(nothing).log()).softmax(dim=1)

        return weigh

    def check(self, data: Data) -> None:
        """Raise a DataError if array positions are outside the tables."""
        check_positions(data, self.config.n_positions)

    def embed_genes(self, data: Data, spots: Tensor) -> Tensor:
        """Embed the genes of some spots in the sentence of these spots, or of their section; see :class:`Bimodal`."""
        if self.config.sentence == "section":
            return self._embed_sentence(self._words(data))[spots]
        return self._embed_sentence(self._words(data)[spots])

    def embed_bank(self, data: Data) -> Tensor:
        """Embed the genes of a section in the sentences of the bank; see :class:`Bimodal`."""
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
        """Rotate each patch by a random angle, and flip half of them; see :class:`Bimodal`."""
        images = patches.permute(0, 3, 1, 2).float()
        return random_views(images, grey=0.0, degrees=180.0, flip=0.5, apart=True).permute(0, 2, 3, 1)

    @classmethod
    def from_original(cls, state_dict: Mapping[str, Any], **settings: Any) -> MclSTExp:
        """Take heads, spot encoder and position tables of a model trained with the authors' code.

        Sizes are those of the weights. The model reads the same image features, expression and positions as the
        original, with a batch as the sentence. Weights of the image encoder are left out; :meth:`encoder_from_original`
        makes an encoder of them. The model predicts after ``remember(sections)``, from the spots of these sections.

        Parameters
        ----------
        state_dict
            ``state_dict`` of the authors' model, with any of their image encoders; or of their variant without a
            transformer.
        **settings
            Settings that the weights do not determine, such as ``heads`` if they are not 8.

        Raises
        ------
        ModelError
            If a weight is missing, unknown or of the wrong shape.
        ConfigError
            If a setting is unknown.
        """
        weights = original_weights(state_dict)
        width, n_features = original_weight(weights, "image_projection.projection.weight", "mclSTExp").shape
        n_positions, n_genes = original_weight(weights, "x_embed.weight", "mclSTExp").shape
        sizes = {"width": width, "n_positions": n_positions, **_sizes(weights, settings.get("heads", 8))}
        model = cls(parse_settings(MclSTExpConfig, {**sizes, **settings}), n_features, n_genes)
        model.log_base = cls.published["data.log_base"]
        load_original(model, weights, _ORIGINAL_NAMES, "mclSTExp", ENCODER_NAMES)
        return model


def _sizes(weights: Mapping[str, Tensor], heads: int) -> dict[str, int]:
    """Read settings of the transformer from the sizes of the authors' weights."""
    depth = count_blocks(weights, r"spot_encoder\.\d+\.attn\.norm\.weight")
    if not depth:
        return {"depth": 0}
    attention = original_weight(weights, "spot_encoder.0.attn.fn.to_qkv.weight", "mclSTExp")
    return {"depth": depth, "head_width": size_of_head(attention, heads)}
