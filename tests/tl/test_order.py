"""What comes first, data or model, and what is taken for a model."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest

from nh2st_graph import ModelError, RenamedWarning, tl


@pytest.mark.parametrize("function", [tl.predict, tl.embed, tl.explain, tl.embed_profiles, tl.slide_section])
def test_the_path_of_a_model_is_none(function):
    message = re.escape(f"ng.tl.{function.__name__}: str is no fitted model; make one by ng.tl.fit, or load one by")
    with pytest.raises(ModelError, match=message):
        function(None, "runs/c6")


@pytest.mark.parametrize(
    "function", [tl.predict, tl.embed, tl.explain, tl.embed_profiles, tl.slide_section, tl.adapt, tl.evaluate]
)
def test_the_model_may_come_first_with_a_warning(function):
    model = object.__new__(tl.FittedModel)
    message = rf"ng\.tl\.{function.__name__} takes the data first and then the model; .* until version 0\.2"
    with pytest.warns(RenamedWarning, match=message) as found, suppress(Exception):
        function(model, None, **({"train_sections": {}} if function is tl.evaluate else {}))  # there is no data
    assert found[0].filename == __file__


def test_neither_is_that_of_functions_with_more_arguments():
    with pytest.raises(ModelError, match=r"ng\.tl\.evaluate: str is no fitted model"):
        tl.evaluate({}, "runs/c6", {})
    with pytest.raises(ModelError, match=r"ng\.tl\.impute: str is no fitted model"):
        tl.impute(None, "runs/c6", measured=[])
    with pytest.raises(ModelError, match=r"ng\.tl\.adapt: str is no fitted model"):
        tl.adapt({}, "runs/c6")
