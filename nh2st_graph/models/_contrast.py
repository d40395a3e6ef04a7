"""The contrast of image and gene embeddings, of the spot and of its neighbourhood."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from nh2st_graph.models._network import EMBEDDINGS
from nh2st_graph.models._settings import ModelConfig
from nh2st_graph.nn import chance_level, info_nce, retrieval_at_k

__all__ = ["LETTERS", "Contrast", "Pairs"]

#: Embeddings of both modalities at both scales, ``(n, width)`` each, by their names in :data:`EMBEDDINGS`.
Pairs = dict[str, Tensor]

#: Letters of embeddings in the formulas of :class:`NH2STGraph`, which are also in the names of saved weights.
LETTERS = {"image": "p", "gene": "q", "image_neighbourhood": "P", "gene_neighbourhood": "Q"}

#: Lower bound of a learned temperature, at which logits are a hundred times cosines (Radford et al., 2021).
_COLDEST = 0.01


class Contrast(nn.Module):
    """The contrast of image and genes (NH2ST, Qu et al., MICCAI 2025), with settings as switches.

    Parameters
    ----------
    config
        Settings, of which ``contrast``, ``symmetric``, ``projection``, ``temperature``, ``learn_temperature``,
        ``negatives``, ``negative_weight`` and the weights are read.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.scales = scales(config)
        letters = [LETTERS[name] for scale in self.scales for name in EMBEDDINGS[scale]]
        self.projections = nn.ModuleDict(
            {
                letter: nn.Linear(config.width, config.width) if config.projection else nn.Identity()
                for letter in letters
            }
        )
        learned = config.learn_temperature and self.scales
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature))) if learned else None

    @property
    def temperature(self) -> float | Tensor:
        """Divisor of the cosines."""
        if self.log_temperature is None:
            return self.config.temperature
        learned = self.log_temperature.exp()
        # The correction has no gradient of its own. A clamp would have no gradient at the bound, and the temperature
        # would stay there.
        return learned + (_COLDEST - learned.detach()).clamp_min(0)

    def projected(self, pairs: Pairs) -> Pairs:
        """Project embeddings into the space of the contrast; those that are not contrasted stay as they are."""
        return {
            name: self.projections[LETTERS[name]](h) if LETTERS[name] in self.projections else h
            for name, h in pairs.items()
        }

    def retrieval(self, pairs: Pairs) -> dict[str, float]:
        """Compute the share of spots whose gene embedding is among the ten nearest to their image's, by scale."""
        found = self.projected(pairs)
        return {
            f"retrieval_{scale}": retrieval_at_k(found[image], found[gene])
            for scale, (image, gene) in EMBEDDINGS.items()
            if scale in self.scales
        }

    def forward(self, pairs: Pairs, data: Data) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the losses on a batch.

        Parameters
        ----------
        pairs
            Embeddings of all spots of ``data``.
        data
            A graph with ``seeds``, the spots whose partner is looked for, and ``edge_index``, which defines neighbours.
            It is the whole section if negatives are not from the batch.

        Returns
        -------
        For each scale the loss, its chance level and the share of partners among the nearest ten of the batch; and the
        weighted sum of the losses.
        """
        seeds = data.seeds
        beyond_batch = self.config.negatives != "batch"
        excluded = data.edge_index if self.config.negatives == "distant" else None
        anchors = seeds if beyond_batch else None
        found = self.projected(pairs)
        of_seeds = {name: h[seeds] for name, h in found.items()}
        candidates = found if beyond_batch else of_seeds
        weights = {"spot": self.config.weight_spot, "neighbourhood": self.config.weight_neighbourhood}
        parts: dict[str, Tensor] = {}
        weighted = torch.zeros((), device=seeds.device)
        for scale in self.scales:
            image, gene = EMBEDDINGS[scale]
            loss = info_nce(
                candidates[image],
                candidates[gene],
                self.temperature,
                symmetric=self.config.symmetric,
                negative_weight=self.config.negative_weight,
                anchors=anchors,
                excluded=excluded,
            )
            chance = chance_level(len(candidates[image]), anchors=anchors, excluded=excluded)
            weighted = weighted + weights[scale] * loss
            parts[f"contrast_{scale}"] = loss
            parts[f"contrast_{scale}_chance"] = loss.new_tensor(chance)
            parts[f"retrieval_{scale}"] = loss.new_tensor(retrieval_at_k(of_seeds[image], of_seeds[gene]))
        return parts, weighted


def scales(config: ModelConfig) -> tuple[str, ...]:
    """List the scales of the contrast that are on: ``"spot"`` and ``"neighbourhood"``."""
    wanted = tuple(EMBEDDINGS) if config.contrast == "both" else (config.contrast,)
    there = {"spot": config.query, "neighbourhood": config.neighbours}
    return tuple(scale for scale in wanted if there.get(scale))
