"""From embeddings to expression: through the leading components of the training expression, or freely.

A decoder turns embeddings into expression (``forward``) and measured expression into what a gene encoder reads
(``gene_input``, ``gene_input_dim`` numbers a spot), and weighs errors of the latter (``squared_error``).
``set_targets`` shows it the training targets, once and before training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nh2st_graph.nn._regression import mse

__all__ = ["ComponentDecoder", "GatedSum", "LinearDecoder"]


class ComponentDecoder(nn.Module):
    r"""Linear maps of embeddings into principal components of expression, then out to all genes.

    .. math:: y_i = \bar y + \Big(\sum_b W_b h^{(b)}_i\Big) B

    with :math:`\bar y` and :math:`B` (``n_components`` loadings) from the training targets. A few hundred spots do not
    support one free regression for every gene; they support a few programmes that genes share.

    Parameters
    ----------
    width
        Size of each embedding.
    n_inputs
        Number of embeddings that are decoded together (own, neighbourhood).
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
    def set_targets(self, targets: Tensor) -> None:
        """Take mean, loadings and scale from training targets, ``(n_spots, n_genes)``.

        Components beyond what the targets span stay zero. The scale, the standard deviation of the first component,
        brings scores to the order of 1; ``total_variance`` is their mean squared length on the training spots, the
        error of predicting the training mean.
        """
        exact = targets.double()
        mean = exact.mean(dim=0)
        _, singular, loadings = torch.linalg.svd(exact - mean, full_matrices=False)
        # Against the targets' own size: what is left of constant targets is rounding, all of it.
        kept = min(self.n_components, int((singular > 1e-9 * exact.norm()).sum()))
        # A component's sign is arbitrary; the largest loading is made positive, so that every machine agrees.
        flip = torch.sign(loadings.gather(1, loadings.abs().argmax(dim=1, keepdim=True)))
        self.mean.copy_(mean)
        self.loadings.zero_()
        self.loadings[:kept] = (loadings * flip)[:kept].to(self.loadings.dtype)
        self.scale.fill_(float(singular[0]) / len(targets) ** 0.5 if kept else 1.0)
        variance = float(self.gene_input(targets).square().sum(dim=1).mean())
        self.total_variance.fill_(variance if variance > 0 else 1.0)

    def gene_input(self, targets: Tensor) -> Tensor:
        """Component scores of targets, ``(n, n_components)``, in units of ``scale``."""
        return (targets - self.mean) @ self.loadings.T / self.scale

    def expression(self, scores: Tensor) -> Tensor:
        """Expression of component scores, ``(n, n_genes)``: within their span, :meth:`gene_input` backwards."""
        return self.mean + (scores * self.scale) @ self.loadings

    def forward(self, *embeddings: Tensor) -> Tensor:
        """Expression of embeddings. See the class for shapes."""
        scores = self.heads[0](embeddings[0])
        for head, embedding in zip(self.heads[1:], embeddings[1:], strict=True):
            scores = scores + head(embedding)
        return self.expression(scores)

    def squared_error(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """Squared error of component scores over that of the training mean: 1 is the training mean, 0 perfect.

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
        Number of embeddings that are decoded together (own, neighbourhood).
    n_genes
        Size of the output.
    hidden
        Number of hidden units.
    activation
        Put a ReLU between the layers.

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
        """Draw the weights anew."""
        self.hidden.reset_parameters()
        self.out.reset_parameters()

    def set_targets(self, targets: Tensor) -> None:
        """Take nothing from training targets: the layers learn all of it."""

    def forward(self, *embeddings: Tensor) -> Tensor:
        """Expression of embeddings. See the class for shapes."""
        return self.out(self.activation(self.hidden(torch.cat(embeddings, dim=-1))))

    def squared_error(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """Mean squared error over spots and genes, as NH2ST weighs it against its contrastive losses.

        Parameters
        ----------
        predicted, wanted
            Expression, ``(n, n_genes)``.
        """
        return mse(predicted, wanted)

    def gene_input(self, targets: Tensor) -> Tensor:
        """Targets as they are, ``(n, gene_input_dim)``."""
        return targets


class GatedSum(nn.Module):
    r"""Join a spot's own embedding and its neighbourhood's by a learned gate for each of their numbers.

    .. math:: g_i = \operatorname{sigmoid}(W [p_i; P_i] + b), \qquad h_i = g_i \odot p_i + (1 - g_i) \odot P_i

    The gate starts at one half everywhere: a new layer is the mean of both.

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
        """Start with both embeddings in equal parts."""
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, own: Tensor, around: Tensor) -> Tensor:
        """Join. See the class for shapes."""
        gate = torch.sigmoid(self.gate(torch.cat([own, around], dim=-1)))
        return gate * own + (1 - gate) * around
