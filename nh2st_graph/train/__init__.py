"""The engine: prepare sections, train in stages, and keep a fitted model."""

from nh2st_graph.train._batches import SpotBatches, Surroundings, as_view, cut_out
from nh2st_graph.train._checkpoints import averaged_weights
from nh2st_graph.train._complete import Sources
from nh2st_graph.train._encoder import patch_encoder, section_patches
from nh2st_graph.train._folds import Fold, make_folds
from nh2st_graph.train._lattice import training_lattice
from nh2st_graph.train._model import FittedModel, check_method, load, new_network, weights_digest
from nh2st_graph.train._module import EpochLog, Keep, log_columns
from nh2st_graph.train._origin import prepared_digest
from nh2st_graph.train._panel import choose_panel
from nh2st_graph.train._prepare import Learned, Preparation, PreparedSection, image_only
from nh2st_graph.train._processes import Processes, start_processes
from nh2st_graph.train._stages import check_precision, fit_prepared
from nh2st_graph.train._standardize import Standardizer
from nh2st_graph.train._threads import one_thread

__all__ = [
    "EpochLog",
    "FittedModel",
    "Fold",
    "Keep",
    "Learned",
    "Preparation",
    "PreparedSection",
    "Processes",
    "Sources",
    "SpotBatches",
    "Standardizer",
    "Surroundings",
    "as_view",
    "averaged_weights",
    "check_method",
    "check_precision",
    "choose_panel",
    "cut_out",
    "fit_prepared",
    "image_only",
    "load",
    "log_columns",
    "make_folds",
    "new_network",
    "one_thread",
    "patch_encoder",
    "prepared_digest",
    "section_patches",
    "start_processes",
    "training_lattice",
    "weights_digest",
]
