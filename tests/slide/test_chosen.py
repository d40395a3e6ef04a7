from __future__ import annotations

import logging

import pytest

from nh2st_graph import ConfigError, DataError
from nh2st_graph.slide import check_size, chosen_scale, report_size


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


@pytest.mark.parametrize("given", [0.0, -1.0, float("nan"), float("inf"), "0.5", True])
def test_what_is_no_resolution_is_refused(given):
    with pytest.raises(ConfigError, match="above 0"):
        chosen_scale("slide", 0.5, given)


def test_no_value_at_all():
    with pytest.raises(DataError, match="microns_per_pixel"):
        chosen_scale("slide", None, None)


@pytest.mark.parametrize(
    ("size", "um", "says"),
    [
        ((40_000, 30_000), 0.01, "0.4 by 0.3 mm at 0.01 um"),
        ((40_000, 30_000), 2.5, "100 by 75 mm"),
        ((99, 9), 12, "12 um"),
    ],
)
def test_what_is_unusual_is_told_by_the_size_of_the_slide(size, um, says, caplog):
    report_size("slide s.tif", size, um)
    assert says in caplog.text


def test_no_glass_is_that_long(caplog):
    report_size("slide s.tif", (200_000, 100_000), 0.25)
    assert not caplog.records
    for check in (check_size, report_size):
        with pytest.raises(ConfigError, match=r"s\.tif: 40000 x 30000 px are 800 by 600 mm .*; give another micr"):
            check("slide s.tif", (40_000, 30_000), 20.0)
