"""What the finished runs of a study scored, as tidy tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nh2st_graph.study._folder import is_finished, read_record
from nh2st_graph.study._plan import PlannedRun, Study

__all__ = ["Results", "collect", "references"]

#: Floors that a table shows below the variants.
_FLOORS = ("ridge", "ridge_neighbours")
#: What a score is of.
_PLACE = ("split", "variant", "fold", "section", "seed")
_PER_GENE = ("pcc", "pcc_partial")


@dataclass(frozen=True)
class Results:
    """Scores of a study's finished runs.

    Attributes
    ----------
    scores
        One row for each run and test section: ``split``, ``variant``, ``fold``, ``section``, ``seed``, every score of
        ``metrics.json``, ``parameters`` and ``seconds``. Floors are rows of their own, from the base's runs: they learn
        from the features and targets alone, which variants share unless they change just these.
    per_gene
        One row for each of these and gene: ``pcc`` and ``pcc_partial``.
    kinds
        Whether gene names say what kind of gene it is, as those of the synthetic tissue do.
    """

    scores: pd.DataFrame
    per_gene: pd.DataFrame
    kinds: bool


def collect(study: Study, runs: Sequence[PlannedRun]) -> Results:
    """Read the scores of those runs that are finished."""
    finished = [run for run in runs if is_finished(run.folder)]
    rows = [row for run in finished for row in _scores(run, is_base=run.variant == study.base.name)]
    genes = [_per_gene(run, is_base=run.variant == study.base.name) for run in finished]
    return Results(
        pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*_PLACE, "pcc_mean", "pcc_partial"]),
        pd.concat(genes, ignore_index=True) if genes else pd.DataFrame(columns=[*_PLACE, "gene", *_PER_GENE]),
        kinds=study.base.config.data.format == "synthetic",
    )


def references() -> dict[str, str]:
    """Floors that stand below the variants, and what tables call them."""
    from nh2st_graph.tl import LABELS

    return {floor: LABELS[floor] for floor in _FLOORS}


def _scores(run: PlannedRun, is_base: bool) -> list[dict[str, Any]]:
    """One row for each section that a run scored, and each of its floors where it is the base's."""
    metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    record = read_record(run.folder)
    noted = record._asdict() if record is not None else {}
    scored = {run.variant: (metrics["sections"], noted)}
    if is_base:
        scored |= {label: (metrics["floors"][floor]["sections"], {}) for floor, label in references().items()}
    return [
        {"split": run.fold.split, "variant": name, "fold": run.fold.name, "section": section, "seed": run.seed}
        | scores
        | also
        for name, (sections, also) in scored.items()
        for section, scores in sections.items()
    ]


def _per_gene(run: PlannedRun, is_base: bool) -> pd.DataFrame:
    """Read r of each gene, in rows as those of :func:`_scores`."""
    table = pd.read_csv(run.folder / "metrics_per_gene.csv", dtype={"section": str, "gene": str}, keep_default_na=False)
    parts = {run.variant: {score: score for score in _PER_GENE}}
    if is_base:
        parts |= {label: {score: f"{score}_{floor}" for score in _PER_GENE} for floor, label in references().items()}
    named = [
        table[["section", "gene"]].assign(
            variant=name,
            **{score: pd.to_numeric(table[column]) for score, column in columns.items() if column in table},
        )
        for name, columns in parts.items()
    ]
    return pd.concat(named, ignore_index=True).assign(split=run.fold.split, fold=run.fold.name, seed=run.seed)
