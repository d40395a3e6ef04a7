"""``cache``: what is in the feature cache, and how it is cleared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nh2st_graph.cli import main
from nh2st_graph.im._cache import FeatureBlock, FeatureCache

KEYS = ("a" * 64, "b" * 64, f"{'c' * 64}.0-16")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for key, n in zip(KEYS, (2000, 1000, 16), strict=True):
        block = FeatureBlock([str(i) for i in range(n)], ["x"], np.zeros((n, 1), np.float32))
        FeatureCache(tmp_path).write(key, block, section=f"S{n}", encoder="timm:some", patch_um="112")
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    with pytest.raises(SystemExit) as end:
        main(["cache", *map(str, words)])
    assert end.value.code == code
    said = capsys.readouterr()
    return said.err if code else said.out


def test_files_are_shown(folder, capsys):
    said = shown(capsys, "--cache", folder)
    for word in ("S2000", "2,000", "timm:some", "112", "(a part)", "just now", "3 files", "at most 100 GB"):
        assert word in said


def test_long_names_fit_a_usual_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for key in KEYS:
        block = FeatureBlock(["a"], ["x"], np.zeros((1, 1), np.float32))
        about = {"section": "a_long_name_of_a_section_1", "encoder": "timm:hf-hub:ORG/vit_large_patch14_reg4_dinov2"}
        FeatureCache(tmp_path).write(key, block, **about, patch_um="112")
    _, *table = [line for line in shown(capsys, "--cache", tmp_path).splitlines()[:-1] if line.strip()]
    assert len([line for line in table if "dinov2" in line]) == len([line for line in table if "now" in line]) == 3
    assert max(map(len, table)) <= 80
    assert "section_1" in table[-1]


def test_all_go(folder, capsys):
    assert "Removed 3 of 3 files" in shown(capsys, "--cache", folder, "--clear")
    assert not list(folder.glob("*.safetensors"))
    assert "0 files, 0 bytes" in shown(capsys, "--cache", folder)


def test_down_to_a_limit(folder, capsys):
    assert "Removed 1 of 3 files" in shown(capsys, "--cache", folder, "--limit", 2.5e-5)
    assert {path.stem for path in folder.glob("*.safetensors")} == {*KEYS[1:]}


@pytest.mark.parametrize("words", [("--clear", "--limit", 1), ("--limit", -1), ("--limit", "nan")])
def test_what_makes_no_sense(folder, capsys, words):
    said = shown(capsys, "--cache", folder, *words, code=2)
    assert "--limit" in said
    assert len(said.splitlines()) == 1
