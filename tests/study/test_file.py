"""Study files: their keys, their variants, and what is said if they are wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph import ConfigError
from nh2st_graph.config import Config, builtin_config
from nh2st_graph.study import Fold, Study, Variant, read_benchmark, read_study

ABLATIONS = sorted((Path(__file__).resolve().parents[2] / "configs" / "ablations").glob("*.yaml"))
RIDGE = {"ridge": {"model.name": "ridge"}}


@pytest.fixture
def benchmark_file(study_file) -> Callable[..., Path]:
    """Write a benchmark file, by default of one method on one fold."""

    def write(**keys: Any) -> Path:
        return study_file("mine", **{"methods": RIDGE, "splits": {"far": {"test": ["S3"]}}, **keys})

    return write


def changes_of(study: Study) -> dict[str, dict[str, Any]]:
    return {variant.name: variant.changes for variant in study.variants}


class TestVariants:
    def test_the_base_comes_first_and_variants_change_what_they_say(self, study_file):
        variants = {"wide": {"model.width": 32}, "deep": {"model": {"hops": 2, "jumping": "cat"}}}
        study = read_study(study_file(base_name="as is", variants=variants))
        assert [(variant.name, variant.role) for variant in study.variants] == [
            ("as is", "base"),
            ("wide", "variant"),
            ("deep", "variant"),
        ]
        base, wide, deep = (variant.config for variant in study.variants)
        assert (study.reference, study.config) == ("as is", base)
        assert base.override(["model.width=32"]) == wide
        # a nested key leaves the rest of its part as the base has it, here a width that is not the default
        assert base.override(["model.hops=2", "model.jumping=cat"]) == deep
        assert deep.model.width == base.model.width != Config().model.width

    def test_each_has_the_encoders_that_auto_chose(self, study_file, monkeypatch):
        monkeypatch.setattr("nh2st_graph.im._default.is_packaged", lambda package: False)
        variants = {"one": {"features.patch_um": 56}, "colour": {"features.encoder": "squidpy:summary"}}
        study = read_study(study_file(set={"features.encoder": "auto"}, variants=variants))
        scales = [[size for _, size in variant.config.features.blocks] for variant in study.variants]
        assert scales == [[112, 224, 448], [56], [224]]
        assert study.config == study.variants[0].config

    def test_a_base_ships_with_the_package_or_lies_beside_the_study(self, study_file, tmp_path):
        (tmp_path / "s.yaml").write_text("base: demo")
        assert read_study(tmp_path / "s.yaml").config == builtin_config("demo")
        assert read_study(study_file()).config.model.width == 16

    @pytest.mark.parametrize(
        "given",
        [{"model.n_components": 4, "train": {"max_epochs": 2}}, ["model.n_components=4", "train.max_epochs=2"]],
    )
    def test_set_changes_every_variant_and_the_caller_has_the_last_word(self, study_file, given):
        path = study_file(set=given, variants={"a": {"model.hops": 2}, "b": {"model.n_components": 2}})
        study = read_study(path, ["train.max_epochs=5"])
        assert [variant.config.model.n_components for variant in study.variants] == [4, 4, 2]
        assert {variant.config.train.max_epochs for variant in study.variants} == {5}

    def test_a_grid_is_all_combinations_but_the_base(self, study_file):
        grid = {"model.hops": [1, 2], "model.jumping": ["sum", "cat"], "model.width": [16]}
        study = read_study(study_file(grid=grid))
        assert [variant.name for variant in study.variants] == [
            "base",
            "hops=1, jumping=cat, width=16",
            "hops=2, jumping=sum, width=16",
            "hops=2, jumping=cat, width=16",
        ]
        assert study.variants[3].config == study.config.override(["model.hops=2", "model.jumping=cat"])

    def test_a_grid_tells_keys_of_one_last_word_apart(self, study_file):
        grid = {"graph.seed": [1], "data.synthetic.seed": [2], "data.panel": ["hvg:5"]}
        assert read_study(study_file(grid=grid)).variants[1].name == "graph.seed=1, data.synthetic.seed=2, panel=hvg:5"

    def test_only_some_variants_beside_the_base(self, study_file):
        study = read_study(study_file(variants={"a": {"model.hops": 2}, "b": {"model.hops": 3}}))
        assert [run.variant for run in study.runs(Path(), ["b"])] == ["base", "b"]
        with pytest.raises(ConfigError, match=r"only='no'.*known: a, b, base") as error:
            study.runs(Path(), ["no"])
        assert error.value.at("flag", {"only"}).startswith("--only no: ")

    def test_runs_are_every_combination_the_first_seed_first(self, study_file):
        folds = [{"train": ["S1"], "test": ["S2"]}, {"train": ["S2"], "test": ["S1"]}]
        study = read_study(study_file(folds=folds, seeds=[3, 1], variants={"No hops!": {"model.operator": "gatv2"}}))
        runs = study.runs(Path("out"))
        assert len(runs) == len(set(runs)) == 2 * 2 * 2
        assert [run.seed for run in runs] == [3] * 4 + [1] * 4
        assert [str(run) for run in runs[:3]] == ["base, S2, seed 3", "No hops!, S2, seed 3", "base, S1, seed 3"]
        assert runs[1].folder == Path("out/runs/no_hops/s2_seed3")
        config = runs[3].config
        assert (config.seed, config.data.train, config.data.test) == (3, ("S2",), ("S1",))
        assert config.model.operator == "gatv2"
        assert not any(run.config.train.progress for run in runs)

    def test_seeds_of_the_caller_take_the_place_of_the_files(self, study_file, benchmark_file):
        assert read_study(study_file(seeds=[0, 1]), seeds=[7]).seeds == (7,)
        assert read_benchmark(benchmark_file(seeds=[3, 1]), seeds=[7]).seeds == (7,)
        with pytest.raises(ConfigError, match=r"seeds = \[\]"):
            read_study(study_file(), seeds=[])


class TestMethods:
    def test_their_changes_are_given_or_in_a_file(self, benchmark_file):
        methods = {"ridge": {"model.name": "ridge"}, "wide": {"model": {"width": 32}}, "as is": None}
        flat = {"ridge": {"model.name": "ridge"}, "wide": {"model.width": 32}, "as is": {}}
        here = benchmark_file(methods=methods)
        there = benchmark_file(methods="some.yaml")
        (there.parent / "some.yaml").write_text(yaml.safe_dump(methods, sort_keys=False))
        for study in (read_benchmark(here), read_benchmark(there)):
            assert changes_of(study) == flat
            assert list(changes_of(study)) == list(methods)
            ridge, wide, as_is = (variant.config for variant in study.variants)
            assert ridge.model.name == "ridge"
            assert wide == as_is.override(["model.width=32"])
            assert as_is == study.config
            assert [variant.role for variant in study.variants] == ["baseline", "method", "method"]

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
        assert changes_of(read_benchmark(path)) == {
            "a": {"model.width": 32, "model.heads": 4, "train.max_epochs": 50, "train.folds": 2},
            "b": {"model.name": "knn"},
            "c": {"model.n_components": 4},
            "d": {"model.name": "mean"},
        }

    def test_some_are_skipped(self, benchmark_file):
        methods = {**RIDGE, "mean": {"model.name": "mean"}}
        assert list(changes_of(read_benchmark(benchmark_file(methods=methods, skip=["ridge"])))) == ["mean"]

    def test_a_method_without_anything_random_runs_once(self, benchmark_file):
        methods = {"net": None, **RIDGE, "forest": {"model.name": "random_forest"}}
        study = read_benchmark(benchmark_file(methods=methods, seeds=[3, 1]))
        assert [(run.variant, run.seed) for run in study.runs(Path("out"))] == [
            ("net", 3),
            ("ridge", 3),
            ("forest", 3),
            ("net", 1),
            ("forest", 1),
        ]

    def test_the_caller_changes_the_keys_that_methods_do_not_change(self, benchmark_file):
        methods = {"own": {"train.max_epochs": 9}, "plain": None}
        study = read_benchmark(benchmark_file(methods=methods), ["train.max_epochs=5", "train.folds=3"])
        assert [(v.config.train.max_epochs, v.config.train.folds) for v in study.variants] == [(9, 3), (5, 3)]

    def test_runs_score_uses_and_no_baselines_beside_each(self, benchmark_file):
        (run,) = read_benchmark(benchmark_file()).runs(Path("out"))
        assert (run.config.evaluate.baselines, run.config.evaluate.downstream) == (False, True)
        (other,) = read_benchmark(benchmark_file(set={"evaluate.downstream": False})).runs(Path("out"))
        assert (other.config.evaluate.baselines, other.config.evaluate.downstream) == (False, False)
        assert run.folder == Path("out/runs/ridge/far_seed0")
        assert (run.config.data.train, run.config.data.test) == ((), ("S3",))

    def test_none_is_the_reference(self, benchmark_file):
        study = read_benchmark(benchmark_file(methods={**RIDGE, "mean": {"model.name": "mean"}}))
        assert (study.reference, study.ranked) == (None, True)
        assert [run.variant for run in study.runs(Path("out"), ["mean"])] == ["mean"]

    def test_a_method_of_ones_own_is_found_by_its_file(self, benchmark_file, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.path", [])
        with pytest.raises(ConfigError, match=r"variant 'mine': model\.name=no_such_file:Mine.* cannot be loaded"):
            read_benchmark(benchmark_file(methods={"mine": {"model.name": "no_such_file:Mine"}}))


def test_either_name_of_a_key_is_read_by_both(study_file):
    one = read_study(study_file(methods=RIDGE, splits={"far": {"test": ["S3"]}}))
    other = read_study(study_file(variants=RIDGE, folds={"far": {"test": ["S3"]}}))
    assert (changes_of(one), one.folds) == (changes_of(other), other.folds)
    ranked = read_benchmark(study_file(variants=RIDGE, folds={"far": {"test": ["S3"]}}))
    assert ranked.variants[0].role == "baseline"
    for keys in ({"methods": RIDGE, "variants": RIDGE}, {"splits": {}, "folds": {}}):
        with pytest.raises(ConfigError, match=r"is another name of .*, and both are given"):
            read_benchmark(study_file(**keys))


#: Keys of a file, and what is said of them, by either command.
WRONG = [
    ({"base": "dem"}, r"base: no configuration named 'dem' ships with this package"),
    ({"base": "gone.yaml"}, r"base: .*gone\.yaml cannot be read"),
    ({"set": {"model.widht": 3}}, r"set: unknown key 'model\.widht'; did you mean 'model\.width'"),
    ({"set": ["model.widht=3"]}, r"set: unknown key 'model\.widht'; did you mean 'model\.width'"),
    ({"set": "model.width=32"}, r"set = 'model\.width=32'; expected keys and values, or a list"),
    ({"seeds": 3}, r"seeds = 3; expected a list"),
    ({"seeds": [-1]}, r"seeds\.0 = -1; allowed: greater than or equal to 0"),
    ({"seeds": []}, r"seeds = \[\]; expected one or more, each once"),
    ({"seeds": [1, 2, 1]}, r"seeds = \[1, 2, 1\]; expected one or more, each once"),
    ({"varients": {}}, r"unknown key 'varients'; did you mean 'variants'"),
    ({"variants": True}, r"variants = True; expected what each variant changes, by its name; or a file"),
    ({"variants": [{"a": {}}]}, r"variants = \[\{'a': .*\}\]; expected what each variant changes"),
    ({"variants": {"a": "ridge"}}, r"variants: a = 'ridge'; expected the keys that it changes, such as"),
    ({"variants": "gone.yaml"}, r"variants: .*gone\.yaml cannot be read: No such file"),
    ({"variants": {"x": {"model.neighbour": 1}}}, r"variant 'x': unknown key 'model\.neighbour'; did you mean"),
    ({"variants": {"x": {"model.operator": "gtv2"}}}, r"variant 'x': model\.operator = 'gtv2'; allowed: 'attention',"),
    ({"variants": {"x": {"model.width": 15}}}, r"variant 'x': model\.heads=2 does not divide model\.width=15"),
    ({"variants": {"x": {"model.name": "rigde"}}}, r"variant 'x': model\.name=rigde: no such method; did you mea"),
    ({"variants": {"x": {"model": {"name": "ridge", "width": 3}}}}, r"variant 'x': unknown key 'model\.width'"),
    ({"variants": {"x": {"seed": 3}}}, r"variant 'x' changes 'seed', which 'seeds' of the study give"),
    ({"variants": {"x": {"data": {"test": ["S1"]}}}}, r"variant 'x' changes 'data\.test', which 'folds' of the study"),
    ({"variants": {"a b": {}, "A_b": {}}}, r"variants 'a b' and 'A_b' would share the folder 'a_b'; rename one"),
    ({"variants": {"a": {}}, "grid": {"model.hops": [1]}}, r"variants and grid are both given"),
    ({"grid": {"model.hops": [1, 9]}}, r"variant 'hops=9': model\.hops = 9; allowed: less than or equal to 3"),
    ({"grid": {"model.hops": []}}, r"grid\.model\.hops = \[\]; give at least 1"),
    ({"variants": RIDGE, "skip": ["rigde"]}, r"skip names 'rigde'; did you mean 'ridge'"),
    ({"variants": RIDGE, "skip": "ridge"}, r"skip = 'ridge'; expected a list"),
]


@pytest.mark.parametrize("read", [read_study, read_benchmark])
@pytest.mark.parametrize(("keys", "message"), WRONG)
def test_errors_name_the_file_and_the_key(study_file, read, keys, message):
    with pytest.raises(ConfigError, match=rf"tiny\.yaml: {message}") as error:
        read(study_file(**keys))
    assert "\n" not in str(error.value)
    assert "--set" not in str(error.value)


@pytest.mark.parametrize(
    ("read", "keys", "message"),
    [
        (read_study, {"variants": {"base": {}}}, r"variants 'base' and 'base' would share the folder"),
        (
            read_study,
            {"variants": {"a": {"train.devices": 2}}},
            r"variant 'a' has .*devices.*2 and .*nodes.*one process",
        ),
        (read_study, {"base_nam": "x"}, r"unknown key 'base_nam'; did you mean 'base_name'"),
        (read_study, {"set": {"data.test": []}}, r"the base's data\.test: nothing can be scored; give folds"),
        (read_benchmark, {"base_name": "x", "methods": RIDGE}, r"unknown key 'base_name'"),
        (
            read_benchmark,
            {"methods": {}},
            r"there are no methods; name at least one, such as ridge: \{model\.name: ridge",
        ),
        (read_benchmark, {"methods": RIDGE, "skip": ["ridge"]}, r"there are no methods"),
        (read_benchmark, {"metods": {}}, r"unknown key 'metods'; did you mean 'methods'"),
    ],
)
def test_errors_of_one_command(study_file, read, keys, message):
    with pytest.raises(ConfigError, match=rf"tiny\.yaml: .*{message}"):
        read(study_file(**keys))


def test_a_wrong_file_of_variants_is_the_one_that_is_named(benchmark_file):
    path = benchmark_file(methods="some.yaml")
    (path.parent / "some.yaml").write_text("ridge: [model.name=ridge]\n")
    with pytest.raises(ConfigError, match=r"some\.yaml: ridge = \['model\.name=ridge'\]; expected the keys that it"):
        read_benchmark(path)
    (path.parent / "some.yaml").write_text("ridge: {}\nridge: {}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: variants: .*some\.yaml: .*key 'ridge' is given twice"):
        read_benchmark(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- demo", "expected keys and values at the top, found list"),
        (
            "base: demo\nset: {train.max_epochs: 1, train: {max_epochs: 2}}\nvariants: {a: {}}",
            r"set: key 'train\.max_epochs' is given twice, dotted and nested",
        ),
        (
            "base: demo\nvariants: {a: {model.dropout: 0.1, model: {dropout: 0.3}}}",
            r"variants: a: key 'model\.dropout' is given twice, dotted and nested",
        ),
        ("base: demo\nvariants:\n  a: {}\n  a: {}\n", r"key 'a' is given twice \(lines 3 and 4\)"),
        ("seeds: [0]", "key 'base' is missing"),
    ],
)
def test_files_that_are_no_study(tmp_path, text, message):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"s\.yaml: .*{message}"):
        read_study(tmp_path / "s.yaml")
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read"):
        read_study(tmp_path / "none.yaml")


def test_a_caller_names_its_own_mistakes(benchmark_file):
    with pytest.raises(ConfigError, match=r"^--set: unknown key 'model\.widht'"):
        read_benchmark(benchmark_file(), ["model.widht=3"])


@given(st.text(max_size=30))
def test_a_run_has_a_folder_that_can_be_everywhere(name):
    def folder(name: str) -> str:
        variants = (Variant(name, {}, Config()),)
        study = Study("study", variants, (Fold("a", ("S1",), ("S2",), "one"),), (0,), Config(), None)
        (run,) = study.runs(Path("out"))
        return str(run.folder.relative_to("out/runs").parts[0])

    assert re.fullmatch(r"[a-z0-9+-][a-z0-9._+-]*", folder(name))
    assert not folder(name).endswith(".")
    assert folder(folder(name)) == folder(name)


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_study_that_ships_is_valid(path):
    study = read_study(path)
    assert study.seeds == (0, 1, 2)
    changed = [variant.config for variant in study.variants[1:]]
    assert study.config not in changed
    assert len(set(changed)) == len(changed) > 3


def test_all_studies_are_there():
    expected = [
        "blocks",
        "components",
        "components_her2st",
        "encoders",
        "graphs",
        "graphs_her2st",
        "losses",
        "operators",
    ]
    assert [path.stem for path in ABLATIONS] == expected
