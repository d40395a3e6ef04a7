"""Sections that are positions and nothing else: a graph needs no genes and no image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.typing import ArrayLike

from nh2st_graph.section import Key

MakeSection = Callable[..., AnnData]


@pytest.fixture(scope="session")
def make_section() -> MakeSection:
    """Make a section of spot centres, with array numbers and a scale where they are given."""

    def make(
        centres: ArrayLike, array: ArrayLike | None = None, um_per_px: float | None = None, name: str = "S1"
    ) -> AnnData:
        centres = np.array(centres, dtype=np.float64)
        spots = pd.DataFrame(index=[f"{name}-{i}" for i in range(len(centres))])
        spots[Key.obs.section] = pd.Categorical([name] * len(spots))
        spots[Key.obs.patient] = pd.Categorical([name[:1]] * len(spots))
        if array is not None:
            spots[Key.obs.array_row], spots[Key.obs.array_col] = np.asarray(array).T
        adata = AnnData(obs=spots, obsm={Key.obsm.spatial: centres})
        if um_per_px is not None:
            adata.uns[Key.uns.spatial] = {name: {Key.library.metadata: {Key.library.microns_per_pixel: um_per_px}}}
        return adata

    return make


@pytest.fixture(scope="session")
def square(make_section: MakeSection) -> Callable[..., AnnData]:
    """Make a full square array; array numbers are (row, column)."""

    def make(
        n_rows: int = 6, n_cols: int = 7, pitch: float = 290.0, with_array: bool = True, **more: object
    ) -> AnnData:
        array = np.array([(row, col) for row in range(n_rows) for col in range(n_cols)])
        return make_section(array[:, ::-1] * pitch, array if with_array else None, **more)

    return make


@pytest.fixture(scope="session")
def hexagonal(make_section: MakeSection) -> Callable[..., AnnData]:
    """Make a full hexagonal array in Space Ranger's numbering: columns of odd rows are odd."""

    def make(
        n_rows: int = 8, n_cols: int = 8, pitch: float = 100.0, with_array: bool = True, **more: object
    ) -> AnnData:
        array = np.array([(row, 2 * col + row % 2) for row in range(n_rows) for col in range(n_cols)])
        centres = array[:, ::-1] * [pitch / 2, pitch * np.sqrt(3) / 2]
        return make_section(centres, array if with_array else None, **more)

    return make
