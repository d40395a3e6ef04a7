"""A benchmark that really runs: networks, baselines, a method from a file, and one that fails."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image

from nh2st_graph import RenamedWarning, RunError
from nh2st_graph.study import Study, StudyResult, read_benchmark, run_study
from nh2st_graph.tl import LABELS, REFERENCES

from .conftest import Seen

#: A network beside the methods of ``here``, whose loss is no number in step 2 on S3.
UNSTABLE = """
from torch import nn

from nh2st_graph.models import Network


class Unstable(Network):
    def __init__(self, settings, n_features, n_genes, patch_encoder=None):
        super().__init__(settings, n_features, n_genes, patch_encoder)
        self.linear, self.steps = nn.Linear(n_features, n_genes), 0

    receptive_hops = 0

    def losses(self, data):
        loss = nn.functional.mse_loss(self.predict(data)[data.seeds], data.y[data.seeds])
        self.steps += data.section == "S3"
        return {"loss": loss * float("nan") if self.steps == 3 else loss, "regression": loss}

    def predict(self, data):
        return self.linear(self.features(data))
"""
METHODS: dict[str, Any] = {
    "NH2ST-Graph": None,
    "mine, by PLS": {"model.name": "methods_of_a_test:Pls"},
    "unstable": {"model.name": "unstable_of_a_test:Unstable", "train.batch_spots": 16},
    "training mean": {"model.name": "mean"},
    "ridge, own": {"model.name": "ridge"},
}
SPLITS = {"near": {"train": ["S1", "S2"], "test": ["S3"]}, "far": {"train": ["S3"], "test": ["S1", "S2"]}}
FAILED = {"unstable, far, seed 0"}
#: Other tests look at spatially variable genes and clusters, which take long.
QUICK = ["evaluate.downstream=false"]
NAN = "training loss is nan at step 2 (epoch 0)"
COSTS = ("parameters", "steps", "seconds", "fit_seconds", "predict_seconds", "peak_memory_mb")

Done = tuple[StudyResult, Path, Seen]


@pytest.fixture(scope="module")
def file(study_file: Callable[..., Path]) -> Path:
    return study_file("tiny", methods=METHODS, splits=SPLITS)


@pytest.fixture(scope="module")
def plan(file, here) -> Study:
    (here / "unstable_of_a_test.py").write_text(UNSTABLE)
    return read_benchmark(file, QUICK)


@pytest.fixture(scope="module")
def done(plan, tmp_path_factory) -> Done:
    """The benchmark: its result, folder, and what it told. Shared: copy what you change."""
    folder, seen = tmp_path_factory.mktemp("benchmarks") / "tiny", Seen()
    return run_study(plan, folder, jobs=1, watch=seen), folder, seen


@pytest.fixture(scope="module")
def board(done) -> pd.DataFrame:
    return done[0].table.set_index(["split", "variant"])


@pytest.fixture(scope="module")
def scores(done) -> pd.DataFrame:
    """``scores.csv``, by what each row is of."""
    table = pd.read_csv(done[1] / "scores.csv")
    return table.set_index(["split", "method", "fold", "section", "seed"])


@pytest.fixture
def copied(done, tmp_path) -> Path:
    """The finished benchmark's folder, to be changed."""
    return Path(shutil.copytree(done[1], tmp_path / "copy"))


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Leave figures and the report out: those of ``done`` are looked at."""
    for name in ("_draw_forest", "_figures_of_methods", "write_html"):
        monkeypatch.setattr(f"nh2st_graph.study._report.{name}", lambda *_, **__: [])


def finished(plan: Study, folder: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Runs that are scored, and what ``metrics.json`` says."""
    for run in plan.runs(folder):
        if str(run) not in FAILED:
            yield run, json.loads((run.folder / "metrics.json").read_text())


def test_a_run_that_fails_stops_no_other(plan, done):
    result, folder, seen = done
    names = {str(run) for run in plan.runs(folder)}
    assert len(names) == len(METHODS) * len(SPLITS)
    assert sorted(name for name, what in seen if what == "begun") == sorted(names)
    reasons = {str(run): reason for run, reason in result.failures.items()}
    assert set(reasons) == FAILED
    assert {name: what for name, what in seen if what != "begun"} == dict.fromkeys(names) | reasons
    assert all(reason.startswith(NAN) for reason in reasons.values())


def test_what_failed_is_on_the_board_and_in_the_report(done, board):
    assert board.loc[("near", "unstable"), ["finished", "planned", "sections", "reason"]].tolist() == [1, 1, 1, ""]
    assert board.loc[("far", "unstable"), ["finished", "planned", "sections"]].tolist() == [0, 1, 0]
    assert board.loc[("far", "unstable"), "reason"].startswith(NAN)
    page = (done[1] / "report.html").read_text()
    assert board.loc[("far", "unstable"), "reason"] in html.unescape(page)
    assert "Without any result: unstable." in done[0].verdicts["far"]
    assert f"- unstable, far: {NAN}" in (done[1] / "leaderboard.md").read_text()


def test_methods_and_baselines_have_places_and_references_none(board):
    roles = dict.fromkeys(METHODS, "method") | dict.fromkeys(["training mean", "ridge, own"], "baseline")
    roles |= dict.fromkeys((LABELS[name] for name in REFERENCES), "reference")
    for split, lost in (("near", set()), ("far", {"unstable"})):
        rows = board.loc[split]
        assert rows["role"].to_dict() == roles
        placed = rows[rows["place"].notna()]
        assert set(placed.index) == set(METHODS) - lost
        assert placed["place"].tolist() == list(range(1, len(placed) + 1))
        assert placed["rank"].is_monotonic_increasing
        assert rows.loc[sorted(lost), ["pcc_mean", "pcc_mean_difference", "fit_seconds"]].isna().all(axis=None)
        assert set(rows["pcc_mean_baseline"]) == {"ridge, own"}
        assert rows.loc["ridge, own", "pcc_mean_difference"] == 0
    near = board.loc["near"]
    assert near.loc[near["place"].notna(), "pcc_mean"].is_monotonic_decreasing  # one section: its rank is the place


def test_scores_are_what_the_runs_wrote(plan, done, scores):
    rows = 0
    for run, metrics in finished(plan, done[1]):
        costs = json.loads((run.folder / "study.json").read_text())
        noted = {name: costs[name] for name in COSTS} | {"n_constant_train": metrics["protocol"]["n_constant_train"]}
        for section, found in metrics["sections"].items():
            row = scores.loc[(run.fold.split, run.variant, run.fold.name, section, run.seed)]
            for name, value in {**found, **noted}.items():
                assert row[name] == pytest.approx(float("nan") if value is None else value, rel=1e-4, nan_ok=True), name
            rows += 1
    assert scores.index.is_unique
    assert len(scores) == rows + 3 * len(REFERENCES)


def test_costs_are_measured(scores):
    rows = scores.reset_index().groupby("method")[list(COSTS)].min()
    for name in ("NH2ST-Graph", "mine, by PLS", "ridge, own"):
        assert (rows.loc[name, ["seconds", "fit_seconds", "predict_seconds", "peak_memory_mb"]] > 0).all()
        assert rows.loc[name, "fit_seconds"] < rows.loc[name, "seconds"]
        assert (rows.loc[name, ["parameters", "steps"]] > 0).all() == (name == "NH2ST-Graph")


def test_references_are_scored_once_in_each_fold(plan, done, scores):
    kept = scores.reset_index().set_index(["method", "fold", "section"])
    for _, metrics in finished(plan, done[1]):
        for name in REFERENCES:
            for section, found in metrics["references"][name]["sections"].items():
                row = kept.loc[(LABELS[name], "far" if section != "S3" else "near", section)]
                assert row.ndim == 1  # one row, whichever run it is read from
                assert row["pcc_mean"] == pytest.approx(found["pcc_mean"], rel=1e-4)
                assert row[list(COSTS)].isna().all()


def test_baselines_are_methods_and_scored_nowhere_else(plan, done, scores):
    assert all(metrics["baselines"] == {} for _, metrics in finished(plan, done[1]))
    assert {*scores.index.get_level_values("method")} == {*METHODS} | {LABELS[r] for r in REFERENCES}


def test_genes_are_kept_for_every_method_and_reference(done, scores):
    genes = pd.read_csv(done[1] / "per_gene.csv.gz", keep_default_na=False, na_values=[""])
    units = genes.groupby(["split", "method", "fold", "section", "seed"])
    assert (units["gene"].nunique() == 9).all()
    assert (units.size() == 9).all()
    assert set(units.groups) == set(scores.index)
    for name in ("NH2ST-Graph", "ridge, own"):
        means, there = (table.xs(name, level="method") for table in (units["pcc"].mean(), scores["pcc_mean"]))
        pd.testing.assert_series_equal(means, there.sort_index(), check_names=False, rtol=1e-3)


def test_curves_are_those_of_networks(plan, done):
    found = done[0].results.curves
    assert {*zip(found["split"], found["variant"], strict=True)} == {
        ("near", "NH2ST-Graph"),
        ("far", "NH2ST-Graph"),
        ("near", "unstable"),
    }
    (run,) = (run for run, _ in finished(plan, done[1]) if str(run) == "NH2ST-Graph, near, seed 0")
    log = pd.read_csv(run.folder / "log.csv")
    log = log[log["stage"] != "all"]
    ours = found[(found["split"] == "near") & (found["variant"] == "NH2ST-Graph")]
    assert len(ours) == len(log) == 2  # one epoch of each fold
    for column in ("stage", "epoch", "step", "val_loss", "val_pcc"):
        assert ours[column].tolist() == log[column].tolist()


def test_everything_is_written_for_the_reader(done):
    result, folder, _ = done
    figures = ["forest.png", *(f"{what}_{split}.png" for what in ("learning", "genes") for split in SPLITS)]
    tables = ["report.html", "leaderboard.md", "leaderboard.csv", "scores.csv", "per_gene.csv.gz"]
    assert sorted(path.relative_to(folder).as_posix() for path in result.written) == sorted([*tables, *figures])
    for name in figures:
        with Image.open(folder / name) as figure:
            figure.load()
            assert min(figure.size) > 100
    table = pd.read_csv(folder / "leaderboard.csv", keep_default_na=False, na_values=[""])
    for column in ("split", "method", "role", "place", "pcc_mean", "pcc_partial_low", "steps"):
        expected = result.table[column.replace("method", "variant")].astype(table[column].dtype)
        pd.testing.assert_series_equal(table[column], expected, rtol=1e-4, check_names=False)
    text = (folder / "leaderboard.md").read_text()
    assert all(f"- {sentence}\n" in text for sentences in result.verdicts.values() for sentence in sentences)


def test_the_report_opens_offline(done):
    page = (done[1] / "report.html").read_text()
    assert "<title>Benchmark tiny</title>" in page
    assert "S3 from S1 and S2" in page
    assert not re.search(r"https?:|url\(|<link|<img[^>]+src=[\"'](?!data:)", page)
    assert page.count("data:image/svg+xml") == 4  # differences and curves of two splits
    for name in METHODS:
        assert html.escape(name) in page


def stamps(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.glob("runs/*/*/metrics.json")}


@pytest.mark.usefixtures("undrawn")
def test_resuming_does_what_is_missing_and_changes_nothing_else(plan, done, copied):
    lost = "runs/ridge_own/near_seed0/metrics.json"
    (copied / lost).unlink()
    before, seen = stamps(copied), Seen()
    result = run_study(plan, copied, jobs=1, resume=True, watch=seen)
    assert {name for name, _ in seen} == {"ridge, own, near, seed 0"} | FAILED
    after = stamps(copied)
    assert after.pop(lost)
    assert after == before
    pd.testing.assert_frame_equal(result.table, done[0].table)


@pytest.mark.usefixtures("undrawn")
def test_a_benchmark_grows_by_a_method(file, done, copied):
    grown = file.with_name("grown.yaml")
    values = yaml.safe_load(file.read_text())
    grown.write_text(yaml.safe_dump({**values, "methods": {"kNN": {"model.name": "knn"}, **METHODS}}, sort_keys=False))
    before, seen = stamps(copied), Seen()
    result = run_study(read_benchmark(grown, QUICK), copied, jobs=1, only=["kNN"], resume=True, watch=seen)
    assert {name for name, _ in seen} == {f"kNN, {split}, seed 0" for split in SPLITS}
    assert result.failures == {}
    assert {name: stamp for name, stamp in stamps(copied).items() if "knn" not in name} == before
    new, old = (table.set_index(["split", "variant"]) for table in (result.table, done[0].table))
    assert new.xs("kNN", level="variant")["place"].notna().all()
    pd.testing.assert_series_equal(new.loc[old.index, "pcc_mean"], old["pcc_mean"])
    assert new.loc[("far", "unstable"), ["planned", "finished", "reason"]].tolist() == [1, 0, ""]
    values["methods"] = {name: METHODS[name] for name in METHODS if name != "ridge, own"}
    grown.write_text(yaml.safe_dump(values))
    with pytest.raises(RunError, match=r"was begun with another study \(variant 'kNN' is gone; variant 'ridge, own'"):
        run_study(read_benchmark(grown, QUICK), copied, jobs=1, resume=True)


def test_the_board_is_the_table_by_its_earlier_name(done):
    with pytest.warns(RenamedWarning, match="table"):
        assert list(done[0].board["method"]) == list(done[0].table["variant"])
