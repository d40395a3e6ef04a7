"""The closed form of NH2ST-Graph: ridge regressions into components, for training patients and for new ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph.models._groups import (
    MOST_FOLDS,
    by_section,
    drawn_spots,
    patient_digest,
    patient_groups,
    patients_of,
    section_groups,
)
from nh2st_graph.models._network import Memory
from nh2st_graph.nn import ComponentRidge, Description, RidgeFit, RidgeSpots, Rows, components, fit_component_ridge

__all__ = [
    "MOST_SPOTS",
    "PATIENTS",
    "PENALTIES",
    "ClosedForm",
    "correction_factor",
    "correction_gain",
    "described_spots",
    "description_in",
    "description_tensors",
    "fit_closed_form",
    "groups_of",
    "predict_spots",
    "ridge_in",
    "ridge_tensors",
]

#: Penalties to choose from, in units of the number of spots.
PENALTIES: tuple[float, ...] = tuple(np.geomspace(3e-5, 1.0, 12).tolist())

#: Most spots that a regression is fitted on; of more, evenly drawn ones.
MOST_SPOTS = 30_000

#: Kernels to choose from: linear, and the sharpness of a Gaussian.
_KERNELS = (0.0, 0.2)

#: Penalty for new patients if training has a single one, whose sections cannot tell what is its own: so strong that a
#: component follows each feature by its own covariance, more than by what features say together.
_CAUTIOUS = 0.15

#: Rings that describe a spot to that regression. Held-out bands of a section of one patient want five or six, held-out
#: sections of another seven or eight, by little.
_RINGS = 5

#: What both may cost, as a share of the error on held-out tissue, noise and all. If they cost more, the penalty is a
#: weaker one, and the rings are one. Real sections of one patient cost less (benchmarks/results/accuracy/caution.md).
_PRICE = 0.03

#: Certainty that a correction lowers the error on held-out sections, for it to be added.
_CERTAIN = 0.95

#: Spots from which on descriptions by several rings are not held to predict from them.
_MANY = 4096

#: Share of the held-out error with an encoder below which it is lower without: less is rounding.
_LOWER = 1 - 1e-9

#: Name of the tensor of the training patients.
PATIENTS = "patients"

#: Prefix and parts of the tensors of a description.
_FEATURES = "features"
_DESCRIPTION = ("mean", "std", "weight", "parts")

#: Names of the tensors of a description to the regression for new patients: factors of its parts and of features.
_PARTS, _WEIGHT = "new.parts", "new.weight"


@dataclass(frozen=True)
class ClosedForm:
    """Two ridge regressions: ``known`` for sections of training patients, ``new`` for all others.

    Within a patient, a kernel and a weak penalty find more than a line does. Another patient's tissue is not where such
    a function was learned. So the regression for new patients is chosen on held-out patients; and if training has only
    one, it is linear, has a strong penalty, and reads means of five rings around a spot, unless that costs much on
    held-out tissue. The features of an encoder that held-out tissue is predicted better without are not shown to it.

    Attributes
    ----------
    description, new_description
        Describe spots to ``known`` and to ``new``.
    known, new
        The regressions.
    patients
        Digests of the names of the training patients: a model file names nobody.
    """

    description: Description
    new_description: Description
    known: ComponentRidge
    new: ComponentRidge
    patients: frozenset[bytes]

    def __call__(self, section: Data) -> Tensor:
        """Predict expression of a whole section, ``(n_spots, n_genes)`` float32."""
        return predict_spots(self._describes(section), self.ridge(section), section).to(section.edge_index.device)

    def ridge(self, section: Data) -> ComponentRidge:
        """Give the regression that predicts a section."""
        return self.known if self.knows(section) else self.new

    def knows(self, section: Data) -> bool:
        """Whether a section is of a training patient; if nobody says, it is of another."""
        return "patient" in section and _digest(str(section.patient)) in self.patients

    def reach(self, section: Data) -> int:
        """Count the edges within which the prediction of a spot of this section reads features."""
        return self._describes(section).reach

    def _describes(self, section: Data) -> Description:
        return self.description if self.knows(section) else self.new_description

    def described(self, section: Data, spots: NDArray[np.int64]) -> Tensor:
        """Describe some spots of a whole section to the regression that predicts it, ``(n, d)`` float64."""
        return self._describes(section).of(section.x, section.edge_index).read(spots)

    def corrected(self, section: Data, error: ComponentRidge) -> ClosedForm:
        """Give the closed form that adds an error to what it predicts of sections like this one."""
        ridge = self.ridge(section).plus(error)
        return replace(self, known=ridge) if self.knows(section) else replace(self, new=ridge)

    def own(self, section: Data) -> Tensor:
        """Predict from the spots' own features, as if none had neighbours."""
        alone = copy.copy(section)
        alone.edge_index = section.edge_index[:, :0]
        return self(alone)

    def memory(self) -> Memory:
        """Give tensors for :meth:`restore`."""
        return {
            PATIENTS: torch.tensor([list(each) for each in sorted(self.patients)], dtype=torch.uint8),
            **description_tensors(self.description),
            **ridge_tensors(self.known, "known"),
            **ridge_tensors(self.new, "new"),
            _PARTS: self.new_description.parts.clone(),
            _WEIGHT: self.new_description.weight.clone(),
        }

    @classmethod
    def restore(cls, memory: Memory) -> ClosedForm:
        """Restore what gave ``memory``; an earlier one describes spots to both regressions alike."""
        patients = frozenset(bytes(row) for row in memory[PATIENTS].tolist())
        description, new = description_in(memory), ridge_in(memory, "new")
        parts, weight = (
            memory[name].cpu().double() if name in memory else before
            for name, before in ((_PARTS, description.parts), (_WEIGHT, description.weight))
        )
        if new.n_inputs != len(parts) * len(description.mean):
            raise KeyError(_PARTS)
        if weight.shape != description.mean.shape:
            raise KeyError(_WEIGHT)
        new_description = replace(description, parts=parts, weight=weight)
        return cls(description, new_description, ridge_in(memory, "known"), new, patients)


class FittedForm(NamedTuple):
    """A closed form, the held-out component scores of each training section by ``form.known``, and what was chosen."""

    form: ClosedForm
    held_out: list[Tensor]
    chosen: dict[str, Any]


def fit_closed_form(
    sections: Sequence[Data],
    n_components: int,
    depth_power: float,
    *,
    own: bool = True,
    around: bool = True,
    most_spots: int = MOST_SPOTS,
    threads: int = 1,
) -> FittedForm:
    """Fit the closed form of training sections.

    Of very many spots, an even sample is fitted and chooses penalties. Features are standardised by all spots, all
    spots say the components of expression, and each is predicted by a regression that has not seen its part.

    Parameters
    ----------
    sections
        Training graphs, with ``y``, ``library`` and perhaps ``patient``.
    n_components
        Number of components of expression.
    depth_power
        Within training patients, a spot counts with this power of its library size: a spot of few counts says little.
    own, around
        Whether spots are described by their own features and by their neighbours'.
    most_spots
        Number of spots to fit.
    threads
        Regressions that are fitted at a time. Numbers do not depend on it.
    """
    description = Description.fit([each.x for each in sections], groups_of(sections[0]), own=own, around=around)
    sizes = [int(section.num_nodes or 0) for section in sections]
    counted = [section.library[:, 0].double() ** depth_power for section in sections]
    drawn = drawn_spots(sections, most_spots)
    of_all = len(drawn) == sum(sizes)
    spots = described_spots(description, sections, drawn)
    views = len(spots.weights) // len(drawn)

    known = fit_component_ridge(
        spots._replace(weights=torch.cat(counted)[drawn].repeat(views)),
        sharpness=_KERNELS,
        n_components=[n_components],
        penalties=PENALTIES,
        by_component=True,
        basis=None if of_all else _basis(sections, n_components, counted),
        threads=threads,
    )
    del spots
    new_description, new, without = _for_new_patients(description, sections, n_components, most_spots, threads)
    if of_all:
        held_out = list(known.held_out[: sum(sizes)].float().split(sizes))
    else:
        parts = torch.from_numpy(section_groups(sections) % MOST_FOLDS).split(sizes)
        held_out = [
            known.held_out_scores(description.of(each.x, each.edge_index).blocks(torch.float32), part)
            for each, part in zip(sections, parts, strict=True)
        ]
    named = frozenset(_digest(str(section.patient)) for section in sections if "patient" in section)
    form = ClosedForm(description, new_description, known.ridge, new.ridge, named)
    chosen = {"known": known.chosen, "new": new.chosen | ({"without": without} if without else {})}
    return FittedForm(form, held_out, chosen)


def _for_new_patients(
    description: Description, sections: Sequence[Data], n_components: int, most_spots: int, threads: int
) -> tuple[Description, RidgeFit, list[str]]:
    """Fit the regression for new patients, and choose which encoders' features describe spots to it; name the others.

    One encoder after the other is left out, each time the one without which held-out tissue is predicted best, as long
    as that is better than with it.
    """
    several = len(set(patients_of(sections))) > 1
    cautious = [each for each in PENALTIES if each < _CAUTIOUS] + [_CAUTIOUS]
    wide = description if several else description.with_rings(_RINGS)
    n_spots = sum(int(section.num_nodes or 0) for section in sections)

    def most_of(shown: Description) -> int:
        # More numbers a spot, of fewer spots, are not more to hold.
        return most_spots * len(description.parts) // len(shown.parts)

    basis = _basis(sections, n_components) if n_spots > most_of(wide) else None

    def fitted(shown: Description, most: int) -> tuple[Description, RidgeFit]:
        drawn = drawn_spots(sections, most)
        folds = torch.from_numpy((patient_groups(sections) % MOST_FOLDS)[drawn])
        spots = described_spots(shown, sections, drawn)
        return shown, fit_component_ridge(
            spots._replace(folds=folds.repeat(len(spots.weights) // len(drawn))),
            sharpness=_KERNELS if several else (0.0,),
            n_components=[n_components],
            penalties=PENALTIES if several else cautious,
            by_component=True,
            price=None if several else _PRICE,
            basis=basis if len(drawn) < n_spots else None,
            threads=threads,
        )

    most, group = most_of(wide), groups_of(sections[0])
    best = fitted(wide, most)
    if not several and description.reach:
        narrow = fitted(description, most)
        if best[1].error > (1 + _PRICE) * min(best[1].least, narrow[1].least):
            most = most_of(description)
            best = narrow if basis is None else fitted(description, most)
    encoders = [] if group is None else group.unique().tolist()
    left_out: list[int] = []
    while group is not None and len(encoders) > 1:
        found = {each: fitted(best[0].by_features(group != each), most) for each in encoders}
        worst = min(found, key=lambda each: found[each][1].error)
        if found[worst][1].error >= _LOWER * best[1].error:
            break
        best = found[worst]
        encoders.remove(worst)
        left_out.append(worst)
    return *best, _encoder_names(sections[0], left_out)


def _basis(sections: Sequence[Data], n_components: int, weights: Sequence[Tensor] | None = None) -> Tensor:
    """Find the components of all spots, for a regression that does not see them all."""
    return components([each.y for each in sections], n_components, apart=True, weights=weights).loadings


def correction_gain(correction: Tensor, left: Tensor, observed: Tensor) -> tuple[float, float]:
    """Compute what a correction explains of the closed form's error on a section, and the correction's own size.

    All are ``(n_spots, n_genes)``, and are taken without offsets of the whole section, which no correlation sees, and
    in units of each gene's variance, as all genes count alike in scores.
    """
    correction, left, observed = (each.double() - each.double().mean(dim=0) for each in (correction, left, observed))
    variance = observed.square().mean(dim=0)
    varies = variance > 0
    size = (correction.square().mean(dim=0) / variance)[varies].mean() if varies.any() else torch.zeros(())
    gain = ((correction * left).mean(dim=0) / variance)[varies].mean() if varies.any() else torch.zeros(())
    return float(gain), float(size)


def correction_factor(gains: Sequence[tuple[float, float]]) -> float:
    """Choose the factor of a correction from the gains of held-out sections; see :meth:`NH2STGraph.settle`."""
    if len(gains) < 2:
        return 0.0
    product, square = np.array(gains).T
    factor = float(np.clip(product.sum() / max(square.sum(), 1e-300), 0.0, 1.0))
    fall = 2 * factor * product - factor**2 * square
    least = fall.mean() - student.ppf(_CERTAIN, len(fall) - 1) * fall.std(ddof=1) / len(fall) ** 0.5
    return factor if least > 0 else 0.0


def predict_spots(
    description: Description, ridge: ComponentRidge, section: Data, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Predict expression of a whole section, ``(n_spots, n_genes)``, some spots at a time.

    Float32 has float32 products if the kernel is linear. With a Gaussian and a weak penalty, large terms of both signs
    cancel, so that such products would be wrong by up to 5e-4 of a prediction's standard deviation.
    """
    x = section.x if isinstance(section.x, Rows) else section.x.cpu()
    spots = description.of(x, section.edge_index.cpu())
    if description.n_rings > 1 and not ridge.sharpness and len(x) >= _MANY:
        scores = spots.products(ridge.coefficients, dtype) + ridge.intercept.to(dtype)
        found = (ridge.expand(each) for each in scores.split(_MANY))
    else:
        found = (ridge(each) for each in spots.blocks(torch.float64 if ridge.sharpness else dtype))
    expression, start = torch.empty(len(x), ridge.basis.shape[1], dtype=dtype), 0
    for rows in found:
        expression[start : start + len(rows)] = rows
        start += len(rows)
    return expression


def described_spots(
    description: Description, sections: Sequence[Data], drawn: NDArray[np.int64] | None = None
) -> RidgeSpots:
    """Join the spots of training sections, with equal weights, in folds of sections, or of bands of a single one.

    Views of the sections in other stains (``x_views``) follow, as more spots of the same sections and folds.

    Parameters
    ----------
    description
        Describes spots.
    sections
        Training sections.
    drawn
        Positions of the wanted spots among the joined ones, ascending; None for all.
    """
    sizes = [int(section.num_nodes or 0) for section in sections]
    drawn = np.arange(sum(sizes)) if drawn is None else drawn
    wanted = by_section(drawn, sections)

    def described(features: Sequence[Tensor | Rows]) -> Tensor:
        joined = torch.empty(len(drawn), len(description.parts) * features[0].shape[1], dtype=torch.float64)
        rows = joined.split([len(spots) for spots in wanted])
        for part, x, section, spots in zip(rows, features, sections, wanted, strict=True):
            description.of(x, section.edge_index).write(spots, part)
        return joined

    own = RidgeSpots(
        described([section.x for section in sections]),
        torch.cat(
            [section.y[torch.from_numpy(spots)] for section, spots in zip(sections, wanted, strict=True)]
        ).double(),
        torch.arange(len(sections)).repeat_interleave(torch.tensor(sizes))[drawn],
        torch.from_numpy(section_groups(sections) % MOST_FOLDS)[drawn],
        torch.ones(len(drawn), dtype=torch.float64),
    )
    n_views = min(section.x_views.shape[1] if "x_views" in section else 0 for section in sections)
    views = [own._replace(described=described([each.x_views[:, k] for each in sections])) for k in range(n_views)]
    return RidgeSpots(*(torch.cat(parts) for parts in zip(own, *views, strict=True))) if views else own


def groups_of(section: Data) -> Tensor | None:
    """Give the number of each feature's group; None if a graph does not say."""
    return section.x_groups[0] if "x_groups" in section else None


def _encoder_names(section: Data, numbers: Sequence[int]) -> list[str]:
    """Name the encoders of some groups of features; by their numbers if a graph does not say."""
    names = section.encoders.split("\n") if "encoders" in section else []
    return [names[each] if each < len(names) else str(each) for each in numbers]


def description_tensors(description: Description) -> Memory:
    """Give a description as tensors, which all regressions on it share."""
    return {f"{_FEATURES}.{part}": getattr(description, part) for part in _DESCRIPTION}


def description_in(memory: Memory) -> Description:
    """Read what :func:`description_tensors` gave."""
    return Description(*(memory[f"{_FEATURES}.{part}"].cpu().double() for part in _DESCRIPTION))


def ridge_tensors(ridge: ComponentRidge, name: str) -> Memory:
    """Give a ridge regression as tensors; points and basis are float32, the rest as it was.

    They are contiguous, as after loading: products of other layouts are rounded otherwise.
    """
    parts = {
        "sharpness": torch.tensor(ridge.sharpness, dtype=torch.float64),
        "points": ridge.points.float(),
        "coefficients": ridge.coefficients,
        "intercept": ridge.intercept,
        "mean": ridge.mean,
        "basis": ridge.basis.float(),
    }
    return {f"{name}.{part}": value.contiguous() for part, value in parts.items()}


def ridge_in(memory: Memory, name: str) -> ComponentRidge:
    """Read what :func:`ridge_tensors` gave."""
    # Points and basis stay as they were saved: they are the most, and are computed with in other precision anyway.
    points, basis = (memory[f"{name}.{key}"].cpu() for key in ("points", "basis"))
    coefficients, intercept, mean, sharpness = (
        memory[f"{name}.{key}"].cpu().double() for key in ("coefficients", "intercept", "mean", "sharpness")
    )
    return ComponentRidge(float(sharpness), points, coefficients, intercept, mean, basis)


def _digest(patient: str) -> bytes:
    return bytes.fromhex(patient_digest(patient))
