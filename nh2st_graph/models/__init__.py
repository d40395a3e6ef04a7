"""The methods, one file each, behind one interface."""

from nh2st_graph.models._floors import FLOORS, Floor, make_floor
from nh2st_graph.models._nh2st_graph import ImageSide, NH2STGraph

__all__ = ["FLOORS", "Floor", "ImageSide", "NH2STGraph", "make_floor"]
