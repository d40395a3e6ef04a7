"""All that a model knows about how far its predictions can be believed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nh2st_graph.confidence._calibration import Calibration, Coverage
from nh2st_graph.confidence._calls import CallTables, call_tables
from nh2st_graph.confidence._held_out import HeldOut
from nh2st_graph.confidence._reliable import gene_table
from nh2st_graph.confidence._written import OF_ADAPTED, OF_KNOWN, OF_NEW
from nh2st_graph.section import Key

__all__ = ["FEW_SPOTS", "Confidence", "Evidence"]

#: A gene that was detected in fewer training spots than this was barely measured.
FEW_SPOTS = 10

#: Kinds of slides, the best known first, and what a model's file calls their evidence.
_NAMES = {OF_KNOWN: "known", OF_ADAPTED: "adapted", OF_NEW: "new"}

#: In a model's file: the pairs of slides of new patients are those of this kind, too.
_SHARED = "pairs_of_new"


@dataclass(frozen=True, eq=False)
class Evidence:
    """What held-out tissue says about predictions of one kind of slide.

    Attributes
    ----------
    genes
        A row for each gene; see :func:`gene_table`.
    calibration
        Pairs of prediction and measurement.
    to_another_patient
        Whether the slides are of other patients than those whose held-out tissue this is, and of whom other tissue was
        learned from; or all of it is of one patient that is named.
    """

    genes: pd.DataFrame
    calibration: Calibration
    to_another_patient: bool = False

    @cached_property
    def calls(self) -> CallTables:
        """What calls of high and low spots rest on."""
        return call_tables(self.calibration)

    def coverage(self, level: float) -> Coverage:
        """Say what intervals of a level are worth; tissue of one patient guarantees nothing in another."""
        found = self.calibration.coverage(level)
        return replace(found, guaranteed=0.0, to_another_patient=True) if self.to_another_patient else found


@dataclass(frozen=True, eq=False)
class Confidence:
    """Evidence for slides of training patients, of those that a model was adapted to, and of new ones.

    A method may predict them by different functions, and what holds within a patient need not hold in another.

    Attributes
    ----------
    new
        Evidence for slides of new patients, and of those whom nobody names.
    known
        Evidence for slides of training patients; None where held-out sections were of other patients.
    detected
        Number of training spots with a count of each gene, ``(n_genes,)``.
    n_patients
        Number of training patients that are named; 0 if none is.
    patients
        What stands for their names, which a model's file does not hold.
    adapted
        Evidence for slides of patients that the model was adapted to; None if there are none, or training had no
        others.
    adapted_patients
        What stands for their names.
    """

    new: Evidence
    known: Evidence | None
    detected: NDArray[np.integer[Any]]
    n_patients: int
    patients: frozenset[str] = frozenset()
    adapted: Evidence | None = None
    adapted_patients: frozenset[str] = frozenset()

    @classmethod
    def fit(
        cls,
        genes: Sequence[str],
        new: Sequence[HeldOut],
        known: Sequence[HeldOut],
        detected: NDArray[np.integer[Any]],
        *,
        ceilings: Mapping[str, pd.DataFrame],
        patients: Iterable[str] = (),
        least: float | None = 0.0,
        seed: int = 0,
    ) -> Confidence:
        """Weigh held-out tissue.

        Where a single training patient is named, or there is a single section, no gene is reliable for slides of new
        patients: what is this patient's own is not known. Nor is any where other tissue of the held-out patients was
        learned from; if of several patients none was, their parts alone count. A gene that was barely measured is not
        reliable, and has no noise ceiling.

        Parameters
        ----------
        genes
            Names of the genes.
        new, known
            Held-out parts, predicted as of new patients and as of training patients; the latter may be empty, or the
            very same.
        detected
            Number of training spots with a count of each gene.
        ceilings
            Noise ceilings of the sections by name.
        patients
            What stands for the names of the training patients.
        least
            Smallest value that a target can have.
        seed
            Of draws.
        """

        def weighed(parts: Sequence[HeldOut]) -> Evidence:
            return Evidence(
                gene_table(parts, genes, ceilings, seed=seed), Calibration.fit(parts, least=least, seed=seed)
            )

        n_patients = len({each.patient for each in new} - {""})
        learned = {(each.section, each.part) for each in known}
        strange = [each for each in new if (each.section, each.part) not in learned]
        apart = len({each.patient for each in strange} - {""}) > 1
        new = strange if apart else new
        first = weighed(new)
        # A section of nobody is still of one patient.
        alone = not apart and (n_patients > 0 or len({each.section for each in new}) == 1)
        found = {OF_NEW: replace(first, genes=first.genes.copy(), to_another_patient=alone)}
        if known:
            same = len(known) == len(new) and all(one is other for one, other in zip(known, new, strict=True))
            found[OF_KNOWN] = first if same else weighed(known)
        barely = detected < FEW_SPOTS
        for evidence in found.values():
            if evidence.to_another_patient:
                evidence.genes[Key.var.reliable] = False
            evidence.genes.loc[barely, Key.var.reliable] = False
            # What is in a handful of spots splits into halves that agree there, by chance alone.
            evidence.genes.loc[barely, [Key.var.held_out_ceiling, Key.var.held_out_share]] = np.nan
        return cls(found[OF_NEW], found.get(OF_KNOWN), detected, n_patients, frozenset(patients))

    def kind_of(self, patient: str | None) -> str:
        """Say by whose evidence a slide of a patient is judged: :data:`OF_KNOWN`, :data:`OF_ADAPTED`, :data:`OF_NEW`.

        A patient is what stands for a name; one whom nobody names (None) is a new one.
        """
        if self.adapted is not None and patient in self.adapted_patients:
            return OF_ADAPTED
        return OF_KNOWN if self.known is not None and patient in self.patients else OF_NEW

    @property
    def kinds(self) -> dict[str, Evidence]:
        """The evidence for each kind of slides that has its own, the best known first."""
        evidence = {OF_KNOWN: self.known, OF_ADAPTED: self.adapted, OF_NEW: self.new}
        return {kind: each for kind, each in evidence.items() if each is not None}

    def of(self, kind: str) -> Evidence:
        """Give the evidence for slides of a kind; where there is none of their own, that for new patients."""
        return self.kinds.get(kind, self.new)

    @property
    def barely_measured(self) -> NDArray[np.bool_]:
        """Whether a gene was detected in too few training spots to be predicted, ``(n_genes,)``."""
        return np.asarray(self.detected < FEW_SPOTS)

    @property
    def not_predicted(self) -> list[str]:
        """The genes that were barely measured: predictions leave them out (NaN), and scores count them."""
        return [str(gene) for gene in self.new.genes.index[self.barely_measured]]

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Give arrays by name, and facts for JSON, for :meth:`restore`."""
        arrays: dict[str, NDArray[Any]] = {"detected": np.asarray(self.detected, dtype=np.int64)}
        facts: dict[str, Any] = {"n_patients": self.n_patients}
        for key in ("patients", "adapted_patients"):
            facts[key] = sorted(getattr(self, key))
        for kind, evidence in self.kinds.items():
            name = _NAMES[kind]
            own, facts[name] = evidence.calibration.state()
            if kind != OF_NEW and evidence.calibration is self.new.calibration:
                own, facts[name] = {}, {_SHARED: True}
            arrays |= {f"{name}.{key}": value for key, value in own.items()}
            arrays |= {f"{name}.genes.{key}": evidence.genes[key].to_numpy() for key in evidence.genes}
            facts[name] |= {"columns": list(evidence.genes), "to_another_patient": evidence.to_another_patient}
        return arrays, facts

    @classmethod
    def restore(cls, genes: Sequence[str], arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Confidence:
        """Restore what gave arrays and facts.

        Raises
        ------
        KeyError, ValueError
            If a part is missing or of another length.
        """
        found: dict[str, Evidence] = {}
        n_patients = int(facts["n_patients"])
        for kind in reversed(_NAMES):
            name = _NAMES[kind]
            if name not in facts:
                continue
            own = {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}
            columns = {key: own[f"genes.{key}"] for key in facts[name]["columns"]}
            table = pd.DataFrame(columns, index=pd.Index(genes, name="gene"))
            shared = facts[name].get(_SHARED, False)
            calibration = found[OF_NEW].calibration if shared else Calibration.restore(own, facts[name])
            # An earlier version did not write it.
            alone = facts[name].get("to_another_patient", kind == OF_NEW and n_patients == 1)
            found[kind] = Evidence(table, calibration, bool(alone))
        patients, adapted = (frozenset(map(str, facts.get(key, ()))) for key in ("patients", "adapted_patients"))
        known = found.get(OF_KNOWN)
        return cls(found[OF_NEW], known, arrays["detected"], n_patients, patients, found.get(OF_ADAPTED), adapted)
