"""How far a prediction can be believed: held-out scores of genes, intervals, calls, and how familiar a slide is.

Numbers in, numbers out: this room reads no files, makes no graphs, and knows no networks.
"""

from __future__ import annotations

from nh2st_graph.confidence._calibration import Calibration, Coverage
from nh2st_graph.confidence._calls import CHANCES, CallTables, call_tables, called
from nh2st_graph.confidence._columns import FeatureColumns
from nh2st_graph.confidence._confidence import FEW_SPOTS, Confidence, Evidence
from nh2st_graph.confidence._familiarity import Familiarity, HeldOutBy, Verdict
from nh2st_graph.confidence._held_out import HeldOut, joined, units_of
from nh2st_graph.confidence._image_neighbours import expression_predictability
from nh2st_graph.confidence._reliable import gene_table, misplaced
from nh2st_graph.confidence._written import (
    OF_ADAPTED,
    OF_KNOWN,
    OF_NEW,
    UNFAMILIAR,
    best_reliable,
    call,
    reliable_in,
    unfamiliar_spots,
)

__all__ = [
    "CHANCES",
    "FEW_SPOTS",
    "OF_ADAPTED",
    "OF_KNOWN",
    "OF_NEW",
    "UNFAMILIAR",
    "Calibration",
    "CallTables",
    "Confidence",
    "Coverage",
    "Evidence",
    "Familiarity",
    "FeatureColumns",
    "HeldOut",
    "HeldOutBy",
    "Verdict",
    "best_reliable",
    "call",
    "call_tables",
    "called",
    "expression_predictability",
    "gene_table",
    "joined",
    "misplaced",
    "reliable_in",
    "unfamiliar_spots",
    "units_of",
]
