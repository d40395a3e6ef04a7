"""Building blocks with no opinion: message passing, cross-attention, contrastive losses, decoders."""

from nh2st_graph.nn._array_window import ArrayConvolution, WindowEncoder, array_window, read_window
from nh2st_graph.nn._attention import SpatialAttention
from nh2st_graph.nn._augmentation import random_views
from nh2st_graph.nn._branches import FeatureEncoder, NeighbourBranch
from nh2st_graph.nn._contrastive import chance_level, collapse_level, info_nce, retrieval_at_k
from nh2st_graph.nn._convmixer import ConvMixerBlock
from nh2st_graph.nn._cross_encoder import CrossEncoder
from nh2st_graph.nn._decoder import ComponentDecoder, GatedSum, LinearDecoder
from nh2st_graph.nn._hsic import hsic, normalized_hsic
from nh2st_graph.nn._hypergraph import (
    EgoHyperedges,
    EgoHypergraph,
    HypergraphBranch,
    ego_hyperedges,
    similarity_hyperedges,
)
from nh2st_graph.nn._likelihood import negative_binomial_nll, zero_inflated_negative_binomial_nll
from nh2st_graph.nn._operators import OPERATORS, make_operator
from nh2st_graph.nn._patch_encoder import PatchEncoder
from nh2st_graph.nn._projection import ProjectionHead
from nh2st_graph.nn._regression import huber, mse, one_minus_pearson
from nh2st_graph.nn._retrieval import nearest, partner_rank, retrieve
from nh2st_graph.nn._sage import SAGEBlock
from nh2st_graph.nn._token_block import TokenBlock
from nh2st_graph.nn._transformer import ArrayEmbedding, SelfAttentionBlock
from nh2st_graph.nn._trunk import BlockAttention, GradientEnhancement, ShuffleTrunk

__all__ = [
    "OPERATORS",
    "ArrayConvolution",
    "ArrayEmbedding",
    "BlockAttention",
    "ComponentDecoder",
    "ConvMixerBlock",
    "CrossEncoder",
    "EgoHyperedges",
    "EgoHypergraph",
    "FeatureEncoder",
    "GatedSum",
    "GradientEnhancement",
    "HypergraphBranch",
    "LinearDecoder",
    "NeighbourBranch",
    "PatchEncoder",
    "ProjectionHead",
    "SAGEBlock",
    "SelfAttentionBlock",
    "ShuffleTrunk",
    "SpatialAttention",
    "TokenBlock",
    "WindowEncoder",
    "array_window",
    "chance_level",
    "collapse_level",
    "ego_hyperedges",
    "hsic",
    "huber",
    "info_nce",
    "make_operator",
    "mse",
    "nearest",
    "negative_binomial_nll",
    "normalized_hsic",
    "one_minus_pearson",
    "partner_rank",
    "random_views",
    "read_window",
    "retrieval_at_k",
    "retrieve",
    "similarity_hyperedges",
    "zero_inflated_negative_binomial_nll",
]
