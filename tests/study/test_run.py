"""A study that really trains: two variants and one that cannot, two seeds, two processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from nh2st_graph import ConfigError, RunError
from nh2st_graph.config import load_config
from nh2st_graph.study import run_study
from nh2st_graph.study._folder import read_record

from .conftest import Seen

FAILED = {"no panel, S3, seed 0", "no panel, S3, seed 1"}


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """The finished study's folder, to be changed."""
    return Path(shutil.copytree(finished[1], tmp_path / "copy"))


def test_a_run_that_fails_stops_no_other(finished):
    result, folder, seen = finished
    assert {str(run) for run in result.failures} == FAILED
    assert all("nowhere.txt does not exist" in reason for reason in result.failures.values())
    names = {f"{variant}, S3, seed {seed}" for variant in ("base", "no neighbours", "no panel") for seed in (0, 1)}
    assert sorted(name for name, what in seen if what == "begun") == sorted(names)
    ended = {name: what for name, what in seen if what != "begun"}
    assert ended == dict.fromkeys(names - FAILED) | {str(run): reason for run, reason in result.failures.items()}
    assert len(seen) == 2 * len(names)
    assert not list(folder.glob("runs/no_panel/*"))


def test_a_run_folder_is_as_train_writes_it(tiny_study, finished):
    _, folder, _ = finished
    run = folder / "runs" / "no_neighbours" / "s3_seed1"
    names = ["config.yaml", "model.safetensors", "model.json", "metrics.json", "metrics_per_gene.csv", "log.csv"]
    assert all((run / name).is_file() for name in [*names, "predictions/S3.h5ad", "figures/scores.png", "study.json"])
    config = load_config(run / "config.yaml")
    assert (config.seed, config.model.neighbours, config.data.test) == (1, False, ("S3",))


def test_the_table_says_what_came_out(finished):
    table = finished[0].table.set_index("variant")
    assert table["finished"].tolist() == [2, 2, 0, 2, 2]
    assert table.loc["no panel", "reason"].startswith("gene panel")
    assert table.loc[["base", "no neighbours"], ["pcc_mean", "pcc_partial", "own", "seconds"]].notna().all(axis=None)
    assert table.loc["no panel", ["pcc_mean", "pcc_mean_difference", "parameters"]].isna().all()


def test_resuming_does_what_is_missing_and_changes_nothing_else(tiny_study, finished, copied):
    run = copied / "runs" / "base" / "s3_seed1"
    record = read_record(run)
    (run / "metrics.json").unlink()
    kept = {
        path: path.stat().st_mtime_ns for path in copied.glob("runs/*/*/model.safetensors") if run not in path.parents
    }
    seen = Seen()
    result = run_study(tiny_study, copied, jobs=1, resume=True, watch=seen)
    assert {name for name, _ in seen} == {"base, S3, seed 1"} | FAILED
    assert ("base, S3, seed 1", None) in seen
    pd.testing.assert_frame_equal(result.table, finished[0].table)
    assert read_record(run) == record
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(kept) == 3


def test_a_run_that_was_interrupted_goes_on(tiny_study, finished, copied):
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


def test_what_is_wrong_is_said_before_anything_is_written(tiny_study, tmp_path):
    with pytest.raises(ConfigError, match="--jobs 0; allowed: 1 or more"):
        run_study(tiny_study, tmp_path / "new", jobs=0)
    with pytest.raises(ConfigError, match="no such variant"):
        run_study(tiny_study, tmp_path / "new", only=["none"])
    assert not (tmp_path / "new").exists()
    with pytest.raises(RunError, match="exists already"):
        run_study(tiny_study, tmp_path)
