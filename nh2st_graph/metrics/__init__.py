"""Scores of all methods: per gene, of downstream analyses, the noise ceiling, and comparisons between methods."""

from __future__ import annotations

from nh2st_graph.metrics._ceiling import (
    mean_ceiling,
    noise_ceiling,
    noise_ceiling_interval,
    share_of_ceiling,
)
from nh2st_graph.metrics._ceiling import (
    mean_where as mean_where,
)
from nh2st_graph.metrics._compare import PairedDifference, aggregate, paired_bootstrap
from nh2st_graph.metrics._downstream import downstream_scores
from nh2st_graph.metrics._names import GENE_SCORES, LABELS, METHOD_LABELS, REFERENCES, RUN_SCORES, SCORES
from nh2st_graph.metrics._references import neighbour_mean
from nh2st_graph.metrics._scores import (
    Scores,
    best_predicted,
    depth_oracle,
    highest_expressed,
    mae,
    mse,
    n_constant,
    partial_pearson,
    pearson,
    score_section,
)

__all__ = [
    "GENE_SCORES",
    "LABELS",
    "METHOD_LABELS",
    "REFERENCES",
    "RUN_SCORES",
    "SCORES",
    "PairedDifference",
    "Scores",
    "aggregate",
    "best_predicted",
    "depth_oracle",
    "downstream_scores",
    "highest_expressed",
    "mae",
    "mean_ceiling",
    "mse",
    "n_constant",
    "neighbour_mean",
    "noise_ceiling",
    "noise_ceiling_interval",
    "paired_bootstrap",
    "partial_pearson",
    "pearson",
    "score_section",
    "share_of_ceiling",
]
