"""What made a result is in each of its files."""

from __future__ import annotations

import json
import subprocess

import anndata as ad
import pytest
import torch

from nh2st_graph import __version__
from nh2st_graph.train import _record


def test_every_result_says_what_made_it(tiny_run):
    folder, config = tiny_run.folder, tiny_run.model.config
    scored = json.loads((folder / "metrics.json").read_text())["record"]
    described = json.loads((folder / "model.json").read_text())
    origin = {**described["origin"], "settings": described["config"]}
    predicted = json.loads(ad.read_h5ad(folder / "predictions" / "S3.h5ad").uns["nh2st_prediction"]["record"])
    for each in (scored, origin, predicted):
        assert each["versions"]["nh2st-graph"] == __version__
        assert torch.__version__.startswith(each["versions"]["torch"])
        assert each["revision"] == _record.made_with()["revision"]
        assert each["settings"]["seed"] == config.seed
        assert each["settings"]["model"]["width"] == config.model.width
    assert "root" not in scored["settings"]["data"], "files are known by their digests"
    assert scored["seed"] == predicted["seed"] == config.seed
    assert scored["sections"] == {**origin["train"], **origin["tests"]}
    assert set(scored["sections"]) == {"S1", "S2", "S3"}


def test_it_names_no_folder(tiny_config):
    panel = tiny_config.override(["data.panel=/home/ann/panel.txt", "features.encoder=uni2-h@/home/ann/w.bin"])
    settings = _record.record(panel)["settings"]
    assert settings["data"]["panel"] == "panel.txt"
    assert "/home" not in json.dumps(settings)


class TestRevision:
    @pytest.fixture(autouse=True)
    def _asked_again(self):
        _record._revision.cache_clear()
        yield
        _record._revision.cache_clear()

    def test_of_a_source_tree(self, tmp_path, monkeypatch):
        git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
        (tmp_path / "file").touch()
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
            subprocess.run([*git, *words], check=True)
        monkeypatch.setattr(_record, "__file__", str(tmp_path / "package" / "room" / "file.py"))
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        assert _record.made_with()["revision"] == head

    def test_of_an_installed_package(self, tmp_path, monkeypatch):
        monkeypatch.setattr(_record, "__file__", str(tmp_path / "package" / "room" / "file.py"))
        text: str | None = json.dumps({"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}})

        class Installed:
            def read_text(self, name: str) -> str | None:
                return text if name == "direct_url.json" else None

        monkeypatch.setattr(_record.Distribution, "from_name", lambda _: Installed())
        assert _record.made_with()["revision"] == "abc"
        _record._revision.cache_clear()
        text = None
        assert _record.made_with()["revision"] is None
