"""Synthetic sections, made once for all tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest
from anndata import AnnData

from nh2st_graph.datasets import synthetic_tissue


@pytest.fixture(scope="session")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, AnnData]:
    """The demo's data: four sections of about 240 spots and 50 genes."""
    return synthetic_tissue(4, seed=0, folder=tmp_path_factory.mktemp("tissue"))


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("small")


@pytest.fixture(scope="session")
def small(small_folder: Path) -> AnnData:
    """One section of 6 x 7 spots at a coarse scale."""
    return synthetic_tissue(1, seed=5, folder=small_folder, n_rows=6, n_cols=7, microns_per_pixel=4.0)["S1"]
