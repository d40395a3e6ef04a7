"""Small sections whose image the tests know exactly."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.typing import NDArray
from PIL import Image

from nh2st_graph.im import Recipe, _recipes, register_recipe
from nh2st_graph.section import Key

MakeSection = Callable[..., AnnData]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the cache of whoever runs the tests out of them."""
    monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def own_recipes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Recipe]:
    """Let a test register recipes, which go with it."""
    monkeypatch.setattr(_recipes, "_OWN", {})
    return register_recipe


def render(um_per_px: float, width_um: float = 600, height_um: float = 480) -> NDArray[np.uint8]:
    """Waves of 70 to 190 um, the same on the tissue at any scale."""
    x = (np.arange(round(width_um / um_per_px)) + 0.5) * um_per_px
    y = (np.arange(round(height_um / um_per_px)) + 0.5)[:, None] * um_per_px
    waves = [np.sin(x / 11 + y / 30), np.cos(y / 13 - x / 40), np.sin((x + y) / 17)]
    return np.stack([np.rint(128 + 100 * w + 0 * x).astype(np.uint8) for w in waves], axis=-1)


def _encoded(image: NDArray[np.uint8]) -> bytes:
    """As PNG. To pack an image well takes longer than all the rest."""
    with io.BytesIO() as file:
        Image.fromarray(image).save(file, "PNG", compress_level=1)
        return file.getvalue()


@cache
def _rendered(um_per_px: float) -> bytes:
    return _encoded(render(um_per_px))


@pytest.fixture
def make_section(tmp_path: Path) -> MakeSection:
    """Write an image and make a section of it; spot positions are given in um."""

    def make(
        um_per_px: float = 1.0,
        centres_um: NDArray[np.float64] | None = None,
        image: NDArray[np.uint8] | None = None,
        name: str = "S1",
    ) -> AnnData:
        if centres_um is None:
            centres_um = np.array([[x, y] for y in (100.0, 240.0, 400.0) for x in (90.0, 310.0, 520.0)])
        path = tmp_path / f"{name}_{um_per_px}.png"
        path.write_bytes(_rendered(um_per_px) if image is None else _encoded(image))
        spots = pd.DataFrame(index=[f"{name}-{i}" for i in range(len(centres_um))])
        spots[Key.obs.section] = pd.Categorical([name] * len(spots))
        spots[Key.obs.patient] = pd.Categorical([name[:1]] * len(spots))
        adata = AnnData(obs=spots)
        adata.obsm[Key.obsm.spatial] = centres_um / um_per_px
        metadata = {Key.library.source_image: str(path), Key.library.microns_per_pixel: um_per_px}
        adata.uns[Key.uns.spatial] = {name: {Key.library.metadata: metadata}}
        return adata

    return make
