from ._archive import is_archive, read_description, reliable_genes
from ._batches import SpotBatches, Surroundings, as_view, cut_out, pieces
from ._checkpoints import averaged_weights
from ._complete import Sources
from ._encoder import patch_encoder, section_patches
from ._familiar import add_familiarity, learn_familiarity
from ._folds import Fold, make_folds
from ._held_out import held_out
from ._imputation import Imputation
from ._keep import Keep
from ._large import dense_graph, predict_graph, predict_section
from ._lattice import say_other_pitch, training_lattice
from ._lazyslide import LazySlideModel, features_name, lazyslide_encoder
from ._model import FittedModel, check_method, load, new_network, weights_digest
from ._module import EpochLog, log_columns
from ._origin import prepared_digest
from ._panel import choose_panel
from ._predicted import predicted_expression
from ._prepare import Learned, Preparation, PreparedSection, image_only
from ._processes import Processes, start_processes
from ._share import find_model, save
from ._stages import check_precision, fit_prepared
from ._standardize import Standardizer
from ._threads import one_thread, threads_for, use_threads

__all__ = [
    "EpochLog",
    "FittedModel",
    "Fold",
    "Imputation",
    "Keep",
    "LazySlideModel",
    "Learned",
    "Preparation",
    "PreparedSection",
    "Processes",
    "Sources",
    "SpotBatches",
    "Standardizer",
    "Surroundings",
    "add_familiarity",
    "as_view",
    "averaged_weights",
    "check_method",
    "check_precision",
    "choose_panel",
    "cut_out",
    "dense_graph",
    "features_name",
    "find_model",
    "fit_prepared",
    "held_out",
    "image_only",
    "is_archive",
    "lazyslide_encoder",
    "learn_familiarity",
    "load",
    "log_columns",
    "make_folds",
    "new_network",
    "one_thread",
    "patch_encoder",
    "pieces",
    "predict_graph",
    "predict_section",
    "predicted_expression",
    "prepared_digest",
    "read_description",
    "reliable_genes",
    "save",
    "say_other_pitch",
    "section_patches",
    "start_processes",
    "threads_for",
    "training_lattice",
    "use_threads",
    "weights_digest",
]
