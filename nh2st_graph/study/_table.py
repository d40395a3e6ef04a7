"""The table of a study: means, and paired differences from the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nh2st_graph.metrics import PairedDifference, paired_bootstrap
from nh2st_graph.study._plan import PlannedRun, Study
from nh2st_graph.study._results import Results, references

__all__ = ["SCORES", "cells", "study_table"]

#: Scores that are compared, by their column in ``metrics_per_gene.csv``.
SCORES = {"pcc": "pcc_mean", "pcc_partial": "pcc_partial"}
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
    One row for each split and variant, the base first, floors last:

    ``split``, ``variant``, ``role``
        ``base``, ``variant``, or ``reference`` for a floor
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
    roles |= dict.fromkeys(references().values(), "reference")
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
        row: dict[str, object] = {}
        for per_gene, score in SCORES.items():
            row |= {score: scores[score].mean(), f"{score}_std": scores[score].std()}
            difference = self._difference(name, per_gene) if name != self.base else None
            for what, attribute in (("difference", "mean"), ("low", "low"), ("high", "high")):
                row[f"{score}_{what}"] = getattr(difference, attribute) if difference is not None else np.nan
        if self.kinds:
            means = genes["pcc"].groupby(genes["gene"].str.rstrip("0123456789")).mean()
            row |= {kind: means.get(prefix, np.nan) for kind, prefix in _kinds().items()}
        runs = scores.drop_duplicates(["fold", "seed"]).reindex(columns=["parameters", "seconds"])
        seconds = runs["seconds"].dropna()
        return row | {"parameters": runs["parameters"].max(), "seconds": seconds.median() if len(seconds) else np.nan}

    def _difference(self, name: str, score: str) -> PairedDifference | None:
        """Compare with the base on the sections and genes that both scored; None where there are none."""
        ours, base = self._by_unit(name, score), self._by_unit(self.base, score)
        units, genes = ours.index.intersection(base.index), ours.columns.intersection(base.columns)
        ours, base = ours.loc[units, genes], base.loc[units, genes]
        if not (ours.notna() & base.notna()).to_numpy().any():
            return None
        return paired_bootstrap(ours, base)

    def _by_unit(self, name: str, score: str) -> pd.DataFrame:
        """Per-gene scores averaged over seeds, ``(n_sections, n_genes)``."""
        genes = self.genes[self.genes["variant"] == name]
        return genes.pivot_table(index=_UNIT, columns="gene", values=score, aggfunc="mean")


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """Write a table's numbers for reading, one row a variant.

    Returns
    -------
    Text by variant: mean ± deviation, difference [interval], kinds of genes where there are any, parameters, seconds,
    runs.
    """
    rows = [row for _, row in table.iterrows()]
    columns = {
        "mean r": [_mean(row, "pcc_mean") for row in rows],
        "mean r: difference": [_interval(row, "pcc_mean") for row in rows],
        "mean r given depth": [_mean(row, "pcc_partial") for row in rows],
        "mean r given depth: difference": [_interval(row, "pcc_partial") for row in rows],
    }
    columns |= {f"r of {kind} genes": [_number(row[kind], ".3f") for row in rows] for kind in _kinds() if kind in table}
    columns |= {name: [_number(row[name], ",.0f") for row in rows] for name in ("parameters", "seconds")}
    columns["runs"] = [_runs(row) for row in rows]
    return pd.DataFrame(columns, index=table["variant"])


def _mean(row: pd.Series, score: str) -> str:
    if np.isnan(row[score]):
        return "failed" if row["reason"] else ""
    spread = row[f"{score}_std"]
    return f"{row[score]:.3f}" + ("" if np.isnan(spread) else f" ± {spread:.3f}")


def _runs(row: pd.Series) -> str:
    """Number of finished runs, and of planned ones where some are missing."""
    if row["role"] == "reference":
        return ""
    return str(row["finished"]) if row["finished"] == row["planned"] else f"{row['finished']} of {row['planned']}"


def _interval(row: pd.Series, score: str) -> str:
    mean, low, high = (row[f"{score}_{what}"] for what in ("difference", "low", "high"))
    return "" if np.isnan(mean) else f"{_signed(mean)} [{_signed(low)}, {_signed(high)}]"


def _signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:+.4f}"  # adding 0 takes the sign from a zero


def _number(value: float, form: str) -> str:
    return "" if np.isnan(value) else format(value, form)
