"""The patient of a section: one place that reads ``obs["patient"]``, and the stand-ins where it names nobody."""

from __future__ import annotations

import re
from collections.abc import Mapping

from anndata import AnnData

from nh2st_graph._errors import DataError
from nh2st_graph.section._access import as_name, distinct, section_name
from nh2st_graph.section._keys import Key

__all__ = [
    "named_patients",
    "patient_name",
    "patient_of",
    "patients_in",
    "unknown_patient",
    "unknown_patients",
]

#: Words that tables have where they name nobody; case does not matter. (CELLxGENE asks for "unknown" and "na".)
_NOBODY = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "nat", "unknown"})
_STAND_IN = re.compile(r"unknown \(.*\)")
_WHOLE = re.compile(r"(-?\d+)\.0+")


def patient_name(value: object) -> str | None:
    """Name a patient: ``1``, ``1.0`` and ``"1"`` are one. None if the value names nobody (empty, NaN, ``"nan"``)."""
    name = (as_name(value) or "").strip()
    if name.lower() in _NOBODY or _STAND_IN.fullmatch(name):
        return None
    whole = _WHOLE.fullmatch(name)
    return whole[1] if whole else name


def unknown_patient(section: str) -> str:
    """Make up a patient for a section whose patient is unknown, one for each section."""
    return f"unknown ({section})"


def patients_in(adata: AnnData, section: str | None = None) -> list[str]:
    """List the patients that ``obs["patient"]`` names, in order; the stand-in if it names nobody.

    Parameters
    ----------
    adata
        One section.
    section
        Its name; by default the one in ``obs``.
    """
    given = distinct(adata.obs[Key.obs.patient]) if Key.obs.patient in adata.obs else ()
    known = {name for name in map(patient_name, given) if name is not None}
    return sorted(known) or [unknown_patient(section_name(adata) if section is None else section)]


def named_patients(adata: AnnData) -> str | None:
    """Name the patients of a section as one; None if ``obs["patient"]`` names nobody."""
    return " + ".join(name for name in patients_in(adata) if patient_name(name) is not None) or None


def patient_of(adata: AnnData, section: str | None = None) -> str:
    """Look up the one patient of a section; the stand-in if ``obs["patient"]`` names nobody.

    Raises
    ------
    DataError
        If the column is missing, or names several patients.
    """
    name = section_name(adata) if section is None else section
    if Key.obs.patient not in adata.obs:
        raise DataError(f"section {name!r}: obs['{Key.obs.patient}'] is missing; set it, empty if it is unknown")
    found = patients_in(adata, name)
    if len(found) > 1:
        raise DataError(
            f"section {name!r}: obs['{Key.obs.patient}'] names {len(found)} patients ({', '.join(found[:5])}), "
            "expected 1; split the section"
        )
    return found[0]


def unknown_patients(sections: Mapping[str, AnnData]) -> list[str]:
    """List the sections whose patient is unknown."""
    return [
        name
        for name, adata in sections.items()
        if not any(patient_name(value) for value in distinct(adata.obs[Key.obs.patient]))
    ]
