"""Base of EGN and EGGN: exemplars, which are the training spots with the most similar images, and their genes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph._errors import ModelError
from nh2st_graph._settings import Positive
from nh2st_graph.models._network import Network
from nh2st_graph.models._settings import MethodConfig
from nh2st_graph.nn import PatchEncoder, Similarity, mse, nearest, one_minus_pearson

__all__ = ["ExemplarConfig", "ExemplarGuided", "exemplars_of_training", "nearest_others"]

#: Added to the range of a gene, as the authors do, so that a constant gene is not divided by zero.
_ROUNDING = 1e-8


class ExemplarConfig(MethodConfig):
    """Settings that these methods share.

    Attributes
    ----------
    k
        Number of exemplars of a spot; all training spots if there are fewer.
    similarity
        Similarity by which exemplars are found.
    weight_correlation
        Weight of 1 minus Pearson's r over the spots of a batch (mean over genes), against a weight of 1 of the squared
        error: 0.5 in the authors' code, 1 in the paper of EGN.
    """

    k: Positive
    similarity: Similarity = "euclidean"
    weight_correlation: Annotated[float, Field(ge=0)] = 0.5


class ExemplarGuided(Network):
    """Regression from a spot's image and its exemplars.

    Exemplars are found by fixed features (``data.x``). In training they come from other sections, or from other spots
    of the only section. Targets, also those of the exemplars, are scaled from 0 to 1 over the training spots, gene by
    gene. The bank (``memory``) holds all training spots.

    A step reads a whole section (:attr:`receptive_hops`), so that training spots keep their places, by which their
    exemplars are stored.

    Parameters
    ----------
    settings, n_features, n_genes, patch_encoder
        As in :class:`Network`.
    """

    config: ExemplarConfig
    lowest: Tensor
    spread: Tensor
    loss_parts = ("regression", "correlation")

    def __init__(
        self, settings: ExemplarConfig, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None
    ) -> None:
        super().__init__(settings, n_features, n_genes, patch_encoder)
        self.register_buffer("lowest", torch.zeros(n_genes))
        self.register_buffer("spread", torch.ones(n_genes))
        self._of_training: dict[str, Tensor] = {}

    def keys(self, data: Data) -> Tensor:
        """Give the features that find exemplars, ``(n_spots, n_key)`` float: the fixed image features."""
        return data.x.float()

    @abstractmethod
    def estimate(self, data: Data, exemplars: Tensor, spots: Tensor) -> Tensor:
        """Estimate scaled expression.

        Parameters
        ----------
        data
            A section.
        exemplars
            Indices in the bank of the exemplars of all its spots, ``(n_spots, k)``.
        spots
            The wanted spots, ``(n,)``.

        Returns
        -------
        ``(n, n_genes)``, mostly between 0 and 1.
        """

    @torch.no_grad()
    def prepare(self, sections: Sequence[Data]) -> None:
        """Take the range of the targets, fill the bank, and find the exemplars of the training spots."""
        keys = [self.keys(section).cpu() for section in sections]
        expression = torch.cat([section.y.cpu() for section in sections])
        lowest, highest = expression.aminmax(dim=0)
        self.lowest.copy_(lowest)
        self.spread.copy_(highest - lowest + _ROUNDING)
        self.memory = {"keys": torch.cat(keys), "expression": expression}
        found = exemplars_of_training(keys, self.config.k, self.config.similarity)
        self._of_training = {section.section: each for section, each in zip(sections, found, strict=True)}

    def losses(self, data: Data) -> dict[str, Tensor]:
        """Compute the losses on the scaled targets of the seeds; see :class:`Network`.

        Returns
        -------
        ``loss``, and its parts: ``regression``, the mean squared error, and ``correlation``, without its weight.

        Raises
        ------
        ModelError
            If :meth:`prepare` did not get this section.
        """
        if data.section not in self._of_training:
            raise ModelError(f"section {data.section!r} has no exemplars; call prepare(sections) with it first")
        observed = self._scaled(data.y[data.seeds])
        # Full precision, since the first estimates differ less between spots than half precision resolves.
        estimated = self.estimate(data, self._of_training[data.section], data.seeds).to(observed)
        regression, correlation = mse(estimated, observed), one_minus_pearson(estimated, observed)
        loss = regression + self.config.weight_correlation * correlation
        return {"loss": loss, "regression": regression, "correlation": correlation}

    def predict(self, data: Data) -> Tensor:
        """Predict a whole section from its image and the bank; see :class:`Network`.

        Raises
        ------
        ModelError
            If there is no bank yet.
        """
        if not self.memory:
            raise ModelError(f"{type(self).__name__} has no exemplars; call prepare(sections) first")
        keys = self.keys(data)
        _, found = nearest(keys, self.memory["keys"], self.config.k, similarity=self.config.similarity)
        spots = torch.arange(len(keys), device=keys.device)
        return self.estimate(data, found, spots) * self.spread + self.lowest

    def bank(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Give keys and scaled expression of spots of the bank, ``(..., n_key)`` and ``(..., n_genes)``."""
        numbers = numbers.to(self.memory["keys"].device)
        return self.memory["keys"][numbers].to(self.lowest), self._scaled(self.memory["expression"][numbers])

    def _scaled(self, expression: Tensor) -> Tensor:
        return (expression.to(self.lowest) - self.lowest) / self.spread


def exemplars_of_training(keys: Sequence[Tensor], k: int, similarity: Similarity) -> list[Tensor]:
    """Find the exemplars of training spots: the nearest spots of other sections, or other spots of the only section.

    Parameters
    ----------
    keys
        Features that find exemplars, ``(n_spots, n_key)`` for each section.
    k, similarity
        Number of exemplars, and similarity.

    Returns
    -------
    For each section ``(n_spots, k)``: indices of spots across all sections, the nearest first.
    """
    if len(keys) == 1:
        return [nearest_others(keys[0], k, similarity)]
    joined = torch.cat(list(keys))
    section = torch.arange(len(keys)).repeat_interleave(torch.tensor([len(part) for part in keys]))
    found = []
    for i, part in enumerate(keys):
        others = (section != i).nonzero().squeeze(1)
        found.append(others[nearest(part, joined[others], k, similarity=similarity)[1]])
    return found


def nearest_others(points: Tensor, k: int, similarity: Similarity = "euclidean") -> Tensor:
    """Find the points nearest to each point, without itself, ``(n, min(k, n - 1))`` from ``(n, width)``."""
    _, found = nearest(points, points, k + 1, similarity=similarity)
    itself = found == torch.arange(len(points), device=found.device).unsqueeze(1)
    # Move the point itself to the end, which is cut off: of points in the same place, it need not be the first.
    order = itself.long().argsort(dim=1, stable=True)
    return found.gather(1, order)[:, :-1]
