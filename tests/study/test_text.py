from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nh2st_graph.study import cells
from nh2st_graph.study._text import markdown_table, signed


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.01234, 4, "+0.0123"), (-0.5, 3, "-0.500"), (-1e-6, 4, "+0.0000"), (0.0, 2, "+0.00")],
)
def test_a_sign_stands_before_every_number_but_never_minus_before_zero(value, digits, text):
    assert signed(value, digits) == text


def test_no_text_breaks_a_markdown_table():
    text = pd.DataFrame({"x|y": ["a|b", "c\nd"]}, index=["p|q", "r\ns"])
    assert markdown_table(text) == [r"|  | x\|y |", "| --- | ---: |", r"| p\|q | a\|b |", "| r s | c d |"]


def test_cells_of_a_study():
    row = {"split": "s", "role": "variant", "own": 0.5, "neighbour": np.nan, "noise": -0.0101, "reason": ""}
    for score in ("pcc_mean", "pcc_partial"):
        row |= {score: 0.2, f"{score}_std": 0.0151, f"{score}_difference": 0.012, f"{score}_low": -0.0034}
        row |= {f"{score}_high": 0.02}
    row |= {"variant": "a", "parameters": 12345.0, "seconds": 61.6, "planned": 6, "finished": 6}
    nothing = dict.fromkeys(
        [key for key in row if key.startswith("pcc")] + ["own", "noise", "parameters", "seconds"], np.nan
    )
    failed = {**row, **nothing, "variant": "b", "finished": 0, "reason": "broken"}
    partly, waiting = {**row, "variant": "c", "finished": 4}, {**failed, "variant": "d", "reason": ""}
    reference = {**row, "variant": "e", "role": "reference", "planned": 0}
    text = cells(pd.DataFrame([row, failed, partly, waiting, reference]))
    assert text.loc["a"].to_dict() == {
        "mean r": "0.200 ± 0.015",
        "mean r: difference": "+0.0120 [-0.0034, +0.0200]",
        "mean r given depth": "0.200 ± 0.015",
        "mean r given depth: difference": "+0.0120 [-0.0034, +0.0200]",
        "r of own genes": "0.500",
        "r of neighbour genes": "",
        "r of noise genes": "-0.010",
        "parameters": "12,345",
        "seconds": "62",
        "runs": "6",
    }
    assert text.loc["b", ["mean r", "mean r: difference", "parameters", "runs"]].tolist() == [
        "failed",
        "",
        "",
        "0 of 6",
    ]
    assert text["runs"].tolist() == ["6", "0 of 6", "4 of 6", "0 of 6", ""]
    assert text.loc["d", "mean r"] == ""
    nearly = cells(pd.DataFrame([{**row, "pcc_mean_difference": -1e-6, "pcc_mean_low": -0.00004}]))
    assert nearly.loc["a", "mean r: difference"] == "+0.0000 [+0.0000, +0.0200]"
