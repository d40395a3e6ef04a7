"""Weights are never taken for those of other data, and a log that others write changes no result."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from nh2st_graph import ModelError, RunError, tl
from nh2st_graph.config import Config
from nh2st_graph.section import targets
from nh2st_graph.train import EpochLog, FittedModel, Preparation
from nh2st_graph.train._origin import mismatches, origin_of

from ..prepared import complete_section

Sections = dict[str, AnnData]


@pytest.fixture(scope="module")
def config(tiny_config: Config) -> Config:
    changes = ["train.max_epochs=2", "train.refit=false", "train.checkpoint_seconds=9", "evaluate.baselines=false"]
    return tiny_config.override(changes)


@pytest.fixture(scope="module")
def sections(few_spots: Sections, config: Config) -> Sections:
    """With features and graph, which takes the longest."""
    return {name: complete_section(section, config) for name, section in few_spots.items()}


@pytest.fixture
def copies(sections: Sections) -> Sections:
    return {name: section.copy() for name, section in sections.items()}


@pytest.fixture(scope="module")
def fitted(sections: Sections, config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FittedModel]:
    folder = tmp_path_factory.mktemp("fit")
    train, test = [sections["S1"], sections["S2"]], [sections["S3"]]
    return folder, tl.fit(train, config, out=folder, test_sections=test)


@pytest.fixture
def folder(fitted: tuple[Path, FittedModel], tmp_path: Path) -> Path:
    """A copy of the folder of the fit."""
    return Path(shutil.copytree(fitted[0], tmp_path / "fit"))


def go_on(sections: Sections, config: Config, folder: Path, **how: Any) -> FittedModel:
    return tl.fit(
        [sections["S1"], sections["S2"]], config, out=folder, test_sections=[sections["S3"]], resume=True, **how
    )


def more_counts(section: AnnData) -> None:
    section.X = section.X + section.X


def swap_genes(section: AnnData) -> None:
    section.var_names = [*section.var_names[1:], section.var_names[0]]


def other_patient(section: AnnData) -> None:
    section.obs["patient"] = pd.Categorical(["P9"] * section.n_obs)


def other_rows(section: AnnData) -> None:
    section.obs["array_row"] = section.obs["array_row"] + 1


CHANGES: dict[str, Callable[[Sections], object]] = {
    "section 'S1' has other counts": lambda s: more_counts(s["S1"]),
    "another panel .* section 'S2' has other counts": lambda s: [swap_genes(each) for each in s.values()],
    "section 'S3' has other counts": lambda s: more_counts(s["S3"]),
    "section 'S2' has other patient": lambda s: other_patient(s["S2"]),
    "section 'S1' has other positions": lambda s: other_rows(s["S1"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_data_are_refused_by_name(copies, config, folder, change):
    CHANGES[change](copies)
    before = (folder / "checkpoints" / "fold1" / "last.ckpt").read_bytes()
    part = change.rpartition(" .* ")[2]
    with pytest.raises(RunError, match=rf"was begun with other data or settings: .*{part}") as caught:
        go_on(copies, config, folder)
    assert "\n" not in str(caught.value)
    if "panel" in change:
        assert "another panel" in str(caught.value)
    assert (folder / "checkpoints" / "fold1" / "last.ckpt").read_bytes() == before


def test_other_sections_and_settings_are_refused_by_name(copies, config, folder, fitted):
    with pytest.raises(RunError, match="training section 'S2' is gone"):
        tl.fit([copies["S1"], copies["S3"]], config, out=folder, resume=True)
    with pytest.raises(RunError, match=r"train\.learning_rate: 0\.003 -> 0\.1"):
        go_on(copies, config.override(["train.learning_rate=0.1"]), folder)
    known, *_ = fitted[1].genes
    other = next(gene for gene in copies["S1"].var_names if gene not in fitted[1].genes)
    with pytest.raises(RunError, match=rf"another panel \(1 of 2 genes, such as '{other}'\)"):
        go_on(copies, config, folder, genes=[other, known])


def test_another_release_is_refused_by_name(copies, config, folder, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "99.1+cpu")
    with pytest.raises(RunError, match=r"torch .* -> 99\.1"):
        go_on(copies, config, folder)


def test_the_same_data_in_another_order_go_on(copies, config, folder, fitted):
    rng = np.random.default_rng(0)
    shuffled = {name: each[rng.permutation(each.n_obs)].copy() for name, each in copies.items()}
    found = go_on(shuffled, config, folder)
    for name, value in fitted[1].module.state_dict().items():
        assert torch.equal(found.module.state_dict()[name], value), name
    pd.testing.assert_frame_equal(found.log, fitted[1].log)


class TestUnreadable:
    @pytest.mark.parametrize("stage", ["fold1", "fold2"])
    def test_is_said_set_aside_and_gone_on_without(self, copies, config, folder, fitted, caplog, stage):
        last = folder / "checkpoints" / stage / "last.ckpt"
        last.write_bytes(last.read_bytes()[:1000])
        found = go_on(copies, config, folder)
        assert f"checkpoint {last} cannot be read" in caplog.text
        assert last.with_name("last.ckpt.unreadable").stat().st_size == 1000
        for name, value in fitted[1].module.state_dict().items():
            assert torch.equal(found.module.state_dict()[name], value), name
        pd.testing.assert_frame_equal(found.log, fitted[1].log)


class TestCurve:
    def test_comes_from_the_process(self, copies, config, fitted, tmp_path, monkeypatch):
        """Another writes a lower error for every epoch into the log."""
        original = EpochLog.on_train_epoch_end

        def with_another(self, trainer, module) -> None:
            original(self, trainer, module)
            with self.path.open("a") as handle:
                row = dict.fromkeys(self.columns, "0") | {"stage": self.stage, "epoch": "9", "step": "9"}
                handle.write(",".join(row[name] for name in self.columns) + "\n")

        monkeypatch.setattr(EpochLog, "on_train_epoch_end", with_another)
        found = tl.fit([copies["S1"], copies["S2"]], config, out=tmp_path, test_sections=[copies["S3"]])
        assert found.selected_epochs == fitted[1].selected_epochs
        pd.testing.assert_frame_equal(found.log, fitted[1].log)

    def test_comes_from_the_checkpoint_after_a_resume(self, copies, config, folder, fitted):
        (folder / "log.csv").write_text("stage,epoch,step,train_loss,val_loss,val_pcc\nfold1:S1,1,1,0,0,0\n")
        found = go_on(copies, config, folder)
        assert found.selected_epochs == fitted[1].selected_epochs
        pd.testing.assert_frame_equal(found.log, fitted[1].log)


def test_a_new_fit_forgets_the_stages_of_the_one_before(copies, config, folder):
    """Killed in its first stage, and gone on with: later stages are not those of the earlier fit."""
    other = config.override(["train.learning_rate=0.1"])
    (folder / "checkpoints" / "fold1" / "last.ckpt").write_bytes(b"")

    class KilledError(BaseException):
        pass

    def end(*_: Any) -> None:
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochLog, "on_train_epoch_end", end)
        with pytest.raises(KilledError):
            tl.fit([copies["S1"], copies["S2"]], other, out=folder)
    assert not list(folder.glob("checkpoints/*/done.json"))


class TestModel:
    def test_knows_what_it_rests_on(self, fitted, sections, config, tmp_path):
        model = fitted[1]
        assert set(model.origin) == {"torch", "encoders", "train", "tests", "versions", "revision"}
        assert set(model.origin["train"]) == {"S1", "S2"}
        assert {"counts", "positions", "resolution", "graph", "image"} <= set(model.origin["train"]["S1"])
        assert model.origin["encoders"][0]["encoder"] == "squidpy"
        model.save(tmp_path)
        assert tl.load(tmp_path).origin == model.origin
        assert tl.load(tmp_path).digest == model.digest

    def test_refuses_features_of_another_encoder(self, fitted, copies):
        known = copies["S3"].uns["X_image"]["made_from"]
        fingerprint = {**json.loads(known["encoders"][0]), "weights": "0123"}
        known["encoders"] = np.array([json.dumps(fingerprint)], dtype=object)
        copies["S3"].uns["spatial"]["S3"]["metadata"]["source_image_path"] = "gone.png"
        with pytest.raises(Exception, match=r"section 'S3': .*encoder \(weights\)"):
            tl.predict(copies["S3"], fitted[1])

    def test_says_that_training_sections_have_changed(self, fitted, copies, caplog):
        more_counts(copies["S1"])
        tl.evaluate([copies["S3"]], fitted[1], [copies["S1"], copies["S2"]])
        assert "section 'S1' has other counts than when the model was trained" in caplog.text
        assert "'S2'" not in caplog.text

    def test_of_an_earlier_version_says_so_once(self, fitted, tmp_path, caplog):
        fitted[1].save(tmp_path)
        file = tmp_path / "model.json"
        description = json.loads(file.read_text())
        del description["origin"]
        file.write_text(json.dumps(description))
        with caplog.at_level("INFO"):
            assert tl.load(tmp_path).origin == {}
        assert caplog.text.count("cannot be checked") == 1


def test_keys_that_came_later_are_no_difference(sections, config):
    now = origin_of(Preparation.learn(config, {"S1": sections["S1"], "S2": sections["S2"]}, {}))
    before = json.loads(json.dumps(now))
    del before["settings"]["train"]["decay_epochs"]
    del before["settings"]["data"]["log_base"]
    assert mismatches(before, now) == []
    before["settings"]["train"]["ema_decay"] = 0.5
    assert mismatches(before, now) == ["train.ema_decay: 0.5 -> 0.95"]


def test_weights_of_the_authors_have_their_logarithm(fitted):
    model = fitted[1]
    model.module.log_base = 10
    try:
        with pytest.raises(ModelError, match=r"predict logarithms of base 10.* give log_base=10"):
            FittedModel(**{**vars(model)})
    finally:
        del model.module.log_base


class TestPublishedForm:
    """A logarithm of base 10, and a learning rate that falls."""

    @pytest.fixture(scope="class")
    def published(self, config) -> Config:
        changes = ["data.log_base=10", "train.decay_epochs=1", "train.decay_factor=0.5", "train.checkpoint_seconds=0"]
        return config.override([*changes, "train.max_epochs=3"])

    @pytest.fixture(scope="class")
    def found(self, sections, published) -> FittedModel:
        return tl.fit([sections["S1"], sections["S2"]], published)

    def test_is_scored_and_kept_with_its_logarithm(self, found, sections, tmp_path):
        found.save(tmp_path)
        model = tl.load(tmp_path)
        assert model.config.data.log_base == 10
        evaluation = tl.evaluate([sections["S3"]], model, [sections["S1"], sections["S2"]])
        assert evaluation.metrics["protocol"]["log_base"] == 10
        prediction = evaluation.predictions["S3"]
        assert prediction.uns["nh2st_prediction"]["log_base"] == "10"
        assert prediction.uns["log1p"] == {"base": 10}, "which scanpy reads"
        expected = targets(sections["S3"], model.genes, log_base=10).loc[prediction.obs_names]
        np.testing.assert_allclose(prediction.layers["observed"], expected, rtol=1e-6)
        error = np.square(prediction.X - expected.to_numpy()).mean()
        assert evaluation.metrics["sections"]["S3"]["mse"] == pytest.approx(error, rel=1e-5)

    def test_goes_on_at_the_rate_where_it_was(self, found, sections, published, tmp_path, monkeypatch):
        class KilledError(BaseException):
            pass

        original = EpochLog.on_train_epoch_end

        def end(self, trainer, module) -> None:
            original(self, trainer, module)
            if trainer.current_epoch == 1:
                raise KilledError

        train = [sections["S1"], sections["S2"]]
        with monkeypatch.context() as patch:
            patch.setattr(EpochLog, "on_train_epoch_end", end)
            with pytest.raises(KilledError):
                tl.fit(train, published, out=tmp_path)
        again = tl.fit(train, published, out=tmp_path, resume=True)
        pd.testing.assert_frame_equal(again.log, found.log)
        for name, value in found.module.state_dict().items():
            assert torch.equal(again.module.state_dict()[name], value), name


def under(name: str, section: AnnData) -> AnnData:
    """The same section under another name."""
    twin = section.copy()
    (library,) = section.uns["spatial"]
    twin.obs["section"] = pd.Categorical([name] * twin.n_obs)
    twin.uns["spatial"] = {name: twin.uns["spatial"][library]}
    return twin


def test_a_section_under_two_names_is_said(copies, quick_config, caplog):
    same = r"'S1' and 'Z9' have the same counts"
    tl.fit([copies["S1"], copies["S2"]], quick_config, test_sections=[copies["S3"]])
    assert re.search("have the same counts", caplog.text) is None
    model = tl.fit([copies["S1"], copies["S2"]], quick_config, test_sections=[under("Z9", copies["S1"])])
    assert re.search(same, caplog.text)
    caplog.clear()
    tl.evaluate([under("Z9", copies["S1"])], model, [copies["S1"], copies["S2"]])
    assert re.search(same, caplog.text)
