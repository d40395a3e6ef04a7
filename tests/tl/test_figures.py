"""The figures of a run: there, and not blank."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from nh2st_graph import pl
from nh2st_graph.tl import _figures
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


def test_curves_show_where_the_model_stopped(tiny_run):
    curves = pl.fold_curves(tiny_run.model.log).set_index("epoch")
    assert curves["val_loss"].idxmin() == tiny_run.model.selected_epochs
