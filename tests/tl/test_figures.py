"""The figures of a run: there, and not blank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from nh2st_graph import pl
from nh2st_graph.tl import LABELS
from nh2st_graph.tl._figures import write_figures

NAMES = {"maps_S3.png", "pcc_histogram.png", "scores.png", "training.png"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_run_has_figures_with_something_on_them(tiny_run, name):
    with Image.open(tiny_run.folder / "figures" / name) as image:
        assert image.format == "PNG"
        assert min(image.size) > 150
        small = image.convert("L").reduce(2)
    assert 0.02 < (np.asarray(small) < 250).mean() < 0.98, "neither paper alone nor ink"
    assert len(small.getcolors()) > 50, "shades"


def test_there_are_no_others(tiny_run):
    assert {path.name for path in (tiny_run.folder / "figures").iterdir()} == NAMES


@pytest.mark.parametrize(("method", "label"), [("nh2st_graph", "NH2ST-Graph"), ("mine:Mine", "mine:Mine")])
def test_the_model_is_called_by_its_method(tiny_run, tmp_path, monkeypatch, method, label):
    """And if it has no log, it has no training curve."""
    evaluation, words = tiny_run.evaluation, {}

    def read(figure: Figure, path: Path) -> Path:
        words[path.name] = [text.get_text() for text in figure.findobj(Text)]
        plt.close(figure)
        return path

    monkeypatch.setattr(pl, "save", read)
    protocol = evaluation.metrics["protocol"] | {"method": method}
    other = replace(evaluation, metrics=evaluation.metrics | {"protocol": protocol})
    ours = method == "nh2st_graph"
    write_figures(tiny_run.model if ours else replace(tiny_run.model, log=pd.DataFrame()), other, tmp_path)
    assert set(words) == (NAMES if ours else NAMES - {"training.png"})
    r = evaluation.per_gene["pcc"].mean()
    assert f"{label} (mean {r:.3f})" in words["pcc_histogram.png"]
    assert {label, LABELS["ridge"], LABELS["depth_oracle"]} <= set(words["scores.png"])
    assert LABELS["noise_ceiling"] not in words["scores.png"]
    if not ours:
        assert not any("NH2ST" in word for each in words.values() for word in each)


def test_curves_show_where_the_model_stopped(tiny_run):
    curves = pl.fold_curves(tiny_run.model.log).set_index("epoch")
    assert curves["val_loss"].idxmin() == tiny_run.model.selected_epochs
