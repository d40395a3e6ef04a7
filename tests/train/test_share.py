"""Sharing on the hub, with the real library and a small hub: what goes up, what comes down, and what does not."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pandas as pd
import pytest
import yaml
from numpy.testing import assert_array_equal
from scipy import sparse

import nh2st_graph as ng
from nh2st_graph import ModelError, tl
from nh2st_graph.cli import main
from nh2st_graph.train import _archive, find_model
from nh2st_graph.train._card import without_paths

from ..hub import COMMIT, Hub

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
READ = ["log.csv", "model.json", "model.safetensors"]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture
def shared(hub: Hub) -> Hub:
    """A hub with a small model, and a pickle beside it."""
    folder = Path(shutil.copytree(GOLDEN / "mlp", hub.folder / "org" / "model"))
    (folder / "predicted.csv").unlink()
    (folder / "training_args.bin").write_bytes(b"\x80\x04N.")
    (folder / "config.py").write_text("raise SystemExit\n")
    return hub


def refused(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        ng.load(name)
    line = str(caught.value)
    assert "\n" not in line
    return line


class TestLoad:
    def test_only_what_prediction_reads_is_downloaded(self, shared, tmp_path):
        model = ng.load("hf-hub:org/model")
        assert model.digest == ng.load(GOLDEN / "mlp").digest
        assert len(model.log)
        assert sorted(path.name for path in (tmp_path / "hub-cache").rglob("snapshots/*/*")) == READ
        asked = {Path(path).name for path in shared.asked if "/resolve/" in path}
        assert asked == {*READ, "folds.safetensors"}

    def test_a_revision_is_asked_for_and_then_its_commit(self, shared):
        assert find_model("hf-hub:org/model@v1.0/a").name == COMMIT
        asked = [path for path in shared.asked if "/resolve/" in path]
        assert all(("/resolve/v1.0%2Fa/" if "model.json" in path else f"/resolve/{COMMIT}/") in path for path in asked)

    def test_without_a_network_the_cache_is_enough(self, shared):
        before = ng.load("hf-hub:org/model")
        shared.stop()
        assert ng.load("hf-hub:org/model").digest == before.digest

    def test_a_folder_in_the_layout_of_the_hub(self, tmp_path, monkeypatch):
        """As another machine's cache was copied here, without a network."""
        place = tmp_path / "cache" / "models--org--model"
        shutil.copytree(GOLDEN / "ridge_neighbours", place / "snapshots" / COMMIT)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(COMMIT)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        for name in ("hf-hub:org/model", Path("hf-hub:org/model"), f"hf-hub:org/model@{COMMIT}"):
            assert ng.load(name).config.model.name == "ridge_neighbours"
        assert "HF_HUB_OFFLINE forbids to ask the hub" in refused("hf-hub:org/model@other")
        assert "org/another is not in" in refused("hf-hub:org/another")

    def test_a_log_is_not_needed(self, shared):
        (shared.folder / "org/model/log.csv").unlink()
        assert ng.load("hf-hub:org/model").log.empty

    def test_a_gated_repository(self, hub):
        line = refused("hf-hub:org/gated")
        assert line.startswith("model hf-hub:org/gated: org/gated is gated; ask for access at ")
        assert "hf auth login" in line

    def test_a_repository_that_is_not_there(self, hub):
        assert "the hub has no repository org/nothing" in refused("hf-hub:org/nothing")

    def test_no_network(self, hub):
        hub.stop()
        assert "does not answer" in refused("hf-hub:org/nothing")

    def test_a_pickle_is_named_and_not_downloaded(self, shared, tmp_path):
        (shared.folder / "org/model/model.safetensors").unlink()
        line = refused("hf-hub:org/model")
        assert (
            "the repository has no model.safetensors; it has training_args.bin, a pickle, which can hold code" in line
        )
        assert line.count("model hf-hub:org/model") == 1
        assert not list((tmp_path / "hub-cache").rglob("training_args.bin"))

    def test_a_pickle_under_the_name_of_weights_is_not_opened(self, shared):
        (shared.folder / "org/model/model.safetensors").write_bytes(b"\x80\x04N.")
        assert "damaged" in refused("hf-hub:org/model")

    def test_a_file_that_is_too_large_is_not_downloaded(self, shared, tmp_path, monkeypatch):
        monkeypatch.setitem(_archive.KNOWN, "model.safetensors", 100)
        assert "model.safetensors has 12,048 bytes, and no model has more than 100 there" in refused("hf-hub:org/model")
        assert not list((tmp_path / "hub-cache").rglob("snapshots/*/model.safetensors"))

    def test_its_code_is_not_run(self, shared):
        file = shared.folder / "org/model/model.json"
        about = json.loads(file.read_text())
        about["config"]["model"] = {"name": "config:Thing"}
        file.write_text(json.dumps(about))
        assert "its method 'config:Thing'" in refused("hf-hub:org/model")

    @pytest.mark.parametrize(
        "name",
        ["hf-hub:", "hf-hub:model", "hf-hub:a/b/c", "hf-hub:../x", "hf-hub:org/model@", "hf-hub:org/model@../../x"],
    )
    def test_a_name_that_is_none(self, hub, name):
        assert "names no model of the hub; write hf-hub:ORG/NAME" in refused(name)
        assert not hub.asked


@pytest.fixture
def run(tmp_path, tiny_run) -> Path:
    """A scored run of patients with names, in a folder with a name."""
    folder = Path(shutil.copytree(tiny_run.folder, tmp_path / "hospital" / "run"))
    text = (folder / "model.json").read_text()
    about = json.loads(text)
    for part in ("train", "tests"):
        for i, each in enumerate(about["origin"][part].values()):
            each["patient"] = f"Jane Doe {part} {i}"
    about["config"]["data"]["root"] = str(tmp_path / "hospital" / "sections")
    about["config"]["data"]["panel"] = str(tmp_path / "hospital" / "panel.txt")
    about["config"]["features"]["cache"] = str(tmp_path / "hospital" / "cache")
    (folder / "model.json").write_text(json.dumps(about))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["protocol"]["patients_in_both"] = ["Jane Doe train 0"]
    for each in metrics["protocol"]["sections"].values():
        each["patient"] = "Jane Doe train 0"
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


class TestPush:
    def test_what_is_uploaded_loads_again(self, hub, run, few_spots):
        model = ng.load(run)
        name = model.push_to_hub("org/new", private=True, token="hf_x", licence="CC-BY-4.0")
        assert name == f"hf-hub:org/new@{COMMIT}"
        again = ng.load(name)
        assert again.digest == model.digest
        section = few_spots["S3"]
        assert_array_equal(tl.predict(section, again).X, tl.predict(section, model).X)
        made = dict(hub.told)["/api/repos/create"][0]
        assert (made.get("visibility"), made.get("private")) in {("private", None), (None, True)}

    def test_all_files_go_up_and_no_other(self, hub, run):
        (run / "training_args.bin").write_bytes(b"\x80\x04N.")
        ng.load(run).push_to_hub("org/new")
        files = sorted(path.name for path in (hub.folder / "org/new").iterdir())
        assert files == sorted(["README.md", "folds.safetensors", *READ, "metrics.json", "metrics_per_gene.csv"])

    def test_no_patient_and_no_path_goes_up(self, hub, run, tmp_path):
        about = json.loads((run / "model.json").read_text())
        about["config"]["features"]["encoder"] = f"timm:resnet18@{tmp_path}/hospital/weights.pth"
        (run / "model.json").write_text(json.dumps(about))
        ng.load(run).push_to_hub("org/new")
        for path in (hub.folder / "org/new").iterdir():
            content = path.read_bytes()
            for secret in ("Jane Doe", str(tmp_path), "hospital"):
                assert secret.encode() not in content, path.name
        about = json.loads((hub.folder / "org/new/model.json").read_text())
        assert about["origin"]["n_patients"] == 2
        assert about["config"]["features"]["encoder"] == "timm:resnet18@weights.pth"
        assert json.loads((hub.folder / "org/new/metrics.json").read_text())["protocol"]["n_patients_in_both"] == 1

    def test_a_shared_model_can_be_shared_on(self, hub, run):
        ng.load(run).push_to_hub("org/new")
        first = {path.name: path.read_bytes() for path in (hub.folder / "org/new").iterdir()}
        ng.load(hub.folder / "org/new").push_to_hub("org/new")
        for path in (hub.folder / "org/new").iterdir():
            if path.name != "metrics.json":  # its floats are the same, as another program may write them
                assert path.read_bytes() == first[path.name], path.name

    def test_nothing_of_an_earlier_model_stays(self, hub, run):
        ng.load(run).push_to_hub("org/new")
        (hub.folder / "org/new/notes.txt").touch()
        ng.load(GOLDEN / "ridge_neighbours").push_to_hub("org/new")
        (deleted,) = [
            {line["value"]["path"] for line in lines if line["key"] == "deletedFile"}
            for path, lines in hub.told[-1:]
            if "/commit/" in path
        ]
        assert deleted == {"folds.safetensors", "log.csv", "metrics.json", "metrics_per_gene.csv"}

    def test_a_branch(self, hub, run):
        ng.load(run).push_to_hub("org/new", revision="v2", message="Second")
        paths = [path for path, _ in hub.told]
        assert "/api/models/org/new/branch/v2" in paths
        (commit,) = [lines for path, lines in hub.told if path == "/api/models/org/new/commit/v2"]
        assert commit[0]["value"]["summary"] == "Second"

    def test_a_refusal_says_how_to_log_in(self, hub, tiny_run):
        with pytest.raises(ModelError, match=r"org/gated cannot be uploaded: the hub refuses it \(403\); log in by"):
            tiny_run.model.push_to_hub("org/gated")

    def test_offline(self, hub, tiny_run, monkeypatch):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE forbids"):
            tiny_run.model.push_to_hub("org/new")

    @pytest.mark.parametrize("name", ["new", "a/b/c", "org/new@"])
    def test_a_name_that_is_none(self, hub, tiny_run, name):
        with pytest.raises(ModelError, match="names no model of the hub"):
            tiny_run.model.push_to_hub(name)
        assert not hub.told


class TestScores:
    def test_of_another_model_are_refused(self, tiny_run, tmp_path):
        with pytest.raises(ModelError, match="its scores are of another model"):
            ng.save(ng.load(GOLDEN / "mlp"), tmp_path / "model.zip", scores=tiny_run.folder)
        assert not list(tmp_path.iterdir())

    def test_that_are_not_there_are_said(self, tiny_run, tmp_path):
        with pytest.raises(ModelError, match=r"holds no metrics\.json"):
            ng.save(tiny_run.model, tmp_path / "model.zip", scores=tmp_path)

    @pytest.mark.parametrize("content", ["{", "[]", '{"protocol": {}}', '{"protocol": 3}'])
    def test_that_are_damaged(self, run, tmp_path, content):
        (run / "metrics.json").write_text(content)
        with pytest.raises(ModelError, match=r"its scores are (damaged|incomplete)"):
            ng.save(ng.load(run), tmp_path / "model.zip")

    def test_of_an_evaluation(self, tiny_run, tmp_path):
        ng.save(tiny_run.model, tmp_path / "model.zip", scores=tiny_run.evaluation)
        folder = ng.load(tmp_path / "model.zip").sources.folder
        stored = json.loads(_archive.read_file(folder, "metrics.json"))
        assert stored["mean"] == tiny_run.evaluation.metrics["mean"]


class TestAdapted:
    """What is shared of a model that was adapted says so, and has no scores of the model that it was."""

    @pytest.fixture
    def adapted(self, run, tiny_sections):
        section = tiny_sections["S3"].copy()
        counts = section.X.toarray()
        counts[:, ::2] *= 10
        section.X = sparse.csr_matrix(counts)
        section.obs["patient"] = pd.Categorical(["Jane Doe herself"] * section.n_obs)
        return tl.adapt(section, ng.load(run))

    @pytest.fixture
    def shared(self, adapted, tmp_path) -> dict[str, str]:
        ng.save(adapted, tmp_path / "adapted.zip")
        with zipfile.ZipFile(tmp_path / "adapted.zip") as archive:
            return {name: archive.read(name).decode() for name in archive.namelist() if "safetensors" not in name}

    def test_no_patient_of_its_sections(self, shared):
        assert not [name for name, content in shared.items() if "Jane Doe" in content]

    def test_no_scores_of_the_model_before_it(self, shared, adapted, run, tmp_path):
        assert "metrics.json" not in shared
        assert "None. This model was not scored" in shared["README.md"]
        with pytest.raises(ModelError, match="before it was adapted"):
            ng.save(adapted, tmp_path / "other.zip", scores=run)

    def test_no_scores_on_what_it_was_adapted_on(self, adapted, tiny_run, tmp_path):
        with pytest.raises(ModelError, match="adapted on section 'S3'"):
            ng.save(adapted, tmp_path / "other.zip", scores=tiny_run.evaluation)

    def test_the_card_says_what_it_was_adapted_on(self, shared, adapted):
        about = adapted.origin["adapted"]
        card = shared["README.md"]
        assert "## Adapted after training" in card
        assert f"from {about['pcc_mean'][0]:.3f} to {about['pcc_mean'][1]:.3f}" in card
        assert f"squared error from {about['mse'][0]:.3f} to {about['mse'][1]:.3f}" in card
        assert about["sections"]["S3"]["counts"] in card
        assert f"On slides of {about['predicted_as']}, held-out tissue of its adaptation calls" in card


@pytest.mark.parametrize(
    ("value", "public"),
    [
        ("timm:resnet18@/home/ann/w.pth?size=112", "timm:resnet18@w.pth?size=112"),
        ("squidpy:summary,timm:local-dir:/home/ann/vit,uni@~/w.bin", "squidpy:summary,timm:local-dir:vit,uni@w.bin"),
        ("/home/ann/panel.txt", "panel.txt"),
        ("~/panel.txt", "panel.txt"),
        ("https://example.org/a", "https://example.org/a"),
        ("timm:hf-hub:org/name@v1", "timm:hf-hub:org/name@v1"),
        ({"a": ["/b/c", 1, None]}, {"a": ["c", 1, None]}),
    ],
)
def test_paths_are_left_out(value, public):
    assert without_paths(value) == public


class TestCard:
    @pytest.fixture
    def card(self, hub, run) -> str:
        ng.load(run).push_to_hub("org/new", licence="MIT")
        return (hub.folder / "org/new/README.md").read_text()

    def test_its_metadata(self, card):
        about = yaml.safe_load(card.split("---\n")[1])
        assert (about["license"], about["library_name"], about["pipeline_tag"]) == ("mit", "nh2st-graph", "other")
        assert "spatial-transcriptomics" in about["tags"]
        assert huggingface_hub.ModelCard(card).data.license == "mit"

    def test_scores_stand_beside_baselines_and_ceiling(self, card, run):
        mean = json.loads((run / "metrics.json").read_text())
        for name, row in (
            ("**NH2ST-Graph**", mean["mean"]),
            ("ridge, own features", mean["baselines"]["ridge"]["mean"]),
            ("(reference) noise ceiling", mean["references"]["noise_ceiling"]["mean"]),
        ):
            assert f"| {name} | {row['pcc_mean']:.3f} |" in card
        assert "across patients" in card

    def test_genes_at_both_ends_are_shown_by_what_held_out_training_tissue_says(self, card, run):
        per_gene = pd.read_csv(run / "metrics_per_gene.csv").set_index("gene")["pcc_partial"]
        held_out = ng.load(run).confidence.new.genes["held_out_pcc_partial"]
        for end, gene in (("best", held_out.idxmax()), ("worst", held_out.idxmin())):
            assert f"| {end} | {gene} | {held_out[gene]:.3f} | " in card
        failed = int((per_gene.fillna(0) <= 0).sum())
        assert f"**{failed} of 12 genes are not predicted at all**" in card

    def test_reliable_genes_are_named(self, card, run):
        reliable = ng.load(run).confidence.new.genes["reliable"].astype(bool)
        assert f"calls {reliable.sum()} of 12 genes reliable" in card

    def test_data_are_numbers_and_digests(self, card, run):
        assert "2 sections of 2 patients" in card
        for section, each in json.loads((run / "model.json").read_text())["origin"]["train"].items():
            assert each["counts"] in card
            assert f"| {section} |" not in card

    def test_the_encoder_has_its_licence(self, hub, run):
        for name, facts in (
            ("squidpy:summary", "none: this package computes it"),
            ("uni2-h", "CC-BY-NC-ND-4.0 | no commercial use; the hub asks for access | https://huggingface.co/Mahmood"),
        ):
            about = json.loads((run / "model.json").read_text())
            about["config"]["features"]["encoder"] = name
            (run / "model.json").write_text(json.dumps(about))
            ng.load(run).push_to_hub("org/new")
            assert facts in (hub.folder / "org/new/README.md").read_text()

    def test_without_named_patients_it_speaks_of_other_slides(self, hub, tiny_run):
        unnamed = replace(tiny_run.model, confidence=replace(tiny_run.model.confidence, n_patients=0))
        unnamed.push_to_hub("org/unnamed")
        card = (hub.folder / "org/unnamed/README.md").read_text()
        assert "On other slides (no patient is named), held-out training tissue calls" in card
        assert "new patients" not in card

    def test_without_scores_and_licence_it_says_so(self, hub):
        ng.load(GOLDEN / "mlp").push_to_hub("org/new")
        card = (hub.folder / "org/new/README.md").read_text()
        assert "None. This model was not scored" in card
        assert "Nobody stated the licence" in card
        assert "an unknown number of patients" in card
        assert yaml.safe_load(card.split("---\n")[1])["license"] == "other"


class TestCommandLine:
    @pytest.fixture
    def section(self, few_spots, tmp_path) -> Path:
        ng.read.write_h5ad(few_spots["S3"], tmp_path / "S3.h5ad")
        return tmp_path / "S3.h5ad"

    @pytest.mark.parametrize("kind", ["hub", "zip"])
    def test_predict_takes_what_is_shared(self, hub, section, tiny_run, tmp_path, kind):
        name = "hf-hub:org/tiny" if kind == "hub" else str(tmp_path / "model.zip")
        if kind == "hub":
            tiny_run.model.push_to_hub("org/tiny")
        else:
            ng.save(tiny_run.model, name)
        with pytest.raises(SystemExit) as ended:
            main(["predict", name, str(section), "--out", str(tmp_path / "out")])
        assert ended.value.code == 0
        predicted = ng.read.h5ad_section(tmp_path / "out" / "S3.h5ad")
        assert_array_equal(predicted.X, tl.predict(ng.read.h5ad_section(section), tiny_run.model).X)

    def test_info_shows_what_is_shared(self, shared, tmp_path, capsys):
        ng.save(ng.load(GOLDEN / "mlp"), tmp_path / "model.zip")
        for name in ("hf-hub:org/model", str(tmp_path / "model.zip")):
            with pytest.raises(SystemExit) as ended:
                main(["info", name])
            assert ended.value.code == 0
            assert "8 (hvg:8): NBR01" in capsys.readouterr().out

    def test_a_refusal_is_one_line(self, hub, section, tmp_path, capsys):
        with pytest.raises(SystemExit) as ended:
            main(["predict", "hf-hub:org/nothing", str(section), "--out", str(tmp_path / "out")])
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("error: model hf-hub:org/nothing: the hub has no repository")
