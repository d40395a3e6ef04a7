"""What a prediction holds that a file can take."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import DataError, listed, nearest, setting
from nh2st_graph._settings import RELIABLE
from nh2st_graph.confidence import reliable_in, unfamiliar_spots
from nh2st_graph.section import Key, Library, as_dense, library, section_name, target_in_words

__all__ = [
    "checked_classes",
    "chosen",
    "chosen_names",
    "class_columns",
    "dense",
    "drawn_library",
    "familiar_words",
    "measured_columns",
    "refuse_twice",
    "unit",
    "with_values",
]

logger = logging.getLogger("nh2st_graph")

#: Columns of ``obs`` that say where a spot is, and nothing of its tissue.
_PLACES = {Key.obs.array_row, Key.obs.array_col, Key.obs.in_tissue}
#: Columns of ``obs`` that are the same in all spots of a section.
_SAME = {Key.obs.section, Key.obs.patient}
#: Column of what familiarity says in words.
_FAMILIAR, _LIKE, _UNLIKE = "familiarity to the model", "like training", "unlike training"


def chosen(prediction: AnnData, genes: str | Sequence[str] | None) -> AnnData:
    """Take some genes of a prediction: those that are named, ``"reliable"`` ones, or all (None).

    Raises
    ------
    DataError
        If a gene is not in the prediction, none is named, or none is reliable.
    """
    return prediction if genes is None else prediction[:, chosen_names(prediction, genes)]


def chosen_names(prediction: AnnData, genes: str | Sequence[str]) -> list[str]:
    """Give the names of genes of a prediction; ``"reliable"`` stands for those that are.

    Raises
    ------
    DataError
        If a gene is not in the prediction, none is named, or none is reliable.
    """
    where = f"section {section_name(prediction)!r}"
    if isinstance(genes, str) and genes == RELIABLE:
        found = reliable_in(prediction)
        if not found:
            why = "the prediction does not say which genes are" if found is None else "no gene is"
            raise DataError(f"{where}: {setting('genes', RELIABLE)}: {why} reliable; name genes, or leave it out")
        return found
    if not isinstance(genes, Iterable):
        raise DataError(f"{where}: {setting('genes', genes)} is no list of genes; name them, or leave it out")
    wanted = [genes] if isinstance(genes, str) else list(genes)
    if not wanted:
        raise DataError(f"{where}: {setting('genes')} is empty; name genes to write, or leave it out")
    for gene in wanted:
        if gene not in prediction.var_names:
            raise DataError(f"{where}: gene {gene!r} is not in the prediction; {nearest(gene, prediction.var_names)}")
    return wanted


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
    return as_dense(values).astype(np.float32, copy=False)


def measured_columns(prediction: AnnData) -> list[str]:
    """List the columns of ``obs`` that hold numbers, other than positions."""
    return [str(name) for name, column in prediction.obs.items() if _numbers(column) and name not in _PLACES]


def _numbers(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column))


def class_columns(prediction: AnnData) -> list[str]:
    """List the columns of ``obs`` that hold classes of spots: all but numbers, and what is the same in all spots."""
    return [str(name) for name, column in prediction.obs.items() if not _numbers(column) and name not in _SAME]


def checked_classes(prediction: AnnData, class_by: str | Sequence[str]) -> list[str]:
    """Give columns of ``obs`` that hold classes of spots.

    Raises
    ------
    DataError
        If a column is not there, or holds numbers.
    """
    where, names = f"section {section_name(prediction)!r}", [class_by] if isinstance(class_by, str) else list(class_by)
    for name in names:
        if name not in prediction.obs:
            known = nearest(name, map(str, prediction.obs.columns))
            raise DataError(f"{where}: {setting('class_by', name)} is no column of obs; {known}")
        if _numbers(prediction.obs[name]):
            raise DataError(
                f"{where}: {setting('class_by', name)}: obs[{name!r}] holds numbers; cut it into classes (pandas.cut), "
                "or make it categorical if its numbers are names"
            )
    return names


def familiar_words(prediction: AnnData) -> pd.Series | None:
    """Say of each spot in words how familiar it is; None where that is not known."""
    if Key.obs.familiarity not in prediction.obs:
        return None
    words = np.where(unfamiliar_spots(prediction), _UNLIKE, _LIKE)
    return pd.Series(pd.Categorical(words, [_LIKE, _UNLIKE]), prediction.obs_names, name=_FAMILIAR)


def refuse_twice(prediction: AnnData, names: Sequence[str]) -> None:
    """Refuse two columns of one name: readers would take either for the other.

    Raises
    ------
    DataError
        If a name is there twice.
    """
    twice = pd.Index(names)[pd.Index(names).duplicated()]
    if len(twice):
        raise DataError(
            f"section {section_name(prediction)!r}: two columns would be named {twice[0]!r}; rename the gene, or the "
            f"column of obs, or leave the gene out of {setting('genes')}"
        )


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
