"""The table of a study: means, and paired differences from the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nh2st_graph.metrics import PairedDifference, paired_bootstrap
from nh2st_graph.study._plan import PlannedRun, Study
from nh2st_graph.study._results import Results, references
from nh2st_graph.study._text import interval_cell, mean_cell, number, runs_cell

__all__ = ["MEANS", "by_unit", "cells", "paired_difference", "study_table"]

#: Scores that are compared, by their column in ``metrics_per_gene.csv``.
MEANS = {"pcc": "pcc_mean", "pcc_partial": "pcc_partial"}
_UNIT = ["fold", "section"]


def study_table(
    study: Study, runs: Sequence[PlannedRun], results: Results, failures: Mapping[PlannedRun, str]
) -> pd.DataFrame:
    """Compare the variants of a study.

    Parameters
    ----------
    study, runs
        What was asked for.
    results
        What came of it, from :func:`~nh2st_graph.study.collect`.
    failures
        Why runs failed, one line each.

    Returns
    -------
    One row for each split and variant, the base first, baselines last:

    ``split``, ``variant``, ``role``
        ``base``, ``variant``, or ``reference`` for a baseline
    ``pcc_mean``, ``pcc_mean_std`` (and of ``pcc_partial``)
        mean and standard deviation (n - 1) over the scores of all sections and seeds
    ``pcc_mean_difference``, ``pcc_mean_low``, ``pcc_mean_high`` (and of ``pcc_partial``)
        difference from the base in per-gene r, averaged over seeds, and its 95 % interval over sections and genes
        (:func:`~nh2st_graph.metrics.paired_bootstrap`); over the sections and genes that both have
    ``own``, ``neighbour``, ``noise``
        mean r by kind of gene, on synthetic tissue
    ``parameters``, ``seconds``
        number of weights; median over runs
    ``planned``, ``finished``, ``reason``
        number of runs, those that are done, and why the first that failed did
    """
    roles = {variant.name: "base" if variant is study.base else "variant" for variant in study.variants}
    roles |= dict.fromkeys(references(study).values(), "reference")
    rows = []
    for split in study.splits:
        part = _Split(results, split, study.base.name)
        for name, role in roles.items():
            planned = [run for run in runs if run.fold.split == split and run.variant == name]
            row = {"split": split, "variant": name, "role": role}
            rows.append({**row, **part.row(name), **_state(planned, part.finished(name), failures)})
    return pd.DataFrame(rows)


def _state(planned: Sequence[PlannedRun], finished: int, failures: Mapping[PlannedRun, str]) -> dict[str, object]:
    reasons = [failures[run] for run in planned if run in failures]
    return {"planned": len(planned), "finished": finished, "reason": reasons[0] if reasons else ""}


def _kinds() -> dict[str, str]:
    """Kinds of synthetic genes, and what their names start with."""
    from nh2st_graph.datasets._truth import KINDS

    return KINDS


class _Split:
    """The results of one split."""

    def __init__(self, results: Results, split: str, base: str) -> None:
        self.scores = results.scores[results.scores["split"] == split]
        self.genes = results.per_gene[results.per_gene["split"] == split]
        self.kinds, self.base = results.kinds, base

    def finished(self, name: str) -> int:
        """Number of finished runs of a variant."""
        scores = self.scores[self.scores["variant"] == name]
        return len(scores[["fold", "seed"]].drop_duplicates())

    def row(self, name: str) -> dict[str, object]:
        """Numbers of one variant."""
        scores, genes = (table[table["variant"] == name] for table in (self.scores, self.genes))
        base = self.genes[self.genes["variant"] == self.base]
        row: dict[str, object] = {}
        for per_gene, score in MEANS.items():
            row |= {score: scores[score].mean(), f"{score}_std": scores[score].std()}
            difference = None
            if name != self.base:
                difference = paired_difference(by_unit(genes, per_gene), by_unit(base, per_gene))
            for what, attribute in (("difference", "mean"), ("low", "low"), ("high", "high")):
                row[f"{score}_{what}"] = getattr(difference, attribute) if difference is not None else np.nan
        if self.kinds:
            means = genes["pcc"].groupby(genes["gene"].str.rstrip("0123456789")).mean()
            row |= {kind: means.get(prefix, np.nan) for kind, prefix in _kinds().items()}
        runs = scores.drop_duplicates(["fold", "seed"]).reindex(columns=["parameters", "seconds"])
        seconds = runs["seconds"].dropna()
        return row | {"parameters": runs["parameters"].max(), "seconds": seconds.median() if len(seconds) else np.nan}


def by_unit(genes: pd.DataFrame, score: str) -> pd.DataFrame:
    """Per-gene scores of one method, averaged over seeds, ``(n_sections, n_genes)``."""
    return genes.pivot_table(index=_UNIT, columns="gene", values=score, aggfunc="mean")


def paired_difference(ours: pd.DataFrame, base: pd.DataFrame) -> PairedDifference | None:
    """Compare two methods on the sections and genes that both scored; None where there are none.

    Parameters
    ----------
    ours, base
        From :func:`by_unit`.
    """
    units, genes = ours.index.intersection(base.index), ours.columns.intersection(base.columns)
    ours, base = ours.loc[units, genes], base.loc[units, genes]
    if not (ours.notna() & base.notna()).to_numpy().any():
        return None
    return paired_bootstrap(ours, base)


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """Write a table's numbers for reading, one row a variant.

    Returns
    -------
    Text by variant: mean ± deviation, difference [interval], kinds of genes where there are any, parameters, seconds,
    runs.
    """
    rows = [row for _, row in table.iterrows()]
    columns = {
        "mean r": [mean_cell(row, "pcc_mean") for row in rows],
        "mean r: difference": [interval_cell(row, "pcc_mean") for row in rows],
        "mean r given depth": [mean_cell(row, "pcc_partial") for row in rows],
        "mean r given depth: difference": [interval_cell(row, "pcc_partial") for row in rows],
    }
    columns |= {f"r of {kind} genes": [number(row[kind], ".3f") for row in rows] for kind in _kinds() if kind in table}
    columns |= {name: [number(row[name], ",.0f") for row in rows] for name in ("parameters", "seconds")}
    columns["runs"] = [runs_cell(row) for row in rows]
    return pd.DataFrame(columns, index=table["variant"])
