"""Make the parts of NH2ST-Graph that its settings ask for."""

from __future__ import annotations

from torch import nn

from nh2st_graph.models._settings import ModelConfig
from nh2st_graph.nn import ComponentDecoder, EgoHypergraph, FeatureEncoder, LinearDecoder, NeighbourBranch

__all__ = ["EDGE_DIM", "make_decoder", "make_embedder", "make_neighbour_branch"]

#: Number of columns of ``gr.EDGE_FEATURES`` that each value of ``edge_features`` reads.
EDGE_DIM = {"none": 0, "distance": 1, "direction": 3}


def make_embedder(config: ModelConfig, n_inputs: int) -> nn.Module:
    """Make the encoder of one modality's ``n_inputs`` values."""
    if config.embedding == "linear":
        return nn.Linear(n_inputs, config.width)
    return FeatureEncoder(n_inputs, config.width, config.dropout)


def make_neighbour_branch(config: ModelConfig, n_inputs: int) -> nn.Module | None:
    """Make the neighbour branch of one modality; ``n_inputs`` is the input size of the published operator."""
    if not config.neighbours:
        return None
    if config.operator == "hypergraph_ego":
        return EgoHypergraph(n_inputs, 2 * config.width, config.width)
    return NeighbourBranch(
        config.width,
        config.heads,
        config.hops,
        EDGE_DIM[config.edge_features],
        config.dropout,
        operator=config.operator,
        self_loops=config.self_loops,
        jumping=config.jumping,
        residual=config.residual,
        activation=config.activation,
    )


def make_decoder(config: ModelConfig, n_inputs: int, n_genes: int) -> ComponentDecoder | LinearDecoder:
    """Make the decoder of ``n_inputs`` embeddings."""
    if config.decoder == "components":
        return ComponentDecoder(config.width, n_inputs, n_genes, config.n_components)
    return LinearDecoder(config.width, n_inputs, n_genes, config.n_hidden, activation=config.decoder == "mlp")
