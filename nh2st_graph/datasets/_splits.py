"""Splits by section and by patient. There is no split by spot, since neighbours share their surroundings."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from anndata import AnnData

from nh2st_graph._errors import DataError, setting
from nh2st_graph.section import Key, unknown_patients

__all__ = ["Split", "k_fold_by_patient", "leave_one_patient_out", "leave_one_section_out", "patients_of"]


class Split(NamedTuple):
    """One fold.

    Attributes
    ----------
    name
        The section or patient that is left out, or the number of the fold.
    train, test
        Names of sections.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]


def leave_one_section_out(
    sections: Mapping[str, AnnData] | Mapping[str, str], within_patient: bool = True
) -> list[Split]:
    """Test on each section in turn.

    Parameters
    ----------
    sections
        Sections by name, or the patient of each.
    within_patient
        Train on the other sections of the same patient, and leave out patients with one section. If False, train on
        all other sections.

    Returns
    -------
    One split for each section, in the order given.

    Raises
    ------
    DataError
        If no section has another section to train on.
    """
    patients = patients_of(sections)
    splits = []
    for name, patient in patients.items():
        others = (s for s, p in patients.items() if s != name and (p == patient or not within_patient))
        splits.append(Split(name, tuple(others), (name,)))
    splits = [split for split in splits if split.train]
    if not splits:
        raise DataError(
            f"none of the sections ({', '.join(patients) or 'none given'}) has another one "
            f"{'of its patient ' if within_patient else ''}to train on; give more sections"
        )
    return splits


def leave_one_patient_out(sections: Mapping[str, AnnData] | Mapping[str, str]) -> list[Split]:
    """Test on all sections of each patient in turn, and train on those of the others.

    Parameters
    ----------
    sections
        Sections by name, or the patient of each.

    Returns
    -------
    One split for each patient, in the order given.

    Raises
    ------
    DataError
        If there are fewer than two patients, or the patient of a section is unknown.
    """
    patients = _known_patients(sections)
    names = list(dict.fromkeys(patients.values()))
    if len(names) < 2:
        raise DataError(f"{len(names)} patient ({', '.join(names) or 'none'}) cannot be split; give two or more")
    return [
        Split(
            name,
            tuple(s for s, p in patients.items() if p != name),
            tuple(s for s, p in patients.items() if p == name),
        )
        for name in names
    ]


def k_fold_by_patient(sections: Mapping[str, AnnData] | Mapping[str, str], n_folds: int, seed: int = 0) -> list[Split]:
    """Test on the sections of several patients in turn, and train on those of the others.

    Parameters
    ----------
    sections
        Sections by name, or the patient of each.
    n_folds
        Number of folds. Patients are shuffled and sorted by their number of sections, and each is put into the fold
        that has the fewest sections so far.
    seed
        Seed of the shuffling.

    Returns
    -------
    One split for each fold, named ``fold1`` and so on.

    Raises
    ------
    DataError
        If there are fewer than two folds or fewer patients than folds, or the patient of a section is unknown.
    """
    patients = _known_patients(sections)
    number = Counter(patients.values())
    if not 2 <= n_folds <= len(number):
        raise DataError(
            f"{n_folds} folds of {len(number)} patients ({', '.join(number)}); "
            f"give {setting('n_folds')} from 2 to the number of patients"
        )
    names = list(number)
    random.Random(seed).shuffle(names)
    fold_of: dict[str, int] = {}
    sizes = [0] * n_folds
    for name in sorted(names, key=lambda patient: -number[patient]):
        fold_of[name] = sizes.index(min(sizes))
        sizes[fold_of[name]] += number[name]
    return [
        Split(
            f"fold{fold + 1}",
            tuple(s for s, p in patients.items() if fold_of[p] != fold),
            tuple(s for s, p in patients.items() if fold_of[p] == fold),
        )
        for fold in range(n_folds)
    ]


def patients_of(sections: Mapping[str, AnnData] | Mapping[str, str]) -> dict[str, str]:
    """Give the patient of each section."""
    return {name: given if isinstance(given, str) else _patient(name, given) for name, given in sections.items()}


def _known_patients(sections: Mapping[str, AnnData] | Mapping[str, str]) -> dict[str, str]:
    """Give the patient of each section, all of which have to be known: two unknown patients might be one."""
    patients = patients_of(sections)
    unknown = unknown_patients({name: given for name, given in sections.items() if not isinstance(given, str)})
    if unknown:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise DataError(
            f"the patient of {shown} is unknown, so that a split by patient may separate sections of one patient; "
            f"name the patients in ids.csv (sample_id,patient) beside the sections or in obs['{Key.obs.patient}'], or "
            "give a mapping {SECTION: PATIENT}"
        )
    return patients


def _patient(name: str, adata: AnnData) -> str:
    if Key.obs.patient not in adata.obs:
        raise DataError(f"section {name!r}: obs['{Key.obs.patient}'] is missing; splits need it")
    patients = adata.obs[Key.obs.patient].astype(str).unique()
    if len(patients) != 1:
        raise DataError(
            f"section {name!r}: obs['{Key.obs.patient}'] names {len(patients)} patients "
            f"({', '.join(patients[:5])}), expected 1"
        )
    return str(patients[0])
