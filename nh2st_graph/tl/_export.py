"""Write the files of a prediction, with what can be said of spots in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st_graph import read, write
from nh2st_graph.section import Key
from nh2st_graph.tl._believe import call
from nh2st_graph.tl._found import best_reliable

__all__ = ["write_output"]

#: Most reliable genes whose calls are written as categories.
_CALLED = 12
#: Column of what familiarity says in words.
_FAMILIAR, _LIKE, _UNLIKE = "familiarity to the model", "like training", "unlike training"


def write_output(kind: str, prediction: AnnData, path: Path) -> None:
    """Write one file of a prediction, of any kind but the page; see :class:`Outputs`."""
    if kind == "h5ad":
        read.write_h5ad(prediction, path)
    elif kind == "spatialdata":
        read.write_spatialdata(prediction, path, image="hires")
    elif kind == "qupath":
        _write_qupath(prediction, path)
    elif kind == "seurat":
        write.write_seurat(prediction, path)
    elif kind == "loupe":
        _write_loupe(prediction, path)
    else:
        write.write_csv(prediction, path)


def _write_qupath(prediction: AnnData, path: Path) -> None:
    """Colour detections by the best reliable gene, and class them by annotation, calls of this gene, or familiarity."""
    best = best_reliable(prediction.var, 1) if Key.var.reliable in prediction.var else []
    if Key.obs.annotation in prediction.obs:
        return write.write_qupath(prediction, path)
    words = call(prediction, best[0]).map(lambda word: f"{best[0]} {word}") if best else _familiar(prediction)
    if words is None:
        return write.write_qupath(prediction, path)
    column = f"class of {best[0]}" if best else _FAMILIAR
    colour = best[0] if best else Key.obs.familiarity
    return write.write_qupath(_with_obs(prediction, {column: words}), path, color_by=colour, class_by=column)


def _write_loupe(prediction: AnnData, path: Path) -> None:
    """Write annotations, familiarity in words, and the calls of the best reliable genes."""
    genes = best_reliable(prediction.var, _CALLED) if Key.var.reliable in prediction.var else []
    columns = {gene: call(prediction, gene) for gene in genes}
    familiar = _familiar(prediction)
    columns = ({} if familiar is None else {_FAMILIAR: familiar}) | columns
    first = [Key.obs.annotation] if Key.obs.annotation in prediction.obs else []
    # A model of an earlier version says neither; the name of the section is a category too.
    names = [*first, *columns] or [Key.obs.section]
    write.write_loupe(_with_obs(prediction, columns), path, names)


def _familiar(prediction: AnnData) -> pd.Series | None:
    """Say of each spot in words how familiar it is; None where that is not known."""
    from nh2st_graph.pl import unfamiliar_spots

    if Key.obs.familiarity not in prediction.obs:
        return None
    words = np.where(unfamiliar_spots(prediction), _UNLIKE, _LIKE)
    return pd.Series(pd.Categorical(words, [_LIKE, _UNLIKE]), prediction.obs_names)


def _with_obs(prediction: AnnData, columns: Mapping[str, pd.Series]) -> AnnData:
    """Give a prediction with more columns in ``obs``, without a copy of its values."""
    shown = AnnData(
        prediction.X,
        obs=prediction.obs.assign(**columns),
        var=prediction.var,
        layers=dict(prediction.layers),
        obsm=dict(prediction.obsm),
    )
    shown.uns = dict(prediction.uns)
    return shown
