"""Hist2ST: a ConvMixer of patches, a transformer over the section, GraphSAGE over neighbours, and self-distillation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isqrt
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch_geometric.data import Data

from nh2st_graph._errors import ConfigError, setting
from nh2st_graph._settings import Positive, Share
from nh2st_graph.models._distilled import SelfDistilled, zero_inflated_loss
from nh2st_graph.models._inputs import as_images, patch_side
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
from nh2st_graph.nn import (
    ArrayEmbedding,
    ConvMixerBlock,
    PatchEncoder,
    SAGEBlock,
    SelfAttentionBlock,
    negative_binomial_nll,
    random_views,
)

__all__ = ["Hist2ST", "Hist2STConfig"]

#: Reduction of the ConvMixer's feature maps before they are flattened.
_SQUEEZE = 8

#: Heads of the likelihoods of counts.
_COUNT_HEADS = {"zinb": ("mean", "dispersion", "zeros"), "nb": ("log_dispersion", "log_odds"), "none": ()}

#: Names of weights here, and in the authors' code.
_ORIGINAL_NAMES = (
    (r"positions\.([xy])\.", r"\1_embed."),
    (r"mixer\.(\d+)\.depthwise\.", r"vit.transformer.layer1.\1.dw."),
    (r"mixer\.(\d+)\.pointwise\.", r"vit.transformer.layer1.\1.pw."),
    (r"flatten\.", "vit.transformer.down."),
    *block_names(r"transformer\.(\d+)", r"vit.transformer.layer2.\1.attn", r"vit.transformer.layer2.\1.ff"),
    (r"graph\.(\d+)\.conv\.lin_l\.", r"vit.transformer.layer3.\1."),
    (r"jumping\.", "vit.transformer.jknet.0."),
    (r"count_heads\.mean\.", "mean.0."),
    (r"count_heads\.dispersion\.", "disp.0."),
    (r"count_heads\.zeros\.", "pi.0."),
    (r"count_heads\.log_dispersion\.", "hr."),
    (r"count_heads\.log_odds\.", "hp."),
    (r"view_weight\.", "coef."),
    (r"head\.", "gene_head."),
)

#: Authors' weights that the prediction does not read.
_ONLY_TRAINING = ("mean.", "disp.", "pi.", "hr.", "hp.", "coef.")


class Hist2STConfig(MethodConfig):
    """Hist2ST's settings; see :class:`nh2st_graph.models.Hist2ST`.

    Attributes
    ----------
    name
        The method.
    channels
        Feature maps of the ConvMixer, which are reduced to an eighth before they are flattened.
    patch_size
        Side of the squares of a patch in pixels; a remainder of the patch is not read. Embeddings have the size ``(side
        // patch_size) ** 2 * channels / 8``.
    kernel_size
        Side of the ConvMixer's depthwise convolutions.
    depth_mixer, depth_transformer, depth_graph
        Number of blocks of each kind.
    heads, head_width
        Number and size of attention heads in a transformer block.
    n_positions
        Length of the tables of array positions, for rows and columns from 0 to ``n_positions - 1``.
    dropout
        Dropout of the embedded squares, and in the transformer.
    aggregation
        Aggregation over neighbours.
    self_loops
        Whether a spot is among its own neighbours. Published: it is not.
    likelihood, weight_likelihood
        Likelihood of counts in addition to the squared error, with its own heads: ``zinb``, ``nb`` or ``none``; and its
        weight.
    nb_like_zinb
        Use size factors and the mean over genes in ``nb``, as in ``zinb``. Published: no size factors, and the sum over
        genes.
    n_views, weight_distillation
        Number of augmented views of the patches for self-distillation (0 for none), and its weight.
    views_apart
        Augment each patch by its own draw. Published: one draw for all patches of a section.
    views_in_statistics
        Views change the running statistics of batch normalisation, as published.
    detach_prediction
        Self-distillation trains the prediction from the views only. Published: it trains both predictions.
    scale_pixels
        Scale pixels from 0 to 1. Published: 0 to 255.
    """

    name: Literal["hist2st"] = "hist2st"
    channels: Annotated[int, Field(gt=0, multiple_of=_SQUEEZE)] = 32
    patch_size: Positive = 7
    kernel_size: Positive = 5
    depth_mixer: Positive = 2
    depth_transformer: Positive = 8
    depth_graph: Positive = 4
    heads: Positive = 16
    head_width: Positive = 64
    n_positions: Positive = 64
    dropout: Share = 0.2
    aggregation: Literal["mean", "max"] = "mean"
    self_loops: bool = False
    likelihood: Literal["zinb", "nb", "none"] = "zinb"
    weight_likelihood: Annotated[float, Field(gt=0)] = 0.25
    nb_like_zinb: bool = False
    n_views: Annotated[int, Field(ge=0)] = 5
    weight_distillation: Annotated[float, Field(gt=0)] = 0.5
    views_apart: bool = False
    views_in_statistics: bool = True
    detach_prediction: bool = False
    scale_pixels: bool = False


@register_method
class Hist2ST(SelfDistilled):
    r"""Hist2ST (Zeng et al., Briefings in Bioinformatics 2022), with the results of the authors' code.

    For spot :math:`i` of a section with edges :math:`E`, its patch :math:`x_i`, and its column :math:`a_i` and row
    :math:`b_i` on the array,

    .. math::
        h^0 = \operatorname{ViT}\big(\operatorname{ConvMixer}(x) + X_a + Y_b\big), \qquad
        h^{l} = \operatorname{SAGE}_l(h^{l-1}, E), \qquad
        z = \frac{1}{L} \sum_l \operatorname{LSTM}(h^1, \dots, h^L)_l, \qquad
        \hat y = U \operatorname{LN}(z)

    with learned tables :math:`X` and :math:`Y`; see :class:`~nh2st_graph.nn.ConvMixerBlock`,
    :class:`~nh2st_graph.nn.SelfAttentionBlock` and :class:`~nh2st_graph.nn.SAGEBlock`. An LSTM of two layers reads the
    rounds in order, and the mean of its states is the jumping knowledge. In training,

    .. math::
        \mathcal{L} = \lVert \hat y - y \rVert^2 + 0.25\, \mathcal{L}_\text{counts}(z)
            + 0.5\, \Big\lVert \hat y - \sum_v \operatorname{softmax}_v\big(c(z_v)\big)\, \hat y_v \Big\rVert^2

    with squared errors averaged over spots and genes, a likelihood of counts with its own heads, and self-distillation
    ("bake") from five views :math:`v` of the patches (:func:`~nh2st_graph.nn.random_views`), which a learned score
    :math:`c` weights for each spot. A step is a whole section (``train.batch_spots`` of at least its number of spots).
    The authors train on 31 sections for 350 epochs, 10850 steps, by Adam at a learning rate of 1e-5 that falls by a
    tenth every 50 epochs, and keep the last weights.

    Oddities of the published form, with the switch for each:

    - GraphSAGE blocks (``gcn=True``) average a spot's neighbours without the spot, since the adjacency has no loops:
      after the first round, a spot reads itself only through others. ``self_loops``.
    - A spot without neighbours gives 0 / 0 there, and the loss is NaN. Here it reads zero, and its prediction does not
      depend on its image; with ``self_loops`` it reads itself.
    - Pixels are from 0 to 255: ``scale_pixels``. Positions end at 63: ``n_positions``.
    - All patches of a section get the same augmentation: ``views_apart``.
    - Neither side of the distillation is detached, so that it trains the prediction as well as its augmented views:
      ``detach_prediction``. (If the views were detached, nothing would train their scores.)
    - Views pass through batch normalisation in training, so that the running statistics, which prediction uses, are
      mostly those of views: ``views_in_statistics``.
    - The negative binomial has no size factors and is summed over genes, while the zero-inflated one is averaged:
      ``nb_like_zinb``.

    Note that the heads of counts train the layers below them but do not predict, and images have x before y, so that
    the "horizontal" flip exchanges top and bottom. Patches have 112 pixels, 77 um on HER2ST: ``features.encoder:
    pixels:112``, ``features.patch_um: 77``, ``features.standardize: none``.

    Edges are those of the section's graph. The authors connect a spot with the four nearest by array position (ties are
    arbitrary), on HER2ST at most two positions away; this graph has edges without a reverse. ``graph.mode: knn`` with
    ``graph.n_neighs: 4`` has no such limit and uses positions in the image, and differs at borders and gaps alone. With
    ``grid`` and four neighbours, spots at borders and gaps have fewer. On Visium's array, where neighbours in a row are
    two columns apart, the authors' graph connects a spot with its four neighbours in other rows.

    Targets are logarithms of base 10 and patches have their centres at whole pixels in the authors' code:
    ``data.log_base: 10``, ``features.floor_centres: true``. The learning rate falls: ``train.decay_epochs: 50``. These
    switches of the configuration are in :attr:`published`, and off by default.

    Parameters
    ----------
    settings, n_features, n_genes, patch_encoder
        As in :class:`Network`.

    Raises
    ------
    ConfigError
        If features are no pixels, or patches are smaller than ``patch_size``.
    """

    Settings: ClassVar[type[Hist2STConfig]] = Hist2STConfig
    config: Hist2STConfig
    published: ClassVar[Mapping[str, Any]] = {
        "data.log_base": 10,
        "features.floor_centres": True,
        "train.decay_epochs": 50,
    }

    def __init__(
        self, settings: Hist2STConfig, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None
    ) -> None:
        super().__init__(settings, n_features, n_genes, patch_encoder)
        channels, size = settings.channels, settings.patch_size
        side = patch_side(n_features, patch_encoder, "Hist2ST")
        if side < size:
            raise ConfigError(
                f"{setting('model.patch_size', size)} is more than the {side} pixels of a patch; give less"
            )
        width = (side // size) ** 2 * (channels // _SQUEEZE)
        self.patch_embedding = nn.Conv2d(3, channels, size, stride=size)
        self.dropout = nn.Dropout(settings.dropout)
        self.mixer = nn.Sequential(
            *(ConvMixerBlock(channels, settings.kernel_size) for _ in range(settings.depth_mixer))
        )
        self.flatten = nn.Sequential(nn.Conv2d(channels, channels // _SQUEEZE, kernel_size=1), nn.Flatten())
        self.positions = ArrayEmbedding(settings.n_positions, width)
        self.transformer = nn.Sequential(
            *(
                SelfAttentionBlock(width, settings.heads, settings.head_width, width, settings.dropout)
                for _ in range(settings.depth_transformer)
            )
        )
        self.graph = nn.ModuleList(
            SAGEBlock(width, settings.aggregation, settings.self_loops) for _ in range(settings.depth_graph)
        )
        self.jumping = nn.LSTM(width, width, num_layers=2)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_genes))
        self.count_heads = nn.ModuleDict(
            {name: nn.Linear(width, n_genes) for name in _COUNT_HEADS[settings.likelihood]}
        )
        if settings.n_views:
            self.view_weight = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    @classmethod
    def from_original(cls, state_dict: Mapping[str, Any], **settings: Any) -> Hist2ST:
        """Take the weights of a model trained with the authors' code.

        Sizes are those of the weights. With ``likelihood="none"`` and ``n_views=0``, weights for training alone are
        left out; the log lists them.

        Parameters
        ----------
        state_dict
            ``state_dict`` of the authors' model, or a Lightning checkpoint that holds one.
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
        values = {**_sizes(weights, settings.get("heads", 16)), **settings}
        width = original_weight(weights, "x_embed.weight", "Hist2ST").shape[1]
        side = values["patch_size"] * isqrt(width * _SQUEEZE // values["channels"])
        n_genes = len(original_weight(weights, "gene_head.1.weight", "Hist2ST"))
        model = cls(parse_settings(Hist2STConfig, values), 3 * side**2, n_genes)
        model.log_base = cls.published["data.log_base"]
        load_original(model, weights, _ORIGINAL_NAMES, "Hist2ST", _ONLY_TRAINING)
        return model

    def _images(self, data: Data) -> Tensor:
        """Give images with colours first, and x before y as in the authors' code."""
        images = as_images(self.features(data)).permute(0, 3, 2, 1).to(self.patch_embedding.weight.dtype)
        return images / 255 if self.config.scale_pixels else images

    def embed(self, images: Tensor, data: Data) -> Tensor:
        """Embed the spots of one section, ``(n_spots, width)``; see :class:`SelfDistilled`."""
        mixed = self.mixer(self.dropout(self.patch_embedding(images)))
        h = self.transformer(self.flatten(mixed) + self.positions(data.array))
        rounds = []
        for block in self.graph:
            h = block(h, data.edge_index)
            rounds.append(h)
        states, _ = self.jumping(torch.stack(rounds))
        mean: Tensor = states.mean(dim=0)
        return mean

    def _likelihood(self, embedded: Tensor, data: Data) -> Tensor | None:
        """Compute the likelihood loss of the seeds, averaged over spots and genes (published NB: summed over genes)."""
        if not self.count_heads:
            return None
        counts = data.counts[data.seeds]
        # By the median over the whole section.
        size_factor = (data.library / data.library.quantile(0.5).clamp_min(1))[data.seeds]
        read = {name: head(embedded).to(counts.dtype) for name, head in self.count_heads.items()}
        if self.config.likelihood == "zinb":
            return zero_inflated_loss(counts, size_factor, read["mean"], read["dispersion"], read["zeros"])
        log_dispersion = read["log_dispersion"]
        mean = (log_dispersion + read["log_odds"]).exp()
        if self.config.nb_like_zinb:
            return negative_binomial_nll(counts, (mean * size_factor).clamp_min(1e-8), log_dispersion).mean()
        return (negative_binomial_nll(counts, mean, log_dispersion) - torch.lgamma(counts + 1)).sum(dim=1).mean()

    def _predict_from_views(self, images: Tensor, data: Data) -> Tensor:
        """Predict the seeds from augmented views, weighted for each spot by its embeddings."""
        predictions, scores = [], []
        with self._statistics_kept(not self.config.views_in_statistics):
            for _ in range(self.config.n_views):
                views = random_views(images, apart=self.config.views_apart)
                embedded = self.embed(views, data)[data.seeds]
                predictions.append(self.head(embedded))
                scores.append(self.view_weight(embedded))
        return (torch.stack(scores).softmax(dim=0) * torch.stack(predictions)).sum(dim=0)

    @contextmanager
    def _statistics_kept(self, kept: bool) -> Iterator[None]:
        """Keep the running statistics of batch normalisation unchanged in training."""
        norms = [module for module in self.mixer.modules() if isinstance(module, nn.BatchNorm2d)]
        try:
            for norm in norms:
                norm.track_running_stats = not kept
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True


def _sizes(weights: Mapping[str, Tensor], heads: int) -> dict[str, Any]:
    """Read settings from the sizes of the authors' weights."""
    channels, _, size, _ = original_weight(weights, "patch_embedding.weight", "Hist2ST").shape
    first = original_weight(weights, "vit.transformer.layer1.0.dw.0.weight", "Hist2ST")
    attention = original_weight(weights, "vit.transformer.layer2.0.attn.fn.to_qkv.weight", "Hist2ST")
    likelihood = "zinb" if "mean.0.weight" in weights else "nb" if "hr.weight" in weights else "none"
    return {
        "channels": channels,
        "patch_size": size,
        "kernel_size": first.shape[-1],
        "depth_mixer": count_blocks(weights, r"vit\.transformer\.layer1\.\d+\.dw\.0\.weight"),
        "depth_transformer": count_blocks(weights, r"vit\.transformer\.layer2\.\d+\.attn\.norm\.weight"),
        "depth_graph": count_blocks(weights, r"vit\.transformer\.layer3\.\d+\.weight"),
        "head_width": size_of_head(attention, heads),
        "n_positions": len(original_weight(weights, "x_embed.weight", "Hist2ST")),
        "likelihood": likelihood,
        **({} if "coef.0.weight" in weights else {"n_views": 0}),
    }
