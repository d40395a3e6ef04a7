"""Draw training batches: spots of one section, with the surroundings that make their losses exact."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset
from torch_geometric.data import Data

from nh2st_graph.nn import LARGE, Rows

__all__ = ["Batch", "SpotBatches", "Surroundings", "as_view", "cut_out", "pieces", "surroundings"]


#: A graph with seeds, or several pieces of one section.
Batch: TypeAlias = Data | list[Data]

#: Spots of a batch: of a section that is not large; fewest and most of a large one. And its batches in an epoch.
_FEW, _FEWEST, _MOST, _STEPS = 256, 2000, 16_384, 25
#: Spots of a piece, fewest and most.
_PIECE = 1536, 4096


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


class Surroundings:
    """Cuts parts out of one section, each in a time that depends on the part and hardly on the section.

    Parameters
    ----------
    section
        A graph, whose values of spots are tensors or :class:`~nh2st_graph.nn.Rows`.

    Attributes
    ----------
    section
        The graph.
    """

    def __init__(self, section: Data) -> None:
        self.section = section
        self._sender, receiver = section.edge_index.numpy()
        ordered = bool((receiver[1:] >= receiver[:-1]).all())
        #: Positions of the edges in the order of their receivers; None if they are in this order.
        self._edges = None if ordered else np.argsort(receiver, kind="stable")
        n_spots = int(section.num_nodes or 0)
        self._start = np.concatenate([[0], np.cumsum(np.bincount(receiver, minlength=n_spots))])

    def cut(self, seeds: Tensor, hops: int | None, *, shown: Data | None = None, lean: bool = False) -> Data:
        """Cut out some spots with everything within ``hops`` edges upstream; None keeps all of the section.

        Parameters
        ----------
        seeds
            Positions of the wanted spots.
        hops
            Width of the surroundings.
        shown
            The same section with other values of spots.
        lean
            Leave out edges between spots of the outermost ring, which no message to a seed passes. Then the part has
            only what the seeds need; otherwise all edges between its spots.
        """
        section = self.section if shown is None else shown
        if hops is None:
            part = copy.copy(section)
            part.seeds = seeds
            return part
        index, inside = self._upstream(seeds.numpy(), hops)
        # PyG reads every edge of a graph: it is shown those that end in the part.
        near, edges = copy.copy(section), torch.from_numpy(self._into(inside if lean else index))
        for key in section.edge_attrs():
            near[key] = section[key][:, edges] if key == "edge_index" else section[key][edges]
        part = near.subgraph(torch.from_numpy(index))
        for key, value in section.to_dict().items():
            if isinstance(value, Rows):
                part[key] = value[index]
        part.seeds = torch.from_numpy(np.searchsorted(index, seeds.numpy()))
        return part

    def _upstream(self, wanted: NDArray[np.int64], hops: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the spots within some edges upstream of the wanted ones, and those within one edge less, ascending."""
        near = np.zeros(len(self._start) - 1, dtype=bool)
        near[wanted] = True
        inside = index = np.flatnonzero(near)
        for _ in range(hops):
            near[self._sender[self._into(index)]] = True
            inside, index = index, np.flatnonzero(near)
        return index, inside

    def _into(self, spots: NDArray[np.int64]) -> NDArray[np.int64]:
        """List the edges into some spots, in the order of the section."""
        first, many = self._start[spots], self._start[spots + 1] - self._start[spots]
        before = np.cumsum(many) - many
        edges = np.arange(int(many.sum())) + np.repeat(first - before, many)
        return edges if self._edges is None else np.sort(self._edges[edges])


def cut_out(section: Data, seeds: Tensor, hops: int | None) -> Data:
    """Cut some spots out of a section, with everything within ``hops`` edges upstream; None keeps all of it.

    Over the part, ``hops`` rounds of message passing give the seeds the same values as over the whole section.

    Returns
    -------
    The part of the graph. Its ``seeds`` are the positions of the wanted spots.
    """
    return Surroundings(section).cut(seeds, hops)


class SpotBatches(IterableDataset[Batch]):
    """Batches that hold every spot of every section once an epoch; each batch is from one section.

    Within one section, stain and depth cannot tell a spot's partner from its negatives. A batch of a large section is
    a list of pieces of tissue, whose surroundings are a rim around each; pieces are cut anew, in another direction, at
    each epoch. A
    section with views in other stains (``x_views``) shows one of them in each epoch, or itself as it is, all with equal
    chance. Order, pieces and views of an epoch are drawn from the seed and the epoch's number alone, so that a resumed
    run sees the same batches.

    Parameters
    ----------
    sections
        Training graphs; or what cuts them, if it is there already.
    batch_spots
        Most spots of a batch, or ``"auto"``: 256; of a large section a 25th of its spots, between 2,000 and 16,384. A
        section is split into batches of equal size, and a batch of a large one into pieces of 1,536 to 4,096 spots.
    hops
        Width of the surroundings, in edges; None for the whole section.
    seed, epoch
        Numbers that order, pieces and views are drawn from.
    rank, ranks
        Number of this process, and of all that share an epoch. Each has as many batches; if they do not come out even,
        the first ones of the epoch are taken again.
    large
        Number of spots from which on batches are pieces.
    """

    def __init__(
        self,
        sections: Sequence[Data | Surroundings],
        batch_spots: int | Literal["auto"],
        hops: int | None,
        seed: int = 0,
        epoch: int = 0,
        *,
        rank: int = 0,
        ranks: int = 1,
        large: int = LARGE,
    ) -> None:
        self.sections = [each if isinstance(each, Surroundings) else surroundings(each) for each in sections]
        self.batch_spots = batch_spots
        self.hops = hops
        self.seed = seed
        self.epoch = epoch
        self.rank, self.ranks = rank, ranks
        self.large = large

    def __len__(self) -> int:
        """Count the batches of an epoch in this process."""
        return -(-sum(self._n_batches(each.section) for each in self.sections) // self.ranks)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        batches: list[tuple[Surroundings, Data, Sequence[Tensor]]] = []
        for each in self.sections:
            seeds = self._seeds(each.section, generator)
            shown = _drawn_view(each.section, generator)
            batches += [(each, shown, parts) for parts in seeds]
        order = torch.randperm(len(batches), generator=generator).tolist()
        for i in islice(cycle(order), self.rank, len(self) * self.ranks, self.ranks):
            each, shown, parts = batches[i]
            lean = self._in_pieces(each.section)
            cut = [each.cut(part, self.hops, shown=shown, lean=lean) for part in parts]
            yield cut if lean else cut[0]

    def _n_batches(self, section: Data) -> int:
        n_spots, most = int(section.num_nodes or 0), _FEW
        if self.batch_spots != "auto":
            most = self.batch_spots
        elif self._in_pieces(section):
            most = min(max(n_spots // _STEPS, _FEWEST), _MOST)
        return -(-n_spots // most)

    def _in_pieces(self, section: Data) -> bool:
        # A part of a large section may have fewer spots.
        is_large = int(section.num_nodes or 0) >= self.large or isinstance(section.to_dict().get("x"), Rows)
        return is_large and self.hops is not None

    def _seeds(self, section: Data, generator: torch.Generator) -> Sequence[Sequence[Tensor]]:
        """Give the spots of each batch, in one part or in several pieces."""
        n_batches, n_spots = self._n_batches(section), int(section.num_nodes or 0)
        if not self._in_pieces(section):
            return [[part] for part in torch.randperm(n_spots, generator=generator).tensor_split(n_batches)]
        angle = 2 * math.pi * float(torch.rand((), generator=generator))
        size = -(-n_spots // n_batches)
        of_batch = max(-(-size // _PIECE[1]), min(size // _PIECE[0], 4))
        parts = pieces(section.pos, n_batches * of_batch, angle)
        # Pieces of a batch are from anywhere in the tissue.
        order = torch.randperm(len(parts), generator=generator).view(n_batches, of_batch).tolist()
        return [[parts[i] for i in row] for row in order]


def surroundings(section: Data) -> Surroundings:
    """Prepare a training graph for cutting."""
    # No network reads the names of spots, and each batch would have to cut them too.
    section = copy.copy(section)
    if "spots" in section:
        del section.spots
    return Surroundings(section)


def pieces(pos: Tensor, n_pieces: int, angle: float = 0.0) -> Sequence[Tensor]:
    """Cut tissue into compact pieces of equal numbers of spots.

    The tissue is cut into strips. A walk goes up one strip and down the next, and is cut into equal lengths.

    Parameters
    ----------
    pos
        Positions, ``(n_spots, 2)``.
    n_pieces
        Number of pieces.
    angle
        Direction of the strips, in radians.

    Returns
    -------
    Positions of the spots of each piece.
    """
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    across, along = (pos.numpy().astype(np.float64) @ turn).T
    shape = np.ptp(across) / max(np.ptp(along), 1e-300)
    n_strips = int(np.clip(round(math.sqrt(n_pieces * shape)), 1, n_pieces))
    rank = np.empty(len(across), dtype=np.int64)
    rank[np.argsort(across, kind="stable")] = np.arange(len(across))
    strip = rank * n_strips // len(across)
    walk = np.lexsort([np.where(strip % 2, -along, along), strip])
    return torch.from_numpy(walk).tensor_split(n_pieces)


def _drawn_view(section: Data, generator: torch.Generator) -> Data:
    """Draw one of the views of a section, or the section as it is."""
    if "x_views" not in section:
        return section
    drawn = int(torch.randint(section.x_views.shape[1] + 1, (), generator=generator))
    return as_view(section, drawn - 1 if drawn else None)
