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
from nh2st_graph.study import Outcome, read_study, run_study
from nh2st_graph.study import _workers as workers

BROKEN = "no [bold]panel"


@pytest.fixture
def study_file(tiny_config, tmp_path) -> Callable[..., Path]:
    """Write a study of ``tiny_config``, by default with a variant that cannot run."""

    def write(**keys) -> Path:
        (tmp_path / "base.yaml").write_text(tiny_config.to_yaml())
        path = tmp_path / "mine.yaml"
        keys = {"base": "base.yaml", "variants": {BROKEN: {"data.panel": "nowhere.txt"}}} | keys
        path.write_text(yaml.safe_dump(keys))
        return path

    return write


@pytest.fixture
def out(study_file, tiny_run, tmp_path) -> Path:
    """A study folder in which the base's run is finished and nothing else is there."""
    study, folder = read_study(study_file(variants={})), tmp_path / "out"
    (run,) = study.runs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "attempt", lambda run: Outcome(run, "left for later"))
        run_study(study, folder, jobs=1)
    shutil.copytree(tiny_run.folder, run.folder)
    (run.folder / "study.json").write_text(json.dumps({"parameters": 12345, "seconds": 6.7}))
    return folder


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
        ((), "study folder .* exists already; choose another with --out, or go on by --resume"),
        (("--resume", "--set", "model.hops=2"), r"was begun with another study \(model\.hops: 1 -> 2\)"),
        (("--resume", "--only", "no panel"), r"--only 'no panel': no such variant in study 'mine'; did you mean"),
        (("--resume", "--seeds", "0;1"), "--seeds '0;1'; expected whole numbers with commas between"),
        (("--resume", "--jobs", "0"), "--jobs 0; allowed: 1 or more"),
        (("--set", "model.hop=2"), "unknown key 'model.hop'; did you mean 'model.hops'"),
    ],
)
def test_what_cannot_be_done_is_one_line(study_file, out, capsys, arguments, message):
    assert ablate(study_file(), "--out", out, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


def test_an_interrupt_says_how_to_go_on(study_file, out, monkeypatch, capsys):
    def interrupted(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "attempt", interrupted)
    assert ablate(study_file(), "--out", out, "--resume", "--jobs", 1) == 130
    assert capsys.readouterr().err == "interrupted; go on with the same command and --resume\n"
