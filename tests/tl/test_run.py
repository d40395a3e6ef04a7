"""Whole runs: what a folder holds, scoring again, preparing first, and predicting files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from nh2st_graph import ConfigError, DataError, RunError, read, tl
from nh2st_graph.config import Config, load_config
from nh2st_graph.models import NH2STGraph
from nh2st_graph.tl import Run
from nh2st_graph.train import log_columns

#: What other programs rely on.
FIXED = {
    "config.yaml",
    "model.safetensors",
    "checkpoints",
    "log.csv",
    "metrics.json",
    "metrics_per_gene.csv",
    "predictions",
    "figures",
}

#: Beside them: the report and its table, what rebuilds the model, TensorBoard's log, and images of synthetic tissue.
BESIDE = {"report.html", "genes.csv", "model.json", "folds.safetensors", "tensorboard", "tissue"}


@pytest.fixture
def copied(tiny_run, tmp_path) -> Path:
    """A run folder to change, somewhere else."""
    return Path(shutil.copytree(tiny_run.folder, tmp_path / "copied"))


@pytest.fixture(scope="module")
def prepared(tiny_config, tmp_path_factory) -> Path:
    """The sections as ``prepare`` writes them."""
    folder = tmp_path_factory.mktemp("prepared") / "sections"
    tl.prepare_sections(tiny_config, folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestFolder:
    def test_holds_the_fixed_names_and_nothing_half_written(self, tiny_run):
        names = {path.name for path in tiny_run.folder.iterdir()}
        assert names == FIXED | BESIDE
        assert not [path for path in tiny_run.folder.rglob("*") if path.suffix in {".part", ".tmp"}]
        assert not list(tiny_run.folder.rglob(".*"))
        assert {path.name for path in tiny_run.outputs()} <= names

    def test_configuration_is_the_one_that_was_given(self, tiny_run, tiny_config):
        assert load_config(tiny_run.folder / "config.yaml") == tiny_config == tiny_run.model.config

    def test_metrics_are_those_of_the_evaluation(self, tiny_run):
        metrics = json.loads((tiny_run.folder / "metrics.json").read_text())
        assert metrics == tiny_run.evaluation.metrics
        fixed = {"pcc_mean", "pcc_heg50", "pcc_hpg50", "mse", "mae", "n_spots", "n_genes"}
        assert set(metrics["sections"]["S3"]) >= fixed
        assert set(metrics["mean"]) >= fixed

    def test_scores_by_gene_are_one_row_each(self, tiny_run):
        stored = pd.read_csv(tiny_run.folder / "metrics_per_gene.csv", index_col=["section", "gene"])
        pd.testing.assert_frame_equal(stored, tiny_run.evaluation.per_gene, rtol=1e-5, check_dtype=False)

    def test_predictions_are_those_of_the_model(self, tiny_run, tiny_sections):
        assert [path.name for path in (tiny_run.folder / "predictions").iterdir()] == ["S3.h5ad"]
        stored = ad.read_h5ad(tiny_run.folder / "predictions" / "S3.h5ad")
        expected = tl.predict(tiny_sections["S3"], tiny_run.model)
        assert_array_equal(stored.X, expected.X)
        assert stored.X.dtype == np.float32
        assert_array_equal(stored.layers["observed"], expected.layers["observed"])
        assert list(stored.var_names) == tiny_run.model.genes
        assert list(stored.obs_names) == list(expected.obs_names)

    def test_the_log_has_one_row_an_epoch(self, tiny_run):
        log = pd.read_csv(tiny_run.folder / "log.csv")
        assert tuple(log.columns) == log_columns(NH2STGraph)
        for _, rows in log.groupby("stage"):
            assert list(rows["epoch"]) == list(range(1, len(rows) + 1))
        assert log["train_loss"].gt(0).all()

    def test_without_a_test_section_there_are_no_scores(self, tiny_config, tmp_path):
        config = tiny_config.override(["data.test=[]", "train.max_epochs=1", "train.refit=false"])
        run = tl.train_run(config, tmp_path / "a" / "run")
        assert run.evaluation is None
        names = {path.name for path in run.folder.iterdir()}
        assert names == (FIXED | BESIDE) - {
            "metrics.json",
            "metrics_per_gene.csv",
            "predictions",
            "figures",
        }
        with pytest.raises(RunError, match=r"run .*: test_sections is empty"):
            tl.evaluate_run(run.folder)


class TestEvaluateAgain:
    def test_gives_the_same_scores_predictions_and_figures_wherever_the_run_lies(self, copied, tiny_run):
        before = files(copied)
        for name in ("metrics.json", "metrics_per_gene.csv", "genes.csv", "report.html", "predictions", "figures"):
            path = copied / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        run = tl.evaluate_run(copied)
        assert run.evaluation.metrics == tiny_run.evaluation.metrics
        after = files(copied)
        assert after.keys() == before.keys()
        kept = ("metrics.json", "metrics_per_gene.csv", "genes.csv", "model.safetensors", "config.yaml", "log.csv")
        for name in kept:
            assert after[name] == before[name], name
        assert after["report.html"] == before["report.html"].replace(b"Run tiny", b"Run copied")
        again = ad.read_h5ad(copied / "predictions" / "S3.h5ad")
        assert_array_equal(again.X, tiny_run.evaluation.predictions["S3"].X)

    def test_a_folder_that_is_no_run(self, tiny_run, tmp_path):
        tiny_run.model.save(tmp_path)
        with pytest.raises(RunError, match=r"is not a run folder \(config\.yaml is missing\)"):
            tl.evaluate_run(tmp_path)

    def test_sections_that_are_gone_leave_the_scores_as_they_were(self, copied, tmp_path):
        config = load_config(copied / "config.yaml").override(["data.format=h5ad", f"data.root={tmp_path / 'gone'}"])
        (copied / "config.yaml").write_text(config.to_yaml())
        before = files(copied)
        for again in (tl.check_evaluation, tl.evaluate_run):
            with pytest.raises(DataError, match=r"gone does not exist; .* root under data in .*copied/config\.yaml"):
                again(copied)
        assert files(copied) == before


class TestPrepare:
    def test_writes_sections_with_features_and_graph(self, prepared, tiny_sections):
        assert {path.name for path in prepared.glob("*.h5ad")} == {"S1.h5ad", "S2.h5ad", "S3.h5ad"}
        for name, section in tiny_sections.items():
            stored = read.h5ad_section(prepared / f"{name}.h5ad")[section.obs_names]
            assert (stored.X != section.X).nnz == 0
            assert stored.obsm["X_image"].dtype == np.float32
            assert {"spatial_connectivities", "spatial_distances"} <= set(stored.obsp)
            assert stored.uns["X_image"]["encoder"] == "squidpy:summary"

    def test_a_run_on_them_is_the_run_on_the_files_that_they_came_from(
        self, prepared, tiny_config, tiny_run, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("nh2st_graph.tl._run.write_figures", lambda *_: [])  # drawn in other tests
        config = tiny_config.override(["data.format=h5ad", f"data.root={prepared}"])
        run = tl.train_run(config, tmp_path / "run")
        for name in ("model.safetensors", "log.csv", "metrics.json", "metrics_per_gene.csv"):
            assert (run.folder / name).read_bytes() == (tiny_run.folder / name).read_bytes(), name
        assert_array_equal(run.evaluation.predictions["S3"].X, tiny_run.evaluation.predictions["S3"].X)

    def test_predictions_have_the_spots_in_the_order_in_which_they_were_read(
        self, tiny_config, tiny_sections, tmp_path
    ):
        read_in = tiny_sections["S3"][np.random.default_rng(0).permutation(tiny_sections["S3"].n_obs)].copy()
        config = tiny_config.override(["model.name=kernel_ridge", "evaluate.baselines=false", "evaluate.figures=false"])
        run = tl.train_run(config, tmp_path / "run", sections={**tiny_sections, "S3": read_in})
        found = run.evaluation.predictions["S3"]
        assert list(found.obs_names) == list(read_in.obs_names)
        assert_array_equal(found.X, tl.predict(read_in, run.model).X)

    def test_replaces_no_file(self, prepared, tiny_config):
        before = files(prepared)
        with pytest.raises(RunError, match=r"S\d\.h5ad exists already; .* out,"):
            tl.prepare_sections(tiny_config, prepared)
        assert files(prepared) == before

    def test_goes_on_and_keeps_what_is_there(self, prepared, tiny_config, tmp_path):
        folder = Path(shutil.copytree(prepared, tmp_path / "sections"))
        (folder / "S2.h5ad").unlink()
        config = tiny_config.override(["data.format=h5ad", f"data.root={prepared}"])
        tl.prepare_sections(config, folder, resume=True)
        before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.h5ad")}
        assert set(before) == {"S1.h5ad", "S2.h5ad", "S3.h5ad"}
        (folder / "S2.h5ad").unlink()
        with pytest.raises(RunError, match=r"S\d\.h5ad holds another section, or other features or graph"):
            tl.prepare_sections(config.override(["features.patch_um=224"]), folder, resume=True)
        assert not (folder / "S2.h5ad").exists()


class TestSections:
    def test_all_that_are_there_where_none_is_named(self, prepared, tiny_config):
        config = tiny_config.override(["data.format=h5ad", f"data.root={prepared}", "data.train=[]", "data.test=[]"])
        assert list(tl.load_sections(config)) == ["S1", "S2", "S3"]

    def test_options_reach_the_reader(self, prepared, tiny_config, tmp_path):
        section = read.h5ad_section(prepared / "S1.h5ad")
        section.layers["raw"], section.X = section.X, section.X / 7
        read.write_h5ad(section, tmp_path / "S1.h5ad")
        source = ["data.format=anndata", f"data.root={tmp_path}", "data.train=[]", "data.test=[]"]
        config = tiny_config.override([*source, "data.options={layer: raw, microns_per_pixel: 3}"])
        (loaded,) = tl.load_sections(config).values()
        assert (section.layers["raw"] != loaded.X).nnz == 0
        assert loaded.uns["spatial"]["S1"]["metadata"]["microns_per_pixel"] == 3.0

    def test_those_that_are_not_tested_are_trained_on(self, tiny_sections, tiny_config, tmp_path):
        config = tiny_config.override(["data.train=[]", "data.test=[S2]", "model.name=mean", "evaluate.figures=false"])
        run = tl.train_run(config, tmp_path / "run", sections=tiny_sections)
        assert (list(run.model.origin["train"]), list(run.evaluation.predictions)) == (["S1", "S3"], ["S2"])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (["data.train=[S1, S9]"], r"train_sections: .* no section 'S9'; did you mean 'S\d'"),
            (["data.test=[T3]"], "test_sections: .* no section 'T3'; did you mean 'S3'"),
            (["data.train=[]", "data.test=[S1, S2, S3]"], "no section is left .*test_sections"),
            (["data.options.layer=raw"], "^options are for formats .* format='synthetic', change synthetic"),
            (["data.format=h5ad", "data.root=null"], "^root is not set; .*'h5ad'.* root='FOLDER'"),
            (
                ["data.format=visium_hd", "data.root=there", "data.options.bin=8"],
                r"format 'visium_hd' takes no bin; did you mean 'bin_um'\?",
            ),
            (
                ["data.format=h5ad", "data.root=there", "data.options.names=[S1]"],
                r"format 'h5ad' takes no names; ",
            ),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else None,
    )
    def test_names_that_cannot_be_used_leave_no_folder(self, tiny_config, tmp_path, changes, message):
        with pytest.raises((DataError, ConfigError), match=message):
            tl.train_run(tiny_config.override(changes), tmp_path / "a" / "run")
        assert not (tmp_path / "a").exists()

    def test_synthetic_tissue_needs_a_place_for_its_images(self, tiny_config):
        with pytest.raises(ConfigError, match="needs a folder for its images"):
            tl.load_sections(tiny_config)

    def test_paths_do_not_depend_on_where_the_command_is_run(self, prepared, tiny_config, tmp_path, monkeypatch):
        panel = prepared.parent / "panel.txt"
        panel.write_text("OWN01\nNBR01\n")
        monkeypatch.chdir(prepared.parent)
        config = tiny_config.override(
            ["data.format=h5ad", "data.root=sections", "data.panel=panel.txt", "features.cache=cache", "data.test=[]"]
        )
        run: Run = tl.train_run(config.override(["model.name=mean"]), tmp_path / "run")
        stored: Config = load_config(run.folder / "config.yaml")
        assert (stored.data.root, stored.data.panel) == (prepared, str(panel))
        assert stored.features.cache == prepared.parent / "cache"
        assert run.model.genes == ["OWN01", "NBR01"]

    @pytest.mark.parametrize(
        ("encoder", "stored"),
        [
            ("timm:resnet18@weights.pt", "timm:resnet18@HERE/weights.pt"),
            ("timm:resnet18@HERE/weights.pt", "timm:resnet18@HERE/weights.pt"),
            (
                "squidpy:summary, timm-map:resnet18@a/b.pt,timm:resnet10t@c.pt",
                "squidpy:summary,timm-map:resnet18@HERE/a/b.pt,timm:resnet10t@HERE/c.pt",
            ),
            ("timm:local-dir:uni", "timm:local-dir:HERE/uni"),
            ("timm:resnet18@random,squidpy:summary", "timm:resnet18@random,squidpy:summary"),
            ("timm:resnet18@random.pt", "timm:resnet18@HERE/random.pt"),
            ("timm:hf-hub:some/model@revision", "timm:hf-hub:some/model@revision"),
            ("mine:model@what", "mine:model@what"),
        ],
    )
    def test_weights_do_not_depend_on_it_either(self, tiny_config, tmp_path, monkeypatch, encoder, stored):
        monkeypatch.chdir(tmp_path)
        encoder, stored = (each.replace("HERE", str(tmp_path)) for each in (encoder, stored))
        features = tiny_config.features.model_copy(update={"encoder": encoder})
        config = tl.absolute(tiny_config.model_copy(update={"features": features}))
        assert config.features.encoder == stored

    @pytest.mark.parametrize(
        ("changes", "sizes"), [(["features.encoder=auto"], [112, 224, 448]), (["features.patch_um=56"], [56])]
    )
    def test_names_the_encoders_that_auto_chose(self, tiny_config, monkeypatch, changes, sizes):
        monkeypatch.setattr("nh2st_graph.im._default.is_packaged", lambda package: False)
        config = tl.absolute(tiny_config.override(["features.encoder=auto", *changes]))
        assert config.features.blocks == [("handcrafted", size) for size in sizes]
        monkeypatch.setattr("nh2st_graph.im._default.is_packaged", lambda package: True)
        assert tl.absolute(config) == config


class TestPanel:
    """A gene that a section lacks: named, and then the user's choice."""

    @pytest.fixture
    def config(self, tiny_config, tmp_path) -> Config:
        (tmp_path / "panel.txt").write_text("OWN01\nERBB2\nNBR01\nNBR02\nGAPDH\n")
        return tiny_config.override([f"data.panel={tmp_path / 'panel.txt'}", "data.test=[]", "model.name=mean"])

    def test_fail(self, config, tmp_path):
        with pytest.raises(DataError, match=r"ERBB2, GAPDH .*missing_genes='drop'"):
            tl.train_run(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_drop(self, config, tiny_sections, tmp_path, caplog):
        run = tl.train_run(config.override(["data.missing_genes=drop"]), tmp_path / "run", sections=tiny_sections)
        assert run.model.genes == ["OWN01", "NBR01", "NBR02"]
        assert "2 of 5 panel genes are absent from a section and dropped: ERBB2, GAPDH" in caplog.text


class TestRefusesBeforeItReads:
    """What names alone rule out; the files of the sections are empty."""

    @pytest.fixture
    def config(self, tmp_path) -> Config:
        (tmp_path / "h2").mkdir()
        for name in ("C3", "C4"):
            (tmp_path / "h2" / f"{name}.h5ad").touch()
        given = ["data.format=h5ad", f"data.root={tmp_path / 'h2'}", "data.train=[C3]", "data.test=[C4]"]
        return Config().override(given)

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            (["data.panel=nofile.txt"], "gene panel nofile.txt does not exist"),
            (["features.encoder=squidpy:summ"], "squidpy has no features 'summ'.*summary"),
            (["features.encoder=squid:summary"], "unknown encoder 'squid:summary'"),
            (["features.encoder=pixels:0"], "'0' is no side"),
            (["features.encoder=timm:resnet18@nofile"], "checkpoint nofile does not exist"),
            (["data.train=[c3,C4]", "data.test=[]"], "no section 'c3' in .*C3"),
            (["data.test=[C5]"], "no section 'C5'"),
        ],
    )
    def test_a_name_of_nothing(self, config, tmp_path, changes, says):
        tl.check_run(config, tmp_path / "run")
        with pytest.raises((ConfigError, DataError), match=says):
            tl.check_run(config.override(changes), tmp_path / "run")
