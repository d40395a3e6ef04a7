from __future__ import annotations

import pickle

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nh2st_graph import ConfigError
from nh2st_graph.config import Config, load_config, parse_yaml
from nh2st_graph.read import check_options
from nh2st_graph.study import FoldEntry

#: What YAML 1.1 reads as numbers, dates, or words for true and false.
NAMES = ("1_1", "007", "010", "0x10", "0b11", "1e3", "1.10", ".5", "5.", "+5", "1:30", "2024-01-01", "151507", ".inf")
NAMES += ("no", "on", "Off", "YES", "y", ".nan", "1.0", "-0", "1_000.5")


@pytest.mark.parametrize("name", NAMES)
class TestNamesKeepTheirText:
    def test_in_an_assignment(self, name):
        assert Config().override([f"data.train=[{name}, A1]"]).data.train == (name, "A1")

    def test_in_a_file_and_back(self, name, tmp_path):
        (tmp_path / "c.yaml").write_text(f"data:\n  train: [{name}]\n  panel: {name}\n  options: {{image: {name}}}\n")
        config = load_config(tmp_path / "c.yaml", ["seed=3"])
        assert (config.data.train, config.data.panel) == ((name,), name)
        assert check_options("anndata", config.data.options) == {"image": name}
        assert Config.parse(parse_yaml(config.to_yaml())) == config

    def test_as_a_key(self, name):
        assert FoldEntry.model_validate(parse_yaml(f"leave_one_patient_out: {{{name}: [{name}]}}")) == FoldEntry(
            leave_one_patient_out={name: [name]}
        )


@given(st.text("0123456789_.:-+eExXonyfs", min_size=1, max_size=7))
def test_any_plain_word_is_a_name_or_is_refused(text):
    try:
        got = Config().override([f"data.train=[{text}]"]).data.train
    except ConfigError:
        return
    assert got in {(text,), tuple(part for part in text.split(",") if part)}


#: Each alias stands for ten of the one before: 10^12 values in all.
_ALIASES = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 13))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested more than 50 deep"),
        ("{a: " * 100_000, "nested more than 50 deep"),
        ("- " * 50_000, "nested more than 50 deep"),
        (_ALIASES, "stand for more than 1,000,000 values"),
        ("a: &b [*b]", "stand for more than 1,000,000 values"),
        ("seed: !!int text", "not of the type that it says"),
        ("seed: !!bool text", "not of the type that it says"),
        ("seed: !!timestamp text", "not of the type that it says"),
        ("seed: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        (f"seed: {'9' * 5000}", "not of the type that it says"),
        (f"seed: 0x{'f' * 5000}", "not of the type that it says"),
        ("seed: \x00", "not valid YAML"),
    ],
)
def test_files_that_no_configuration_is(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "c.yaml")


def test_aliases_are_taken():
    assert parse_yaml("{a: &own [A, B], b: *own, c: {<<: {d: *own}}}") == {
        "a": ["A", "B"],
        "b": ["A", "B"],
        "c": {"d": ["A", "B"]},
    }


@pytest.mark.parametrize("key", ["k", "width"])
def test_own_values_count_before_those_of_the_first_mapping_that_is_merged(key):
    values = parse_yaml(
        f"a: &a {{{key}: 1, own: 1}}\n"
        f"b: &b {{{key}: 2, other: 2}}\n"
        f"c: &c\n  <<: [*a, *b]\n"
        f"d: &d {{<<: *a, {key}: 4}}\n"
        f"e: {{<<: *d}}\n"
        f"f: {{<<: *c, other: 6}}\n"
    )
    assert values["c"] == {key: 1, "own": 1, "other": 2}
    assert values["d"] == values["e"] == {key: 4, "own": 1}
    assert values["f"] == {key: 1, "own": 1, "other": 6}
    assert values["a"] == {key: 1, "own": 1}


def test_a_mapping_that_is_merged_where_it_is_made_is_no_key_twice():
    assert parse_yaml("z: {b: &b {<<: {k: 1}, k: 2}}\nc: {<<: *b}") == {"z": {"b": {"k": 2}}, "c": {"k": 2}}


@pytest.mark.parametrize(
    "text",
    ["m: {k: 1, k: 2}", "m:\n  <<: {k: 1}\n  <<: {k: 2}", "m: {'': 1, '': 2}", "m: {1: a, '1': b}", "- {k: 1, k: 2}"],
)
def test_a_key_that_is_given_twice_is_refused_wherever_it_stands(text):
    with pytest.raises(yaml.YAMLError, match="given twice"):
        parse_yaml(text)


@pytest.mark.parametrize("text", ["m: {<<: 3}", "m: {<<: [{k: 1}, 3]}"])
def test_what_cannot_be_merged_is_refused(text):
    with pytest.raises(yaml.YAMLError, match="<<"):
        parse_yaml(text)


@pytest.mark.parametrize(("word", "shown"), [("true", "true"), ("False", "false"), ("null", "null"), ("~", "null")])
def test_a_name_that_has_to_be_quoted(word, shown):
    with pytest.raises(ConfigError, match=rf"data\.train\.1 = {shown}.*in quotes"):
        Config().override([f"data.train=[A1, {word}]"])
    assert Config().override([f"data.train=['{word}']"]).data.train == (word,)


def test_values_are_what_they_were():
    changes = ["train.refit=no", "evaluate.figures=on", "train.learning_rate=0.0030", "train.patience=1_0"]
    config = Config().override([*changes, "train.precision=32", "train.weight_decay=1e-3"])
    assert (config.train.refit, config.evaluate.figures) == (False, True)
    assert (config.train.learning_rate, config.train.weight_decay) == (0.003, 0.001)
    assert (config.train.patience, config.train.precision) == (10, "32")
    assert type(config.train.patience) is int
    assert type(config.train.learning_rate) is float


def test_options_are_numbers_where_the_reader_wants_them():
    given = Config().override(["data.options={bin_um: 8, counts_file: 010.h5, patients: 010}"]).data.options
    assert check_options("visium_hd", given) == {"bin_um": 8, "counts_file": "010.h5", "patients": "010"}
    given = Config().override(["data.options={microns_per_pixel: 0.50}"]).data.options
    assert check_options("anndata", given) == {"microns_per_pixel": 0.5}


def test_numbers_are_written_and_pickled_as_such():
    values = parse_yaml("[010, 1.10, 7]")
    assert yaml.safe_load(yaml.safe_dump(values)) == [8, 1.1, 7]
    assert [str(value) for value in pickle.loads(pickle.dumps(values))] == ["010", "1.10", "7"]
