"""Folds of a study: given one by one, or made from sections and patients."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import pandas as pd
import pytest
from anndata import AnnData

from nh2st_graph import ConfigError, DataError, read
from nh2st_graph.section import Key, unknown_patient
from nh2st_graph.study import Study, read_benchmark, read_study

RIDGE = {"ridge": {"model.name": "ridge"}}
BY_PATIENT = {"A": ["A1", "A2"], "B": ["B1"], "C": ["C1", "C2", "C3"]}

Folds = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]


@pytest.fixture
def benchmark(study_file) -> Callable[..., Study]:
    """Plan a benchmark of one method."""

    def read(splits: Any, overrides: list[str] | None = None) -> Study:
        return read_benchmark(study_file("mine", methods=RIDGE, splits=splits), overrides or [])

    return read


@pytest.fixture
def folds_of(benchmark) -> Callable[..., Folds]:
    """Sections to train on and to test on, by fold, of a split called ``s``."""

    def read_folds(*overrides: str, **split: Any) -> Folds:
        study = benchmark({"s": split}, list(overrides))
        assert study.splits == ("s",)
        return {fold.name: (fold.train, fold.test) for fold in study.folds}

    return read_folds


@pytest.fixture
def on_disk(sections, tmp_path) -> Callable[..., list[str]]:
    """Write three sections of these patients (None: not known); return what makes a benchmark read them."""

    def write(**patients: str | None) -> list[str]:
        for name, patient in patients.items():
            section: AnnData = sections[name][:5].copy()
            section.obs[Key.obs.patient] = pd.Categorical([patient or unknown_patient(name)] * section.n_obs)
            read.write_h5ad(section, tmp_path / "sections" / f"{name}.h5ad")
        return ["data.format=h5ad", f"data.root={tmp_path / 'sections'}"]

    return write


class TestEntries:
    def test_one_fold_is_called_as_its_split(self, folds_of):
        assert folds_of(train=["S1"], test=["S2", "S3"]) == {"s": (("S1",), ("S2", "S3"))}
        assert folds_of(test=["S2"]) == {"s": ((), ("S2",))}

    def test_folds_are_called_by_what_they_test(self, folds_of):
        folds = [{"train": ["S1"], "test": ["S2", 3]}, {"test": ["S1"]}]
        assert folds_of(folds=folds) == {"s S2+3": (("S1",), ("S2", "3")), "s S1": ((), ("S1",))}

    def test_each_section_from_all_others_of_a_list(self, folds_of):
        assert folds_of(leave_one_section_out=["C3", "C4", "C5"]) == {
            "s C3": (("C4", "C5"), ("C3",)),
            "s C4": (("C3", "C5"), ("C4",)),
            "s C5": (("C3", "C4"), ("C5",)),
        }

    def test_each_patient_from_the_others(self, folds_of):
        assert folds_of(leave_one_patient_out=BY_PATIENT) == {
            "s A": (("B1", "C1", "C2", "C3"), ("A1", "A2")),
            "s B": (("A1", "A2", "C1", "C2", "C3"), ("B1",)),
            "s C": (("A1", "A2", "B1"), ("C1", "C2", "C3")),
        }

    @pytest.mark.parametrize("n_folds", [2, 3])
    def test_folds_of_patients_keep_a_patient_together(self, folds_of, n_folds):
        folds = folds_of(k_fold_by_patient=n_folds, patients=BY_PATIENT)
        assert list(folds) == [f"s fold{i + 1}" for i in range(n_folds)]
        assert sorted(name for _, test in folds.values() for name in test) == sorted(chain(*BY_PATIENT.values()))
        for train, test in folds.values():
            assert {name[0] for name in train} | {name[0] for name in test} == set(BY_PATIENT)
            assert not {name[0] for name in train} & {name[0] for name in test}

    def test_the_data_say_the_patients(self, folds_of, on_disk):
        options = on_disk(S1="one", S2="two", S3="one")
        # S2 is the only section of its patient
        assert folds_of(*options, leave_one_section_out="all") == {
            "s S1": (("S3",), ("S1",)),
            "s S3": (("S1",), ("S3",)),
        }
        assert folds_of(*options, leave_one_patient_out="all") == {
            "s one": (("S2",), ("S1", "S3")),
            "s two": (("S1", "S3"), ("S2",)),
        }
        tested = {test for _, test in folds_of(*options, k_fold_by_patient=2).values()}
        assert tested == {("S1", "S3"), ("S2",)}

    def test_several_splits_stand_side_by_side(self, benchmark):
        splits = {"near": {"leave_one_section_out": ["S1", "S2"]}, "far": {"train": ["S1"], "test": ["S3"]}}
        study = benchmark(splits)
        assert study.splits == ("near", "far")
        assert [(fold.split, fold.name) for fold in study.folds] == [
            ("near", "near S1"),
            ("near", "near S2"),
            ("far", "far"),
        ]

    @pytest.mark.parametrize(
        ("split", "message"),
        [
            ({}, r"nothing is given; give one of test, folds, leave_one_section_out, leave_one_patient_out, k_fold_by"),
            ({"train": ["S1"]}, r"nothing is given; give one of"),
            (
                {"test": ["S1"], "leave_one_section_out": "all"},
                r"test and leave_one_section_out is given; give one of",
            ),
            ({"folds": [{"test": ["S1"]}], "k_fold_by_patient": 2}, r"folds and k_fold_by_patient is given"),
            ({"tset": ["S1"]}, r"unknown key 'tset'; did you mean 'test'"),
            ({"leave_one_out": ["S1"]}, r"unknown key 'leave_one_out'; did you mean 'leave_one_"),
            ({"test": "S1"}, r"test = 'S1'; expected a list, such as \[C3, C4\]"),
            ({"leave_one_section_out": 3}, r"leave_one_section_out = 3; expected a list of sections, or all$"),
            ({"leave_one_section_out": "every"}, r"leave_one_section_out = 'every'; expected a list of sections, or"),
            (
                {"leave_one_patient_out": ["A1"]},
                r"leave_one_patient_out = \['A1'\]; expected sections by patient, such as \{A: \[A1, A2\], B: \[B1\]\}",
            ),
            ({"k_fold_by_patient": 2, "patients": {"A": "A1"}}, r"patients = \{'A': 'A1'\}; expected sections by pat"),
            ({"k_fold_by_patient": 1}, r"k_fold_by_patient = 1; allowed: greater than or equal to 2"),
            ({"folds": {"a": {"test": ["S1"]}}}, r"folds = \{'a': .*\}; expected a list of folds, each \{train: \["),
            ({"folds": [{"train": ["S1"]}]}, r"folds = .*; expected a list of folds, each \{train: \["),
            ({"folds": [{"tset": ["S1"]}]}, r"folds = .*; expected a list of folds, each \{train: \["),
            (
                {"train": ["S1"], "leave_one_section_out": "all"},
                r"train goes with test, and leave_one_section_out is given; leave train out",
            ),
            (
                {"patients": {"A": ["A1"]}, "leave_one_patient_out": "all"},
                r"patients goes with k_fold_by_patient, and leave_one_patient_out is given; leave patients out",
            ),
            (["S1"], r"expected keys and values, found \['S1'\]"),
        ],
    )
    def test_errors_name_the_entry_the_key_and_what_is_allowed(self, benchmark, split, message):
        with pytest.raises(ConfigError, match=rf"mine\.yaml: splits\.near\.?:? ?{message}") as error:
            benchmark({"near": split})
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("split", "message"),
        [
            ({"leave_one_section_out": ["S1"]}, r".*S1.* has another one"),
            ({"leave_one_section_out": ["S1", "S2", "S1"]}, r"section 'S1' is given twice; give each once"),
            ({"leave_one_patient_out": {"A": ["A1", "A2"]}}, r"1 patient \(A\) cannot be split; give two or more"),
            ({"leave_one_patient_out": {"A": ["A1"], "B": ["B1", "A1"]}}, r"section 'A1' is given twice"),
            ({"k_fold_by_patient": 4, "patients": BY_PATIENT}, r"4 folds of 3 patients \(A, B, C\)"),
        ],
    )
    def test_sections_that_cannot_be_split_are_named_with_the_entry(self, benchmark, split, message):
        with pytest.raises(DataError, match=rf"mine\.yaml: splits\.near: {message}"):
            benchmark({"near": split})

    def test_data_that_are_not_there_are_asked_for(self, benchmark):
        splits = {"near": {"leave_one_patient_out": "all"}}
        with pytest.raises(ConfigError, match=r"root is not set"):
            benchmark(splits, ["data.root=null"])
        with pytest.raises(DataError, match=r"mine\.yaml: splits\.near: .*nowhere"):
            benchmark(splits, ["data.root=nowhere"])

    @pytest.mark.parametrize(
        ("splits", "message"),
        [
            ({"a": {"test": ["S1"]}, "A": {"test": ["S2"]}}, r"folds 'a' and 'A' would share the folder"),
            (
                {"a": {"train": ["S1"], "test": ["S1"]}},
                r"variant 'ridge' on fold 'a': data\.train and data\.test share S1",
            ),
            ([{"test": ["S1"]}] * 2, r"folds: two of the list test the same sections"),
        ],
    )
    def test_folds_that_do_not_go_together(self, benchmark, splits, message):
        with pytest.raises(ConfigError, match=rf"mine\.yaml: {message}"):
            benchmark(splits)


class TestAblations:
    def test_without_folds_the_base_decides(self, study_file):
        (fold,) = read_study(study_file()).folds
        assert (fold.name, fold.train, fold.test, fold.split) == ("S3", ("S1", "S2"), ("S3",), "folds")

    def test_each_section_beside_other_folds(self, study_file):
        folds = {
            "leave_one_section_out": ["S1", "S2", "S3"],
            "far": {"train": ["S1"], "test": ["S2", "S3"], "split": "far"},
            "near": {"train": ["S1"], "test": ["S2"]},
        }
        study = read_study(study_file(folds=folds))
        assert [(fold.name, fold.train, fold.test) for fold in study.folds] == [
            ("S1", ("S2", "S3"), ("S1",)),
            ("S2", ("S1", "S3"), ("S2",)),
            ("S3", ("S1", "S2"), ("S3",)),
            ("far", ("S1",), ("S2", "S3")),
            ("near", ("S1",), ("S2",)),
        ]
        assert study.splits == ("leave_one_section_out", "far", "folds")

    def test_folds_of_a_list_are_named_by_what_they_test(self, study_file):
        folds = [{"train": ["S1"], "test": ["S2"]}, {"train": ["S2"], "test": ["S1", 3]}]
        assert [fold.name for fold in read_study(study_file(folds=folds)).folds] == ["S2", "S1+3"]

    def test_splits_by_patient_are_there_too(self, study_file):
        study = read_study(study_file(folds={"across": {"leave_one_patient_out": BY_PATIENT}}))
        assert [(fold.name, fold.split) for fold in study.folds] == [(f"across {p}", "across") for p in BY_PATIENT]


class TestWithoutSplits:
    @pytest.fixture
    def planned(self, study_file, on_disk, caplog) -> Callable[..., tuple[Study, str]]:
        """Plan a benchmark without splits of sections of these patients; and what is said of it."""

        def plan(**patients: str | None) -> tuple[Study, str]:
            with caplog.at_level("INFO", logger="nh2st_graph"):
                study = read_benchmark(study_file("mine", methods=RIDGE), on_disk(**patients))
            return study, caplog.messages[-1]

        return plan

    def test_one_patient_is_left_out_at_a_time(self, planned):
        study, said = planned(S1="one", S2="two", S3="one")
        assert study.splits == ("leave_one_patient_out",)
        assert [(fold.train, fold.test) for fold in study.folds] == [(("S2",), ("S1", "S3")), (("S1", "S3"), ("S2",))]
        assert said.endswith("mine.yaml: folds: none given, and the data name 2 patients: leave_one_patient_out")

    @pytest.mark.parametrize(("patient", "named"), [("one", "1 patient"), (None, "no patient")])
    def test_one_section_of_one_patient_or_of_patients_that_nothing_names(self, planned, patient, named):
        study, said = planned(S1=patient, S2=patient, S3=patient)
        assert study.splits == ("leave_one_section_out",)
        assert [fold.name for fold in study.folds] == [f"leave_one_section_out S{i}" for i in (1, 2, 3)]
        assert [fold.test for fold in study.folds] == [("S1",), ("S2",), ("S3",)]
        assert [fold.train for fold in study.folds] == [("S2", "S3"), ("S1", "S3"), ("S1", "S2")]
        assert said.endswith(f"and the data name {named}: leave_one_section_out")

    def test_a_section_of_nobody_among_patients_is_asked_for(self, planned):
        with pytest.raises(DataError, match=r"leave_one_patient_out: .*S3"):
            planned(S1="one", S2="two", S3=None)
