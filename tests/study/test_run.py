"""A study that really trains: two variants and one that cannot, two seeds. Its scores, table, files, and resuming."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nh2st_graph import ConfigError, RenamedWarning, RunError, study
from nh2st_graph._files import owned
from nh2st_graph.config import load_config
from nh2st_graph.section import section_digest
from nh2st_graph.study import Fold, run_study
from nh2st_graph.study._folder import read_record
from nh2st_graph.study._report import write_reports
from nh2st_graph.study._results import collect, seen_sections
from nh2st_graph.tl import LABELS

from .conftest import Seen

pytestmark = pytest.mark.slow

FAILED = {"no panel, S3, seed 0", "no panel, S3, seed 1"}


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """The finished study's folder, to be changed."""
    return Path(shutil.copytree(finished[1], tmp_path / "copy"))


class TestRuns:
    def test_one_that_fails_stops_no_other(self, finished):
        result, folder, seen = finished
        assert {str(run) for run in result.failures} == FAILED
        assert all("nowhere.txt does not exist" in reason for reason in result.failures.values())
        names = {f"{variant}, S3, seed {seed}" for variant in ("base", "no neighbours", "no panel") for seed in (0, 1)}
        assert sorted(name for name, what in seen if what == "begun") == sorted(names)
        ended = {name: what for name, what in seen if what != "begun"}
        assert ended == dict.fromkeys(names - FAILED) | {str(run): reason for run, reason in result.failures.items()}
        assert len(seen) == 2 * len(names)
        assert not list(folder.glob("runs/no_panel/*"))

    def test_a_folder_is_as_train_writes_it(self, finished):
        run = finished[1] / "runs" / "no_neighbours" / "s3_seed1"
        names = ["config.yaml", "model.safetensors", "model.json", "metrics.json", "metrics_per_gene.csv", "log.csv"]
        assert all((run / name).is_file() for name in [*names, "predictions/S3.h5ad", "study.json"])
        config = load_config(run / "config.yaml")
        assert (config.seed, config.model.neighbours, config.data.test) == (1, False, ("S3",))

    def test_scores_are_what_they_wrote(self, tiny_study, finished):
        result, folder, _ = finished
        scores = result.results.scores.set_index(["variant", "fold", "section", "seed"])
        assert scores.index.is_unique
        assert len(scores) == 2 * 2 + 3 * 2  # two variants that ran and three baselines, two seeds, one section
        for run in tiny_study.runs(folder):
            if run.variant == "no panel":
                continue
            row = scores.loc[(run.variant, "S3", "S3", run.seed)]
            metrics = json.loads((run.folder / "metrics.json").read_text())
            for score, value in metrics["sections"]["S3"].items():
                assert np.isnan(row[score]) if value is None else row[score] == pytest.approx(value), score
            assert row["seconds"] > 0
            assert row["parameters"] > 0
            if run.variant == "base":
                baseline = scores.loc[(LABELS["ridge"], "S3", "S3", run.seed)]
                assert baseline["pcc_partial"] == metrics["baselines"]["ridge"]["sections"]["S3"]["pcc_partial"]

    def test_scores_of_genes_are_what_they_wrote(self, tiny_study, finished):
        genes = finished[0].results.per_gene
        for run in tiny_study.runs(finished[1], ["base"]):
            wrote = pd.read_csv(run.folder / "metrics_per_gene.csv").set_index("gene")
            for variant, column in (("base", "pcc"), (LABELS["ridge_neighbours"], "pcc_ridge_neighbours")):
                mine = genes[(genes["variant"] == variant) & (genes["seed"] == run.seed)].set_index("gene")
                pd.testing.assert_series_equal(mine["pcc"], wrote[column], check_names=False)

    def test_nothing_finished_gives_empty_tables(self, tiny_study, finished):
        results = collect(tiny_study, tiny_study.runs(Path("nowhere")))
        assert results.scores.empty
        assert results.per_gene.empty
        for name in ("per_gene", "curves"):
            assert set(getattr(results, name).columns) == set(getattr(finished[0].results, name).columns)


class TestTable:
    def test_says_what_came_out(self, finished):
        table = finished[0].table.set_index("variant")
        assert table["finished"].tolist() == [2, 2, 0, 2, 2, 2]
        assert table["planned"].tolist() == [2, 2, 2, 0, 0, 0]
        assert table.loc["no panel", "reason"].startswith("gene panel")
        assert table.loc[["base", "no neighbours"], ["pcc_mean", "pcc_partial", "seconds"]].notna().all(axis=None)
        assert table.loc["no panel", ["pcc_mean", "pcc_mean_difference", "parameters"]].isna().all()
        assert table.loc["no neighbours", "parameters"] < table.loc["base", "parameters"]

    def test_is_written(self, finished):
        result, folder, _ = finished
        table = pd.read_csv(folder / "table.csv", keep_default_na=False, na_values=[""])
        numbers = result.table.select_dtypes("number").columns
        pd.testing.assert_frame_equal(table[numbers], result.table[numbers], check_dtype=False, rtol=1e-5)
        assert list(table["variant"]) == list(result.table["variant"])
        scores = pd.read_csv(folder / "scores.csv")
        pd.testing.assert_frame_equal(scores, result.results.scores, check_dtype=False, rtol=1e-5)
        with Image.open(folder / "forest.png") as image:
            assert min(image.size) > 100

    def test_as_markdown_says_what_the_numbers_are_and_what_failed(self, finished):
        result, folder, _ = finished
        text = (folder / "table.md").read_text()
        assert text.startswith("# tiny\n\nMeans and standard deviations over sections and seeds (0, 1).")
        assert result.explanation in text
        assert result.explanation.endswith("With one test section the interval is over genes alone.")
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert [row.split("|")[1].strip() for row in rows[2:5]] == ["base", "no neighbours", "no panel"]
        assert len({row.count("|") for row in rows}) == 1
        assert "\nFailed:\n\n- no panel, S3, seed 0: gene panel " in text

    def test_has_a_part_for_each_split(self, tiny_study, finished, tmp_path):
        result = finished[0]
        twice = pd.concat([result.table.assign(split=split) for split in ("near", "far")])
        twice["variant"] = twice["variant"].replace("no neighbours", "a|b")
        folds = (Fold("near", ("S1",), ("S2", "S3"), "near"), Fold("far", ("S2",), ("S1",), "far"))
        other = replace(result, study=replace(tiny_study, folds=folds), table=twice, failures={})
        written = write_reports(other, tmp_path)
        assert [path.name for path in written] == ["table.md", "table.csv", "scores.csv", "forest.png"]
        text = (tmp_path / "table.md").read_text()
        assert text.index("## near") < text.index("## far")
        assert r"| a\|b |" in text
        assert "Failed" not in text
        with Image.open(tmp_path / "forest.png") as wide, Image.open(finished[1] / "forest.png") as narrow:
            assert wide.width > 1.4 * narrow.width

    def test_without_a_difference_has_no_figure(self, finished, tmp_path):
        (tmp_path / "forest.png").write_text("of before")
        alone = finished[0].table[finished[0].table["role"] == "base"]
        assert len(write_reports(replace(finished[0], table=alone), tmp_path)) == 3
        assert not (tmp_path / "forest.png").exists()


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Leave the figure out: that of ``finished`` is looked at."""
    monkeypatch.setattr("nh2st_graph.study._report._draw_forest", lambda *_, **__: None)


@pytest.mark.usefixtures("undrawn")
class TestResuming:
    def test_does_what_is_missing_and_changes_nothing_else(self, tiny_study, finished, copied):
        run = copied / "runs" / "base" / "s3_seed1"
        record = read_record(run)
        (run / "metrics.json").unlink()
        weights = [path for path in copied.glob("runs/*/*/model.safetensors") if run not in path.parents]
        kept = {path: path.stat().st_mtime_ns for path in weights}
        seen = Seen()
        result = run_study(tiny_study, copied, jobs=1, resume=True, watch=seen)
        assert {name for name, _ in seen} == {"base, S3, seed 1"} | FAILED
        assert ("base, S3, seed 1", None) in seen
        pd.testing.assert_frame_equal(result.table, finished[0].table)
        assert read_record(run) == record
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        assert len(kept) == 3

    def test_goes_on_with_a_run_that_was_interrupted(self, tiny_study, finished, copied):
        """As it is left by an end of the process in its last stage."""
        run = copied / "runs" / "base" / "s3_seed0"
        for name in ("metrics.json", "study.json", "model.safetensors", "model.json", "checkpoints/all/done.json"):
            (run / name).unlink()
        first_fold = (run / "checkpoints" / "fold1" / "last.ckpt").stat().st_mtime_ns
        result = run_study(tiny_study, copied, jobs=1, only=["no neighbours"], resume=True)
        assert result.failures == {}
        assert (run / "checkpoints" / "fold1" / "last.ckpt").stat().st_mtime_ns == first_fold
        expected = json.loads((finished[1] / "runs" / "base" / "s3_seed0" / "metrics.json").read_text())
        assert json.loads((run / "metrics.json").read_text()) == expected
        assert read_record(run).seconds is None  # the time of the first part is not known
        table = result.table.set_index("variant")
        assert table.loc["base", "seconds"] == read_record(copied / "runs" / "base" / "s3_seed1").seconds
        assert (table.loc["no panel", "planned"], table.loc["no panel", "reason"]) == (2, "")


class TestOneOwner:
    def test_a_second_study_in_the_folder_is_refused(self, tiny_study, copied, monkeypatch):
        before = (copied / "table.csv").read_bytes()
        monkeypatch.setattr("nh2st_graph._files._WAIT", 0.02)

        def other() -> None:
            with pytest.raises(RunError, match=r"^study folder .* is in use by another process") as caught:
                run_study(tiny_study, copied, jobs=1, resume=True)
            assert "\n" not in str(caught.value)

        with owned(copied, "study folder"), ThreadPoolExecutor() as pool:
            pool.submit(other).result()
        assert (copied / "table.csv").read_bytes() == before


@pytest.mark.usefixtures("undrawn")
class TestOtherData:
    def test_finished_runs_say_what_they_were_of(self, tiny_study, finished, sections):
        seen = seen_sections([run for run in tiny_study.runs(finished[1]) if run.finished])
        assert set(seen) == set(sections)
        for name, section in sections.items():
            assert seen[name].items() >= section_digest(section).items()

    @pytest.mark.parametrize("part", ["counts", "image"])
    def test_a_run_on_other_content_fails_by_name(self, tiny_study, copied, sections, monkeypatch, part):
        run = copied / "runs" / "base" / "s3_seed1"
        shutil.rmtree(run)
        seen = {name: {**section_digest(section), part: "other"} for name, section in sections.items()}
        monkeypatch.setattr("nh2st_graph.study._run.seen_sections", lambda _: seen)
        result = run_study(tiny_study, copied, jobs=1, only=["base"], resume=True)
        (reason,) = [why for failed, why in result.failures.items() if failed.variant == "base"]
        assert f"section 'S1' has other {part} than in the finished runs of this study" in reason
        assert not run.exists()


def test_errors_are_in_the_logarithm_of_the_study(tiny_study, copied):
    """A run of base 10 has its own."""
    path = copied / "runs" / "base" / "s3_seed1" / "metrics.json"
    metrics = json.loads(path.read_text())
    before = collect(tiny_study, tiny_study.runs(copied)).scores
    metrics["protocol"]["log_base"] = 10
    path.write_text(json.dumps(metrics))
    after = collect(tiny_study, tiny_study.runs(copied)).scores
    changed = (before["variant"].isin(["base", *LABELS.values()])) & (before["seed"] == 1)
    for score, factor in {"mse": np.log(10) ** 2, "mae": np.log(10), "pcc_mean": 1.0}.items():
        np.testing.assert_allclose(after[score], before[score] * np.where(changed, factor, 1.0), err_msg=score)


def test_what_is_wrong_is_said_before_anything_is_written(tiny_study, tmp_path):
    with pytest.raises(ConfigError, match="jobs=0; allowed: 1 or more"):
        run_study(tiny_study, tmp_path / "new", jobs=0)
    with pytest.raises(ConfigError, match="no such variant"):
        run_study(tiny_study, tmp_path / "new", only=["none"])
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine.txt").touch()
    with pytest.raises(RunError, match="exists already"):
        run_study(tiny_study, tmp_path)


def test_earlier_names_are_known():
    with pytest.warns(RenamedWarning, match="study.run_benchmark is now study.run_study"):
        assert study.run_benchmark is run_study
    with pytest.raises(AttributeError, match="nothing"):
        _ = study.nothing
