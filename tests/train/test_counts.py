"""What one run does once: each section is checked, completed and turned into a PyG graph, and its image is opened."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import squidpy as sq
from anndata import AnnData
from matplotlib.figure import Figure
from PIL import Image

from nh2st_graph import gr, im, read, section, slide, tl
from nh2st_graph.gr import _pyg

Calls = list[tuple[Any, ...]]


@pytest.fixture
def count(monkeypatch) -> Callable[[Callable[..., Any]], Calls]:
    """Count the calls of a function, in whichever modules of the package it has a name."""

    def start(function: Callable[..., Any]) -> Calls:
        calls: Calls = []

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            return function(*args, **kwargs)

        modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "nh2st_graph"]
        for module in modules:
            for name in [name for name, value in vars(module).items() if value is function]:
                monkeypatch.setattr(module, name, counted)
        return calls

    return start


@pytest.fixture
def h5ad(tiny_sections, tiny_config, tmp_path) -> list[str]:
    """Changes of a configuration: the sections as files, whose features are in the cache."""
    features = tiny_config.features
    for name, each in tiny_sections.items():
        im.features(each.copy(), features.encoder, features.patch_um, cache=tmp_path / "cache")
        read.write_h5ad(each, tmp_path / "sections" / f"{name}.h5ad")
    return ["data.format=h5ad", f"data.root={tmp_path / 'sections'}", f"features.cache={tmp_path / 'cache'}"]


def names(calls: Calls) -> Counter[str]:
    return Counter(section.section_name(each) for args in calls for each in args if isinstance(each, AnnData))


def test_a_run_does_once_what_it_does_with_a_section(h5ad, tiny_config, tmp_path, count, monkeypatch):
    config, sections = tiny_config.override([*h5ad, "train.max_epochs=1"]), ["S1", "S2", "S3"]
    opened, checked, encoded = count(slide.open_slide), count(section.check_section), []
    tl.load_sections(config)
    assert names(checked) == dict.fromkeys(sections, 1), "by the reader"
    checked.clear()
    assert opened == [], "the copy that figures show is in the file"

    converted = [count(gr.to_pyg), count(_pyg.as_data)]
    connect, encode, connected = sq.gr.spatial_neighbors_grid, im.SquidpyEncoder.encode, []
    monkeypatch.setattr(
        sq.gr, "spatial_neighbors_grid", lambda *args, **options: (connected.append(args), connect(*args, **options))[1]
    )
    monkeypatch.setattr(
        im.SquidpyEncoder, "encode", lambda self, patches: (encoded.append(len(patches)), encode(self, patches))[1]
    )
    # To put a figure on a page takes as long as all the rest, and reads nothing more.
    monkeypatch.setattr(Figure, "savefig", lambda self, to, **how: Image.new("RGB", (9, 9)).save(to, "png"))
    tl.train_run(config, tmp_path / "run")
    assert list((tmp_path / "run" / "figures").iterdir())
    assert names(checked) == dict.fromkeys(sections, 1), "by the reader alone"
    assert names(connected) == dict.fromkeys(sections, 1)
    assert sum(map(names, converted), Counter()) == dict.fromkeys(sections, 1)
    assert Counter(Path(path).stem for path, *_ in opened) == dict.fromkeys(sections, 1)
    assert set(encoded) <= {1}, "one patch of nothing tells how many features there are"


def test_an_image_is_opened_once_for_figures_and_once_for_features(her2st_crops, tiny_config, tmp_path, count):
    """Without a small copy beside the sections, the reader makes it from the full-resolution image."""
    places = ["data.format=her2st", f"data.root={her2st_crops}", "data.train=[C3, C4]", "data.test=[C5]"]
    short = ["data.panel=hvg:5", "train.max_epochs=1", "train.refit=false", "evaluate.baselines=false"]
    config = tiny_config.override([*places, *short])
    opened, checked = count(slide.open_slide), count(section.check_section)
    converted = count(_pyg.as_data)
    tl.train_run(config.override([f"features.cache={tmp_path}", "evaluate.figures=false"]), tmp_path / "run")
    assert names(checked) == names(converted) == dict.fromkeys(["C3", "C4", "C5"], 1)
    assert sorted(Counter(Path(path) for path, *_ in opened).values()) == [2, 2, 2]
