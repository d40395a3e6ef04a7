"""The table of a study: means, costs, ranks, and paired differences from the reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from nh2st_graph.metrics import GENE_SCORES, SCORES, PairedDifference, paired_bootstrap
from nh2st_graph.study._results import PLACE

__all__ = ["COSTS", "compare", "forest_rows", "gene_kinds"]

#: What a run cost, which is no score.
COSTS = ("fit_seconds", "predict_seconds", "peak_memory_mb", "parameters", "steps", "seconds")


def compare(
    scores: pd.DataFrame,
    genes: pd.DataFrame,
    roles: Mapping[str, str],
    *,
    reference: str | None = None,
    planned: Mapping[tuple[str, str], int] | None = None,
    reasons: Mapping[tuple[str, str], str] | None = None,
    kinds: bool = False,
) -> pd.DataFrame:
    """Compare variants with a reference, or rank them and compare them with the best baseline.

    Parameters
    ----------
    scores, genes
        ``scores`` and ``per_gene`` of :class:`~nh2st_graph.study.Results`.
    roles
        The role of each row by its name, in the order of display. With a reference ``base``, ``variant`` and
        ``reference``. Without one ``method``, ``baseline``, and ``reference`` for what reads the test sections' genes,
        which is neither ranked nor compared.
    reference
        The variant that all others are compared with; the best baseline where None.
    planned, reasons
        Number of planned runs, and why one failed, by variant and split.
    kinds
        Show mean r by kind of gene, as the names of synthetic genes say it.

    Returns
    -------
    One row for each split and name, in the order of ``roles``, or of ``place``:

    ``split``, ``variant``, ``role``
        the row
    ``pcc_mean``, ``pcc_mean_std`` (and of ``pcc_partial``)
        mean and standard deviation (n - 1) over sections and seeds
    ``pcc_mean_difference``, ``pcc_mean_low``, ``pcc_mean_high`` (and of ``pcc_partial``)
        mean difference from the reference in per-gene r, seeds averaged first, and its 95 % interval over sections and
        genes (:func:`~nh2st_graph.metrics.paired_bootstrap`), on the sections and genes that both have
    ``own``, ``neighbour``, ``noise``
        mean r by kind of gene
    ``parameters``, ``seconds``
        medians over runs
    ``planned``, ``finished``, ``reason``
        number of planned and of finished runs, and why the first that failed did

    Without a reference, means and deviations are over sections, seeds averaged first, and of every score. All costs are
    there, and:

    ``place``, ``rank``
        place 1, 2, ... by ``rank``, ties by mean r. The rank is the mean over sections of the rank by ``pcc_mean`` (1
        is best; equal scores share the mean of their ranks). Only what has a score in every section of the split has
        one: a mean over fewer sections, or among fewer rivals, is another quantity.
    ``sections``
        number of sections with a score
    ``pcc_mean_baseline`` (and of ``pcc_partial``)
        the best baseline of the split by this score. It is chosen by its test score, which favours it: a method that is
        above it would be above each of them. Its own difference is 0.
    """
    planned, reasons = planned or {}, reasons or {}
    tables = []
    for split in dict.fromkeys([*(split for _, split in [*planned, *reasons]), *scores["split"]]):
        here, genes_here = scores[scores["split"] == split], genes[genes["split"] == split]
        table = _rows(here, genes_here, roles, reference)
        if kinds:
            table = table.join(_by_kind(genes_here))
        default = table["finished"] if reference is None else 0 * table["finished"]
        table["planned"] = [planned.get((str(name), split), number) for name, number in default.items()]
        table["reason"] = [reasons.get((str(name), split), "") for name in table.index]
        table = table.rename_axis("variant").reset_index().assign(split=split)
        tables.append(_ranked(table) if reference is None else table[_columns(table)])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["split", "variant", "role"])


def _columns(table: pd.DataFrame) -> list[str]:
    """Columns of a table with a reference."""
    compared = [f"{s}{what}" for s in SCORES for what in ("", "_std", "_difference", "_low", "_high")]
    costs = ["parameters", "seconds"]
    return ["split", "variant", "role", *compared, *gene_kinds(table), *costs, "planned", "finished", "reason"]


def _rows(scores: pd.DataFrame, genes: pd.DataFrame, roles: Mapping[str, str], reference: str | None) -> pd.DataFrame:
    """All numbers of a split, one row a name."""
    names = [str(name) for name in scores if name not in {*PLACE, *COSTS}]
    unit = ["variant", "fold", "section", *(["seed"] if reference is not None else [])]
    units = _numbers(scores, names).groupby([scores[key] for key in unit], observed=True).mean()
    by_name = units.groupby("variant", observed=True)
    runs = scores.drop_duplicates(["variant", "fold", "seed"]).set_index("variant")
    costs = _numbers(runs, COSTS).groupby("variant", observed=True)
    table = pd.DataFrame({"role": pd.Series(roles)}).rename_axis("variant")
    for part in (by_name.mean(), by_name.std().add_suffix("_std"), costs.median()):
        table = table.join(part)
    for name, fill in (("sections", by_name["pcc_mean"].count()), ("finished", runs.groupby("variant").size())):
        table[name] = fill.reindex(table.index, fill_value=0).astype(int)
    if reference is None:
        table["rank"] = _ranks(units["pcc_mean"], table["role"])
        ordered = table.sort_values(["rank", "pcc_mean"], ascending=[True, False])["rank"]
        table["place"] = ordered.rank(method="first").astype("Int64")
    for per_gene, score in zip(GENE_SCORES, SCORES, strict=True):
        table = table.join(_differences(table, genes, per_gene, score, reference))
    return table


def _numbers(table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Columns as numbers. A column without any value would be of objects."""
    return table.reindex(columns=list(names)).apply(pd.to_numeric)


def _ranks(r: pd.Series, role: pd.Series) -> pd.Series:
    """Mean rank over sections, of the methods and baselines that have a score in every section."""
    table = r.unstack("variant")
    contenders = table[[name for name in table if role[str(name)] != "reference"]].dropna(how="all")
    return contenders.dropna(axis="columns").rank(axis="columns", ascending=False).mean()


def _differences(
    table: pd.DataFrame, genes: pd.DataFrame, per_gene: str, score: str, reference: str | None
) -> pd.DataFrame:
    """Differences from the reference, or from the best baseline of the split by this score."""
    if reference is None:
        baselines = table.loc[(table["role"] == "baseline") & table["place"].notna(), score].dropna()
        best = str(baselines.idxmax()) if len(baselines) else ""
        compared, also = table.index[table["role"] != "reference"], {f"{score}_baseline": best}
    else:
        best, compared, also = reference, table.index[table.index != reference], {}
    units = {
        name: part.pivot_table(index=["fold", "section"], columns="gene", values=per_gene, aggfunc="mean")
        for name, part in genes.groupby("variant", sort=False, observed=True)
    }
    found = {name: _paired(units[name], units[best]) for name in compared if name in units and best in units}
    columns = [f"{score}_{what}" for what in ("difference", "low", "high")]
    rows = {name: [each.mean, each.low, each.high] for name, each in found.items() if each is not None}
    gains = pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=np.float64)
    return gains.reindex(table.index).assign(**also)


def _paired(ours: pd.DataFrame, base: pd.DataFrame) -> PairedDifference | None:
    """Compare two on the sections and genes that both scored; None where there are none."""
    units, genes = ours.index.intersection(base.index), ours.columns.intersection(base.columns)
    ours, base = ours.loc[units, genes], base.loc[units, genes]
    return paired_bootstrap(ours, base) if (ours.notna() & base.notna()).to_numpy().any() else None


def gene_kinds(table: pd.DataFrame) -> list[str]:
    """Kinds of synthetic genes that are columns of a table."""
    from nh2st_graph.datasets import KINDS

    return [kind for kind in KINDS if kind in table]


def _by_kind(genes: pd.DataFrame) -> pd.DataFrame:
    """Mean r by kind of gene, one row a name."""
    from nh2st_graph.datasets import KINDS

    prefix = genes["gene"].astype(str).str.rstrip("0123456789")
    means = genes.groupby(["variant", prefix])["pcc"].mean().unstack()
    there = {kind: name for kind, name in KINDS.items() if name in means}
    return means.reindex(columns=list(there.values())).set_axis(list(there), axis="columns")


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Places first, then what has none, then references; columns that say what a row is before its numbers."""
    first = ["split", "variant", "role", "place", "rank", "sections"]
    table = table.assign(last=table["role"].eq("reference"))
    table = table.sort_values(["last", "place"], na_position="last").drop(columns="last")
    return table[[*first, *(name for name in table if name not in first)]]


def forest_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table as :func:`~nh2st_graph.pl.forest` takes them.

    Of a benchmark, methods are in the order of the first split in every split, so that its panels stand side by side,
    and baselines are drawn as references. Left out are references, which are not compared, and baselines that predict
    every gene as constant: their difference is the best baseline's own score, and would press all others together.
    """
    if "place" not in table:
        return table
    counts = table.reindex(columns=["n_constant_predicted", "n_genes"])
    constant = table["role"].eq("baseline") & counts["n_constant_predicted"].eq(counts["n_genes"])
    order = {name: {each: i for i, each in enumerate(table[name].unique())} for name in ("split", "variant")}
    drawn = table[table["role"].ne("reference") & ~constant]
    drawn = drawn.sort_values(["split", "variant"], key=lambda column: column.map(order[str(column.name)]))
    return drawn.assign(role=drawn["role"].map({"method": "variant", "baseline": "reference"}))
