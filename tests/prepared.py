"""Sections prepared as fitting and predicting prepare them."""

from __future__ import annotations

from collections.abc import Sequence

from anndata import AnnData
from torch_geometric.data import Data

from nh2st_graph import Config
from nh2st_graph.train import Preparation, Standardizer


def complete_section(section: AnnData, config: Config) -> AnnData:
    """The section with features and graph, spots in order of their names."""
    return Preparation.of(config, [], Standardizer()).prepare(section).section


def section_graph(
    section: AnnData, config: Config, standardize: Standardizer, genes: Sequence[str] | None = None
) -> Data:
    """The graph of a section, with what was measured of a panel where one is given."""
    prepared = Preparation.of(config, genes or [], standardize).prepare(section)
    return prepared.graph if genes is None else prepared.measured
