"""The engine: prepare sections, train in stages, and keep a fitted model."""

from nh2st_graph.train._folds import Fold, make_folds
from nh2st_graph.train._model import FittedModel, load, new_network
from nh2st_graph.train._panel import choose_panel
from nh2st_graph.train._prepare import Standardizer

__all__ = ["FittedModel", "Fold", "Standardizer", "choose_panel", "load", "make_folds", "new_network"]
