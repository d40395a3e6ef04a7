"""What the finished runs of a study scored, as tidy tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nh2st_graph.study._folder import is_finished, read_record
from nh2st_graph.study._plan import PlannedRun, Study

__all__ = ["Results", "collect", "curves", "references"]

#: Baselines that a table shows below the variants.
_BASELINES = ("ridge", "ridge_neighbours")
#: What a score is of.
_PLACE = ("split", "variant", "fold", "section", "seed")
_PER_GENE = ("pcc", "pcc_partial")
#: Columns where there is no row.
_SCORES = (*_PLACE, "pcc_mean", "pcc_partial")
_GENES = (*_PLACE, "gene", *_PER_GENE, "ceiling")


@dataclass(frozen=True)
class Results:
    """Scores of a study's finished runs.

    Attributes
    ----------
    scores
        One row for each run and test section: ``split``, ``variant``, ``fold``, ``section``, ``seed``, every score of
        ``metrics.json``, ``parameters`` and ``seconds``. Baselines are rows of their own, from the base's runs: they
        learn from the features and targets alone, which variants share unless they change just these.
    per_gene
        One row for each of these and gene: ``pcc``, ``pcc_partial``, and the noise ``ceiling``.
    kinds
        Whether gene names say what kind of gene it is, as those of the synthetic tissue do.
    """

    scores: pd.DataFrame
    per_gene: pd.DataFrame
    kinds: bool


def collect(study: Study, runs: Sequence[PlannedRun]) -> Results:
    """Read the scores of those runs that are finished."""
    finished = [run for run in runs if is_finished(run.folder)]
    beside = _beside(study, finished)
    rows = [row for run in finished for row in _scores(run, beside.get(run, {}))]
    genes = [_per_gene(run, beside.get(run, {})) for run in finished]
    return Results(
        pd.DataFrame(rows) if rows else pd.DataFrame(columns=_SCORES),
        pd.concat(genes, ignore_index=True) if genes else pd.DataFrame(columns=_GENES),
        kinds=study.config.data.format == "synthetic",
    )


def curves(runs: Sequence[PlannedRun]) -> pd.DataFrame:
    """Read how the held-out scores of those runs that are finished went with training.

    Returns
    -------
    One row for each epoch of each fold of the training sections: ``split``, ``variant``, ``fold``, ``seed``, ``stage``,
    ``epoch``, ``step``, ``val_loss``, ``val_pcc``. A method that fits itself has none.
    """
    wanted = ["stage", "epoch", "step", "val_loss", "val_pcc"]
    parts = [
        pd.read_csv(run.folder / "log.csv", usecols=wanted).assign(
            split=run.fold.split, variant=run.variant, fold=run.fold.name, seed=run.seed
        )
        for run in runs
        if is_finished(run.folder) and (run.folder / "log.csv").is_file()
    ]
    if not parts:
        return pd.DataFrame(columns=["split", "variant", "fold", "seed", *wanted])
    joined = pd.concat(parts, ignore_index=True)
    return joined[joined["stage"].str.startswith("fold")]


def references(study: Study) -> dict[str, str]:
    """Rows that stand below the variants, by their name in ``metrics.json``, and what tables call them.

    Baselines where there is a base; in a benchmark, where baselines are methods, what reads the test sections.
    """
    from nh2st_graph.tl import LABELS, REFERENCES

    return {name: LABELS[name] for name in (_BASELINES if study.has_base else REFERENCES)}


def _beside(study: Study, finished: Sequence[PlannedRun]) -> dict[PlannedRun, dict[str, str]]:
    """Which runs give the rows below the variants: the base's, or in a benchmark the first of each fold."""
    if study.has_base:
        return {run: references(study) for run in finished if run.variant == study.base.name}
    first = {run.fold: run for run in reversed(finished)}
    return {run: references(study) for run in first.values()}


def _scores(run: PlannedRun, beside: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row for each section that a run scored, and each of the baselines or references that are read from it."""
    metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    record = read_record(run.folder)
    noted = record._asdict() if record is not None else {}
    there = {**metrics["baselines"], **metrics["references"]}
    noted |= {"n_constant_train": metrics["protocol"]["n_constant_train"]}
    scored = {run.variant: (metrics["sections"], noted)}
    scored |= {label: (there[name]["sections"], {}) for name, label in beside.items() if name in there}
    return [
        {"split": run.fold.split, "variant": name, "fold": run.fold.name, "section": section, "seed": run.seed}
        | scores
        | also
        for name, (sections, also) in scored.items()
        for section, scores in sections.items()
    ]


def _per_gene(run: PlannedRun, beside: Mapping[str, str]) -> pd.DataFrame:
    """Read r of each gene, in rows as those of :func:`_scores`."""
    table = pd.read_csv(run.folder / "metrics_per_gene.csv", dtype={"section": str, "gene": str}, keep_default_na=False)
    parts = {run.variant: {score: score for score in _PER_GENE}}
    parts |= {label: {score: f"{score}_{name}" for score in _PER_GENE} for name, label in beside.items()}
    named = [
        table[["section", "gene", "ceiling"]].assign(
            variant=name,
            **{score: pd.to_numeric(table[column]) for score, column in columns.items() if column in table},
        )
        for name, columns in parts.items()
    ]
    return pd.concat(named, ignore_index=True).assign(split=run.fold.split, fold=run.fold.name, seed=run.seed)
