"""Bad input: one line that says what, where and what to do, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .conftest import QUICK, cut, settings


class TestConfiguration:
    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("model:\n  widht: 32\n", ("unknown key 'model.widht'; did you mean 'model.width'",)),
            ("modle: {}\n", ("unknown key 'modle'; did you mean 'model'",)),
            ("temperature: 0.1\n", ("unknown key 'temperature'; did you mean 'model.temperature'?",)),
            ("graph:\n  mode: grids\n", ("graph.mode = 'grids'; allowed: ", "'grid'", "'knn'")),
            ("train:\n  max_epochs: 0\n", ("train.max_epochs = 0", "greater than 0")),
            ("train:\n  max_epochs: many\n", ("train.max_epochs = 'many'", "integer")),
            ("model:\n  heads: 3\n", ("model.heads=3 does not divide", "model.width=")),
            ("data:\n  train: C3\n", ("data.train = 'C3'; expected a list, such as [C3, C4]",)),
            ("data: {train: [A], test: [A]}\n", ("data.train and data.test share A",)),
            ("- a\n- b\n", ("expected keys and values at the top, found list",)),
            ("model: [\n", ("not valid YAML",)),
        ],
    )
    def test_a_file_with_a_typo(self, refuse, tmp_path, text, parts):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        for command in ("train", "prepare"):
            line = refuse(command, path, "--out", tmp_path / "out")
            assert "config.yaml: " in line
            for part in parts:
                assert part in line

    @pytest.mark.parametrize(
        ("assignment", "part"),
        [
            ("model.widht=3", "unknown key 'model.widht'; did you mean 'model.width'"),
            ("data.tset=[C6]", "unknown key 'data.tset'; did you mean 'data.test'"),
            ("modle.width=3", "unknown key 'modle'"),
            ("model.width", "--set model.width: expected KEY=VALUE"),
            ("model.width=[", "is not a YAML value"),
            ("data.normalize=log", "data.normalize = 'log'; allowed: "),
        ],
    )
    def test_an_assignment_with_a_typo(self, refuse, config, tmp_path, assignment, part):
        assert part in refuse("train", config, "--set", assignment, "--out", tmp_path / "out")
        assert part in refuse("demo", "--set", assignment, "--out", tmp_path / "out")

    def test_a_file_that_cannot_be_read(self, refuse, tmp_path):
        (tmp_path / "image.yaml").write_bytes(b"\xff\xfe\x00")
        for name, says in (("none.yaml", "No such file"), ("image.yaml", "not a text file"), (".", "directory")):
            line = refuse("train", tmp_path / name, "--out", tmp_path / "out")
            assert "cannot be read" in line
            assert says in line

    def test_no_place_to_read_from(self, refuse, config, tmp_path):
        assert "data.root" in refuse("train", config, "--out", tmp_path / "out")
        gone = settings({"data.root": tmp_path / "gone"})
        line = refuse("train", config, *gone, "--out", "out")
        assert str(tmp_path / "gone") in line
        assert "data.root" in line

    def test_a_section_that_is_not_there(self, refuse, config, repository, tmp_path):
        of = {"data.format": "her2st", "data.root": tmp_path / "her2st", "data.train": "[A1,B2]"}
        given = settings({**of, "features.encoder": "handcrafted"})  # auto says what it took
        assert "no section 'B2' in" in refuse("train", config, *given, "--out", tmp_path / "out")


class TestFolders:
    @pytest.fixture
    def run(self, tiny_run, tmp_path) -> Path:
        """The model of a run and its configuration, to be spoilt."""
        (tmp_path / "run").mkdir()
        for name in ("model.json", "model.safetensors", "config.yaml"):
            shutil.copy(tiny_run.folder / name, tmp_path / "run")
        return tmp_path / "run"

    @pytest.fixture
    def section(self, tiny_sections, tmp_path) -> Path:
        tiny_sections["S3"].write_h5ad(tmp_path / "S3.h5ad")
        return tmp_path / "S3.h5ad"

    def test_a_run_that_exists(self, refuse, config, run, tmp_path):
        (tmp_path / "file").touch()
        for out in (run, tmp_path / "file"):
            line = refuse("train", config, "--out", out)
            assert f"{out} exists" in line
            assert {"--out", "--resume"} <= {word.strip(";,.") for word in line.split()}
            assert f"{out} exists" in refuse("demo", "--out", out)

    def test_a_prediction_that_exists(self, refuse, run, section, tmp_path):
        (tmp_path / "out").mkdir()
        shutil.copy(section, tmp_path / "out" / "S3.h5ad")
        line = refuse("predict", run, section, "--out", tmp_path / "out")
        assert "S3.h5ad exists already; keep what is there with --resume, give another folder as --out" in line

    def test_a_place_that_cannot_be_written_to(self, refuse, config, repository, run, section, tmp_path):
        (tmp_path / "file").touch()
        out = tmp_path / "file" / "out"
        given = settings({"data.format": "her2st", "data.root": tmp_path / "her2st", **QUICK})
        for command in (["train", config, *given], ["prepare", config, *given], ["predict", run, section]):
            assert str(tmp_path / "file") in refuse(*command, "--out", out)

    def test_nothing_to_resume(self, refuse, config, tmp_path):
        line = refuse("train", config, "--out", tmp_path / "none", "--resume")
        assert "holds no run to resume (config.yaml is missing); leave out --resume" in line

    def test_another_configuration_to_resume(self, refuse, config, run):
        line = refuse("train", config, "--out", run, "--resume")
        assert "was begun with another configuration (data.format: " in line

    def test_a_model_of_another_version(self, refuse, run, section, tmp_path):
        file = run / "model.json"
        description = json.loads(file.read_text())
        later = description["format"] + 1
        file.write_text(json.dumps({**description, "format": later, "version": "7.0"}))
        for command in (["predict", run, section, "--out", tmp_path / "out"], ["evaluate", run]):
            line = refuse(*command)
            assert f"model {run}: written in format {later} by nh2st-graph 7.0" in line
            assert "install nh2st-graph 7.0" in line

    @pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
    def test_a_model_that_is_damaged(self, refuse, run, section, tmp_path, name):
        cut(run / name)
        for command in (["predict", run, section, "--out", tmp_path / "out"], ["evaluate", run]):
            assert f"model {run}: " in refuse(*command)

    def test_a_folder_that_is_no_run(self, refuse, section, tmp_path):
        for folder in (tmp_path, tmp_path / "none", section):
            for command in (["predict", folder, section, "--out", tmp_path / "out"], ["evaluate", folder]):
                assert "model.json" in refuse(*command)
