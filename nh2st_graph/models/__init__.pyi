from ._baselines import (
    BASELINES,
    Baseline,
    NearestSpots,
    NeighbourRidge,
    OwnRidge,
    PCARidge,
    RandomForest,
    TrainingMean,
    make_baseline,
)
from ._bleep import BLEEP
from ._closed_form import PENALTIES, ClosedForm
from ._corrected_form import CorrectedForm
from ._device import check_device
from ._eggn import EGGN
from ._egn import EGN
from ._groups import drawn_spots, patients_of, section_groups
from ._hggep import HGGEP
from ._hist2st import Hist2ST
from ._histogene import HisToGene
from ._mclstexp import MclSTExp
from ._network import EMBEDDINGS, OF_TRAINING, Estimator, Memory, Network
from ._nh2st import NH2ST, NH2STOutputs
from ._nh2st_graph import ImageSide, NH2STGraph
from ._reads import check_encoder, check_method, check_settings, is_foreign
from ._reduced_rank import KernelRidge, ReducedRankRidge
from ._registry import ENTRY_POINTS, find_method, known_methods, register_method
from ._settings import MethodConfig, ModelConfig
from ._stgchb import STGCHB
from ._stnet import STNet
from ._triplex import TRIPLEX

__all__ = [
    "BASELINES",
    "BLEEP",
    "EGGN",
    "EGN",
    "EMBEDDINGS",
    "ENTRY_POINTS",
    "HGGEP",
    "NH2ST",
    "OF_TRAINING",
    "PENALTIES",
    "STGCHB",
    "TRIPLEX",
    "Baseline",
    "ClosedForm",
    "CorrectedForm",
    "Estimator",
    "HisToGene",
    "Hist2ST",
    "ImageSide",
    "KernelRidge",
    "MclSTExp",
    "Memory",
    "MethodConfig",
    "ModelConfig",
    "NH2STGraph",
    "NH2STOutputs",
    "NearestSpots",
    "NeighbourRidge",
    "Network",
    "OwnRidge",
    "PCARidge",
    "RandomForest",
    "ReducedRankRidge",
    "STNet",
    "TrainingMean",
    "check_device",
    "check_encoder",
    "check_method",
    "check_settings",
    "drawn_spots",
    "find_method",
    "is_foreign",
    "known_methods",
    "make_baseline",
    "patients_of",
    "register_method",
    "section_groups",
]
