from ._adapt import adapt
from ._believe import call
from ._encode import encode_on as encode_on
from ._evaluate import LABELS, REFERENCES, Evaluation, evaluate
from ._explain import explain
from ._fit import fit
from ._folder import (
    absolute as absolute,
)
from ._folder import (
    check_evaluation as check_evaluation,
)
from ._folder import (
    check_folder as check_folder,
)
from ._folder import (
    check_prediction as check_prediction,
)
from ._folder import (
    check_preparation as check_preparation,
)
from ._folder import (
    check_run as check_run,
)
from ._folder import (
    find_model as find_model,
)
from ._folder import (
    is_archive as is_archive,
)
from ._folder import (
    is_first as is_first,
)
from ._folder import (
    read_description as read_description,
)
from ._folder import (
    reliable_genes as reliable_genes,
)
from ._impute import impute
from ._model import FittedModel, load, save
from ._named import check_devices as check_devices
from ._named import check_named as check_named
from ._named import check_root as check_root
from ._named import explicit as explicit
from ._predict import embed, predict
from ._predict_run import predict_run
from ._predictability import Predictability, predictability
from ._regions import crop
from ._retrieve import Retrieval, embed_profiles, retrieve
from ._run import Run, evaluate_run, prepare_sections, train_run
from ._run import load_sections as load_sections
from ._signatures import score_signatures
from ._slides import slide_section

__all__ = [
    "LABELS",
    "REFERENCES",
    "Evaluation",
    "FittedModel",
    "Predictability",
    "Retrieval",
    "Run",
    "adapt",
    "call",
    "crop",
    "embed",
    "embed_profiles",
    "evaluate",
    "evaluate_run",
    "explain",
    "fit",
    "impute",
    "load",
    "predict",
    "predict_run",
    "predictability",
    "prepare_sections",
    "retrieve",
    "save",
    "score_signatures",
    "slide_section",
    "train_run",
]
