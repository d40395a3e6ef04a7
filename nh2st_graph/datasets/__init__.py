"""Data sets: the synthetic tissue, gene panels, and splits by section and by patient."""

from __future__ import annotations

from nh2st_graph.datasets._panels import read_panel
from nh2st_graph.datasets._splits import Split, leave_one_patient_out, leave_one_section_out
from nh2st_graph.datasets._synthetic import synthetic_tissue

__all__ = [
    "Split",
    "leave_one_patient_out",
    "leave_one_section_out",
    "read_panel",
    "synthetic_tissue",
]
