from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nh2st_graph.study._text import markdown_table, number, runs_cell, signed, with_spread


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.01234, 4, "+0.0123"), (-0.5, 3, "-0.500"), (-1e-6, 4, "+0.0000"), (0.0, 2, "+0.00")],
)
def test_a_sign_stands_before_every_number_but_never_minus_before_zero(value, digits, text):
    assert signed(value, digits) == text


def test_what_is_unknown_is_left_out():
    assert number(np.nan, ".3f") == ""
    assert number(1234.5, ",.0f") == "1,234"
    assert with_spread(0.2, 0.01) == "0.200 ± 0.010"
    assert with_spread(0.2, np.nan) == "0.200"
    assert with_spread(np.nan, np.nan) == ""


def test_runs_are_counted_of_those_planned_where_some_are_missing():
    rows = [{"role": "method", "finished": 3, "planned": 3}, {"role": "method", "finished": 1, "planned": 3}]
    assert [runs_cell(pd.Series(row)) for row in [*rows, {"role": "reference"}]] == ["3", "1 of 3", ""]


def test_no_text_breaks_a_markdown_table():
    text = pd.DataFrame({"x|y": ["a|b", "c\nd"]}, index=["p|q", "r\ns"])
    assert markdown_table(text) == [r"|  | x\|y |", "| --- | ---: |", r"| p\|q | a\|b |", "| r s | c d |"]
