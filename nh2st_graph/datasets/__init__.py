"""Data sets: public sections by name, synthetic tissue, gene panels, and splits by section or patient."""

from __future__ import annotations

from nh2st_graph.datasets._gene_sets import read_gene_sets
from nh2st_graph.datasets._her2st import her2st
from nh2st_graph.datasets._panels import read_panel
from nh2st_graph.datasets._published_panels import PUBLISHED_PANELS, fetch_panel
from nh2st_graph.datasets._published_panels import is_published as is_published
from nh2st_graph.datasets._splits import (
    Split,
    k_fold_by_patient,
    leave_one_patient_out,
    leave_one_section_out,
    patients_of,
)
from nh2st_graph.datasets._synthetic import synthetic_tissue
from nh2st_graph.datasets._synthetic_hd import synthetic_hd
from nh2st_graph.datasets._truth import KINDS as KINDS
from nh2st_graph.datasets._visium import visium

__all__ = [
    "PUBLISHED_PANELS",
    "Split",
    "fetch_panel",
    "her2st",
    "k_fold_by_patient",
    "leave_one_patient_out",
    "leave_one_section_out",
    "patients_of",
    "read_gene_sets",
    "read_panel",
    "synthetic_hd",
    "synthetic_tissue",
    "visium",
]
