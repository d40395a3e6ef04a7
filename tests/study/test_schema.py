from __future__ import annotations

import pytest
from nh2st_graph.study._schema import FoldEntry, checked

from nh2st_graph import ConfigError
from nh2st_graph.study import StudyFile


def test_only_the_base_is_required():
    file = checked(StudyFile, {"base": "demo"}, "study")
    assert (file.base_name, file.seeds, file.folds, file.variants, file.grid) == ("base", (0,), {}, {}, {})


def test_folds_of_a_list_are_named_by_what_they_test():
    folds = [{"train": ["S1"], "test": ["S2"]}, {"train": ["S2"], "test": ["S1", 3]}]
    assert checked(StudyFile, {"base": "demo", "folds": folds}, "study").folds == {"S2": folds[0], "S1+3": folds[1]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"key 'base' is missing"),
        ({"base": "demo", "varients": {}}, r"unknown key 'varients'; did you mean 'variants'"),
        ({"base": "demo", "base_nam": "x"}, r"unknown key 'base_nam'; did you mean 'base_name'"),
        ({"base": "demo", "seeds": 3}, r"seeds = 3; expected a list"),
        ({"base": "demo", "seeds": [-1]}, r"seeds\.0 = -1; allowed: greater than or equal to 0"),
        ({"base": "demo", "seeds": []}, r"seeds = \[\]; expected one or more, each once"),
        ({"base": "demo", "seeds": [1, 2, 1]}, r"seeds = \[1, 2, 1\]; expected one or more, each once"),
        ({"base": "demo", "set": "model.width=32"}, r"set = 'model\.width=32'; expected keys and values, or a list"),
        ({"base": "demo", "variants": {"a": {}}, "grid": {"model.hops": [1]}}, r"variants and grid are both given"),
        ({"base": "demo", "variants": {"a": 3}}, r"variants\.a = 3; expected keys and values"),
        ({"base": "demo", "grid": {"model.hops": []}}, r"grid\.model\.hops = \[\]; give at least one value"),
        ({"base": "demo", "folds": [{"test": ["S1"]}] * 2}, r"folds: two of the list test the same sections"),
        (["demo"], r"expected keys and values, found \['demo'\]"),
    ],
)
def test_errors_name_the_key_and_what_is_allowed(values, message):
    with pytest.raises(ConfigError, match=rf"^my study: {message}"):
        checked(StudyFile, values, "my study")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": ["S1"]}, r"test names no section"),
        ({"train": "S1", "test": ["S2"]}, r"train = 'S1'; expected a list"),
        ({"tset": ["S2"]}, r"unknown key 'tset'; did you mean 'test'"),
    ],
)
def test_errors_of_folds(values, message):
    with pytest.raises(ConfigError, match=rf"^folds\.a: {message}"):
        checked(FoldEntry, values, "folds.a")
