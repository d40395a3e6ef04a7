"""How near the image features of a section are to those of the training sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nh2st_graph._errors import DataError
from nh2st_graph.confidence._columns import FeatureColumns
from nh2st_graph.confidence._scale_shift import ScaleShift
from nh2st_graph.confidence._space import Space, most_components

__all__ = ["Familiarity", "HeldOutBy", "Verdict"]

#: What is held out in turn to measure distances between training data.
HeldOutBy = Literal["patient", "section", "band"]

#: The space of all features.
_ALL = "features"
#: Most times that something is held out; if there are more patients or sections, several are held out together.
_MOST_TURNS = 10
#: Fewest spots to learn from.
_FEWEST_SPOTS = 8
#: A section is judged by the tenth of its spots that lie nearest to training. Tissue that training lacks makes a
#: section's other spots far, but another stain or resolution leaves no spot near.
_NEAR_SHARE = 0.1
#: Standard deviation between sections that are alike, of the logarithm of this distance, as expected before any is
#: seen, and the number of sections that this expectation is worth. It was set on HER2ST and synthetic tissue, where
#: sections differ by 0.1 to 0.5. Bands of one section say nothing of other sections.
_EXPECTED, _WORTH = {"patient": 0.2, "section": 0.2, "band": 0.4}, 3
#: A section is unlike training if fewer than this share of sections that are alike would lie as far.
_RARE = 0.05
#: From this share of the colours' distance on, that of structure counts beside it: another stain moves both a little.
_BESIDE = 0.5
#: Fewer sections than these leave the limit uncertain.
_FEW_SECTIONS = 5
_SMALLEST = 1e-6


class Verdict(NamedTuple):
    """Whether a whole section is unlike the training sections, and why.

    Attributes
    ----------
    unlike
        Whether it is.
    reasons
        Why, in words; empty if it is not.
    tails
        Share of sections like those of training that would lie as far, of all features and of each group of them.
    resolution
        How many times its stated resolution (um per px) the image seems to have; None if nothing says that it is off.
    caution
        What to keep in mind where there are few training sections; empty otherwise.
    """

    unlike: bool
    reasons: tuple[str, ...]
    tails: Mapping[str, float]
    resolution: float | None
    caution: str


@dataclass(frozen=True)
class _Judge:
    """A space, how near held-out sections came to the others in it, and how near their spots did.

    Attributes
    ----------
    space
        The space.
    held_out
        Logarithm of the distance of each held-out section.
    distances
        Distances of held-out spots, ascending; empty in a model of an earlier version, but for all features.
    """

    space: Space
    held_out: NDArray[np.float32]
    distances: NDArray[np.float32]

    def share(self, distances: NDArray[np.float32]) -> NDArray[np.float64]:
        """Compute the share of held-out spots that lay as far as some distances or farther."""
        return 1 - np.searchsorted(self.distances, distances, side="left") / len(self.distances)

    def excess(self, distances: NDArray[np.float32], expected: float, n_units: int) -> tuple[float, float]:
        """Compare a section's distance with those of held-out sections: a t statistic, and its tail.

        The section is taken as one more draw from their distribution: normal, with a standard deviation of which
        ``expected`` is known before.
        """
        seen = self.held_out.astype(np.float64)
        degrees = n_units - 1 + _WORTH
        variance = ((n_units - 1) * seen.var(ddof=1) + _WORTH * expected**2) / degrees
        t = (_nearness(distances) - seen.mean()) / np.sqrt(variance * (1 + 1 / n_units))
        return float(t), float(stats.t.sf(t, degrees))


@dataclass(frozen=True, eq=False)
class Familiarity:
    """How near image features are to those of training, measured spot by spot, and for a whole section.

    Features are taken as encoders gave them, before they are standardised section by section, which would hide another
    stain. They are scaled by their statistics in training, and projected onto principal components, so that blocks (an
    encoder at one scale) weigh alike: all of them, and colour and structure apart as far as names of features tell, or
    another stain of the same tissue would hide among features that it leaves as they are. The distance of a spot is the
    mean distance to its five nearest training spots. Each training patient (with three or more), section, or band of a
    single section is held out in turn, and the distances of its spots to the rest are what other distances are compared
    with.

    Attributes
    ----------
    held_out_by
        What was held out in turn.
    n_units
        Number of patients, sections or bands that were.
    n_features
        Number of features of a spot.
    shares
        For each held-out training spot, the least share of all of them that lay as far in a space, ascending.
    """

    held_out_by: HeldOutBy
    n_units: int
    n_features: int
    shares: NDArray[np.float64]
    _judges: Mapping[str, _Judge]
    _scales: ScaleShift | None

    @classmethod
    def fit(
        cls,
        features: NDArray[Any],
        sections: NDArray[np.integer],
        units: NDArray[np.integer],
        columns: FeatureColumns,
        held_out_by: HeldOutBy,
    ) -> Familiarity | None:
        """Measure how far training data lie from each other.

        Parameters
        ----------
        features
            Some thousand training spots, ``(n_spots, n_features)``.
        sections
            Number of each spot's section (or band), ``(n_spots,)``.
        units
            Number of what each spot is held out with: of its patient, section or band, ``(n_spots,)``.
        columns
            What the features are.
        held_out_by
            What ``units`` are.

        Returns
        -------
        None if the spots are too few, or there is only one unit.
        """
        n_units = len(np.unique(units))
        if len(features) < _FEWEST_SPOTS or n_units < 2:
            return None
        turns = _turns(units)
        everything = {_ALL: np.arange(columns.n_features), **columns.groups}
        judges, shares = {}, np.ones(len(features))
        fewest = len(features) - int(np.bincount(turns).max())
        for name, chosen in everything.items():
            weight, n = columns.weights[chosen], most_components(fewest, len(chosen))
            apart = np.empty(len(features), dtype=np.float32)
            for turn in np.unique(turns):
                rest = turns != turn
                apart[~rest] = Space.fit(features[rest], chosen, weight, n).distances(features[~rest])
            near = [_nearness(apart[sections == each]) for each in np.unique(sections)]
            whole = Space.fit(features, chosen, weight, n)
            judges[name] = _Judge(whole, np.array(near, dtype=np.float32), np.sort(apart))
            shares = np.minimum(shares, judges[name].share(apart))
        scales = ScaleShift.fit([features[sections == each] for each in np.unique(sections)], columns)
        return cls(held_out_by, n_units, columns.n_features, np.sort(shares), judges, scales)

    @property
    def distances(self) -> NDArray[np.float32]:
        """Distances of held-out training spots by all features, ascending."""
        return self._judges[_ALL].distances

    def of(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the familiarity of spots, ``(n_spots,)`` from 0 to 1.

        It is the share of held-out training spots that lay as far from the other training data or farther: 1 is well
        known, one half is what a usual spot of another section has, and 0 is farther than all of them. Of all
        features, their colours and their structure, those count in which a spot lies farthest.

        Parameters
        ----------
        features
            ``(n_spots, n_features)``, which may be a memory map.

        Raises
        ------
        DataError
            If the number of features is not that of training.
        """
        self._check(features)
        measured = [each for each in self._judges.values() if len(each.distances)]
        least = np.minimum.reduce([each.share(each.space.distances(features)) for each in measured])
        return np.asarray(np.searchsorted(self.shares, least, side="right") / len(self.shares), dtype=np.float32)

    def judge(self, features: NDArray[Any]) -> Verdict:
        """Judge whether a whole section is unlike the training sections.

        Parameters
        ----------
        features
            Its spots, or an even sample of some two thousand of them, ``(n_spots, n_features)``. Spots whose features
            are not all finite do not count.

        Raises
        ------
        DataError
            If the number of features is not that of training.
        """
        self._check(features)
        some = features[np.isfinite(features).all(axis=1)]
        if not len(some):
            return Verdict(False, (), {}, None, self._caution)
        expected = _EXPECTED[self.held_out_by]
        excess = {
            name: one.excess(one.space.distances(some), expected, self._n_alike) for name, one in self._judges.items()
        }
        rare = {name for name, (_, tail) in excess.items() if tail < _RARE}
        resolution = None if self._scales is None else self._scales.factor(some)
        reasons = tuple(_reasons({name: t for name, (t, _) in excess.items()}, rare, resolution))
        return Verdict(
            bool(reasons), reasons, {name: tail for name, (_, tail) in excess.items()}, resolution, self._caution
        )

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Give the arrays, by name, and the facts, for JSON, that :meth:`restore` makes the same of."""
        arrays: dict[str, NDArray[Any]] = {"shares": self.shares}
        for name, one in self._judges.items():
            arrays |= {f"{name}.held_out": one.held_out, f"{name}.distances": one.distances}
            arrays |= {f"{name}.{key}": array for key, array in one.space.state().items()}
        if self._scales is not None:
            arrays |= {f"scales.{key}": array for key, array in self._scales.state().items()}
        facts = {"held_out_by": self.held_out_by, "n_units": self.n_units, "n_features": self.n_features}
        return arrays, {**facts, "spaces": list(self._judges), "scales": self._scales is not None}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Familiarity:
        """Make it of what :meth:`state` gave; an earlier one knows spots by all features alone.

        Raises
        ------
        KeyError, ValueError
            If something is missing or damaged.
        """
        if facts["held_out_by"] not in _EXPECTED:
            raise ValueError(f"familiarity was measured by {facts['held_out_by']!r}")

        if "shares" in arrays:
            distances = {name: arrays[f"{name}.distances"] for name in facts["spaces"]}
            shares = arrays["shares"]
        else:
            distances = dict.fromkeys(facts["spaces"], np.zeros(0, np.float32)) | {_ALL: arrays["distances"]}
            shares = np.sort(1 - np.searchsorted(distances[_ALL], distances[_ALL], side="left") / len(distances[_ALL]))

        def under(name: str) -> dict[str, NDArray[Any]]:
            return {key.partition(".")[2]: each for key, each in arrays.items() if key.partition(".")[0] == name}

        judges = {
            name: _Judge(Space.restore(under(name)), arrays[f"{name}.held_out"], distances[name])
            for name in facts["spaces"]
        }
        scales = ScaleShift.restore(under("scales")) if facts["scales"] else None
        numbers = int(facts["n_units"]), int(facts["n_features"])
        return cls(facts["held_out_by"], *numbers, shares, judges, scales)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Familiarity):
            return NotImplemented
        (arrays, facts), (others, other_facts) = self.state(), other.state()
        return facts == other_facts and all(np.array_equal(each, others[name]) for name, each in arrays.items())

    __hash__ = None  # type: ignore[assignment]

    def _check(self, features: NDArray[Any]) -> None:
        if features.shape[1] != self.n_features:
            raise DataError(
                f"a section has {features.shape[1]} image features, the model was trained on {self.n_features}; "
                "compute them with the same encoder"
            )

    @property
    def _n_alike(self) -> int:
        """Number of units that say how much sections differ: bands of one section are one."""
        return 1 if self.held_out_by == "band" else self.n_units

    @property
    def _caution(self) -> str:
        if self.held_out_by == "band":
            return "judged by bands of a single training section, which do not say how much sections differ"
        if self.n_units < _FEW_SECTIONS:
            return f"judged by {self.n_units} training {self.held_out_by}s, so few that the limit is uncertain"
        return ""


def _nearness(distances: NDArray[np.float32]) -> float:
    """Logarithm of the distance that a tenth of a section's spots do not pass."""
    return float(np.log(max(float(np.quantile(distances, _NEAR_SHARE)), _SMALLEST)))


def _turns(units: NDArray[np.integer]) -> NDArray[np.intp]:
    """Number the turns in which units are held out: each alone if there are few."""
    _, numbers = np.unique(units, return_inverse=True)
    return np.asarray(numbers % _MOST_TURNS, dtype=np.intp)


def _reasons(excess: Mapping[str, float], rare: set[str], resolution: float | None) -> Sequence[str]:
    """Say in words why a section is unlike training: by which groups of features it lies far."""
    found = []
    if resolution is not None:
        found.append(f"it looks as if the image had {resolution:.2g} times the um per pixel that it is said to have")
    colour = "colour" in rare
    structure = "structure" in rare and resolution is None
    if colour and structure and excess["structure"] < _BESIDE * excess["colour"]:
        structure = False
    if colour and structure:
        found.append("its colours and its texture are both others: another tissue, or an image of another kind")
    elif colour:
        found.append("its colours are others: another stain or scanner")
    elif structure:
        found.append(
            "its texture is another: another tissue, a sharper or a blurred image, or a wrong number of um per pixel"
        )
    if not found and _ALL in rare:
        found.append("its image features are others: another stain, tissue or resolution")
    return found
