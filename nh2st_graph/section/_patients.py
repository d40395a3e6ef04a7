"""Whose a section is, where nothing tells."""

from __future__ import annotations

from collections.abc import Mapping

from anndata import AnnData

from nh2st_graph.section._access import section_name
from nh2st_graph.section._keys import Key

__all__ = ["unknown_patient", "unknown_patients"]


def unknown_patient(section: str) -> str:
    """Name the patient of a section that nothing tells the patient of: each such section has one of its own."""
    return f"unknown ({section})"


def unknown_patients(sections: Mapping[str, AnnData]) -> list[str]:
    """Names of the sections whose patient nothing tells."""
    return [
        name
        for name, adata in sections.items()
        if (adata.obs[Key.obs.patient].astype(str) == unknown_patient(section_name(adata))).any()
    ]
