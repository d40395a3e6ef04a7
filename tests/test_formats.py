"""Formats: earlier files are read, and each kind of file that a later version wrote is refused by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import torch
import yaml

import nh2st_graph as ng
from nh2st_graph import ConfigError, DataError, ModelError, RunError, __version__, _files
from nh2st_graph._files import check_format, stamp
from nh2st_graph.cli import main
from nh2st_graph.study import read_study, run_study

GOLDEN = Path(__file__).parent / "golden"


def refused(about: dict[str, object], reads: int = 2, **how: str) -> str:
    with pytest.raises(ModelError) as caught:
        check_format("model m", about, reads, ModelError, **how)
    line = str(caught.value)
    assert line.startswith("model m: written ")
    assert f"this is version {__version__}, which reads format {reads}: " in line
    return line


@pytest.mark.parametrize(
    "about",
    [
        {},
        stamp(2),
        stamp(1),
        {"format": np.int64(2)},
        {"version": "0.0.1"},
        {"version": "0+unknown"},
        {"version": None},
    ],
)
def test_what_this_version_and_earlier_ones_wrote_is_read(about):
    check_format("model m", about, 2, ModelError)


@pytest.mark.parametrize("version", ["99.0", f"{__version__}.1", 99.0])
def test_a_later_version_is_named(version):
    line = refused({"format": 2, "version": version})
    assert f"by nh2st-graph {version}; " in line
    assert line.endswith(f": install nh2st-graph {version}")


@pytest.mark.parametrize("about", [{"format": 3}, {"format": 3, "version": __version__}])
def test_a_later_format_is_named(about):
    line = refused(about)
    assert "written in format 3 by" in line
    assert line.endswith("install a later version")


@pytest.mark.parametrize("format", [0, -1, True, "2", None, 2.0, [2]])
def test_a_format_that_is_none(format):
    assert refused({"format": format}, otherwise="train again").endswith(": train again")


def test_a_version_that_is_none():
    assert "by nh2st-graph of today;" in refused({"version": "of today"})


def test_a_source_tree_reads_all_versions_of_its_format(monkeypatch):
    monkeypatch.setattr(_files, "__version__", "0+unknown")
    check_format("model m", {"format": 1, "version": "99.0"}, 1, ModelError)
    with pytest.raises(RunError):
        check_format("run r", {"format": 2}, 1, RunError)


#: What a later version may say.
LATER = [{"format": 2}, {"version": "99.0"}]


def in_yaml(path: Path, change: dict[str, object]) -> None:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}, sort_keys=False))


@pytest.mark.parametrize("change", LATER)
class TestALaterVersion:
    @staticmethod
    def refused(error: type[Exception], path: Path, call: Callable[[], object]) -> None:
        with pytest.raises(error, match=rf"{re.escape(str(path))}: .*this is version .*: install ") as caught:
            call()
        assert "\n" not in str(caught.value)

    @pytest.fixture
    def run(self, tiny_run, tmp_path) -> Path:
        return Path(shutil.copytree(tiny_run.folder, tmp_path / "run"))

    @pytest.fixture
    def section(self, tiny_sections, tmp_path) -> Path:
        ng.read.write_h5ad(tiny_sections["S3"], tmp_path / "sections" / "S3.h5ad")
        return tmp_path / "sections" / "S3.h5ad"

    @staticmethod
    def stamped(path: Path, change: dict[str, object]) -> None:
        with h5py.File(path, "r+") as file:
            for key, value in change.items():
                file["uns/nh2st_format"][key][()] = value

    def test_of_a_run(self, run, change, tiny_config):
        in_yaml(run / "config.yaml", change)
        for call in (
            lambda: ng.tl.train_run(tiny_config, run, resume=True),
            lambda: ng.tl.evaluate_run(run),
            lambda: ng.config.load_config(run / "config.yaml"),
        ):
            self.refused(ConfigError, run / "config.yaml", call)

    def test_of_a_checkpoint_which_stays(self, run, change, tiny_config):
        (path, *_) = sorted(run.glob("checkpoints/*/last.ckpt"))
        content = torch.load(path, weights_only=True)
        torch.save({**content, "nh2st_format": json.dumps(change)}, path)
        self.refused(RunError, path, lambda: ng.tl.train_run(tiny_config, run, resume=True))
        assert path.is_file()
        assert not list(run.rglob("*.unreadable"))

    @pytest.mark.parametrize("how", [{}, {"backed": True}, {"library_key": "section"}])
    def test_of_a_section(self, section, change, how):
        ng.read.sections("h5ad", section.parent, **how)
        self.stamped(section, change)
        self.refused(DataError, section, lambda: ng.read.sections("h5ad", section.parent, **how))

    def test_of_a_section_whatever_reads_it(self, section, tiny_run, change, tmp_path, capsys):
        self.stamped(section, change)
        for command in (
            ["predict", tiny_run.folder, section, "--out", tmp_path / "out"],
            ["info", section],
            ["prepare", "anndata", section, "--out", tmp_path / "out"],
        ):
            with pytest.raises(SystemExit) as ended:
                main([str(word) for word in command])
            assert ended.value.code
            assert ": install " in capsys.readouterr().err, command
        assert not (tmp_path / "out").exists()

    def test_of_a_store(self, tiny_sections, change):
        stored = ng.read.to_spatialdata(tiny_sections["S3"], image=None)
        stored["table"].uns["nh2st_format"] = change
        with pytest.raises(DataError, match=r"the SpatialData object: .*: install "):
            ng.read.spatialdata_section(stored)

    def test_of_a_study(self, change, tmp_path, monkeypatch):
        shutil.copytree(GOLDEN, tmp_path / "golden")
        monkeypatch.chdir(tmp_path / "golden")
        path = Path("small_study/study.yaml")
        in_yaml(path, change)
        with pytest.warns(FutureWarning):
            study = read_study("small_study.yaml")
        self.refused(RunError, path, lambda: run_study(study, "small_study", resume=True, jobs=1))


def test_a_prediction_of_a_later_version(tmp_path):
    path = Path(shutil.copy(GOLDEN / "run" / "predictions" / "S3.h5ad", tmp_path))
    prediction = ad.read_h5ad(path)
    prediction.uns["nh2st_prediction"]["version"] = "99.0"
    prediction.write_h5ad(path)
    with pytest.raises(DataError, match=r"S3\.h5ad: written by nh2st-graph 99\.0; .*: install nh2st-graph 99\.0"):
        ng.read.h5ad_section(path)


def test_sections_in_memory_do_not_say_what_wrote_them(tiny_sections, tmp_path):
    ng.read.write_h5ad(tiny_sections["S3"], tmp_path / "S3.h5ad")
    stored = ng.read.to_spatialdata(tiny_sections["S3"], image="hires")
    stored["table"].uns["nh2st_format"] = stamp(1)
    assert dict(ad.read_h5ad(tmp_path / "S3.h5ad").uns["nh2st_format"]) == stamp(1)
    assert "nh2st_format" not in tiny_sections["S3"].uns
    for section in (
        ng.read.h5ad_section(tmp_path / "S3.h5ad"),
        *ng.read.sections("h5ad", tmp_path / "S3.h5ad", library_key="section").values(),
        ng.read.spatialdata_section(stored),
    ):
        assert "nh2st_format" not in section.uns


def test_what_a_run_writes_says_its_format(tiny_run):
    written = yaml.safe_load((tiny_run.folder / "config.yaml").read_text())
    assert {key: written[key] for key in ("format", "version")} == stamp(1)
    assert list(written)[:2] == ["format", "version"]
    about = json.loads((tiny_run.folder / "model.json").read_text())
    assert {key: about[key] for key in ("format", "version")} == stamp(1)
    for path in tiny_run.folder.glob("predictions/*.h5ad"):
        assert dict(ad.read_h5ad(path).uns["nh2st_format"]) == stamp(1)
    for path in tiny_run.folder.glob("checkpoints/*/last.ckpt"):
        assert json.loads(torch.load(path, weights_only=True)["nh2st_format"]) == stamp(1)
