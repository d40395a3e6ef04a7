"""Write beside a prediction how far it can be believed, and read it there."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from nh2st_graph._errors import DataError, ModelError, listed, nearest, setting
from nh2st_graph.confidence import called
from nh2st_graph.models import NH2STGraph
from nh2st_graph.section import Key
from nh2st_graph.tl._named import RELIABLE, checked_genes
from nh2st_graph.train import FittedModel, PreparedSection, image_only, predict_graph

__all__ = ["believe", "blank_barely_measured", "call", "chosen_genes", "of_training_patient"]

logger = logging.getLogger("nh2st_graph")

#: Whose slides the evidence is of.
_OF_KNOWN, _OF_NEW = "training patients", "new patients"

_HIGH, _LOW, _NEITHER = "high", "low", "not called"


def of_training_patient(model: FittedModel, prepared: PreparedSection) -> bool:
    """Whether the model predicts a section as one of a training patient."""
    return isinstance(model.module, NH2STGraph) and model.module.knows(image_only(prepared.graph))


def believe(
    predicted: AnnData, model: FittedModel, prepared: PreparedSection, *, intervals: bool, known: bool | None = None
) -> None:
    """Write the evidence on genes into ``var``, what calls rest on into ``varm``, and intervals into ``layers``.

    Parameters
    ----------
    predicted
        The prediction, with spots in the order of the prepared section.
    model
        The model; one of an earlier version has no evidence.
    prepared
        The section.
    intervals
        Whether to write layers.
    known
        Whether to take the evidence for slides of training patients; None asks the model.
    """
    if intervals and model.folds:
        graph, threads = image_only(prepared.graph), model.config.train.n_threads
        spread = np.stack([predict_graph(module, graph, threads) for module in model.folds])
        predicted.layers[Key.layers.sd] = spread.std(axis=0, ddof=1).astype(np.float32)
    if model.confidence is None:
        return
    known = of_training_patient(model, prepared) if known is None else known
    evidence, level = model.confidence.of(known=known), model.config.evaluate.coverage
    for column in evidence.genes:
        predicted.var[column] = evidence.genes[column].to_numpy()
    predicted.var[Key.var.cut] = evidence.calls.cut
    predicted.varm[Key.varm.call_high] = evidence.calls.high
    predicted.varm[Key.varm.call_low] = evidence.calls.low
    coverage = evidence.calibration.coverage(level)
    about = predicted.uns[Key.uns.prediction]
    about[Key.prediction.evidence] = _OF_KNOWN if known and model.confidence.known else _OF_NEW
    about[Key.prediction.coverage] = {
        "level": level,
        "measured": coverage.measured,
        "guaranteed": coverage.guaranteed,
        "unit": coverage.unit,
        "n_units": coverage.n_units,
    }
    if intervals:
        lower, upper = evidence.calibration.intervals(predicted.X, level)
        predicted.layers[Key.layers.lower], predicted.layers[Key.layers.upper] = lower, upper


def blank_barely_measured(predicted: AnnData, model: FittedModel) -> None:
    """Make the genes NaN that training barely measured, and say so."""
    if model.confidence is None or not model.confidence.barely_measured.any():
        return
    barely = model.confidence.barely_measured
    for values in (predicted.X, *(predicted.layers[key] for key in _LAYERS if key in predicted.layers)):
        values[:, barely] = np.nan
    n = int(barely.sum())
    logger.warning(
        "%d %s detected in fewer than ten training spots, and %s NaN: %s",
        n,
        "gene was" if n == 1 else "genes were",
        "is" if n == 1 else "are",
        listed([gene for gene, few in zip(model.genes, barely, strict=True) if few]),
    )


_LAYERS = (Key.layers.lower, Key.layers.upper, Key.layers.sd)


def chosen_genes(predicted: AnnData, model: FittedModel, genes: str | Sequence[str]) -> list[str]:
    """Find the genes to keep of a prediction, in its order.

    Raises
    ------
    ModelError
        If a gene is none of the model's, the model has no evidence, or no gene is reliable.
    """
    if genes != RELIABLE:
        wanted = set(checked_genes(genes, model.genes))
        return [gene for gene in predicted.var_names if gene in wanted]
    if Key.var.reliable not in predicted.var:
        raise ModelError(
            f"{setting('genes', RELIABLE)}: the model is of an earlier version, and does not say which genes are "
            "reliable; train again"
        )
    found = list(predicted.var_names[predicted.var[Key.var.reliable]])
    if not found:
        why = _why_none(predicted, model)
        raise ModelError(f"{setting('genes', RELIABLE)}: no gene is reliable for {why}; leave {setting('genes')} out")
    return found


def _why_none(predicted: AnnData, model: FittedModel) -> str:
    about = predicted.uns[Key.uns.prediction]
    name = f"section {about['section']!r}"
    assert model.confidence is not None
    if about[Key.prediction.evidence] == _OF_NEW and model.confidence.n_patients == 1:
        return f"{name}, which is of another patient than the only one in training"
    return name


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
        Expected share of false calls among those that are called high, and among those called low.
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
        If the gene is not in the prediction, the level is not between 0 and 1, or the prediction has no evidence.

    Examples
    --------
    >>> import nh2st_graph as ng
    >>> prediction = ng.tl.predict(ng.read.sections("visium", "sections")["D1"], ng.load("model"))
    >>> spots = ng.tl.call(prediction, "ERBB2", level=0.1, key_added="ERBB2_call")
    """
    if gene not in prediction.var_names:
        raise DataError(f"the prediction has no gene {gene!r}; {nearest(gene, prediction.var_names)}")
    if not 0 < level < 1:
        raise DataError(f"{setting('level', level)} is no rate of false calls; give one between 0 and 1")
    if Key.varm.call_high not in prediction.varm:
        raise DataError("the prediction is of a model without evidence from held-out tissue; train and predict again")
    place = prediction.var_names.get_loc(gene)
    values = np.asarray(prediction.X[:, place], dtype=np.float32)
    high, low = (np.asarray(prediction.varm[key])[place] for key in (Key.varm.call_high, Key.varm.call_low))
    if prediction.var[Key.var.reliable].iloc[place] or unreliable:
        codes = called(values, high, low, level)
    else:
        about = prediction.uns.get(Key.uns.prediction, {}).get(Key.prediction.evidence)
        alone = about == _OF_NEW and int(prediction.var[Key.var.n_patients].max()) == 1
        logger.warning(
            "gene %r is not reliable for this slide%s, and is not called; unreliable=True calls it all the same",
            gene,
            ", which is of another patient than the only one in training" if alone else "",
        )
        codes = np.zeros(len(values), dtype=np.int8)
    words = np.select([codes > 0, codes < 0], [_HIGH, _LOW], _NEITHER)
    result = pd.Series(pd.Categorical(words, [_HIGH, _LOW, _NEITHER]), prediction.obs_names, name=gene)
    if key_added is not None:
        prediction.obs[key_added] = result
    return result
