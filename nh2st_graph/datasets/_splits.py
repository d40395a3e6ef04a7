"""Splits by section and by patient. There is no split by spot, since neighbours share their surroundings."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from anndata import AnnData

from nh2st_graph._errors import DataError, listed, setting
from nh2st_graph._files import is_count
from nh2st_graph.section import Key, patient_name, patient_of, unknown_patient

__all__ = ["Split", "k_fold_by_patient", "leave_one_patient_out", "leave_one_section_out", "patients_of"]


logger = logging.getLogger("nh2st_graph")


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
        Train on the other sections of the same patient, and leave out patients with one section, and sections whose
        patient is unknown. If False, train on all other sections.

    Returns
    -------
    One split for each section, in the order given.

    Raises
    ------
    DataError
        If no section has another section to train on.
    """
    patients = patients_of(sections)
    unknown = _unknown(patients)
    if within_patient and unknown:
        logger.warning(
            "the patient of %s is unknown: left out of splits within patients; name the patients in ids.csv "
            "(sample_id,patient) beside the sections",
            listed(unknown),
        )
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
    if not (is_count(n_folds, 2) and n_folds <= len(number)):
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
    """Give the patient of each section; one that nobody names is a patient of its own, ``unknown (SECTION)``."""
    return {
        name: patient_of(given, name) if isinstance(given, AnnData) else patient_name(given) or unknown_patient(name)
        for name, given in sections.items()
    }


def _known_patients(sections: Mapping[str, AnnData] | Mapping[str, str]) -> dict[str, str]:
    """Give the patient of each section, all of which have to be known: two unknown patients might be one."""
    patients = patients_of(sections)
    unknown = _unknown(patients)
    if unknown:
        raise DataError(
            f"the patient of {listed(unknown)} is unknown, so that a split by patient may separate sections of one "
            f"patient; name the patients in ids.csv (sample_id,patient) beside the sections or in "
            f"obs['{Key.obs.patient}'], or give a mapping {{SECTION: PATIENT}}"
        )
    return patients


def _unknown(patients: Mapping[str, str]) -> list[str]:
    return [name for name, patient in patients.items() if patient_name(patient) is None]
