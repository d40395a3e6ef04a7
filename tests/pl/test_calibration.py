from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nh2st_graph import pl

LEVELS = pd.Index([0.5, 0.8, 0.9], name="level")
CURVE = pd.DataFrame({"measured": [0.5, 0.8, 0.88], "section 1": [0.4, 0.7, 0.8], "section 2": 0.9}, index=LEVELS)


def lines(ax) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_ydata() for line in ax.lines}


def test_mean_units_and_test_sections_are_lines_over_the_levels():
    ax = pl.calibration(CURVE, pd.DataFrame({"C6": [0.45, 0.7, 0.85]}, index=LEVELS))
    drawn = lines(ax)
    np.testing.assert_array_equal(drawn["mean of held-out parts"], CURVE["measured"])
    np.testing.assert_array_equal(drawn["test section C6"], [0.45, 0.7, 0.85])
    assert len(ax.lines) == 5
    assert all(list(line.get_xdata()) == list(LEVELS) for line in ax.lines[1:])
    assert list(ax.lines[0].get_xdata()) == list(ax.lines[0].get_ydata()) == [0, 1]
    assert [text.get_text() for text in ax.get_legend().texts] == [
        "each held-out part",
        "mean of held-out parts",
        "test section C6",
    ]


def test_there_may_be_no_test_section_and_a_place_to_draw():
    ax = Figure().add_subplot()
    assert pl.calibration(CURVE, ax=ax) is ax
    assert len(ax.lines) == 4
