"""The published logarithm, centres and decay: off by default, on where a method is as published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nh2st_graph import Config, ConfigError
from nh2st_graph.config import flatten, load_config, read_yaml, with_arguments
from nh2st_graph.models import find_method, known_methods
from nh2st_graph.section import normalize_counts

CONFIGS = Path(__file__).parents[2] / "configs"
DEFAULTS = {"data.log_base": "e", "features.floor_centres": False, "train.decay_epochs": None}
NH2ST = {"data.log_base": 10, "features.floor_centres": True, "train.decay_epochs": 50, "train.decay_factor": 0.9}


def test_the_defaults_are_those_of_this_package():
    values = flatten(Config().model_dump(mode="json"))
    assert {key: values[key] for key in DEFAULTS} == DEFAULTS


def test_nh2st_is_as_published():
    values = flatten(load_config(CONFIGS / "nh2st.yaml").model_dump(mode="json"))
    assert {key: values[key] for key in NH2ST} == NH2ST


def test_every_method_says_what_a_benchmark_gives_it():
    given = {
        name: flatten(changes or {}) for name, changes in read_yaml(CONFIGS / "benchmarks" / "methods.yaml").items()
    }
    by_method = {changes.get("model.name", "nh2st_graph"): changes for changes in given.values()}
    for name in known_methods():
        published = getattr(find_method(name), "published", {})
        assert {key: by_method[name][key] for key in published} == published, name
        if name != "nh2st_graph":
            assert not (DEFAULTS.keys() & by_method.get(name, {}).keys()) - published.keys(), name
        for key in published:
            assert key in (find_method(name).__doc__ or "").replace("``", ""), (name, key)
    assert {key: given["NH2ST"].get(key, 0.9) for key in NH2ST} == NH2ST
    with_base = {name for name in known_methods() if getattr(find_method(name), "published", {})}
    assert with_base == {"histogene", "hist2st", "hggep", "mclstexp", "triplex"}


def test_each_is_an_argument_of_fit():
    config = with_arguments(Config(), {"log_base": 10, "floor_centres": True, "decay_epochs": 50})
    assert flatten(config.model_dump(mode="json")).items() >= {**NH2ST}.items()


@pytest.mark.parametrize("given", [10, "10", 10.0])
def test_the_base_is_a_number_however_it_is_written(given):
    assert Config().change({"data.log_base": given}).data.log_base == 10
    assert Config.parse(Config().change({"data.log_base": given}).model_dump(mode="json")).data.log_base == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.log_base": 3}, r"data\.log_base = 3; allowed"),
        ({"data.log_base": 10, "data.normalize": "residuals"}, "residuals have no logarithm"),
        ({"data.log_base": 10, "model.regression": "nb"}, r"data\.log_base must be e \(is 10\)"),
        ({"train.decay_epochs": 0}, r"train\.decay_epochs = 0"),
        ({"train.decay_factor": 1.5}, r"train\.decay_factor = 1\.5"),
    ],
)
def test_what_has_no_meaning_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Config().change(changes)


def test_targets_of_base_10():
    counts = np.random.default_rng(0).poisson(2.0, (9, 5)).astype(float)
    total = counts.sum(axis=1)
    expected = np.log10(1 + counts / total[:, None] * 1e4)
    np.testing.assert_allclose(normalize_counts(counts, total, "total", 10), expected, rtol=1e-14)
    np.testing.assert_allclose(normalize_counts(counts, total, "panel", 10), expected, rtol=1e-14)
    ratio = np.square(normalize_counts(counts, total, "total")).sum() / np.square(expected).sum()
    assert ratio == pytest.approx(5.3, abs=0.01)
