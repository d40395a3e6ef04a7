"""Hold out training data: patients or sections in turn, or bands of the tissue if there is only one section."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold
from torch_geometric.data import Data

from nh2st_graph._errors import DataError
from nh2st_graph.models import patients_of, section_groups
from nh2st_graph.train._large import part_of

__all__ = ["Fold", "each_fold", "make_folds"]


class Fold(NamedTuple):
    """One way to hold out training data."""

    name: str
    train: list[Data]
    validation: list[Data]


def make_folds(sections: Sequence[Data], kind: str, n_folds: int) -> list[Fold]:
    """Hold out parts of the training data in turn.

    Parameters
    ----------
    sections
        Training sections, in any order. One without a ``patient`` is a patient of its own.
    kind
        ``"patient"``: all sections of a patient. Each patient is held out once; more than ``n_folds`` patients are
        joined to groups of about as many spots. With a single patient, sections are held out. ``"section"``: whole
        sections. Each is held out once; more than ``n_folds`` sections are joined to groups, in order of their names
        if they are of one patient, and else so that other sections of a patient stay to learn from. With a single
        section, bands are held out. ``"blocks"``: bands of every section.
    n_folds
        Largest number of folds.

    Returns
    -------
    The folds, in the order of the first section that each holds out. No spot is in both parts of a fold, and no edge
    joins them.

    Raises
    ------
    DataError
        If a section has too few spots for bands.
    """
    return list(each_fold(sections, kind, n_folds))


def each_fold(sections: Sequence[Data], kind: str, n_folds: int) -> Iterator[Fold]:
    """Make one fold after the other, so that a large section is not there for each; see :func:`make_folds`."""
    sections = sorted(sections, key=lambda section: str(section.section))
    if kind != "blocks" and len(sections) > 1:
        by_patient = kind == "patient" and len(set(patients_of(sections))) > 1
        held_out = _patients_apart(sections, n_folds) if by_patient else _sections_apart(sections, n_folds)
        for held in held_out:
            yield Fold(
                "+".join(sections[i].section for i in held),
                [section for i, section in enumerate(sections) if i not in held],
                [sections[i] for i in held],
            )
        return
    for section in sections:
        if int(section.num_nodes or 0) < 2 * n_folds:
            raise DataError(
                f"section {section.section!r}: {section.num_nodes} spots are too few to hold out "
                f"{n_folds} bands of them; give more sections, or a larger one"
            )
    bands = [torch.from_numpy(section_groups([section], n_folds)) for section in sections]
    for k in range(n_folds):
        yield Fold(
            f"band{k + 1}",
            [part_of(section, band != k) for section, band in zip(sections, bands, strict=True)],
            [part_of(section, band == k) for section, band in zip(sections, bands, strict=True)],
        )


def _sections_apart(sections: Sequence[Data], n_folds: int) -> list[NDArray[np.int64]]:
    """Give the positions of the sections that each fold holds out, those of a patient in different folds."""
    n, patients = min(n_folds, len(sections)), patients_of(sections)
    if len(set(patients)) == 1:
        return np.array_split(np.arange(len(sections)), n)
    by_patient = np.argsort(patients, kind="stable")
    return sorted((np.sort(by_patient[k::n]) for k in range(n)), key=lambda places: int(places[0]))


def _patients_apart(sections: Sequence[Data], n_folds: int) -> list[NDArray[np.int64]]:
    """Give the positions of the sections that each fold holds out: all sections of its patients."""
    names, patients = np.unique(patients_of(sections), return_inverse=True)
    of_spots = np.repeat(patients, [int(section.num_nodes or 0) for section in sections])
    folds = GroupKFold(min(n_folds, len(names))).split(of_spots, groups=of_spots)
    held_out = [np.flatnonzero(np.isin(patients, of_spots[held])) for _, held in folds]
    return sorted(held_out, key=lambda places: int(places[0]))
