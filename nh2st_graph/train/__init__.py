"""The engine: prepare sections, train in stages, and keep a fitted model."""

from nh2st_graph.train._folds import Fold, make_folds
from nh2st_graph.train._lattice import training_lattice
from nh2st_graph.train._model import FittedModel, load, new_network
from nh2st_graph.train._panel import choose_panel
from nh2st_graph.train._prepare import Learned, Preparation, PreparedSection, image_only
from nh2st_graph.train._stages import check_precision, fit_prepared
from nh2st_graph.train._standardize import Standardizer
from nh2st_graph.train._threads import one_thread

__all__ = [
    "FittedModel",
    "Fold",
    "Learned",
    "Preparation",
    "PreparedSection",
    "Standardizer",
    "check_precision",
    "choose_panel",
    "fit_prepared",
    "image_only",
    "load",
    "make_folds",
    "new_network",
    "one_thread",
    "training_lattice",
]
