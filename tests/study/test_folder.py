from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nh2st_graph import RunError
from nh2st_graph.study import read_study
from nh2st_graph.study._folder import RunRecord, open_folder, read_metrics, read_record, read_rows, write_record

FOLDS = {"a": {"train": ["S1"], "test": ["S2"]}, "b": {"train": ["S2"], "test": ["S1"]}}
VARIANTS = {"deep": {"model.hops": 2}, "wide": {"model.width": 32}}
SEEDS = [0, 1]


@pytest.fixture
def begin(study_file: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Begin a study, or go on with it with other keys; return its folder."""

    def run(overrides: Sequence[str] = (), resume: bool = True, **keys: Any) -> Path:
        file = study_file(**{"folds": FOLDS, "variants": VARIANTS, "seeds": SEEDS, **keys})
        # The panel that lies beside each study file is another file each time.
        open_folder(read_study(file, ["data.panel=hvg:9", *overrides]), tmp_path / "out", resume=resume)
        return tmp_path / "out"

    run(resume=False)
    return run


def test_a_folder_that_is_there_is_left_alone(study_file, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="exists already; choose another out, or go on with resume=True"):
        open_folder(read_study(study_file()), tmp_path, resume=False)
    with pytest.raises(RunError, match=r"holds no study to resume \(study\.yaml is missing\)"):
        open_folder(read_study(study_file()), tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_same_study_goes_on_and_what_changes_no_result_may_change(begin):
    begin()
    begin(["features.cache=elsewhere", "train.device=auto", "train.progress=true"])


def test_a_study_may_grow(begin):
    begin(
        folds={**FOLDS, "c": {"train": ["S1"], "test": ["S3"]}},
        variants={"first": {"model.n_components": 4}, **VARIANTS},
        seeds=[2, 1, 0],
    )


@pytest.mark.parametrize(
    ("keys", "overrides", "message"),
    [
        ({"seeds": [0]}, [], "seed 1 is gone"),
        ({"folds": {"a": FOLDS["a"]}}, [], "fold 'b' is gone"),
        ({"folds": {**FOLDS, "b": {"train": ["S3"], "test": ["S1"]}}}, [], r"fold 'b': train: \['S2'\] -> \['S3'\]"),
        ({"folds": {**FOLDS, "b": {**FOLDS["b"], "split": "x"}}}, [], "fold 'b': split: folds -> x"),
        ({"variants": {"deep": {"model.hops": 2}}}, [], "variant 'wide' is gone"),
        ({"variants": {**VARIANTS, "deep": {"model.hops": 3}}}, [], r"variant 'deep': model\.hops: 2 -> 3"),
        (
            {"variants": {**VARIANTS, "deep": {"model.hops": 2, "model.n_components": 4}}},
            [],
            r"variant 'deep': model\.n_components: \(unset\) -> 4",
        ),
        ({"base_name": "full"}, [], "base: base -> full"),
        ({}, ["model.dropout=0.5"], r"model\.dropout: 0\.2 -> 0\.5"),
        ({"set": {"data.synthetic.n_rows": 9}}, [], r"data\.synthetic\.n_rows: 8 -> 9"),
    ],
)
def test_another_study_is_refused_and_the_difference_named(begin, keys, overrides, message):
    record = begin() / "study.yaml"
    before = record.read_text()
    with pytest.raises(RunError, match=rf"was begun with another study \({message}\); undo the change"):
        begin(overrides, **keys)
    assert record.read_text() == before


@pytest.mark.parametrize("text", ["study: [", "- a", "study: tiny"])
def test_a_damaged_record_is_an_error(begin, text):
    (begin() / "study.yaml").write_text(text)
    with pytest.raises(RunError, match=r"study\.yaml is damaged"):
        begin()


@pytest.mark.parametrize("record", [RunRecord(12, 3.5), RunRecord(12, None)])
def test_the_notes_of_a_run_are_read_again_and_a_scored_run_with_notes_is_finished(record, study_file, tmp_path):
    (run,) = read_study(study_file()).runs(tmp_path)
    run.folder.mkdir(parents=True)
    assert read_record(run.folder) is None
    write_record(run.folder, record)
    assert read_record(run.folder) == record
    assert not run.finished
    (run.folder / "metrics.json").write_text("{}")
    assert run.finished


class TestDamaged:
    """A file of a finished run that was cut off, say by a copy."""

    WHOLE: ClassVar[dict[str, Any]] = {"sections": {}, "references": {}, "protocol": {"n_constant_train": 0}}

    @pytest.mark.parametrize("text", ["", '{"sections": {', "[1]", '{"sections": {}}', "null", "\xff"])
    def test_scores(self, tmp_path, text):
        (tmp_path / "metrics.json").write_text(text, encoding="latin-1")
        with pytest.raises(RunError, match=r"metrics\.json is missing or damaged .*remove the run folder.*resume=True"):
            read_metrics(tmp_path)

    def test_whole_ones_are_read(self, tmp_path):
        (tmp_path / "metrics.json").write_text(json.dumps(self.WHOLE))
        assert read_metrics(tmp_path) == self.WHOLE

    @pytest.mark.parametrize("text", ["", "{}", '{"parameters": 1, "x": 2}'])
    def test_notes(self, tmp_path, text):
        (tmp_path / "study.json").write_text(text)
        with pytest.raises(RunError, match=r"study\.json is missing or damaged"):
            read_record(tmp_path)

    def test_a_table(self, tmp_path):
        (tmp_path / "log.csv").write_text("")
        with pytest.raises(RunError, match=r"log\.csv is missing or damaged"):
            read_rows(tmp_path / "log.csv")


@pytest.mark.parametrize("resume", [False, True])
def test_a_study_that_was_killed_before_it_wrote_a_file_begins(study_file, tmp_path, resume):
    (tmp_path / ".study.yaml.1.part").write_text("ha")
    open_folder(read_study(study_file()), tmp_path, resume=resume)
    assert (tmp_path / "study.yaml").is_file()
