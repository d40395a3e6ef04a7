"""Read what stands beside a prediction: which genes are reliable, where they are called, which spots are unlike."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph._errors import DataError, nearest, setting
from nh2st_graph._files import as_number
from nh2st_graph.confidence._calls import called
from nh2st_graph.section import Key, as_dense, refuse_column

__all__ = ["OF_ADAPTED", "OF_KNOWN", "OF_NEW", "UNFAMILIAR", "best_reliable", "call", "reliable_in", "unfamiliar_spots"]

logger = logging.getLogger("nh2st_graph")

#: Whose slides the evidence is of.
OF_KNOWN, OF_ADAPTED, OF_NEW = "training patients", "patients adapted to", "new patients"

#: A spot is unlike training if its familiarity is below this: as small a share of held-out training spots is.
UNFAMILIAR = 0.01

_HIGH, _LOW, _NEITHER = "high", "low", "not called"


def best_reliable(genes: pd.DataFrame, n: int) -> list[str]:
    """Name the ``n`` reliable genes with the highest r given depth in held-out tissue; none where that is not known."""
    if Key.var.reliable not in genes or Key.var.held_out_partial not in genes:
        return []
    reliable = genes[genes[Key.var.reliable].astype(bool)]
    return [str(gene) for gene in reliable[Key.var.held_out_partial].nlargest(n).index]


def reliable_in(prediction: AnnData) -> list[str] | None:
    """List the genes of a prediction that are reliable for its slide; None if it is of a model without evidence."""
    if Key.var.reliable not in prediction.var:
        return None
    return list(prediction.var_names[prediction.var[Key.var.reliable].astype(bool)])


def unfamiliar_spots(adata: AnnData, below: float = UNFAMILIAR) -> NDArray[np.bool_]:
    """Find the spots that are unlike training, ``(n_spots,)``; none where familiarity is not known."""
    if Key.obs.familiarity not in adata.obs:
        return np.zeros(adata.n_obs, dtype=bool)
    return np.asarray(adata.obs[Key.obs.familiarity], dtype=np.float64) < below


def call(
    prediction: AnnData, gene: str, level: float = 0.1, *, unreliable: bool = False, key_added: str | None = None
) -> pd.Series:
    """Find the spots where a gene is high or low, at a stated rate of false calls.

    High is above the gene's mean over the held-out training tissue (``var["call_cut"]``), low is below it. A spot is
    called by conformal selection (Jin & Candès 2023, JMLR 24:244): the chance to meet a prediction like this at a spot
    that is not high is that of the held-out section (or patient) where it is largest, and Benjamini and Hochberg's
    procedure bounds the expected share of false calls. It holds for slides that are exchangeable with the held-out
    ones; it does not for slides of another stain, depth or tissue. So a gene that is not reliable for the slide is not
    called anywhere, unless you ask for it.

    Parameters
    ----------
    prediction
        AnnData of :func:`predict`.
    gene
        Name of the gene.
    level
        Expected share of false calls among those that are called high, and among those called low. At a high rate a
        spot can pass for both, and is not called.
    unreliable
        Call a gene that is not reliable, too (``var["reliable"]``): the rate may not hold.
    key_added
        Column of ``prediction.obs`` to write the result into; None writes nothing.

    Returns
    -------
    A categorical value for each spot: ``high``, ``low`` or ``not called``.

    Raises
    ------
    DataError
        If it is no prediction, or one without evidence; the gene is not in it; the level is not between 0 and 1; or
        ``key_added`` is a column that says what a section is.

    Examples
    --------
    >>> import nh2st_graph as ng
    >>> prediction = ng.tl.predict(ng.read.sections("visium", "sections")["D1"], ng.load("model"))
    >>> spots = ng.tl.call(prediction, "ERBB2", level=0.1, key_added="ERBB2_call")
    """
    if not isinstance(prediction, AnnData):
        raise DataError(f"{type(prediction).__name__} is no prediction; give the AnnData of ng.tl.predict")
    if not isinstance(gene, str):
        raise DataError(f"{setting('gene', gene)} is no name; give one gene, and call others one by one")
    if gene not in prediction.var_names:
        raise DataError(f"the prediction has no gene {gene!r}; {nearest(gene, prediction.var_names)}")
    refuse_column(key_added)
    if not 0 < as_number(level) < 1:
        raise DataError(f"{setting('level', level)} is no rate of false calls; give one between 0 and 1")
    about = prediction.uns.get(Key.uns.prediction, {})
    if Key.varm.call_high not in prediction.varm and about.get(Key.prediction.mode, "image") != "image":
        raise DataError(
            "the prediction is imputed, and no evidence of held-out tissue holds for it; call a prediction of "
            "ng.tl.predict, which reads the image alone"
        )
    if Key.varm.call_high not in prediction.varm:
        raise DataError("the prediction is of a model without evidence from held-out tissue; train and predict again")
    place = prediction.var_names.get_loc(gene)
    values = as_dense(prediction.X[:, [place]])[:, 0].astype(np.float32)
    high, low = (np.asarray(prediction.varm[key])[place] for key in (Key.varm.call_high, Key.varm.call_low))
    if prediction.var[Key.var.reliable].iloc[place] or unreliable:
        codes = called(values, high, low, level)
    else:
        alone = about.get(Key.prediction.coverage, {}).get("to_another_patient", False)
        logger.warning(
            "gene %r is not reliable for this slide%s, and is not called; unreliable=True calls it all the same",
            gene,
            ", since no held-out tissue is known to speak for its patient" if alone else "",
        )
        codes = np.zeros(len(values), dtype=np.int8)
    words = np.select([codes > 0, codes < 0], [_HIGH, _LOW], _NEITHER)
    result = pd.Series(pd.Categorical(words, [_HIGH, _LOW, _NEITHER]), prediction.obs_names, name=gene)
    if key_added is not None:
        prediction.obs[key_added] = result
    return result
