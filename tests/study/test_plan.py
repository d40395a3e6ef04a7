from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph import ConfigError
from nh2st_graph.config import Config, builtin_config
from nh2st_graph.study import read_study
from nh2st_graph.study._plan import _in_yaml, slug

ABLATIONS = sorted((Path(__file__).resolve().parents[2] / "configs" / "ablations").glob("*.yaml"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abc :,#'\"[]é", max_size=200),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


def test_the_base_comes_first_and_variants_change_what_they_say(study_file):
    variants = {"wide": {"model.width": 32}, "deep": {"model": {"hops": 2, "jumping": "cat"}}}
    study = read_study(study_file(base_name="as is", variants=variants))
    assert [variant.name for variant in study.variants] == ["as is", "wide", "deep"]
    base, wide, deep = (variant.config for variant in study.variants)
    assert study.base.config is base
    assert base.override(["model.width=32"]) == wide
    # a nested key leaves the rest of its part as the base has it, here a width that is not the default
    assert base.override(["model.hops=2", "model.jumping=cat"]) == deep
    assert deep.model.width == base.model.width != Config().model.width


def test_a_base_ships_with_the_package_or_lies_beside_the_study(study_file, tmp_path):
    (tmp_path / "s.yaml").write_text("base: demo")
    assert read_study(tmp_path / "s.yaml").base.config == builtin_config("demo")
    assert read_study(study_file()).base.config.model.width == 16


@pytest.mark.parametrize(
    "given", [{"model.n_components": 4, "train": {"max_epochs": 2}}, ["model.n_components=4", "train.max_epochs=2"]]
)
def test_set_changes_every_variant_and_the_caller_has_the_last_word(study_file, given):
    path = study_file(set=given, variants={"a": {"model.hops": 2}, "b": {"model.n_components": 2}})
    study = read_study(path, ["train.max_epochs=5"])
    assert [variant.config.model.n_components for variant in study.variants] == [4, 4, 2]
    assert {variant.config.train.max_epochs for variant in study.variants} == {5}


def test_a_grid_is_all_combinations_but_the_base(study_file):
    grid = {"model.hops": [1, 2], "model.jumping": ["sum", "cat"], "model.width": [16]}
    study = read_study(study_file(grid=grid))
    assert [variant.name for variant in study.variants] == [
        "base",
        "hops=1, jumping=cat, width=16",
        "hops=2, jumping=sum, width=16",
        "hops=2, jumping=cat, width=16",
    ]
    assert study.variants[3].config == study.base.config.override(["model.hops=2", "model.jumping=cat"])


def test_a_grid_tells_keys_of_one_last_word_apart(study_file):
    study = read_study(study_file(grid={"graph.seed": [1], "data.synthetic.seed": [2], "data.panel": ["hvg:5"]}))
    assert study.variants[1].name == "graph.seed=1, data.synthetic.seed=2, panel=hvg:5"


def test_without_folds_the_base_decides(study_file):
    (fold,) = read_study(study_file()).folds
    assert (fold.name, fold.train, fold.test) == ("S3", ("S1", "S2"), ("S3",))


def test_leave_one_section_out_beside_other_folds(study_file):
    folds = {
        "leave_one_section_out": ["S1", "S2", "S3"],
        "far": {"train": ["S1"], "test": ["S2", "S3"], "split": "far"},
    }
    study = read_study(study_file(folds=folds))
    assert [(fold.name, fold.train, fold.test) for fold in study.folds] == [
        ("S1", ("S2", "S3"), ("S1",)),
        ("S2", ("S1", "S3"), ("S2",)),
        ("S3", ("S1", "S2"), ("S3",)),
        ("far", ("S1",), ("S2", "S3")),
    ]
    assert study.splits == ("leave_one_section_out", "far")


def test_runs_are_every_combination_the_first_seed_first(study_file):
    folds = [{"train": ["S1"], "test": ["S2"]}, {"train": ["S2"], "test": ["S1"]}]
    study = read_study(study_file(folds=folds, seeds=[3, 1], variants={"No hops!": {"model.operator": "gatv2"}}))
    runs = study.runs(Path("out"))
    assert len(runs) == len(set(runs)) == 2 * 2 * 2
    assert [run.seed for run in runs] == [3] * 4 + [1] * 4
    assert [str(run) for run in runs[:3]] == ["base, S2, seed 3", "No hops!, S2, seed 3", "base, S1, seed 3"]
    assert runs[1].folder == Path("out/runs/no_hops/s2_seed3")
    config = runs[3].config
    assert (config.seed, config.data.train, config.data.test, config.model.operator) == (3, ("S2",), ("S1",), "gatv2")
    assert not any(run.config.train.progress for run in runs)


def test_seeds_of_the_caller_take_the_place_of_the_files(study_file):
    assert read_study(study_file(seeds=[0, 1]), seeds=[7]).seeds == (7,)
    with pytest.raises(ConfigError, match=r"seeds = \[\]"):
        read_study(study_file(), seeds=[])


def test_only_some_variants_beside_the_base(study_file):
    study = read_study(study_file(variants={"a": {"model.hops": 2}, "b": {"model.hops": 3}}))
    assert [run.variant for run in study.runs(Path(), ["b"])] == ["base", "b"]
    with pytest.raises(ConfigError, match=r"--only 'no'.*known: a, b, base"):
        study.runs(Path(), ["no"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"base": "dem"}, r"base: no configuration named 'dem' ships with this package"),
        ({"base": "gone.yaml"}, r"base: configuration .*gone\.yaml cannot be read"),
        ({"set": {"model.widht": 3}}, r"set: unknown key 'model\.widht'; did you mean 'model\.width'"),
        ({"variants": {"x": {"model.neighbour": 1}}}, r"variant 'x': unknown key 'model\.neighbour'; did you mean"),
        (
            {"variants": {"x": {"model.operator": "gtv2"}}},
            r"variant 'x': model\.operator = 'gtv2'; allowed: 'attention',",
        ),
        (
            {"variants": {"x": {"model.width": 15}}},
            r"variant 'x': model\.heads \(2\) does not divide model\.width \(15\)",
        ),
        ({"variants": {"x": {"seed": 3}}}, r"variant 'x' changes 'seed', which 'seeds' of the study give"),
        (
            {"variants": {"x": {"data": {"test": ["S1"]}}}},
            r"variant 'x' changes 'data\.test', which 'folds' of the study",
        ),
        ({"grid": {"model.hops": [1, 9]}}, r"variant 'hops=9': model\.hops = 9; allowed: less than or equal to 3"),
        ({"variants": {"a b": {}, "A_b": {}}}, r"variants 'a b' and 'A_b' would share the folder 'a_b'; rename one"),
        ({"variants": {"base": {}}}, r"variants 'base' and 'base' would share the folder"),
        ({"folds": {"F": {"test": ["S1"]}, "f": {"test": ["S2"]}}}, r"folds 'F' and 'f' would share the folder"),
        (
            {"folds": {"a": {"train": ["S1"], "test": ["S1"]}}},
            r"variant 'base' on fold 'a': data\.train and data\.test share",
        ),
        ({"folds": {"a": ["S1"]}}, r"folds\.a: expected keys and values, found \['S1'\]"),
        (
            {"folds": {"leave_one_section_out": ["S1"]}},
            r"folds\.leave_one_section_out = \['S1'\]; expected a list of two",
        ),
        ({"folds": {"leave_one_section_out": 3}}, r"folds\.leave_one_section_out = 3; expected a list of two"),
        ({"set": {"data.test": []}}, r"the base's data\.test is empty, so nothing can be scored; give folds"),
    ],
)
def test_errors_are_found_before_anything_runs(study_file, keys, message):
    with pytest.raises(ConfigError, match=message) as error:
        read_study(study_file(**keys))
    assert "--set" not in str(error.value)
    assert "tiny.yaml: " in str(error.value)


def test_files_that_are_no_study(tmp_path):
    path = tmp_path / "s.yaml"
    for text, message in (
        ("a: [", "not valid YAML"),
        ("- demo", "expected keys and values at the top, found list"),
        ("base: demo\nvariants:\n  a: {}\n  a: {}\n", r"key 'a' stands twice \(line 3"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_study(path)
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read"):
        read_study(tmp_path / "none.yaml")


@given(st.text(max_size=30))
def test_slugs_are_names_of_folders_everywhere(name):
    folder = slug(name)
    assert re.fullmatch(r"[a-z0-9+-][a-z0-9._+-]*", folder)
    assert not folder.endswith(".")
    assert slug(folder) == folder


@given(VALUES)
def test_values_survive_being_written_in_one_line(value):
    text = _in_yaml(value)
    assert "\n" not in text
    assert yaml.safe_load(text) == value


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_study_that_ships_is_valid(path):
    study = read_study(path)
    assert study.seeds == (0, 1, 2)
    changed = [variant.config for variant in study.variants[1:]]
    assert study.base.config not in changed
    assert len(set(changed)) == len(changed) > 3


def test_all_studies_are_there():
    expected = ["components", "components_her2st", "encoders", "graphs", "graphs_her2st", "losses", "operators"]
    assert [path.stem for path in ABLATIONS] == expected
