"""Say in plain words which genes can be read from slides, and check what was said on sections that were measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from nh2st_graph.confidence import OF_ADAPTED, OF_NEW, Calibration, Evidence, best_reliable
from nh2st_graph.section import Key
from nh2st_graph.train import FittedModel

if TYPE_CHECKING:
    from nh2st_graph.tl._evaluate import Evaluation

__all__ = ["covered", "evidence_of", "findings", "kind_of", "kinds_in", "readable", "trust_scores"]

#: Genes that a sentence names.
_NAMED = 3
#: Most spots of a section on which coverage is measured.
_MOST_SPOTS = 20_000


def kind_of(prediction: AnnData) -> str:
    """Say by whose evidence a prediction was judged."""
    return str(prediction.uns[Key.uns.prediction].get(Key.prediction.evidence, OF_NEW))


def kinds_in(model: FittedModel, predictions: Iterable[AnnData]) -> list[str]:
    """List by whose evidence predictions were judged, the best known kind first."""
    found = set(map(kind_of, predictions))
    return [] if model.confidence is None else [kind for kind in model.confidence.kinds if kind in found]


def evidence_of(model: FittedModel, prediction: AnnData) -> Evidence | None:
    """Give the evidence that a prediction was judged by; None if the model has none."""
    return None if model.confidence is None else model.confidence.of(kind_of(prediction))


def covered(calibration: Calibration, prediction: AnnData, levels: Sequence[float]) -> NDArray[np.float64]:
    """Measure what share of a measured section's values lies within intervals of each level.

    Parameters
    ----------
    calibration
        What sets the intervals.
    prediction
        A predicted section with ``layers["observed"]``; genes that are not predicted are left out.
    levels
        Levels of the intervals.

    Returns
    -------
    Shares, ``(n_levels,)``. Of a very large section, evenly drawn spots are looked at.
    """
    predicted, observed = _some(prediction)
    there = ~np.isnan(predicted).all(axis=0)
    found = []
    for level in levels:
        low, high = calibration.intervals(predicted, level)
        found.append(((observed >= low) & (observed <= high))[:, there].mean() if there.any() else np.nan)
    return np.array(found)


def _some(prediction: AnnData) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Take predicted and observed values of evenly drawn spots."""
    n_spots = min(prediction.n_obs, _MOST_SPOTS)
    rows = np.linspace(0, prediction.n_obs - 1, n_spots).round().astype(int)
    return np.asarray(prediction.X)[rows], np.asarray(prediction.layers[Key.layers.observed])[rows]


def _width(calibration: Calibration, prediction: AnnData, level: float) -> float | None:
    """Measure how wide intervals are, in standard deviations of a gene's measured values: the median over genes."""
    predicted, observed = _some(prediction)
    low, high = calibration.intervals(predicted, level)
    spread = observed.std(axis=0)
    genes = (spread > 0) & ~np.isnan(predicted).all(axis=0)
    if not genes.any():
        return None
    widths = (high - low)[:, genes].mean(axis=0) / spread[genes]
    return round(float(np.median(widths)), 3)  # further digits depend on how sums were rounded


def trust_scores(model: FittedModel, prediction: AnnData) -> dict[str, float | int | None]:
    """Score on a measured section what the model said of its own prediction.

    Parameters
    ----------
    model
        The model; one of an earlier version said nothing.
    prediction
        The predicted section, with its scores in ``var``.

    Returns
    -------
    ``coverage``, the share of measured values within the intervals of ``evaluate.coverage``; ``interval_width``, how
    wide these are, in standard deviations of a gene's measured values (median over genes); ``n_reliable``, the number
    of genes that are called reliable for such a section; ``reliable_positive``, the share of them with a positive r
    given depth; and ``others_positive``, that of the other genes.
    """
    evidence = evidence_of(model, prediction)
    if evidence is None:
        return {}
    level = model.config.evaluate.coverage
    (coverage,) = covered(evidence.calibration, prediction, [level])
    reliable = np.asarray(prediction.var[Key.var.reliable], dtype=bool)
    r, others = prediction.var.loc[reliable, "pcc_partial"], prediction.var.loc[~reliable, "pcc_partial"]
    return {
        "coverage": None if np.isnan(coverage) else float(coverage),
        "interval_width": _width(evidence.calibration, prediction, level),
        "n_reliable": len(r),
        "reliable_positive": float((r > 0).mean()) if len(r) else None,
        "others_positive": float((others > 0).mean()) if len(others) else None,
    }


def readable(model: FittedModel, kind: str) -> str:
    """Say which genes can be read from slides of a kind; see :attr:`nh2st_graph.confidence.Confidence.kinds`."""
    assert model.confidence is not None
    confidence = model.confidence
    evidence = confidence.of(kind)
    genes = evidence.genes
    n_reliable, n_genes = int(genes[Key.var.reliable].sum()), len(genes)
    if evidence is confidence.known:
        slides = "slides of the training patient" + ("s" if confidence.n_patients > 1 else "")
    elif evidence is confidence.adapted:
        slides = f"slides of {OF_ADAPTED}"
    else:
        slides = "slides of new patients" if confidence.n_patients else "other slides (no patient is named)"
    if not n_reliable and evidence.to_another_patient:
        return (
            f"No gene can be called reliable for {slides}: fewer than two patients were held out whole (there may be "
            "one patient alone), and what is a patient's own cannot be told from what patients share. Train on "
            "sections of several patients, and hold out whole ones"
        )
    if not n_reliable:
        return (
            f"None of {n_genes} genes can be read from {slides}: in held-out tissue, none is surely predicted better "
            "than by chance"
        )
    best = best_reliable(genes, _NAMED)
    r = genes.loc[best, Key.var.held_out_partial]
    first, *others = (f"{gene} ({value:.2f})" for gene, value in r.items())
    named = ", ".join([first.replace("(", "(held-out r given depth "), *others])
    verb = "gene can" if n_genes == 1 else "genes can"
    return f"{n_reliable} of {n_genes} {verb} be read from {slides}; best: {named}"


def findings(model: FittedModel, evaluation: Evaluation | None = None) -> list[str]:
    """Say what was found: which genes can be read from which slides, and how far that held on the test sections.

    Parameters
    ----------
    model
        The model; of one without evidence nothing is said.
    evaluation
        Its scores on test sections.

    Returns
    -------
    Sentences without a full stop, those first that count for the test sections.
    """
    if model.confidence is None:
        return []
    tested = [] if evaluation is None else kinds_in(model, evaluation.predictions.values())
    kinds = dict.fromkeys([*tested, *model.confidence.kinds])
    return [readable(model, kind) for kind in kinds] + _on_tests(model, evaluation)


def _on_tests(model: FittedModel, evaluation: Evaluation | None) -> list[str]:
    found = []
    for name, scores in evaluation.metrics["sections"].items() if evaluation is not None else ():
        if scores.get("coverage") is None:
            continue
        text = (
            f"On {name}, the {model.config.evaluate.coverage:.0%} intervals held {scores['coverage']:.0%} of the "
            "measured values"
        )
        if (width := scores.get("interval_width")) is not None:
            text += f" (they are {width:.1f} standard deviations of a gene wide)"
        number = scores["n_reliable"]
        if number:
            positive = round(number * scores["reliable_positive"])
            text += f", and {positive} of {number} reliable genes had a positive r given depth"
            others = scores.get("others_positive")
            text += f" (of the others {others:.0%})" if others is not None else ""
        found.append(text)
    return found
