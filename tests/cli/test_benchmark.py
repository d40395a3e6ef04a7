"""The command: what it prints and how it ends. What a benchmark does is tested in tests/study."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from nh2st_graph import read, tl
from nh2st_graph.cli import main
from nh2st_graph.config import Config
from nh2st_graph.study import Outcome, PlannedRun, read_benchmark, run_study

BROKEN = "no [bold]panel"
#: As long as the longest of the benchmarks that ship.
LONG = "ridge, own + neighbours"
METHODS = {
    "mine": {"model.name": "method_of_a_test:Pls"},
    LONG: {"model.name": "ridge_neighbours"},
    "training mean": {"model.name": "mean"},
}
#: A method that is no baseline, and that is there at once.
MINE = """
import numpy as np
from sklearn.cross_decomposition import PLSRegression

from nh2st_graph.models import Estimator


class Pls(Estimator):
    random = True

    def fit(self, sections):
        x, y = (np.vstack([section[name] for section in sections]) for name in ("x", "y"))
        self.model = PLSRegression(2).fit(x, y)

    def predict(self, section):
        return self.model.predict(section.x.numpy())
"""
CONFIG = Path(__file__).parents[2] / "configs" / "benchmarks" / "her2st_mini.yaml"


@pytest.fixture(scope="module")
def base(tiny_config, tmp_path_factory) -> Iterator[Config]:
    """What the methods share; one of them is in a file of the present folder."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "panel.txt").write_text("OWN01\nOWN02\nNBR01\n")
    (folder / "method_of_a_test.py").write_text(MINE)
    for name, section in tl.load_sections(tiny_config, folder).items():
        read.write_h5ad(section, folder / "sections" / f"{name}.h5ad")
    data = {"format": "h5ad", "root": str(folder / "sections"), "panel": str(folder / "panel.txt")}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield tiny_config.change({"data": data})


def benchmark_in(folder: Path, base: Config, **keys: Any) -> Path:
    (folder / "base.yaml").write_text(base.to_yaml())
    splits = {"held out": {"train": ["S1", "S2"], "test": ["S3"]}}
    # Clusters and spatially variable genes take long.
    methods = {name: {**given, "evaluate.downstream": False} for name, given in keys.pop("methods").items()}
    (folder / "mine.yaml").write_text(
        yaml.safe_dump({"base": "base.yaml", "methods": methods, "splits": splits} | keys)
    )
    return folder / "mine.yaml"


@pytest.fixture
def benchmark_file(base, tmp_path) -> Callable[..., Path]:
    """Write a benchmark, with a method that cannot run."""
    methods = METHODS | {BROKEN: {"data.panel": "nowhere.txt"}}
    return lambda **keys: benchmark_in(tmp_path, base, methods=methods, **keys)


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory) -> Path:
    """A benchmark's folder with finished runs of ``METHODS``. Shared: copy it."""
    folder = tmp_path_factory.mktemp("benchmark")
    plan = read_benchmark(benchmark_in(folder, base, methods=METHODS))
    assert run_study(plan, folder / "out", jobs=1).failures == {}
    return folder / "out"


@pytest.fixture
def out(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


@pytest.fixture
def attempted(monkeypatch) -> list[str]:
    """Names of the runs that a command would do; none is done."""
    names: list[str] = []

    def attempt(run: PlannedRun, *_: object) -> Outcome:
        names.append(str(run))
        return Outcome(run, "left for later")

    monkeypatch.setattr("nh2st_graph.study._workers.attempt", attempt)
    return names


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Leave figures and the report out: one of the tests looks at them."""
    for name in ("_draw_forest", "_figures_of_methods"):
        monkeypatch.setattr(f"nh2st_graph.study._report.{name}", lambda *_, **__: [])
    monkeypatch.setattr("nh2st_graph.study._report.write_html", lambda path, _: path)


def benchmark(*arguments: object) -> int:
    """Run the command; return its exit code."""
    with pytest.raises(SystemExit) as end:
        main(["benchmark", *map(str, arguments)])
    return int(end.value.code or 0)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("columns", [80, 200])
def test_the_leaderboard_is_printed_with_names_whole(benchmark_file, out, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert benchmark(benchmark_file(), "--out", out, "--resume", "--jobs", 1) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"[1/1] failed: {BROKEN}, held out, seed 0: gene panel ")
    assert printed.err.count("\n") == 1  # what is finished is not done again
    lines = printed.out.splitlines()
    failure = next(i for i, line in enumerate(lines) if line.startswith(f"failed: {BROKEN}, held out, seed 0: gene "))
    assert max(map(len, lines[:failure])) <= columns
    tables = lines[: next(i for i, line in enumerate(lines) if line.startswith("- "))]
    rows = {name: [line for line in tables if line.strip().startswith(f"{name} ")] for name in (*METHODS, BROKEN)}
    assert {len(found) for found in rows.values()} == {3 if columns == 80 else 1}  # each name whole in every table
    assert lines[0].strip() == "mine: held out"
    scores = {name: json.loads(next((out / "runs").glob(f"{slug}/*/metrics.json")).read_text())["mean"]
              for name, slug in (("mine", "mine"), (LONG, "ridge_own_+_neighbours"))}  # fmt: skip
    for name, score in scores.items():
        assert f"{score['pcc_mean']:.3f}" in " ".join(rows[name])
        assert f"{score['pcc_partial']:.3f}" in " ".join(rows[name])
    assert re.search(r"[+-]0\.\d{4} \[[+-]0\.\d{4}, [+-]0\.\d{4}\]", " ".join(rows["mine"]))
    assert "best baseline" in " ".join(rows[LONG])
    assert "failed" in " ".join(rows[BROKEN])
    assert "0 of 1" in " ".join(rows[BROKEN])


def test_after_it_come_what_it_says_and_where_it_is(benchmark_file, out, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    path = benchmark_file()
    assert benchmark(path, "--out", out, "--resume", "--jobs", 1) == 1
    lines = capsys.readouterr().out.splitlines()
    text = " ".join(" ".join(lines).split())
    baseline = rf"the best baseline \({re.escape(LONG)}, \d\.\d+\)"
    assert re.search(rf"- In mean r, \d of 1 methods (is|are) above {baseline} beyond the 95 % interval", text)
    assert "- In mean r given depth, " in text
    assert f"- Without any result: {BROKEN}." in text
    assert "Means and standard deviations over sections, seeds averaged first." in text
    written = [Path(line.strip()) for line in lines[lines.index("Written:") + 1 :]]
    assert {"report.html", "leaderboard.md", "leaderboard.csv", "forest.png"} <= {path.name for path in written}
    assert all(path.is_file() for path in written)


@pytest.mark.usefixtures("undrawn")
def test_it_ends_well_where_nothing_failed(benchmark_file, out, capsys):
    assert benchmark(benchmark_file(skip=[BROKEN]), "--out", out, "--resume") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "failed" not in printed.out
    assert "The one method is mine, with a mean r of" in printed.out
    assert benchmark(benchmark_file(skip=[BROKEN]), "--out", out, "--resume", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["command"], found["failures"], len(found["findings"])) == ("benchmark", {}, 1)
    assert {row["variant"] for row in found["table"]} >= set(METHODS)


def test_seeds_are_those_of_the_command_and_one_is_enough_where_nothing_is_random(benchmark_file, attempted, tmp_path):
    assert benchmark(benchmark_file(), "--out", tmp_path / "new", "--jobs", 1, "--seeds", "3,1") == 1
    first = {f"{name}, held out, seed 3" for name in (*METHODS, BROKEN)}
    assert sorted(attempted) == sorted({*first, "mine, held out, seed 1", f"{BROKEN}, held out, seed 1"})


def test_only_some_methods_are_run(benchmark_file, attempted, tmp_path):
    given = ("--only", "training mean", "--only", BROKEN)
    assert benchmark(benchmark_file(), "--out", tmp_path / "new", "--jobs", 1, *given) == 1
    assert sorted(attempted) == [f"{name}, held out, seed 0" for name in (BROKEN, "training mean")]
    listed = pd.read_csv(tmp_path / "new" / "leaderboard.csv").query("role != 'reference'")
    assert set(listed["method"]) == {BROKEN, "training mean"}, "methods that were not asked for are not in the tables"
    again = ("--only", "training mean", "--resume")
    assert benchmark(benchmark_file(), "--out", tmp_path / "new", "--jobs", 1, *again) == 1
    listed = pd.read_csv(tmp_path / "new" / "leaderboard.csv").query("role != 'reference'")
    assert set(listed["method"]) == {BROKEN, "training mean"}, "what failed before stays in the table"


@pytest.mark.usefixtures("undrawn")
def test_resuming_runs_what_is_not_finished(benchmark_file, attempted, out):
    shutil.rmtree(out / "runs" / "training_mean")
    assert benchmark(benchmark_file(), "--out", out, "--jobs", 1, "--resume") == 1
    assert sorted(attempted) == [f"{name}, held out, seed 0" for name in (BROKEN, "training mean")]


def test_an_interrupt_says_how_to_go_on(benchmark_file, out, monkeypatch, capsys):
    def interrupted(run: PlannedRun, *_: object) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr("nh2st_graph.study._workers.attempt", interrupted)
    assert benchmark(benchmark_file(), "--out", out, "--resume", "--jobs", 1) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert "--resume" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "study folder .* exists already; choose another --out, or go on with --resume"),
        (("--resume", "--set", "graph.n_rings=2"), r"was begun with another study \(graph\.n_rings: 1 -> 2\)"),
        (("--resume", "--only", "mean"), r"--only mean: study 'mine' has no such method; did you mean 'mine'"),
        (("--resume", "--seeds", "0;1"), "--seeds '0;1'; expected whole numbers with commas between"),
        (("--resume", "--jobs", "0"), "--jobs 0; allowed: 1 or more"),
        (("--resume", "--set", "model.hop=2"), "unknown key 'model.hop'; did you mean 'model.hops'"),
    ],
)
def test_what_cannot_be_done_is_one_line(benchmark_file, out, capsys, arguments, message):
    assert benchmark(benchmark_file(), "--out", out, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


def test_a_folder_that_holds_no_benchmark(benchmark_file, tmp_path, capsys):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine.txt").touch()
    assert benchmark(benchmark_file(), "--out", tmp_path / "new", "--resume") == 2
    assert "holds no study to resume (study.yaml is missing); leave --resume out" in capsys.readouterr().err


def test_help_teaches_how_to_begin(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    assert benchmark("--help") == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert "rank them beside the baselines" in text
    for word in ("report.html", "leaderboard.md", "exit code is 1 if a run failed", "--only NAME", "--seeds N,N"):
        assert word in text
    (example,) = re.findall(r"Example: nh2st-graph benchmark (\S+) --set data\.root=DIR --out \S+", text)
    assert CONFIG.as_posix().endswith(example)
    assert CONFIG.is_file()
