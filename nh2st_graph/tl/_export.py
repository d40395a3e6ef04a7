"""Write the files of a prediction."""

from __future__ import annotations

from pathlib import Path

from anndata import AnnData

from nh2st_graph import read, write
from nh2st_graph.confidence import best_reliable
from nh2st_graph.section import Key

__all__ = ["write_output"]


def write_output(kind: str, prediction: AnnData, path: Path) -> None:
    """Write one file of a prediction, of any kind but the page; see :class:`Outputs`."""
    if kind == "h5ad":
        read.write_h5ad(prediction, path)
    elif kind == "spatialdata":
        read.write_spatialdata(prediction, path, image="hires")
    elif kind == "qupath":
        write.write_qupath(prediction, path)
    elif kind == "seurat":
        write.write_seurat(prediction, path)
    elif kind == "loupe":
        # A model of an earlier version may say nothing of spots; the name of the section is a class too.
        known = {Key.obs.familiarity, Key.obs.annotation} & {*prediction.obs} or best_reliable(prediction.var, 1)
        write.write_loupe(prediction, path, class_by=None if known else Key.obs.section)
    else:
        write.write_csv(prediction, path)
