"""The methods, one file each, behind one interface."""

from nh2st_graph.models._bleep import BLEEP
from nh2st_graph.models._eggn import EGGN
from nh2st_graph.models._egn import EGN
from nh2st_graph.models._floors import (
    FLOORS,
    Floor,
    NearestSpots,
    NeighbourRidge,
    OwnRidge,
    PCARidge,
    RandomForest,
    TrainingMean,
    make_floor,
)
from nh2st_graph.models._groups import section_groups
from nh2st_graph.models._hggep import HGGEP
from nh2st_graph.models._hist2st import Hist2ST
from nh2st_graph.models._histogene import HisToGene
from nh2st_graph.models._mclstexp import MclSTExp
from nh2st_graph.models._network import Estimator, Memory, Network
from nh2st_graph.models._nh2st import NH2ST, NH2STOutputs
from nh2st_graph.models._nh2st_graph import ImageSide, NH2STGraph
from nh2st_graph.models._registry import ENTRY_POINTS, find_method, known_methods, register_method
from nh2st_graph.models._stgchb import STGCHB
from nh2st_graph.models._stnet import STNet
from nh2st_graph.models._triplex import TRIPLEX

__all__ = [
    "BLEEP",
    "EGGN",
    "EGN",
    "ENTRY_POINTS",
    "FLOORS",
    "HGGEP",
    "NH2ST",
    "STGCHB",
    "TRIPLEX",
    "Estimator",
    "Floor",
    "HisToGene",
    "Hist2ST",
    "ImageSide",
    "MclSTExp",
    "Memory",
    "NH2STGraph",
    "NH2STOutputs",
    "NearestSpots",
    "NeighbourRidge",
    "Network",
    "OwnRidge",
    "PCARidge",
    "RandomForest",
    "STNet",
    "TrainingMean",
    "find_method",
    "known_methods",
    "make_floor",
    "register_method",
    "section_groups",
]
