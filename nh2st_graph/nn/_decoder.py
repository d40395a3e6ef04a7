"""Decoders from embeddings to expression: by principal components of the training expression, or by free layers.

A decoder turns embeddings into expression (``forward``), measured expression into the input of a gene encoder
(``gene_input``, ``gene_input_dim`` numbers for each spot), and computes the error of the latter (``squared_error``).
``set_targets`` gives it the training targets once, before training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nh2st_graph.nn._components import components
from nh2st_graph.nn._regression import mse
from nh2st_graph.nn._rows import LARGE, Rows, blocks_of, dense

__all__ = ["ComponentDecoder", "GatedSum", "LinearDecoder"]


class ComponentDecoder(nn.Module):
    r"""Linear maps from embeddings to principal components of expression, and from these to all genes.

    .. math:: y_i = \bar y + \Big(\sum_b W_b h^{(b)}_i\Big) B

    with :math:`\bar y` and :math:`B` (``n_components`` loadings) from the training targets. A few hundred spots do not
    support a free regression for every gene, but they support a few programmes that genes share.

    Parameters
    ----------
    width
        Size of each embedding.
    n_inputs
        Number of embeddings to decode together (spot, neighbourhood).
    n_genes
        Size of the output.
    n_components
        Number of components.

    Shapes
    ------
    - **input:** ``n_inputs`` embeddings, each ``(n, width)``
    - **output:** ``(n, n_genes)``
    """

    mean: Tensor
    loadings: Tensor
    scale: Tensor
    total_variance: Tensor

    def __init__(self, width: int, n_inputs: int, n_genes: int, n_components: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, n_components, bias=False) for _ in range(n_inputs))
        self.register_buffer("mean", torch.zeros(n_genes))
        self.register_buffer("loadings", torch.zeros(n_components, n_genes))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("total_variance", torch.ones(()))
        self.reset_parameters()

    @property
    def n_components(self) -> int:
        """Number of components."""
        return len(self.loadings)

    @property
    def gene_input_dim(self) -> int:
        """Size of :meth:`gene_input`: the number of components."""
        return self.n_components

    def reset_parameters(self) -> None:
        """Start near the training mean: small weights."""
        for weight in self.heads.parameters():
            nn.init.normal_(weight, std=0.02)

    @torch.no_grad()
    def set_targets(self, *targets: Tensor | Rows) -> None:
        """Take mean, loadings and scale from training targets, ``(n_spots, n_genes)`` of each section.

        Components beyond the rank of the targets stay zero; see :func:`~nh2st_graph.nn.components`. The scale is the
        standard deviation of the first component and brings scores to the order of 1. ``total_variance`` is the mean
        squared length of the scores on the training spots, which is the error of the training mean.
        """
        n_spots = sum(len(each) for each in targets)
        parts: Sequence[Tensor | Rows] = targets
        if n_spots < LARGE:
            parts = [torch.cat([dense(each) for each in targets])]
        mean, singular, loadings = components(parts, self.n_components)
        self.mean.copy_(mean)
        self.loadings.zero_()
        self.loadings[: len(loadings)] = loadings.to(self.loadings.dtype)
        self.scale.fill_(float(singular[0]) / n_spots**0.5 if len(singular) else 1.0)
        blocks = (self.gene_input(rows) for each in parts for rows in blocks_of(each))
        variance = sum(float(scores.square().sum(dim=1).sum()) for scores in blocks) / n_spots
        self.total_variance.fill_(variance if variance > 0 else 1.0)

    def gene_input(self, targets: Tensor) -> Tensor:
        """Compute component scores of targets, ``(n, n_components)``, in units of ``scale``."""
        return (targets - self.mean) @ self.loadings.T / self.scale

    def expression(self, scores: Tensor) -> Tensor:
        """Compute expression from component scores, ``(n, n_genes)``; the inverse of :meth:`gene_input`."""
        return self.mean + (scores * self.scale) @ self.loadings

    def scores(self, *embeddings: Tensor) -> Tensor:
        """Compute component scores from embeddings, ``(n, n_components)``, in units of ``scale``."""
        scores: Tensor = self.heads[0](embeddings[0])
        for head, embedding in zip(self.heads[1:], embeddings[1:], strict=True):
            scores = scores + head(embedding)
        return scores

    def forward(self, *embeddings: Tensor) -> Tensor:
        """Decode embeddings. See the class for shapes."""
        return self.expression(self.scores(*embeddings))

    def squared_error(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """Compute the squared error of component scores, relative to that of the training mean (0 is perfect).

        Parameters
        ----------
        predicted, wanted
            Component scores, ``(n, n_components)``.
        """
        return (predicted - wanted).square().sum(dim=1).mean() / self.total_variance


class LinearDecoder(nn.Module):
    r"""Two learned linear layers from embeddings to all genes.

    .. math:: y_i = W_2 \, \sigma\big(W_1 [h^{(1)}_i; \dots] + b_1\big) + b_2

    NH2ST (Qu et al., 2025) has one embedding of width 512, 256 hidden units and no activation between the layers
    (:math:`\sigma` the identity), which makes it one linear map whose rank is at most ``hidden``.

    Parameters
    ----------
    width
        Size of each embedding.
    n_inputs
        Number of embeddings to decode together (spot, neighbourhood).
    n_genes
        Size of the output.
    hidden
        Number of hidden units.
    activation
        Apply a ReLU between the layers.

    Shapes
    ------
    - **input:** ``n_inputs`` embeddings, each ``(n, width)``
    - **output:** ``(n, n_genes)``
    """

    def __init__(self, width: int, n_inputs: int, n_genes: int, hidden: int, activation: bool = False) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_inputs * width, hidden)
        self.activation = nn.ReLU() if activation else nn.Identity()
        self.out = nn.Linear(hidden, n_genes)

    @property
    def gene_input_dim(self) -> int:
        """Size of :meth:`gene_input`: the number of genes."""
        return self.out.out_features

    def reset_parameters(self) -> None:
        """Initialise the weights at random."""
        self.hidden.reset_parameters()
        self.out.reset_parameters()

    def set_targets(self, *targets: Tensor | Rows) -> None:
        """Do nothing: the layers learn everything from data."""

    def forward(self, *embeddings: Tensor) -> Tensor:
        """Decode embeddings. See the class for shapes."""
        return self.out(self.activation(self.hidden(torch.cat(embeddings, dim=-1))))

    def squared_error(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """Compute the mean squared error over spots and genes, as in NH2ST.

        Parameters
        ----------
        predicted, wanted
            Expression, ``(n, n_genes)``.
        """
        return mse(predicted, wanted)

    def gene_input(self, targets: Tensor) -> Tensor:
        """Give the targets as they are, ``(n, gene_input_dim)``."""
        return targets


class GatedSum(nn.Module):
    r"""Join the embeddings of a spot and of its neighbourhood by a learned gate for each dimension.

    .. math:: g_i = \operatorname{sigmoid}(W [p_i; P_i] + b), \qquad h_i = g_i \odot p_i + (1 - g_i) \odot P_i

    The gate starts at one half, so that a new layer is the mean of both.

    Parameters
    ----------
    width
        Size of each embedding.

    Shapes
    ------
    - **input:** ``(n, width)`` and ``(n, width)``
    - **output:** ``(n, width)``
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with equal weights of both embeddings."""
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, own: Tensor, around: Tensor) -> Tensor:
        """Join. See the class for shapes."""
        gate = torch.sigmoid(self.gate(torch.cat([own, around], dim=-1)))
        return gate * own + (1 - gate) * around
