from ._adapt import adapt
from ._believe import call
from ._encode import encode_on
from ._evaluate import LABELS, REFERENCES, Evaluation, evaluate
from ._explain import explain
from ._fit import fit
from ._folder import (
    absolute,
    check_evaluation,
    check_folder,
    check_prediction,
    check_preparation,
    check_run,
    find_model,
    is_archive,
    is_first,
    read_description,
    reliable_genes,
)
from ._impute import impute
from ._model import FittedModel, load, save
from ._named import check_devices, check_named, check_root, explicit
from ._predict import embed, predict
from ._predict_run import predict_run
from ._predictability import Predictability, predictability
from ._regions import crop
from ._retrieve import Retrieval, embed_profiles, retrieve
from ._run import Run, evaluate_run, load_sections, prepare_sections, train_run
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
    "absolute",
    "adapt",
    "call",
    "check_devices",
    "check_evaluation",
    "check_folder",
    "check_named",
    "check_prediction",
    "check_preparation",
    "check_root",
    "check_run",
    "crop",
    "embed",
    "embed_profiles",
    "encode_on",
    "evaluate",
    "evaluate_run",
    "explain",
    "explicit",
    "find_model",
    "fit",
    "impute",
    "is_archive",
    "is_first",
    "load",
    "load_sections",
    "predict",
    "predict_run",
    "predictability",
    "prepare_sections",
    "read_description",
    "reliable_genes",
    "retrieve",
    "save",
    "score_signatures",
    "slide_section",
    "train_run",
]
