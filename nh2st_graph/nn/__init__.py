"""Building blocks with no opinion: message passing, cross-attention, contrastive losses, decoders."""

from nh2st_graph.nn._attention import SpatialAttention
from nh2st_graph.nn._branches import FeatureEncoder, NeighbourBranch
from nh2st_graph.nn._contrastive import chance_level, info_nce, retrieval_at_k
from nh2st_graph.nn._decoder import ComponentDecoder
from nh2st_graph.nn._likelihood import negative_binomial_nll

__all__ = [
    "ComponentDecoder",
    "FeatureEncoder",
    "NeighbourBranch",
    "SpatialAttention",
    "chance_level",
    "info_nce",
    "negative_binomial_nll",
    "retrieval_at_k",
]
