"""How commands end: in words, as one object, or quietly."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer

from nh2st_graph import _progress
from nh2st_graph._progress import bars, phase
from nh2st_graph.cli import app, main
from nh2st_graph.cli._facts import prediction_facts, run_facts
from nh2st_graph.cli._output import _now, _plain, conclude, one_command

SPEAKS = ("train", "predict", "evaluate", "benchmark", "ablate", "predictability", "doctor")


@pytest.mark.parametrize("name", SPEAKS)
def test_commands_that_have_a_result_give_it_to_machines_and_can_be_quiet(name):
    command = typer.main.get_group(app).commands[name]
    assert {"--json", "--quiet"} <= {option for each in command.params for option in each.opts}


@pytest.fixture
def ended(monkeypatch, capsys):
    """Run a command that prints, warns and ends, in place of ``evaluate``."""

    def evaluate(*_, **__):
        sys.stdout.write("of a library\n")
        logging.getLogger("nh2st_graph").info("a detail")
        logging.getLogger("nh2st_graph").warning("a warning")
        phase("working")
        facts = {"r": np.float32(0.5), "none": np.nan, "path": Path("a"), "s": pd.Series([1.0, np.inf])}
        conclude(lambda: typer.echo("in words"), lambda: facts)
        raise SystemExit(0)

    monkeypatch.setattr("nh2st_graph.tl.check_evaluation", evaluate)

    def run(*arguments: str) -> tuple[str, str]:
        with pytest.raises(SystemExit):
            main(["evaluate", "run", *arguments])
        return capsys.readouterr()

    return run


def test_words_are_the_default(ended):
    out, err = ended()
    assert out == "of a library\nin words\n"
    assert err == "a detail\na warning\n"


def test_an_object_stands_alone_on_standard_output(ended):
    before = sys.stdout
    out, err = ended("--json")
    found = json.loads(out)
    assert {key: found[key] for key in ("r", "none", "path", "s", "warnings")} == {
        "r": 0.5, "none": None, "path": "a", "s": [1.0, None], "warnings": ["a warning"],
    }  # fmt: skip
    assert "of a library" in err
    assert sys.stdout is before


def test_quiet_leaves_warnings(ended):
    out, err = ended("--quiet")
    assert (out, err) == ("of a library\n", "a warning\n")
    assert ended() == ("of a library\nin words\n", "a detail\na warning\n")  # and the next command speaks again


def test_both_together(ended):
    out, err = ended("--json", "--quiet")
    assert json.loads(out)["warnings"] == ["a warning"]
    assert "a detail" not in err


def test_a_command_that_fails_leaves_standard_output_empty(capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        main(["train", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "run"), "--json"])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.startswith("error: ")) == ("", True)


def test_bars_say_the_time_left_and_are_hidden_where_nobody_wants_them(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with bars() as shown:
        assert not shown.disable
        assert any("Remaining" in type(column).__name__ for column in shown.columns)
    assert bars(shown=False).disable
    with one_command():
        _now.quietly(True)
        assert _progress.is_quiet()
        assert bars().disable
    assert not _progress.is_quiet()


def test_a_run_tells_scores_reliable_genes_and_files(tiny_run):
    found = run_facts("train", tiny_run)
    assert set(found["scores"]["sections"]) == {"S3"}
    assert found["findings"] == tiny_run.findings()
    assert all(path.is_absolute() and path.exists() for path in found["written"])
    assert "new_patients" in found["reliable_genes"]


def test_a_prediction_tells_what_stands_in_its_file(tiny_run):
    files = sorted((tiny_run.folder / "predictions").glob("*.h5ad"))
    found = json.loads(json.dumps(_plain(prediction_facts(files, ["a sentence"])), allow_nan=False))
    (section,) = found["sections"].values()
    assert section["n_genes"] == len(tiny_run.model.genes)
    assert isinstance(section["reliable_genes"], list)
    assert found["findings"] == ["a sentence"]
    assert section["unlike_training"] in {True, False}
    assert found["written"] == [str(each.absolute()) for each in files]
