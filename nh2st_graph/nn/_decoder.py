"""From embeddings to expression, through the leading components of the training expression."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ComponentDecoder"]


class ComponentDecoder(nn.Module):
    r"""Linear maps of embeddings into principal components of expression, then out to all genes.

    .. math:: y_i = \bar y + \Big(\sum_b W_b h^{(b)}_i\Big) B

    with :math:`\bar y` and :math:`B` (``rank`` loadings) from the training targets. A few hundred spots do not
    support one free regression for every gene; they support a few programmes that genes share.

    Parameters
    ----------
    width
        Size of each embedding.
    n_inputs
        Number of embeddings that are decoded together (own, neighbourhood).
    n_genes
        Size of the output.
    rank
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

    def __init__(self, width: int, n_inputs: int, n_genes: int, rank: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in range(n_inputs))
        self.register_buffer("mean", torch.zeros(n_genes))
        self.register_buffer("loadings", torch.zeros(rank, n_genes))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("total_variance", torch.ones(()))
        self.reset_parameters()

    @property
    def rank(self) -> int:
        """Number of components."""
        return len(self.loadings)

    def reset_parameters(self) -> None:
        """Start near the training mean: small weights."""
        for weight in self.heads.parameters():
            nn.init.normal_(weight, std=0.02)

    @torch.no_grad()
    def set_components(self, targets: Tensor) -> None:
        """Take mean, loadings and scale from training targets, ``(n_spots, n_genes)``.

        Components beyond what the targets span stay zero. The scale, the standard deviation of the first component,
        brings scores to the order of 1; ``total_variance`` is their mean squared length on the training spots, the
        error of predicting the training mean.
        """
        exact = targets.double()
        mean = exact.mean(dim=0)
        _, singular, loadings = torch.linalg.svd(exact - mean, full_matrices=False)
        # Against the targets' own size: what is left of constant targets is rounding, all of it.
        kept = min(self.rank, int((singular > 1e-9 * exact.norm()).sum()))
        # A component's sign is arbitrary; the largest loading is made positive, so that every machine agrees.
        flip = torch.sign(loadings.gather(1, loadings.abs().argmax(dim=1, keepdim=True)))
        self.mean.copy_(mean)
        self.loadings.zero_()
        self.loadings[:kept] = (loadings * flip)[:kept].to(self.loadings.dtype)
        self.scale.fill_(float(singular[0]) / len(targets) ** 0.5 if kept else 1.0)
        variance = float(self.scores(targets).square().sum(dim=1).mean())
        self.total_variance.fill_(variance if variance > 0 else 1.0)

    def scores(self, targets: Tensor) -> Tensor:
        """Component scores of targets, ``(n, rank)``, in units of ``scale``."""
        return (targets - self.mean) @ self.loadings.T / self.scale

    def expression(self, scores: Tensor) -> Tensor:
        """Expression of component scores, ``(n, n_genes)``."""
        return self.mean + (scores * self.scale) @ self.loadings

    def forward(self, *embeddings: Tensor) -> Tensor:
        """Component scores of embeddings, ``(n, rank)``, in units of ``scale``; see :meth:`expression`."""
        total = self.heads[0](embeddings[0])
        for head, embedding in zip(self.heads[1:], embeddings[1:], strict=True):
            total = total + head(embedding)
        return total
