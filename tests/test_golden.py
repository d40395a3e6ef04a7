"""Folders that an earlier commit wrote still load, and give the numbers that it gave; see ``golden/README.md``.

Their configurations have that commit's keys (``train.average``, ``evaluate.floors``, ``model.rank``), so warnings about
old keys are expected here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import nh2st_graph as ng
from nh2st_graph.cli import main

GOLDEN = Path(__file__).parent / "golden"
MODELS = ("run", "mlp", "linear", "ridge_neighbours", "bleep", "stnet")

#: Other processors round differently.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}

#: Keys of ``metrics.json`` that have other names since.
RENAMED = {"floors": "baselines", "floors_chosen": "baselines_chosen"}

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def golden(tmp_path, monkeypatch) -> Path:
    """A copy of the golden folders, and the current folder: paths in them are relative to it."""
    shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.chdir(tmp_path / "golden")
    return tmp_path / "golden"


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by their paths, under today's names, but for the version that wrote them."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key != "version":
                yield from leaves(each, f"{path}/{RENAMED.get(key, key)}")
    else:
        yield path, value


def scores(path: Path) -> dict[str, Any]:
    return dict(leaves(json.loads(path.read_text(encoding="utf-8"))))


def assert_same_scores(after: Path, before: Path) -> None:
    expected, found = scores(before), scores(after)
    for key, value in expected.items():
        if isinstance(value, float):
            np.testing.assert_allclose(found[key], value, **CLOSE, err_msg=key)
        else:
            assert found[key] == value, key


@pytest.mark.parametrize("name", MODELS)
def test_a_model_predicts_what_it_predicted(name):
    model, section = ng.load(GOLDEN / name), ng.read.h5ad(GOLDEN / "sections" / "S3.h5ad")
    predicted = ng.tl.predict(model, section).to_df()
    expected = pd.read_csv(GOLDEN / name / "predicted.csv", index_col=0)
    assert list(predicted.index) == list(expected.index)
    assert list(predicted.columns) == list(expected.columns)
    np.testing.assert_allclose(predicted, expected, **CLOSE)


def test_a_model_embeds_what_it_embedded():
    section = ng.read.h5ad(GOLDEN / "sections" / "S3.h5ad")
    ng.tl.embed(ng.load(GOLDEN / "run"), section)
    for key in ("X_nh2st_image", "X_nh2st_gene"):
        expected = np.loadtxt(GOLDEN / "run" / f"{key}.csv", delimiter=",")
        np.testing.assert_allclose(section.obsm[key], expected, **CLOSE)


@pytest.mark.parametrize("model", ["run", "model.zip"])
def test_a_model_of_the_first_format_predicts_what_it_predicted(model):
    folder = GOLDEN / "format_1"
    predicted = ng.tl.predict(ng.read.h5ad_section(folder / "S3.h5ad"), ng.load(folder / model)).to_df()
    expected = pd.read_csv(folder / "predicted.csv", index_col=0)
    assert list(predicted.columns) == list(expected.columns)
    np.testing.assert_allclose(predicted.loc[expected.index], expected, **CLOSE)
    written = ng.read.h5ad_section(folder / "run" / "predictions" / "S3.h5ad").to_df()
    np.testing.assert_allclose(written.loc[expected.index], expected, **CLOSE)


def test_a_run_of_the_first_format_is_read():
    config = ng.config.load_config(GOLDEN / "format_1" / "run" / "config.yaml")
    assert config.data.train == ("S1", "S2")


@pytest.mark.parametrize("name", MODELS)
def test_a_model_saved_again_predicts_the_same(name, golden):
    ng.load(name).save("again")
    section = ng.read.h5ad("sections/S3.h5ad")
    before, after = (ng.tl.predict(ng.load(folder), section).to_df() for folder in (name, "again"))
    pd.testing.assert_frame_equal(after, before, check_exact=True)


def test_a_run_is_scored_again_as_it_was_scored(golden):
    predictions = ng.read.h5ad("run/predictions/S3.h5ad").to_df()
    ng.tl.evaluate_run("run")
    assert_same_scores(Path("run/metrics.json"), GOLDEN / "run" / "metrics.json")
    after, before = (pd.read_csv(folder / "run" / "metrics_per_gene.csv") for folder in (golden, GOLDEN))
    pd.testing.assert_frame_equal(after[before.columns], before, rtol=CLOSE["rtol"], atol=CLOSE["atol"])
    again = ng.read.h5ad("run/predictions/S3.h5ad").to_df()
    pd.testing.assert_frame_equal(again, predictions, rtol=CLOSE["rtol"], atol=CLOSE["atol"])


def test_a_study_goes_on_and_finds_its_runs_done(golden, capfd):
    """Nothing is left to do, so that the tables are written again from the scores that are there."""
    written = Path("small_study/study.yaml").read_text(encoding="utf-8")
    if f"version: {ng.__version__}\n" not in written:
        pytest.skip("a study of another version is not resumed")
    arguments = ["small_study.yaml", "--set", "model.closed_form=false", "--out", "small_study"]
    with pytest.raises(SystemExit) as ended:
        main(["ablate", *arguments, "--jobs", "1", "--resume"])
    assert ended.value.code in (0, None), capfd.readouterr().err
    assert not list(Path("small_study").glob("runs/*/*/model.safetensors"))
    for table in ("scores.csv", "table.csv"):
        after, before = (pd.read_csv(folder / "small_study" / table) for folder in (golden, GOLDEN))
        after = after[after["variant"].isin(before["variant"])].reset_index(drop=True)  # baselines were added
        pd.testing.assert_frame_equal(after[before.columns], before, rtol=CLOSE["rtol"], atol=CLOSE["atol"])
