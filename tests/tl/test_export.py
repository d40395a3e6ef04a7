"""What predict writes beside the h5ad: files for other tools, and the page of a slide."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import scanpy as sc
from numpy.testing import assert_allclose

from nh2st_graph import ConfigError, DataError, ModelError, RunError, pl, read, tl
from nh2st_graph.cli import main
from nh2st_graph.tl._outputs import Outputs
from nh2st_graph.tl._slide_page import write_slide_page

from ..pages import Page

FILES = ["S1.h5ad", "S1.geojson", "S1_10x", "S1_loupe.csv", "S1.csv", "S1.html"]


@pytest.fixture(scope="module")
def place(tiny_run, tiny_sections, tmp_path_factory) -> Path:
    """A section of a training patient, and gene sets."""
    folder = tmp_path_factory.mktemp("place")
    section = tiny_sections["S1"].copy()
    entry = section.uns["spatial"]["S1"]
    entry["images"]["hires"] = entry["images"]["hires"][::4, ::4]
    entry["scalefactors"]["tissue_hires_scalef"] /= 4
    read.write_h5ad(section, folder / "S1.h5ad")
    genes = tiny_run.model.genes
    (folder / "sets.gmt").write_text("\t".join(["SET", "x", *genes[:4], "<GENE>"]) + "\nOTHER\tx\tKRT8\n")
    return folder


@pytest.fixture(scope="module")
def written(tiny_run, place) -> Path:
    """Everything, as the command writes it."""
    flags = [
        "--export",
        "qupath,seurat, loupe,csv",
        "--report",
        "--gene-sets",
        str(place / "sets.gmt"),
        "--no-progress",
    ]
    with pytest.raises(SystemExit) as end:
        main(["predict", str(tiny_run.folder), str(place / "S1.h5ad"), "--out", str(place / "out"), *flags])
    assert end.value.code == 0
    return place / "out"


def test_all_of_it_stands_beside_the_h5ad_and_agrees_with_it(written):
    assert {path.name for path in written.iterdir()} == {*FILES}
    prediction = read.h5ad_section(written / "S1.h5ad")
    assert_allclose(sc.read_10x_mtx(written / "S1_10x").X.toarray(), prediction.X, rtol=1e-5)
    spots = [each["properties"] for each in json.loads((written / "S1.geojson").read_text())["features"]]
    assert [each["name"] for each in spots] == list(prediction.obs_names)
    assert list(pd.read_csv(written / "S1.csv")["spot"]) == list(prediction.obs_names)
    loupe = pd.read_csv(written / "S1_loupe.csv")
    best = prediction.var.loc[prediction.var["reliable"], "held_out_pcc_partial"].idxmax()
    assert list(loupe)[:3] == ["Barcode", "familiarity to the model", best]
    calls = tl.call(prediction, best)
    assert list(loupe[best]) == list(calls)
    assert [each["classification"]["name"] for each in spots] == [f"{best} {word}" for word in calls]


def test_the_page_opens_offline_and_says_what_is_known(written, tiny_run):
    source = (written / "S1.html").read_text(encoding="utf-8")
    page = Page(source)
    for tag, attributes in page.tags:
        assert not (attributes.get("src") or "data:").partition("data:")[0], tag
        assert (attributes.get("href") or "#").startswith("#")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"} <= set(ids)
    prediction = read.h5ad_section(written / "S1.h5ad")
    rows = {row[0]: row[1:] for row in page.rows}
    assert set(prediction.var_names) <= set(rows)
    n_reliable = int(prediction.var["reliable"].sum())
    assert rows["SET"][0] == "5"
    assert rows["SET"][1] == "4"
    assert rows["OTHER"][-1].startswith("not scored")
    assert f"{n_reliable} of {prediction.n_vars} genes can be read from slides of the training patient" in page.text
    assert "S1 looks like the training sections" in page.text
    scored = "signature_SET" in prediction.obs
    assert len([1 for tag, _ in page.tags if tag == "img"]) == 2 + scored


def test_an_interrupted_command_goes_on_with_what_is_missing(written, tiny_run, place, tmp_path):
    out = shutil.copytree(written, tmp_path / "out")
    (out / "S1.geojson").unlink()
    shutil.rmtree(out / "S1_10x")
    what = {"export": ["qupath", "seurat", "loupe", "csv"], "report": True, "gene_sets": place / "sets.gmt"}
    before = {path: path.read_bytes() for path in out.iterdir()}
    for check in (tl.check_prediction, tl.predict_run):
        with pytest.raises(RunError, match=r"S1\.h5ad exists already"):
            check(tiny_run.folder, [place / "S1.h5ad"], out, **what)
    left = tl.predict_run(tiny_run.folder, [place / "S1.h5ad"], out, resume=True, **what)
    assert left == [out / "S1.geojson", out / "S1_10x"]
    assert {path: path.read_bytes() for path in before} == before
    assert (out / "S1.geojson").read_bytes() == (written / "S1.geojson").read_bytes()
    with pytest.raises(RunError, match=r"S1_loupe\.csv exists already"):
        tl.check_prediction(tiny_run.folder, [place / "S1.h5ad"], _without(out, "S1.h5ad"), export="loupe")


def _without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder


def test_is_refused_before_anything_is_loaded(tiny_run, place, tmp_path):
    def check(**given: object) -> None:
        tl.check_prediction(tiny_run.folder, [place / "S1.h5ad"], tmp_path / "out", **given)

    with pytest.raises(ConfigError, match=r"export='qupat' is no format .*'qupath'") as caught:
        check(export="csv,qupat")
    assert "--export qupat" in caught.value.at("flag", {"export"})
    (tmp_path / "s.gmt").write_text("A\tx\tKRT8\tKRT18\n")
    first, second, third, *others = tiny_run.model.genes
    named = rf"no gene of the 1 gene sets \(KRT8, KRT18\) .* \({first}, {second}, {third} and {len(others)} more\)"
    for given in (tmp_path / "s.gmt", {"mine": ["KRT8", "KRT18"]}):
        with pytest.raises(DataError, match=named):
            check(gene_sets=given)
    (tmp_path / "of_two.gmt").write_text(f"A\tx\t{first}\t{second}\nB\tx\tKRT8\n")
    check(gene_sets=f"{tmp_path / 'of_two.gmt'}:A")
    with pytest.raises(DataError, match="do not exist"):
        check(gene_sets=tmp_path / "none.gmt")


def test_a_model_without_evidence_scores_no_gene_sets(tiny_run, place, tmp_path):
    replace(tiny_run.model, confidence=None).save(tmp_path / "model")
    with pytest.raises(ModelError, match="gene_sets are scored on reliable genes"):
        tl.predict_run(tmp_path / "model", [place / "S1.h5ad"], tmp_path / "out", gene_sets=place / "sets.gmt")


def test_files_of_a_named_file_stand_beside_it(tmp_path):
    found = Outputs(tmp_path / "my.slide.h5ad", export=("csv", "seurat"), report=True).of("S1")
    assert [path.name for path in found.values()] == ["my.slide.h5ad", "my.slide.csv", "my.slide_10x", "my.slide.html"]


class TestPage:
    @pytest.fixture
    def page(self, tiny_run, tmp_path):
        def page(prediction, **options) -> Page:
            path = write_slide_page(tiny_run.model, prediction, tmp_path / "p.html", figures=False, **options)
            return Page(path.read_text(encoding="utf-8"))

        return page

    def test_warns_where_training_names_no_patient(self, page, tiny_run, tmp_path):
        prediction, warning = tiny_run.evaluation.predictions["S3"], "No training section names its patient"
        assert warning not in page(prediction).text
        unnamed = replace(tiny_run.model, confidence=replace(tiny_run.model.confidence, n_patients=0))
        path = write_slide_page(unnamed, prediction, tmp_path / "unnamed.html", figures=False)
        assert warning in path.read_text(encoding="utf-8")

    def test_says_on_what_the_model_was_adapted(self, page, tiny_run, tmp_path):
        prediction = tiny_run.evaluation.predictions["S3"]
        assert "model adapted on" not in page(prediction).text
        adapted = replace(tiny_run.model, origin={**tiny_run.model.origin, "adapted": {"sections": {"T1": {}}}})
        path = write_slide_page(adapted, prediction, tmp_path / "adapted.html", figures=False)
        assert "model adapted onT1" in Page(path.read_text(encoding="utf-8")).text

    def test_warns_of_what_must_not_be_believed(self, page, tiny_run):
        prediction = tiny_run.evaluation.predictions["S3"].copy()
        prediction.uns["nh2st_prediction"]["familiarity"].update(unlike=True, reasons="its stain <b>")
        prediction.obs["familiarity"] = 0.0
        found = page(prediction, genes=[prediction.var_names[1]])
        assert "S3 is unlike the training sections (its stain <b>)" in found.text
        assert "b" not in {tag for tag, _ in found.tags}, "texts are escaped"
        assert f"Not reliable for this slide, so that their maps may be wrong: {prediction.var_names[1]}" in found.text
        assert "100% of the spots are unlike training" in found.text

    def test_counts_spots_by_region(self, page, tiny_run):
        prediction = tiny_run.evaluation.predictions["S3"].copy()
        prediction.obs["annotation"] = ["Tumor", *["Stroma"] * (prediction.n_obs - 1)]
        gene = prediction.var_names[0]
        rows = {row[0]: row[1:] for row in page(prediction, genes=[gene]).rows}
        assert rows["Tumor"] == ["1", "0.0%", f"{prediction.X[0, 0]:.2f}"]
        assert rows["Stroma"][0] == str(prediction.n_obs - 1)


def test_a_column_of_numbers_is_drawn(tiny_run):
    prediction = tiny_run.evaluation.predictions["S3"].copy()
    prediction.obs["score"] = range(prediction.n_obs)
    assert pl.spot_values(prediction, "score", label="my score").get_title().startswith("section S3")
    with pytest.raises(DataError, match="no column of numbers 'domain'"):
        pl.spot_values(prediction, "domain")
