"""Image features of spots: patches at a physical size, encoders by name, and the cache."""

from nh2st_graph.im._encoders import Encoder, make_encoders, register_encoder
from nh2st_graph.im._features import features
from nh2st_graph.im._patches import patches
from nh2st_graph.im._pixels import PixelsEncoder
from nh2st_graph.im._squidpy import SquidpyEncoder
from nh2st_graph.im._timm import TimmEncoder, TimmMapEncoder

__all__ = [
    "Encoder",
    "PixelsEncoder",
    "SquidpyEncoder",
    "TimmEncoder",
    "TimmMapEncoder",
    "features",
    "make_encoders",
    "patches",
    "register_encoder",
]
