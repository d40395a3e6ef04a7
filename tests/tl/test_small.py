"""One gene, and a section in which nothing was counted: each method trains, and predicts numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from nh2st_graph import tl
from nh2st_graph.config import Config
from nh2st_graph.models import known_methods

from ..prepared import complete_section

_TRANSFORMER = {"depth": 1, "heads": 2, "head_width": 4}
#: What makes a method small, and the pixels that it reads, if it does.
SMALL: dict[str, tuple[dict[str, Any], str | None]] = {
    "eggn": ({"width": 8, "width_gate": 4, "depth": 1}, None),
    "egn": ({"input": "features", "tokens": 1, "width": 8, "hidden": 8, "bridge_width": 4, **_TRANSFORMER}, None),
    "hggep": (
        {
            "channels": [4] * 5,
            "blocks": [1, 1, 1],
            "width": 8,
            "hidden": 8,
            "n_views": 1,
            "jumping_layers": 1,
            **_TRANSFORMER,
        },
        "pixels:32",
    ),
    "hist2st": (
        {"channels": 8, "depth_transformer": 1, "depth_graph": 1, "heads": 2, "head_width": 4, "n_views": 1},
        "pixels:28",
    ),
    "histogene": ({"width": 8, **_TRANSFORMER}, "pixels:8"),
    "mclstexp": ({"n_positions": 64, "bank_spots": 8}, None),
    "nh2st_graph": ({"width": 8, "n_components": 3, "heads": 2}, None),
    "random_forest": ({"trees": 2}, None),
    "stgchb": ({"sigma": None}, None),
    "triplex": ({"target_tokens": 1, "width": 8, "depth_global": 1, "depth_neighbours": 1}, None),
}


@pytest.fixture(scope="module")
def sections(tiny_sections, tiny_config) -> dict[str, AnnData]:
    """A dozen spots of each, with the features that most methods read."""
    return {name: complete_section(tiny_sections[name][:12].copy(), tiny_config) for name in ("S1", "S2", "S3")}


@pytest.fixture(params=known_methods())
def config(request, tiny_config) -> Config:
    """Each method of the registry, small, for one epoch."""
    model, encoder = SMALL.get(request.param, ({}, None))
    changes = {
        "model": {"name": request.param, **model},
        "features": {"encoder": encoder or "squidpy:summary", "patch_um": 112},
        "train": {"max_epochs": 1, "folds": 2, "refit": False, "device": "cpu", "progress": False},
        "data": {"panel": tiny_config.data.panel},
    }
    return Config.parse(changes)


def without_counts(section: AnnData) -> AnnData:
    """The section with zeros."""
    empty = section.copy()
    empty.X = sparse.csr_matrix(section.shape, dtype=np.float32)
    return empty


@pytest.mark.parametrize("what", ["one gene", "no counts in one section"])
def test_it_trains_and_predicts_numbers(sections, config, what, tmp_path):
    train = {name: sections[name] for name in ("S1", "S2")}
    if what != "one gene":
        train["S2"] = without_counts(train["S2"])
    genes = list(sections["S1"].var_names[: 1 if what == "one gene" else 3])
    panel = tmp_path / "panel.txt"
    panel.write_text("\n".join(genes))
    predicted = tl.predict(sections["S3"], tl.fit(train, config, panel=str(panel)), intervals=False)
    assert predicted.shape == (12, len(genes))
    assert np.isfinite(predicted.X).all()
