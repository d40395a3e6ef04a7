"""Spots where a gene is high or low, at a stated rate of false calls: conformal selection."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from nh2st_graph.confidence._calibration import Calibration

__all__ = ["CHANCES", "CallTables", "call_tables", "called"]

Floats = NDArray[np.floating[Any]]

#: Chances of a false call at which predictions are tabulated.
CHANCES = np.concatenate([np.geomspace(1e-3, 0.2, 40), np.linspace(0.225, 1.0, 24)])


class CallTables(NamedTuple):
    """What calls of spots rest on, for each gene.

    Attributes
    ----------
    cut
        Value above which a gene is high, and below which it is low: its mean over the held-out tissue, ``(n_genes,)``.
    high
        Smallest prediction at which a spot that is not high is met with at most each of :data:`CHANCES`,
        ``(n_genes, len(CHANCES))``; infinity where none is.
    low
        The same for low: the largest prediction.
    """

    cut: Floats
    high: Floats
    low: Floats


def call_tables(calibration: Calibration) -> CallTables:
    """Tabulate false calls in held-out tissue: a chance is that of the unit where it is largest.

    With few units their mean chance says little of the next one.
    """
    predicted, observed, weights = calibration.predicted, calibration.observed, calibration.weights
    cut = np.sum(weights * observed, axis=1) / weights.sum(axis=1)
    n_genes, high, low = len(predicted), [], []
    for unit in range(calibration.n_units):
        # Each gene has as many pairs of a unit, still in order of their predictions.
        inside = calibration.unit_of == unit
        own, truth = (side[inside].reshape(n_genes, -1) for side in (predicted, observed))
        high.append(_tables(own, truth <= cut[:, None]))
        low.append(-_tables(-own[:, ::-1], (truth >= cut[:, None])[:, ::-1]))
    return CallTables(cut, np.max(high, axis=0), np.min(low, axis=0))


def _tables(predicted: Floats, false: NDArray[np.bool_]) -> Floats:
    """Give the smallest prediction whose chance of a false call is at most each of the chances."""
    # The chance at a prediction counts all that are as large: of equal ones, all. One more pair, a false call, stands
    # for the spot that is called.
    above = np.cumsum(false[:, ::-1], axis=1)[:, ::-1]
    chance = (above + 1) / (predicted.shape[1] + 1)
    found = np.full((len(predicted), len(CHANCES)), np.inf, dtype=np.float32)
    for gene, (values, own) in enumerate(zip(predicted, chance, strict=True)):
        first = np.searchsorted(values, values, side="left")
        own = own[first]
        # Chances fall along ascending predictions.
        place = len(own) - np.searchsorted(own[::-1], CHANCES, side="right")
        there = place < len(own)
        found[gene, there] = values[place[there]]
    return found


def called(predicted: Floats, high: Floats, low: Floats, level: float) -> NDArray[np.int8]:
    """Call the spots of a gene that are high or low.

    Parameters
    ----------
    predicted
        The gene's prediction, ``(n_spots,)``.
    high, low
        The gene's rows of :class:`CallTables`.
    level
        Expected share of false calls among the high, and among the low (Benjamini and Hochberg).

    Returns
    -------
    1 for high, -1 for low, 0 for no call, ``(n_spots,)``.
    """
    is_high = _discovered(np.asarray(predicted), np.asarray(high), level)
    is_low = _discovered(-np.asarray(predicted), -np.asarray(low), level)
    return is_high.astype(np.int8) * ~is_low - is_low.astype(np.int8) * ~is_high


def _discovered(predicted: Floats, table: Floats, level: float) -> NDArray[np.bool_]:
    if not len(predicted) or not np.isfinite(predicted).all():
        return np.zeros(len(predicted), dtype=bool)
    # The table falls along rising chances: the first chance whose prediction is reached.
    place = np.searchsorted(-table, -predicted, side="left")
    chances = np.append(CHANCES, 1.0)[place]
    return np.asarray(false_discovery_control(chances) <= level)
