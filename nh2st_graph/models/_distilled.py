"""Base of HGGEP and Hist2ST: a likelihood of counts and self-distillation in addition to the squared error."""

from __future__ import annotations

from abc import abstractmethod
from math import log
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data

from nh2st_graph.models._inputs import check_positions
from nh2st_graph.models._network import Network
from nh2st_graph.nn import mse, zero_inflated_negative_binomial_nll

__all__ = ["SelfDistilled", "zero_inflated_loss"]


class SelfDistilled(Network):
    r"""A network over the spots of a section, with self-distillation between patches and their augmented views.

    With embeddings :math:`z` of the spots, a head :math:`\hat y = U z` and embeddings :math:`z_v` of view :math:`v`,

    .. math::
        \mathcal{L} = \lVert \hat y - y \rVert^2 + a\, \mathcal{L}_\text{counts}(z)
            + b\, \Big\lVert \hat y - \sum_v \operatorname{softmax}_v\big(c(z_v)\big)\, U z_v \Big\rVert^2

    with the weights :math:`a` (``weight_likelihood``) and :math:`b` (``weight_distillation``), a learned score
    :math:`c` of a spot's views (``view_weight``), and squared errors averaged over spots and genes. Settings also have
    ``n_views``, ``detach_prediction`` and ``n_positions``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"array"})
    head: nn.Module
    loss_parts = ("regression", "likelihood", "distillation")

    @abstractmethod
    def embed(self, images: Tensor, data: Data) -> Tensor:
        """Embed the spots of one section for all heads, ``(n_spots, width)``.

        Parameters
        ----------
        images
            Patches of the spots, ``(n_spots, 3, side, side)``.
        data
            Positions and edges of the section.
        """

    @abstractmethod
    def _images(self, data: Data) -> Tensor:
        """Give the patches to embed, ``(n_spots, 3, side, side)``."""

    @abstractmethod
    def _likelihood(self, embedded: Tensor, data: Data) -> Tensor | None:
        """Compute the negative log-likelihood of the seeds' counts from their embeddings; None if it is off."""

    @abstractmethod
    def _predict_from_views(self, images: Tensor, data: Data) -> Tensor:
        """Predict the seeds from augmented views, weighted for each spot by its embeddings."""

    def check(self, data: Data) -> None:
        """Raise a DataError if array positions are outside the tables."""
        check_positions(data, self.config.n_positions)

    def losses(self, data: Data) -> dict[str, Tensor]:
        """Compute every loss on the seeds; see :class:`Network`.

        Returns
        -------
        ``loss``, the weighted sum, and its parts: ``regression``, and ``likelihood`` and ``distillation`` if they are
        on.
        """
        config = self.config
        images = self._images(data)
        embedded = self.embed(images, data)[data.seeds]
        predicted = self.head(embedded)
        parts = {"regression": mse(predicted, data.y[data.seeds])}
        total = parts["regression"]
        likelihood = self._likelihood(embedded, data)
        if likelihood is not None:
            parts["likelihood"] = likelihood
            total = total + config.weight_likelihood * likelihood
        if config.n_views:
            wanted = predicted.detach() if config.detach_prediction else predicted
            parts["distillation"] = mse(self._predict_from_views(images, data), wanted)
            total = total + config.weight_distillation * parts["distillation"]
        return {"loss": total, **parts}

    def predict(self, data: Data) -> Tensor:
        """Predict a whole section from its image; see :class:`Network`.

        Raises
        ------
        DataError
            If array positions are outside the tables.
        """
        self.check(data)
        expression: Tensor = self.head(self.embed(self._images(data), data))
        return expression


def zero_inflated_loss(
    counts: Tensor, size_factor: Tensor, log_mean: Tensor, dispersion: Tensor, zeros: Tensor
) -> Tensor:
    """Compute the mean negative log-likelihood of counts by a zero-inflated negative binomial.

    Parameters
    ----------
    counts
        ``(n, n_genes)``.
    size_factor
        Size factor of each spot: its depth relative to that of a typical spot, ``(n, 1)``.
    log_mean, dispersion, zeros
        Outputs of linear heads, ``(n, n_genes)``: log mean at a size factor of 1, inverse dispersion before a softplus,
        and logit of an extra zero. Their bounds are those of the publication.
    """
    mean = log_mean.clamp(log(1e-5), log(1e6)).exp()
    log_dispersion = F.softplus(dispersion).clamp(1e-4, 1e4).log()
    return zero_inflated_negative_binomial_nll(
        counts, (mean * size_factor).clamp_min(1e-8), log_dispersion, zeros
    ).mean()
