from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nh2st_graph import ConfigError
from nh2st_graph.config import Config, builtin_config, load_config

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
        ("data.format=visum", r"data\.format = 'visum'; allowed: 'her2st', 'visium', 'h5ad' or 'synthetic'"),
        ("data.train=C6", r"data\.train = 'C6'; expected a list, such as \[C3, C4\]"),
        ("data=3", r"data = 3; expected keys and values"),
        ("data.root=3", r"data\.root = 3; expected a path"),
        ("model.temperature=0", r"model\.temperature = 0; allowed: greater than 0"),
        ("model.temperature=warm", r"model\.temperature = 'warm'; expected a valid number"),
        ("model.temperature=.nan", r"model\.temperature = nan; allowed"),
        ("train.learning_rate=.inf", r"train\.learning_rate = inf; allowed: a finite number"),
        ("model.dropout=1", r"model\.dropout = 1; allowed: less than 1"),
        ("model.query=maybe", r"model\.query = 'maybe'; expected a valid boolean"),
        ("train.max_epochs=2.5", r"train\.max_epochs = 2\.5; expected a valid integer"),
        ("seed=-1", r"seed = -1; allowed: greater than or equal to 0"),
        ("model.width=63", r"model\.heads \(4\) does not divide model\.width \(63\)"),
        ("seed", r"--set seed: expected KEY=VALUE"),
        ("data.train=[", r"--set data\.train: '\[' is not a YAML value"),
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


def test_a_model_needs_one_branch():
    with pytest.raises(ConfigError, match=r"model\.query and model\.neighbours are both false"):
        Config().override(["model.query=false", "model.neighbours=false"])


class TestFile:
    def test_left_out_keys_take_their_defaults(self, tmp_path):
        path = tmp_path / "c.yaml"
        path.write_text("seed: 3\ndata: {test: [C6]}\n")
        config = load_config(path, ["seed=4"])
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
        with pytest.raises(ConfigError, match=r"c\.yaml cannot be read: No such file"):
            load_config(tmp_path / "c.yaml")


def test_every_configuration_of_the_project_is_valid_and_ships():
    folder = Path(__file__).parents[1] / "configs"
    for path in folder.glob("*.yaml"):
        assert builtin_config(path.stem) == load_config(path)


def test_unknown_builtin():
    with pytest.raises(ConfigError, match="no configuration named 'demonstration'"):
        builtin_config("demonstration")
