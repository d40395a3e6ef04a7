"""HGGEP: stages of a convolutional trunk, each attended to over the section, and a hypergraph over their sum."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

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
        Of the trunk: its first convolution, its shuffled stages, its last convolution. Published: ShuffleNet V2 x0.5.
    blocks
        Units of each shuffled stage.
    width
        Size of a stage's embedding; a multiple of the number of places of the trunk's last maps.
    depth, heads, head_width
        Transformer blocks of a stage, attention heads in each, and the size of a head.
    jumping_layers
        Of the LSTM that reads the stages.
    hidden
        Between the two hypergraph convolutions.
    n_positions
        Length of the tables of array positions: rows and columns from 0 to one less are known.
    association
        Which spots share a hyperedge: ``published``, as the code has it; ``nearest``, those nearest in space and in
        features.
    k
        Spots that a spot is joined to, beside one more (published) or itself (nearest).
    border
        The gradient enhancement's last convolution, of one pixel, is padded by one.
    dropout, dropout_hypergraph
        In the transformers, and between the hypergraph convolutions.
    dropout_in_prediction
        Drop hidden units of the hypergraph in prediction too.
    weight_likelihood
        Of the counts' likelihood, beside the regression's 1; 0 for none.
    n_views, weight_distillation
        Augmented views of the patches whose joint prediction is to agree with that from the patches themselves, 0 for
        none; and the weight of their squared distance.
    views_apart
        Each patch is augmented by a draw of its own. Published: one draw for a section's patches.
    detach_prediction
        The views' prediction is drawn to the other, which is not drawn to it. Published: each to the other.
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

    A trunk sees each patch: the gradient enhancement module (an ordinary convolution beside one of differences to the
    centre), then ShuffleNet V2. Its feature maps :math:`F_s` at three stages (the last shuffled stage, the last
    convolution, and that pooled by its maximum) are attended to (CBAM), made embeddings, and told their places; a
    transformer over the section's spots refines each stage; the hypergraph :math:`A` is over the sum of the stages, and
    an LSTM reads the stages and it, as a sequence for each spot:

    .. math::
        h_s = \operatorname{ViT}_s\big(\operatorname{CBAM}_s(F_s) W_s + X_a + Y_b\big), \qquad
        h = \textstyle\sum_s h_s, \qquad
        g = h + \operatorname{HG}(h, A), \qquad
        \hat y = U \operatorname{LN}\big(\operatorname{mean} \operatorname{LSTM}(h_1, h_2, h_3, g)\big)

    with tables :math:`X` and :math:`Y` of array positions, and two hypergraph convolutions with a layer norm between
    them as :math:`\operatorname{HG}`. The loss is the squared error, a zero-inflated negative binomial of the panel's
    counts (relative to the section's median depth), and self-distillation: augmented views, weighed by a learned
    softmax, are to predict what the patches as they are predict.

    ``features.encoder: pixels:112`` with ``features.standardize: none`` is the published input, and
    ``graph.mode: knn`` with ``graph.n_neighs: 8`` the published graph (which leaves out what is more than two pitches
    away). A step reads the whole section: let ``train.batch_spots`` be no less than its spots. The authors train with
    Adam at 1e-5 for 500 epochs, and keep the weights that do best on the test section.

    What is odd about the published form, and the switch for each:

    - The spots that a spot is joined to are those with the **largest** sum of adjacency and distance in features (each
      a share of the spot's total): of its neighbours in space, the least similar. They are not members of its
      hyperedge, it is a member of theirs; and each pair's sum goes in as a hyperedge's weight, although there are more
      pairs than hyperedges, so that a hyperedge has the weight of some other pair and the prediction depends on the
      order of the spots. ``association: nearest`` joins each spot with the ``k`` for which the sum of distances in
      space and in features is smallest, in a hyperedge of its own, and weighs none. A spot without neighbours in space
      makes theirs no number; here its features alone decide.
    - Half of the hypergraph's hidden units are dropped in prediction as in training: ``dropout_in_prediction``. Which
      ones is drawn from a fixed seed here, so that a section gets the same prediction every time.
    - A convolution of one pixel is padded, which gives the enhanced image a border of one colour: ``border``.
    - A view is drawn for all patches of a section alike, and the prediction is drawn to the views' as they are to it:
      ``views_apart``, ``detach_prediction``.
    - Positions end at 63, which is enough for ST arrays and not for Visium's: ``n_positions``.
    - The optimiser is made anew every five epochs, which undoes the decay of its learning rate; patches are mirrored
      along their diagonal. Neither is done here. Pixels go in as 0 to 255, of which batch normalisation, right behind
      the first convolution, leaves no trace.

    The published trunk starts from weights of ImageNet, this one from random weights.

    Parameters
    ----------
    settings, n_features, n_genes, patch_encoder
        As in :class:`Network`.

    Raises
    ------
    ConfigError
        If features are no pixels, or ``model.width`` does not go with the size of the patches.
    """

    Settings: ClassVar[type[HGGEPConfig]] = HGGEPConfig
    config: HGGEPConfig

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
        """Zero-inflated negative binomial of the seeds' counts, relative to the section's median depth."""
        if not self.config.weight_likelihood:
            return None
        depth = data.counts.sum(dim=1, keepdim=True)
        size_factor = (depth / depth.quantile(0.5).clamp_min(1))[data.seeds]
        heads = (head(embedded) for head in (self.mean, self.dispersion, self.zeros))
        return zero_inflated_loss(data.counts[data.seeds], size_factor, *heads)

    def _predict_from_views(self, images: Tensor, data: Data) -> Tensor:
        """Predict the seeds from augmented views, each spot's weighted by the embeddings of its own."""
        views = [random_views(images, apart=self.config.views_apart) for _ in range(self.config.n_views)]
        embedded = torch.stack([self.embed(view, data)[data.seeds] for view in views])
        weighted: Tensor = (self.view_weight(embedded).softmax(dim=0) * self.head(embedded)).sum(dim=0)
        return weighted


class HypergraphAssociation(nn.Module):
    """Two hypergraph convolutions over spots that are joined by space and features, added to what goes in.

    Parameters
    ----------
    settings
        ``width``, ``hidden``, ``association``, ``k``, and the dropout and whether it is in prediction.

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
    """Make each spot a member of the hyperedges of those with the largest adjacency and distance in features.

    Parameters
    ----------
    features
        ``(n, d)``.
    edge_index
        Sender and receiver, ``(2, n_edges)``.
    k
        One less than the hyperedges of a spot.

    Returns
    -------
    PyG's ``hyperedge_index`` (member, hyperedge), ``(2, n * (k + 1))``, and the hyperedges' weights, which are those of
    the first ``n`` pairs, ``(n,)``.
    """
    n = len(features)
    sender, receiver = edge_index
    adjacent = features.new_zeros(n, n)
    adjacent[receiver, sender] = 1
    # A spot without neighbours has no share to give; the authors' code divides by zero.
    adjacent = adjacent / adjacent.sum(dim=1, keepdim=True).clamp_min(1)
    score, chosen = (adjacent + _shares(features)).topk(min(k + 1, n), dim=1)
    member = torch.arange(n, device=features.device).repeat_interleave(chosen.shape[1])
    return torch.stack([member, chosen.flatten()]), score.flatten()[:n]


@torch.no_grad()
def nearest_hyperedges(features: Tensor, pos: Tensor, k: int) -> Tensor:
    """Give each spot a hyperedge of itself and the ``k`` spots that are nearest to it in space and in features.

    Parameters
    ----------
    features, pos
        ``(n, d)`` and ``(n, 2)``; a distance in either counts as its share of the sum of the spot's distances.
    k
        Number of other spots in a hyperedge; all others where there are fewer.

    Returns
    -------
    PyG's ``hyperedge_index`` (member, hyperedge), ``(2, n * (k + 1))``.
    """
    n = len(features)
    apart = _shares(features) + _shares(pos.to(features))
    # First of all, whatever else is as near.
    member = apart.fill_diagonal_(-1).topk(min(k + 1, n), dim=1, largest=False).indices
    hyperedge = torch.arange(n, device=features.device).repeat_interleave(member.shape[1])
    return torch.stack([member.flatten(), hyperedge])


def _shares(points: Tensor) -> Tensor:
    """Distances between points, each as a share of the sum of its row, ``(n, n)``."""
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
