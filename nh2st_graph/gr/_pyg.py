"""Convert a section and its graph to PyTorch Geometric."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph._errors import DataError
from nh2st_graph.section import Key, array_positions, check_section, section_name, spot_pitch

__all__ = ["EDGE_FEATURES", "NODE_VALUES", "graph_keys", "spatial_edges", "to_pyg"]

#: Columns of ``edge_attr``: length in array pitches, and the unit vector from the receiving spot to the sender.
EDGE_FEATURES = ("distance", "direction_x", "direction_y")

#: Values of a graph that have one row for each spot.
NODE_VALUES = ("x", "x_views", "patches", "pos", "array", "y", "counts", "library")

#: Edges whose features are computed at a time.
_EDGES = 2**20


def spatial_edges(adata: AnnData, neighbors_key: str = Key.uns.neighbors) -> tuple[Tensor, Tensor]:
    """Give the edges of a section's graph, in the direction of PyG, with their features.

    Row ``i`` of squidpy's matrix lists the neighbours of spot ``i``, and a nearest-neighbour graph is not symmetric. A
    spot reads from its neighbours, so an entry ``(i, j)`` becomes a message **from j to i**: ``edge_index[0] = j``
    (sender), ``edge_index[1] = i`` (receiver).

    Parameters
    ----------
    adata
        One section with a graph, built by :func:`spatial_graph` or by squidpy itself.
    neighbors_key
        Entry of ``uns`` that names the graph's keys in ``obsp`` (``f"{key_added}_neighbors"`` in squidpy).

    Returns
    -------
    ``edge_index``, ``(2, n_edges)`` int64, and ``edge_attr``, ``(n_edges, 3)`` float32 with the columns
    :data:`EDGE_FEATURES`. Lengths are computed from positions, since squidpy's distances are ring numbers in grid
    mode.

    Raises
    ------
    DataError
        If the section has no graph.
    """
    return _edges(check_section(adata), neighbors_key)


def _edges(adata: AnnData, neighbors_key: str) -> tuple[Tensor, Tensor]:
    connectivities = sparse.csr_matrix(adata.obsp[graph_keys(adata, neighbors_key)[0]])
    receiver = np.repeat(np.arange(adata.n_obs, dtype=np.int64), np.diff(connectivities.indptr))
    # squidpy stores explicit zeros on the diagonal.
    edges = (connectivities.data != 0) & (connectivities.indices != receiver)
    edge_index = np.stack([connectivities.indices[edges], receiver[edges]], dtype=np.int64)
    del receiver
    x, y = (np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64) / spot_pitch(adata)).T
    edge_attr = np.zeros((edge_index.shape[1], len(EDGE_FEATURES)), dtype=np.float32)
    for start in range(0, len(edge_attr), _EDGES):
        part = slice(start, start + _EDGES)
        sender, receiving = edge_index[:, part]
        steps = x[sender] - x[receiving], y[sender] - y[receiving]
        length = np.sqrt(steps[0] ** 2 + steps[1] ** 2)
        edge_attr[part, 0] = length
        for column, step in enumerate(steps, start=1):
            np.divide(step, length, out=edge_attr[part, column], where=length > 0, casting="same_kind")
    return torch.from_numpy(edge_index), torch.from_numpy(edge_attr)


def graph_keys(adata: AnnData, neighbors_key: str = Key.uns.neighbors) -> tuple[str, str]:
    """Find the keys of a section's connectivities and distances in ``obsp``, as ``uns[neighbors_key]`` names them.

    Raises
    ------
    DataError
        If the section has no such graph.
    """
    entry = adata.uns.get(neighbors_key, {})
    prefix = neighbors_key.removesuffix("_neighbors")
    keys = tuple(str(entry.get(f"{kind}_key", f"{prefix}_{kind}")) for kind in ("connectivities", "distances"))
    missing = [key for key in keys if key not in adata.obsp]
    if missing:
        raise DataError(
            f"section {section_name(adata)!r}: no obsp['{missing[0]}']; run ng.gr.spatial_graph(adata) first, or "
            f"one of squidpy's sq.gr.spatial_neighbors_... with key_added='{prefix}'"
        )
    return keys[0], keys[1]


def to_pyg(
    adata: AnnData,
    x: NDArray[Any] | None = None,
    *,
    neighbors_key: str = Key.uns.neighbors,
    **node_values: NDArray[Any],
) -> Data:
    """Convert a section with its graph to PyG.

    Parameters
    ----------
    adata
        One section with a graph of squidpy.
    x
        Node features, ``(n_spots, d)``; default ``obsm["X_image"]``.
    neighbors_key
        Entry of ``uns`` that names the graph's keys in ``obsp``.
    **node_values
        More arrays with one row for each spot (targets, counts, patches), in the order of ``adata``.

    Returns
    -------
    ``Data`` with ``x``, ``edge_index``, ``edge_attr``, ``pos`` (``(n_spots, 2)``, in array pitches), ``array``
    (``(n_spots, 2)`` int64, x then y; if the section has array positions), ``section`` (its name), ``spots`` (their
    names) and the other values. Values are float32, but pixels stay uint8.

    Raises
    ------
    DataError
        If the section has no graph or no features, or a value has another number of rows.
    """
    if x is None:
        check_section(adata, need=("features",))
        x = np.asarray(adata.obsm[Key.obsm.image])
    else:
        check_section(adata)
    arrays = {name: np.asarray(value) for name, value in node_values.items()}
    return as_data(adata, np.asarray(x), neighbors_key=neighbors_key, **arrays)


def as_data(adata: AnnData, x: NDArray[Any] | Sized, *, neighbors_key: str, **node_values: NDArray[Any]) -> Data:
    """Convert a checked section to PyG; see :func:`to_pyg`.

    Values may be any object with one row for each spot: what is no array is stored as it is.
    """
    edge_index, edge_attr = _edges(adata, neighbors_key)
    position = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64) / spot_pitch(adata)
    values: dict[str, Any] = {"x": x, "pos": position, **node_values}
    for name, value in values.items():
        if len(value) != adata.n_obs:
            raise DataError(
                f"section {section_name(adata)!r}: {name} has {len(value)} rows for {adata.n_obs} spots; "
                "give one row for each spot, in the section's order"
            )
    # Values that are read where they are asked for stay as they are.
    tensors = {name: _tensor(value) if isinstance(value, np.ndarray) else value for name, value in values.items()}
    array = array_positions(adata)
    if array is not None:
        tensors["array"] = torch.from_numpy(array)
    return Data(
        edge_index=edge_index,
        edge_attr=edge_attr,
        section=section_name(adata),
        spots=list(adata.obs_names),
        num_nodes=adata.n_obs,
        **tensors,
    )


def _tensor(value: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.array(value, dtype=np.uint8 if value.dtype == np.uint8 else np.float32))
