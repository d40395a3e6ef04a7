"""HisToGene: a vision transformer whose tokens are the spots of a section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator
from torch import Tensor, nn
from torch_geometric.data import Data

from nh2st_graph._errors import ModelError, setting
from nh2st_graph._settings import Positive, SettingError, Share
from nh2st_graph.models._inputs import as_images, check_positions, patch_side
from nh2st_graph.models._network import Network
from nh2st_graph.models._original import (
    block_names,
    count_blocks,
    load_original,
    original_weight,
    parse_settings,
    size_of_head,
    state_of,
)
from nh2st_graph.models._registry import register_method
from nh2st_graph.models._settings import MethodConfig
from nh2st_graph.nn import ArrayEmbedding, PatchEncoder, SelfAttentionBlock, mse

__all__ = ["HisToGene", "HisToGeneConfig"]

#: From names of weights here to those in the authors' code.
_ORIGINAL_NAMES = (
    (r"positions\.([xy])\.", r"\1_embed."),
    *block_names(r"blocks\.(\d+)", r"vit.transformer.layers.\1.0", r"vit.transformer.layers.\1.1"),
    (r"head\.", "gene_head."),
)


class HisToGeneConfig(MethodConfig):
    """HisToGene's settings; see :class:`nh2st_graph.models.HisToGene`.

    Attributes
    ----------
    name
        The method.
    width
        Size of embeddings.
    depth
        Number of transformer blocks: 8 in the paper and the authors' tutorial, 4 where their class is not told.
    heads, head_width
        Attention heads of a block, and the size of each.
    n_positions
        Length of the tables of array positions: rows and columns from 0 to one less are known.
    dropout
        Of embeddings, and in the blocks.
    input
        ``pixels`` (``features.encoder: pixels:SIDE``), as published; or the ``features`` of any other encoder, of which
        the linear embedding is then one.
    scale_pixels
        Pixels go in as 0 to 1. Published: as 0 to 255.
    """

    name: Literal["histogene"] = "histogene"
    width: Positive = 1024
    depth: Positive = 8
    heads: Positive = 16
    head_width: Positive = 64
    n_positions: Positive = 64
    dropout: Share = 0.1
    input: Literal["pixels", "features"] = "pixels"
    scale_pixels: bool = False

    @model_validator(mode="after")
    def _check(self) -> HisToGeneConfig:
        if self.scale_pixels and self.input != "pixels":
            raise SettingError(
                f"{setting('model.scale_pixels', True)} needs pixels, and {setting('model.input', self.input)} has none"
            )
        return self


@register_method
class HisToGene(Network):
    r"""HisToGene (Pang et al., bioRxiv 2021.11.28.470212), from the authors' code: same numbers from the same weights.

    For spot :math:`i` of a section, with pixels :math:`x_i`, at column :math:`a_i` and row :math:`b_i` of the array,

    .. math::
        h_i = W x_i + X_{a_i} + Y_{b_i}, \qquad
        \hat y = U \operatorname{LN}\big(\operatorname{ViT}(h)\big)

    with learned tables :math:`X` and :math:`Y`, and a transformer in which every spot of the section attends to every
    other. Trained on the mean squared error, a whole section at a step (``train.batch_spots`` no less than its spots).
    Edges are not read. The authors train on 31 sections for 100 epochs, 3100 steps, by Adam at a learning rate of 1e-5,
    and keep the weights after the last; nothing is held out to choose by.

    What is odd about the published form, and the switch for each:

    - Pixels go in as 0 to 255, so that at first the patches' part of the sum is about a hundred times that of the
      positions, and most of it common to all spots: ``scale_pixels``.
    - Positions end at 63, which is enough for ST arrays and not for Visium's: ``n_positions``.

    Also worth knowing: array positions are read as the assay numbers them, so that the same tissue elsewhere on its
    array has other ones; colour jitter, flips and rotations stand in the authors' data code and are never applied; and
    theirs flattens patches column by column, here it is row by row (:meth:`from_original` turns the weights). Patches
    have 112 pixels, 77 um on HER2ST: ``features.encoder: pixels:112``, ``features.patch_um: 77``,
    ``features.standardize: none``. Not here is their prediction between spots ("super-resolution"), which numbers
    positions from the corner of the image rather than by the array: training has never seen those.

    Parameters
    ----------
    settings, n_features, n_genes, patch_encoder
        As in :class:`Network`.

    Raises
    ------
    ConfigError
        If features are to be pixels, and are none.
    """

    Settings: ClassVar[type[HisToGeneConfig]] = HisToGeneConfig
    needs: ClassVar[frozenset[str]] = frozenset({"array"})
    config: HisToGeneConfig
    loss_parts = ("regression",)

    def __init__(
        self, settings: HisToGeneConfig, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None
    ) -> None:
        super().__init__(settings, n_features, n_genes, patch_encoder)
        if settings.input == "pixels":
            patch_side(n_features, patch_encoder, "HisToGene (model.input = 'pixels')")
        width = settings.width
        self.patch_embedding = nn.Linear(n_features, width)
        self.positions = ArrayEmbedding(settings.n_positions, width)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.Sequential(
            *(
                SelfAttentionBlock(width, settings.heads, settings.head_width, 2 * width, settings.dropout)
                for _ in range(settings.depth)
            )
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_genes))

    def check(self, data: Data) -> None:
        """Raise a DataError where array positions lie outside the tables."""
        check_positions(data, self.config.n_positions)

    def losses(self, data: Data) -> dict[str, Tensor]:
        """Mean squared error on the seeds; see :class:`Network`."""
        predicted = self(self.features(data), data.array)
        regression = mse(predicted[data.seeds], data.y[data.seeds])
        return {"loss": regression, "regression": regression}

    def predict(self, data: Data) -> Tensor:
        """Predict a whole section from its image; see :class:`Network`.

        Raises
        ------
        DataError
            If array positions lie outside the tables.
        """
        self.check(data)
        return self(self.features(data), data.array)

    def forward(self, x: Tensor, array: Tensor) -> Tensor:
        """Predict the spots of one section.

        Parameters
        ----------
        x
            Pixels, ``(n_spots, side * side * 3)``, by row, column and colour, 0 to 255; or features.
        array
            Array positions, ``(n_spots, 2)`` int64, x then y.

        Returns
        -------
        ``(n_spots, n_genes)``.
        """
        x = x.to(self.patch_embedding.weight.dtype)
        x = x / 255 if self.config.scale_pixels else x
        h = self.dropout(self.patch_embedding(x) + self.positions(array))
        expression: Tensor = self.head(self.blocks(h))
        return expression

    @classmethod
    def from_original(cls, state_dict: Mapping[str, Any], **settings: Any) -> HisToGene:
        """Take the weights of a model trained with the authors' code.

        Sizes are read off the weights. It reads the same patches, flattened as they are here.

        Parameters
        ----------
        state_dict
            ``state_dict`` of the authors' model, or the Lightning checkpoint that holds one.
        **settings
            Settings that leave no trace in the weights, such as ``heads`` where they are not 16.

        Raises
        ------
        ModelError
            If a weight is missing, unknown or of the wrong shape.
        ConfigError
            If there is no such setting.
        """
        weights = state_of(state_dict)
        by_column = original_weight(weights, "patch_embedding.weight", "HisToGene")
        try:
            by_row = as_images(by_column).transpose(1, 2).flatten(start_dim=1)
        except RuntimeError:
            n_read = by_column.shape[1]
            raise ModelError(f"the patch embedding reads {n_read} numbers, which are no square RGB patch") from None
        n_genes = len(original_weight(weights, "gene_head.1.weight", "HisToGene"))
        values = {**_sizes(weights, settings.get("heads", 16)), **settings}
        model = cls(parse_settings(HisToGeneConfig, values), by_column.shape[1], n_genes)
        load_original(model, {**weights, "patch_embedding.weight": by_row}, _ORIGINAL_NAMES, "HisToGene")
        return model


def _sizes(weights: Mapping[str, Tensor], heads: int) -> dict[str, int]:
    """Settings that the authors' weights tell."""
    n_positions, width = original_weight(weights, "x_embed.weight", "HisToGene").shape
    attention = original_weight(weights, "vit.transformer.layers.0.0.fn.to_qkv.weight", "HisToGene")
    return {
        "width": width,
        "depth": count_blocks(weights, r"vit\.transformer\.layers\.\d+\.0\.norm\.weight"),
        "head_width": size_of_head(attention, heads),
        "n_positions": n_positions,
    }
