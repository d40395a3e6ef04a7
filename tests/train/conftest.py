"""What the tests of training share."""

from __future__ import annotations

import pytest
from anndata import AnnData

from nh2st_graph.config import Config


@pytest.fixture(scope="session")
def quick_config(tiny_config: Config) -> Config:
    """``tiny_config`` for a ridge that has nothing to choose, a penalty or genes, and no baselines beside it."""
    ridge = {"name": "ridge", "alphas": [10.0]}
    return tiny_config.change({"model": ridge, "data.panel": "hvg:15", "evaluate.baselines": False})


@pytest.fixture(scope="session")
def few_spots(tiny_sections: dict[str, AnnData]) -> dict[str, AnnData]:
    """The first 24 spots of each section. They are shared: copy what you change."""
    return {name: section[:24].copy() for name, section in tiny_sections.items()}
