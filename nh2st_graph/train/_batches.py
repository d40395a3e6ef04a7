"""Draw training batches: spots of one section, with the surroundings that make their losses exact."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from torch_geometric.data import Data
from torch_geometric.utils import k_hop_subgraph

__all__ = ["SpotBatches", "as_view", "cut_out"]


def as_view(graph: Data, view: int | None) -> Data:
    """Show a training graph in another stain.

    Parameters
    ----------
    graph
        A graph with ``x_views``, ``(n_spots, n_views, n_features)``.
    view
        Number of the view; None for the section as it is.

    Returns
    -------
    The graph with these features as ``x``, and without ``x_views``.
    """
    part = copy.copy(graph)
    if view is not None:
        part.x = graph.x_views[:, view]
    del part.x_views
    return part


def cut_out(section: Data, seeds: Tensor, hops: int | None) -> Data:
    """Cut some spots out of a section, with everything within ``hops`` edges upstream; None keeps all of it.

    Over the part, ``hops`` rounds of message passing give the seeds the same values as over the whole section.

    Returns
    -------
    The part of the graph. Its ``seeds`` are the positions of the wanted spots.
    """
    if hops is None:
        part, place = copy.copy(section), seeds
    else:
        index, _, place, _ = k_hop_subgraph(seeds, hops, section.edge_index, num_nodes=section.num_nodes)
        part = section.subgraph(index)
    part.seeds = place
    return part


class SpotBatches(IterableDataset[Data]):
    """Batches that hold every spot of every section once an epoch; each batch is from one section.

    Within one section, stain and depth cannot tell a spot's partner from its negatives. A section with views in other
    stains (``x_views``) shows one of them in each epoch, or itself as it is, all with equal chance. Order and views of
    an epoch are drawn from the seed and the epoch's number alone, so that a resumed run sees the same batches.

    Parameters
    ----------
    sections
        Training graphs.
    batch_spots
        Most spots of a batch. A section is split into batches of equal size.
    hops
        Width of the surroundings, in edges; None for the whole section.
    seed, epoch
        Numbers that order and views are drawn from.
    """

    def __init__(
        self, sections: Sequence[Data], batch_spots: int, hops: int | None, seed: int = 0, epoch: int = 0
    ) -> None:
        # No network reads the names of spots, and each batch would have to cut them too.
        self.sections = [_without_names(section) for section in sections]
        self.batch_spots = batch_spots
        self.hops = hops
        self.seed = seed
        self.epoch = epoch

    def _n_batches(self, section: Data) -> int:
        return -(-int(section.num_nodes or 0) // self.batch_spots)

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return sum(self._n_batches(section) for section in self.sections)

    def __iter__(self) -> Iterator[Data]:
        """Yield the batches of the epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        batches: list[tuple[Data, Tensor]] = []
        for section in self.sections:
            order = torch.randperm(int(section.num_nodes or 0), generator=generator)
            shown = _drawn_view(section, generator)
            batches += [(shown, seeds) for seeds in order.tensor_split(self._n_batches(section))]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            section, seeds = batches[i]
            yield cut_out(section, seeds, self.hops)


def _drawn_view(section: Data, generator: torch.Generator) -> Data:
    """Draw one of the views of a section, or the section as it is."""
    if "x_views" not in section:
        return section
    drawn = int(torch.randint(section.x_views.shape[1] + 1, (), generator=generator))
    return as_view(section, drawn - 1 if drawn else None)


def _without_names(section: Data) -> Data:
    part = copy.copy(section)
    if "spots" in part:
        del part.spots
    return part
