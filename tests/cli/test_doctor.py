"""What is looked at on a machine, what is said to be missing, and how it is installed."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import psutil
import pytest
import torch
import torch_geometric.typing
from huggingface_hub.errors import RepositoryNotFoundError

from nh2st_graph.cli import _doctor, main
from nh2st_graph.cli._doctor import Check, examine
from nh2st_graph.im import recipes

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


class _Metadata(dict[str, str]):
    def get_all(self, _: str) -> list[str]:
        return list(EXTRAS)


@pytest.fixture(autouse=True)
def _as_written(monkeypatch, tmp_path):
    """The metadata of this pyproject, whatever is installed; and a cache of its own."""
    wanted = list(PROJECT["dependencies"])
    wanted += [f"{each}; extra == '{extra}'" for extra, added in EXTRAS.items() for each in added]
    monkeypatch.setattr(metadata, "requires", lambda _: wanted)
    about = {"Requires-Python": PROJECT["requires-python"]}
    monkeypatch.setattr(metadata, "metadata", lambda _: _Metadata(about))
    monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def told(capsys) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["doctor", *arguments])
        return int(end.value.code or 0), *capsys.readouterr()

    return run


def checks(gated: bool = False) -> dict[str, Check]:
    return {each.name: each for each in examine(gated)}


@pytest.fixture
def without(monkeypatch) -> Callable[..., None]:
    """Take packages away, by their names."""
    known = metadata.version

    def take(*names: str) -> None:
        def version(name: str) -> str:
            if name in names:
                raise metadata.PackageNotFoundError(name)
            return known(name)

        monkeypatch.setattr(metadata, "version", version)

    return take


def test_every_extra_has_words():
    assert set(_doctor._BRINGS) == set(EXTRAS)


def test_one_screen_in_words_and_one_object_for_machines(told):
    code, out, _ = told()
    assert code == 0
    assert "Training and prediction can run." in out
    for part in ("Python", "PyTorch", "GPU", "torch-scatter", "OpenSlide", "memory", "cores", "Hugging Face hub"):
        assert part in out
    assert len(out.splitlines()) < 40
    code, out, _ = told("--json")
    found = json.loads(out)
    assert (code, found["command"], found["can_run"]) == (0, "doctor", True)
    assert {"name", "state", "found", "todo", "command"} == set(found["checks"][0])
    assert told("--quiet")[:2] == (0, "")


def test_a_library_that_is_missing_stops_the_work(without, told):
    without("squidpy")
    code, out, _ = told()
    assert code == 1
    assert "cannot run" in out
    (wanted,) = [each for each in PROJECT["dependencies"] if each.startswith("squidpy")]
    assert shlex.split(checks()["libraries"].command)[-1] == wanted


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"scatter"}))
def test_an_extra_that_is_missing_is_named_with_what_it_brings_and_its_command(without, told, extra):
    names = [each.partition(">")[0].partition("=")[0] for each in EXTRAS[extra]]
    without(*names)
    found = checks()[f"extra {extra}"]
    assert found.state == "missing"
    assert _doctor._BRINGS[extra] in found.found
    words = shlex.split(found.command)
    assert sys.executable in words
    assert words[-len(names) :] == EXTRAS[extra]
    code, out, _ = told()
    assert code == 0
    assert found.command in out


@pytest.mark.parametrize("installed", [True, False])
def test_torch_scatter_is_what_pyg_sees(monkeypatch, installed):
    monkeypatch.setattr(torch_geometric.typing, "WITH_TORCH_SCATTER", False)
    monkeypatch.setattr(_doctor, "find_spec", lambda name: object() if installed else None)
    found = checks()["torch-scatter"]
    assert found.state == "missing"
    assert ("PyG cannot use it" in found.found) == installed
    assert "torch-scatter" in found.command
    assert "--no-build-isolation" in found.command


def test_a_gpu_that_torch_cannot_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert checks()["GPU"].state == "missing"


def test_a_library_that_cannot_be_loaded_stops_no_other_look(monkeypatch):
    def broken():
        raise ImportError("libcudart.so.13: cannot open")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    found = checks()
    assert found["PyTorch"].state == "bad"
    assert "libcudart" in found["PyTorch"].found
    assert found["memory"].state in {"ok", "missing"}


def test_a_full_disk_and_a_folder_that_is_read_only(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1e6))
    assert checks()["working folder"].state == checks()["feature cache"].state == "bad"
    monkeypatch.undo()
    monkeypatch.setattr(_doctor.os, "access", lambda *_: False)
    assert _doctor._place("feature cache", tmp_path, "", "").state == "bad"


def test_the_cache_is_measured(tmp_path):
    (tmp_path / "cache" / "features").mkdir(parents=True)
    (tmp_path / "cache" / "features" / "a.npy").write_bytes(bytes(2_000_000))
    assert "2 MB in 1 files" in checks()["feature cache"].found


def test_memory_is_that_of_the_container(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=60e9, total=64e9))
    monkeypatch.setattr(_doctor, "_of_container", lambda name, *_: {"memory.max": 4e9, "memory.current": 3e9}[name])
    assert checks()["memory"].found == "1.0 GB free of 4.0 GB"
    assert checks()["memory"].state == "missing"


class TestHub:
    def test_is_not_asked_unless_told_to(self, monkeypatch):
        asked = []
        monkeypatch.setattr(huggingface_hub, "auth_check", asked.append)
        checks()
        assert not asked

    def test_says_which_encoders_may_be_downloaded(self, monkeypatch):
        gated = [each for each in recipes().values() if each.gated and each.source in {"hub", "transformers"}]
        own, refused, *_ = [each.location for each in gated]

        def check(location: str) -> None:
            if location == refused:
                raise RepositoryNotFoundError("gated", response=SimpleNamespace(headers={}, request=None))
            if location != own:
                raise ConnectionError

        monkeypatch.setattr(huggingface_hub, "auth_check", check)
        found = [each for each in examine(True) if each.name == "gated encoders"]
        assert [each.state for each in found] == ["ok", "note", "note"]
        assert found[0].found == f"may be downloaded: {gated[0].name}"
        assert found[1].found == f"you have no access: {gated[1].name}"
        assert "does not answer" in found[2].found
