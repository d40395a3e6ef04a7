"""NH2ST-Graph: the query branch, the neighbour branch and their alignment with the genes."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from nh2st_graph.config import TARGET_SUM, ModelConfig
from nh2st_graph.nn import (
    ComponentDecoder,
    FeatureEncoder,
    NeighbourBranch,
    SpatialAttention,
    chance_level,
    info_nce,
    negative_binomial_nll,
    retrieval_at_k,
)

__all__ = ["ImageSide", "NH2STGraph"]

#: Columns of ``gr.EDGE_FEATURES`` that each setting of ``model.edge_features`` reads.
_EDGE_DIM = {"none": 0, "distance": 1, "direction": 3}

#: Letters, in the class's formulas, of the image and the gene embedding at each scale.
_LETTERS = {"spot": ("p", "q"), "neighbourhood": ("P", "Q")}

#: Sharpness of the softplus that keeps a negative binomial's rate above zero, in units of log expression.
_SHARPNESS = 5.0


class ImageSide(NamedTuple):
    """What the image alone gives: embeddings of the spot and of its neighbourhood, and the prediction."""

    query: Tensor
    neighbourhood: Tensor
    expression: Tensor


class GeneSide(NamedTuple):
    """Gene embeddings of the spot and of its neighbourhood; training only."""

    query: Tensor
    neighbourhood: Tensor


class NH2STGraph(nn.Module):
    r"""Spatial gene expression from image features over a graph of spots.

    For spot :math:`i` with image features :math:`x_i` and, in training, expression :math:`g_i`:

    .. math::
        p = f_\text{img}(x), \quad P = \operatorname{MP}_\text{img}(p, E), \qquad
        q = f_\text{gene}(g), \quad Q = \operatorname{MP}_\text{gene}(q, E), \qquad
        \hat y = \operatorname{decoder}(p, P)

    The query branch (:math:`p`), the neighbour branch (:math:`P`), the contrast of both with the genes, and the
    cross-attention between modalities are those of NH2ST (Qu et al., MICCAI 2025, arXiv 2506.23827) as message passing
    over spots. **The prediction is computed from the image side alone**: :meth:`forward` has no gene argument.

    Two things differ from the published order. The contrast is, by default, between embeddings that have not seen
    each other (``contrast_on="independent"``); with ``"attended"``, both sides pass through cross-attention first, as
    published, and at the scale of the neighbourhood each then holds the other's measurements, so that the loss can be
    solved without learning. And cross-attention has the spatial neighbourhood, without the spot itself, as keys and
    values, so that it is a choice between several and its outcome can be asked to fill in the spot's own expression
    (``weight_cross``) from its picture and its neighbours' genes.

    Parameters
    ----------
    config
        The model's switches.
    n_features
        Size of a spot's image features.
    n_genes
        Size of the panel.
    """

    def __init__(self, config: ModelConfig, n_features: int, n_genes: int) -> None:
        super().__init__()
        self.config = config
        edge_dim = _EDGE_DIM[config.edge_features]
        layer = partial(SpatialAttention, config.width, config.heads, edge_dim, config.dropout)
        neighbours = partial(NeighbourBranch, config.width, config.heads, config.hops, edge_dim, config.dropout)
        n_inputs = config.query + config.neighbours
        self.image_encoder = FeatureEncoder(n_features, config.width, config.dropout)
        self.image_neighbours = neighbours() if config.neighbours else None
        self.decoder = ComponentDecoder(config.width, n_inputs, n_genes, config.rank)
        self.log_dispersion = nn.Parameter(torch.zeros(n_genes)) if config.regression == "nb" else None

        if self.reads_genes:
            self.gene_encoder = FeatureEncoder(config.rank, config.width, config.dropout)
            self.gene_neighbours = neighbours() if config.neighbours else None
            self.projections = nn.ModuleDict(
                {name: nn.Linear(config.width, config.width) for name in ("p", "q", "P", "Q")}
            )
        if self.attends:
            self.cross = nn.ModuleDict({name: layer() for name in ("p", "q", "P", "Q")})
            self.cross_head = nn.Linear(2 * config.width, config.rank, bias=False)

    @property
    def contrasts(self) -> tuple[str, ...]:
        """Scales at which the modalities are contrasted: of ``"spot"`` and ``"neighbourhood"``."""
        wanted = ("spot", "neighbourhood") if self.config.contrast == "both" else (self.config.contrast,)
        there = {"spot": self.config.query, "neighbourhood": self.config.neighbours}
        return tuple(scale for scale in wanted if there.get(scale))

    @property
    def attends(self) -> bool:
        """Whether there is cross-attention between the modalities."""
        return self.config.cross_attention != "none"

    @property
    def reads_genes(self) -> bool:
        """Whether training has a gene side."""
        return bool(self.contrasts) or self.attends

    @property
    def receptive_hops(self) -> int:
        """How many edges away a spot's loss reaches: the halo that makes a cut-out of a section exact."""
        return (self.config.hops if self.config.neighbours else 0) + int(self.attends)

    def set_targets(self, targets: Tensor) -> None:
        """Take the expression components from training targets, ``(n_spots, n_genes)``. Call before training."""
        self.decoder.set_components(targets)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> ImageSide:
        """Predict from the image side.

        Parameters
        ----------
        x
            Image features, ``(n_spots, n_features)``.
        edge_index, edge_attr
            The spatial graph, as :func:`nh2st_graph.gr.spatial_edges` gives it.

        Returns
        -------
        Embeddings, ``(n_spots, width)`` each, and expression on the scale of the targets, ``(n_spots, n_genes)``. The
        neighbourhood's embedding is zero where the neighbour branch is off.
        """
        query, neighbourhood = self._embed(self.image_encoder, self.image_neighbours, x, edge_index, edge_attr)
        return ImageSide(query, neighbourhood, self._decode(query, neighbourhood))

    def genes(self, targets: Tensor, edge_index: Tensor, edge_attr: Tensor) -> GeneSide:
        """Embed measured expression, ``(n_spots, n_genes)`` on the scale of the targets.

        Raises
        ------
        RuntimeError
            If the configuration has no gene side (no contrast, no cross-attention).
        """
        if not self.reads_genes:
            raise RuntimeError("this model has no gene side: model.contrast and model.cross_attention are 'none'")
        scores = self.decoder.scores(targets)
        return GeneSide(*self._embed(self.gene_encoder, self.gene_neighbours, scores, edge_index, edge_attr))

    def losses(self, data: Data) -> dict[str, Tensor]:
        """Compute every loss on a graph in training.

        Parameters
        ----------
        data
            With ``x``, ``edge_index``, ``edge_attr``, ``y`` (targets), ``counts`` and ``library`` (for the negative
            binomial), and ``seeds``: the spots on which losses are taken; the others are their surroundings.

        Returns
        -------
        ``loss``, the weighted sum, and its parts: ``regression``, ``contrast_spot``, ``contrast_neighbourhood``,
        ``cross`` (those that are on), and for the contrasts the chance level and the share of pairs retrieved among
        the nearest ten.
        """
        seeds = data.seeds
        image = self(data.x, data.edge_index, data.edge_attr)
        parts = {"regression": self._regression(image.expression[seeds], data, seeds)}
        total = parts["regression"]
        if self.reads_genes:
            pairs = self._pairs(image, data)
            if self.attends:
                attended = self._attend(pairs, data.edge_index, data.edge_attr)
                filled_in = self.cross_head(torch.cat([attended["p"], attended["P"]], dim=1)[seeds])
                parts["cross"] = self._explained(filled_in, data.y[seeds])
                total = total + self.config.weight_cross * parts["cross"]
                pairs = attended if self.config.contrast_on == "attended" else pairs
            contrast, weighted = self._contrast(pairs, seeds)
            parts |= contrast
            total = total + weighted
        return {"loss": total, **parts}

    @torch.no_grad()
    def alignment(self, data: Data) -> dict[str, float]:
        """Share of a section's spots whose gene embedding is among the ten nearest to their image embedding.

        Measured on a held-out section, this says whether the contrast taught anything that carries over; chance is ten
        over the number of spots.

        Returns
        -------
        ``retrieval_spot`` and ``retrieval_neighbourhood``, those that are contrasted.
        """
        if not self.contrasts:
            return {}
        pairs = self._pairs(self(data.x, data.edge_index, data.edge_attr), data)
        if self.attends and self.config.contrast_on == "attended":
            pairs = self._attend(pairs, data.edge_index, data.edge_attr)
        return {f"retrieval_{scale}": retrieval_at_k(*self._projected(pairs, scale)) for scale in self.contrasts}

    @torch.no_grad()
    def embeddings(self, data: Data) -> dict[str, Tensor]:
        """Embeddings of a section's spots, ``(n_spots, width)`` each, by their letter in the class's formulas.

        At a scale at which the modalities are contrasted, embeddings are given in the space of the contrast. Those of
        the genes (``q``, ``Q``) are there where ``data`` has targets and the model a gene side.
        """
        image = self(data.x, data.edge_index, data.edge_attr)
        found = {"p": image.query, "P": image.neighbourhood}
        if self.reads_genes and "y" in data:
            found = self._pairs(image, data)
        contrasted = {letter for scale in self.contrasts for letter in _LETTERS[scale]}
        return {name: self.projections[name](h) if name in contrasted else h for name, h in found.items()}

    def _pairs(self, image: ImageSide, data: Data) -> dict[str, Tensor]:
        """Embeddings of both modalities at both scales, by their letter in the class's formulas."""
        gene = self.genes(data.y, data.edge_index, data.edge_attr)
        return {"p": image.query, "P": image.neighbourhood, "q": gene.query, "Q": gene.neighbourhood}

    def _projected(self, pairs: dict[str, Tensor], scale: str) -> tuple[Tensor, Tensor]:
        """Image and gene embeddings at one scale, in the space where they are compared."""
        image, gene = _LETTERS[scale]
        return self.projections[image](pairs[image]), self.projections[gene](pairs[gene])

    def _embed(
        self,
        encoder: FeatureEncoder,
        neighbours: NeighbourBranch | None,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor,
    ) -> tuple[Tensor, Tensor]:
        own = encoder(x)
        around = torch.zeros_like(own) if neighbours is None else neighbours(own, edge_index, edge_attr)
        return own, around

    def _decode(self, query: Tensor, neighbourhood: Tensor) -> Tensor:
        read = [h for h, on in ((query, self.config.query), (neighbourhood, self.config.neighbours)) if on]
        expression = self.decoder.expression(self.decoder(*read))
        if self.log_dispersion is not None:
            return F.softplus(expression, beta=_SHARPNESS)
        return expression

    def _explained(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Squared error in component space over that of the training mean: 1 is the training mean, 0 perfect."""
        wanted = self.decoder.scores(targets)
        return (scores - wanted).square().sum(dim=1).mean() / self.decoder.total_variance

    def _regression(self, expression: Tensor, data: Data, seeds: Tensor) -> Tensor:
        if self.log_dispersion is None:
            return self._explained(self.decoder.scores(expression), data.y[seeds])
        mean = data.library[seeds] * torch.expm1(expression) / TARGET_SUM
        return negative_binomial_nll(data.counts[seeds], mean.clamp_min(1e-8), self.log_dispersion).mean()

    def _attend(self, pairs: dict[str, Tensor], edge_index: Tensor, edge_attr: Tensor) -> dict[str, Tensor]:
        """Add to each embedding what its neighbours' other modality holds; the spot itself is no key."""
        other = {"p": "q", "P": "q", "q": "p", "Q": "p"}
        return {name: h + self.cross[name](h, pairs[other[name]], edge_index, edge_attr) for name, h in pairs.items()}

    def _contrast(self, pairs: dict[str, Tensor], seeds: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        parts: dict[str, Tensor] = {}
        weighted = torch.zeros((), device=seeds.device)
        of_seeds = {name: embedding[seeds] for name, embedding in pairs.items()}
        weights = {"spot": self.config.weight_spot, "neighbourhood": self.config.weight_neighbourhood}
        for scale in self.contrasts:
            a, b = self._projected(of_seeds, scale)
            loss = info_nce(a, b, self.config.temperature)
            weighted = weighted + weights[scale] * loss
            parts[f"contrast_{scale}"] = loss
            parts[f"contrast_{scale}_chance"] = loss.new_tensor(chance_level(len(seeds)))
            parts[f"retrieval_{scale}"] = loss.new_tensor(retrieval_at_k(a, b))
        return parts, weighted
