"""From a benchmark file to a study whose variants are methods."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from nh2st_graph._errors import ConfigError, DataError, nearest
from nh2st_graph.config import Config, flatten
from nh2st_graph.section import Key
from nh2st_graph.study._plan import BENCHMARK, Fold, Study, check_runs, make_variants, read_base, read_yaml
from nh2st_graph.study._schema import LEAVE_ONE_OUT, BaseEntry, FoldEntry, Part, checked

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["BenchmarkFile", "SplitEntry", "read_benchmark"]

logger = logging.getLogger("nh2st_graph")

#: What every run of a benchmark leaves: no baselines beside each, since they are methods of their own, and no
#: figures of each, which would take longer than to train it.
_SCORED = ("evaluate.baselines=false", "evaluate.downstream=true", "evaluate.figures=false")

Patients = Literal["all"] | dict[str, list[str]]

_BY_PATIENT = "sections by patient, such as {A: [A1, A2], B: [B1]}, or all"
#: What is expected of a key that may be of several kinds, or has parts.
_EXPECTED = {
    "folds": "a list of folds, each {train: [SECTION, ...], test: [SECTION, ...]}",
    "leave_one_section_out": "a list of sections, or all",
    "leave_one_patient_out": _BY_PATIENT,
    "patients": _BY_PATIENT,
    "methods": "what each method changes, by its name; or a file that holds this; or a list of such files",
}


def _say_what_is_expected(given: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Check a value; in place of an error for each kind that it is not, say in one what it may be."""
    try:
        return check(given)
    except ValidationError:
        raise ValueError(f"{info.field_name} = {given!r}; expected {_EXPECTED[str(info.field_name)]}") from None


class SplitEntry(Part):
    """One split as it is written in a benchmark file: exactly one of the following.

    Attributes
    ----------
    train, test
        One fold. Without ``train``, all that are not tested are trained on.
    folds
        A list of such folds.
    leave_one_section_out
        A list of sections, each tested on what is learned from the others; or ``all``: each section of the data from
        the others of its patient.
    leave_one_patient_out
        Sections by patient, ``{A: [A1, A2], B: [B1]}``, or ``all``, as the data say.
    k_fold_by_patient
        Number of folds, of the patients of ``patients``.
    patients
        Sections by patient, or ``all``.
    """

    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    folds: tuple[dict[str, list[str]], ...] = ()
    leave_one_section_out: Literal["all"] | list[str] | None = None
    leave_one_patient_out: Patients | None = None
    k_fold_by_patient: int | None = Field(default=None, ge=2)
    patients: Patients = "all"

    _kinds = field_validator("folds", "leave_one_section_out", "leave_one_patient_out", "patients", mode="wrap")(
        _say_what_is_expected
    )

    @model_validator(mode="after")
    def _check(self) -> SplitEntry:
        kinds = ("test", "folds", "leave_one_section_out", "leave_one_patient_out", "k_fold_by_patient")
        given = [kind for kind in kinds if getattr(self, kind)]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'nothing'} is given; give one of {', '.join(kinds)}")
        for key, kind in (("train", "test"), ("patients", "k_fold_by_patient")):
            if key in self.model_fields_set and given != [kind]:
                raise ValueError(f"{key} goes with {kind}, and {given[0]} is given; leave {key} out")
        return self


class BenchmarkFile(BaseEntry):
    """A benchmark as it is written in YAML.

    Attributes
    ----------
    methods
        What each method changes in the base, by its name: ``{ridge: {model.name: ridge}}``. Or a file beside the
        benchmark file that holds these; or several, of which a later one adds methods, and keys to those of an earlier.
    skip
        Names of methods to leave out.
    splits
        :class:`SplitEntry` by name. Means are taken over the folds of a split, never across splits. Where it is left
        out, the data decide: one patient is left out at a time where they name two or more, else one section.
    """

    methods: dict[str, Any] | str | list[str]
    skip: tuple[str, ...] = ()
    splits: dict[str, dict[str, Any]] | None = None

    _kinds = field_validator("methods", mode="wrap")(_say_what_is_expected)


def read_benchmark(path: str | Path, overrides: Iterable[str] = (), *, seeds: Sequence[int] | None = None) -> Study:
    """Read a benchmark file, and check the configuration of every method on every fold.

    Parameters
    ----------
    path
        A YAML file; see :class:`BenchmarkFile` for its keys.
    overrides
        Changes to what all methods share, such as ``"data.root=DIR"``; they hold where a method does not change the
        same.
    seeds
        In place of those of the file. A method without anything random runs with the first only.

    Returns
    -------
    The study; none of its variants is a base.

    Raises
    ------
    ConfigError
        If the file is missing or does not fit the schema, or a method's configuration does not, naming it.
    DataError
        If a split asks for the patients of the data, or there are no splits, and the data cannot be read or split, or
        do not name the patient of each section.
    """
    path = Path(path)
    values = read_yaml(path)
    if seeds is not None:
        values = {**values, "seeds": list(seeds)}
    file = checked(BenchmarkFile, values, str(path))
    base = read_base(file, path).override([*_SCORED, *overrides])
    methods = _methods(file, path)
    variants = [replace(v, random=_is_random(v.config)) for v in make_variants(methods, base, str(path), BENCHMARK)]
    folds = _Folds(base, str(path)).read(file.splits)
    study = Study(path.stem, tuple(variants), folds, file.seeds, base, has_base=False)
    check_runs(study, str(path))
    return study


def _methods(file: BenchmarkFile, path: Path) -> dict[str, dict[str, Any]]:
    given = [file.methods] if isinstance(file.methods, str | dict) else file.methods
    methods: dict[str, dict[str, Any]] = {}
    for part in given:
        for name, changes in _part(part, path).items():
            methods[name] = methods.get(name, {}) | changes
    for name in file.skip:
        if name not in methods:
            raise ConfigError(f"{path}: skip names {name!r}; {nearest(name, methods)}")
    methods = {name: changes for name, changes in methods.items() if name not in file.skip}
    if not methods:
        raise ConfigError(f"{path}: methods is empty; name at least one, such as ridge: {{model.name: ridge}}")
    return methods


def _part(given: dict[str, Any] | str, path: Path) -> dict[str, dict[str, Any]]:
    """Flat changes by method, as they are given or as a file beside the benchmark's holds them."""
    values: Mapping[str, Any]
    if isinstance(given, dict):
        source, values = f"{path}: methods", given
    else:
        source = str(path.parent / given)
        try:
            values = read_yaml(path.parent / given)
        except ConfigError as error:
            raise ConfigError(f"{path}: methods: {error}") from None
    for name, changes in values.items():
        if not isinstance(changes, Mapping | None):
            expected = "the keys that it changes, such as {model.name: ridge}"
            raise ConfigError(f"{source}: {name} = {changes!r}; expected {expected}")
    return {str(name): flatten(changes or {}) for name, changes in values.items()}


def _is_random(config: Config) -> bool:
    """Whether a method has anything random: a network has, and an estimator that says so."""
    from nh2st_graph.models import Estimator, find_method

    method = find_method(config.model.name)
    return not issubclass(method, Estimator) or method.random


class _Folds:
    """Folds of the splits; the patients of the data are read once, and only where a split asks for them."""

    def __init__(self, base: Config, source: str) -> None:
        self.base, self.source = base, source

    def read(self, splits: Mapping[str, Mapping[str, Any]] | None) -> tuple[Fold, ...]:
        if splits is None:
            splits = self._default()
        if not splits:
            raise ConfigError(f"{self.source}: splits is empty; give at least one, such as loso: {{...}}")
        folds: list[Fold] = []
        for name, given in splits.items():
            source = f"{self.source}: splits.{name}"
            try:
                folds += self._split(name, checked(SplitEntry, given, source), source)
            except DataError as error:
                raise DataError(f"{source}: {error}") from None
        return tuple(folds)

    def _default(self) -> dict[str, dict[str, Any]]:
        """Leave one patient out at a time where the data name two or more, else one section; and say which."""
        from nh2st_graph import datasets
        from nh2st_graph.section import unknown_patients

        unknown = unknown_patients(self._sections)
        named = {patient for name, patient in datasets.patients_of(self._sections).items() if name not in unknown}
        kind = "leave_one_patient_out" if len(named) > 1 else LEAVE_ONE_OUT
        known = f"{len(named)} patient{'s' * (len(named) > 1)}" if named else "no patient"
        logger.info("%s: no splits given, and the data name %s: %s", self.source, known, kind)
        return {kind: {kind: "all" if len(named) > 1 else list(self._sections)}}

    def _split(self, name: str, entry: SplitEntry, source: str) -> list[Fold]:
        from nh2st_graph import datasets

        if entry.test:
            return [Fold(name, entry.train, entry.test, name)]
        if entry.folds:
            folds = [checked(FoldEntry, each, f"{source}.folds") for each in entry.folds]
            return [Fold(f"{name} {'+'.join(fold.test)}", fold.train, fold.test, name) for fold in folds]
        if entry.leave_one_section_out == "all":
            found = datasets.leave_one_section_out(self._sections)
        elif entry.leave_one_section_out:
            found = datasets.leave_one_section_out(_apart({"": entry.leave_one_section_out}))
        elif entry.leave_one_patient_out:
            found = datasets.leave_one_patient_out(self._by_section(entry.leave_one_patient_out))
        else:
            assert entry.k_fold_by_patient is not None
            found = datasets.k_fold_by_patient(self._by_section(entry.patients), entry.k_fold_by_patient)
        return [Fold(f"{name} {fold.name}", fold.train, fold.test, name) for fold in found]

    def _by_section(self, patients: Patients) -> dict[str, AnnData] | dict[str, str]:
        return self._sections if patients == "all" else _apart(patients)

    @cached_property
    def _sections(self) -> dict[str, AnnData]:
        """All sections of the data, of each no more than whose it is."""
        from anndata import AnnData

        from nh2st_graph import tl

        everything = self.base.data.model_copy(update={"train": (), "test": ()})
        whose = [Key.obs.section, Key.obs.patient]
        with tempfile.TemporaryDirectory() as folder:
            sections = tl.load_sections(self.base.model_copy(update={"data": everything}), folder)
            return {name: AnnData(obs=section.obs[whose].copy()) for name, section in sections.items()}


def _apart(patients: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Patient of each section; a section that stands twice might be learned from and tested at once."""
    found: dict[str, str] = {}
    for patient, sections in patients.items():
        for section in sections:
            if section in found:
                raise DataError(f"section {section!r} is given twice; give each once")
            found[section] = patient
    return found
