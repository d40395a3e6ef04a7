"""Folds of a study: given one by one, or made from sections and patients."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from nh2st_graph._errors import ConfigError, DataError
from nh2st_graph.config import Config
from nh2st_graph.study._hest import corrected_folds, is_task
from nh2st_graph.study._parts import Part, checked, expected
from nh2st_graph.study._plan import Fold

if TYPE_CHECKING:
    from anndata import AnnData

    from nh2st_graph.datasets import Split

__all__ = ["FoldEntry", "read_folds"]

logger = logging.getLogger("nh2st_graph")

Patients = Literal["all"] | dict[str, list[str]]

_KINDS = ("test", "folds", "leave_one_section_out", "leave_one_patient_out", "k_fold_by_patient")
_BY_SECTION, _BY_PATIENT = "leave_one_section_out", "leave_one_patient_out"
_SECTIONS = "sections by patient, such as {A: [A1, A2], B: [B1]}, or all"


class OneFold(Part):
    """The sections of one fold, as in a list of folds; see :class:`FoldEntry`."""

    train: tuple[str, ...] = ()
    test: Annotated[tuple[str, ...], Field(min_length=1)]


class FoldEntry(Part):
    """An entry of ``folds`` (or ``splits``) in a study file: exactly one of the following kinds.

    Attributes
    ----------
    train, test
        Names of the sections of one fold. Without ``train``, all that are not tested are trained on.
    folds
        A list of such folds.
    leave_one_section_out
        A list of sections, each tested on what is learned from the others; or ``all``: each section of the data, from
        the others of its patient.
    leave_one_patient_out
        Sections by patient, ``{A: [A1, A2], B: [B1]}``, or ``all``, as the data say.
    k_fold_by_patient
        Number of folds of the patients that ``patients`` gives.
    patients
        Sections by patient, or ``all``.
    split
        The split that the folds are a part of: the entry's name, or for one fold of an ablation study ``folds``. Scores
        within a patient and across patients are not one number, so no mean is taken across splits.
    """

    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    folds: tuple[OneFold, ...] = ()
    leave_one_section_out: Literal["all"] | list[str] | None = None
    leave_one_patient_out: Patients | None = None
    k_fold_by_patient: int | None = Field(default=None, ge=2)
    patients: Patients = "all"
    split: str | None = None

    _kinds = field_validator("folds", _BY_SECTION, _BY_PATIENT, "patients", mode="wrap")(
        expected(
            folds="a list of folds, each {train: [SECTION, ...], test: [SECTION, ...]}",
            leave_one_section_out="a list of sections, or all",
            leave_one_patient_out=_SECTIONS,
            patients=_SECTIONS,
        )
    )

    @model_validator(mode="after")
    def _check(self) -> FoldEntry:
        given = [kind for kind in _KINDS if getattr(self, kind)]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'nothing'} is given; give one of {', '.join(_KINDS)}")
        for key, kind in (("train", "test"), ("patients", "k_fold_by_patient")):
            if key in self.model_fields_set and given != [kind]:
                raise ValueError(f"{key} goes with {kind}, and {given[0]} is given; leave {key} out")
        return self


def read_folds(entries: Mapping[str, Any], base: Config, source: str, *, ranked: bool) -> tuple[Fold, ...]:
    """Make the folds of a study.

    Parameters
    ----------
    entries
        Of ``folds``, by name.
    base
        Says where the data are, whose patients are read once and only where an entry depends on them.
    source
        What an error calls the entries.
    ranked
        Whether the study is a benchmark: each fold is then a split of its own, and without entries the data decide
        (a task of HEST-Benchmark: its published folds, with patients corrected).
    """

    @cache
    def sections() -> dict[str, AnnData]:
        return _read_patients(base)

    if not entries and not ranked:
        if not base.data.test:
            raise ConfigError(f"{source} are empty, and so is the base's data.test: nothing can be scored; give folds")
        return (Fold("+".join(base.data.test), base.data.train, base.data.test, "folds"),)
    if not entries and is_task(base):
        return corrected_folds(base)
    folds: list[Fold] = []
    for name, given in (entries or _default(sections(), source)).items():
        where, short = f"{source}.{name}", name == _BY_SECTION and not isinstance(given, Mapping)
        entry = checked(FoldEntry, {name: given} if short else given, where)
        try:
            made = _made(entry, sections)
        except DataError as error:
            raise DataError(f"{where}: {error.args[0]}") from None
        split = entry.split or (name if ranked or not entry.test else "folds")
        for fold_name, train, test in made:
            full = fold_name if short else f"{name} {fold_name}".strip()
            folds.append(Fold(full, train, test, split))
    return tuple(folds)


def _made(entry: FoldEntry, sections: Callable[[], dict[str, AnnData]]) -> list[Split]:
    """Folds of an entry; one that is given alone has no name of its own."""
    from nh2st_graph import datasets

    def by_patient(patients: Patients) -> dict[str, AnnData] | dict[str, str]:
        return sections() if patients == "all" else _apart(patients)

    if entry.test:
        return [datasets.Split("", entry.train, entry.test)]
    if entry.folds:
        return [datasets.Split("+".join(each.test), each.train, each.test) for each in entry.folds]
    if entry.leave_one_section_out:
        given = entry.leave_one_section_out
        if given == "all":
            return datasets.leave_one_section_out(sections())
        return datasets.leave_one_section_out(_apart({"": given}), within_patient=False)
    if entry.leave_one_patient_out:
        return datasets.leave_one_patient_out(by_patient(entry.leave_one_patient_out))
    assert entry.k_fold_by_patient is not None
    return datasets.k_fold_by_patient(by_patient(entry.patients), entry.k_fold_by_patient)


def _default(sections: Mapping[str, AnnData], source: str) -> dict[str, dict[str, Any]]:
    """Leave one patient out at a time where the data name two or more, otherwise one section; and log which."""
    from nh2st_graph import datasets
    from nh2st_graph.section import unknown_patients

    unknown = unknown_patients(sections)
    named = {patient for name, patient in datasets.patients_of(sections).items() if name not in unknown}
    kind, given = (_BY_PATIENT, "all") if len(named) > 1 else (_BY_SECTION, list(sections))
    known = f"{len(named)} patient{'s' * (len(named) > 1)}" if named else "no patient"
    logger.info("%s: none given, and the data name %s: %s", source, known, kind)
    return {kind: {kind: given}}


def _read_patients(base: Config) -> dict[str, AnnData]:
    """Read all sections of the data, and keep no more of each than its name and its patient."""
    from anndata import AnnData

    from nh2st_graph import tl
    from nh2st_graph.section import Key

    everything = base.model_copy(update={"data": base.data.model_copy(update={"train": (), "test": ()})})
    with tempfile.TemporaryDirectory() as folder:
        sections = tl.load_sections(everything, folder)
        kept = [Key.obs.section, Key.obs.patient]
        return {name: AnnData(obs=section.obs[kept].copy()) for name, section in sections.items()}


def _apart(patients: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Patient of each section. A section that is given twice might be learned from and tested at once."""
    found: dict[str, str] = {}
    for patient, sections in patients.items():
        for section in sections:
            if section in found:
                raise DataError(f"section {section!r} is given twice; give each once")
            found[section] = patient
    return found
