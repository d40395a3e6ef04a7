"""An ablation study: its variants compared with the base."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median, stdev

import numpy as np
import pandas as pd
import pytest

from nh2st_graph.metrics import paired_bootstrap
from nh2st_graph.study import Study, cells, read_study
from nh2st_graph.study._table import compare
from nh2st_graph.tl import LABELS

GENES = ["OWN1", "OWN2", "NBR1", "NOISE1", "NOISE2"]
FOLDS = {
    "one": {"train": ["S3"], "test": ["S1", "S2"]},
    "two": {"train": ["S1"], "test": ["S3"]},
    "far": {"train": ["S2"], "test": ["S1"], "split": "far"},
}
RIDGE = LABELS["ridge"]
SECONDS = {0: 3.0, 1: 5.0, 2: 100.0}


@pytest.fixture(scope="module")
def study(study_file) -> Study:
    return read_study(
        study_file(folds=FOLDS, seeds=[0, 1, 2], variants={"a": {"model.hops": 2}, "b": {"model.hops": 3}})
    )


@pytest.fixture(scope="module")
def per_gene(study) -> pd.DataFrame:
    """Made-up scores of every gene."""
    rng = np.random.default_rng(0)
    rows = [
        {"split": fold.split, "variant": variant, "fold": fold.name, "section": section, "seed": seed, "gene": gene}
        for variant in ("base", "a", "b", RIDGE)
        for fold, seed in itertools.product(study.folds, study.seeds)
        for section, gene in itertools.product(fold.test, GENES)
    ]
    table = pd.DataFrame(rows).assign(pcc=rng.normal(size=len(rows)), pcc_partial=rng.normal(size=len(rows)))
    table.loc[table["variant"] == RIDGE, "pcc_partial"] = np.nan
    return table


def table_of(
    study: Study, per_gene: pd.DataFrame, reasons: dict[tuple[str, str], str] | None = None, kinds: bool = True
) -> pd.DataFrame:
    """Compare results as the runs would have them: a section's score is the mean over its genes."""
    place = ["split", "variant", "fold", "section", "seed"]
    scores = per_gene.groupby(place, as_index=False)[["pcc", "pcc_partial"]].mean()
    scores = scores.rename(columns={"pcc": "pcc_mean"})
    methods = scores["variant"] != RIDGE
    scores["parameters"] = pd.Series(100.0, scores.index).where(methods)
    scores["seconds"] = scores["seed"].map(SECONDS).where(methods)
    roles = {variant.name: variant.role for variant in study.variants}
    roles |= {RIDGE: "reference", LABELS["ridge_neighbours"]: "reference"}
    planned = Counter((run.variant, run.fold.split) for run in study.runs(Path("x")))
    return compare(scores, per_gene, roles, reference="base", planned=planned, reasons=reasons, kinds=kinds)


def by_hand(per_gene: pd.DataFrame, split: str, variant: str, score: str) -> dict[tuple[str, str, int], list[float]]:
    """Scores of the genes of each fold, section and seed, found by going through the rows."""
    found: dict[tuple[str, str, int], list[float]] = {}
    for row in per_gene.to_dict("records"):
        if row["split"] == split and row["variant"] == variant:
            found.setdefault((row["fold"], row["section"], row["seed"]), []).append(row[score])
    return found


@pytest.mark.parametrize("split", ["folds", "far"])
def test_means_and_deviations_are_over_sections_and_seeds_of_a_split(study, per_gene, split):
    table = table_of(study, per_gene)
    table = table[table["split"] == split].set_index("variant")
    assert list(table.index) == ["base", "a", "b", RIDGE, LABELS["ridge_neighbours"]]
    assert list(table["role"]) == ["base", "variant", "variant", "reference", "reference"]
    for variant in ("base", "a", "b"):
        for column, score in (("pcc_mean", "pcc"), ("pcc_partial", "pcc_partial")):
            means = [fmean(values) for values in by_hand(per_gene, split, variant, score).values()]
            assert len(means) == (9 if split == "folds" else 3)
            assert table.loc[variant, column] == pytest.approx(fmean(means))
            assert table.loc[variant, f"{column}_std"] == pytest.approx(stdev(means))
        assert table.loc[variant, "seconds"] == median(SECONDS.values())
        assert table.loc[variant, "parameters"] == 100


@pytest.mark.parametrize("split", ["folds", "far"])
def test_differences_are_paired_after_averaging_over_seeds(study, per_gene, split):
    table = table_of(study, per_gene)
    table = table[table["split"] == split].set_index("variant")
    for variant, (column, score) in itertools.product(
        ("a", "b", RIDGE), (("pcc_mean", "pcc"), ("pcc_partial", "pcc_partial"))
    ):
        found = table.loc[variant, [f"{column}_{what}" for what in ("difference", "low", "high")]].tolist()
        if (variant, score) == (RIDGE, "pcc_partial"):
            assert np.isnan(found).all()
            continue
        frames = []
        for name in (variant, "base"):
            scores = by_hand(per_gene, split, name, score)
            units = sorted({unit[:2] for unit in scores})
            means = [
                [fmean(scores[(*unit, seed)][j] for seed in (0, 1, 2)) for j in range(len(GENES))] for unit in units
            ]
            # in the table's order, on which the draws of the bootstrap depend
            frames.append(pd.DataFrame(means, units, GENES)[sorted(GENES)])
        expected = paired_bootstrap(*frames)
        assert found == pytest.approx([expected.mean, expected.low, expected.high])
        assert found[0] == pytest.approx((frames[0] - frames[1]).to_numpy().mean())
    assert table.loc["base", ["pcc_mean_difference", "pcc_partial_low"]].isna().all()


def test_genes_are_split_by_kind_on_synthetic_tissue_only(study, per_gene):
    row = table_of(study, per_gene).set_index(["split", "variant"]).loc[("far", "a")]
    genes = list(by_hand(per_gene, "far", "a", "pcc").values())
    assert row["own"] == pytest.approx(fmean(r for values in genes for r in values[:2]))
    assert row["neighbour"] == pytest.approx(fmean(values[2] for values in genes))
    assert row["noise"] == pytest.approx(fmean(r for values in genes for r in values[3:]))
    assert "own" not in table_of(study, per_gene, kinds=False)


def test_what_failed_is_counted_and_the_rest_is_compared_on_what_both_have(study, per_gene):
    lost = {("a", "folds"): "reason 0"}
    kept = per_gene[~((per_gene["variant"] == "a") & (per_gene["fold"] == "one"))]
    kept = kept[~((kept["variant"] == "b") & (kept["gene"] == "OWN1"))]
    table = table_of(study, kept, lost).set_index(["split", "variant"])
    a, b = table.loc[("folds", "a")], table.loc[("folds", "b")]
    assert (a["planned"], a["finished"], a["reason"]) == (6, 3, "reason 0")
    assert (b["planned"], b["finished"], b["reason"]) == (6, 6, "")
    for row, same in ((a, kept["fold"] == "two"), (b, kept["gene"] != "OWN1")):
        pair = kept[same & (kept["split"] == "folds")].groupby("variant")["pcc"].mean()
        assert row["pcc_mean_difference"] == pytest.approx(pair[row.name[1]] - pair["base"])


def test_without_the_base_there_is_no_difference(study, per_gene):
    table = table_of(study, per_gene[per_gene["variant"] == "a"])
    assert table["pcc_mean_difference"].isna().all()
    assert table.set_index(["split", "variant"]).loc[("far", "a"), "pcc_mean"] > -10
    assert set(table.loc[table["variant"] == "base", "finished"]) == {0}


def test_one_score_has_no_deviation(study, per_gene):
    single = replace(study, seeds=(0,), folds=study.folds[2:])
    some = per_gene[(per_gene["seed"] == 0) & (per_gene["split"] == "far")]
    table = table_of(single, some)
    assert table["pcc_mean_std"].isna().all()
    assert "±" not in cells(table).to_string()
