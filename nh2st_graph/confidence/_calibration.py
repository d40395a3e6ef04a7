"""Intervals of predictions from held-out tissue, by conformal prediction with whole sections as units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nh2st_graph.confidence._held_out import BAND, PATIENT, HeldOut, units_of

__all__ = ["Calibration", "Coverage"]

Floats = NDArray[np.floating[Any]]

#: Most pairs of a prediction and its measurement that are kept for each gene, and for all genes if there are many.
MOST_PAIRS, _MOST_IN_ALL, _LEAST_PAIRS = 1500, 8_000_000, 300

#: Parts of a gene's predictions, from low to high, whose errors are not alike.
_PARTS = 3

_SIDES: tuple[str, ...] = ("predicted", "observed")

#: Coverage of held-out tissue that is this much below the level is told as a shortfall.
_SHORT = 0.02

#: Levels at which coverage is measured.
LEVELS = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99])


@dataclass(frozen=True)
class Coverage:
    """How far the intervals of a level can be trusted.

    Attributes
    ----------
    level
        The level asked for.
    measured
        Mean share of measured values within the intervals of this level, over units whose errors did not set them:
        those are set by one unit fewer, and fall rather shorter. The level of the quantiles was chosen by this mean,
        so that it is the level itself where it can be.
    guaranteed
        Smallest expected share in a new unit that is exchangeable with these, and whose predictions lie where theirs
        do: with few of them it is small, whatever was measured. The new unit can be the lowest and the highest of all,
        so that ``n`` units whose quantiles hold ``q`` guarantee ``(n q - 1) / (n + 1)``. It is 0 where a new slide is
        none of their kind: other parts of the same sections, or other tissue of the same patients, were learned from,
        or all is of one patient; and the slide is of another.
    unit, n_units
        What is exchanged (``patient``, ``section`` or ``band``), and how many there are.
    to_another_patient
        Whether the slide is of another patient than those learned from, and no unit is.
    of_parts
        Whether parts of sections were held out, and other parts of the same ones learned from.
    """

    level: float
    measured: float
    guaranteed: float
    unit: str
    n_units: int
    to_another_patient: bool = False
    of_parts: bool = False

    def __str__(self) -> str:
        """Say it in words."""
        reach = "hold only" if self.measured < self.level - _SHORT else "were set to hold"
        parts = "parts of " if self.of_parts else ""
        found = (
            f"{self.level:.0%} intervals {reach} {self.measured:.0%} of the values of held-out {parts}{self.unit}s; "
        )
        units = f"{parts}{self.n_units} {self.unit}s alone"
        if self.to_another_patient and self.unit == PATIENT:
            return found + f"{units}, of whom fewer than two were held out whole, guarantee nothing in another patient"
        if self.to_another_patient:
            return found + f"{units}, which count as one patient's, guarantee nothing in another patient"
        if self.unit == BAND:
            return found + f"{units}, all of one section, guarantee nothing in another section"
        if self.of_parts:
            return found + f"{units} guarantee nothing in another section"
        return found + f"{units} guarantee {self.guaranteed:.0%} in another {self.unit} like these"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Pairs of a prediction and its measurement in held-out tissue, for each gene on its own.

    Pairs are in order of their prediction, gene by gene, so that no row is a spot: the expression of a training spot
    cannot be read from them.

    Attributes
    ----------
    predicted, observed
        ``(n_genes, n_pairs)`` float32, each row in ascending order of ``predicted``.
    unit_of
        Number of each pair's unit, ``(n_genes, n_pairs)``.
    unit
        ``patient``, ``section`` or ``band``.
    measured
        Share of each unit's values within intervals that the other units set, ``(n_units, len(LEVELS))``.
    least
        Smallest value that a target can have; None if there is none.
    of_parts
        Whether parts of several sections were held out, and other parts of the same ones learned from.
    """

    predicted: Floats
    observed: Floats
    unit_of: NDArray[np.integer[Any]]
    unit: str
    measured: Floats
    least: float | None = 0.0
    of_parts: bool = False

    @classmethod
    def fit(cls, parts: Sequence[HeldOut], *, least: float | None = 0.0, seed: int = 0) -> Calibration:
        """Take pairs of held-out parts, as many of each unit, and measure the coverage of their intervals.

        Parameters
        ----------
        parts
            Held-out sections, or bands of one.
        least
            Smallest value that a target can have.
        seed
            Of the choice of spots, if there are more than :data:`MOST_PAIRS`.
        """
        unit, names = units_of(parts)
        order = sorted(set(names))
        rng = np.random.default_rng(seed)
        drawn: list[tuple[Floats, Floats, int]] = []
        for number, name in enumerate(order):
            own = [part for part, of in zip(parts, names, strict=True) if of == name]
            predicted, observed = (
                np.concatenate([getattr(p, side) for p in own]) for side in ("predicted", "observed")
            )
            most = -(-max(_LEAST_PAIRS, min(MOST_PAIRS, _MOST_IN_ALL // predicted.shape[1])) // len(order))
            rows = np.sort(rng.permutation(len(predicted))[:most]) if len(predicted) > most else slice(None)
            drawn.append((predicted[rows], observed[rows], number))
        predicted = np.concatenate([each[0] for each in drawn]).T
        observed = np.concatenate([each[1] for each in drawn]).T
        numbers = np.repeat(np.arange(len(order)), [len(each[0]) for each in drawn])
        # Values as they are saved, so that a loaded model gives the same intervals.
        predicted, observed = (side.astype(np.float16).astype(np.float32) for side in (predicted, observed))
        ranks = np.argsort(predicted, axis=1, kind="stable")
        predicted, observed = (np.take_along_axis(side, ranks, axis=1) for side in (predicted, observed))
        unit_of = numbers.astype(np.int16)[ranks]
        of_parts = unit != BAND and len(parts) > len({part.section for part in parts})
        measured = _measured(predicted, observed, unit_of, least)
        return cls(predicted, observed, unit_of, unit, measured, least, of_parts)

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self.measured)

    def coverage(self, level: float) -> Coverage:
        """Say what intervals of a level are worth."""
        own = self._own_level(level)
        measured = float(np.interp(own, LEVELS, self.measured.mean(axis=0)))
        # Each end is passed by at most (1 - (1 + own) / 2 * n / (n + 1)) of a new unit, on average over which is new.
        guaranteed = max(0.0, (own * self.n_units - 1) / (self.n_units + 1))
        guaranteed = 0.0 if self.unit == BAND or self.of_parts else guaranteed
        return Coverage(level, measured, guaranteed, self.unit, self.n_units, of_parts=self.of_parts)

    def curve(self) -> pd.DataFrame:
        """Give nominal against measured coverage: a row for each level, ``measured`` and each unit's own."""
        asked = LEVELS[LEVELS <= 0.95]
        own = np.array([self._own_level(level) for level in asked])
        units = np.stack([np.interp(own, LEVELS, each) for each in self.measured])
        table = {"measured": units.mean(axis=0), **{f"{self.unit} {i + 1}": each for i, each in enumerate(units)}}
        return pd.DataFrame(table, index=pd.Index(asked, name="level"))

    def intervals(self, predicted: Floats, level: float) -> tuple[Floats, Floats]:
        """Give the intervals of predictions.

        Parameters
        ----------
        predicted
            ``(n_spots, n_genes)``.
        level
            Share of measured values that the intervals are to hold.

        Returns
        -------
        The lower and upper ends, ``(n_spots, n_genes)`` float32.
        """
        own, across = self._own_level(level), np.ascontiguousarray(np.asarray(predicted, dtype=np.float32).T)
        low, high = self._errors.around(across, self._errors.place(across), own, self.least)
        return low.T, high.T

    def _own_level(self, level: float) -> float:
        """Find the level of quantiles whose intervals are to hold ``level`` of the values of a new unit.

        Units that did not set them are held short of it, or long, by what units have of their own. All units together
        fall less short than all but one: the variance that they miss falls as one by their number.
        """
        mean = np.maximum.accumulate(self.measured.mean(axis=0))
        own = float(np.interp(level, mean, LEVELS))
        return own if own <= level else level + (own - level) * (1 - 1 / self.n_units)

    @property
    def weights(self) -> Floats:
        """Weights of pairs, ``(n_genes, n_pairs)``: as much in all for each unit."""
        return np.asarray(1.0 / np.bincount(self.unit_of[0], minlength=self.n_units))[self.unit_of]

    @cached_property
    def _errors(self) -> _Errors:
        return _Errors.of(self.predicted, self.observed, self.weights)

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Give arrays and facts for :meth:`restore`."""
        arrays: dict[str, NDArray[Any]] = {
            "predicted": self.predicted.astype(np.float16),
            "observed": self.observed.astype(np.float16),
            "unit_of": self.unit_of.astype(np.int16),
            "measured": self.measured.astype(np.float64),
        }
        return arrays, {"unit": self.unit, "least": self.least, "of_parts": self.of_parts}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Calibration:
        """Restore what gave arrays and facts."""
        predicted, observed = (np.asarray(arrays[name]).astype(np.float32) for name in _SIDES)
        unit_of, measured = np.asarray(arrays["unit_of"]), np.asarray(arrays["measured"])
        # An earlier version did not write the second.
        least, of_parts = facts["least"], bool(facts.get("of_parts", False))
        if not predicted.shape == observed.shape == unit_of.shape:
            raise ValueError("pairs of a prediction and its measurement are not as many")
        least = None if least is None else float(least)
        return cls(predicted, observed, unit_of, str(facts["unit"]), measured, least, of_parts)


def _measured(predicted: Floats, observed: Floats, unit_of: NDArray[Any], least: float | None) -> Floats:
    """Measure how much of each unit lies within the intervals of the others, at each level."""
    n_units, n_genes = int(unit_of.max()) + 1, len(predicted)
    sizes = np.bincount(unit_of[0], minlength=n_units)
    found = np.empty((n_units, len(LEVELS)))
    for unit in range(n_units):
        # Each gene has as many pairs of a unit.
        inside = unit_of == unit
        own_p, own_o = (side[inside].reshape(n_genes, -1) for side in (predicted, observed))
        other_p, other_o, other_u = (side[~inside].reshape(n_genes, -1) for side in (predicted, observed, unit_of))
        errors = _Errors.of(other_p, other_o, (1.0 / np.maximum(sizes, 1))[other_u])
        place = errors.place(own_p)
        for i, level in enumerate(LEVELS):
            low, high = errors.around(own_p, place, float(level), least)
            found[unit, i] = np.mean((own_o >= low) & (own_o <= high))
    return found


class _Errors(NamedTuple):
    """Errors of each gene, in parts of its predictions from low to high.

    Attributes
    ----------
    middle
        Median prediction of each part, ``(n_genes, n_parts)``.
    sorted
        Errors of each part in ascending order, each ``(n_genes, n)``.
    before, upto
        Share of the part's weight before each error, and with it.
    """

    middle: Floats
    sorted: Sequence[Floats]
    before: Sequence[Floats]
    upto: Sequence[Floats]

    @classmethod
    def of(cls, predicted: Floats, observed: Floats, weights: Floats) -> _Errors:
        """Sort the errors of pairs that are in order of their predictions."""
        n_pairs = predicted.shape[1]
        bounds = np.linspace(0, n_pairs, min(_PARTS, n_pairs) + 1).round().astype(int)
        middle, values = [], []
        before: list[Floats] = []
        upto: list[Floats] = []
        for first, last in pairwise(bounds):
            part = np.s_[:, first:last]
            middle.append(np.median(predicted[part], axis=1))
            errors = observed[part] - predicted[part]
            order = np.argsort(errors, axis=1)
            own = np.take_along_axis(weights[part], order, axis=1)
            total = np.cumsum(own, axis=1)
            values.append(np.take_along_axis(errors, order, axis=1))
            before.append((total - own) / total[:, -1:])
            upto.append(total / total[:, -1:])
        return cls(np.stack(middle, axis=1), values, before, upto)

    def place(self, predicted: Floats) -> tuple[NDArray[np.intp], Floats]:
        """Find the parts between whose middles predictions ``(n_genes, n)`` lie, and how far from the first of them."""
        last = self.middle.shape[1] - 1
        at = np.zeros(predicted.shape, dtype=np.intp)
        for i in range(1, last):
            at += predicted >= self.middle[:, i, None]
        if not last:
            return at, np.zeros(predicted.shape, dtype=np.float32)
        first, second = (np.take_along_axis(self.middle, at + i, axis=1) for i in range(2))
        share = (predicted - first) / np.where(second > first, second - first, np.inf)
        return at, share.clip(0, 1).astype(np.float32)

    def around(
        self, predicted: Floats, place: tuple[NDArray[np.intp], Floats], level: float, least: float | None
    ) -> tuple[Floats, Floats]:
        """Add to predictions ``(n_genes, n)`` the errors between which those of alike predictions lay.

        The lower end is found from below and the upper from above, so that neither is too tight.
        """
        genes = np.arange(len(predicted))
        lows, highs = [], []
        for values, before, upto in zip(self.sorted, self.before, self.upto, strict=True):
            low = np.sum(before <= (1 - level) / 2 + 1e-9, axis=1) - 1
            high = np.sum(upto < (1 + level) / 2 - 1e-9, axis=1).clip(0, values.shape[1] - 1)
            lows.append(values[genes, low])
            highs.append(values[genes, high])
        return _added(predicted, place, lows, least), _added(predicted, place, highs, least)


def _added(
    predicted: Floats, place: tuple[NDArray[np.intp], Floats], ends: Sequence[Floats], least: float | None
) -> Floats:
    """Add the error at each prediction, on the line between the errors of the two parts beside it."""
    at, share = place
    table = np.stack([*ends, ends[-1]], axis=1)
    first, second = (np.take_along_axis(table, at + i, axis=1) for i in range(2))
    found = (predicted + first + share * (second - first)).astype(np.float32)
    return found if least is None else np.maximum(found, np.float32(least), out=found)
