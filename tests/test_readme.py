"""The README keeps what it promises: its commands, its links, its names, and its examples on a real section.

Its commands on HER2ST run in ``test_pipeline.py``.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import inspect
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import typer
from anndata import AnnData
from PIL import Image

import nh2st_graph as ng
from nh2st_graph import study
from nh2st_graph.cli import app, main
from nh2st_graph.config import Config, builtin_config, load_config

from .slides import write_pyramid

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

#: What makes a run on a few dozen spots take seconds, and needs no download.
QUICK = [
    "data.panel=hvg:20",
    "features.encoder=squidpy:summary",
    "train.max_epochs=2",
    "train.folds=2",
    "train.device=cpu",
    "train.progress=false",
    "evaluate.figures=false",
]
SECTIONS = ("A1", "B1", "C1", "D1")


def python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def shell_commands() -> list[list[str]]:
    """Arguments of each ``nh2st-graph`` command, its lines joined."""
    joined = README.replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"^ {4}nh2st-graph (.*)$", joined, re.MULTILINE)]


def set_keys(command: list[str]) -> list[str]:
    return [after for before, after in itertools.pairwise(command) if before == "--set"]


class TestTwoCommands:
    @pytest.mark.parametrize("does", ["uv run nh2st-graph demo", "uv run pytest"])
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
        assert not re.findall(r"^[A-Z][A-Z_]{4,}$|TODO|TBD|FIXME", README, re.MULTILINE)

    def test_every_name_of_the_package_exists(self):
        names = set(re.findall(r"\bng((?:\.[A-Za-z_]\w*)+)", README))
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

    @pytest.fixture(scope="class")
    def place(self, shared_data, her2st_crops, tmp_path_factory) -> Path:
        place = tmp_path_factory.mktemp("place")
        (place / "configs").symlink_to(ROOT / "configs")
        spots = list(ng.read.visium_section(shared_data / "visium_tiny").obs_names)
        for i, name in enumerate(SECTIONS):
            part_of_a_section(shared_data / "visium_tiny", place / "sections" / name, spots[i::4])
        shutil.copytree(her2st_crops, place / "her2st", ignore=shutil.ignore_patterns("C4*", "C5*", "C6*"))
        section = ng.read.sections("visium", place / "sections", ["D1"])["D1"]
        ng.read.write_spatialdata(section, place / "store.zarr")
        write_pyramid(place / "slide.tif", 1500, 1.0)
        return place

    @pytest.fixture(autouse=True)
    def _closed(self) -> Iterator[None]:
        yield
        plt.close("all")

    def test_the_python_blocks_run_one_after_the_other(self, place, monkeypatch, capsys):
        changed = Config.change
        monkeypatch.setattr(Config, "change", lambda self, *given: changed(self, *given).override(QUICK))
        names: dict[str, object] = {}
        with contextlib.chdir(place):
            for block in python_blocks():
                exec(compile(block, "README.md", "exec"), names)
        prediction = names["prediction"]
        assert isinstance(prediction, AnnData)
        assert prediction.shape == (25, 20)
        assert len(prediction.uns["moranI"]) == 20
        assert names["expression"].n_obs > 20
        np.testing.assert_array_equal(names["sdata"].tables["predicted"].X, prediction.X)
        assert names["alike"].recall["recall"].between(0, 1).all()
        assert len(plt.get_fignums()) >= 6
        out = capsys.readouterr().out.split()
        assert out.count("pcc_partial") == 3  # Visium, and each of two patients left out
        assert ng.load(place / "model").train_sections == ["A1", "B1", "C1"]

    def test_the_examples_of_docstrings_run(self, place, monkeypatch):
        """Visium, ST, a slide and SpatialData, as ``help`` shows them."""
        changed = Config.change
        monkeypatch.setattr(Config, "change", lambda self, *given: changed(self, *given).override(QUICK))
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

    def test_the_commands_on_visium_and_a_slide_run(self, place, capsys):
        commands = [each for each in shell_commands() if {"data.format=visium", "visium", "slide.tif"} & {*each}]
        assert [each[0] for each in commands] == ["train", "prepare", "predict"]
        with contextlib.chdir(place):
            for command in commands:
                quick = [part for change in QUICK for part in ("--set", change)] if set_keys(command) else []
                with pytest.raises(SystemExit) as end:
                    main([*command, *quick])
                assert end.value.code == 0
            scores = json.loads(Path("runs/first/metrics.json").read_text())["sections"]
            assert {name: each["n_spots"] for name, each in scores.items()} == {"D1": 25}
            assert list(ng.read.sections("h5ad", "prepared")) == list(SECTIONS)
            assert ng.read.h5ad_section("slide.h5ad").n_obs > 20
            assert Path("slide.zarr").is_dir()
        assert "NH2ST-Graph" in capsys.readouterr().out

    def test_a_users_own_method_joins_a_benchmark(self, place, monkeypatch, tmp_path):
        (code,) = [block for block in python_blocks() if block.startswith("# my_method.py")]
        assert len(code.splitlines()) <= 20
        (methods,) = re.findall(r"^```yaml\n(methods:\n.*?)^```", README, re.MULTILINE | re.DOTALL)
        (tmp_path / "my_method.py").write_text(code)
        (tmp_path / "base.yaml").write_text(Config().override(QUICK).to_yaml())
        splits = {"one": {"train": list(SECTIONS[:3]), "test": [SECTIONS[3]]}}
        (tmp_path / "mine.yaml").write_text(f"base: base.yaml\n{methods}splits: {json.dumps(splits)}\n")
        monkeypatch.setattr(sys, "path", list(sys.path))
        sections = [f"data.root={place / 'sections'}", "data.format=visium"]
        with contextlib.chdir(tmp_path):
            result = study.run_study(study.read_benchmark("mine.yaml", sections), "out", jobs=1)
        assert result.failures == {}
        rows = result.table.set_index("variant")
        assert rows.loc[["ridge", "kernel ridge"], "role"].tolist() == ["baseline", "method"]
        assert rows.loc[["ridge", "kernel ridge"], "pcc_mean"].notna().all()

    def test_an_entry_point_is_of_the_group_that_is_read(self):
        (group,) = re.findall(r'^\[project\.entry-points\."(.*)"\]$', README, re.MULTILINE)
        assert group == ng.models.ENTRY_POINTS


def part_of_a_section(source: Path, target: Path, spots: list[str]) -> None:
    """Copy a Space Ranger folder with some of its spots, its hires image as the full-resolution ``slide.tif``."""
    (target / "spatial").mkdir(parents=True)
    for path in [*source.glob("*.h5"), *(source / "spatial").glob("*.png")]:
        (target / path.relative_to(source)).write_bytes(path.read_bytes())
    factors = json.loads((source / "spatial" / "scalefactors_json.json").read_text())
    scale = factors["tissue_hires_scalef"]
    factors = {key: value * scale if "diameter" in key else value / scale for key, value in factors.items()}
    (target / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    positions = pd.read_csv(source / "spatial" / "tissue_positions_list.csv", header=None)
    positions[1] = positions[0].isin(spots).astype(int)
    positions[[4, 5]] = np.rint(positions[[4, 5]] * scale).astype(int)
    positions.to_csv(target / "spatial" / "tissue_positions_list.csv", header=False, index=False)
    with Image.open(source / "spatial" / "tissue_hires_image.png") as image:
        image.convert("RGB").save(target / "slide.tif")
