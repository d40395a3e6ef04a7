"""Real sections, cut down, all the way by the commands that the README gives: prepare, train, predict, evaluate."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_array_equal
from PIL import Image

from nh2st_graph import read, tl
from nh2st_graph.cli import main
from nh2st_graph.config import load_config
from nh2st_graph.models import BASELINES

from .readme import TRAINED

ROOT = Path(__file__).resolve().parents[1]

FIXED = {"config.yaml", "model.safetensors", "checkpoints", "log.csv", "metrics.json", "metrics_per_gene.csv"}


def command(*arguments: object) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert end.value.code == 0


def check_run(folder: Path, section: str, n_spots: int, figures: bool = True) -> None:
    """Look for what every run leaves, with numbers that can be."""
    assert {path.name for path in folder.iterdir()} >= FIXED | {"predictions"} | ({"figures"} if figures else set())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["sections"]) == {section}
    scores = metrics["sections"][section]
    assert scores["n_spots"] == n_spots
    assert all(-1 <= scores[name] <= 1 for name in ("pcc_mean", "pcc_partial", "pcc_heg50", "pcc_hpg50"))
    assert scores["mse"] > 0
    assert set(metrics["baselines"]) == set(BASELINES)
    assert 0 < metrics["references"]["noise_ceiling"]["mean"]["pcc_mean"] <= 1
    # Depth is a large part of r on log-normalised counts.
    assert metrics["references"]["depth_oracle"]["mean"]["pcc_mean"] > 0.05
    per_gene = pd.read_csv(folder / "metrics_per_gene.csv", index_col=["section", "gene"])
    assert per_gene["pcc"].mean() == pytest.approx(scores["pcc_mean"], abs=1e-5)
    assert len(per_gene) == scores["n_genes"]
    prediction = ad.read_h5ad(folder / "predictions" / f"{section}.h5ad")
    assert prediction.shape == (n_spots, scores["n_genes"])
    measured = np.isfinite(prediction.X).all(axis=0)  # others were detected in too few training spots
    assert np.isnan(prediction.X[:, ~measured]).all()
    assert measured.mean() > 0.5
    assert (prediction.X[:, measured].std(axis=0) > 0).all()
    for image in (folder / "figures").iterdir() if figures else ():
        with Image.open(image) as opened:
            assert len(opened.convert("L").reduce(2).getcolors()) > 50, image


def without_genes(section: AnnData) -> AnnData:
    return section[:, :0].copy()


@pytest.mark.slow
class TestHer2st:
    """Five crops of some 40 spots, in the layout of the public repository."""

    @pytest.fixture(scope="class")
    def done(self, after_the_readme) -> Path:
        """A folder after the README's commands on HER2ST."""
        return after_the_readme

    @pytest.fixture(scope="class")
    def place(self, after_the_readme) -> Path:
        return after_the_readme

    @pytest.fixture(scope="class")
    def model(self, done) -> tl.FittedModel:
        return tl.load(done / "runs" / "c6")

    @pytest.fixture(scope="class")
    def sections(self, place) -> dict[str, AnnData]:
        return read.her2st(place / "her2st")

    def test_a_run_is_whole(self, done, sections, model):
        check_run(done / "runs" / "c6", "C6", sections["C6"].n_obs)
        assert model.train_sections == ["C3", "C4", "C5"]
        protocol = json.loads((done / "runs" / "c6" / "metrics.json").read_text())["protocol"]
        assert (protocol["split"], protocol["patients_in_both"]) == ("within patient", ["C"])
        assert protocol["normalize"] == "panel"

    def test_scores_follow_from_the_files_and_the_model(self, done, sections, model):
        train = {name: sections[name] for name in model.train_sections}
        evaluation = tl.evaluate({"C6": sections["C6"]}, model, train)
        assert evaluation.metrics == json.loads((done / "runs" / "c6" / "metrics.json").read_text())

    def test_evaluating_again_gives_the_same_scores(self, done):
        assert (done / "runs" / "c6" / "metrics.json").read_text() == (done / TRAINED).read_text()

    def test_another_patient_is_predicted_from_a_prepared_section(self, done, sections, model):
        predicted = ad.read_h5ad(done / "predicted" / "B4.h5ad")
        assert_array_equal(predicted.X, tl.predict(sections["B4"], model)[predicted.obs_names].X)
        assert "observed" in predicted.layers
        assert set(predicted.obs["patient"]) == {"B"}

    def test_no_gene_of_a_section_moves_its_prediction(self, model, sections):
        section = sections["C6"]
        deeper = section.copy()
        deeper.X = section.X * 3
        expected = tl.predict(section, model).X
        for other in (deeper, without_genes(section)):
            assert_array_equal(tl.predict(other, model).X, expected)

    @pytest.mark.parametrize("file", ["ST-cnts/C6.tsv.gz", "ST-spotfiles/C6_selection.tsv"])
    def test_rows_of_a_file_in_another_order_change_nothing(self, place, sections, model, tmp_path, file):
        expected = tl.predict(sections["C6"], model)
        data = tmp_path / "data"
        for part in ("ST-cnts/C6.tsv.gz", "ST-spotfiles/C6_selection.tsv", "ST-imgs/C/C6/C6.jpg"):
            (data / part).parent.mkdir(parents=True)
            shutil.copy(place / "her2st" / "data" / part, data / part)
        packed = file.endswith(".gz")
        content = (data / file).read_bytes()
        head, *rows = (gzip.decompress(content) if packed else content).splitlines(keepends=True)
        shuffled = head + b"".join(rows[i] for i in np.random.default_rng(0).permutation(len(rows)))
        (data / file).write_bytes(gzip.compress(shuffled) if packed else shuffled)
        found = tl.predict(read.her2st(tmp_path)["C6"], model)
        assert list(found.obs_names) == list(expected.obs_names)
        assert_array_equal(found.X, expected.X)
        assert_array_equal(found.layers["observed"], expected.layers["observed"])

    def test_training_on_prepared_sections_gives_the_same_numbers(self, done, sections, model, tmp_path):
        config = load_config(done / "runs" / "c6" / "config.yaml")
        tl.prepare_sections(config, tmp_path)
        prepared = tl.load_sections(config.override(["data.format=h5ad", f"data.root={tmp_path}"]))
        train = {name: prepared[name] for name in model.train_sections}
        again = tl.fit(train, config)
        assert again.genes == model.genes
        assert all((value == model.module.state_dict()[n]).all() for n, value in again.module.state_dict().items())
        evaluation = tl.evaluate({"C6": prepared["C6"]}, again, train)
        assert evaluation.metrics == json.loads((done / "runs" / "c6" / "metrics.json").read_text())


@pytest.mark.slow
class TestVisium:
    """Sections of 25 spots."""

    @pytest.fixture(scope="class")
    def run(self, after_the_readme) -> Path:
        return after_the_readme / "runs" / "first"

    @pytest.fixture(scope="class")
    def spaceranger(self, after_the_readme) -> Path:
        return after_the_readme / "sections" / "D1"

    def test_a_run_is_whole(self, run):
        check_run(run, "D1", 25, figures=False)
        protocol = json.loads((run / "metrics.json").read_text())["protocol"]
        assert protocol["split"] == "patients unknown"

    def test_a_prediction_of_the_command_is_that_of_the_run(self, run, after_the_readme, tmp_path):
        command("predict", run, after_the_readme / "prepared" / "D1.h5ad", "--out", tmp_path)
        first, second = (ad.read_h5ad(folder / "D1.h5ad") for folder in (run / "predictions", tmp_path))
        assert_array_equal(second[first.obs_names].X, first.X)

    def test_rows_of_the_positions_in_another_order_change_nothing(self, run, spaceranger, tmp_path):
        model = tl.load(run)
        shutil.copytree(spaceranger, tmp_path / "D1")
        file = tmp_path / "D1" / "spatial" / "tissue_positions_list.csv"
        pd.read_csv(file, header=None).sample(frac=1, random_state=0).to_csv(file, header=False, index=False)
        shuffled = tl.predict(read.visium_section(tmp_path / "D1"), model)
        expected = tl.predict(read.visium_section(spaceranger), model)
        assert list(shuffled.obs_names) == list(expected.obs_names)
        assert_array_equal(shuffled.X, expected.X)
        assert_array_equal(tl.predict(without_genes(read.visium_section(spaceranger)), model).X, expected.X)
