"""Convert a section and its graph to PyTorch Geometric."""

from __future__ import annotations

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
    connectivities = sparse.coo_matrix(adata.obsp[graph_keys(adata, neighbors_key)[0]])
    # squidpy stores explicit zeros on the diagonal.
    edges = (connectivities.data != 0) & (connectivities.row != connectivities.col)
    receiver, sender = connectivities.row[edges], connectivities.col[edges]
    position = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64) / spot_pitch(adata)
    step = position[sender] - position[receiver]
    length = np.linalg.norm(step, axis=1, keepdims=True)
    direction = np.divide(step, length, out=np.zeros_like(step), where=length > 0)
    edge_index = torch.from_numpy(np.stack([sender, receiver]).astype(np.int64))
    edge_attr = torch.from_numpy(np.hstack([length, direction]).astype(np.float32))
    return edge_index, edge_attr


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
    return as_data(adata, x, neighbors_key=neighbors_key, **node_values)


def as_data(adata: AnnData, x: NDArray[Any], *, neighbors_key: str, **node_values: NDArray[Any]) -> Data:
    """Convert a checked section to PyG; see :func:`to_pyg`."""
    edge_index, edge_attr = _edges(adata, neighbors_key)
    position = np.asarray(adata.obsm[Key.obsm.spatial], dtype=np.float64) / spot_pitch(adata)
    values = {"x": x, "pos": position, **node_values}
    for name, value in values.items():
        if len(value) != adata.n_obs:
            raise DataError(
                f"section {section_name(adata)!r}: {name} has {len(value)} rows for {adata.n_obs} spots; "
                "give one row for each spot, in the section's order"
            )
    tensors = {name: _tensor(np.asarray(value)) for name, value in values.items()}
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
