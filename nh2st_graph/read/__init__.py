"""One reader a format, each returning sections that keep the section contract."""

from nh2st_graph.read._anndata import anndata
from nh2st_graph.read._h5ad import h5ad, write_h5ad
from nh2st_graph.read._her2st import her2st
from nh2st_graph.read._hest import hest
from nh2st_graph.read._registry import check_options, known_formats, register_format, section_names, sections
from nh2st_graph.read._skin import skin
from nh2st_graph.read._spatialdata import spatialdata, write_spatialdata
from nh2st_graph.read._stimage import stimage
from nh2st_graph.read._stnet import stnet
from nh2st_graph.read._triplex import triplex
from nh2st_graph.read._visium import visium
from nh2st_graph.read._visium_hd import visium_hd

__all__ = [
    "anndata",
    "check_options",
    "h5ad",
    "her2st",
    "hest",
    "known_formats",
    "register_format",
    "section_names",
    "sections",
    "skin",
    "spatialdata",
    "stimage",
    "stnet",
    "triplex",
    "visium",
    "visium_hd",
    "write_h5ad",
    "write_spatialdata",
]
