"""Stand-ins for patients that the data do not name."""

from __future__ import annotations

from collections.abc import Mapping

from anndata import AnnData

from nh2st_graph.section._access import section_name
from nh2st_graph.section._keys import Key

__all__ = ["unknown_patient", "unknown_patients"]


def unknown_patient(section: str) -> str:
    """Make up a patient for a section whose patient is unknown, one for each section."""
    return f"unknown ({section})"


def unknown_patients(sections: Mapping[str, AnnData]) -> list[str]:
    """List the sections whose patient is unknown."""
    return [
        name
        for name, adata in sections.items()
        if (adata.obs[Key.obs.patient].astype(str) == unknown_patient(section_name(adata))).any()
    ]
