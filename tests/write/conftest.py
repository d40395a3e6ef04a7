"""A prediction to write."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData


@pytest.fixture
def prediction(tiny_run) -> AnnData:
    """A prediction with intervals, whose last gene is not predicted, and whose first is the only reliable one."""
    found: AnnData = tiny_run.evaluation.predictions["S3"].copy()
    found.X[:, -1] = np.nan
    found.layers["lower"][:, -1] = found.layers["upper"][:, -1] = np.nan
    entry = found.uns["spatial"]["S3"]
    entry["images"]["hires"] = entry["images"]["hires"][::4, ::4]  # to pack images takes longer than all the rest
    entry["scalefactors"]["tissue_hires_scalef"] /= 4
    found.var["reliable"] = np.arange(found.n_vars) == 0
    return found
