"""TRIPLEX: encoders of the spot's patch, its neighbourhood and the whole section, fused by cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch_geometric.data import Data

from nh2st_graph._errors import ConfigError, DataError, setting
from nh2st_graph._settings import Positive, SettingError, Share
from nh2st_graph.models._network import Network
from nh2st_graph.models._registry import register_method
from nh2st_graph.models._settings import MethodConfig
from nh2st_graph.models._stnet import random_symmetries
from nh2st_graph.nn import (
    ArrayConvolution,
    CrossEncoder,
    PatchEncoder,
    SelfAttentionBlock,
    WindowEncoder,
    array_window,
    mse,
    read_window,
)

__all__ = ["TRIPLEX", "TRIPLEXConfig", "TRIPLEXOutputs"]

#: Spots that are predicted at a time, which bounds the memory of a whole section.
_AT_ONCE = 256

Ratio = Annotated[float, Field(gt=0)]


class TRIPLEXConfig(MethodConfig):
    """TRIPLEX's settings, as published for HER2ST; see :class:`nh2st_graph.models.TRIPLEX`.

    Attributes
    ----------
    name
        The method.
    width
        Size of embeddings. Features of another size pass through a linear map first.
    target_tokens
        Places of the patch's feature map (``features.encoder: timm-map:resnet18``: 49), or 1 for features without
        places.
    window
        Side of the neighbourhood in array positions; odd.
    depth_fusion, depth_global, depth_neighbours
        Number of blocks of the fusion, of the global encoder (one before positions, the others after), and of the
        neighbour encoder.
    heads_fusion, heads_global, heads_neighbours
        Number of attention heads in these blocks; divides ``width``.
    ratio_fusion, ratio_global, ratio_neighbours
        Ratio of hidden units to ``width`` in these blocks.
    dropout_fusion, dropout_global, dropout_neighbours
        Dropout in these blocks.
    kernel
        Side of the convolution over the array, which gives positions to the global encoder; odd.
    alpha
        Weight of a branch's distance to the fused prediction; its distance to the targets has 1 minus this weight.
    augment
        Rotate and reflect each spot's own patch at random in training, if the patch encoder is trained.
    average_absent
        Include places without a spot in the mean over the neighbourhood, as published.
    residual_positions
        Add the convolution to its input, as in the authors' first release; in the present release it replaces its
        input.
    detach_teacher
        Distillation trains the branches only. Published: it trains the fused prediction too.
    non_negative
        Set predictions below 0 to 0, also in training, as in the authors' present release.
    """

    name: Literal["triplex"] = "triplex"
    width: Positive = 512
    target_tokens: Positive = 49
    window: Positive = 5
    depth_fusion: Positive = 1
    depth_global: Positive = 5
    depth_neighbours: Positive = 4
    heads_fusion: Positive = 4
    heads_global: Positive = 8
    heads_neighbours: Positive = 4
    ratio_fusion: Ratio = 4.0
    ratio_global: Ratio = 4.0
    ratio_neighbours: Ratio = 4.0
    dropout_fusion: Share = 0.4
    dropout_global: Share = 0.3
    dropout_neighbours: Share = 0.3
    kernel: Positive = 3
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.3
    augment: bool = True
    average_absent: bool = True
    residual_positions: bool = True
    detach_teacher: bool = False
    non_negative: bool = False

    @model_validator(mode="after")
    def _check(self) -> TRIPLEXConfig:
        for key in ("heads_fusion", "heads_global", "heads_neighbours"):
            if self.width % getattr(self, key):
                parts, width = setting(f"model.{key}", getattr(self, key)), setting("model.width", self.width)
                raise SettingError(f"{parts} does not divide {width}")
        for key in ("window", "kernel"):
            if getattr(self, key) % 2 == 0:
                raise SettingError(f"{setting(f'model.{key}', getattr(self, key))} has no middle; give an odd number")
        return self


class TRIPLEXOutputs(NamedTuple):
    """Predictions from the fused embedding and from each branch, ``(n, n_genes)`` each."""

    fused: Tensor
    target: Tensor
    neighbours: Tensor
    whole: Tensor


@register_method
class TRIPLEX(Network):
    r"""TRIPLEX (Chung et al., CVPR 2024, arXiv 2403.07592), as in the authors' code (``NEXGEM/TRIPLEX``).

    Spot :math:`i` has target tokens :math:`T_i`, the places of its patch; neighbour tokens :math:`N_i`, the features of
    spots in a window of the array after a transformer with biases by relative position
    (:class:`nh2st_graph.nn.WindowEncoder`); and a global token :math:`g_i` from a transformer over all spots of the
    section, which gets positions from a convolution over the array after its first block
    (:class:`nh2st_graph.nn.ArrayConvolution`). The global token reads the others by cross-attention :math:`C`, with the
    same weights for both:

    .. math::
        f_i = \operatorname{LN}\big(C(g_i, T_i) + C(g_i, N_i)\big), \qquad
        \hat y = U f, \quad \hat y^t = U^t \operatorname{mean} T, \quad \hat y^n = U^n \operatorname{mean} N, \quad
        \hat y^g = U^g g

    .. math::
        L = \|\hat y - y\|^2 + \sum_{b \in \{t, n, g\}} (1 - \alpha) \|\hat y^b - y\|^2 + \alpha \|\hat y^b - \hat y\|^2

    averaged over spots and genes. The prediction is :math:`\hat y`. Neighbour and global tokens are fixed features
    (``data.x``, the mean over places); the encoder of target tokens is trained with the rest if ``features.finetune``
    is true, as published (``features.encoder: timm-map:resnet18``). A step reads whole sections.

    The authors train by Adam at a learning rate of 1e-4, batches of 128, for up to 200 epochs, and stop by the
    correlation on the test fold. Their ResNet-18 was trained on histology without labels; their targets are smoothed
    (``data.smooth: 3x3``).

    Oddities of the published form, with the switch for each:

    - Distillation also trains the fused prediction towards the branches: ``detach_teacher``.
    - Masked places are no keys of attention, but count in the mean over the neighbourhood: ``average_absent``.
    - A neighbourhood is 25 adjacent patches of the image, on tissue or not, masked beyond the image. Here it is the
      spots in a window of the array. On Visium's array, where every second position is empty, about half of the window
      is masked (a larger ``window`` and ``kernel`` compensate for it).
    - The present release has no residual of the convolution (``residual_positions``), puts pixel positions on a grid
      that it infers from the first section and uses for all others (not here), and cuts predictions at 0, where they
      have no gradient (``non_negative``).
    - In the first release, the neighbour encoder has ``ratio_neighbours`` hidden units and not this ratio to the width;
      the present release and this code have the ratio (0.0078125 gives 4 units for a width of 512).
    - Dropout after the attention of the global encoder is on in prediction too, so that predictions are random. Not
      here.

    Targets are logarithms of base 10 and patches have their centres at whole pixels in the authors' first release:
    ``data.log_base: 10``, ``features.floor_centres: true``. The learning rate falls: ``train.decay_epochs: 50``. These
    switches of the configuration are in :attr:`published`, and off by default.

    Parameters
    ----------
    settings, n_features, n_genes, patch_encoder
        As in :class:`Network`.

    Raises
    ------
    ConfigError
        If the features are no map of ``target_tokens`` places.
    """

    Settings: ClassVar[type[TRIPLEXConfig]] = TRIPLEXConfig
    needs: ClassVar[frozenset[str]] = frozenset({"array"})
    config: TRIPLEXConfig
    published: ClassVar[Mapping[str, Any]] = {
        "data.log_base": 10,
        "features.floor_centres": True,
        "train.decay_epochs": 50,
    }
    loss_parts = ("regression", "distillation")

    def __init__(
        self, settings: TRIPLEXConfig, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None
    ) -> None:
        super().__init__(settings, n_features, n_genes, patch_encoder)
        size, rest = divmod(n_features, settings.target_tokens)
        if rest:
            raise ConfigError(
                f"{setting('features.encoder')} gives {n_features} features a spot, which are no map of "
                f"{settings.target_tokens} places; give {setting('model.target_tokens', 1)}, or an encoder such as "
                f"{setting('features.encoder', 'timm-map:resnet18')}"
            )
        width = settings.width
        self.target_input, self.neighbour_input, self.global_input = (_fitted(size, width) for _ in range(3))
        self.neighbour_encoder = WindowEncoder(
            width,
            settings.window,
            settings.depth_neighbours,
            settings.heads_neighbours,
            int(settings.ratio_neighbours * width),
            settings.dropout_neighbours,
        )
        self.global_blocks = nn.ModuleList(
            SelfAttentionBlock(
                width,
                settings.heads_global,
                width // settings.heads_global,
                int(settings.ratio_global * width),
                settings.dropout_global,
            )
            for _ in range(settings.depth_global)
        )
        self.positions = ArrayConvolution(width, settings.kernel)
        self.global_norm = nn.LayerNorm(width)
        self.fusion = CrossEncoder(
            width,
            settings.depth_fusion,
            settings.heads_fusion,
            int(settings.ratio_fusion * width),
            settings.dropout_fusion,
        )
        self.fused_head, self.target_head, self.neighbour_head, self.global_head = (
            nn.Linear(width, n_genes) for _ in range(4)
        )

    def check(self, data: Data) -> None:
        """Raise a DataError if two spots have the same array position."""
        if len(data.array.unique(dim=0)) < len(data.array):
            raise DataError(
                f"section {data.section!r}: several spots have the same array position; "
                f"correct obs['array_row'] and obs['array_col'], or choose another method ({setting('model.name')})"
            )

    def losses(self, data: Data) -> dict[str, Tensor]:
        """Compute the losses on the seeds; see :class:`Network`.

        Returns
        -------
        ``loss``, and its parts: ``regression`` of the fused prediction, and ``distillation``, the sum of the branches'
        distances to it, without its weight.
        """
        outputs = self(data, self.encode_section(data), data.seeds)
        observed, alpha = data.y[data.seeds], self.config.alpha
        teacher = outputs.fused.detach() if self.config.detach_teacher else outputs.fused
        branches = (outputs.target, outputs.neighbours, outputs.whole)
        regression = mse(outputs.fused, observed)
        supervised = torch.stack([mse(branch, observed) for branch in branches]).sum()
        distillation = torch.stack([mse(branch, teacher) for branch in branches]).sum()
        loss = regression + (1 - alpha) * supervised + alpha * distillation
        return {"loss": loss, "regression": regression, "distillation": distillation}

    def predict(self, data: Data) -> Tensor:
        """Predict a whole section from its image; see :class:`Network`.

        Raises
        ------
        DataError
            If two spots have the same array position.
        """
        self.check(data)
        whole = self.encode_section(data)
        spots = torch.arange(len(whole), device=whole.device)
        return torch.cat([self(data, whole, some).fused for some in spots.split(_AT_ONCE)])

    def encode_section(self, data: Data) -> Tensor:
        """Compute the global tokens of all spots of a section, ``(n_spots, width)``."""
        h: Tensor = self.global_input(self._pooled(data))
        for i, block in enumerate(self.global_blocks):
            h = block(h)
            if i == 0:
                read = self.positions(h, array_window(data.array, data.array, self.config.kernel))
                h = h + read if self.config.residual_positions else read
        encoded: Tensor = self.global_norm(h)
        return encoded

    def forward(self, data: Data, whole: Tensor, spots: Tensor) -> TRIPLEXOutputs:
        """Predict some spots of a section.

        Parameters
        ----------
        data
            The section.
        whole
            Global tokens of all its spots, from :meth:`encode_section`.
        spots
            Indices of the spots to predict, ``(n,)``.
        """
        query, target = whole[spots], self._target_tokens(data, spots)
        window = array_window(data.array, data.array[spots], self.config.window)
        present = window >= 0
        around = self.neighbour_encoder(read_window(self.neighbour_input(self._pooled(data)), window), present)
        mask = present[:, None, None]
        fused = self.fusion.norm(self._fuse(query, target) + self._fuse(query, around, mask))
        counted = torch.ones_like(present) if self.config.average_absent else present
        share = counted / counted.sum(dim=1, keepdim=True)
        expression = (
            self.fused_head(fused),
            self.target_head(target.mean(dim=1)),
            self.neighbour_head((share.unsqueeze(2).to(around) * around).sum(dim=1)),
            self.global_head(query),
        )
        return TRIPLEXOutputs(*(each.relu() if self.config.non_negative else each for each in expression))

    def _fuse(self, query: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Let queries ``(n, width)`` read tokens, without the final norm, which comes after the sum."""
        h = query.unsqueeze(1)
        for layer in self.fusion.layers:
            h = layer(h, tokens, mask)
        return h.squeeze(1)

    def _target_tokens(self, data: Data, spots: Tensor) -> Tensor:
        read = self.image_input(data)[spots]
        if self.patch_encoder is None:
            features = read.to(self.global_norm.weight)
        else:
            features = self.patch_encoder(random_symmetries(read) if self.training and self.config.augment else read)
        # A flattened feature map is ordered by channel, then by place.
        tokens: Tensor = self.target_input(features.unflatten(1, (-1, self.config.target_tokens)).transpose(1, 2))
        return tokens

    def _pooled(self, data: Data) -> Tensor:
        """Give the fixed features, averaged over the places of the patch."""
        return data.x.to(self.global_norm.weight).unflatten(1, (-1, self.config.target_tokens)).mean(dim=2)


def _fitted(size: int, width: int) -> nn.Module:
    return nn.Identity() if size == width else nn.Linear(size, width)
