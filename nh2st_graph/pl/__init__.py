"""Plots of sections, predictions, scores and training, by squidpy and matplotlib."""

from __future__ import annotations

from nh2st_graph.confidence import unfamiliar_spots
from nh2st_graph.pl._calibration import calibration
from nh2st_graph.pl._compare import gene_scatter, learning_curves
from nh2st_graph.pl._explain import attention, neighbour_gain, neighbour_share
from nh2st_graph.pl._forest import forest
from nh2st_graph.pl._gene_maps import gene_maps
from nh2st_graph.pl._maps import familiarity, section, spot_values
from nh2st_graph.pl._page import as_data_uri as as_data_uri
from nh2st_graph.pl._page import write_page as write_page
from nh2st_graph.pl._predictability import predictability
from nh2st_graph.pl._save import save
from nh2st_graph.pl._scores import pcc_histogram, score_bars
from nh2st_graph.pl._training import fold_curves, training_curves

__all__ = [
    "attention",
    "calibration",
    "familiarity",
    "fold_curves",
    "forest",
    "gene_maps",
    "gene_scatter",
    "learning_curves",
    "neighbour_gain",
    "neighbour_share",
    "pcc_histogram",
    "predictability",
    "save",
    "score_bars",
    "section",
    "spot_values",
    "training_curves",
    "unfamiliar_spots",
]
