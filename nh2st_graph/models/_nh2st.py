"""NH2ST as published, in its literal form and on a graph of spots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.utils import to_dense_batch

from nh2st_graph._errors import ConfigError, ModelError, nearest, setting
from nh2st_graph.models._original import count_blocks, load_original, original_weight, state_of
from nh2st_graph.nn import CrossEncoder, EgoHypergraph, info_nce, similarity_hyperedges

__all__ = ["NH2ST", "NH2STOutputs"]

#: Channels of ResNet-18's last feature maps, which are 7 by 7 for a patch of 224 pixels.
_CHANNELS = 512

#: Beginnings of the names of weights here, and in the authors' code.
_ORIGINAL_NAMES = (
    (r"encoder\.conv1\.", "target_encoder.0."),
    (r"encoder\.bn1\.", "target_encoder.1."),
    (r"encoder\.layer1\.", "target_encoder.4."),
    (r"encoder\.layer2\.", "target_encoder.5."),
    (r"encoder\.layer3\.", "target_encoder.6."),
    (r"encoder\.layer4\.", "target_encoder.7."),
    (r"image_projection\.", "fc."),
    (r"gene_encoder\.", "exp_encoder."),
    (r"image_neighbours\.branch\.first\.", "neighbor_encoder.layer1.conv."),
    (r"image_neighbours\.branch\.second\.", "neighbor_encoder.layer2.conv."),
    (r"gene_neighbours\.branch\.first\.", "neighbor_exp_encoder.layer1.conv."),
    (r"gene_neighbours\.branch\.second\.", "neighbor_exp_encoder.layer2.conv."),
    (r"cross\.layers\.(\d+)\.norm\.", r"cross_encoder.fusion_layer.layers.\1.0.norm."),
    (r"cross\.layers\.(\d+)\.query\.", r"cross_encoder.fusion_layer.layers.\1.0.fn.to_q."),
    (r"cross\.layers\.(\d+)\.key_value\.", r"cross_encoder.fusion_layer.layers.\1.0.fn.to_kv."),
    (r"cross\.layers\.(\d+)\.out\.", r"cross_encoder.fusion_layer.layers.\1.0.fn.to_out."),
    (r"cross\.layers\.(\d+)\.feed_forward\.0\.", r"cross_encoder.fusion_layer.layers.\1.1.norm."),
    (r"cross\.layers\.(\d+)\.feed_forward\.1\.", r"cross_encoder.fusion_layer.layers.\1.1.fn.net.0."),
    (r"cross\.layers\.(\d+)\.feed_forward\.4\.", r"cross_encoder.fusion_layer.layers.\1.1.fn.net.3."),
    (r"cross\.norm\.", "cross_encoder.norm."),
    (r"decoder\.0\.", "decoder.fc1."),
    (r"decoder\.2\.", "decoder.fc2."),
)

#: Heads of the authors' code that are not used, so that they never get a gradient.
_UNTRAINED = ("fc_target.", "fc_neighbor.", "fc_nuclei.", "fc_global.")


class NH2STOutputs(NamedTuple):
    """Outputs of NH2ST; embeddings are ``(n_spots, width)``.

    The authors' code returns the prediction twice.
    """

    image_spot: Tensor
    gene_spot: Tensor
    image_neighbourhood: Tensor
    gene_neighbourhood: Tensor
    predicted: Tensor
    """The prediction, decoded from the image of the spot, ``(n_spots, n_genes)``."""


class _Members(NamedTuple):
    """Both modalities of the spots of each region, ``(n_spots, n_members, width)``, and a mask of existing spots."""

    image: Tensor
    gene: Tensor
    taken: Tensor | None


class NH2ST(nn.Module):
    r"""NH2ST (Qu et al., MICCAI 2025, arXiv 2506.23827), with the results of the authors' code.

    For a spot with patch :math:`x`, expression :math:`g` and a region :math:`R` of nine spots:

    .. math::
        p = W f(x), \quad q = V_2 V_1 g, \qquad
        P = \operatorname{HG}_\text{img}\big(\{f(x_j)\}_{j \in R}\big), \quad
        Q = \operatorname{HG}_\text{gene}\big(\{V_2 V_1 g_j\}_{j \in R}\big), \qquad
        \hat y = U_2 U_1 p

    with ResNet-18's flattened feature maps :math:`f` and two hypergraph convolutions :math:`\operatorname{HG}` over
    hyperedges of similar patches (:class:`~nh2st_graph.nn.EgoHypergraph`). In training, one
    :class:`~nh2st_graph.nn.CrossEncoder` lets :math:`p` read :math:`q`, then :math:`q` read the new :math:`p`, and
    likewise :math:`P` and :math:`Q`; the results are contrasted.

    :meth:`forward` is the literal form, with ten encoder passes for each spot. :meth:`on_graph` encodes each patch of a
    section once and reads regions through indices. In evaluation both agree up to rounding. In training, the statistics
    of batch normalisation are those of the patches that are encoded together: all patches of the section in graph form;
    in literal form the patches of spots, and separately those of their regions (in the authors' code, of each region).
    :meth:`predict` needs neither genes nor regions.

    Known flaws of the published form, with the switch for each:

    - Embeddings are contrasted after they have read each other, which can be solved without learning: ``contrast_on``.
    - Off-diagonal similarities are multiplied by 0.1, so that with :math:`\tau = 0.05` eight equal embeddings have a
      loss of 1e-7 and not ln 8: ``negative_weight=1``.
    - Cross-attention has a single key and thus no choice: ``cross_context``.
    - The decoder is two linear layers without an activation: ``decoder_activation``. (So is the encoder of genes.)
    - In training the spot's patch is flipped and rotated, but the patches of its region, also its own, never are: a
      condition in the authors' data code is always true. Augmentation is left to the caller here; in graph form, spot
      and region share patches.
    - Four heads (``fc_target``, ``fc_neighbor``, ``fc_nuclei``, ``fc_global``) never get a gradient: not built here.

    In the authors' data code, a region is the nine spots nearest in pixels, **including the spot itself**:
    ``graph.mode: knn`` with 8 neighbours. There is no padding at the border of the tissue, so that regions reach
    further inwards. On a hexagonal array, two of the next six spots at equal distance are taken arbitrarily. Patches
    are not padded at the border of the image either, and the authors' code fails there.

    Log expression has base 10 in the authors' code, also the inputs and predictions of their weights
    (:meth:`from_original`): squared errors are 5.3 times smaller than with natural logarithms, and weigh less against
    the contrasts (``data.log_base: 10``). Patches have their centres at whole pixels, rounded down
    (``features.floor_centres: true``). The learning rate falls by a tenth every 50 epochs (``train.decay_epochs: 50``).

    Parameters
    ----------
    n_genes
        Size of the panel.
    width
        Size of embeddings.
    encoder
        Maps patches ``(n, 3, height, width)`` to feature maps or features; by default timm's ResNet-18 with random
        weights. (The authors start from a ResNet-18 trained on histology without labels.)
    n_features
        Size of the encoder's output for one patch, flattened.
    hidden
        Units between the hypergraph convolutions.
    k
        Number of similar patches in a hyperedge, in addition to its own.
    depth, heads, mlp_ratio, dropout
        Settings of the cross-attention; ``mlp_ratio`` is the ratio of hidden units to ``width``.
    decoder_hidden
        Units between the decoder's layers.
    temperature
        :math:`\tau` of both contrasts.
    negative_weight
        Factor on the logits of negatives.
    weight_spot, weight_neighbourhood
        Weights of the contrasts in the loss.
    contrast_on
        ``"attended"``: after cross-attention, as published. ``"independent"``: without cross-attention.
    cross_context
        ``"single"``: a spot attends to its own embedding in the other modality, as published. ``"neighbourhood"``: it
        attends to the embeddings of its region in the other modality, before attention.
    decoder_activation
        Whether the decoder has a ReLU between its layers.

    Raises
    ------
    ConfigError
        If the value of a switch is unknown, or ``heads`` does not divide ``width``.
    """

    def __init__(
        self,
        n_genes: int,
        *,
        width: int = 512,
        encoder: nn.Module | None = None,
        n_features: int = _CHANNELS * 7 * 7,
        hidden: int = 1024,
        k: int = 3,
        depth: int = 2,
        heads: int = 8,
        mlp_ratio: float = 2.0,
        dropout: float = 0.1,
        decoder_hidden: int = 256,
        temperature: float = 0.05,
        negative_weight: float = 0.1,
        weight_spot: float = 1.0,
        weight_neighbourhood: float = 0.5,
        contrast_on: Literal["attended", "independent"] = "attended",
        cross_context: Literal["single", "neighbourhood"] = "single",
        decoder_activation: bool = False,
    ) -> None:
        super().__init__()
        _check("contrast_on", contrast_on, ("attended", "independent"))
        _check("cross_context", cross_context, ("single", "neighbourhood"))
        self.k = k
        self.temperature, self.negative_weight = temperature, negative_weight
        self.weight_spot, self.weight_neighbourhood = weight_spot, weight_neighbourhood
        self.encoder = _resnet18() if encoder is None else encoder
        self.image_projection = nn.Linear(n_features, width)
        self.gene_encoder = nn.Sequential(nn.Linear(n_genes, width), nn.Linear(width, width))
        self.image_neighbours = EgoHypergraph(n_features, hidden, width, k)
        self.gene_neighbours = EgoHypergraph(width, hidden, width, k)
        attends = contrast_on == "attended"
        self.cross = CrossEncoder(width, depth, heads, round(width * mlp_ratio), dropout) if attends else None
        self.reads_members = attends and cross_context == "neighbourhood"
        between = nn.ReLU() if decoder_activation else nn.Identity()
        self.decoder = nn.Sequential(nn.Linear(width, decoder_hidden), between, nn.Linear(decoder_hidden, n_genes))

    def predict(self, patches: Tensor) -> Tensor:
        """Predict expression, ``(n, n_genes)``, from patches alone, ``(n, 3, height, width)``."""
        return self.decoder(self.image_projection(self._encode(patches)))

    def forward(
        self, patches: Tensor, genes: Tensor, neighbour_patches: Tensor, neighbour_genes: Tensor
    ) -> NH2STOutputs:
        """Compute everything in literal form, each region with patches of its own.

        Parameters
        ----------
        patches
            Patches of the spots, ``(n_spots, 3, height, width)``, normalised for the encoder.
        genes
            Log expression of the spots, ``(n_spots, n_genes)``.
        neighbour_patches, neighbour_genes
            Patches and log expression of the spots of each region, including the spot itself, ``(n_spots, n_members, 3,
            height, width)`` and ``(n_spots, n_members, n_genes)``; 9 members as published.
        """
        n_members = neighbour_patches.shape[1]
        features, around = self._encode(patches), self._encode(neighbour_patches.flatten(end_dim=1))
        gene, gene_around = self.gene_encoder(genes), self.gene_encoder(neighbour_genes)
        group = torch.arange(len(patches), device=patches.device).repeat_interleave(n_members)
        hyperedge_index = similarity_hyperedges(around, group, k=self.k)
        image_region = self.image_neighbours.branch(around, hyperedge_index, group)
        gene_region = self.gene_neighbours.branch(gene_around.flatten(end_dim=1), hyperedge_index, group)
        members = None
        if self.reads_members:
            image_around = self.image_projection(around).unflatten(0, (-1, n_members))
            members = _Members(image_around, gene_around, None)
        return self._outputs(self.image_projection(features), gene, image_region, gene_region, members)

    def on_graph(self, patches: Tensor, genes: Tensor, edge_index: Tensor) -> NH2STOutputs:
        """Compute everything for all spots of a section, and encode each patch once.

        Parameters
        ----------
        patches
            Patches of the section's spots, ``(n_spots, 3, height, width)``, normalised for the encoder.
        genes
            Log expression of the spots, ``(n_spots, n_genes)``.
        edge_index
            Sender and receiver, ``(2, n_edges)``; a spot's region is its senders and itself.
        """
        features = self._encode(patches)
        image, gene = self.image_projection(features), self.gene_encoder(genes)
        regions = self.image_neighbours.hyperedges(edge_index, features)
        image_region = self.image_neighbours.embed(features, regions)
        gene_region = self.gene_neighbours.embed(gene, regions)
        members = None
        if self.reads_members:
            image_around, taken = to_dense_batch(image[regions.member], regions.group)
            members = _Members(image_around, to_dense_batch(gene[regions.member], regions.group)[0], taken)
        return self._outputs(image, gene, image_region, gene_region, members)

    def losses(self, outputs: NH2STOutputs, genes: Tensor) -> dict[str, Tensor]:
        r"""Compute the losses of outputs, given the log expression ``genes`` of their spots, ``(n_spots, n_genes)``.

        The contrast has one direction, from image to gene. With the cosine :math:`s_{ij}` and ``negative_weight``
        :math:`w`,

        .. math::
            -\frac{1}{n} \sum_i \log
                \frac{e^{s_{ii}/\tau}}{e^{s_{ii}/\tau} + \sum_{j \ne i} e^{w s_{ij}/\tau}}

        Returns
        -------
        ``loss``, the weighted sum, and its parts: ``regression`` (mean squared error), ``contrast_spot`` and
        ``contrast_neighbourhood``.
        """
        regression = F.mse_loss(outputs.predicted, genes)
        spot = self._contrast(outputs.image_spot, outputs.gene_spot)
        neighbourhood = self._contrast(outputs.image_neighbourhood, outputs.gene_neighbourhood)
        loss = regression + self.weight_spot * spot + self.weight_neighbourhood * neighbourhood
        return {"loss": loss, "regression": regression, "contrast_spot": spot, "contrast_neighbourhood": neighbourhood}

    @classmethod
    def from_original(cls, state_dict: Mapping[str, Any], **settings: Any) -> NH2ST:
        """Take the weights of a model trained with the authors' code.

        Sizes are those of the weights. Heads that never get a gradient are left out, and with
        ``contrast_on="independent"`` the cross-attention; the log lists them.

        Parameters
        ----------
        state_dict
            The authors' Lightning checkpoint, or the ``state_dict`` that it holds.
        **settings
            Arguments of the class that the weights do not determine, such as ``heads``.

        Raises
        ------
        ModelError
            If a weight is missing, unknown or of the wrong shape.
        """
        weights = state_of(state_dict)
        model = cls(**(_sizes(weights) | settings))
        unread = _UNTRAINED if model.cross is not None else (*_UNTRAINED, "cross_encoder.")
        load_original(model, _flattened_by_channel(weights), _ORIGINAL_NAMES, "NH2ST", unread)
        return model

    def _encode(self, patches: Tensor) -> Tensor:
        return self.encoder(patches).flatten(start_dim=1)

    def _outputs(
        self, image: Tensor, gene: Tensor, image_region: Tensor, gene_region: Tensor, members: _Members | None
    ) -> NH2STOutputs:
        """Decode, then let the modalities read each other, so that no gene enters the prediction."""
        predicted = self.decoder(image)
        if self.cross is not None and members is not None:
            image, image_region = (self.cross(h, members.gene, members.taken) for h in (image, image_region))
            gene, gene_region = (self.cross(h, members.image, members.taken) for h in (gene, gene_region))
        elif self.cross is not None:
            # The authors' order: genes read the image embedding that has read them.
            image = self.cross(image, gene)
            gene = self.cross(gene, image)
            image_region = self.cross(image_region, gene_region)
            gene_region = self.cross(gene_region, image_region)
        return NH2STOutputs(image, gene, image_region, gene_region, predicted)

    def _contrast(self, image: Tensor, gene: Tensor) -> Tensor:
        """Contrast in one direction, with weighted negatives; see :meth:`losses`."""
        return info_nce(image, gene, self.temperature, symmetric=False, negative_weight=self.negative_weight)


def _check(argument: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"NH2ST: {setting(argument, value)} is unknown; {nearest(value, known)}")


def _resnet18() -> nn.Module:
    """Make a ResNet-18 up to its last feature maps, with random weights."""
    # Import timm on use, since it takes seconds.
    import timm

    encoder: nn.Module = timm.create_model("resnet18", pretrained=False, num_classes=0, global_pool="")
    return encoder


def _flattened_by_channel(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reorder weights: the authors flatten feature maps by channel for regions, but by pixel for spots."""
    projection = original_weight(weights, "fc.weight", "NH2ST")
    if projection.shape[1] % _CHANNELS:
        raise ModelError(
            f"the weights are not of one NH2ST: 'fc.weight' reads {projection.shape[1]} numbers of a patch, "
            f"no multiple of {_CHANNELS} feature maps; give weights that were trained behind a ResNet-18"
        )
    by_pixel = projection.unflatten(1, (-1, _CHANNELS))
    return {**weights, "fc.weight": by_pixel.transpose(1, 2).flatten(start_dim=1)}


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read arguments of :class:`NH2ST` from the sizes of the authors' weights."""

    def shape(name: str) -> torch.Size:
        return original_weight(weights, name, "NH2ST").shape

    width, n_genes = shape("exp_encoder.0.weight")
    return {
        "n_genes": n_genes,
        "width": width,
        "n_features": shape("fc.weight")[1],
        "hidden": shape("neighbor_encoder.layer1.conv.lin.weight")[0],
        "depth": count_blocks(weights, r"cross_encoder\.fusion_layer\.layers\.\d+\.0\.norm\.weight"),
        "mlp_ratio": shape("cross_encoder.fusion_layer.layers.0.1.fn.net.0.weight")[0] / width,
        "decoder_hidden": shape("decoder.fc1.weight")[0],
    }
