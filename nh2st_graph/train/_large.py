"""Large sections: predict them in pieces, hold out a sample of them, and take parts without copying their values."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph.models import Estimator, Network
from nh2st_graph.nn import LARGE, Rows, dense, on_threads
from nh2st_graph.train._batches import pieces, surroundings
from nh2st_graph.train._threads import one_thread

__all__ = ["dense_graph", "held_out_sample", "part_of", "predict_graph", "predict_section", "scored"]

#: Spots of a piece that is predicted at a time, without its rim.
_PIECE = 8192

#: Most spots of a held-out part that choose the number of epochs, in pieces of this many.
_MOST_HELD_OUT, _SAMPLED = 10_000, 1_000


def dense_graph(section: Data) -> Data:
    """Give a graph whose values of spots are all tensors."""
    whole = copy.copy(section)
    for key, value in section.to_dict().items():
        if isinstance(value, Rows):
            whole[key] = dense(value)
    return whole


def part_of(section: Data, inside: Tensor) -> Data:
    """Take some spots of a section with the edges between them, ``inside`` being ``(n_spots,)`` bool."""
    taken, values = inside.nonzero()[:, 0], section.to_dict()
    # Of a list, PyG takes the elements by a loop over a tensor: seconds for a million names.
    part = Data(**{key: value for key, value in values.items() if key != "spots"}).subgraph(inside)
    if "spots" in values:
        part.spots = [values["spots"][i] for i in taken.tolist()]
    for key, value in values.items():
        if isinstance(value, Rows):
            part[key] = value.take(taken)
    return part


def held_out_sample(section: Data, network: Network, *, large: int = LARGE) -> Data:
    """Take evenly spread pieces of a large held-out section, with all that their prediction reads.

    Returns
    -------
    A dense graph with ``seeds``, the spots to score. A section that is not large, or is read as a whole, as it is.
    """
    n_spots, hops = int(section.num_nodes or 0), network.prediction_hops(section)
    if (n_spots < large and not isinstance(section.x, Rows)) or hops is None:
        return dense_graph(section)
    parts = pieces(section.pos, -(-n_spots // _SAMPLED))
    every = -(-n_spots // _MOST_HELD_OUT)
    return surroundings(section).cut(torch.cat([*parts[every // 2 :: every]]), hops, lean=True)


def scored(section: Data, values: Tensor) -> Tensor:
    """Take the values of the spots that are scored: all, or the ``seeds`` of a sample."""
    return values[section.seeds] if "seeds" in section else values


@torch.no_grad()
def predict_section(network: Network, section: Data, *, threads: int = 1, large: int = LARGE) -> Tensor:
    """Predict a section from its image; see :meth:`nh2st_graph.models.Network.predict`.

    A large section is predicted in pieces with their surroundings, so that no more than a piece for each thread is in
    memory beside the result. The result does not depend on the number of threads.

    Parameters
    ----------
    network
        The network, in evaluation.
    section
        A graph without genes.
    threads
        Number of pieces that are predicted at a time.
    large
        Number of spots from which on a section is predicted in pieces.
    """
    n_spots, hops = int(section.num_nodes or 0), network.prediction_hops(section)
    if n_spots < large or hops is None:
        return network.predict(dense_graph(section))
    whole = surroundings(section)
    predicted = torch.empty(n_spots, network.n_genes)

    @torch.no_grad()
    def predict(seeds: Tensor) -> None:
        part = whole.cut(seeds, hops, lean=True)
        predicted[seeds] = network.predict(part)[part.seeds]

    on_threads(predict, pieces(section.pos, -(-n_spots // _PIECE)), threads)
    return predicted


@torch.no_grad()
def predict_graph(module: Network | Estimator, graph: Data, threads: int = 1) -> NDArray[np.float32]:
    """Predict a graph without genes by a network or an estimator, ``(n_spots, n_genes)``."""
    with one_thread():
        if isinstance(module, Estimator):
            return np.asarray(module.predict(dense_graph(graph)), dtype=np.float32)
        return np.asarray(predict_section(module, graph, threads=threads), dtype=np.float32)
