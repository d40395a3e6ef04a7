"""What a user calls: fit, predict, embed, evaluate, and whole runs in a folder."""

from nh2st_graph.tl._evaluate import LABELS, REFERENCES, Evaluation, evaluate
from nh2st_graph.tl._explain import explain
from nh2st_graph.tl._fit import fit
from nh2st_graph.tl._predict import embed, predict
from nh2st_graph.tl._predict_run import predict_run
from nh2st_graph.tl._retrieve import Retrieval, embed_profiles, retrieve
from nh2st_graph.tl._run import Run, evaluate_run, load_sections, prepare_sections, train_run
from nh2st_graph.tl._slides import slide_section
from nh2st_graph.train import FittedModel, load

__all__ = [
    "LABELS",
    "REFERENCES",
    "Evaluation",
    "FittedModel",
    "Retrieval",
    "Run",
    "embed",
    "embed_profiles",
    "evaluate",
    "evaluate_run",
    "explain",
    "fit",
    "load",
    "load_sections",
    "predict",
    "predict_run",
    "prepare_sections",
    "retrieve",
    "slide_section",
    "train_run",
]
