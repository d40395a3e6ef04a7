"""The contrast of image and gene embeddings, of the spot and of its neighbourhood."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch_geometric.data import Data

from nh2st_graph._errors import ModelError
from nh2st_graph.models._network import EMBEDDINGS
from nh2st_graph.models._settings import ModelConfig
from nh2st_graph.nn import (
    chance_level,
    gathered,
    grouped_info_nce_and_ranks,
    info_nce,
    info_nce_against,
    info_nce_and_ranks,
    own_generator,
    retrieval_at_k,
)

__all__ = ["LETTERS", "Contrast", "Pairs"]

#: Embeddings of both modalities at both scales, ``(n, width)`` each, by their names in :data:`EMBEDDINGS`.
Pairs = dict[str, Tensor]

#: Letters of embeddings in the formulas of :class:`NH2STGraph`, which are also in the names of saved weights.
LETTERS = {"image": "p", "gene": "q", "image_neighbourhood": "P", "gene_neighbourhood": "Q"}

#: Candidates of a spot in a batch of a large section, which holds several times as many spots.
_CANDIDATES = 256

#: Lower bound of a learned temperature, at which logits are a hundred times cosines (Radford et al., 2021).
_COLDEST = 0.01

#: A partner is found if it is among so many nearest.
_NEAREST = 10


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
            f"retrieval_{scale}": retrieval_at_k(found[image], found[gene], _NEAREST)
            for scale, (image, gene) in EMBEDDINGS.items()
            if scale in self.scales
        }

    def forward(self, pairs: Pairs, data: Data, others: Pairs | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the losses on a batch.

        Parameters
        ----------
        pairs
            Embeddings of all spots of ``data``.
        data
            A graph with ``seeds``, the spots whose partner is looked for, and ``edge_index``, which defines neighbours.
            It is the whole section if negatives are from the section. With ``seeds_of_ranks``, the numbers of seeds
            in the batches of all processes, negatives of the batch are from the batches of all. If they are of the same
            depth, ``same_depth`` names them among ``others``, ``(n, k)``.
        others
            Embeddings of the spots that negatives of the same depth are from.

        Returns
        -------
        For each scale the loss, its chance level and the share of partners among the nearest ten of the batch; and the
        weighted sum of the losses.
        """
        compared = self._in_section
        if self.config.negatives == "batch":
            compared = self._in_batch
        elif self.config.negatives == "depth":
            compared = partial(self._at_same_depth, others or {})
        weights = {"spot": self.config.weight_spot, "neighbourhood": self.config.weight_neighbourhood}
        parts: dict[str, Tensor] = {}
        weighted = torch.zeros((), device=data.seeds.device)
        for scale, (loss, chance, retrieval) in compared(pairs, data).items():
            weighted = weighted + weights[scale] * loss
            parts[f"contrast_{scale}"] = loss
            parts[f"contrast_{scale}_chance"] = loss.new_tensor(chance)
            parts[f"retrieval_{scale}"] = loss.new_tensor(retrieval)
        return parts, weighted

    def _in_batch(self, pairs: Pairs, data: Data) -> dict[str, tuple[Tensor, float, float]]:
        """Compare seeds with those of the batch; give loss, chance level and retrieval by scale."""
        names = [name for scale in self.scales for name in EMBEDDINGS[scale]]
        several = "seeds_of_ranks" in data
        if names and not several and len(data.seeds) >= 4 * _CANDIDATES:
            return self._in_groups({name: pairs[name] for name in names}, data.seeds)
        found, anchors = self.projected({name: pairs[name][data.seeds] for name in names}), None
        if names and several:
            rank, sizes = distributed.get_rank(), data.seeds_of_ranks
            anchors = torch.arange(sizes[rank], device=data.seeds.device) + sum(sizes[:rank])
            # In one message.
            joined = gathered(torch.cat([found[name] for name in names], dim=1), sizes)
            found = dict(zip(names, joined.chunk(len(names), dim=1), strict=True))
        told = {}
        for scale in self.scales:
            image, gene = (found[name] for name in EMBEDDINGS[scale])
            loss, ranks = info_nce_and_ranks(image, gene, self.temperature, **self._form, anchors=anchors)
            told[scale] = loss, chance_level(len(image)), float((ranks <= _NEAREST).float().mean())
        return told

    def _in_groups(self, pairs: Pairs, seeds: Tensor) -> dict[str, tuple[Tensor, float, float]]:
        """Compare a random half of the seeds of a large batch in groups, drawn anew at each step.

        The mean over half of them is as true on average, and takes half of the time, which is a fifth of a step's.
        """
        half = len(seeds) // 2
        size = half // (half // _CANDIDATES)
        drawn = torch.randperm(len(seeds), generator=own_generator())[:half].to(seeds.device)
        chosen, told = seeds[drawn], {}
        found = self.projected({name: h.index_select(0, chosen) for name, h in pairs.items()})
        for scale in self.scales:
            image, gene = (found[name] for name in EMBEDDINGS[scale])
            loss, ranks = grouped_info_nce_and_ranks(image, gene, size, self.temperature, **self._form)
            told[scale] = loss, chance_level(size), float((ranks <= _NEAREST).float().mean())
        return told

    def _in_section(self, pairs: Pairs, data: Data) -> dict[str, tuple[Tensor, float, float]]:
        """Compare seeds with the spots of their section; retrieval is among the seeds."""
        found, seeds, told = self.projected(pairs), data.seeds, {}
        excluded = data.edge_index if self.config.negatives == "distant" else None
        for scale in self.scales:
            image, gene = (found[name] for name in EMBEDDINGS[scale])
            loss = info_nce(image, gene, self.temperature, **self._form, anchors=seeds, excluded=excluded)
            chance = chance_level(len(image), anchors=seeds, excluded=excluded)
            told[scale] = loss, chance, retrieval_at_k(image[seeds], gene[seeds], _NEAREST)
        return told

    def _at_same_depth(self, others: Pairs, pairs: Pairs, data: Data) -> dict[str, tuple[Tensor, float, float]]:
        """Compare seeds with the other spots that have their depth; retrieval is among the seeds."""
        names = [name for scale in self.scales for name in EMBEDDINGS[scale]]
        if names and not others:
            raise ModelError("the contrast has no spots of the same depth; call compare_with(sections) first")
        bank = self.projected({name: others[name] for name in names})
        found = self.projected({name: pairs[name].index_select(0, data.seeds) for name in names})
        told = {}
        for scale in self.scales:
            image, gene = (found[name] for name in EMBEDDINGS[scale])
            images, genes = (bank[name] for name in EMBEDDINGS[scale])
            negatives = data.same_depth[data.seeds]
            loss = info_nce_against(image, gene, images, genes, negatives, self.temperature, **self._form)
            told[scale] = loss, chance_level(negatives.shape[1] + 1), retrieval_at_k(image, gene, _NEAREST)
        return told

    @property
    def _form(self) -> dict[str, Any]:
        return {"symmetric": self.config.symmetric, "negative_weight": self.config.negative_weight}


def scales(config: ModelConfig) -> tuple[str, ...]:
    """List the scales of the contrast that are on: ``"spot"`` and ``"neighbourhood"``."""
    wanted = tuple(EMBEDDINGS) if config.contrast == "both" else (config.contrast,)
    there = {"spot": config.query, "neighbourhood": config.neighbours}
    return tuple(scale for scale in wanted if there.get(scale))
