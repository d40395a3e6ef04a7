"""Saving and loading: the same model bit by bit, no code, and a clear word for anything else."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from safetensors.torch import load_file, save_file

import nh2st_graph as ng
from nh2st_graph import ModelError, __version__, tl

FILES = ["folds.safetensors", "log.csv", "model.json", "model.safetensors"]


@pytest.fixture(scope="module", params=["section", "train"])
def model(request, tiny_config, few_spots) -> tl.FittedModel:
    """A model with each section's own scale, and one that carries the training sections'. Both are shared."""
    config = tiny_config.override([f"features.standardize={request.param}", "train.max_epochs=1", "train.refit=false"])
    return tl.fit([few_spots["S1"], few_spots["S2"]], config)


def test_a_loaded_model_is_the_same_bit_by_bit(model, few_spots, tmp_path):
    model.save(tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == FILES
    again = ng.load(tmp_path / "a" / "b")
    assert not again.module.training
    state = model.module.state_dict()
    assert again.module.state_dict().keys() == state.keys()
    for name, value in again.module.state_dict().items():
        assert torch.equal(value, state[name]), name
    for each in fields(model):
        if each.name not in {
            "module",
            "standardize",
            "log",
            "sources",
            "confidence",
            "folds",
            "familiarity",
            "imputation",
        }:
            assert getattr(again, each.name) == getattr(model, each.name), each.name
    pd.testing.assert_frame_equal(again.log, model.log, check_exact=True)
    assert len(again.log)
    for kept in ("confidence", "familiarity"):
        (arrays, facts), (others, said) = (getattr(each, kept).state() for each in (again, model))
        assert arrays.keys() == others.keys()
        assert facts == said
        for name, value in arrays.items():
            assert_array_equal(value, others[name], err_msg=name)
    learned = model.imputation.memory()
    assert all(torch.equal(value, learned[name]) for name, value in again.imputation.memory().items())
    assert len(again.folds) == len(model.folds) == 2
    for name in ("mean", "std"):
        assert_array_equal(getattr(again.standardize, name), getattr(model.standardize, name))
    section = few_spots["S3"]
    assert_array_equal(tl.predict(section, again).X, tl.predict(section, model).X)
    embedded = [tl.embed(section, each, copy=True).obsm for each in (again, model)]
    for key in ("X_nh2st_image", "X_nh2st_gene"):
        assert_array_equal(embedded[0][key], embedded[1][key])


def test_a_model_saved_again_is_the_same_file(tiny_run, tmp_path):
    tl.load(tiny_run.folder).save(tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (tiny_run.folder / name).read_bytes()


def test_the_log_of_a_run_is_as_training_wrote_it(few_spots, tiny_config, tmp_path):
    config = tiny_config.override(["train.max_epochs=1"])
    model = tl.fit([few_spots["S1"], few_spots["S2"]], config, out=tmp_path)
    written = (tmp_path / "log.csv").read_bytes()
    model.save(tmp_path)
    assert (tmp_path / "log.csv").read_bytes() == written


def test_a_run_brings_its_log(tiny_run):
    again = tl.load(tiny_run.folder)
    assert again.log.equals(tiny_run.model.log)
    assert len(again.log)


@pytest.mark.parametrize("content", [b"", b"\n\n", b'stage,epoch\n"', b"\xff\xfe", b"a,b\n1,2,3\n1\n1,2,3,4\n"])
def test_a_damaged_log_is_left_out(tiny_run, tmp_path, caplog, content):
    folder = shutil.copytree(tiny_run.folder, tmp_path / "model")
    (folder / "log.csv").write_bytes(content)
    with caplog.at_level("WARNING"):
        assert tl.load(folder).log.empty
    assert "log.csv cannot be read" in caplog.text


def test_saving_replaces_an_older_model(model, tiny_run, tmp_path):
    tiny_run.model.save(tmp_path)
    model.save(tmp_path)
    again = tl.load(tmp_path)
    assert again.config == model.config
    assert again.log.equals(model.log)
    assert not again.log.equals(tiny_run.model.log)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


def test_damaged_folds_are_named_and_can_be_done_without(tiny_run, tmp_path):
    tiny_run.model.save(tmp_path)
    file = tmp_path / "folds.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"folds\.safetensors"):
        tl.load(tmp_path)
    file.unlink()
    assert not tl.load(tmp_path).folds


class TestOverANetwork:
    """What stands in the folder of a network when a method without a log is saved there."""

    @pytest.fixture
    def estimator(self, quick_config, few_spots) -> tl.FittedModel:
        return tl.fit([few_spots["S1"], few_spots["S2"]], quick_config)

    def test_its_log_goes(self, estimator, tiny_run, tmp_path):
        tiny_run.model.save(tmp_path)
        estimator.save(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [name for name in FILES if name != "log.csv"]
        again = tl.load(tmp_path)
        assert again.log.empty
        assert again.config.model.name == "ridge"

    def test_it_is_not_taken_for_a_method_that_cannot_be_saved(
        self, estimator, tiny_run, tmp_path, monkeypatch, caplog
    ):
        tiny_run.model.save(tmp_path)
        (tmp_path / "notes.txt").touch()
        monkeypatch.setattr(type(estimator.module), "memory", lambda self: None)
        estimator.save(tmp_path)
        assert "method 'ridge' cannot be saved" in caplog.text
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
        assert "no model.json there" in refused(tmp_path)


@pytest.fixture
def folder(tiny_run, tmp_path) -> Path:
    """The two files of a saved model, to be damaged."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model.json", "model.safetensors"):
        shutil.copy(tiny_run.folder / name, folder)
    return folder


def refused(folder: Path) -> str:
    """Load, and return the one line that says why not."""
    with pytest.raises(ModelError) as caught:
        tl.load(folder)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"model {folder}: ")
    return line


def described(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change ``model.json``."""
    file = folder / "model.json"
    description = json.loads(file.read_text())
    change(description)
    file.write_text(json.dumps(description))


class TestCode:
    @pytest.fixture(scope="class")
    def unpickled(self) -> Iterator[list[str]]:
        """Everything that any unpickler looks up from here on."""
        found: list[str] = []
        on = [True]

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if on[0] and event == "pickle.find_class":
                found.append(".".join(map(str, arguments)))

        sys.addaudithook(hook)  # there is no way to remove one
        yield found
        on[0] = False

    def test_loading_unpickles_nothing(self, folder, unpickled):
        pickle.loads(pickle.dumps(Path))
        assert unpickled, "the hook works"
        unpickled.clear()
        tl.load(folder)
        assert not unpickled

    @pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
    def test_a_file_that_would_run_something_does_not(self, folder, tmp_path, name):
        class Trap:
            def __reduce__(self):
                return Path.touch, (tmp_path / "ran",)

        (folder / name).write_bytes(pickle.dumps(Trap(), protocol=0))
        refused(folder)
        torch.save({"weights": Trap()}, folder / name)
        refused(folder)
        assert not (tmp_path / "ran").exists()


class TestAnotherVersion:
    @pytest.mark.parametrize("change", [lambda ours: ours - 1, lambda _: None, str])
    def test_of_the_format_is_named_with_what_wrote_it(self, folder, change):
        ours = json.loads((folder / "model.json").read_text())["format"]
        number = change(ours)
        described(folder, lambda d: d.update(format=number, version="0.0.1"))
        line = refused(folder)
        assert f"written in format {number!r} by nh2st-graph 0.0.1" in line
        assert f"version {__version__}, which reads format {ours}: train again" in line

    @pytest.mark.parametrize(
        ("change", "todo"), [({"format": 2}, "a later version"), ({"version": "99.0"}, "nh2st-graph 99.0")]
    )
    def test_that_is_later_is_to_be_installed(self, folder, change, todo):
        described(folder, lambda d: d.update(change))
        assert refused(folder).endswith(f"install {todo}")

    def test_that_does_not_say_which(self, folder):
        described(folder, lambda d: [d.pop("format"), d.pop("version")])
        assert "by nh2st-graph of an unknown version" in refused(folder)

    def test_of_the_configuration_names_the_key(self, folder):
        described(folder, lambda d: d["config"]["model"].update(a_later_switch=True))
        line = refused(folder)
        assert "unknown key 'model.a_later_switch'" in line
        assert line.endswith("train again, or install the version that wrote it")


class TestDamage:
    def test_no_model_there(self, tmp_path):
        for folder in (tmp_path, tmp_path / "none"):
            assert "no model.json there; give the folder of a finished run" in refused(folder)

    def test_the_folder_of_runs_names_one(self, tmp_path, tiny_run):
        tiny_run.model.save(tmp_path / "runs" / "first")
        assert f"finished run, such as {tmp_path / 'runs' / 'first'}, or" in refused(tmp_path / "runs")

    def test_a_run_that_goes_on_can_be_resumed(self, tmp_path):
        (tmp_path / "config.yaml").touch()
        assert "no model.json there; its run has not finished: resume it, or give" in refused(tmp_path)

    def test_an_unfinished_run(self, folder):
        (folder / "model.safetensors").unlink()
        assert "model.safetensors or model.json is damaged or incomplete" in refused(folder)

    @pytest.mark.parametrize("text", ["", "{", "\udcff", "[]", "3", '"model"'])
    def test_a_description_that_is_none(self, folder, text):
        (folder / "model.json").write_bytes(text.encode(errors="surrogateescape"))
        assert "model.json" in refused(folder)

    @pytest.mark.parametrize(
        "key", ["config", "genes", "n_features", "heg50", "hpg50", "train_sections", "selected_epochs"]
    )
    def test_a_description_without_something(self, folder, key):
        described(folder, lambda d: d.pop(key))
        assert key in refused(folder)

    @pytest.mark.parametrize("part", ["data", "features", "graph", "model", "train"])
    def test_a_configuration_without_a_part_does_not_get_its_defaults(self, folder, part):
        described(folder, lambda d: d["config"].pop(part))
        assert f"damaged or incomplete ('{part}')" in refused(folder)

    @pytest.mark.parametrize("key", ["model.name", "features.encoder"])
    def test_a_configuration_without_a_name_does_not_get_the_default(self, folder, key):
        part, name = key.split(".")
        described(folder, lambda d: d["config"][part].pop(name))
        assert f"damaged or incomplete ('{name}')" in refused(folder)

    @pytest.mark.parametrize("key", ["genes", "heg50", "hpg50", "train_sections"])
    def test_a_name_that_occurs_twice(self, folder, key):
        described(folder, lambda d: d.update({key: [*d[key][:-1], d[key][0]]}))
        assert f"{key}: " in refused(folder)

    @pytest.mark.parametrize(
        "change",
        [
            {"heg50": ["none of the genes"]},
            {"genes": "ABCDEFGHIJKL"},
            {"n_features": 3},
            {"n_features": "many"},
            {"genes": ["A", "B"]},
            {"genes": None},
            {"config": []},
            {"config": None},
            {"config": {"model": {"width": 8}}},
        ],
        ids=str,
    )
    def test_a_description_that_is_not_of_these_weights(self, folder, change):
        described(folder, lambda d: d.update(change))
        refused(folder)

    def test_weights_of_another_model(self, folder):
        file = folder / "model.safetensors"
        weights = load_file(file)
        name = next(each for each in weights if each.startswith("module."))
        for changed in (
            {key: value for key, value in weights.items() if key != name},
            {**weights, "module.surplus": torch.zeros(2)},
            {**weights, name: torch.zeros(7, 7)},
        ):
            save_file(changed, file)
            assert "model.safetensors or model.json is damaged or incomplete" in refused(folder)

    @pytest.mark.parametrize("lost", ["patients", "correction", "features.mean", "known.coefficients", "new.basis"])
    def test_a_closed_form_that_lost_a_part(self, folder, lost):
        file = folder / "model.safetensors"
        weights = load_file(file)
        save_file({key: value for key, value in weights.items() if key != f"memory.{lost}"}, file)
        assert lost in refused(folder)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(share=st.floats(0, 1, exclude_max=True), name=st.sampled_from(["model.safetensors", "model.json"]))
    def test_a_file_cut_off_anywhere(self, folder, tiny_run, share, name):
        whole = (tiny_run.folder / name).read_bytes().rstrip()
        (folder / name).write_bytes(whole[: int(share * len(whole))])
        try:
            refused(folder)
        finally:
            (folder / name).write_bytes(whole + (b"\n" if name.endswith("json") else b""))
        tl.load(folder)


def test_a_model_knows_what_it_needs_to_predict(tiny_run, tiny_config):
    """The defaults of a later version do not reach a model that was saved: its configuration is complete."""
    stored = json.loads((tiny_run.folder / "model.json").read_text())
    assert stored["config"] == tiny_run.model.config.model_dump(mode="json")
    assert stored["genes"] == tiny_run.model.genes
    assert stored["train_sections"] == ["S1", "S2"]
    assert stored["format"] > 0
    assert stored["version"] == __version__
    assert len(set(stored["genes"])) == len(stored["genes"]) == 12
    assert np.isfinite(np.concatenate([v.numpy().ravel() for v in tiny_run.model.module.state_dict().values()])).all()
