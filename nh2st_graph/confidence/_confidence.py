"""All that a model knows about how far its predictions can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from nh2st_graph.section import Key

__all__ = ["FEW_SPOTS", "Confidence", "Evidence"]

#: A gene that was detected in fewer training spots than this was barely measured.
FEW_SPOTS = 10

_NEW, _KNOWN = "new", "known"


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
        Whether all held-out tissue is of one patient that is named, and the slides are of others.
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
    """Evidence for slides of training patients and for those of new ones.

    A method may predict them by different functions, and what holds within a patient need not hold in another.

    Attributes
    ----------
    new
        Evidence for slides of new patients.
    known
        Evidence for slides of training patients; None where held-out sections were of other patients, or the method
        does not ask.
    detected
        Number of training spots with a count of each gene, ``(n_genes,)``.
    n_patients
        Number of training patients that are named; 0 if none is.
    """

    new: Evidence
    known: Evidence | None
    detected: NDArray[np.integer[Any]]
    n_patients: int

    @classmethod
    def fit(
        cls,
        genes: Sequence[str],
        new: Sequence[HeldOut],
        known: Sequence[HeldOut],
        detected: NDArray[np.integer[Any]],
        *,
        ceilings: Mapping[str, pd.DataFrame],
        least: float | None = 0.0,
        seed: int = 0,
    ) -> Confidence:
        """Weigh held-out tissue.

        Where a single training patient is named, no gene is reliable for slides of new patients: what is this
        patient's own is not known. A gene that was barely measured is not reliable, and has no noise ceiling.

        Parameters
        ----------
        genes
            Names of the genes.
        new, known
            Held-out parts, predicted as of new patients and as of training patients; the latter may be empty.
        detected
            Number of training spots with a count of each gene.
        ceilings
            Noise ceilings of the sections by name.
        least
            Smallest value that a target can have.
        seed
            Of draws.
        """
        found = {}
        n_patients = len({each.patient for each in new} - {""})
        for name, parts in ((_NEW, new), (_KNOWN, known)):
            if parts:
                table = gene_table(parts, genes, ceilings, seed=seed)
                calibration = Calibration.fit(parts, least=least, seed=seed)
                found[name] = Evidence(table, calibration, name == _NEW and n_patients == 1)
        barely = detected < FEW_SPOTS
        for evidence in found.values():
            if evidence.to_another_patient:
                evidence.genes[Key.var.reliable] = False
            evidence.genes.loc[barely, Key.var.reliable] = False
            # What is in a handful of spots splits into halves that agree there, by chance alone.
            evidence.genes.loc[barely, [Key.var.held_out_ceiling, Key.var.held_out_share]] = np.nan
        return cls(found[_NEW], found.get(_KNOWN), detected, n_patients)

    def of(self, *, known: bool) -> Evidence:
        """Give the evidence for a slide of a training patient (``known``), or of a new one."""
        return self.known if known and self.known is not None else self.new

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
        for name, evidence in ((_NEW, self.new), (_KNOWN, self.known)):
            if evidence is None:
                continue
            own, facts[name] = evidence.calibration.state()
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
        for name in (_NEW, _KNOWN):
            if name not in facts:
                continue
            own = {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}
            columns = {key: own[f"genes.{key}"] for key in facts[name]["columns"]}
            table = pd.DataFrame(columns, index=pd.Index(genes, name="gene"))
            # An earlier version did not write it.
            alone = facts[name].get("to_another_patient", name == _NEW and n_patients == 1)
            found[name] = Evidence(table, Calibration.restore(own, facts[name]), bool(alone))
        return cls(found[_NEW], found.get(_KNOWN), arrays["detected"], n_patients)
