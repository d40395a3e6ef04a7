"""Visium HD from Space Ranger's files to a prediction, with values that stay in their files and as tensors."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from nh2st_graph import read, tl
from nh2st_graph.config import Config
from nh2st_graph.datasets import synthetic_hd

LARGE = "nh2st_graph.train._prepare.LARGE", "nh2st_graph.train._complete.LARGE"
MAPPED = "nh2st_graph.im._cache.MAPPED_BYTES", "nh2st_graph.im._features.MAPPED_BYTES"


def predicted(sections: dict[str, AnnData], config: Config) -> AnnData:
    model = tl.fit({"H1": sections["H1"]}, config)
    return tl.predict(sections["H2"], model)


def test_a_section_learns_the_same_wherever_its_values_are(tmp_path, monkeypatch):
    synthetic_hd(400, tmp_path / "hd", n_sections=2, n_own=30, n_noise=10)
    config = Config.parse(
        {
            "data": {"panel": "hvg:12"},
            "features": {
                "encoder": "squidpy:summary",
                "patch_um": 48,
                "cache": str(tmp_path / "cache"),
                "check_placement": False,
            },
            "model": {"width": 8, "n_components": 4, "heads": 2},
            "train": {
                "max_epochs": 1,
                "folds": 2,
                "refit": False,
                "batch_spots": 64,
                "device": "cpu",
                "progress": False,
            },
        }
    )
    sections = read.sections("visium_hd", tmp_path / "hd", bin_um=8)
    expected = predicted(sections, config)
    for name in sections:
        read.write_h5ad(sections[name], tmp_path / "h5ad" / f"{name}.h5ad")
    for place in (*LARGE, *MAPPED):
        monkeypatch.setattr(place, 1)
    found = predicted(read.sections("h5ad", tmp_path / "h5ad", backed=True), config)
    assert list(found.var_names) == list(expected.var_names)
    np.testing.assert_allclose(found.X, expected.X, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.layers["observed"], expected.layers["observed"], rtol=1e-6)
    assert found.X.std() == pytest.approx(expected.X.std(), rel=1e-4)
