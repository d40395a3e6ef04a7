"""Gene panels of published work, from the authors' public repositories."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nh2st_graph._errors import DataError, nearest, setting
from nh2st_graph._files import cache_root

__all__ = ["PUBLISHED_PANELS", "fetch_panel", "is_published"]

_HOST = "https://raw.githubusercontent.com"
_NH2ST = "MCPathology/NH2ST/e385a1c6239b0907eb54484eb8a4baff34f084a1/data"
_HIST2ST = "biomed-AI/Hist2ST/7480e5d1f7712282e6c96d8430684e7830517769/data"


class PublishedPanel(NamedTuple):
    """Path of a panel in its repository, and the SHA-256 of the file."""

    path: str
    digest: str


#: Published panels by name: the six of NH2ST (250 genes each), and those of HisToGene and Hist2ST.
PUBLISHED_PANELS = {
    "nh2st:INT": PublishedPanel(
        f"{_NH2ST}/genes_INT.npy", "5e7e7d4f622a3ade706988640013456c0ee6e9fe209c672c4b4043e106d8fe49"
    ),
    "nh2st:Mouse": PublishedPanel(
        f"{_NH2ST}/genes_Mouse.npy", "6330bc225a9b9f5071d8458e5c34a7ba9c78c372242ea460c95d73576c4d99af"
    ),
    "nh2st:PCW": PublishedPanel(
        f"{_NH2ST}/genes_PCW.npy", "ba24d581b210694f90efcf1b1262290d5ed9fddec3ed838be50dcecca19d9226"
    ),
    "nh2st:ZEN": PublishedPanel(
        f"{_NH2ST}/genes_ZEN.npy", "f6366cd93a182a8795f79a60bb9615b07dacf59ef16d364f1976dc55c4cd3b7e"
    ),
    "nh2st:skin": PublishedPanel(
        f"{_NH2ST}/genes_skin.npy", "9b86d74b2dafa1772f1b31f2726b994f3a1836c9ae7144f0c27f32fbe8522f34"
    ),
    "nh2st:stnet": PublishedPanel(
        f"{_NH2ST}/genes_stnet.npy", "c0f5c20b7c8f692989f29f1e5915850ef0ebef98fd24ec87ca66389d38b6389b"
    ),
    "hist2st:her2st": PublishedPanel(
        f"{_HIST2ST}/her_hvg_cut_1000.npy", "c3492478d462c72796a2f9603302af8e0b34cb884cd55cbd864c193001c9402b"
    ),
    "hist2st:skin": PublishedPanel(
        f"{_HIST2ST}/skin_hvg_cut_1000.npy", "126e6bdc55966c2c0289e0727d4afdd1983ed3e985ca99b02f9bba3bc59765a9"
    ),
}


def is_published(panel: str) -> bool:
    """Whether a panel is named as a published one, rather than a file."""
    return panel.startswith(("nh2st:", "hist2st:"))


def fetch_panel(name: str) -> list[str]:
    """Read a published panel from the cache, or fetch it from its authors' repository.

    Parameters
    ----------
    name
        A name in :data:`PUBLISHED_PANELS`. The lists belong to their authors and are no part of this package.

    Returns
    -------
    The symbols in the order of the file.

    Raises
    ------
    DataError
        If the name is unknown, or the file cannot be fetched or differs from the published one.
    """
    import pooch

    if name not in PUBLISHED_PANELS:
        raise DataError(f"{setting('data.panel', name)}: no such published panel; {nearest(name, PUBLISHED_PANELS)}")
    panel = PUBLISHED_PANELS[name]
    try:
        path = pooch.retrieve(
            f"{_HOST}/{panel.path}",
            f"sha256:{panel.digest}",
            Path(panel.path).name,
            cache_root() / "panels",
            progressbar=False,
        )
    except (OSError, ValueError) as error:  # no network, or a wrong checksum
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{setting('data.panel', name)} cannot be fetched ({reason}); give its genes as a file, one a line"
        ) from None
    return _read_array(Path(path))


def _read_array(path: Path) -> list[str]:
    """Read an array of strings; of an array that was saved as Python objects, load nothing but text."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        holds_objects = read_header(file)[2].hasobject
        if holds_objects:
            return [str(gene) for gene in _ArraysOnly(file).load()]
    return [str(gene) for gene in np.load(path)]


class _ArraysOnly(pickle.Unpickler):
    """Load numpy arrays and refuse everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in {"_reconstruct", "ndarray", "dtype"}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong to an array of text")
