"""The README and the guide keep what they promise: commands, links, names, and examples on a real section.

Every block runs: the commands in :func:`follow_the_readme`, then Python's, then those of studies.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import inspect
import itertools
import json
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import typer
from anndata import AnnData

import nh2st_graph as ng
from nh2st_graph.cli import app
from nh2st_graph.cli._demo import KINDS as KINDS_OF_GENES
from nh2st_graph.config import Config, builtin_config, load_config

from . import readme
from .readme import QUICK, README, ROOT, SECTIONS, STUDIES, TEXT, python_blocks, set_keys, shell_commands

#: Python's example on HER2ST leaves out each patient, of which two sections are enough.
_LEFT_OUT = shutil.ignore_patterns("C4*", "C5*", "C6*")


class TestTwoCommands:
    @pytest.mark.parametrize("does", ["uv run nh2st-graph demo", "uv run --group dev pytest"])
    def test_are_in_the_readme_and_ci_runs_them_from_there(self, does):
        (line,) = re.findall(rf"^ {{4}}(.*{does}.*)$", README, re.MULTILINE)
        ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
        assert f"bash -euo pipefail -c \"$(readme '{does}')\"" in ci
        (function,) = re.findall(r"^readme\(\) .*$", ci, re.MULTILINE)
        script = f"{function}\nreadme '{does}'"
        found = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == line

    def test_ci_is_a_script(self):
        subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


class TestWords:
    def test_links_lead_somewhere(self):
        targets = re.findall(r"\]\(([^)#\s]+)", README)
        assert targets
        assert not [each for each in targets if "://" not in each and not (ROOT / each).exists()]

    def test_nothing_waits_to_be_filled_in(self):
        assert not re.findall(r"^[A-Z][A-Z_]{4,}$|TODO|TBD|FIXME", TEXT, re.MULTILINE)

    def test_every_name_of_the_package_exists(self):
        pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
        names = set(re.findall(r"\bng((?:\.[A-Za-z_]\w*)+)", README + pages))
        assert len(names) > 10
        for name in names:
            each: object = ng
            for part in name.strip(".").split("."):
                assert hasattr(each, part), f"ng{name}"
                each = getattr(each, part)

    def test_python_is_python(self):
        assert python_blocks()
        for block in python_blocks():
            ast.parse(block)


class TestDemo:
    def test_its_table_is_that_of_a_run_to_the_last_digit(self):
        measured = pd.read_csv(ROOT / "benchmarks" / "results" / "demo" / "by_kind.csv", index_col=0)
        header, *rows = (
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in README.splitlines()
            if line.startswith(("| mean r on the fourth section", "| genes that follow"))
        )
        assert header[1:] == list(measured.columns)
        shown = np.array([row[1:] for row in rows], dtype=float)
        np.testing.assert_allclose(shown, measured, atol=5.5e-4)  # both are rounded
        assert [row[0] for row in rows] == [f"genes that follow {kind}" for kind in KINDS_OF_GENES.values()]
        assert list(KINDS_OF_GENES) == list(measured.index)

    def test_neighbours_bring_what_no_spot_has_itself(self):
        """Where neighbours decide, spots alone find nothing; and where one of them does, their mean finds little."""
        r = pd.read_csv(ROOT / "benchmarks" / "results" / "demo" / "by_kind.csv", index_col=0)
        assert r.loc["neighbour", "NH2ST-Graph"] > 0.6
        assert r.loc["interaction", "NH2ST-Graph"] > 1.5 * r.loc["interaction", "ridge with neighbours"]
        assert r[["ridge", "without neighbours"]].loc[["neighbour", "interaction"]].abs().max(axis=None) < 0.12
        assert r.loc["noise"].abs().max() < 0.05


class TestAccuracy:
    def test_the_model_is_not_below_its_baselines_on_any_split(self):
        scores = pd.read_csv(ROOT / "benchmarks" / "results" / "accuracy" / "scores.csv")
        r = scores.pivot_table(index="attempt", columns="split", values="r")
        single = ["ridge", "ridge with neighbours", "kNN", "mean colour + ridge"]
        baselines = [*single, "reduced-rank ridge", "kernel ridge"]
        assert (r.loc["NH2ST-Graph"] > r.loc[baselines].max()).all()
        without = [f"{name}, handcrafted" for name in baselines[-2:]]
        assert (r.loc["NH2ST-Graph without [imagenet]"] > r.loc[without].max()).all()


class TestCommands:
    @pytest.mark.parametrize("command", shell_commands(), ids=" ".join)
    def test_have_options_that_there_are(self, command):
        group = typer.main.get_command(app)
        group.commands[command[0]].make_context(command[0], command[1:])

    @pytest.mark.parametrize("command", [each for each in shell_commands() if set_keys(each)], ids=" ".join)
    def test_set_keys_that_there_are(self, command):
        # Of a study it is the base that keys are set in.
        files = [each for each in command if re.fullmatch(r"configs/\w+\.yaml", each)]
        config = load_config(ROOT / files[0]) if files else builtin_config("demo")
        config.override(set_keys(command))

    def test_files_that_are_named_are_there(self):
        named = {each for command in shell_commands() for each in command if each.startswith("configs/")}
        assert named
        assert all((ROOT / each).is_file() for each in named)


@pytest.mark.slow
class TestExamples:
    """Where the README has real sections, parts of real ones: of Visium, and of two patients of HER2ST."""

    @pytest.fixture
    def place(self, after_the_readme, tmp_path) -> Path:
        """The folder after all commands of the README; what is written there stays with the test."""
        for each in after_the_readme.iterdir():
            (tmp_path / each.name).symlink_to(each)
        return tmp_path

    @pytest.fixture
    def _quick(self, monkeypatch) -> None:
        changed = Config.change
        monkeypatch.setattr(Config, "change", lambda self, *given: changed(self, *given).override(QUICK))

    def test_every_command_was_typed(self, after_the_readme):
        """All of them in order, with less training; :func:`follow_the_readme` raises if one fails."""
        run = after_the_readme / "runs" / "first"
        scores = json.loads((run / "metrics.json").read_text())["sections"]
        assert {name: each["n_spots"] for name, each in scores.items()} == {"D1": 25}
        assert list(ng.read.sections("h5ad", after_the_readme / "prepared")) == list(SECTIONS)
        assert ng.read.h5ad_section(after_the_readme / "slide.h5ad").n_obs > 20
        assert (after_the_readme / "slide.zarr").is_dir()
        assert (after_the_readme / "runs" / "c6" / "metrics.json").is_file()
        assert ng.read.h5ad_section(after_the_readme / "predicted" / "B4.h5ad").n_vars == 20

    @pytest.mark.usefixtures("_quick")
    def test_the_python_blocks_run_one_after_the_other(self, place, monkeypatch, capsys):
        # The kernel that needs no compiler: umap's takes longer to compile than all the rest to run.
        monkeypatch.setattr(sc.pp, "neighbors", partial(sc.pp.neighbors, method="gauss"))
        names: dict[str, object] = {}
        (place / "her2st").unlink()
        shutil.copytree((place / "sections").resolve().parent / "her2st", place / "her2st", ignore=_LEFT_OUT)
        with contextlib.chdir(place):
            for block in python_blocks():
                exec(compile(block, "guide", "exec"), names)
        prediction, varying = names["prediction"], names["varying"]
        assert isinstance(prediction, AnnData)
        assert isinstance(varying, AnnData)
        assert prediction.shape == (25, 20)
        assert varying.n_vars == prediction.var["nh2st_varies"].sum() > 10
        assert varying.uns["moranI"]["pval_norm_fdr_bh"].notna().all()
        groups = varying.uns["rank_genes_groups"]
        assert all(np.isfinite(groups["logfoldchanges"][name]).all() for name in groups["logfoldchanges"].dtype.names)
        assert names["expression"].n_obs > 20
        np.testing.assert_allclose(names["sdata"].tables["predicted"].X, prediction.X, atol=1e-3)
        assert names["alike"].recall["recall"].between(0, 1).all()
        assert len(plt.get_fignums()) >= 6
        said = capsys.readouterr()
        assert said.out.count("mean r given depth") == 3  # Visium, and each of two patients left out
        assert "depth_oracle" not in said.out
        assert "(reference) depth alone" in said.out
        assert "Creating graph" not in said.out + said.err
        assert ng.load(place / "model").train_sections == ["A1", "B1", "C1"]

    @pytest.mark.usefixtures("_quick")
    def test_the_examples_of_docstrings_run(self, place):
        """Visium, ST, a slide and SpatialData, as ``help`` shows them."""
        shown = [ng.tl.fit, ng.read.her2st, ng.tl.slide_section, ng.tl.predict]
        with contextlib.chdir(place):
            for function in shown:
                examples = doctest.DocTestParser().get_examples(inspect.getdoc(function) or "")
                assert examples, function
                names: dict[str, object] = {}
                exec(compile("".join(each.source for each in examples), function.__name__, "exec"), names)
                if function is ng.tl.fit:
                    names["model"].save("model")
                    assert np.isfinite(names["scores"].loc["model", "pcc_mean"])
        assert names["section"].obsm["predicted"].shape == (25, 20)

    @pytest.mark.parametrize("command", [each for each in shell_commands() if each[0] in STUDIES], ids=" ".join)
    def test_the_commands_of_studies_are_read(self, place, monkeypatch, command):
        """Their runs take hours: all of them are planned, and one is done."""
        from nh2st_graph.study._plan import Study

        planned = Study.runs
        first = lambda self, *given: planned(self, *given)[:1]  # noqa: E731
        monkeypatch.setattr(Study, "runs", first)
        monkeypatch.setattr("nh2st_graph.study._run.write_reports", lambda *_: [])
        with contextlib.chdir(place):
            # Clusters are of another test: umap takes longer to compile than all the rest to run.
            few = ["evaluate.figures=false", "evaluate.downstream=false"]
            few += ["data.panel=hvg:20"] if "benchmark" in command else []
            few += [f"data.synthetic.{key}" for key in ("n_rows=6", "n_cols=6", "n_own=3", "n_noise=3")]
            more = [part for change in [*QUICK[1:], *few] for part in ("--set", change)]
            readme.run([*command, *more, "--jobs", "1"])
            (out,) = [after for before, after in itertools.pairwise(command) if before == "--out"]
            assert len(list(Path(out).rglob("metrics.json"))) == 1

    def test_an_entry_point_is_of_the_group_that_is_read(self):
        page = (ROOT / "docs" / "tutorials" / "compare.md").read_text(encoding="utf-8")
        (group,) = re.findall(r'^\[project\.entry-points\."(.*)"\]$', page, re.MULTILINE)
        assert group == ng.models.ENTRY_POINTS
