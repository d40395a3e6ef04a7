"""NH2ST-Graph: the query branch, the neighbour branch and their alignment with the genes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from nh2st_graph._settings import TARGET_SUM
from nh2st_graph.models._closed_form import fit_closed_form
from nh2st_graph.models._contrast import LETTERS, Contrast, Pairs, scales
from nh2st_graph.models._corrected_form import CorrectedForm
from nh2st_graph.models._network import EMBEDDINGS
from nh2st_graph.models._parts import EDGE_DIM, make_decoder, make_embedder, make_neighbour_branch
from nh2st_graph.models._registry import register_method
from nh2st_graph.models._same_depth import find_same_depth
from nh2st_graph.models._settings import ModelConfig
from nh2st_graph.nn import (
    ComponentDecoder,
    CrossEncoder,
    EgoHyperedges,
    EgoHypergraph,
    GatedSum,
    NeighbourBranch,
    PatchEncoder,
    Rows,
    SpatialAttention,
    blocks_of,
    huber,
    negative_binomial_nll,
    one_minus_pearson,
    zero_inflated_negative_binomial_nll,
)

__all__ = ["ImageSide", "NH2STGraph"]

#: Operators that reach beyond a spot's own edges: to all spots, or to all regions that the spot is in.
_WHOLE_SECTION = {"global", "hypergraph", "hypergraph_similarity"}

#: Sharpness of the softplus that keeps the mean of a likelihood of counts above zero, in units of log expression.
_SHARPNESS = 5.0

#: Initial log odds of extra zeros, so that at first most zeros are those of the negative binomial.
_FEW_DROPOUTS = -3.0


class ImageSide(NamedTuple):
    """Outputs of the image side: embeddings of the spot and of its neighbourhood, and the prediction."""

    query: Tensor
    neighbourhood: Tensor
    expression: Tensor


class GeneSide(NamedTuple):
    """Gene embeddings of the spot and of its neighbourhood, in training only."""

    query: Tensor
    neighbourhood: Tensor


class _Graph(NamedTuple):
    """Edges between spots, and the regions of the published operator."""

    edge_index: Tensor
    edge_attr: Tensor | None
    regions: EgoHyperedges | None


@register_method
class NH2STGraph(CorrectedForm):
    r"""Spatial gene expression from image features over a graph of spots.

    For spot :math:`i` with image features :math:`x_i` and, in training, expression :math:`g_i`:

    .. math::
        p = f_\text{img}(x), \quad P = \operatorname{MP}_\text{img}(p, E), \qquad
        q = f_\text{gene}(g), \quad Q = \operatorname{MP}_\text{gene}(q, E), \qquad
        \hat y = \operatorname{decoder}(p, P)

    The query branch (:math:`p`), the neighbour branch (:math:`P`), the contrast of both with the genes, and the
    cross-attention between modalities are those of NH2ST (Qu et al., MICCAI 2025, arXiv 2506.23827) as message passing
    over spots. **The prediction is computed from the image side alone**: :meth:`forward` has no gene argument.

    By default two things differ from the publication. First, the contrast is between embeddings that have not seen each
    other (``contrast_on="independent"``). With ``"attended"``, both sides first pass through cross-attention, as
    published; each then holds the other's measurements, so that the loss can be solved without learning. Second, keys
    and values of cross-attention are the spatial neighbourhood without the spot itself. Attention thus has a choice,
    and its result predicts the spot's own expression from its image and the genes of its neighbours (``weight_cross``).
    A third difference is where a prediction starts: from :class:`ClosedForm`, ridge regressions into components that
    have a solution in closed form (``closed_form``). The network learns what they leave, and held-out sections decide
    how much of it is added (:meth:`settle`), down to nothing.

    ``configs/nh2st.yaml`` sets every switch as published, so that this model and :class:`NH2ST` agree. Those of the
    configuration beside the model are there too: logarithms of base 10 (``data.log_base``), centres of patches at whole
    pixels (``features.floor_centres``), and a learning rate that falls by a tenth every 50 epochs
    (``train.decay_epochs``).

    Parameters
    ----------
    config
        The model's switches.
    n_features
        Size of a spot's image features.
    n_genes
        Size of the panel.
    patch_encoder
        Computes image features from patches, and is trained with the rest; None if features are given.
    """

    Settings: ClassVar[type[ModelConfig]] = ModelConfig
    config: ModelConfig
    loss_parts = (
        "regression",
        "cross",
        "contrast_spot",
        "contrast_spot_chance",
        "retrieval_spot",
        "contrast_neighbourhood",
        "contrast_neighbourhood_chance",
        "retrieval_neighbourhood",
    )
    alignment_parts = ("retrieval_spot", "retrieval_neighbourhood")
    reads_rows = True

    def __init__(
        self, config: ModelConfig, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None
    ) -> None:
        super().__init__(config, n_features, n_genes, patch_encoder)
        self._others: Sequence[Data] = ()
        self._held_out: Sequence[Tensor] = ()
        # Layers of PyG and the published operators draw from torch's own generator.
        self.threaded = config.operator == "attention" and config.cross_attention != "single"
        self.image_encoder = make_embedder(config, n_features)
        self.image_neighbours = make_neighbour_branch(config, n_features)
        gated = config.decoder_input == "gated"
        self.gate = GatedSum(config.width) if gated else None
        self.decoder = make_decoder(config, 1 if gated else len(config.decoded), n_genes)
        self.log_dispersion = nn.Parameter(torch.zeros(n_genes)) if config.counts else None
        self.extra_zeros = nn.Parameter(torch.full((n_genes,), _FEW_DROPOUTS)) if config.regression == "zinb" else None
        contrasted = scales(config)
        attended = contrasted if config.contrast_on == "attended" else ()
        # Build only modules that a loss reads: others would never learn, and would count among the weights.
        if self.reads_genes:
            self.gene_encoder = make_embedder(config, self.decoder.gene_input_dim)
            self.gene_neighbours = (
                make_neighbour_branch(config, config.width) if "neighbourhood" in contrasted else None
            )
            self.contrast = Contrast(config)
        if config.cross_attention == "neighbourhood":
            layer = partial(
                SpatialAttention, config.width, config.heads, EDGE_DIM[config.edge_features], config.dropout
            )
            filling = ("p", "P") if config.neighbours else ("p",)
            genes = [LETTERS[EMBEDDINGS[scale][1]] for scale in attended]
            self.cross = nn.ModuleDict({letter: layer() for letter in (*filling, *genes)})
            # Component scores are centred, raw targets are not.
            centred = config.decoder == "components"
            self.cross_head = nn.Linear(len(filling) * config.width, self.decoder.gene_input_dim, bias=not centred)
        single = config.cross_attention == "single" and attended
        self.cross_single = CrossEncoder(config.width, heads=config.heads, dropout=config.dropout) if single else None

    @property
    def reads_genes(self) -> bool:
        """Whether training uses gene embeddings."""
        return bool(scales(self.config)) or self.config.cross_attention == "neighbourhood"

    @property
    def receptive_hops(self) -> int | None:
        """Reach of a spot's loss in edges, which is the halo of an exact cut-out; None for the whole section."""
        config = self.config
        if scales(config) and config.negatives in {"section", "distant"}:
            return None
        if config.neighbours and config.operator in _WHOLE_SECTION:
            return None
        # A graph convolution weights a sender by its degree, which is one edge further away.
        reach = {"none": 0, "gcn": config.hops + 1}.get(config.operator, config.hops)
        rounds = reach if config.neighbours else 0
        # Cross-attention reads the neighbours' own embeddings, before message passing.
        return max(rounds, int(config.cross_attention == "neighbourhood"))

    def set_targets(self, *targets: Tensor | Rows) -> None:
        """Take scale and components of expression from training targets before training.

        Parameters
        ----------
        targets
            ``(n_spots, n_genes)`` of each section.
        """
        self.decoder.set_targets(*targets)

    def prepare(self, sections: Sequence[Data]) -> None:
        """Take scale and components of expression from the training sections, and fit the closed form."""
        self.set_targets(*(section.y for section in sections))
        if self.config.closed_form:
            config = self.config
            around = config.neighbours and config.operator != "none"
            # Without neighbours' features, the control of equal size is the spot alone.
            own = config.query or not around
            fitted = fit_closed_form(
                sections, 2 * config.n_components, config.depth_power, own=own, around=around, threads=self.threads
            )
            self.memory, self.chosen = fitted.form.memory(), fitted.chosen
            self._held_out = fitted.held_out

    def training_graphs(self, sections: Sequence[Data]) -> Sequence[Data]:
        """Put what the losses read in place of the measured genes, so that a batch takes no more of them than it needs.

        ``same_depth`` are the negatives of each spot, if these are of its depth; see :func:`find_same_depth`.
        ``base``, ``(n_spots, n_scores)``, are the component scores that the closed form predicts of each spot if it has
        not seen it. ``scores``, ``(n_spots, n_components)``, are those of the targets; losses that compare genes keep
        the targets too.
        """
        graphs = [copy.copy(section) for section in sections]
        # The graphs have it from here on, and go when training ends.
        held_out, self._held_out = self._held_out, ()
        if scales(self.config) and self.config.negatives == "depth":
            self.compared, same_depth = find_same_depth(sections)
            for graph, negatives in zip(graphs, same_depth, strict=True):
                graph.same_depth = negatives
        for i, graph in enumerate(graphs):
            if self.config.closed_form:
                graph.base = held_out[i]
            if self._by_components:
                graph.scores = torch.cat([self.decoder.gene_input(rows) for rows in blocks_of(graph.y)])
                del graph.y
            for key in ("counts", "library"):
                if not self.config.counts and key in graph:
                    del graph[key]
        return graphs

    def compare_with(self, sections: Sequence[Data]) -> None:
        """Take the spots that negatives of the same depth are from; see :class:`Network`."""
        self._others = sections

    def decoded(self, data: Data, around: bool = True) -> Tensor:
        """Decode the expression of a section by the network alone; see :class:`CorrectedForm`."""
        side = self(self.image_input(data), data.edge_index, data.edge_attr)
        return self._decode(side.query, side.neighbourhood if around else torch.zeros_like(side.neighbourhood))

    def correction(self, decoded: Tensor) -> Tensor:
        """Take the training mean off what was decoded, if the decoder adds it: the closed form has it."""
        return decoded - self.decoder.mean if isinstance(self.decoder, ComponentDecoder) else decoded

    def positive(self, expression: Tensor) -> Tensor:
        """Keep the mean of a likelihood of counts above zero."""
        return F.softplus(expression, beta=_SHARPNESS) if self.config.counts else expression

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> ImageSide:
        """Predict the spots of one section from the image side, by the network alone, without its closed form.

        Parameters
        ----------
        x
            Image features, ``(n_spots, n_features)``; or patches, ``(n_spots, size, size, 3)`` uint8, if there is a
            patch encoder.
        edge_index, edge_attr
            The spatial graph, as from :func:`nh2st_graph.gr.spatial_edges`.

        Returns
        -------
        Embeddings, ``(n_spots, width)`` each, and expression in units of the targets, ``(n_spots, n_genes)``. The
        embedding of the neighbourhood is zero if the neighbour branch is off.
        """
        features = self._features(x)
        return self._image_side(features, self._graph(features, edge_index, edge_attr))

    def own_expression(self, side: ImageSide) -> Tensor:
        """Predict expression with the embedding of the neighbourhood set to zero, ``(n_spots, n_genes)``.

        As :meth:`forward`, this is the network without its closed form.
        """
        return self.positive(self._decode(side.query, torch.zeros_like(side.neighbourhood)))

    def attention(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None) -> Tensor | None:
        """Compute the attention of the image's neighbour branch over edges, ``(hops, n_edges, heads)``.

        Returns
        -------
        The weights; None if the branch is off or its operator has no attention over edges.
        """
        if not isinstance(self.image_neighbours, NeighbourBranch):
            return None
        return self.image_neighbours.attention(self.image_encoder(self._features(x)), edge_index, edge_attr)

    def losses(self, data: Data) -> dict[str, Tensor]:
        """Compute every loss on a graph in training.

        Parameters
        ----------
        data
            A graph with ``x`` (or ``patches``), ``edge_index``, ``edge_attr``, ``y`` (targets) or what
            :meth:`training_graphs` has in its place, ``counts`` and ``library`` (for likelihoods of counts), and
            ``seeds``: the spots of the losses. All other spots are their surroundings.

        Returns
        -------
        ``loss``, the weighted sum, and its parts: ``regression``, and ``contrast_spot``, ``contrast_neighbourhood`` and
        ``cross`` if they are on; for each contrast also the chance level and the share of pairs among the nearest ten.
        """
        features, seeds = self._features(self.image_input(data)), data.seeds
        graph = self._graph(features, data.edge_index, data.edge_attr)
        query, neighbourhood = self._image_embeddings(features, graph)
        own, around = query.index_select(0, seeds), neighbourhood.index_select(0, seeds)
        parts = {"regression": self._regression(own, around, data)}
        total = parts["regression"]
        if not self.reads_genes:
            return {"loss": total, **parts}
        scores = self._scores(data)
        independent = self._pairs(query, neighbourhood, scores, graph)
        attended = self._attend(independent, graph)
        if self.config.cross_attention == "neighbourhood":
            images = (image for image, _ in EMBEDDINGS.values())
            filling = [attended[name].index_select(0, seeds) for name in images if LETTERS[name] in self.cross]
            filled_in = self.cross_head(torch.cat(filling, dim=1))
            parts["cross"] = self.decoder.squared_error(filled_in, scores[seeds])
            total = total + self.config.weight_cross * parts["cross"]
        pairs = attended if self.config.contrast_on == "attended" else independent
        contrast, weighted = self.contrast(pairs, data, self._embedded_others())
        return {"loss": total + weighted, **parts, **contrast}

    def encoded(self, data: Data) -> Data:
        """Encode patches once for a prediction and an alignment."""
        return data if self.patch_encoder is None else Data(**data.to_dict(), encoded=self.patch_encoder(data.patches))

    @torch.no_grad()
    def alignment(self, data: Data) -> dict[str, float]:
        """Compute the share of spots with their gene embedding among the ten nearest to their image embedding.

        On a held-out section, this measures whether the contrast learned anything that generalises; chance is ten over
        the number of spots.

        Returns
        -------
        ``retrieval_spot`` and ``retrieval_neighbourhood``, if they are contrasted.
        """
        if not scales(self.config):
            return {}
        return self.contrast.retrieval(self._contrasted(data))

    @torch.no_grad()
    def embeddings(self, data: Data) -> Pairs:
        """Embed a section's spots and their neighbourhoods; see :class:`Network`.

        Embeddings at a contrasted scale are in the space of the contrast. There are gene embeddings if ``data`` has
        targets and the model has a gene side; ``gene_neighbourhood`` is zero if neighbourhoods are not contrasted.
        """
        if not self.reads_genes:
            side = self(self.image_input(data), data.edge_index, data.edge_attr)
            return {"image": side.query, "image_neighbourhood": side.neighbourhood}
        if "y" in data:
            return self.contrast.projected(self._section_pairs(data)[0])
        side = self(self.image_input(data), data.edge_index, data.edge_attr)
        return self.contrast.projected({"image": side.query, "image_neighbourhood": side.neighbourhood})

    def _features(self, x: Tensor) -> Tensor:
        if self.patch_encoder is None or x.is_floating_point():
            return x if x.is_floating_point() else x.float()  # pixels that nothing standardises are bytes
        encoded: Tensor = self.patch_encoder(x)
        return encoded

    def _graph(self, features: Tensor, edge_index: Tensor, edge_attr: Tensor | None) -> _Graph:
        ego = isinstance(self.image_neighbours, EgoHypergraph)
        return _Graph(edge_index, edge_attr, self._regions(features, edge_index) if ego else None)

    def _regions(self, features: Tensor, edge_index: Tensor) -> EgoHyperedges:
        assert isinstance(self.image_neighbours, EgoHypergraph)
        return self.image_neighbours.hyperedges(edge_index, features.detach())

    def _image_embeddings(self, features: Tensor, graph: _Graph) -> tuple[Tensor, Tensor]:
        query = self.image_encoder(features)
        return query, self._around(self.image_neighbours, query, features, graph)

    def _image_side(self, features: Tensor, graph: _Graph) -> ImageSide:
        query, neighbourhood = self._image_embeddings(features, graph)
        return ImageSide(query, neighbourhood, self.positive(self._decode(query, neighbourhood)))

    def _gene_side(self, scores: Tensor, graph: _Graph) -> GeneSide:
        query = self.gene_encoder(scores)
        return GeneSide(query, self._around(self.gene_neighbours, query, query, graph))

    def _around(self, branch: nn.Module | None, own: Tensor, raw: Tensor, graph: _Graph) -> Tensor:
        """Embed neighbourhoods; the published operator reads raw image features, others read embeddings of spots."""
        around: Tensor
        if branch is None:
            around = torch.zeros_like(own)
        elif isinstance(branch, EgoHypergraph):
            assert graph.regions is not None
            around = branch.embed(raw, graph.regions)
        else:
            around = branch(own, graph.edge_index, graph.edge_attr)
        return around

    def _section_pairs(self, data: Data) -> tuple[Pairs, _Graph]:
        features = self._features(self.image_input(data))
        graph = self._graph(features, data.edge_index, data.edge_attr)
        return self._pairs(*self._image_embeddings(features, graph), self._scores(data), graph), graph

    def _scores(self, data: Data) -> Tensor:
        """Give the input of the gene encoder."""
        scores: Tensor = data.scores if "scores" in data else self.decoder.gene_input(data.y)
        return scores

    def _embedded_others(self) -> Pairs:
        """Embed the spots that negatives are from anew at each step.

        Embeddings that are kept from earlier, without a gradient, let all embeddings drift away from them together.
        """
        found = [(self._contrasted(section), section.seeds) for section in self._others]
        names = found[0][0] if found else ()
        return {name: torch.cat([pairs[name].index_select(0, seeds) for pairs, seeds in found]) for name in names}

    def _contrasted(self, data: Data) -> Pairs:
        """Embed both modalities as the contrast compares them."""
        pairs, graph = self._section_pairs(data)
        return self._attend(pairs, graph) if self.config.contrast_on == "attended" else pairs

    def _pairs(self, query: Tensor, neighbourhood: Tensor, scores: Tensor, graph: _Graph) -> Pairs:
        """Embed both modalities at both scales; ``scores`` are the input of the gene encoder."""
        gene = self._gene_side(scores, graph)
        return {
            "image": query,
            "image_neighbourhood": neighbourhood,
            "gene": gene.query,
            "gene_neighbourhood": gene.neighbourhood,
        }

    def _read(self, query: Tensor, neighbourhood: Tensor) -> list[Tensor]:
        """List the embeddings that the decoder reads."""
        if self.gate is not None:
            return [self.gate(query, neighbourhood)]
        return [{"query": query, "neighbourhood": neighbourhood}[branch] for branch in self.config.decoded]

    def _decode(self, query: Tensor, neighbourhood: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(*self._read(query, neighbourhood))
        return decoded

    @property
    def _by_components(self) -> bool:
        """Whether the regression compares component scores, and no gene by itself."""
        return self.config.regression == "mse" and isinstance(self.decoder, ComponentDecoder)

    def _regression(self, query: Tensor, neighbourhood: Tensor, data: Data) -> Tensor:
        """Compute the regression of the seeds, whose embeddings are given."""
        seeds, form = data.seeds, self.closed_form if "base" in data else None
        base = None if form is None else form.known.expand(data.base[seeds])
        if isinstance(self.decoder, ComponentDecoder) and self.config.regression == "mse":
            predicted = self.decoder.scores(*self._read(query, neighbourhood))
            predicted = predicted if base is None else predicted + self.decoder.gene_input(base)
            wanted = data.scores[seeds] if "scores" in data else self.decoder.gene_input(data.y[seeds])
            return self.decoder.squared_error(predicted, wanted)
        decoded, observed = self._decode(query, neighbourhood), data.y[seeds]
        expression = self.positive(decoded if base is None else base + self.correction(decoded))
        if self.config.regression == "huber":
            return huber(expression, observed)
        if self.config.regression == "pearson":
            return one_minus_pearson(expression, observed)
        if self.log_dispersion is None:
            return self.decoder.squared_error(expression, observed)
        mean = (data.library[seeds] * torch.expm1(expression) / TARGET_SUM).clamp_min(1e-8)
        counts = data.counts[seeds]
        if self.extra_zeros is None:
            return negative_binomial_nll(counts, mean, self.log_dispersion).mean()
        return zero_inflated_negative_binomial_nll(counts, mean, self.log_dispersion, self.extra_zeros).mean()

    def _attend(self, pairs: Pairs, graph: _Graph) -> Pairs:
        """Let each embedding read the other modality."""
        if self.config.cross_attention == "neighbourhood":
            # Keys are the neighbours, without the spot itself.
            names = {letter: name for name, letter in LETTERS.items()}
            read = {}
            for letter, cross in self.cross.items():
                name, other = names[letter], "gene" if letter in "pP" else "image"
                read[name] = cross(pairs[name], pairs[other], graph.edge_index, graph.edge_attr)
            return {name: h + read[name] if name in read else h for name, h in pairs.items()}
        if self.cross_single is not None:
            # The published order: images read genes, then genes read the images that have read them.
            images = {image: self.cross_single(pairs[image], pairs[gene]) for image, gene in EMBEDDINGS.values()}
            genes = {gene: self.cross_single(pairs[gene], images[image]) for image, gene in EMBEDDINGS.values()}
            return images | genes
        return pairs
