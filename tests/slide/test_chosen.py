from __future__ import annotations

import logging

import pytest

from nh2st_graph import ConfigError, DataError
from nh2st_graph.slide import chosen_scale


@pytest.mark.parametrize(("found", "given"), [(0.69, None), (0.69, 0.69), (0.69, 0.7), (None, 0.5), ("no number", 0.5)])
def test_the_given_value_or_that_of_the_file(found, given, caplog):
    assert chosen_scale("slide", found, given) == (found if given is None else given)
    assert not caplog.records


def test_a_correction_is_taken_and_said(caplog):
    with caplog.at_level(logging.WARNING):
        assert chosen_scale("slide", 0.69, 0.5) == 0.5
    assert "0.69" in caplog.text
    assert "0.5" in caplog.text


@pytest.mark.parametrize(("found", "given"), [(0.69, 10.0), (0.25, 1.0), (0.5, 0.1), (10.0, 0.69)])
def test_a_slip_is_refused_and_says_what_the_file_does(found, given):
    with pytest.raises(ConfigError) as error:
        chosen_scale("slide s.tif", found, given)
    assert f"{found:.4g} um per pixel" in str(error.value)
    assert f"microns_per_pixel={given}" in str(error.value)


@pytest.mark.parametrize("given", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_resolution_is_refused(given):
    with pytest.raises(ConfigError, match="above 0"):
        chosen_scale("slide", 0.5, given)


def test_no_value_at_all():
    with pytest.raises(DataError, match="microns_per_pixel"):
        chosen_scale("slide", None, None)
