"""Building blocks of networks: message passing, attention, contrastive losses, decoders, retrieval."""

from nh2st_graph._errors import earlier_names
from nh2st_graph.nn._array_window import ArrayConvolution, WindowEncoder, array_window, read_window
from nh2st_graph.nn._attention import SpatialAttention
from nh2st_graph.nn._augmentation import random_views
from nh2st_graph.nn._branches import FeatureEncoder, NeighbourBranch
from nh2st_graph.nn._component_ridge import (
    ComponentRidge,
    RidgeFit,
    RidgeSpots,
    fit_component_ridge,
)
from nh2st_graph.nn._components import Components, components
from nh2st_graph.nn._contrastive import chance_level, collapse_level, info_nce, info_nce_and_ranks, retrieval_at_k
from nh2st_graph.nn._convmixer import ConvMixerBlock
from nh2st_graph.nn._cross_encoder import CrossEncoder
from nh2st_graph.nn._decoder import ComponentDecoder, GatedSum, LinearDecoder
from nh2st_graph.nn._description import DescribedSpots, Description, own_and_around
from nh2st_graph.nn._dropout import Dropout, drawing_from, own_generator
from nh2st_graph.nn._given_negatives import info_nce_against, nearest_values, nearest_values_apart
from nh2st_graph.nn._grouped_contrast import grouped_info_nce_and_ranks
from nh2st_graph.nn._hsic import hsic, normalized_hsic
from nh2st_graph.nn._hypergraph import EgoHyperedges, EgoHypergraph, similarity_hyperedges
from nh2st_graph.nn._likelihood import negative_binomial_nll, zero_inflated_negative_binomial_nll
from nh2st_graph.nn._masked_genes import MaskedGenes, MeasuredSpots, fit_masked_genes
from nh2st_graph.nn._operators import OPERATORS
from nh2st_graph.nn._patch_encoder import PatchEncoder
from nh2st_graph.nn._projection import ProjectionHead
from nh2st_graph.nn._ranks import gathered
from nh2st_graph.nn._regression import huber, mse, one_minus_pearson
from nh2st_graph.nn._retrieval import Averaging, Similarity, Weighting, nearest, partner_rank, retrieve
from nh2st_graph.nn._rings import senders_of
from nh2st_graph.nn._rows import LARGE, Rows, blocks_of, dense
from nh2st_graph.nn._sage import SAGEBlock
from nh2st_graph.nn._templates import leave_no_files
from nh2st_graph.nn._token_block import TokenBlock
from nh2st_graph.nn._transformer import ArrayEmbedding, SelfAttentionBlock
from nh2st_graph.nn._trunk import BlockAttention, ShuffleTrunk
from nh2st_graph.nn._workers import on_threads

leave_no_files()

__all__ = [
    "LARGE",
    "OPERATORS",
    "ArrayConvolution",
    "ArrayEmbedding",
    "Averaging",
    "BlockAttention",
    "ComponentDecoder",
    "ComponentRidge",
    "Components",
    "ConvMixerBlock",
    "CrossEncoder",
    "DescribedSpots",
    "Description",
    "Dropout",
    "EgoHyperedges",
    "EgoHypergraph",
    "FeatureEncoder",
    "GatedSum",
    "LinearDecoder",
    "MaskedGenes",
    "MeasuredSpots",
    "NeighbourBranch",
    "PatchEncoder",
    "ProjectionHead",
    "RidgeFit",
    "RidgeSpots",
    "Rows",
    "SAGEBlock",
    "SelfAttentionBlock",
    "ShuffleTrunk",
    "Similarity",
    "SpatialAttention",
    "TokenBlock",
    "Weighting",
    "WindowEncoder",
    "array_window",
    "blocks_of",
    "chance_level",
    "collapse_level",
    "components",
    "dense",
    "drawing_from",
    "fit_component_ridge",
    "fit_masked_genes",
    "gathered",
    "grouped_info_nce_and_ranks",
    "hsic",
    "huber",
    "info_nce",
    "info_nce_against",
    "info_nce_and_ranks",
    "mse",
    "nearest",
    "nearest_values",
    "nearest_values_apart",
    "negative_binomial_nll",
    "normalized_hsic",
    "on_threads",
    "one_minus_pearson",
    "own_and_around",
    "own_generator",
    "partner_rank",
    "random_views",
    "read_window",
    "retrieval_at_k",
    "retrieve",
    "senders_of",
    "similarity_hyperedges",
    "zero_inflated_negative_binomial_nll",
]

__getattr__ = earlier_names(
    __name__,
    {
        "GradientEnhancement": "_trunk.GradientEnhancement",
        "HypergraphBranch": "_hypergraph.HypergraphBranch",
        "ego_hyperedges": "_hypergraph.ego_hyperedges",
        "make_operator": "_operators.make_operator",
    },
)
