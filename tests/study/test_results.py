from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from nh2st_graph.study import collect
from nh2st_graph.tl import LABELS


def test_rows_are_what_the_runs_wrote(tiny_study, finished):
    _, folder, _ = finished
    results = collect(tiny_study, tiny_study.runs(folder))
    scores = results.scores.set_index(["variant", "fold", "section", "seed"])
    assert scores.index.is_unique
    assert len(scores) == 2 * 2 + 2 * 2  # two variants that ran and two baselines, two seeds, one section
    for run in tiny_study.runs(folder):
        if run.variant == "no panel":
            continue
        row = scores.loc[(run.variant, "S3", "S3", run.seed)]
        metrics = json.loads((run.folder / "metrics.json").read_text())
        for score, value in metrics["sections"]["S3"].items():
            assert row[score] == pytest.approx(value), score
        assert row["seconds"] > 0
        assert row["parameters"] > 0
        if run.variant == "base":
            baseline = scores.loc[(LABELS["ridge"], "S3", "S3", run.seed)]
            assert baseline["pcc_partial"] == metrics["baselines"]["ridge"]["sections"]["S3"]["pcc_partial"]


def test_genes_are_what_the_runs_wrote(tiny_study, finished):
    _, folder, _ = finished
    genes = collect(tiny_study, tiny_study.runs(folder)).per_gene
    for run in tiny_study.runs(folder):
        if run.variant != "base":
            continue
        wrote = pd.read_csv(run.folder / "metrics_per_gene.csv").set_index("gene")
        for variant, column in (("base", "pcc"), (LABELS["ridge_neighbours"], "pcc_ridge_neighbours")):
            mine = genes[(genes["variant"] == variant) & (genes["seed"] == run.seed)].set_index("gene")
            pd.testing.assert_series_equal(mine["pcc"], wrote[column], check_names=False)


def test_a_variant_without_neighbours_has_fewer_weights(finished):
    table = finished[0].table.set_index("variant")
    assert table.loc["no neighbours", "parameters"] < table.loc["base", "parameters"]


def test_nothing_finished_gives_empty_tables(tiny_study, finished):
    results = collect(tiny_study, tiny_study.runs(Path("nowhere")))
    assert results.scores.empty
    assert set(results.per_gene.columns) == set(finished[0].results.per_gene.columns)
    assert results.per_gene.empty
    assert results.kinds
