"""Training batches: some spots of one section, with the surroundings that make their losses exact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from torch_geometric.data import Data
from torch_geometric.utils import k_hop_subgraph

from nh2st_graph.gr import NODE_VALUES

__all__ = ["SpotBatches", "cut_out"]


def cut_out(section: Data, seeds: Tensor, hops: int | None) -> Data:
    """Cut out some spots with everything within ``hops`` edges upstream; the whole section where that is None.

    ``hops`` rounds of message passing over the cut-out give its seeds what they give over the whole section.

    Returns
    -------
    The part of the graph, with ``seeds``: the places of the wanted spots in it.
    """
    if hops is None:
        values = {name: section[name] for name in (*NODE_VALUES, "section") if name in section}
        return Data(
            edge_index=section.edge_index,
            edge_attr=section.edge_attr,
            seeds=seeds,
            num_nodes=section.num_nodes,
            **values,
        )
    index, edge_index, place, edge_mask = k_hop_subgraph(
        seeds, hops, section.edge_index, relabel_nodes=True, num_nodes=section.num_nodes
    )
    values = {name: section[name][index] for name in NODE_VALUES if name in section}
    values |= {"section": section.section} if "section" in section else {}
    return Data(
        edge_index=edge_index,
        edge_attr=section.edge_attr[edge_mask],
        seeds=place,
        num_nodes=len(index),
        **values,
    )


class SpotBatches(IterableDataset[Data]):
    """Every spot of every section once an epoch, in batches of spots of one section.

    Batches of one section keep stain and depth from telling a spot's partner from its negatives. The order is drawn
    anew each epoch from the seed and the epoch's number alone, so that a resumed run sees the same batches.

    Parameters
    ----------
    sections
        Training graphs.
    batch_spots
        Spots of a batch; a section is split into equal batches of at most this size.
    hops
        Width of the surroundings; None for the whole section.
    seed, epoch
        Of the order.
    """

    def __init__(
        self, sections: Sequence[Data], batch_spots: int, hops: int | None, seed: int = 0, epoch: int = 0
    ) -> None:
        self.sections = list(sections)
        self.batch_spots = batch_spots
        self.hops = hops
        self.seed = seed
        self.epoch = epoch

    def _n_batches(self, section: Data) -> int:
        return -(-int(section.num_nodes or 0) // self.batch_spots)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return sum(self._n_batches(section) for section in self.sections)

    def __iter__(self) -> Iterator[Data]:
        """Yield the batches of the epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        batches: list[tuple[Data, Tensor]] = []
        for section in self.sections:
            order = torch.randperm(int(section.num_nodes or 0), generator=generator)
            batches += [(section, seeds) for seeds in order.tensor_split(self._n_batches(section))]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            section, seeds = batches[i]
            yield cut_out(section, seeds, self.hops)
