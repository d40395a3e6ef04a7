"""``info``: what a run, model, section or slide is, in one screen."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tifffile import TiffWriter

from nh2st_graph import read
from nh2st_graph.cli import main

from ..slides import write_pyramid


@pytest.fixture
def info(capsys, monkeypatch) -> Callable[[Path], dict[str, str]]:
    """Run the command; give the facts by name, the first line under ``title``, and all under ``all``."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(path: Path) -> dict[str, str]:
        with pytest.raises(SystemExit) as end:
            main(["info", str(path)])
        out, err = capsys.readouterr()
        assert (end.value.code, err) == (0, "")
        lines = out.splitlines()
        assert len(lines) <= 45
        assert max(map(len, lines)) <= 100 or len(str(path)) > 60
        facts: dict[str, str] = {"all": " ".join(out.split())}
        name = "title"
        for line in lines:
            found = re.match(r"(\S[\w -]*?)  +(\S.*)", line)
            if found and name:
                name = found[1]
                facts[name] = found[2].strip()
            elif line.startswith("  ") and name in facts:
                facts[name] += " " + line.strip()
        return facts

    return run


@pytest.fixture
def refused(capsys) -> Callable[[Path], str]:
    def run(path: Path) -> str:
        with pytest.raises(SystemExit) as end:
            main(["info", str(path)])
        out, err = capsys.readouterr()
        assert (end.value.code, out) == (2, "")
        (line,) = err.splitlines()
        return line

    return run


class TestRun:
    @pytest.mark.parametrize(
        ("there", "expected"),
        [
            ("spatial/", "prepare visium "),
            ("A1/outs/spatial/", "prepare visium "),
            ("A1/outs/binned_outputs/", "prepare visium_hd "),
            ("a.h5ad", "prepare anndata "),
            ("a.zarr/", "prepare spatialdata "),
            ("data/", "prepare FORMAT "),
        ],
    )
    def test_a_folder_of_sections_names_the_command_for_it(self, refused, tmp_path, there, expected):
        (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / there).mkdir() if there.endswith("/") else (tmp_path / there).touch()
        assert f"nh2st-graph {expected}{tmp_path} --out FOLDER" in refused(tmp_path)

    def test_a_run_shows_its_model_and_its_scores_in_words(self, info, tiny_run):
        facts = info(tiny_run.folder)
        assert facts["method"] == "NH2ST-Graph"
        assert facts["trained on"] == "S1, S2 (synthetic)"
        assert facts["genes"].startswith("12 (hvg:12): ")
        assert facts["encoder"].startswith("squidpy:summary, ")
        assert "patches of 112 um" in facts["encoder"]
        assert "model.width=16" in facts["settings"]
        assert "model.hops" not in facts["settings"], "a default"
        scores = json.loads((tiny_run.folder / "metrics.json").read_text())
        assert f"{scores['mean']['pcc_mean']:.3f}" in facts["all"]
        assert "Scores on S3" in facts["all"]
        assert "(reference) depth alone" in facts["all"]
        assert "depth_oracle" not in facts["all"]

    def test_a_run_shows_what_it_chose(self, info, tiny_run, tmp_path):
        chosen = json.loads((tiny_run.folder / "model.json").read_text())["chosen"]
        facts = info(tiny_run.folder)
        for who, label in (("known", "for training patients"), ("new", "for other patients")):
            kernel = "Gaussian" if chosen[who]["sharpness"] else "linear"
            assert facts[label].startswith(f"ridge regression ({kernel}")
        for chosen, expected in (({"alpha": 1000.0, "kernel": "rbf"}, "alpha 1000, kernel rbf"), ({}, None)):
            about = json.loads((tiny_run.folder / "model.json").read_text()) | {"chosen": chosen}
            (tmp_path / "model.json").write_text(json.dumps(about))
            facts = info(tmp_path)
            assert facts.get("chosen") == expected
            assert "for other patients" not in facts

    def test_an_encoder_that_new_patients_are_predicted_without_is_named(self, info, tiny_run, tmp_path):
        about = json.loads((tiny_run.folder / "model.json").read_text())
        about["chosen"]["new"]["without"] = ["two"]
        (tmp_path / "model.json").write_text(json.dumps(about))
        facts = info(tmp_path)
        assert "without two" in facts["for other patients"]
        assert "without" not in facts["for training patients"]

    def test_a_model_names_the_genes_that_it_reads(self, info, tiny_run):
        facts, genes = info(tiny_run.folder), tiny_run.model.confidence.known.genes
        reliable = genes[genes["reliable"]].sort_values("held_out_pcc_partial", ascending=False).index
        said = facts["reliable on slides of training patients"]
        assert said.startswith(f"{len(reliable)} of {len(genes)}")
        assert [gene for gene in said.partition(": ")[2].split(" and ")[0].split(", ") if gene] == list(reliable[:8])

    def test_a_model_of_several_scales_names_them(self, info, tiny_run, tmp_path):
        tiny_run.model.save(tmp_path)
        about = json.loads((tmp_path / "model.json").read_text())
        blocks = [{"encoder": "squidpy:summary", "patch_um": 56.0}, {"encoder": "timm:a", "patch_um": None}]
        about["config"]["features"] |= {"encoders": blocks, "views": 8}
        (tmp_path / "model.json").write_text(json.dumps(about))
        expected = "squidpy:summary at 56 um; timm:a at 112 um, 15 features, mean of 8 views"
        assert info(tmp_path)["encoder"] == expected

    def test_a_saved_model_has_no_scores(self, info, tiny_run, tmp_path):
        tiny_run.model.save(tmp_path / "model")
        facts = info(tmp_path / "model")
        assert facts["all"].startswith("Model ")
        assert "Scores" not in facts["all"]

    def test_a_model_that_was_adapted_says_on_what(self, info, tiny_run, tmp_path):
        about = {"sections": {"S7": {}}, "predicted_as": "new patients", "pcc_mean": [0.1, 0.25]}
        tiny_run.model.save(tmp_path)
        stored = json.loads((tmp_path / "model.json").read_text())
        stored["origin"]["adapted"] = about
        (tmp_path / "model.json").write_text(json.dumps(stored))
        said = "S7, for slides of new patients: mean r on held-out blocks of them 0.100 -> 0.250"
        assert info(tmp_path)["adapted on"] == said
        assert "adapted on" not in info(tiny_run.folder)

    def test_a_method_that_is_not_installed_says_that_it_needs_trust(self, info, tiny_run, tmp_path):
        tiny_run.model.save(tmp_path)
        about = json.loads((tmp_path / "model.json").read_text())
        about["config"]["model"]["name"] = "helper:Thing"
        (tmp_path / "model.json").write_text(json.dumps(about))
        assert "helper:Thing" in (said := info(tmp_path)["all"])
        assert "--trust" in said
        assert "--trust" not in info(tiny_run.folder)["all"]

    def test_a_run_without_a_test_section_says_so(self, info, tiny_run, tmp_path):
        shutil.copytree(tiny_run.folder, tmp_path / "run")
        (tmp_path / "run" / "metrics.json").unlink()
        assert "No scores" in info(tmp_path / "run")["all"]

    @pytest.mark.parametrize("name", ["model.json", "metrics.json"])
    @pytest.mark.parametrize("content", ["{", "[]", "{}"])
    def test_a_damaged_file_is_named(self, refused, tiny_run, tmp_path, name, content):
        shutil.copytree(tiny_run.folder, tmp_path / "run")
        (tmp_path / "run" / name).write_text(content)
        assert name in refused(tmp_path / "run")

    def test_folders_that_are_none(self, refused, tmp_path):
        assert "no folder of a run or model" in refused(tmp_path)
        (tmp_path / "study.yaml").touch()
        assert "study" in refused(tmp_path)
        (tmp_path / "begun").mkdir()
        (tmp_path / "begun" / "config.yaml").touch()
        assert "not finished" in refused(tmp_path / "begun")
        (tmp_path / "s.zarr").mkdir()
        assert "prepare spatialdata" in refused(tmp_path / "s.zarr")


class TestSection:
    def test_shows_what_is_there_and_what_is_missing(self, info, tiny_sections, tmp_path):
        section = tiny_sections["S3"].copy()
        read.write_h5ad(section, tmp_path / "S3.h5ad")
        facts = info(tmp_path / "S3.h5ad")
        assert facts["section"] == "S3"
        assert facts["patient"] == section.obs["patient"].iloc[0]
        assert facts["spots"].startswith(f"{section.n_obs}, rows ")
        assert facts["genes"].startswith(f"{section.n_vars}: ")
        assert facts["resolution"].endswith("um per pixel")
        assert "image features" in facts["missing"]

        entry = section.uns["spatial"]["S3"]
        del entry["metadata"], section.obs["patient"]
        section[:, :0].copy().write_h5ad(tmp_path / "bare.h5ad")
        missing = info(tmp_path / "bare.h5ad")["missing"]
        for what in ("patient", "genes", "source_image_path", "microns_per_pixel"):
            assert what in missing

    def test_an_image_among_others_of_a_file_and_a_flag_beside_the_library(self, info, tiny_sections, tmp_path):
        section = tiny_sections["S3"].copy()
        with TiffWriter(tmp_path / "two.ome.tif", ome=True) as file:
            for name in ("left", "right"):
                file.write(np.zeros((8, 8, 3), np.uint8), photometric="rgb", metadata={"axes": "YXS", "Name": name})
        section.uns["spatial"]["S3"]["metadata"]["source_image_path"] = "two.ome.tif#right"
        section.uns["spatial"]["is_single"] = True
        section.write_h5ad(tmp_path / "S3.h5ad")
        facts = info(tmp_path / "S3.h5ad")
        assert facts["image"] == "two.ome.tif#right"
        assert facts["resolution"].endswith("um per pixel")

    def test_features_of_several_scales_by_block(self, info, tiny_sections, tmp_path):
        section = tiny_sections["S3"].copy()
        section.obsm["X_image"] = np.zeros((section.n_obs, 30), np.float32)
        section.uns["X_image"] = {"encoder": "squidpy:summary", "patch_um": 112.0, "views": 4}
        read.write_h5ad(section, tmp_path / "one.h5ad")
        assert info(tmp_path / "one.h5ad")["features"] == "squidpy:summary (30), mean of 4 views"
        names = np.array(["squidpy:summary"] * 2, dtype=object)
        section.uns["X_image"] = {"encoder": "squidpy:summary,squidpy:summary", "encoders": names}
        section.uns["X_image"] |= {"patch_um": np.array([56.0, 112.0]), "n_features": np.array([15, 15])}
        read.write_h5ad(section, tmp_path / "two.h5ad")
        expected = "squidpy:summary at 56 um (15); squidpy:summary at 112 um (15)"
        assert info(tmp_path / "two.h5ad")["features"] == expected

    def test_a_prediction_says_by_whom(self, info, tiny_run):
        facts = info(tiny_run.folder / "predictions" / "S3.h5ad")
        assert facts["all"].startswith("Prediction ")
        assert facts["predicted by"].startswith("a model of S1, S2, squidpy:summary")
        assert facts["missing"] == "nothing"

    def test_what_is_no_h5ad(self, refused, tmp_path):
        (tmp_path / "a.h5ad").write_bytes(b"none")
        assert "cannot be read as h5ad" in refused(tmp_path / "a.h5ad")


class TestSlide:
    def test_levels_size_and_resolution(self, info, tmp_path):
        write_pyramid(tmp_path / "slide.tif", 1024, 0.5)
        facts = info(tmp_path / "slide.tif")
        assert facts["size"] == "1,024 x 1,024 pixels, 0.512 x 0.512 mm"
        assert facts["resolution"] == "0.5 um per pixel (about 20x)"
        assert facts["levels"].startswith("1,024 x 1,024; 512 x 512 (1/2)")
        assert "scenes" not in facts

    def test_scenes_are_listed_and_one_is_chosen(self, info, tmp_path):
        with TiffWriter(tmp_path / "two.ome.tif", ome=True) as file:
            for side, name in ((96, "left"), (80, "right")):
                image = np.full((side, side, 3), 200, np.uint8)
                metadata = {"axes": "YXS", "Name": name, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
                file.write(image, photometric="rgb", tile=(32, 32), metadata=metadata)
        facts = info(tmp_path / "two.ome.tif")
        assert {"left", "right"} <= set(re.findall(r"\w+", facts["scenes"]))
        assert "two.ome.tif#" in facts["all"]
        facts = info(tmp_path / "two.ome.tif#right")
        assert facts["size"].startswith("80 x 80 pixels")
        assert facts["resolution"].startswith("0.5 um per pixel")

    def test_an_image_without_a_resolution_says_how_to_give_it(self, info, tmp_path):
        Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
        facts = info(tmp_path / "a.png")
        assert facts["size"] == "30 x 20 pixels"
        assert "--microns-per-pixel" in facts["resolution"]

    def test_pixels_that_are_not_square(self, info, tmp_path):
        Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", dpi=(25_400, 12_700))
        with TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
            metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
            file.write(np.zeros((20, 30, 3), np.uint8), photometric="rgb", metadata=metadata)
        for name, said in {"a.jpg": "1 um per pixel along x and 2 along y", "a.ome.tif": "0.5 um per pixel"}.items():
            facts = info(tmp_path / name)
            assert said in facts["resolution"]
            assert "not square" in facts["resolution"]

    @pytest.mark.parametrize("name", ["a.tif", "a.csv", "a"])
    def test_what_is_no_image(self, refused, tmp_path, name):
        (tmp_path / name).write_text("none")
        line = refused(tmp_path / name)
        assert name in line
        assert "slide" in line or "image" in line

    def test_a_configuration_is_none_of_these(self, refused, tmp_path):
        (tmp_path / "a.yaml").write_text("seed: 0\n")
        assert "configuration" in refused(tmp_path / "a.yaml")
