"""The commands: what they teach, what they write, and how an error is shown."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import click
import numpy as np
import pytest
import typer
from numpy.testing import assert_array_equal
from scipy import sparse

from nh2st_graph import ConfigError, DataError, ImageError, ModelError, RunError, __version__, tl
from nh2st_graph.cli import app, main

from ..tissue import without_truth

GROUP = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys, monkeypatch) -> Run:
    """Run a command in this process; give its exit code and what it wrote to both streams."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


def unexpected(err: str) -> str:
    """Leave out the lines that say what a model chose, and what can be read from a slide."""
    return re.sub(
        r".*(of the network's correction|: predicted as of a|: \d+ of \d+ genes can|: No gene can).*\n", "", err
    )


def plain(text: str) -> str:
    """Text without colours, frames and line breaks."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", text).split())


class TestHelp:
    def test_lists_every_command_with_what_it_is_for(self, run):
        code, out, _ = run("--help")
        assert code == 0
        text = plain(out)
        assert {"demo", "prepare", "train", "predict", "evaluate", "info"} <= set(COMMANDS)
        for name in COMMANDS:
            assert re.search(rf"\b{name} [A-Z]", text), name
        assert "Start with 'nh2st-graph demo'" in text
        assert "--version" in text

    def test_no_argument_is_a_question_for_help(self, run):
        code, out, err = run()
        assert code == 2
        assert "Start with 'nh2st-graph demo'" in plain(out + err)

    @pytest.mark.parametrize("name", COMMANDS)
    def test_of_a_command_explains_each_option(self, run, name):
        code, out, err = run(name, "--help")
        assert (code, unexpected(err)) == (0, "")
        text = plain(out)
        assert f"Usage: nh2st-graph {name}" in text
        for parameter in GROUP.commands[name].params:
            if isinstance(parameter, click.Option):
                assert max(parameter.opts, key=len) in text
            assert parameter.name == "help" or plain(getattr(parameter, "help", None) or "").split()[0] in text

    @pytest.mark.parametrize("name", ["", *COMMANDS])
    def test_fits_100_columns_in_whole_paragraphs_and_names_no_type(self, run, name, monkeypatch):
        monkeypatch.setenv("COLUMNS", "100")
        code, out, _ = run(*([name] if name else []), "--help")
        assert code == 0
        shown = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in out.splitlines()]
        assert max(map(len, shown)) <= 100
        assert not re.search(r"<[a-z]+(\[\w+\])?>", "\n".join(shown))
        told = [line.strip() for line in shown if line.startswith(" ") or not line]
        for line, after in itertools.pairwise(told):
            # A line ends where the next word has no room, or with its paragraph.
            assert not line or not after or "Usage" in line or len(line) + len(after.split()[0]) > 96, (line, after)

    @pytest.mark.parametrize("name", COMMANDS)
    def test_examples_are_commands(self, name):
        """An example that has an unknown option or lacks one is worse than none."""
        text = " ".join((GROUP.commands[name].help or "").split())
        for example in re.findall(r"Example: nh2st-graph (.*?)(?= Example:|$)", text):
            command, *arguments = shlex.split(example)
            assert command == name
            GROUP.commands[command].make_context(command, arguments)

    def test_the_commands_that_read_files_have_examples(self):
        for name in ("prepare", "train", "predict", "info"):
            assert "Example: nh2st-graph" in GROUP.commands[name].help

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["trian"], "trian"),
            (["train"], "CONFIG"),
            (["train", "config.yaml"], "--out"),
            (["train", "config.yaml", "--out", "run", "--epochs", "3"], "--epochs"),
            (["predict", "run", "--out", "out"], "SECTION"),
        ],
        ids=" ".join,
    )
    def test_what_is_missing_or_unknown_is_named(self, run, arguments, says):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert says in plain(err)


def test_version(run):
    assert run("--version") == (0, f"nh2st-graph {__version__}\n", "")


@pytest.mark.parametrize("command", [["-m", "nh2st_graph"], [str(Path(sys.executable).parent / "nh2st-graph")]])
def test_as_a_process(command):
    if not command[0].startswith("-") and not Path(command[0]).exists():
        pytest.skip("the package is not installed")
    arguments = [sys.executable, *command] if command[0].startswith("-") else command
    done = subprocess.run([*arguments, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"nh2st-graph {__version__}\n"


class TestErrors:
    @pytest.mark.parametrize("place", [0, 1, 3])
    def test_debug_shows_the_traceback_wherever_it_stands(self, run, tmp_path, place):
        arguments = ["train", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "run")]
        arguments.insert(place, "--debug")
        code, _, err = run(*arguments)
        assert code == 2
        assert "Traceback (most recent call last)" in err
        assert "in load_config" in err
        assert re.match("error: .*none.yaml cannot be read", err.splitlines()[-1])

    def test_without_it_there_is_none(self, run, tmp_path):
        code, _, err = run("train", tmp_path / "none.yaml", "--out", tmp_path / "run")
        assert code == 2
        missing = f"{tmp_path / 'none.yaml'} cannot be read: No such file or directory"
        assert err == f"error: {missing}; give the path of a configuration in YAML\n"

    @pytest.mark.parametrize("kind", [ConfigError, DataError, ImageError, ModelError, RunError, OSError])
    def test_any_error_of_the_package_or_of_a_file_is_one_line(self, run, monkeypatch, kind):
        def fail(*_, **__):
            raise kind("what\n  where,\n what to do")

        monkeypatch.setattr(tl, "check_evaluation", fail)
        assert run("evaluate", "run") == (2, "", "error: what where, what to do\n")

    def test_a_fault_of_the_program_is_not_hidden(self, monkeypatch):
        def fail(*_, **__):
            raise ZeroDivisionError

        monkeypatch.setattr(tl, "check_evaluation", fail)
        with pytest.raises(ZeroDivisionError):
            main(["evaluate", "run"])


class TestWork:
    """From raw files to scores, one command after the other."""

    @pytest.fixture(scope="class")
    def files(self, tiny_config, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("work")
        (folder / "tiny.yaml").write_text(tiny_config.to_yaml())
        return folder

    @pytest.mark.usefixtures("without_figures")
    def test_prepare_train_predict_and_evaluate(self, run, files, tiny_run, monkeypatch):
        monkeypatch.chdir(files)
        code, out, err = run("prepare", "tiny.yaml", "--out", "sections")
        assert (code, unexpected(err)) == (0, "")
        assert [line.strip() for line in out.splitlines()] == [
            "Written:",
            *(f"sections/S{i}.h5ad" for i in (1, 2, 3)),
        ]

        source = ["--set", "data.format=h5ad", "--set", "data.root=sections"]
        code, out, err = run("train", "tiny.yaml", *source, "--set", "data.test=[]", "--out", "run")
        assert (code, unexpected(err)) == (0, "")
        said, _, written = out.partition("Written:\n")
        assert "12 genes can be read from slides of the training patient; best: OWN" in said
        assert "Open run/report.html" in said
        names = ("report.html", "model.safetensors", "log.csv", "genes.csv")
        assert written.split() == [f"run/{name}" for name in names]
        for name in ("model.safetensors", "log.csv"):
            assert (files / "run" / name).read_bytes() == (tiny_run.folder / name).read_bytes()

        code, out, err = run("predict", "run", "sections/S3.h5ad", "sections/S2.h5ad", "--out", "predicted")
        assert (code, unexpected(err)) == (0, "")
        assert [line.strip() for line in out.splitlines()] == ["Written:", "predicted/S3.h5ad", "predicted/S2.h5ad"]
        assert_array_equal(ad.read_h5ad("predicted/S3.h5ad").X, tiny_run.evaluation.predictions["S3"].X)

        # Scored on S3 after all: the test section is a key of the run's configuration.
        path = files / "run" / "config.yaml"
        path.write_text(path.read_text().replace("test: []", "test: [S3]"))
        code, out, err = run("evaluate", "run")
        assert (code, unexpected(err)) == (0, "")
        assert json.loads((files / "run" / "metrics.json").read_text()) == tiny_run.evaluation.metrics
        assert "Scores on S3 (trained on S1, S2, across patients; 12 genes, normalised by total)" in plain(out)

    def test_no_gene_input_moves_a_prediction_by_one_bit(self, run, tiny_run, tiny_sections, tmp_path):
        section = without_truth(tiny_sections["S3"])
        deeper = section.copy()
        deeper.X = sparse.csr_matrix(np.random.default_rng(0).poisson(50.0, section.shape))
        deeper.layers["observed"] = deeper.X.copy()
        renamed = section.copy()
        renamed.var_names = [f"gene{i}" for i in range(section.n_vars)]
        cases = {"as it is": section, "deeper": deeper, "renamed": renamed, "no genes": section[:, :0].copy()}
        predicted = {}
        for name, each in cases.items():
            each.write_h5ad(tmp_path / f"{name}.h5ad")
            code, _, err = run("predict", tiny_run.folder, tmp_path / f"{name}.h5ad", "--out", tmp_path / name)
            said = unexpected(err)
            assert code == 0
            assert re.match(
                "section 'S3': its genes are not used, .* 12 of 12 genes" if name == "renamed" else "$", said
            )
            predicted[name] = ad.read_h5ad(tmp_path / name / "S3.h5ad")
        for name, each in predicted.items():
            assert_array_equal(each.X, tiny_run.evaluation.predictions["S3"].X, err_msg=name)
        assert {name for name, each in predicted.items() if "observed" in each.layers} == {"as it is", "deeper"}

    def test_other_packages_keep_quiet(self, run, tiny_run, tiny_sections, tmp_path):
        """squidpy's notes on graphs are not about the user's data; --debug lets them through."""
        tiny_sections["S3"].write_h5ad(tmp_path / "S3.h5ad")
        code, out, err = run("predict", tiny_run.folder, tmp_path / "S3.h5ad", "--out", tmp_path / "out")
        assert (code, unexpected(err)) == (0, "")
        assert len(out.splitlines()) == 2

    @pytest.mark.usefixtures("without_figures")
    def test_resume_of_a_finished_run_scores_it_again(self, run, files, tiny_run, tmp_path):
        shutil.copytree(tiny_run.folder, tmp_path / "run")
        (tmp_path / "run" / "metrics.json").unlink()
        code, out, err = run("train", files / "tiny.yaml", "--out", tmp_path / "run", "--resume")
        assert (code, unexpected(err)) == (0, "")
        assert str(tmp_path / "run" / "metrics.json") in out
        assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == tiny_run.evaluation.metrics
