"""The spatial graph of a section, by squidpy, and its conversion to PyG."""

from nh2st_graph.gr._build import has_graph, spatial_graph
from nh2st_graph.gr._pyg import EDGE_FEATURES, NODE_VALUES, spatial_edges, to_pyg
from nh2st_graph.gr._pyg import graph_keys as graph_keys
from nh2st_graph.section import lattice_neighbours, spot_pitch

__all__ = [
    "EDGE_FEATURES",
    "NODE_VALUES",
    "has_graph",
    "lattice_neighbours",
    "spatial_edges",
    "spatial_graph",
    "spot_pitch",
    "to_pyg",
]
