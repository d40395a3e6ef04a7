"""Building blocks of networks: message passing, attention, contrastive losses, decoders, retrieval."""

from nh2st_graph._errors import earlier_names
from nh2st_graph.nn._array_window import ArrayConvolution, WindowEncoder, array_window
from nh2st_graph.nn._array_window import read_window as read_window
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
from nh2st_graph.nn._contrastive import chance_level, collapse_level, info_nce, retrieval_at_k
from nh2st_graph.nn._contrastive import info_nce_and_ranks as info_nce_and_ranks
from nh2st_graph.nn._convmixer import ConvMixerBlock
from nh2st_graph.nn._cross_encoder import CrossEncoder
from nh2st_graph.nn._decoder import ComponentDecoder, GatedSum, LinearDecoder
from nh2st_graph.nn._description import DescribedSpots as DescribedSpots
from nh2st_graph.nn._description import Description as Description
from nh2st_graph.nn._description import own_and_around as own_and_around
from nh2st_graph.nn._dropout import Dropout
from nh2st_graph.nn._dropout import drawing_from as drawing_from
from nh2st_graph.nn._dropout import own_generator as own_generator
from nh2st_graph.nn._given_negatives import info_nce_against
from nh2st_graph.nn._given_negatives import nearest_values as nearest_values
from nh2st_graph.nn._given_negatives import nearest_values_apart as nearest_values_apart
from nh2st_graph.nn._grouped_contrast import grouped_info_nce_and_ranks as grouped_info_nce_and_ranks
from nh2st_graph.nn._hsic import hsic, normalized_hsic
from nh2st_graph.nn._hypergraph import EgoHyperedges as EgoHyperedges
from nh2st_graph.nn._hypergraph import EgoHypergraph, similarity_hyperedges
from nh2st_graph.nn._likelihood import negative_binomial_nll, zero_inflated_negative_binomial_nll
from nh2st_graph.nn._masked_genes import MaskedGenes, MeasuredSpots, fit_masked_genes
from nh2st_graph.nn._operators import OPERATORS
from nh2st_graph.nn._patch_encoder import PatchEncoder
from nh2st_graph.nn._projection import ProjectionHead
from nh2st_graph.nn._ranks import gathered as gathered
from nh2st_graph.nn._regression import huber, mse, one_minus_pearson
from nh2st_graph.nn._retrieval import Averaging, Similarity, Weighting, nearest, retrieve
from nh2st_graph.nn._retrieval import partner_rank as partner_rank
from nh2st_graph.nn._rings import senders_of as senders_of
from nh2st_graph.nn._rows import LARGE as LARGE
from nh2st_graph.nn._rows import Rows as Rows
from nh2st_graph.nn._rows import blocks_of as blocks_of
from nh2st_graph.nn._rows import dense as dense
from nh2st_graph.nn._sage import SAGEBlock
from nh2st_graph.nn._templates import leave_no_files
from nh2st_graph.nn._token_block import TokenBlock
from nh2st_graph.nn._transformer import ArrayEmbedding, SelfAttentionBlock
from nh2st_graph.nn._trunk import BlockAttention, ShuffleTrunk
from nh2st_graph.nn._workers import on_threads as on_threads

leave_no_files()

__all__ = [
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
    "Dropout",
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
    "SAGEBlock",
    "SelfAttentionBlock",
    "ShuffleTrunk",
    "Similarity",
    "SpatialAttention",
    "TokenBlock",
    "Weighting",
    "WindowEncoder",
    "array_window",
    "chance_level",
    "collapse_level",
    "components",
    "fit_component_ridge",
    "fit_masked_genes",
    "hsic",
    "huber",
    "info_nce",
    "info_nce_against",
    "mse",
    "nearest",
    "negative_binomial_nll",
    "normalized_hsic",
    "one_minus_pearson",
    "random_views",
    "retrieval_at_k",
    "retrieve",
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
