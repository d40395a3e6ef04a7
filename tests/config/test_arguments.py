"""Settings as keyword arguments."""

from __future__ import annotations

import pytest

from nh2st_graph import Config, ConfigError
from nh2st_graph.config import with_arguments


def test_last_words_of_keys_are_arguments():
    config = with_arguments(Config(), {"panel": "hvg:9", "encoder": "pixels:8", "max_epochs": 3, "hops": 2, "seed": 5})
    assert (config.data.panel, config.features.encoder, config.train.max_epochs) == ("hvg:9", "pixels:8", 3)
    assert (config.model.hops, config.seed, config.graph.seed) == (2, 5, 0)


def test_parts_are_mappings_and_leave_the_rest():
    before = Config().override(["model.width=32"])
    config = with_arguments(before, {"model": {"hops": 2}, "data": {"normalize": "panel"}})
    assert (config.model.hops, config.model.width, config.data.normalize) == (2, 32, "panel")
    assert before.model.hops == 1


def test_a_word_is_a_method_and_a_mode():
    config = with_arguments(Config(), {"model": "bleep", "k": 7, "graph": "knn"})
    assert (config.model.name, config.model.k, config.graph.mode) == ("bleep", 7, "knn")
    assert with_arguments(Config(), {"model": {"name": "bleep", "k": 3}, "k": 7}).model.k == 7


def test_nothing_changes_nothing():
    assert with_arguments(Config(), {}) == Config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pannel": "hvg:9"}, r"no setting 'pannel'; did you mean 'panel'"),
        ({"normalize": "log"}, r"normalize = 'log'; allowed: 'total'"),
        ({"root": "here"}, r"no setting 'root'"),
        ({"train": 5}, r"train = 5; expected a mapping"),
        ({"model": 5}, r"model = 5; expected a mapping"),
        ({"model": {"heads": 3}}, r"heads=3 does not divide width=64"),
        ({"model": "blep"}, r"^model='blep': no such method; did you mean 'bleep'"),
        ({"graph": "net"}, r"\bgraph = 'net'; allowed: 'grid'"),
    ],
)
def test_errors_name_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message) as error:
        with_arguments(Config(), arguments)
    assert "data." not in str(error.value)
    assert "model." not in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [("c.yaml", r"type str; give config\.load_config\('c\.yaml'\)"), (3, "type int; give a Config")],
)
def test_a_configuration_that_is_none(config, message):
    with pytest.raises(ConfigError, match=message):
        with_arguments(config, {})
