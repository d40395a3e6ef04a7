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

#: Names of weights here, and in the authors' code.
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
        Number of transformer blocks: 8 in the paper and the authors' tutorial, 4 by default in their code.
    heads, head_width
        Number and size of attention heads in a block.
    n_positions
        Length of the tables of array positions, for rows and columns from 0 to ``n_positions - 1``.
    dropout
        Dropout of embeddings, and in the blocks.
    input
        ``pixels`` (``features.encoder: pixels:SIDE``), as published; or ``features`` of any other encoder, which then
        get the linear embedding.
    scale_pixels
        Scale pixels from 0 to 1. Published: 0 to 255.
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
    r"""HisToGene (Pang et al., bioRxiv 2021.11.28.470212), with the results of the authors' code.

    For spot :math:`i` of a section with pixels :math:`x_i`, and its column :math:`a_i` and row :math:`b_i` on the
    array,

    .. math::
        h_i = W x_i + X_{a_i} + Y_{b_i}, \qquad
        \hat y = U \operatorname{LN}\big(\operatorname{ViT}(h)\big)

    with learned tables :math:`X` and :math:`Y`, and a transformer in which every spot of the section attends to every
    other. The loss is the mean squared error, and a step is a whole section (``train.batch_spots`` of at least its
    number of spots). Edges are not read. The authors train on 31 sections for 100 epochs, 3100 steps, by Adam at a
    learning rate of 1e-5, and keep the last weights, without held-out data.

    Oddities of the published form, with the switch for each:

    - Pixels are from 0 to 255, so that at first patches contribute about a hundred times as much as positions, and most
      of this is common to all spots: ``scale_pixels``.
    - Positions end at 63, which is enough for arrays of ST but not of Visium: ``n_positions``.

    Note that array positions are those of the assay, so that the same tissue at another place of the array has other
    positions. Colour jitter, flips and rotations are in the authors' data code but are never applied. The authors
    flatten patches column by column; here it is row by row (:meth:`from_original` reorders the weights). Patches have
    112 pixels, 77 um on HER2ST: ``features.encoder: pixels:112``, ``features.patch_um: 77``, ``features.standardize:
    none``. The authors' prediction between spots ("super-resolution") is not included: it numbers positions from the
    corner of the image and not by the array, and training has never seen such positions.

    Targets are logarithms of base 10 and patches have their centres at whole pixels in the authors' code:
    ``data.log_base: 10``, ``features.floor_centres: true``. These switches of the configuration are in
    :attr:`published`, and off by default.

    Parameters
    ----------
    settings, n_features, n_genes, patch_encoder
        As in :class:`Network`.

    Raises
    ------
    ConfigError
        If features should be pixels, and are not.
    """

    Settings: ClassVar[type[HisToGeneConfig]] = HisToGeneConfig
    needs: ClassVar[frozenset[str]] = frozenset({"array"})
    config: HisToGeneConfig
    loss_parts = ("regression",)
    published: ClassVar[Mapping[str, Any]] = {"data.log_base": 10, "features.floor_centres": True}

    def __init__(
        self, settings: HisToGeneConfig, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None
    ) -> None:
        super().__init__(settings, n_features, n_genes, patch_encoder)
        if settings.input == "pixels":
            patch_side(n_features, patch_encoder, "HisToGene with pixels as input")
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
        """Raise a DataError if array positions are outside the tables."""
        check_positions(data, self.config.n_positions)

    def losses(self, data: Data) -> dict[str, Tensor]:
        """Compute the mean squared error on the seeds; see :class:`Network`."""
        predicted = self(self.features(data), data.array)
        regression = mse(predicted[data.seeds], data.y[data.seeds])
        return {"loss": regression, "regression": regression}

    def predict(self, data: Data) -> Tensor:
        """Predict a whole section from its image; see :class:`Network`.

        Raises
        ------
        DataError
            If array positions are outside the tables.
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

        Sizes are those of the weights. The model reads the same patches, flattened as here.

        Parameters
        ----------
        state_dict
            ``state_dict`` of the authors' model, or the Lightning checkpoint that holds one.
        **settings
            Settings that the weights do not determine, such as ``heads`` if they are not 16.

        Raises
        ------
        ModelError
            If a weight is missing, unknown or of the wrong shape.
        ConfigError
            If a setting is unknown.
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
        model.log_base = cls.published["data.log_base"]
        load_original(model, {**weights, "patch_embedding.weight": by_row}, _ORIGINAL_NAMES, "HisToGene")
        return model


def _sizes(weights: Mapping[str, Tensor], heads: int) -> dict[str, int]:
    """Read settings from the sizes of the authors' weights."""
    n_positions, width = original_weight(weights, "x_embed.weight", "HisToGene").shape
    attention = original_weight(weights, "vit.transformer.layers.0.0.fn.to_qkv.weight", "HisToGene")
    return {
        "width": width,
        "depth": count_blocks(weights, r"vit\.transformer\.layers\.\d+\.0\.norm\.weight"),
        "head_width": size_of_head(attention, heads),
        "n_positions": n_positions,
    }
