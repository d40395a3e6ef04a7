"""One reader a format; each returns sections that keep the section contract.

:func:`sections` reads every format. A function named after a format (``her2st``) returns sections by name, as a dict;
one that ends in ``_section`` returns one section.
"""

import warnings
from typing import Any

from nh2st_graph._errors import RenamedWarning
from nh2st_graph.read._anndata import anndata_section
from nh2st_graph.read._common import open_h5ad as open_h5ad
from nh2st_graph.read._common import wanted_names as wanted_names
from nh2st_graph.read._docs import documented as documented
from nh2st_graph.read._h5ad import h5ad_section, write_h5ad
from nh2st_graph.read._h5ad import section_files as section_files
from nh2st_graph.read._h5ad import stored_encoders as stored_encoders
from nh2st_graph.read._her2st import her2st
from nh2st_graph.read._hest import hest
from nh2st_graph.read._hest_bench import HEST_GENES as HEST_GENES
from nh2st_graph.read._hest_bench import PublishedSplit as PublishedSplit
from nh2st_graph.read._hest_bench import hest_bench
from nh2st_graph.read._hest_bench import patch_order as patch_order
from nh2st_graph.read._hest_bench import published_splits as published_splits
from nh2st_graph.read._hest_known import KNOWN_SAMPLES as KNOWN_SAMPLES
from nh2st_graph.read._hest_known import known_errors as known_errors
from nh2st_graph.read._objects import (
    Sections,
    SpatialObject,
)
from nh2st_graph.read._objects import annotate as annotate
from nh2st_graph.read._objects import (
    given_sections as given_sections,
)
from nh2st_graph.read._objects import is_spatialdata as is_spatialdata
from nh2st_graph.read._objects import (
    one_section as one_section,
)
from nh2st_graph.read._objects import (
    sections_by_name as sections_by_name,
)
from nh2st_graph.read._packed import open_packed as open_packed
from nh2st_graph.read._patients import PATIENTS as PATIENTS
from nh2st_graph.read._regions import Regions, regions
from nh2st_graph.read._registry import check_names as check_names
from nh2st_graph.read._registry import check_options as check_options
from nh2st_graph.read._registry import known_formats, register_format, sections
from nh2st_graph.read._registry import section_names as section_names
from nh2st_graph.read._skin import skin
from nh2st_graph.read._spatialdata import is_store as is_store
from nh2st_graph.read._spatialdata import spatialdata_section, to_spatialdata, write_spatialdata
from nh2st_graph.read._stimage import stimage
from nh2st_graph.read._stnet import stnet
from nh2st_graph.read._triplex import triplex
from nh2st_graph.read._visium import visium_section
from nh2st_graph.read._visium_hd import visium_hd_section

__all__ = [
    "Regions",
    "Sections",
    "SpatialObject",
    "anndata_section",
    "h5ad_section",
    "her2st",
    "hest",
    "hest_bench",
    "known_formats",
    "regions",
    "register_format",
    "sections",
    "skin",
    "spatialdata_section",
    "stimage",
    "stnet",
    "to_spatialdata",
    "triplex",
    "visium_hd_section",
    "visium_section",
    "write_h5ad",
    "write_spatialdata",
]

#: Formats whose earlier reader, of the format's name, returned one section.
_ONE_SECTION = {
    "anndata": anndata_section,
    "h5ad": h5ad_section,
    "spatialdata": spatialdata_section,
    "visium": visium_section,
    "visium_hd": visium_hd_section,
}


def __getattr__(name: str) -> Any:
    if name in _ONE_SECTION:
        warnings.warn(
            f"ng.read.{name} reads one section and is now ng.read.{name}_section; the earlier name goes with the next "
            f"minor version (all sections of a folder: ng.read.sections({name!r}, root))",
            RenamedWarning,
            stacklevel=2,
        )
        return _ONE_SECTION[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
