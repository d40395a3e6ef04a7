"""Scores of the finished runs of a study, as tidy tables."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from nh2st_graph._errors import RenamedWarning
from nh2st_graph.metrics import GENE_SCORES
from nh2st_graph.section import LogBase
from nh2st_graph.study._folder import read_metrics, read_record, read_rows
from nh2st_graph.study._plan import PlannedRun, Study
from nh2st_graph.study._protocols import Protocols

__all__ = ["PLACE", "Results", "StudyResult", "collect", "references", "seen_sections"]

#: Baselines that a table shows below the variants of an ablation study.
_BASELINES = ("ridge", "ridge_neighbours", "reduced_rank_ridge")
#: Columns that say where a score was measured.
PLACE = ("split", "variant", "fold", "section", "seed")
#: Errors, with the power of the unit of expression that they are in.
_ERRORS = {"mae": 1, "mse": 2}
_CURVES = ("stage", "epoch", "step", "val_loss", "val_pcc")


@dataclass(frozen=True)
class Results:
    """Scores of the finished runs of a study.

    Attributes
    ----------
    scores
        One row for each run and test section: ``split``, ``variant``, ``fold``, ``section``, ``seed``, every score of
        ``metrics.json``, and the run's costs (``parameters``, ``steps``, ``seconds``, ``fit_seconds``,
        ``predict_seconds``, ``peak_memory_mb``). Baselines and references have rows of their own, read from the runs of
        the base; in a benchmark from the first run of each fold. They depend on features and targets alone, which
        variants share unless they change these.
    per_gene
        One row for each row of ``scores`` and gene: ``pcc``, ``pcc_partial``, and the noise ``ceiling``.
    curves
        One row for each epoch of each fold of the training sections: ``split``, ``variant``, ``fold``, ``seed``,
        ``stage``, ``epoch``, ``step``, ``val_loss``, ``val_pcc``. A method that fits itself has none.
    """

    scores: pd.DataFrame
    per_gene: pd.DataFrame
    curves: pd.DataFrame


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes
    ----------
    study
        What was asked for.
    table
        One row for each split and variant: means, differences from the reference, costs; of a benchmark with places.
    explanation
        What the numbers of the table are.
    verdicts
        Of a benchmark, what the table shows: sentences by split.
    results
        Scores of every run.
    failures
        Runs that failed, and why.
    findings
        What was found, shortly: a sentence for each split, without a full stop.
    written
        Tables, figures and report.
    protocols
        Of a task of HEST-Benchmark, its published protocol, each repair of it, and ours.
    """

    study: Study
    table: pd.DataFrame
    explanation: str
    verdicts: Mapping[str, list[str]]
    results: Results
    failures: Mapping[PlannedRun, str]
    findings: list[str] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    protocols: Protocols | None = None

    @property
    def board(self) -> pd.DataFrame:
        """The table of a benchmark by its earlier name, which is there until version 0.2."""
        warnings.warn("StudyResult.board is now StudyResult.table", RenamedWarning, stacklevel=2)
        return self.table.rename(columns={"variant": "method"})


def collect(study: Study, runs: Sequence[PlannedRun]) -> Results:
    """Read the scores of the runs that are finished."""
    finished = [run for run in runs if run.finished]
    sources = {run.fold: run for run in reversed(finished)}.values()
    beside = references(study)
    scores, genes, curves = [], [], []
    for run in finished:
        gives = run in sources if study.ranked else run.variant == study.reference
        scores += _scores(run, beside if gives else {}, study.config.data.log_base)
        genes.append(_per_gene(run, beside if gives else {}))
        log = run.folder / "log.csv"
        if log.is_file():
            curves.append(_placed(read_rows(log, usecols=list(_CURVES)), run, variant=run.variant))
    curve = _joined(curves, ("split", "variant", "fold", "seed", *_CURVES))
    return Results(
        pd.DataFrame(scores) if scores else pd.DataFrame(columns=[*PLACE, "pcc_mean", "pcc_partial"]),
        _joined(genes, (*PLACE, "gene", *GENE_SCORES, "ceiling")),
        curve[curve["stage"].str.startswith("fold")] if len(curve) else curve,
    )


def seen_sections(runs: Sequence[PlannedRun]) -> dict[str, Mapping[str, str]]:
    """Read the digests of the sections that finished runs learned from and were scored on, by section."""
    seen: dict[str, Mapping[str, str]] = {}
    for run in runs:
        protocol = read_metrics(run.folder)["protocol"]
        seen = {**protocol.get("sections", {}), **seen}
    return seen


def references(study: Study) -> dict[str, str]:
    """Rows that stand below the variants: their names in ``metrics.json``, and in tables.

    They are baselines, or in a benchmark, whose methods include the baselines, whatever reads the test sections.
    """
    from nh2st_graph.tl import LABELS, REFERENCES

    return {name: LABELS[name] for name in (REFERENCES if study.ranked else _BASELINES)}


def _joined(parts: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(columns))


def _placed(table: pd.DataFrame, run: PlannedRun, **columns: Any) -> pd.DataFrame:
    return table.assign(split=run.fold.split, **columns, fold=run.fold.name, seed=run.seed)


def _scores(run: PlannedRun, beside: Mapping[str, str], log_base: LogBase) -> list[dict[str, Any]]:
    """One row for each section that a run scored, and for each row of ``beside`` that is read from it.

    Errors are in units of the study's logarithm, whatever that of the run.
    """
    metrics = read_metrics(run.folder)
    record = read_record(run.folder)
    noted = record._asdict() if record is not None else {}
    # Runs of before version 0.1.0 was released call them floors.
    there = {**metrics.get("baselines", metrics.get("floors", {})), **metrics["references"]}
    unit = _ln(metrics["protocol"].get("log_base", "e")) / _ln(log_base)
    noted |= {"n_constant_train": metrics["protocol"]["n_constant_train"]}
    scored = {run.variant: (metrics["sections"], noted)}
    scored |= {label: (there[name]["sections"], {}) for name, label in beside.items() if name in there}
    return [
        {"split": run.fold.split, "variant": name, "fold": run.fold.name, "section": section, "seed": run.seed}
        | scores
        | {error: scores[error] * unit**power for error, power in _ERRORS.items() if scores.get(error) is not None}
        | also
        for name, (sections, also) in scored.items()
        for section, scores in sections.items()
    ]


def _ln(base: LogBase) -> float:
    return 1.0 if base == "e" else math.log(base)


def _per_gene(run: PlannedRun, beside: Mapping[str, str]) -> pd.DataFrame:
    """Read r of each gene, in rows as those of :func:`_scores`."""
    table = read_rows(run.folder / "metrics_per_gene.csv", dtype={"section": str, "gene": str}, keep_default_na=False)
    parts = {run.variant: {score: score for score in GENE_SCORES}}
    parts |= {label: {score: f"{score}_{name}" for score in GENE_SCORES} for name, label in beside.items()}
    named = [
        table[["section", "gene", "ceiling"]].assign(
            variant=name,
            **{score: pd.to_numeric(table[column]) for score, column in columns.items() if column in table},
        )
        for name, columns in parts.items()
    ]
    return _placed(pd.concat(named, ignore_index=True), run)
