"""A benchmark: its methods ranked, and compared with the best baseline."""

from __future__ import annotations

import itertools
from statistics import fmean, median, stdev

import numpy as np
import pandas as pd
import pytest

from nh2st_graph import pl
from nh2st_graph.metrics import paired_bootstrap
from nh2st_graph.study import cells
from nh2st_graph.study._table import compare, forest_rows

GENES = ["A1", "A2", "A3", "A4", "A5"]
FOLDS = {"loso": {"one": ["S1"], "two": ["S2", "S3"]}, "far": {"far": ["S9"]}}
COMPARED = (("pcc", "pcc_mean"), ("pcc_partial", "pcc_partial"))


def made_up(roles: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores as the runs would have them (a section's score is the mean over its genes), and those of each gene."""
    rng = np.random.default_rng(0)
    genes = [
        {"split": split, "variant": method, "fold": fold, "section": section, "seed": seed, "gene": gene}
        for method, role in roles.items()
        for seed in (range(2) if role == "method" else [0])
        for split, folds in FOLDS.items()
        for fold, sections in folds.items()
        for section, gene in itertools.product(sections, GENES)
    ]
    per_gene = pd.DataFrame(genes).assign(**{score: rng.normal(size=len(genes)) for score, _ in COMPARED}, ceiling=0.5)
    place = ["split", "variant", "fold", "section", "seed"]
    scores = per_gene.groupby(place, sort=False)[["pcc", "pcc_partial"]].mean().reset_index()
    scores = scores.rename(columns={"pcc": "pcc_mean"})
    is_method = scores["variant"].map(roles) == "method"
    scores["mse"] = rng.uniform(size=len(scores))
    scores["svg_auroc"] = scores["mse"].where(is_method)
    scores["steps"] = (100 * scores["seed"] + scores["fold"].str.len()).where(is_method)
    scores["fit_seconds"] = rng.uniform(size=len(scores))
    scores["share_of_ceiling"] = 2 * scores["pcc_mean"]
    return scores, per_gene


ROLES = {"deep": "method", "wide": "method", "mean": "baseline", "ridge": "baseline", "depth": "reference"}


@pytest.fixture(scope="module")
def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    return made_up(ROLES)


@pytest.fixture(scope="module")
def board(frames) -> pd.DataFrame:
    return compare(*frames, ROLES)


def by_section(table: pd.DataFrame, split: str, method: str, score: str) -> dict[tuple[str, str], float]:
    """Mean over seeds in each section, found by going through the rows."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in table.to_dict("records"):
        if (row["split"], row["variant"]) == (split, method):
            found.setdefault((row["fold"], row["section"]), []).append(row[score])
    return {section: fmean(values) for section, values in found.items()}


@pytest.mark.parametrize("score", ["pcc_mean", "pcc_partial", "mse", "share_of_ceiling"])
def test_means_and_deviations_are_over_sections_seeds_averaged_first(frames, board, score):
    rows = board.set_index(["split", "variant"])
    for split, method in itertools.product(FOLDS, ROLES):
        values = list(by_section(frames[0], split, method, score).values())
        assert len(values) == rows.loc[(split, method), "sections"] == (3 if split == "loso" else 1)
        assert rows.loc[(split, method), score] == pytest.approx(fmean(values))
        spread = rows.loc[(split, method), f"{score}_std"]
        assert spread == pytest.approx(stdev(values)) if split == "loso" else np.isnan(spread)


def test_a_rank_is_the_mean_over_sections_among_methods_and_baselines(frames, board):
    rows = board[board["split"] == "loso"].set_index("variant")
    rivals = [name for name, role in ROLES.items() if role != "reference"]
    r = {name: by_section(frames[0], "loso", name, "pcc_mean") for name in rivals}
    expected = {
        name: fmean(1 + sum(r[other][section] > r[name][section] for other in rivals) for section in r[name])
        for name in rivals
    }
    assert rows.loc[rivals, "rank"].to_dict() == pytest.approx(expected)
    order = sorted(rivals, key=lambda name: (expected[name], -rows.loc[name, "pcc_mean"]))
    assert [rows.loc[name, "place"] for name in order] == [1, 2, 3, 4]
    assert list(rows.index) == [*order, "depth"]
    assert rows.loc["depth", ["place", "rank", "pcc_mean_difference"]].isna().all()


def test_equal_scores_share_a_rank_and_the_mean_decides_the_place():
    scores = pd.DataFrame({"split": "s", "variant": list("abc"), "fold": "f", "section": "S", "seed": 0})
    scores = scores.assign(pcc_mean=[0.2, 0.3, 0.2], pcc_partial=0.0)
    per_gene = pd.DataFrame(columns=["split", "variant", "fold", "section", "seed", "gene", "pcc", "pcc_partial"])
    found = compare(scores, per_gene, dict.fromkeys("abc", "method")).set_index("variant")
    assert found["rank"].to_dict() == {"b": 1.0, "a": 2.5, "c": 2.5}
    assert found["place"].to_dict() == {"b": 1, "a": 2, "c": 3}
    assert found["pcc_mean_difference"].isna().all()
    assert set(found["pcc_mean_baseline"]) == {""}


@pytest.mark.parametrize(("split", "compared"), itertools.product(FOLDS, COMPARED))
def test_differences_are_from_the_baseline_that_is_best_by_the_same_score(frames, board, split, compared):
    per_gene, score = compared
    rows = board[board["split"] == split].set_index("variant")
    best = max(("mean", "ridge"), key=lambda name: rows.loc[name, score])
    assert set(rows[f"{score}_baseline"]) == {best}

    def units(method: str) -> pd.DataFrame:
        table = frames[1][(frames[1]["split"] == split) & (frames[1]["variant"] == method)]
        means = {gene: by_section(table[table["gene"] == gene], split, method, per_gene) for gene in sorted(GENES)}
        return pd.DataFrame(means)

    for name in ("deep", "wide", "mean", "ridge"):
        expected = paired_bootstrap(units(name), units(best))
        found = rows.loc[name, [f"{score}_{what}" for what in ("difference", "low", "high")]].tolist()
        assert found == pytest.approx([expected.mean, expected.low, expected.high])
        assert found[0] == pytest.approx(rows.loc[name, score] - rows.loc[best, score])
    assert rows.loc[best, f"{score}_low"] == rows.loc[best, f"{score}_high"] == 0


def test_costs_are_medians_over_runs_not_over_sections(frames, board):
    rows = board.set_index(["split", "variant"])
    runs = frames[0][(frames[0]["split"] == "loso") & (frames[0]["variant"] == "deep")]
    steps = [100 * seed + len(fold) for seed, fold in itertools.product((0, 1), ("one", "two"))]
    assert rows.loc[("loso", "deep"), "steps"] == median(steps)
    seconds = {(row.fold, row.seed): row.fit_seconds for row in reversed(list(runs.itertuples()))}
    assert rows.loc[("loso", "deep"), "fit_seconds"] == pytest.approx(median(seconds.values()))
    assert np.isnan(rows.loc[("loso", "ridge"), "steps"])
    assert rows.loc[("loso", "deep"), ["planned", "finished"]].tolist() == [4, 4]


def test_what_is_missing_has_no_place_and_is_still_compared_on_what_is_there(frames):
    scores, per_gene = frames
    lost = [(table["variant"] == "deep") & (table["fold"] == "two") for table in frames]
    planned = {("deep", "loso"): 4, ("wide", "loso"): 4, ("wide", "new"): 3}
    reasons = {("deep", "loso"): "loss is nan at step 7", ("wide", "new"): "broken"}
    found = compare(scores[~lost[0]], per_gene[~lost[1]], ROLES, reasons=reasons, planned=planned)
    rows = found.set_index(["split", "variant"])
    deep = rows.loc[("loso", "deep")]
    assert deep[["planned", "finished", "sections", "reason"]].tolist() == [4, 2, 1, "loss is nan at step 7"]
    assert pd.isna(deep["place"])
    assert pd.isna(deep["rank"])
    best = deep["pcc_mean_baseline"]
    here = {name: by_section(scores, "loso", name, "pcc_mean")[("one", "S1")] for name in ("deep", best)}
    assert deep["pcc_mean_difference"] == pytest.approx(here["deep"] - here[best])
    # the others are ranked as if it were not there
    assert sorted(rows.loc["loso"]["place"].dropna()) == [1, 2, 3]
    assert rows.loc[("loso", "wide"), "rank"] <= 3
    wide = rows.loc[("new", "wide")]
    assert wide[["planned", "finished", "sections", "reason"]].tolist() == [3, 0, 0, "broken"]
    assert wide[["pcc_mean", "pcc_mean_difference", "rank", "fit_seconds"]].isna().all()
    assert list(dict.fromkeys(found["split"])) == ["loso", "new", "far"]


def test_one_seed_less_leaves_a_method_its_place(frames):
    scores, per_gene = frames
    some = compare(scores[scores["seed"] == 0], per_gene, ROLES, planned={("deep", "loso"): 4})
    row = some.set_index(["split", "variant"]).loc[("loso", "deep")]
    assert (row["finished"], row["planned"]) == (2, 4)
    assert row["place"] > 0


def test_nothing_finished_is_a_board_of_failures(frames):
    nothing = [table.iloc[:0] for table in frames]
    found = compare(*nothing, ROLES, reasons={("deep", "loso"): "broken"})
    assert found["variant"].tolist() == list(ROLES)
    assert found["pcc_mean"].isna().all()
    assert compare(*nothing, ROLES).empty


def test_cells_are_for_reading(frames):
    scores, per_gene = frames
    reasons, planned = {("deep", "far"): "broken"}, {("deep", "far"): 2, ("wide", "far"): 2}
    board = compare(scores[~((scores["variant"] == "deep") & (scores["split"] == "far"))], per_gene, ROLES,
                        reasons=reasons, planned=planned)  # fmt: skip
    far = board[board["split"] == "far"]
    rows, text = far.set_index("variant"), cells(far)
    wide = rows.loc["wide"]
    assert text.loc["wide"].to_dict() == {
        "place": str(wide["place"]),
        "mean r": f"{wide['pcc_mean']:.3f}",
        "mean r: over the best baseline": f"{wide['pcc_mean_difference']:+.4f} "
        f"[{wide['pcc_mean_low']:+.4f}, {wide['pcc_mean_high']:+.4f}]",
        "mean r given depth": f"{wide['pcc_partial']:.3f}",
        "mean r given depth: over the best baseline": f"{wide['pcc_partial_difference']:+.4f} "
        f"[{wide['pcc_partial_low']:+.4f}, {wide['pcc_partial_high']:+.4f}]",
        "share of noise ceiling": f"{100 * wide['share_of_ceiling']:.0f} %",
        "mean rank": f"{wide['rank']:.1f}",
        "runs": "2",
    }
    assert text.loc["deep", ["place", "mean r", "mean rank", "runs"]].tolist() == ["", "failed", "", "0 of 2"]
    assert text.loc["depth", ["place", "mean r: over the best baseline", "runs"]].tolist() == ["", "", ""]
    assert (text["mean r: over the best baseline"] == "best baseline").sum() == 1
    assert " ± " in cells(board[board["split"] == "loso"]).loc["deep", "mean r"]


def test_views_hold_what_was_measured_and_of_whom(board):
    loso = board[board["split"] == "loso"]
    assert list(cells(loso, "downstream").columns) == ["spatially variable genes, AUROC"]
    assert set(cells(loso, "downstream").index) == {"deep", "wide"}
    assert list(cells(loso, "costs").columns) == ["optimiser steps", "fit, s"]
    assert cells(loso, "costs").loc["deep", "optimiser steps"] == "53"
    row = loso.set_index("variant").loc["deep"]
    assert cells(loso, "scores").loc["deep", "MSE"] == f"{row['mse']:.3f} ± {row['mse_std']:.3f}"


def test_a_forest_plot_draws_methods_and_baselines_in_one_order(board):
    table = forest_rows(board.assign(n_constant_predicted=0.0, n_genes=5.0))
    first, second = (table.loc[table["split"] == split, "variant"].tolist() for split in FOLDS)
    assert first == second == [name for name in board["variant"][:5] if name != "depth"]
    assert set(table["role"]) == {"variant", "reference"}
    ax = pl.forest(table[table["split"] == "loso"], base="the best baseline")
    assert {label.get_text() for label in ax.get_yticklabels()} == {"deep", "wide", "mean", "ridge"}
    ax.figure.clear()
    constant = board["variant"].eq("mean")
    drawn = forest_rows(board.assign(n_constant_predicted=np.where(constant, 5, 0), n_genes=5))
    assert "mean" not in set(drawn["variant"])  # a constant says nothing, and is far below all others
