from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nh2st_graph import ConfigError, RenamedWarning
from nh2st_graph.config import (
    Config,
    ModelConfig,
    TrainConfig,
    builtin_config,
    changes,
    current_keys,
    flatten,
    load_config,
    parse_yaml,
)
from nh2st_graph.nn import OPERATORS
from nh2st_graph.read import register_format

FOLDER = Path(__file__).parents[2] / "configs"
NAMES = st.lists(st.from_regex(r"[A-H][1-9]", fullmatch=True), max_size=3, unique=True)


def test_defaults_are_valid_and_complete():
    config = Config()
    values = yaml.safe_load(config.to_yaml())
    assert Config.parse(values) == config
    assert list(values) == list(Config.model_fields)
    for part in ("data", "features", "graph", "model", "train"):
        assert set(values[part]) == set(type(getattr(config, part)).model_fields)


@given(
    train=NAMES,
    root=st.sampled_from([None, "a/b", "../c d"]),
    temperature=st.floats(1e-3, 10),
    seed=st.integers(0, 2**31),
    precision=st.sampled_from(["auto", "32", "bf16", "16"]),
    query=st.booleans(),
)
def test_what_is_written_reads_as_the_same(train, root, temperature, seed, precision, query):
    config = Config.parse(
        {
            "seed": seed,
            "data": {"train": train, "root": root},
            "model": {"temperature": temperature, "query": query},
            "train": {"precision": precision},
        }
    )
    assert Config.parse(yaml.safe_load(config.to_yaml())) == config


def test_values_are_fixed():
    with pytest.raises(ValidationError):
        Config().seed = 3


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("seed=7", 7),
        ("data.test=[C6]", ("C6",)),
        ("data.train=[1, 2]", ("1", "2")),  # YAML reads such names as numbers
        ("data.root=some/folder", Path("some/folder")),
        ("data.root=null", None),
        ("data.options={image: he, bin_um: 8}", {"image": "he", "bin_um": 8}),
        ("data.smooth=3x3", "3x3"),
        ("data.synthetic.n_rows=20", 20),
        ("model.temperature=0.07", 0.07),
        ("model.neighbours=false", False),
        ("train.learning_rate=1e-4", 1e-4),  # a string in YAML 1.1
        ("train.precision=32", "32"),
        (" model.hops =2", 2),
    ],
)
def test_override(assignment, value):
    config = Config().override([assignment])
    found = config
    for part in assignment.partition("=")[0].strip().split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)
    changed = {k: v for k, v in config.model_dump().items() if v != Config().model_dump()[k]}
    assert len(changed) <= 1


def test_options_of_a_format_are_whatever_its_reader_takes():
    config = Config().override(["data.options={table: counts}", "data.options.bin_um=8"])
    assert config.data.options == {"table": "counts", "bin_um": 8}
    assert Config.parse(yaml.safe_load(config.to_yaml())) == config


def test_changes_are_dotted_or_nested_and_no_text():
    config = Config()
    nested = config.change({"model": {"width": 32, "hops": 2}, "data.panel": "yes"})
    assert nested == config.change({"model.width": 32, "model.hops": 2, "data": {"panel": "yes"}})
    assert nested == config.override(["model.width=32", "model.hops=2", "data.panel='yes'"])
    ridge = config.change({"train.max_epochs": 3, "model": {"name": "ridge"}})
    assert (ridge.model.name, ridge.train.max_epochs) == ("ridge", 3)
    with pytest.raises(ConfigError, match=r"^mine: unknown key 'model\.widht'; did you mean 'model\.width'"):
        config.change({"model": {"widht": 3}}, "mine")


def test_a_key_is_dotted_or_nested_and_not_both():
    changes = {"model.dropout": 0.1, "model": {"dropout": 0.3}}
    for each in (changes, dict(reversed(changes.items()))):
        with pytest.raises(ConfigError, match=r"^mine: key 'model\.dropout' is given twice, dotted and nested"):
            Config().change(each, "mine")


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        (["model={n_components: 4}"], {"n_components": 4}),
        (["model.width=32", "model={n_components: 4}"], {"n_components": 4}),
        (["model={n_components: 4}", "model.n_components=5"], {"n_components": 5}),
        (["model={name: bleep, width: 32}"], {"name": "bleep", "width": 32}),
        (["model={width: 32}", "model.name=bleep"], {"name": "bleep", "width": 32}),
        (["model.name=bleep", "model={width: 32}"], {"name": "bleep", "width": 32}),
        (["model={name: ridge}", "model.name=bleep"], {"name": "bleep"}),
        (["model.name=bleep", "model={name: ridge}"], {"name": "ridge"}),
    ],
)
def test_a_mapping_sets_the_method_and_all_its_settings(assignments, expected):
    config = Config().override(assignments)
    assert config == Config().change({f"model.{key}": value for key, value in expected.items()})


def test_a_mapping_leaves_the_method_as_it_is():
    bleep = Config().change({"model.name": "bleep", "model.k": 3})
    assert bleep.override(["model={width: 32}"]) == Config().change({"model.name": "bleep", "model.width": 32})


def test_a_merged_key_may_be_given_again():
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}")["b"] == {"x": 3, "y": 2}


def test_overrides_apply_in_order_and_leave_the_original():
    config = Config()
    assert config.override(["seed=1", "model.width=32", "seed=2"]).seed == 2
    assert config == Config()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("data.panle=x", r"unknown key 'data\.panle'; did you mean 'data\.panel'"),
        ("panel=x", r"unknown key 'panel'; did you mean 'data\.panel'\?"),
        ("dat.panel=x", r"unknown key 'dat'; did you mean 'data'"),
        ("model.temprature=1", r"unknown key 'model\.temprature'; did you mean 'model\.temperature'"),
        (
            "data.synthetic.n_row=4",
            r"unknown key 'data\.synthetic\.n_row'; did you mean 'data\.synthetic\.n_rows'",
        ),
        ("seed.x=1", r"unknown key 'seed\.x'; did you mean 'seed'"),
        ("features.finetuned=true", r"unknown key 'features\.finetuned'; did you mean 'features\.finetune'"),
        ("graph.n_ring=2", r"unknown key 'graph\.n_ring'; did you mean 'graph\.n_rings'"),
        ("model.cross_atention=none", r"unknown key 'model\.cross_atention'; did you mean 'model\.cross_attention'"),
        ("model.finetune=true", r"unknown key 'model\.finetune'; did you mean 'features\.finetune'\?"),
        ("data.synthetic.seeds=1", r"unknown key 'data\.synthetic\.seeds'; did you mean 'data\.synthetic\.seed'"),
        ("train.threads=0", r"train\.threads=0: expected a whole number above 0, or auto"),
        ("train.batch_spots=1.5", r"train\.batch_spots=1\.5: expected a whole number above 0, or auto"),
        ("model.operator=gat", r"model\.operator = 'gat'; allowed: 'attention', 'gatv2', .* or 'none'"),
        ("model.hops=4", r"model\.hops = 4; allowed: less than or equal to 3"),
        ("model.negative_weight=0", r"model\.negative_weight = 0; allowed: greater than 0"),
        ("graph.mode=nearest", r"graph\.mode = 'nearest'; allowed: 'grid', 'knn', "),
        ("data.format=visum", r"data\.format = 'visum' is no known format; did you mean 'visium'"),
        ("data.train=C6", r"data\.train = 'C6'; expected a list, such as \[C3, C4\]"),
        ("data=3", r"data = 3; expected keys and values"),
        ("data.root=3", r"data\.root = 3; expected a path"),
        ("data.options=he", r"data\.options = 'he'; expected keys and values"),
        ("model.temperature=0", r"model\.temperature = 0; allowed: greater than 0"),
        ("model.temperature=warm", r"model\.temperature = 'warm'; expected a valid number"),
        ("model.temperature=.nan", r"model\.temperature = nan; allowed"),
        ("train.learning_rate=.inf", r"train\.learning_rate = inf; allowed: a finite number"),
        ("model.dropout=1", r"model\.dropout = 1; allowed: less than 1"),
        ("model.query=maybe", r"model\.query = 'maybe'; expected a valid boolean"),
        ("train.max_epochs=2.5", r"train\.max_epochs = 2\.5; expected a valid integer"),
        ("seed=-1", r"seed = -1; allowed: greater than or equal to 0"),
        ("model.width=63", r"model\.heads=4 does not divide model\.width=63"),
        ("seed", r"--set seed: expected KEY=VALUE"),
        ("data.train=[", r"--set data\.train: '\[' is not a YAML value"),
        ("data.options={a: 1, a: 2}", r"--set data\.options: key 'a' is given twice"),
    ],
)
def test_wrong_assignment_names_key_value_and_what_is_allowed(assignment, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Config().override([assignment])
    assert "\n" not in str(caught.value)
    assert "--set" in str(caught.value)


def test_a_test_section_is_never_trained_on():
    with pytest.raises(ConfigError, match=r"data\.train and data\.test share C4, C6"):
        Config().override(["data.train=[C3,C4,C6]", "data.test=[C6,C4]"])


@pytest.mark.parametrize("key", ["train", "test"])
def test_a_section_is_listed_once(key):
    with pytest.raises(ConfigError, match=rf"data\.{key} lists C3 more than once"):
        Config().override([f"data.{key}=[C3,C4,C3]"])


def refused(*assignments):
    """Say why the default with these changes is refused, in one line."""
    with pytest.raises(ConfigError) as caught:
        Config().override(assignments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "first", "second"),
    [
        ("model.query=false model.neighbours=false", "model.query=false", "model.neighbours=false"),
        ("model.width=64 model.heads=6", "model.heads=6", "model.width=64"),
        ("model.contrast=spot model.query=false", "model.contrast=spot", "model.query=false"),
        (
            "model.contrast=neighbourhood model.neighbours=false",
            "model.contrast=neighbourhood",
            "model.neighbours=false",
        ),
        (
            "model.contrast_on=attended model.cross_attention=none",
            "model.contrast_on=attended",
            "model.cross_attention=none",
        ),
        ("graph.mode=none model.hops=2", "model.hops = 2", "graph.mode is 'none'"),
        (
            "model.operator=hypergraph_ego model.hops=3 model.edge_features=none",
            "model.hops=3",
            "model.operator=hypergraph_ego",
        ),
        (
            "features.finetune=true features.encoder='squidpy:summary'",
            "features.finetune = true",
            "features.encoder, is 'squidpy:summary'",
        ),
        (
            "features.finetune=true features.encoder='timm:resnet18,squidpy:summary'",
            "features.finetune = true",
            "features.encoder, is 'timm:resnet18,squidpy:summary'",
        ),
    ],
)
def test_switches_that_contradict_each_other_are_refused_with_both_keys(changes, first, second):
    message = refused(*changes.split())
    assert first in message
    assert second in message


@pytest.mark.parametrize(("branch", "reads"), [("query", "query"), ("neighbours", "neighbourhood")])
def test_a_decoder_that_reads_a_branch_that_is_off_is_refused(branch, reads):
    for decoder_input in (reads, "both", "gated"):
        message = refused(f"model.{branch}=false", f"model.decoder_input={decoder_input}")
        assert f"model.decoder_input={decoder_input}" in message
        assert f"model.{branch}=false" in message


@pytest.mark.parametrize("edge_features", ["distance", "direction"])
@pytest.mark.parametrize("operator", sorted({*OPERATORS, "hypergraph_ego"} - {"attention", "gatv2", "transformer"}))
def test_edge_features_that_an_operator_does_not_read_are_refused(operator, edge_features):
    message = refused(f"model.operator={operator}", f"model.edge_features={edge_features}")
    assert f"model.edge_features={edge_features}" in message
    assert f"model.operator={operator}" in message


@pytest.mark.parametrize("regression", ["nb", "zinb"])
@pytest.mark.parametrize(("key", "value"), [("data.normalize", "residuals"), ("data.smooth", "3x3")])
def test_a_likelihood_of_counts_without_counts_is_refused(regression, key, value):
    message = refused(f"model.regression={regression}", f"{key}={value}")
    assert f"model.regression = '{regression}'" in message
    assert key in message
    assert f"(is '{value}')" in message


@pytest.mark.parametrize(
    "assignments",
    [
        ["model.neighbours=false", "model.operator=gcn"],  # an operator that is not there reads nothing
        ["model.neighbours=false", "graph.mode=none", "model.hops=3"],
        ["model.query=false"],  # 'both' leaves out a branch that is off
        ["model.neighbours=false"],
        ["model.query=false", "model.decoder_input=neighbourhood", "model.contrast=neighbourhood"],
        ["model.contrast=none", "model.contrast_on=attended", "model.cross_attention=none"],
        ["graph.mode=none"],
        ["features.finetune=true", "features.encoder='timm-map:resnet18'"],
        ["model.regression=zinb", "data.normalize=panel"],
        *([f"model.operator={operator}", "model.edge_features=distance"] for operator in ("gatv2", "transformer")),
    ],
    ids=" ".join,
)
def test_switches_that_do_not_contradict_each_other_are_taken(assignments):
    assert Config().override(assignments) != Config()


@pytest.mark.parametrize(
    ("query", "neighbours", "decoder_input", "decoded"),
    [
        (True, True, "auto", ("query", "neighbourhood")),
        (True, False, "auto", ("query",)),
        (False, True, "auto", ("neighbourhood",)),
        (True, True, "query", ("query",)),
        (True, True, "neighbourhood", ("neighbourhood",)),
        (True, True, "both", ("query", "neighbourhood")),
        (True, True, "gated", ("query", "neighbourhood")),
    ],
)
def test_branches_that_are_decoded(query, neighbours, decoder_input, decoded):
    model = ModelConfig(query=query, neighbours=neighbours, decoder_input=decoder_input)
    assert model.decoded == decoded


class TestFile:
    def test_left_out_keys_take_their_defaults(self, tmp_path):
        path = tmp_path / "c.yaml"
        path.write_text("seed: 3\ndata: {test: [C6]}\n")
        config = load_config(path, ["seed=4"])
        assert load_config(path, ["model={width: 32}", "model.width=16"]).model.width == 16
        assert config == Config().override(["seed=4", "data.test=[C6]"])
        path.write_text("")
        assert load_config(str(path)) == Config()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"data: [", r"c\.yaml: not valid YAML"),
            (b"- seed", r"c\.yaml: expected keys and values at the top, found list"),
            (b"\xff\xfe\x00", r"c\.yaml cannot be read: not a text file"),
            (b"trian: {}", r"c\.yaml: unknown key 'trian'; did you mean 'train'"),
            (b"model: {widht: 3}", r"c\.yaml: unknown key 'model\.widht'; did you mean 'model\.width'"),
            (
                b"data: {synthetic: {n_colls: 9}}",
                r"key 'data\.synthetic\.n_colls'; did you mean 'data\.synthetic\.n_cols'",
            ),
            (
                b"model.width: 32",
                r"c\.yaml: key 'model\.width' is dotted; in a file, nest it: model: \{width: \.\.\.\}$",
            ),
            (
                b"model.width: 32\nmodel: {width: 64}",
                r"c\.yaml: key 'model\.width' is given twice, dotted and nested; give it once",
            ),
            (b"model: {heads: 6}", r"c\.yaml: model\.heads=6 does not divide model\.width=64"),
            (
                b"seed: 1\nmodel: {width: 32}\ntrain: {}\nmodel: {width: 64}",
                r"c\.yaml: .*key 'model' is given twice \(lines 2 and 4\)",
            ),
            (b"data:\n  root: a\n  root: b\n", r"c\.yaml: .*key 'root' is given twice \(lines 2 and 3\)"),
            (b"model:\n", r"c\.yaml: model = None; expected keys and values"),
            (b"seed: !!python/object/apply:os.getcwd []", r"c\.yaml: not valid YAML"),
        ],
    )
    def test_wrong_file_is_named(self, tmp_path, content, message):
        (tmp_path / "c.yaml").write_bytes(content)
        with pytest.raises(ConfigError, match=message) as caught:
            load_config(tmp_path / "c.yaml")
        assert "\n" not in str(caught.value)

    def test_missing(self, tmp_path):
        with pytest.raises(ConfigError, match=r"c\.yaml cannot be read: No such file .*; give the path of a conf"):
            load_config(tmp_path / "c.yaml")

    def test_of_a_folder_the_configuration_in_it_is_named(self, tmp_path):
        (tmp_path / "config.yaml").write_text("seed: 1\n")
        with pytest.raises(ConfigError, match=r"cannot be read: Is a directory; give .*config\.yaml$"):
            load_config(tmp_path)


@pytest.mark.parametrize("name", ["her2st_mini", "demo"])
def test_a_file_that_promises_every_key_has_it(name):
    def keys(values, prefix=""):
        for key, value in values.items():
            inside = isinstance(value, dict) and value
            yield from keys(value, f"{prefix}{key}.") if inside else [f"{prefix}{key}"]

    written = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert list(keys(written)) == list(keys(yaml.safe_load(Config().to_yaml())))


def test_defaults_are_what_was_chosen_on_real_tissue():
    chosen = builtin_config("her2st_mini")
    for part in ("features", "graph", "model", "train", "evaluate"):
        assert getattr(chosen, part) == getattr(Config(), part)


@pytest.mark.usefixtures("own_formats")
def test_a_format_of_the_users_own_is_known_once_it_is_registered():
    with pytest.raises(ConfigError, match=r"data\.format = 'mine' is no known format"):
        Config().override(["data.format=mine"])
    register_format("mine")(lambda root, names: {})
    assert Config().override(["data.format=mine"]).data.format == "mine"


def test_every_configuration_of_the_project_is_valid_and_ships():
    for path in FOLDER.glob("*.yaml"):
        assert builtin_config(path.stem) == load_config(path)


def test_unknown_builtin():
    with pytest.raises(ConfigError, match="no configuration named 'demonstration'"):
        builtin_config("demonstration")


def test_nested_keys_are_dotted():
    nested = {
        "model": {"hops": 2, "jumping": "cat"},
        "seed": 1,
        "data": {"synthetic": {"n_rows": 8}},
        "model.heads": 4,
    }
    dotted = {"model.hops": 2, "model.jumping": "cat", "seed": 1, "data.synthetic.n_rows": 8, "model.heads": 4}
    assert flatten(nested) == dotted
    assert flatten(dotted) == dotted


def dumped(config: Config) -> dict:
    return config.model_dump(mode="json")


@pytest.mark.parametrize(
    "neutral", ["train.progress=false", "train.checkpoint_seconds=60", "features.cache=elsewhere", "train.device=cpu"]
)
def test_what_changes_no_result_is_no_change(neutral):
    assert changes(dumped(Config()), dumped(Config().override([neutral]))) == []


def test_changes_are_named_with_both_values():
    plain = Config()
    other = plain.override(["data.options.layer=raw", "model.hops=2"])
    assert changes(dumped(plain), dumped(other)) == ["model.hops: 1 -> 2", "data.options.layer: (unset) -> raw"]
    assert changes(dumped(other), dumped(plain)) == ["data.options.layer: raw -> (unset)", "model.hops: 2 -> 1"]


def test_earlier_keys_are_read_as_those_that_replaced_them():
    earlier = {"train.average": 0.5, "model": {"rank": 3, "hops": 2}, "evaluate.floors": False, "seed": 1}
    with pytest.warns(RenamedWarning, match="'average' is now 'ema_decay'"):
        config = Config().change(earlier)
    found = config.train.ema_decay, config.model.n_components, config.model.n_hidden, config.evaluate.baselines
    assert found == (0.5, 3, 3, False)
    assert Config().change(current_keys(earlier)) == config
    with pytest.raises(ConfigError, match="'average' is the earlier name of 'ema_decay', and both are given"):
        Config.parse({"train": {"average": 0.5, "ema_decay": 0.5}})


@pytest.mark.parametrize(("said", "threads"), [("1", 1), ("1,2", 1), ("", None), ("0", None), ("100000", None)])
def test_threads_are_all_cores_or_those_that_the_environment_leaves(said, threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = TrainConfig().n_threads
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert TrainConfig().n_threads == (threads or cores)
    assert TrainConfig(threads=3).n_threads == 3
