"""The command: what it prints and how it ends. What a study does is tested in tests/study."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from nh2st_graph.cli import main
from nh2st_graph.config import Config
from nh2st_graph.study import read_study, run_study

BROKEN = "no [bold]panel"


@pytest.fixture(scope="module")
def base(tiny_config, tmp_path_factory) -> Config:
    """A baseline, which is there at once."""
    panel = tmp_path_factory.mktemp("panel") / "panel.txt"
    panel.write_text("OWN01\nOWN02\nNBR01\n")
    return tiny_config.change({"model.name": "ridge", "data.panel": str(panel), "evaluate.figures": False})


def study_in(folder: Path, base: Config, **keys: object) -> Path:
    """Write a study, by default with a variant that cannot run."""
    (folder / "base.yaml").write_text(base.to_yaml())
    keys = {"base": "base.yaml", "variants": {BROKEN: {"data.panel": "nowhere.txt"}}} | keys
    (folder / "mine.yaml").write_text(yaml.safe_dump(keys))
    return folder / "mine.yaml"


@pytest.fixture
def study_file(base, tmp_path) -> Callable[..., Path]:
    return lambda **keys: study_in(tmp_path, base, **keys)


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory) -> Path:
    """A study folder in which the base's run is finished and nothing else is there. Shared: copy it."""
    folder = tmp_path_factory.mktemp("study")
    study, out = read_study(study_in(folder, base, variants={})), folder / "out"
    assert run_study(study, out, jobs=1).failures == {}
    (run,) = study.runs(out)
    (run.folder / "study.json").write_text(json.dumps({"parameters": 12345, "seconds": 6.7}))
    return out


@pytest.fixture
def out(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def ablate(*arguments: object) -> int:
    """Run the command; return its exit code."""
    with pytest.raises(SystemExit) as end:
        main(["ablate", *map(str, arguments)])
    return end.value.code


def test_the_table_the_failures_and_the_files_are_printed(study_file, out, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert ablate(study_file(), "--out", out, "--resume", "--jobs", 1) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"[1/1] failed: {BROKEN}, S3, seed 0: gene panel ")
    assert printed.err.count("\n") == 1  # the base's run is not done again
    lines = printed.out.splitlines()
    failure = next(i for i, line in enumerate(lines) if line.startswith(f"failed: {BROKEN}, S3, seed 0: gene panel "))
    assert max(map(len, lines[:failure])) <= 80
    metrics = json.loads((out / "runs" / "base" / "s3_seed0" / "metrics.json").read_text())
    assert f"{metrics['mean']['pcc_mean']:.3f}" in next(line for line in lines if line.strip().startswith("base"))
    assert "12,345" in printed.out
    assert "own" in printed.out  # the kinds of synthetic genes
    written = [Path(line.strip()) for line in lines[lines.index("Written:") + 1 :]]
    assert [path.name for path in written] == ["table.md", "table.csv", "scores.csv", "forest.png"]
    assert all(path.is_file() for path in written)


def test_it_ends_well_where_nothing_failed(study_file, out, capsys):
    assert ablate(study_file(variants={}), "--out", out, "--resume") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "failed" not in printed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "study folder .* exists already; choose another --out, or go on with --resume"),
        (("--resume", "--set", "graph.n_rings=2"), r"was begun with another study \(graph\.n_rings: 1 -> 2\)"),
        (("--resume", "--only", "no panel"), r"--only no panel: study 'mine' has no such variant; did you mean"),
        (("--resume", "--seeds", "0;1"), "--seeds '0;1'; expected whole numbers with commas between"),
        (("--resume", "--jobs", "0"), "--jobs 0; allowed: 1 or more"),
        (("--resume", "--set", "graph.n_ring=2"), "unknown key 'graph.n_ring'; did you mean 'graph.n_rings'"),
    ],
)
def test_what_cannot_be_done_is_one_line(study_file, out, capsys, arguments, message):
    assert ablate(study_file(), "--out", out, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


def test_an_interrupt_says_how_to_go_on(study_file, out, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("nh2st_graph.tl.train_run", interrupted)
    assert ablate(study_file(), "--out", out, "--resume", "--jobs", 1) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert "--resume" in line
