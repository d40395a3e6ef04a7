"""The methods, one file each, behind one interface."""

from nh2st_graph.models._floors import FLOORS, Floor, make_floor
from nh2st_graph.models._nh2st import NH2ST, NH2STOutputs
from nh2st_graph.models._nh2st_graph import ImageSide, NH2STGraph

__all__ = ["FLOORS", "NH2ST", "Floor", "ImageSide", "NH2STGraph", "NH2STOutputs", "make_floor"]
