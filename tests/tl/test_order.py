"""What comes first, data or model, and what is taken for a model."""

from __future__ import annotations

import re

import pytest

from nh2st_graph import ModelError, tl


@pytest.mark.parametrize("function", [tl.predict, tl.embed, tl.explain, tl.embed_profiles, tl.slide_section])
def test_the_path_of_a_model_is_none(function):
    message = re.escape(f"ng.tl.{function.__name__}: str is no fitted model; make one by ng.tl.fit, or load one by")
    with pytest.raises(ModelError, match=message):
        function(None, "runs/c6")


def test_neither_is_that_of_functions_with_more_arguments():
    with pytest.raises(ModelError, match=r"ng\.tl\.evaluate: str is no fitted model"):
        tl.evaluate({}, "runs/c6", {})
    with pytest.raises(ModelError, match=r"ng\.tl\.impute: str is no fitted model"):
        tl.impute(None, "runs/c6", measured=[])
    with pytest.raises(ModelError, match=r"ng\.tl\.adapt: str is no fitted model"):
        tl.adapt("runs/c6", {})
