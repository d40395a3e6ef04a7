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
from ._closed_form import PENALTIES as PENALTIES
from ._closed_form import ClosedForm as ClosedForm
from ._corrected_form import CorrectedForm as CorrectedForm
from ._device import check_device as check_device
from ._eggn import EGGN
from ._egn import EGN
from ._groups import drawn_spots as drawn_spots
from ._groups import patient_digest as patient_digest
from ._groups import patients_of as patients_of
from ._groups import section_groups as section_groups
from ._hggep import HGGEP
from ._hist2st import Hist2ST
from ._histogene import HisToGene
from ._mclstexp import MclSTExp
from ._network import EMBEDDINGS as EMBEDDINGS
from ._network import OF_TRAINING as OF_TRAINING
from ._network import Estimator, Memory, Network
from ._nh2st import NH2ST, NH2STOutputs
from ._nh2st_graph import ImageSide, NH2STGraph
from ._reads import check_encoder as check_encoder
from ._reads import check_method as check_method
from ._reads import check_settings as check_settings
from ._reads import is_foreign as is_foreign
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
    "ENTRY_POINTS",
    "HGGEP",
    "NH2ST",
    "STGCHB",
    "TRIPLEX",
    "Baseline",
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
    "find_method",
    "known_methods",
    "make_baseline",
    "register_method",
]
