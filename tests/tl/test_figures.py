"""The figures of a run: there, and not blank."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from nh2st_graph.tl import _figures, fold_curves
from nh2st_graph.tl._figures import write_figures

NAMES = {"maps_S3.png", "pcc_histogram.png", "scores.png", "training.png"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_run_has_figures_with_something_on_them(tiny_run, name):
    with Image.open(tiny_run.folder / "figures" / name) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
        small = picture.convert("L").reduce(4)
    assert 0.02 < (np.asarray(small) < 250).mean() < 0.98, "neither paper alone nor ink"
    assert len(small.getcolors()) > 50, "shades"


def test_there_are_no_others_and_none_stays_open(tiny_run):
    assert {path.name for path in (tiny_run.folder / "figures").iterdir()} == NAMES
    assert not plt.get_fignums()


def test_a_model_without_a_log_has_no_training_curve(tiny_run, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(_figures.pl, "save", lambda figure, path: (drawn.append(path.name), plt.close("all"))[0])
    write_figures(replace(tiny_run.model, log=pd.DataFrame()), tiny_run.evaluation, tmp_path / "figures")
    assert set(drawn) == NAMES - {"training.png"}


def test_curves_are_the_folds_mean_as_far_as_all_of_them_went():
    log = pd.DataFrame(
        {
            "stage": ["fold1:A"] * 3 + ["fold2:B"] * 2 + ["all"] * 4,
            "epoch": [1, 2, 3, 1, 2, 1, 2, 3, 4],
            "val_loss": [4.0, 2.0, 1.0, 6.0, 3.0] + [np.nan] * 4,
            "train_loss": [1.0, 1.0, 1.0, 3.0, 5.0, 9.0, 9.0, 9.0, 9.0],
        }
    )
    curves = fold_curves(log)
    assert list(curves["epoch"]) == [1, 2]
    assert list(curves["val_loss"]) == [5.0, 2.5]
    assert list(curves["train_loss"]) == [2.0, 3.0]


def test_curves_show_where_the_model_stopped(tiny_run):
    curves = fold_curves(tiny_run.model.log).set_index("epoch")
    assert curves["val_loss"].idxmin() == tiny_run.model.selected_epochs
