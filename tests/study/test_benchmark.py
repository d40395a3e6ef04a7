"""Benchmark files: their splits, their methods, and what is said where they are wrong."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from anndata import AnnData

from nh2st_graph import ConfigError, DataError, read
from nh2st_graph.section import Key, unknown_patient
from nh2st_graph.study import Study, read_benchmark, read_study

RIDGE = {"ridge": {"model.name": "ridge"}}
BY_PATIENT = {"A": ["A1", "A2"], "B": ["B1"], "C": ["C1", "C2", "C3"]}

Folds = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]


@pytest.fixture
def benchmark_file(study_file) -> Callable[..., Path]:
    """Write a benchmark file, by default of one method on one fold."""

    def write(**keys: Any) -> Path:
        return study_file("mine", **{"methods": RIDGE, "splits": {"far": {"test": ["S3"]}}, **keys})

    return write


@pytest.fixture
def folds_of(benchmark_file) -> Callable[..., Folds]:
    """Sections to train on and to test on, by fold, of a split called ``s``."""

    def read_folds(*overrides: str, **split: Any) -> Folds:
        study = read_benchmark(benchmark_file(splits={"s": split}), overrides)
        assert study.splits == ("s",)
        return {fold.name: (fold.train, fold.test) for fold in study.folds}

    return read_folds


@pytest.fixture
def on_disk(tiny_sections, tmp_path) -> list[str]:
    """Three sections of two patients as files, and what makes a benchmark read them."""
    for name, patient in {"S1": "one", "S2": "two", "S3": "one"}.items():
        section: AnnData = tiny_sections[name].copy()
        section.obs[Key.obs.patient] = patient
        read.write_h5ad(section, tmp_path / "sections" / f"{name}.h5ad")
    return ["data.format=h5ad", f"data.root={tmp_path / 'sections'}"]


class TestSplits:
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

    def test_each_section_from_the_others_of_its_patient_as_the_data_say(self, folds_of, on_disk):
        # S2 is alone
        assert folds_of(*on_disk, leave_one_section_out="all") == {
            "s S1": (("S3",), ("S1",)),
            "s S3": (("S1",), ("S3",)),
        }

    def test_each_patient_from_the_others(self, folds_of):
        assert folds_of(leave_one_patient_out=BY_PATIENT) == {
            "s A": (("B1", "C1", "C2", "C3"), ("A1", "A2")),
            "s B": (("A1", "A2", "C1", "C2", "C3"), ("B1",)),
            "s C": (("A1", "A2", "B1"), ("C1", "C2", "C3")),
        }

    def test_each_patient_as_the_data_say(self, folds_of, on_disk):
        assert folds_of(*on_disk, leave_one_patient_out="all") == {
            "s one": (("S2",), ("S1", "S3")),
            "s two": (("S1", "S3"), ("S2",)),
        }

    @pytest.mark.parametrize("n_folds", [2, 3])
    def test_folds_of_patients_keep_a_patient_together(self, folds_of, n_folds):
        folds = folds_of(k_fold_by_patient=n_folds, patients=BY_PATIENT)
        assert list(folds) == [f"s fold{i + 1}" for i in range(n_folds)]
        assert sorted(name for _, test in folds.values() for name in test) == sorted(chain(*BY_PATIENT.values()))
        for train, test in folds.values():
            assert {name[0] for name in train} | {name[0] for name in test} == set(BY_PATIENT)
            assert not {name[0] for name in train} & {name[0] for name in test}

    def test_folds_of_patients_as_the_data_say(self, folds_of, on_disk):
        tested = {test for _, test in folds_of(*on_disk, k_fold_by_patient=2).values()}
        assert tested == {("S1", "S3"), ("S2",)}

    def test_several_splits_stand_side_by_side(self, benchmark_file):
        splits = {"near": {"leave_one_section_out": ["S1", "S2"]}, "far": {"train": ["S1"], "test": ["S3"]}}
        study = read_benchmark(benchmark_file(splits=splits))
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
            ({"folds": ["S1"]}, r"folds = \['S1'\]; expected a list of folds"),
            ({"folds": [{"train": ["S1"]}]}, r"folds: test names no section; a fold without one cannot be scored"),
            ({"folds": [{"tset": ["S1"]}]}, r"folds: unknown key 'tset'; did you mean 'test'"),
            (
                {"train": ["S1"], "leave_one_section_out": "all"},
                r"train goes with test, and leave_one_section_out is given; leave train out",
            ),
            (
                {"patients": {"A": ["A1"]}, "leave_one_patient_out": "all"},
                r"patients goes with k_fold_by_patient, and leave_one_patient_out is given; leave patients out",
            ),
        ],
    )
    def test_errors_name_the_split_the_key_and_what_is_allowed(self, benchmark_file, split, message):
        with pytest.raises(ConfigError, match=rf"mine\.yaml: splits\.near\.?:? ?{message}") as error:
            read_benchmark(benchmark_file(splits={"near": split}))
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("split", "message"),
        [
            ({"leave_one_section_out": ["S1"]}, r"no section of S1 has another one"),
            ({"leave_one_section_out": ["S1", "S2", "S1"]}, r"section 'S1' is given twice; give each once"),
            ({"leave_one_patient_out": {"A": ["A1", "A2"]}}, r"1 patient \(A\) cannot be split; give two or more"),
            ({"leave_one_patient_out": {"A": ["A1"], "B": ["B1", "A1"]}}, r"section 'A1' is given twice"),
            ({"k_fold_by_patient": 4, "patients": BY_PATIENT}, r"4 folds of 3 patients \(A, B, C\); give 2 folds to"),
        ],
    )
    def test_sections_that_cannot_be_split_are_named_with_the_split(self, benchmark_file, split, message):
        with pytest.raises(DataError, match=rf"mine\.yaml: splits\.near: {message}"):
            read_benchmark(benchmark_file(splits={"near": split}))

    def test_data_that_are_not_there_are_asked_for(self, benchmark_file):
        path = benchmark_file(set={"data.format": "h5ad"}, splits={"near": {"leave_one_patient_out": "all"}})
        with pytest.raises(ConfigError, match=r"data\.root is not set"):
            read_benchmark(path)
        with pytest.raises(DataError, match=r"mine\.yaml: splits\.near: .*nowhere"):
            read_benchmark(path, ["data.root=nowhere"])


class TestWithoutSplits:
    @pytest.fixture
    def planned(self, study_file, tiny_sections, tmp_path, caplog) -> Callable[..., tuple[Study, str]]:
        """Plan a benchmark without splits of sections of these patients (None: not known); and what is said of it."""

        def plan(**patients: str | None) -> tuple[Study, str]:
            for name, patient in patients.items():
                section: AnnData = tiny_sections[name].copy()
                section.obs[Key.obs.patient] = pd.Categorical([patient or unknown_patient(name)] * section.n_obs)
                read.write_h5ad(section, tmp_path / "sections" / f"{name}.h5ad")
            options = ["data.format=h5ad", f"data.root={tmp_path / 'sections'}"]
            with caplog.at_level("INFO", logger="nh2st_graph"):
                study = read_benchmark(study_file("mine", methods=RIDGE), options)
            return study, caplog.messages[-1]

        return plan

    def test_one_patient_is_left_out_at_a_time(self, planned):
        study, said = planned(S1="one", S2="two", S3="one")
        assert study.splits == ("leave_one_patient_out",)
        assert [(fold.train, fold.test) for fold in study.folds] == [(("S2",), ("S1", "S3")), (("S1", "S3"), ("S2",))]
        assert said.endswith("mine.yaml: no splits given, and the data name 2 patients: leave_one_patient_out")

    @pytest.mark.parametrize(("patient", "named"), [("one", "1 patient"), (None, "no patient")])
    def test_one_section_of_one_patient_or_of_patients_that_nothing_names(self, planned, patient, named):
        study, said = planned(S1=patient, S2=patient, S3=patient)
        assert study.splits == ("leave_one_section_out",)
        assert [fold.test for fold in study.folds] == [("S1",), ("S2",), ("S3",)]
        assert [fold.train for fold in study.folds] == [("S2", "S3"), ("S1", "S3"), ("S1", "S2")]
        assert said.endswith(f"and the data name {named}: leave_one_section_out")

    def test_a_section_of_nobody_among_patients_is_asked_for(self, planned):
        with pytest.raises(DataError, match=r"leave_one_patient_out: .*patient of S3 "):
            planned(S1="one", S2="two", S3=None)


def methods_of(study: Study) -> dict[str, dict[str, Any]]:
    return {variant.name: variant.changes for variant in study.variants}


class TestMethods:
    def test_what_they_change_is_given_or_in_a_file(self, benchmark_file, tmp_path):
        methods = {"ridge": {"model.name": "ridge"}, "wide": {"model": {"width": 32}}, "as is": None}
        flat = {"ridge": {"model.name": "ridge"}, "wide": {"model.width": 32}, "as is": {}}
        here = benchmark_file(methods=methods)
        there = benchmark_file(methods="some.yaml")
        (there.parent / "some.yaml").write_text(yaml.safe_dump(methods, sort_keys=False))
        for study in (read_benchmark(here), read_benchmark(there)):
            assert methods_of(study) == flat
            assert list(methods_of(study)) == list(methods)
            ridge, wide, as_is = (variant.config for variant in study.variants)
            assert ridge.model.name == "ridge"
            assert wide == as_is.override(["model.width=32"])
            assert as_is == study.config

    def test_a_later_file_adds_methods_and_keys_and_wins(self, benchmark_file):
        path = benchmark_file(methods=["published.yaml", "small.yaml"])
        published = {
            "a": {"model": {"width": 64, "heads": 4}, "train.max_epochs": 50},
            "b": {"model.name": "knn"},
            "c": {"model.n_components": 4},
        }
        small = {"a": {"model.width": 32, "train": {"folds": 2}}, "c": None, "d": {"model.name": "mean"}}
        (path.parent / "published.yaml").write_text(yaml.safe_dump(published))
        (path.parent / "small.yaml").write_text(yaml.safe_dump(small))
        assert methods_of(read_benchmark(path)) == {
            "a": {"model.width": 32, "model.heads": 4, "train.max_epochs": 50, "train.folds": 2},
            "b": {"model.name": "knn"},
            "c": {"model.n_components": 4},
            "d": {"model.name": "mean"},
        }

    def test_some_are_skipped(self, benchmark_file):
        methods = {**RIDGE, "mean": {"model.name": "mean"}}
        assert list(methods_of(read_benchmark(benchmark_file(methods=methods, skip=["ridge"])))) == ["mean"]

    def test_what_is_not_random_runs_once(self, benchmark_file):
        methods = {"net": None, **RIDGE, "forest": {"model.name": "random_forest"}}
        study = read_benchmark(benchmark_file(methods=methods, seeds=[3, 1]))
        assert {variant.name: variant.random for variant in study.variants} == {
            "net": True,
            "ridge": False,
            "forest": True,
        }
        assert [(run.variant, run.seed) for run in study.runs(Path("out"))] == [
            ("net", 3),
            ("ridge", 3),
            ("forest", 3),
            ("net", 1),
            ("forest", 1),
        ]
        assert read_benchmark(benchmark_file(seeds=[3, 1]), seeds=[7]).seeds == (7,)

    def test_the_caller_changes_what_methods_share_and_do_not_change(self, benchmark_file):
        methods = {"own": {"train.max_epochs": 9}, "plain": None}
        study = read_benchmark(benchmark_file(methods=methods), ["train.max_epochs=5", "train.folds=2"])
        assert [(v.config.train.max_epochs, v.config.train.folds) for v in study.variants] == [(9, 2), (5, 2)]

    def test_runs_score_uses_and_no_baselines_beside_each(self, benchmark_file):
        (run,) = read_benchmark(benchmark_file()).runs(Path("out"))
        assert (run.config.evaluate.baselines, run.config.evaluate.downstream) == (False, True)
        assert run.folder == Path("out/runs/ridge/far_seed0")
        assert (run.config.data.train, run.config.data.test) == ((), ("S3",))

    def test_none_is_more_than_another(self, benchmark_file):
        study = read_benchmark(benchmark_file(methods={**RIDGE, "mean": {"model.name": "mean"}}))
        assert not study.has_base
        assert [run.variant for run in study.runs(Path("out"), ["mean"])] == ["mean"]
        with pytest.raises(ConfigError, match=r"--only 'men': no such method in benchmark 'mine'; did you mean 'mean'"):
            study.runs(Path("out"), ["men"])

    def test_a_method_of_ones_own_is_found_by_its_file(self, benchmark_file, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.path", [])
        with pytest.raises(ConfigError, match=r"method 'mine': no_such_file:Mine.* cannot be loaded"):
            read_benchmark(benchmark_file(methods={"mine": {"model.name": "no_such_file:Mine"}}))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"methods": True},
            r"methods = True; expected what each method changes, by its name; or a file that holds this; or",
        ),
        ({"methods": [RIDGE]}, r"methods = \[\{'ridge': .*\}\]; expected what each method changes"),
        ({"methods": {"ridge": "ridge"}}, r"methods: ridge = 'ridge'; expected the keys that it changes, such as"),
        ({"methods": "gone.yaml"}, r"methods: .*gone\.yaml cannot be read: No such file"),
        ({"methods": {}}, r"methods is empty; name at least one, such as ridge: \{model\.name: ridge\}"),
        ({"methods": {"a": {"model.name": "rigde"}}}, r"method 'a': .*name=.?rigde.?: no such method; did you me"),
        (
            {"methods": {"a": {"model.widht": 3}}},
            r"method 'a': unknown key 'model\.widht'; did you mean 'model\.width'",
        ),
        (
            {"methods": {"a": {"model": {"name": "ridge", "width": 3}}}},
            r"method 'a': unknown key 'model\.width'",
        ),
        (
            {"methods": {"a": {"data.train": ["S1"]}}},
            r"method 'a' changes 'data\.train', which 'splits' of the benchmark give; leave it out",
        ),
        ({"methods": {"a": {"seed": 3}}}, r"method 'a' changes 'seed', which 'seeds' of the benchmark give"),
        ({"methods": {"a b": {}, "A_b": {}}}, r"methods 'a b' and 'A_b' would share the folder 'a_b'; rename one"),
        ({"skip": ["rigde"]}, r"skip names 'rigde'; did you mean 'ridge'"),
        ({"skip": ["ridge"]}, r"methods is empty"),
        ({"skip": "ridge"}, r"skip = 'ridge'; expected a list"),
        ({"splits": {}}, r"splits is empty; give at least one"),
        ({"splits": {"a": ["S1"]}}, r"splits\.a = \['S1'\]; expected keys and values"),
        ({"splits": {"a": {"test": ["S1"]}, "A": {"test": ["S2"]}}}, r"folds 'a' and 'A' would share the folder"),
        (
            {"splits": {"a": {"train": ["S1"], "test": ["S1"]}}},
            r"method 'ridge' on fold 'a': data\.train and data\.test share S1",
        ),
        ({"variants": {}}, r"unknown key 'variants'"),
        ({"seeds": []}, r"seeds = \[\]; expected one or more"),
        ({"base": "gone.yaml"}, r"base: configuration .*gone\.yaml cannot be read"),
        ({"set": {"model.widht": 3}}, r"set: unknown key 'model\.widht'"),
    ],
)
def test_errors_name_the_file_and_the_key(benchmark_file, keys, message):
    with pytest.raises(ConfigError, match=rf"mine\.yaml: {message}") as error:
        read_benchmark(benchmark_file(**keys))
    assert "\n" not in str(error.value)
    assert "--set" not in str(error.value)


def test_a_wrong_file_of_methods_is_the_one_that_is_named(benchmark_file):
    path = benchmark_file(methods="some.yaml")
    (path.parent / "some.yaml").write_text("ridge: [model.name=ridge]\n")
    with pytest.raises(ConfigError, match=r"some\.yaml: ridge = \['model\.name=ridge'\]; expected the keys that it"):
        read_benchmark(path)
    (path.parent / "some.yaml").write_text("ridge: {}\nridge: {}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: methods: .*some\.yaml: not valid YAML: key 'ridge' stands tw"):
        read_benchmark(path)


def test_keys_that_must_be_there(study_file, tmp_path):
    with pytest.raises(ConfigError, match=r"mine\.yaml: key 'methods' is missing"):
        read_benchmark(study_file("mine", splits={}))
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read"):
        read_benchmark(tmp_path / "none.yaml")


def test_a_caller_names_its_own_mistakes(benchmark_file):
    with pytest.raises(ConfigError, match=r"^--set: unknown key 'model\.widht'"):
        read_benchmark(benchmark_file(), ["model.widht=3"])


def test_a_study_of_variants_is_no_benchmark(study_file):
    with pytest.raises(ConfigError, match=r"mine\.yaml: "):
        read_benchmark(study_file("mine", variants={"a": {}}))
    with pytest.raises(ConfigError, match=r"mine\.yaml: "):
        read_study(study_file("mine", methods=RIDGE, splits={}))
