"""HGGEP: transformers over the section for each stage of a convolutional trunk, and a hypergraph over their sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import HypergraphConv

from nh2st_graph._errors import ConfigError, setting
from nh2st_graph._settings import Positive, SettingError, Share
from nh2st_graph.models._distilled import SelfDistilled, zero_inflated_loss
from nh2st_graph.models._inputs import as_images, patch_side
from nh2st_graph.models._registry import register_method
from nh2st_graph.models._settings import MethodConfig
from nh2st_graph.nn import (
    ArrayEmbedding,
    BlockAttention,
    PatchEncoder,
    SelfAttentionBlock,
    ShuffleTrunk,
    random_views,
)

__all__ = ["HGGEP", "HGGEPConfig"]


class HGGEPConfig(MethodConfig):
    """HGGEP's settings, as published; see :class:`HGGEP`.

    Attributes
    ----------
    name
        The method.
    channels
        Channels of the trunk's first convolution, shuffled stages and last convolution. Published: ShuffleNet V2 x0.5.
    blocks
        Number of units of each shuffled stage.
    width
        Size of a stage's embedding; a multiple of the number of places of the trunk's last maps.
    depth, heads, head_width
        Number of transformer blocks of a stage, of attention heads in each block, and size of a head.
    jumping_layers
        Layers of the LSTM over the stages.
    hidden
        Units between the two hypergraph convolutions.
    n_positions
        Length of the tables of array positions, for rows and columns from 0 to ``n_positions - 1``.
    association
        Spots that share a hyperedge: ``published``, as in the code; ``nearest``, the nearest in space and features.
    k
        Number of spots in the association of a spot: one more with ``published``, and the spot itself in addition with
        ``nearest``.
    border
        Pad the last convolution of the gradient enhancement, of one pixel, by one pixel.
    dropout, dropout_hypergraph
        Dropout in the transformers, and between the hypergraph convolutions.
    dropout_in_prediction
        Use the dropout of the hypergraph in prediction too.
    weight_likelihood
        Weight of the likelihood of counts, against a weight of 1 of the regression; 0 for none.
    n_views, weight_distillation
        Number of augmented views of the patches for self-distillation (0 for none), and its weight.
    views_apart
        Augment each patch by its own draw. Published: one draw for all patches of a section.
    detach_prediction
        Self-distillation trains the prediction from the views only. Published: it trains both predictions.
    """

    name: Literal["hggep"] = "hggep"
    channels: tuple[Positive, ...] = (24, 48, 96, 192, 1024)
    blocks: tuple[Positive, ...] = (4, 8, 4)
    width: Positive = 1024
    depth: Positive = 4
    heads: Positive = 16
    head_width: Positive = 64
    jumping_layers: Positive = 4
    hidden: Positive = 512
    n_positions: Positive = 64
    association: Literal["published", "nearest"] = "published"
    k: Positive = 3
    border: bool = True
    dropout: Share = 0.2
    dropout_hypergraph: Share = 0.5
    dropout_in_prediction: bool = True
    weight_likelihood: Annotated[float, Field(ge=0)] = 0.25
    n_views: Annotated[int, Field(ge=0)] = 5
    weight_distillation: Annotated[float, Field(gt=0)] = 0.5
    views_apart: bool = False
    detach_prediction: bool = False

    @model_validator(mode="after")
    def _check(self) -> HGGEPConfig:
        if len(self.channels) != len(self.blocks) + 2:
            raise SettingError(
                f"{setting('model.channels')} has {len(self.channels)} sizes and {setting('model.blocks')} "
                f"{len(self.blocks)} stages; give two sizes more than stages"
            )
        odd = [size for size in self.channels[1:-1] if size % 2]
        if odd:
            raise SettingError(
                f"{setting('model.channels')} has {odd[0]} in a shuffled stage, which halves it; give even sizes"
            )
        return self


@register_method
class HGGEP(SelfDistilled):
    r"""HGGEP (Li et al., Briefings in Bioinformatics 2024; ``QSong-github/HGGEP``).

    A trunk encodes each patch: the gradient enhancement module (a convolution and a difference convolution in
    parallel), then ShuffleNet V2. Its feature maps :math:`F_s` at three stages (the last shuffled stage, the last
    convolution, and its maximum) pass through attention (CBAM) and a linear map, and get embeddings of positions. A
    transformer over the spots of the section refines each stage. The hypergraph :math:`A` connects spots by the sum of
    the stages, and an LSTM reads the stages and its result as a sequence for each spot:

    .. math::
        h_s = \operatorname{ViT}_s\big(\operatorname{CBAM}_s(F_s) W_s + X_a + Y_b\big), \qquad
        h = \textstyle\sum_s h_s, \qquad
        g = h + \operatorname{HG}(h, A), \qquad
        \hat y = U \operatorname{LN}\big(\operatorname{mean} \operatorname{LSTM}(h_1, h_2, h_3, g)\big)

    with tables :math:`X` and :math:`Y` of array positions, and two hypergraph convolutions with a layer norm between
    them as :math:`\operatorname{HG}`. The loss is the squared error, a zero-inflated negative binomial of the panel's
    counts (relative to the section's median depth), and self-distillation: the prediction from augmented views,
    weighted by a learned softmax, should equal that from the patches.

    ``features.encoder: pixels:112`` with ``features.standardize: none`` is the published input, and ``graph.mode: knn``
    with ``graph.n_neighs: 8`` the published graph (which leaves out spots more than two pitches away). A step reads the
    whole section: set ``train.batch_spots`` to its number of spots at least. The authors train with Adam at 1e-5 for
    500 epochs, and keep the weights with the best score on the test section.

    Oddities of the published form, with the switch for each:

    - A spot is associated with the spots with the **largest** sum of adjacency and feature distance (each as a share of
      the spot's total): the least similar of its spatial neighbours. These are not members of its hyperedge; the spot
      is a member of theirs. The sum of each pair is used as the weight of a hyperedge, although there are more pairs
      than hyperedges, so that a hyperedge has the weight of another pair, and the prediction depends on the order of
      the spots. ``association: nearest`` gives each spot a hyperedge with the ``k`` spots with the smallest sum of
      spatial and feature distance, and no weights. A spot without spatial neighbours gives NaN in the authors' code;
      here its features alone count.
    - Dropout of half of the hypergraph's hidden units is on in prediction too: ``dropout_in_prediction``. Here it has a
      fixed seed, so that the prediction of a section is always the same.
    - A convolution of one pixel is padded, which gives the enhanced image a border of constant colour: ``border``.
    - All patches of a section get the same augmentation, and self-distillation trains both predictions:
      ``views_apart``, ``detach_prediction``.
    - Positions end at 63, which is enough for arrays of ST but not of Visium: ``n_positions``.
    - A new optimiser every five epochs resets the decay of the learning rate, and patches are mirrored along their
      diagonal. Neither is done here. Pixels are from 0 to 255, which has no effect, since batch normalisation follows
      the first convolution.

    The published trunk starts from ImageNet weights, this one from random weights.

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
        If features are no pixels, or ``width`` does not fit the size of the patches.
    """

    Settings: ClassVar[type[HGGEPConfig]] = HGGEPConfig
    config: HGGEPConfig
    published: ClassVar[Mapping[str, Any]] = {"data.log_base": 10, "features.floor_centres": True}

    def __init__(
        self, settings: HGGEPConfig, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None
    ) -> None:
        super().__init__(settings, n_features, n_genes, patch_encoder)
        side = patch_side(n_features, patch_encoder, "HGGEP")
        self.trunk = ShuffleTrunk(settings.channels, settings.blocks, settings.border)
        width, n_places = settings.width, self.trunk.last_side(side) ** 2
        if width % n_places:
            raise ConfigError(
                f"{setting('model.width', width)} is no multiple of {n_places}, the places that the trunk leaves of a "
                f"patch ({setting('features.encoder')}), and each gets an equal part; give a multiple"
            )
        low, high = settings.channels[-2:]
        self.refine = nn.ModuleList(
            [_refinement(low, width // n_places), _refinement(high, width // n_places), _refinement(high, width)]
        )
        self.positions = ArrayEmbedding(settings.n_positions, width)
        self.transformers = nn.ModuleList(_transformer(settings) for _ in self.refine)
        self.hypergraph = HypergraphAssociation(settings)
        self.jumping = nn.LSTM(width, width, settings.jumping_layers)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_genes))
        if settings.weight_likelihood:
            self.mean, self.dispersion, self.zeros = (nn.Linear(width, n_genes) for _ in range(3))
        if settings.n_views:
            self.view_weight = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    def embed(self, images: Tensor, data: Data) -> Tensor:
        """Embed the spots of one section, ``(n_spots, width)``; see :class:`SelfDistilled`."""
        places = self.positions(data.array)
        stages = [
            transformer(refine(maps) + places)
            for maps, refine, transformer in zip(self.trunk(images), self.refine, self.transformers, strict=True)
        ]
        joined = self.hypergraph(torch.stack(stages).sum(dim=0), data.edge_index, data.pos)
        read, _ = self.jumping(torch.stack([*stages, joined]))
        return read.mean(dim=0)

    def _images(self, data: Data) -> Tensor:
        return as_images(self.features(data)).permute(0, 3, 1, 2)

    def _likelihood(self, embedded: Tensor, data: Data) -> Tensor | None:
        """Compute the zero-inflated negative binomial loss of the seeds, relative to the section's median depth."""
        if not self.config.weight_likelihood:
            return None
        depth = data.counts.sum(dim=1, keepdim=True)
        size_factor = (depth / depth.quantile(0.5).clamp_min(1))[data.seeds]
        heads = (head(embedded) for head in (self.mean, self.dispersion, self.zeros))
        return zero_inflated_loss(data.counts[data.seeds], size_factor, *heads)

    def _predict_from_views(self, images: Tensor, data: Data) -> Tensor:
        """Predict the seeds from augmented views, weighted for each spot by its embeddings."""
        views = [random_views(images, apart=self.config.views_apart) for _ in range(self.config.n_views)]
        embedded = torch.stack([self.embed(view, data)[data.seeds] for view in views])
        weighted: Tensor = (self.view_weight(embedded).softmax(dim=0) * self.head(embedded)).sum(dim=0)
        return weighted


class HypergraphAssociation(nn.Module):
    """Two residual hypergraph convolutions over spots that are associated by space and features.

    Parameters
    ----------
    settings
        Settings of the method, of which ``width``, ``hidden``, ``association``, ``k``, ``dropout_hypergraph`` and
        ``dropout_in_prediction`` are read.

    Shapes
    ------
    - **input:** ``x`` ``(n, width)``, ``edge_index`` ``(2, n_edges)`` (sender, receiver), ``pos`` ``(n, 2)``
    - **output:** ``(n, width)``
    """

    def __init__(self, settings: HGGEPConfig) -> None:
        super().__init__()
        self.settings = settings
        self.first = HypergraphConv(settings.width, settings.hidden)
        self.second = HypergraphConv(settings.hidden, settings.width)
        self.norm = nn.LayerNorm(settings.hidden)

    def forward(self, x: Tensor, edge_index: Tensor, pos: Tensor) -> Tensor:
        """See the class for shapes."""
        if self.settings.association == "published":
            hyperedges, weight = published_hyperedges(x, edge_index, self.settings.k)
        else:
            hyperedges, weight = nearest_hyperedges(x, pos, self.settings.k), None
        h = self._drop(self.norm(self.first(x, hyperedges, weight).relu()))
        joined: Tensor = self.second(h, hyperedges, weight) + x
        return joined

    def _drop(self, h: Tensor) -> Tensor:
        share = self.settings.dropout_hypergraph
        if self.training or not self.settings.dropout_in_prediction:
            return F.dropout(h, share, self.training)
        kept = torch.rand(h.shape, generator=torch.Generator().manual_seed(0)) >= share
        return h * kept.to(h.device) / (1 - share)


@torch.no_grad()
def published_hyperedges(features: Tensor, edge_index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Make each spot a member of the hyperedges of the spots with the largest adjacency plus feature distance.

    Parameters
    ----------
    features
        ``(n, d)``.
    edge_index
        Sender and receiver, ``(2, n_edges)``.
    k
        Number of hyperedges of a spot, minus one.

    Returns
    -------
    PyG's ``hyperedge_index`` (member, hyperedge), ``(2, n * (k + 1))``, and the weights of the hyperedges, ``(n,)``,
    which are those of the first ``n`` pairs.
    """
    n = len(features)
    sender, receiver = edge_index
    adjacent = features.new_zeros(n, n)
    adjacent[receiver, sender] = 1
    # A spot without neighbours has no shares; the authors' code divides by zero.
    adjacent = adjacent / adjacent.sum(dim=1, keepdim=True).clamp_min(1)
    score, chosen = (adjacent + _shares(features)).topk(min(k + 1, n), dim=1)
    member = torch.arange(n, device=features.device).repeat_interleave(chosen.shape[1])
    return torch.stack([member, chosen.flatten()]), score.flatten()[:n]


@torch.no_grad()
def nearest_hyperedges(features: Tensor, pos: Tensor, k: int) -> Tensor:
    """Give each spot a hyperedge of itself and the ``k`` spots nearest in space and features.

    Parameters
    ----------
    features, pos
        ``(n, d)`` and ``(n, 2)``; each distance counts as a share of the sum of the spot's distances.
    k
        Number of other spots in a hyperedge; all others if there are fewer.

    Returns
    -------
    PyG's ``hyperedge_index`` (member, hyperedge), ``(2, n * (k + 1))``.
    """
    n = len(features)
    apart = _shares(features) + _shares(pos.to(features))
    # Put the spot itself first, also among ties.
    member = apart.fill_diagonal_(-1).topk(min(k + 1, n), dim=1, largest=False).indices
    hyperedge = torch.arange(n, device=features.device).repeat_interleave(member.shape[1])
    return torch.stack([member.flatten(), hyperedge])


def _shares(points: Tensor) -> Tensor:
    """Compute distances between points, as shares of the sum of each row, ``(n, n)``."""
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    return distance / distance.sum(dim=1, keepdim=True).clamp_min(torch.finfo(points.dtype).tiny)


def _refinement(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        BlockAttention(channels), nn.BatchNorm2d(channels), nn.Conv2d(channels, outputs, 1), nn.Flatten()
    )


def _transformer(settings: HGGEPConfig) -> nn.Sequential:
    width = settings.width
    block = (width, settings.heads, settings.head_width, width, settings.dropout)
    return nn.Sequential(*(SelfAttentionBlock(*block) for _ in range(settings.depth)))
