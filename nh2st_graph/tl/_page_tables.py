"""Tables of pages: cells that sort, and what is known of each gene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from nh2st_graph.confidence import OF_NEW, Confidence
from nh2st_graph.section import Key

if TYPE_CHECKING:
    from nh2st_graph.tl._evaluate import Evaluation

__all__ = ["UNNAMED", "Cell", "Table", "gene_table", "number", "ordered", "slides_in_words"]

#: What to know of a model whose training names no patient.
UNNAMED = "No training section names its patient: sections of one patient may count as independent ones."

#: Columns of the evidence on genes, and how their values are written.
_EVIDENCE = {
    Key.var.held_out_r: ("r", "{:.3f}"),
    Key.var.held_out_partial: ("r given depth", "{:.3f}"),
    Key.var.held_out_ceiling: ("noise ceiling", "{:.3f}"),
    Key.var.held_out_share: ("share of ceiling", "{:.0%}"),
}


class Cell(NamedTuple):
    """A text, and the value that it is sorted by if it begins with no number."""

    text: str
    value: float | None = None


class Table(NamedTuple):
    """Columns beside the first, and rows: a name, a role, and cells."""

    columns: list[str]
    rows: list[tuple[str, str, list[Cell]]]


def ordered(genes: pd.DataFrame) -> pd.Index:
    """Order genes: the reliable ones first, and each of both by r given depth."""
    return genes.sort_values([Key.var.reliable, Key.var.held_out_partial], ascending=False, kind="stable").index


def slides_in_words(confidence: Confidence | None, kind: str) -> str:
    """Name the slides that evidence is for."""
    if confidence is None or (kind == OF_NEW and not confidence.n_patients):
        return "other slides"
    return f"slides of {kind}"


def gene_table(confidence: Confidence, kind: str, evaluation: Evaluation | None) -> Table:
    """Tabulate genes: the evidence for one kind of slide, what other kinds would say, and the test scores."""
    genes = confidence.of(kind).genes
    columns = {"reliable": [_yes(value) for value in genes[Key.var.reliable]]}
    for i in np.flatnonzero(confidence.barely_measured):
        columns["reliable"][i] = Cell("not predicted", -1.0)
    for key, (header, form) in _EVIDENCE.items():
        columns[header] = [Cell(number(value, form)) for value in genes[key]]
        if key == Key.var.held_out_partial:
            ends = zip(genes[Key.var.held_out_low], genes[Key.var.held_out_high], strict=True)
            columns["its 95% interval"] = [Cell(f"[{low:.2f}, {high:.2f}]", round(float(low), 4)) for low, high in ends]
            if Key.var.held_out_chance in genes:  # not of the first models with evidence
                columns["chance reaches"] = [Cell(number(value)) for value in genes[Key.var.held_out_chance]]
    columns["sections"] = [Cell(str(n)) for n in genes[Key.var.n_sections]]
    columns["patients"] = [Cell(str(n)) for n in genes[Key.var.n_patients]] if confidence.n_patients else []
    columns["training spots with a count"] = [Cell(str(n)) for n in confidence.detected]
    for of, other in confidence.kinds.items():
        if of != kind:
            columns[f"reliable for {of}"] = [_yes(value) for value in other.genes[Key.var.reliable]]
            columns[f"r given depth for {of}"] = [Cell(number(r)) for r in other.genes[Key.var.held_out_partial]]
    if evaluation is not None:
        tested = evaluation.per_gene[["pcc", "pcc_partial"]].groupby("gene").mean().loc[genes.index]
        columns["test r"] = [Cell(number(value)) for value in tested["pcc"]]
        columns["test r given depth"] = [Cell(number(value)) for value in tested["pcc_partial"]]
    columns = {header: cells for header, cells in columns.items() if cells}
    roles = ["reliable" if value else "" for value in genes[Key.var.reliable]]
    by_gene = dict(zip(genes.index, zip(roles, *columns.values(), strict=True), strict=True))
    rows = [(str(gene), by_gene[gene][0], list(by_gene[gene][1:])) for gene in ordered(genes)]
    return Table(list(columns), rows)


def _yes(value: object) -> Cell:
    return Cell("yes", 1.0) if value else Cell("no", 0.0)


def number(value: Any, form: str = "{:.3f}") -> str:
    """Write a number; nothing for NaN and None."""
    return "" if value is None or np.isnan(value) else form.format(value)
