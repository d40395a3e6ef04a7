"""ST-GCHB: graph encoders of image and genes, contrasts within and between modalities, and prediction by retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv
from torch_geometric.utils import add_remaining_self_loops, dropout_edge, mask_feature

from nh2st_graph._errors import ModelError, setting
from nh2st_graph._settings import Positive, Share
from nh2st_graph.models._network import Network
from nh2st_graph.models._registry import register_method
from nh2st_graph.models._settings import MethodConfig
from nh2st_graph.nn import (
    Averaging,
    PatchEncoder,
    ProjectionHead,
    Weighting,
    chance_level,
    hsic,
    info_nce,
    normalized_hsic,
    retrieval_at_k,
    retrieve,
)

__all__ = ["STGCHB", "STGCHBConfig"]

#: Divisor of scalar products in the weights of retrieved spots.
_SHARPNESS = 20.0


def _by_likeness(query: Tensor, keys: Tensor) -> Tensor:
    return ((query * keys).sum(dim=-1) / _SHARPNESS).softmax(dim=1)


def _by_unlikeness(query: Tensor, keys: Tensor) -> Tensor:
    return (-(query * keys).sum(dim=-1) / _SHARPNESS).softmax(dim=1)


#: Average over retrieved training spots, by ``retrieval``.
_AVERAGING: dict[str, Averaging | Weighting] = {
    "simple": "simple",
    "average": "average",
    "weighted": _by_likeness,
    "weighted_inverse": _by_unlikeness,
}


class STGCHBConfig(MethodConfig):
    """ST-GCHB's settings, as published; see :class:`STGCHB`.

    Attributes
    ----------
    name
        The method.
    width, width_projection
        Size of embeddings in the graph, and of their projections for alignment and retrieval.
    dropout
        Dropout in the projections.
    normalize_edges
        Average neighbours by degree, as in a graph convolution (Kipf and Welling, 2017). Published: sum them.
    views
        Contrast within a modality. ``corrupted``: of the graph with one whose spots have exchanged features, as in the
        authors' code; ``augmented``: of two views without some features and edges.
    drop, temperature_views
        Share of features and edges that are dropped in an augmented view, and temperature of the contrast of views.
    alignment
        Alignment of the modalities. ``soft``: match similarities within them, as published; ``pairs``: match a spot's
        image with its genes, by cosine (InfoNCE).
    temperature
        Temperature of the alignment.
    beta
        Weight of the bottleneck's second term (embeddings in projections) against its first (dependence on the input).
    sigma
        Width of the bottleneck's kernels; None for the median distance within a batch.
    normalize_hsic
        Normalise every term of the bottleneck to between 0 and 1. Published: nearly no normalisation, and none of one
        term.
    weight_graph, weight_bottleneck
        Weights of the contrast within modalities and of the bottleneck, against a weight of 1 of the alignment; 0 for
        none.
    k
        Training spots that a prediction averages over.
    retrieval
        Average over training spots: ``simple``, the nearest alone; ``average``; ``weighted`` by similarity;
        ``weighted_inverse``, by dissimilarity, as in the authors' code.
    similarity
        Similarity that finds training spots: the scalar product, as published, or the cosine.
    """

    name: Literal["stgchb"] = "stgchb"
    width: Positive = 256
    width_projection: Positive = 128
    dropout: Share = 0.4
    normalize_edges: bool = False
    views: Literal["corrupted", "augmented"] = "corrupted"
    drop: Share = 0.2
    temperature_views: Annotated[float, Field(gt=0)] = 0.5
    alignment: Literal["soft", "pairs"] = "soft"
    temperature: Annotated[float, Field(gt=0)] = 1.0
    beta: Annotated[float, Field(ge=0)] = 25.0
    sigma: Annotated[float, Field(gt=0)] | None = 10.0
    normalize_hsic: bool = False
    weight_graph: Annotated[float, Field(ge=0)] = 0.1
    weight_bottleneck: Annotated[float, Field(ge=0)] = 1.0
    k: Positive = 50
    retrieval: Literal["simple", "average", "weighted", "weighted_inverse"] = "average"
    similarity: Literal["dot", "cosine"] = "dot"


@register_method
class STGCHB(Network):
    r"""ST-GCHB (Chi et al., arXiv 2406.12229), as in the authors' code (``ChangxiChi/ST-GCHB``).

    Each modality (image features or genes :math:`x` of a section's spots with edges :math:`E`) has an embedding in the
    graph and a projection of it:

    .. math::
        h_i = \operatorname{PReLU}\Big(b + \sum_{j \in N(i) \cup \{i\}} W x_j\Big), \qquad
        z = \operatorname{LN}\big(u + V \operatorname{GELU}(u)\big), \quad u = U h

    There are three losses. **Within a modality**, graphs are contrasted (:math:`L_\text{graph}`; Deep Graph Infomax,
    Veličković et al., 2019): from the mean over the graph, a bilinear form distinguishes embeddings of the graph from
    those of a graph whose spots have exchanged features. With ``views: augmented``, a spot is found among all others in
    a second view, where both views lack some features and edges. The **bottleneck** reduces the dependence of the
    embedding on the input, and keeps that of the projection on the embedding. The **alignment** makes projections of
    both modalities similar:

    .. math::
        L_\text{HSIC} = \operatorname{nHSIC}(x, h) - \beta \operatorname{nHSIC}(z, h), \qquad
        L_\text{align} = \operatorname{CE}\Big(\tfrac{1}{\tau} z^g z^{p \top},
            \operatorname{softmax}\big(\tfrac{\tau}{2} (z^p z^{p \top} + z^g z^{g \top})\big)\Big)

    in both directions, with :math:`z^p` of the image and :math:`z^g` of the genes: BLEEP's loss (Xie et al., 2023). A
    prediction is the mean expression of the ``k`` training spots whose projection of genes is nearest to that of the
    image. In ``log.csv``, the alignment is ``contrast_spot``, the contrast of graphs ``contrast_neighbourhood`` (mean
    over modalities), and the sum of the bottleneck ``bottleneck``.

    Sizes, constants and the order of operations follow the code. Its image encoder is ResNet-50, whose last block is
    trained (``features.encoder: timm:resnet50`` with ``features.finetune: true`` trains all of it), its graph has the
    six nearest spots (``graph.mode: knn``, ``graph.n_neighs: 6``), and training has batches of 16 spots for 4 epochs at
    a learning rate of 1e-3. Three things differ here. The authors first train by :math:`L_\text{graph}` alone, 50
    epochs for each modality, and then without it (the part for genes cannot run as it is); here all losses are
    minimised together, with the weight of 0.1 from their settings, which their code does not read. Their genes are 813
    principal components; here they are the centred panel, which is the same up to a rotation if there are as many
    components as genes. Their linear layer between ResNet-50 and the graph is left out, since the next layer is linear
    too.

    Oddities of the published form, with the switch for each:

    - Neighbours are summed and not averaged, so that embeddings grow with the number of neighbours:
      ``normalize_edges``.
    - nHSIC is divided by :math:`\sqrt{1 + \operatorname{HSIC}}` of each side, which is nearly 1, and the second term of
      the image is not divided at all: ``normalize_hsic``. The width of the kernels is 10 for any features, which may be
      far too small (each spot similar to itself alone) or too large for their distances: ``sigma``.
    - The targets of the alignment are computed from the aligned embeddings and are trained too; in the second direction
      they sum to 1 over the wrong axis; and the temperature divides logits but multiplies targets: ``alignment``.
    - Spots are found by the scalar product of embeddings of different lengths: ``similarity``. The authors' alternative
      weighted mean gives the least similar spot the largest weight: ``retrieval``.
    - Expression is batch-corrected over training and test sections together. Not here.

    Parameters
    ----------
    settings, n_features, n_genes, patch_encoder
        As in :class:`Network`.
    """

    Settings: ClassVar[type[STGCHBConfig]] = STGCHBConfig
    config: STGCHBConfig
    gene_mean: Tensor
    loss_parts = (
        "bottleneck",
        "contrast_spot",
        "contrast_spot_chance",
        "retrieval_spot",
        "contrast_neighbourhood",
        "contrast_neighbourhood_chance",
    )
    alignment_parts = ("retrieval_spot",)

    def __init__(
        self, settings: STGCHBConfig, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None
    ) -> None:
        super().__init__(settings, n_features, n_genes, patch_encoder)
        self.image = Modality(n_features, settings)
        self.gene = Modality(n_genes, settings)
        self.register_buffer("gene_mean", torch.zeros(n_genes))

    @property
    def receptive_hops(self) -> int | None:
        """None (the whole section) if graphs are contrasted; else the neighbours, and theirs if degrees are read."""
        return None if self.config.weight_graph else 1 + int(self.config.normalize_edges)

    @torch.no_grad()
    def prepare(self, sections: Sequence[Data]) -> None:
        """Take the mean of the training targets."""
        self.gene_mean.copy_(torch.cat([section.y for section in sections]).mean(dim=0))

    def losses(self, data: Data) -> dict[str, Tensor]:
        """Compute every loss; see :class:`Network`.

        Returns
        -------
        ``loss``, the weighted sum, and its parts: ``contrast_spot``, and ``bottleneck`` and ``contrast_neighbourhood``
        if they are on; the chance levels of the contrasts; and ``retrieval_spot``, the share of pairs among the nearest
        ten.
        """
        config, seeds, edge_index = self.config, data.seeds, data.edge_index
        image_input, gene_input = self.features(data), data.y - self.gene_mean
        image, gene = self.image.encoder(image_input, edge_index), self.gene.encoder(gene_input, edge_index)
        p, q = self.image.projection(image[seeds]), self.gene.projection(gene[seeds])
        alignment = self._align(p, q)
        total = alignment
        parts = {
            "contrast_spot": alignment,
            "contrast_spot_chance": alignment.new_tensor(chance_level(len(seeds))),
            "retrieval_spot": alignment.new_tensor(retrieval_at_k(p, q)),
        }
        if config.weight_bottleneck:
            published = not config.normalize_hsic
            of_image = self._bottleneck(image_input[seeds], image[seeds], p, bare=published)
            parts["bottleneck"] = of_image + self._bottleneck(gene_input[seeds], gene[seeds], q)
            total = total + config.weight_bottleneck * parts["bottleneck"]
        if config.weight_graph:
            of_image = self.image.contrast(image_input, image, edge_index)
            parts["contrast_neighbourhood"] = (of_image + self.gene.contrast(gene_input, gene, edge_index)) / 2
            chance = chance_level(2 if config.views == "corrupted" else len(image))
            parts["contrast_neighbourhood_chance"] = alignment.new_tensor(chance)
            total = total + config.weight_graph * parts["contrast_neighbourhood"]
        return {"loss": total, **parts}

    @torch.no_grad()
    def remember(self, sections: Sequence[Data]) -> None:
        """Store gene projections and expression of the training spots, on the CPU."""
        self.memory = {
            "keys": torch.cat([self._gene_embedding(section).cpu() for section in sections]),
            "expression": torch.cat([section.y.cpu() for section in sections]),
        }

    def predict(self, data: Data) -> Tensor:
        """Predict a whole section from its image and the stored spots; see :class:`Network`.

        Raises
        ------
        ModelError
            If no spots are stored yet, or projections are not finite.
        """
        if not self.memory:
            raise ModelError("ST-GCHB has no spots to retrieve from; call remember(sections) first")
        p, how, similarity = self._image_embedding(data), _AVERAGING[self.config.retrieval], self.config.similarity
        try:
            return retrieve(
                p, self.memory["keys"], self.memory["expression"], self.config.k, how=how, similarity=similarity
            )
        except ValueError as error:
            raise ModelError(
                f"ST-GCHB: {error}; lower {setting('train.learning_rate')}, or check the features"
            ) from None

    @torch.no_grad()
    def alignment(self, data: Data) -> dict[str, float]:
        """Compute the share of spots with their gene projection among the ten nearest to their image projection."""
        return {"retrieval_spot": retrieval_at_k(self._image_embedding(data), self._gene_embedding(data))}

    @torch.no_grad()
    def embeddings(self, data: Data) -> dict[str, Tensor]:
        """Project a section's spots, ``(n_spots, width_projection)``: ``image``, and ``gene`` where there are genes."""
        found = {"image": self._image_embedding(data)}
        return found | {"gene": self._gene_embedding(data)} if "y" in data else found

    def _image_embedding(self, data: Data) -> Tensor:
        return self.image(self.features(data), data.edge_index)

    def _gene_embedding(self, data: Data) -> Tensor:
        device = self.gene_mean.device
        return self.gene(data.y.to(device) - self.gene_mean, data.edge_index.to(device))

    def _align(self, p: Tensor, q: Tensor) -> Tensor:
        temperature = self.config.temperature
        if self.config.alignment == "pairs":
            return info_nce(p, q, temperature)
        # Scalar products may be as large as squared lengths, and half precision would lose their decimals.
        with torch.autocast(p.device.type, enabled=False):
            p, q = p.to(self.gene_mean.dtype), q.to(self.gene_mean.dtype)
            logits = q @ p.T / temperature
            targets = ((p @ p.T + q @ q.T) / 2 * temperature).softmax(dim=1)
            return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets.T)) / 2

    def _bottleneck(self, x: Tensor, h: Tensor, z: Tensor, bare: bool = False) -> Tensor:
        """Compute the HSIC bottleneck of one modality; ``bare`` leaves its second term without normalisation."""
        sigma, offset = self.config.sigma, 0.0 if self.config.normalize_hsic else 1.0
        kept = hsic(z, h, sigma) if bare else normalized_hsic(z, h, sigma, offset=offset)
        return normalized_hsic(x, h, sigma, offset=offset) - self.config.beta * kept


class Modality(nn.Module):
    """Embeddings of one modality in the graph, with their contrast and projection.

    Parameters
    ----------
    n_inputs
        Size of a spot's features.
    settings
        Settings of the method.

    Shapes
    ------
    - **input:** ``x`` ``(n, n_inputs)``, ``edge_index`` ``(2, n_edges)`` (sender, receiver)
    - **output:** projections ``(n, width_projection)``
    """

    def __init__(self, n_inputs: int, settings: STGCHBConfig) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = GraphEncoder(n_inputs, settings.width, settings.normalize_edges)
        self.projection = ProjectionHead(settings.width, settings.width_projection, settings.dropout)
        if settings.weight_graph and settings.views == "corrupted":
            self.discriminator = nn.Bilinear(settings.width, settings.width, 1)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Embed and project. See the class for shapes."""
        projected: Tensor = self.projection(self.encoder(x, edge_index))
        return projected

    def contrast(self, x: Tensor, h: Tensor, edge_index: Tensor) -> Tensor:
        """Compute the contrast of graphs, a scalar; ``h`` are the embeddings of ``x``."""
        if self.settings.views == "augmented":
            first, second = (self._augmented(x, edge_index) for _ in range(2))
            return info_nce(first, second, self.settings.temperature_views)
        exchanged = self.encoder(x[torch.randperm(len(x), device=x.device)], edge_index)
        summary = h.mean(dim=0).sigmoid().expand_as(h)
        logits = torch.cat([self.discriminator(h, summary), self.discriminator(exchanged, summary)])
        of_the_graph = torch.cat([torch.ones_like(logits[: len(h)]), torch.zeros_like(logits[len(h) :])])
        return F.binary_cross_entropy_with_logits(logits, of_the_graph)

    def _augmented(self, x: Tensor, edge_index: Tensor) -> Tensor:
        drop = self.settings.drop
        view: Tensor = self.encoder(mask_feature(x, drop)[0], dropout_edge(edge_index, drop)[0])
        return view


class GraphEncoder(nn.Module):
    """A graph convolution and a ReLU with a learned slope.

    Parameters
    ----------
    n_inputs, width
        Sizes before and after.
    normalize
        Weight neighbours by degrees; otherwise they are summed. A spot is among its own neighbours.
    """

    def __init__(self, n_inputs: int, width: int, normalize: bool) -> None:
        super().__init__()
        self.convolution = GCNConv(n_inputs, width, normalize=normalize)
        self.activation = nn.PReLU()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Embed the spots, ``(n, width)``."""
        with_itself, _ = add_remaining_self_loops(edge_index, num_nodes=len(x))
        embedded: Tensor = self.activation(self.convolution(x, with_itself))
        return embedded
