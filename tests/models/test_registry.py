from __future__ import annotations

import sys
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest

from nh2st_graph import Config, ConfigError, ModelError
from nh2st_graph.config import MethodConfig, ModelConfig
from nh2st_graph.models import ENTRY_POINTS, Estimator, NH2STGraph, find_method, known_methods, register_method


class Settings(MethodConfig):
    name: Literal["mine"] = "mine"
    strength: int = 3


class Mine(Estimator):
    Settings = Settings

    def fit(self, sections: Any) -> None: ...

    def predict(self, section: Any) -> Any: ...


@pytest.fixture(autouse=True)
def registry(own_methods: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the registry and the path as they were."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def bring(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Let another package bring a method."""
    entry = EntryPoint(name, value, ENTRY_POINTS)
    found = f"{find_method.__module__}.entry_points"
    monkeypatch.setattr(found, lambda group: [entry] if group == entry.group else [])


def test_a_registered_method_is_found_and_configured() -> None:
    assert register_method(Mine) is Mine
    assert find_method("mine") is Mine
    assert {"mine", "nh2st_graph"} <= set(known_methods())
    model = Config().override(["model.strength=5", "model.name=mine"]).model
    assert model == Settings(strength=5)
    assert find_method("nh2st_graph") is NH2STGraph
    assert type(Config().model) is ModelConfig


def test_another_method_starts_from_its_own_defaults() -> None:
    register_method(Mine)
    assert Config().override(["model.hops=2"]).override(["model.name=mine"]).model == Settings()
    with pytest.raises(ConfigError, match=r"unknown key 'model\.hops'"):  # whatever the order: of the method chosen
        Config().override(["model.hops=2", "model.name=mine"])


def test_unknown_keys_are_those_of_the_method() -> None:
    register_method(Mine)
    with pytest.raises(ConfigError, match=r"unknown key 'model\.strenth'; did you mean 'model\.strength'"):
        Config().override(["model.name=mine", "model.strenth=2"])
    with pytest.raises(ConfigError, match=r"model\.name=mime: no such method; did you mean 'mine'"):
        Config().override(["model.name=mime"])


def test_a_configuration_is_written_and_read_back() -> None:
    register_method(Mine)
    import yaml

    config = Config().override(["model.name=mine", "model.strength=9"])
    assert Config.parse(yaml.safe_load(config.to_yaml())) == config


def test_a_taken_name_warns() -> None:
    register_method(Mine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_method(Mine)  # the same again, as when a module is loaded twice

    class Other(Mine):
        pass

    with pytest.warns(UserWarning, match="'mine' is registered again"):
        register_method(Other)
    assert find_method("mine") is Other


def test_a_method_without_a_name_cannot_be_registered() -> None:
    class Nameless(Mine):
        Settings = MethodConfig

    with pytest.raises(ConfigError, match=r"Nameless: .* no name"):
        register_method(Nameless)


def test_another_package_brings_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    bring(monkeypatch, "mine", f"{__name__}:Mine")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Mine.__module__])
    assert find_method("mine") is Mine
    assert "mine" in known_methods()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:Mine", "no_such_module:Mine cannot be loaded"),
        ("json:loads", "json:loads is no subclass"),
        ("nh2st_graph.models:NH2STGraph", "name it 'nh2st_graph'"),
    ],
)
def test_what_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    bring(monkeypatch, "theirs", value)
    with pytest.raises(ConfigError, match=f"'theirs'.*{message}"):
        find_method("theirs")


def test_a_class_of_a_file_in_the_present_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_file.py").write_text(
        "from nh2st_graph.models import Estimator\n"
        "class Mean(Estimator):\n"
        "    def fit(self, sections): self.mean = sections[0].y.mean(0)\n"
        "    def predict(self, section): return self.mean.expand(section.num_nodes, -1)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_file", raising=False)
    config = Config().override(["model.name=my_file:Mean"])
    assert config.model == MethodConfig(name="my_file:Mean")
    assert find_method(config.model.name).__name__ == "Mean"


def test_half_of_saving_is_told_when_it_is_loaded() -> None:
    with pytest.raises(ModelError, match=r"Mine has memory\(\) and no restore\(\); define both"):
        Mine(Settings(), 0).restore({})
