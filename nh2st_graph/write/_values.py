"""What a prediction holds that a file can take."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from nh2st_graph._errors import DataError, listed, nearest, setting
from nh2st_graph.section import Key, Library, library, section_name, target_in_words

__all__ = ["best_gene", "chosen", "dense", "drawn_library", "measured_columns", "unit", "with_values"]

logger = logging.getLogger("nh2st_graph")

#: Columns of ``obs`` that say where a spot is, and nothing of its tissue.
_PLACES = {Key.obs.array_row, Key.obs.array_col, Key.obs.in_tissue}


def chosen(prediction: AnnData, genes: str | Sequence[str] | None) -> AnnData:
    """Take some genes of a prediction; None takes all.

    Raises
    ------
    DataError
        If a gene is not in the prediction, or none is named.
    """
    if genes is None:
        return prediction
    wanted = [genes] if isinstance(genes, str) else list(genes)
    where = f"section {section_name(prediction)!r}"
    if not wanted:
        raise DataError(f"{where}: {setting('genes')} is empty; name genes to write, or leave it out")
    for gene in wanted:
        if gene not in prediction.var_names:
            raise DataError(f"{where}: gene {gene!r} is not in the prediction; {nearest(gene, prediction.var_names)}")
    return prediction[:, wanted]


def with_values(prediction: AnnData, genes: str | Sequence[str] | None, what: str) -> AnnData:
    """Take some genes that have a value in every spot, and name those that are left out.

    Parameters
    ----------
    prediction
        The prediction.
    genes
        The genes; None takes all.
    what
        What cannot hold NaN, for the message.

    Raises
    ------
    DataError
        If a gene is not in the prediction, or none has values.
    """
    some, where = chosen(prediction, genes), f"section {section_name(prediction)!r}"
    there = np.isfinite(dense(some)).all(axis=0)
    if not there.any():
        raise DataError(f"{where}: no gene has a value in every spot, and {what} cannot hold NaN; predict other genes")
    if not there.all():
        missing = list(some.var_names[~there])
        logger.warning(
            "%s: %d genes are not predicted (NaN) and are left out, since %s cannot hold NaN: %s",
            where,
            len(missing),
            what,
            listed(missing),
        )
    return some if there.all() else some[:, there]


def dense(prediction: AnnData, layer: str | None = None) -> NDArray[np.float32]:
    """Give predicted values or a layer, ``(n_spots, n_genes)``."""
    values = prediction.X if layer is None else prediction.layers[layer]
    return np.asarray(values.toarray() if sparse.issparse(values) else values, dtype=np.float32)


def measured_columns(prediction: AnnData) -> list[str]:
    """List the columns of ``obs`` that hold numbers, other than positions."""
    return [
        str(name)
        for name, column in prediction.obs.items()
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column) and name not in _PLACES
    ]


def best_gene(prediction: AnnData) -> str | None:
    """Name the reliable gene with the highest r given depth in held-out tissue; None if none is known to be."""
    var = prediction.var
    if Key.var.reliable not in var or Key.var.held_out_partial not in var:
        return None
    reliable = var.loc[var[Key.var.reliable].astype(bool), Key.var.held_out_partial].dropna()
    return str(reliable.idxmax()) if len(reliable) else None


def drawn_library(prediction: AnnData) -> tuple[Library, float]:
    """Give what is known of a section's image, and the diameter of its spots in full-resolution pixels.

    Raises
    ------
    DataError
        If the diameter is not known.
    """
    found = library(prediction)
    if found.spot_diameter is None:
        raise DataError(
            f"section {section_name(prediction)!r}: the scale factors have no '{Key.library.spot_diameter}'; write the "
            "diameter of a spot in full-resolution pixels there"
        )
    return found, found.spot_diameter


def unit(prediction: AnnData) -> str:
    """Say in words what a predicted value is."""
    about = prediction.uns.get(Key.uns.prediction, {})
    if "normalize" not in about:
        return "log expression"
    return target_in_words(str(about["normalize"]), "e" if str(about.get("log_base", "e")) == "e" else 10)
