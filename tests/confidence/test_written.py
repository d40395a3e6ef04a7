"""What is read beside a prediction; calls are tested where predictions are made."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st_graph.confidence import best_reliable, reliable_in, unfamiliar_spots


def judged() -> AnnData:
    var = pd.DataFrame(
        {"reliable": [True, False, True, True], "held_out_pcc_partial": [0.2, 0.9, 0.5, np.nan]}, index=list("ABCD")
    )
    obs = pd.DataFrame({"familiarity": [0.0, 0.009, 0.5]}, index=list("xyz"))
    return AnnData(np.zeros((3, 4), np.float32), obs=obs, var=var)


def test_the_best_genes_are_reliable_ones_by_r_given_depth():
    assert best_reliable(judged().var, 2) == ["C", "A"]
    assert best_reliable(judged().var, 1) == ["C"]
    assert reliable_in(judged()) == ["A", "C", "D"]


def test_spots_below_one_in_a_hundred_are_unlike_training():
    assert list(unfamiliar_spots(judged())) == [True, True, False]


def test_a_model_of_before_says_none_of_it():
    plain = AnnData(np.zeros((3, 4), np.float32))
    assert best_reliable(plain.var, 2) == []
    assert reliable_in(plain) is None
    assert not unfamiliar_spots(plain).any()
