"""Image features of spots: patches of a physical size, encoders by name, a cache; and sections from whole slides."""

from nh2st_graph.im import _known  # noqa: F401, it registers the names of the table of encoders
from nh2st_graph.im._blocks import explicit_blocks as explicit_blocks
from nh2st_graph.im._default import in_full as in_full
from nh2st_graph.im._embeddings import add_embeddings as add_embeddings
from nh2st_graph.im._embeddings import embedding_file as embedding_file
from nh2st_graph.im._embeddings import embeddings
from nh2st_graph.im._embeddings import in_obsm as in_obsm
from nh2st_graph.im._embeddings import source_of as source_of
from nh2st_graph.im._encoders import Encoder, make_encoders, register_encoder
from nh2st_graph.im._encoders import check_names as check_encoders
from nh2st_graph.im._encoders import refuse_places as refuse_places
from nh2st_graph.im._features import features
from nh2st_graph.im._handcrafted import HandcraftedEncoder
from nh2st_graph.im._jitter import StainJitter, jitter_stain
from nh2st_graph.im._lazyslide import LazySlideEncoder
from nh2st_graph.im._patches import patches
from nh2st_graph.im._pixels import PixelsEncoder
from nh2st_graph.im._placement import check_placement
from nh2st_graph.im._quality import quality
from nh2st_graph.im._recipes import Recipe, recipes, register_recipe
from nh2st_graph.im._squidpy import SquidpyEncoder
from nh2st_graph.im._stain import stain_reference
from nh2st_graph.im._timm import TimmEncoder, TimmMapEncoder
from nh2st_graph.im._transformers import TransformersEncoder
from nh2st_graph.im._virtual import Lattice, virtual_spots
from nh2st_graph.slide import Slide, TissueMask, find_tissue, open_slide, tissue_mask

__all__ = [
    "Encoder",
    "HandcraftedEncoder",
    "Lattice",
    "LazySlideEncoder",
    "PixelsEncoder",
    "Recipe",
    "Slide",
    "SquidpyEncoder",
    "StainJitter",
    "TimmEncoder",
    "TimmMapEncoder",
    "TissueMask",
    "TransformersEncoder",
    "check_encoders",
    "check_placement",
    "embeddings",
    "features",
    "find_tissue",
    "jitter_stain",
    "make_encoders",
    "open_slide",
    "patches",
    "quality",
    "recipes",
    "register_encoder",
    "register_recipe",
    "stain_reference",
    "tissue_mask",
    "virtual_spots",
]
