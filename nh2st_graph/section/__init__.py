"""The section contract: what one tissue section holds, and how to look it up. This room knows no file format."""

from nh2st_graph.section._access import array_positions, section_name
from nh2st_graph.section._array import (
    CHESSBOARD_NEIGHBOUR_UM,
    CHESSBOARD_SPOT_UM,
    SQUARE_PITCH_UM,
    SQUARE_SPOT_UM,
    VISIUM_PITCH_UM,
    VISIUM_SCALEFACTOR_UM,
    VISIUM_SPOT_UM,
    Array,
    adjacent_steps,
    fit_array,
    nearest_distances,
    neighbour_distance,
    on_one_colour,
)
from nh2st_graph.section._contract import Need, check_features, check_section, open_image
from nh2st_graph.section._digest import other_sections, section_digest, spot_digests
from nh2st_graph.section._genes import find_genes, genes_by_name, mismatch, name_columns, naming, species
from nh2st_graph.section._keys import Key
from nh2st_graph.section._lattice import lattice_neighbours, spot_pitch
from nh2st_graph.section._library import Library, changed_entry, full_image, library, library_entry
from nh2st_graph.section._patients import unknown_patient, unknown_patients
from nh2st_graph.section._placement import check_on_tissue, likely_mistake
from nh2st_graph.section._targets import (
    LogBase,
    absent_genes,
    absent_message,
    library_size,
    normalize_counts,
    panel_counts,
    split_half_normalizer,
    targets,
)

__all__ = [
    "CHESSBOARD_NEIGHBOUR_UM",
    "CHESSBOARD_SPOT_UM",
    "SQUARE_PITCH_UM",
    "SQUARE_SPOT_UM",
    "VISIUM_PITCH_UM",
    "VISIUM_SCALEFACTOR_UM",
    "VISIUM_SPOT_UM",
    "Array",
    "Key",
    "Library",
    "LogBase",
    "Need",
    "absent_genes",
    "absent_message",
    "adjacent_steps",
    "array_positions",
    "changed_entry",
    "check_features",
    "check_on_tissue",
    "check_section",
    "find_genes",
    "fit_array",
    "full_image",
    "genes_by_name",
    "lattice_neighbours",
    "library",
    "library_entry",
    "library_size",
    "likely_mistake",
    "mismatch",
    "name_columns",
    "naming",
    "nearest_distances",
    "neighbour_distance",
    "normalize_counts",
    "on_one_colour",
    "open_image",
    "other_sections",
    "panel_counts",
    "section_digest",
    "section_name",
    "species",
    "split_half_normalizer",
    "spot_digests",
    "spot_pitch",
    "targets",
    "unknown_patient",
    "unknown_patients",
]
