"""The report of a run: a page that opens offline, with what is known of every gene."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nh2st_graph import __version__
from nh2st_graph.confidence import OF_KNOWN, OF_NEW, Confidence
from nh2st_graph.tl import Run
from nh2st_graph.tl._found import covered, evidence_of, findings, readable, trust_scores
from nh2st_graph.tl._report import evidence_table, write_report

from ..evidence import EVIDENCE
from ..pages import Page


@pytest.fixture(scope="module")
def source(tiny_run: Run) -> str:
    return (tiny_run.folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def with_reliable(run: Run, genes: list[str], **confidence: object) -> Run:
    """The run as if of several patients, with these genes reliable on slides of new ones, and no others."""
    own = run.model.confidence
    assert isinstance(own, Confidence)
    table = own.new.genes.assign(reliable=own.new.genes.index.isin(genes))
    told = {"known": None, "n_patients": 2, **confidence}
    new = replace(own.new, genes=table, to_another_patient=told["n_patients"] == 1)
    changed = replace(own, new=new, **told)
    predictions = {name: each.copy() for name, each in run.evaluation.predictions.items()}
    for each in predictions.values():
        each.var["reliable"] = each.var_names.isin(genes)
    evaluation = replace(run.evaluation, predictions=predictions)
    return replace(run, model=replace(run.model, confidence=changed), evaluation=evaluation)


def written(run: Run, path: Path, *, figures: bool = False) -> Page:
    return Page(write_report(run.model, run.evaluation, path, figures=figures).read_text(encoding="utf-8"))


class TestPage:
    def test_names_no_other_file_and_may_load_none(self, source, page):
        assert "http" not in source.replace("http-equiv", "").replace("http://www.w3.org", "")
        assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base"}
        for tag, attributes in page.tags:
            assert not (attributes.get("src") or "data:").partition("data:")[0], tag
            assert (attributes.get("href") or "#").startswith("#")
        (policy,) = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
        assert policy.startswith("default-src 'none'; img-src data:;")

    def test_links_lead_to_its_sections(self, page):
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        assert {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"} <= set(ids)

    def test_has_a_row_for_each_gene_in_a_table_that_sorts(self, page, tiny_run):
        table = evidence_table(tiny_run.model.confidence)
        head = next(row for row in page.rows if row[0] == "gene")
        rows = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in page.rows if row[0] in table.index}
        assert sorted(rows) == sorted(table.index)
        assert [row["reliable for training patients"] for row in rows.values()].count("yes") > 0
        tested = tiny_run.evaluation.per_gene.loc["S3"]
        for gene, row in rows.items():
            assert row["reliable"] == ("yes" if table.loc[gene, "new_patients_reliable"] else "no")
            assert row["r"] == f"{table.loc[gene, 'new_patients_held_out_pcc']:.3f}"
            assert row["test r"] == f"{tested.loc[gene, 'pcc']:.3f}"
        assert sum(tag == "table" and "sortable" in attributes["class"] for tag, attributes in page.tags) >= 3
        (controls,) = [attributes for _, attributes in page.tags if attributes.get("id") == "genes-controls"]
        assert "hidden" in controls, "shown by the script alone"

    def test_says_what_was_found_and_how(self, page, tiny_run):
        for sentence in findings(tiny_run.model, tiny_run.evaluation):
            assert sentence in page.text
        for part in ("S1, S2", "S3 (across patients)", "squidpy:summary", "NH2ST-Graph", f"nh2st_graph {__version__}"):
            assert part in page.text
        assert [row[0] for row in page.rows if row[0] == "ridge, own features"] == ["ridge, own features"]

    def test_images_have_words_and_are_whole(self, page):
        images = [attributes for tag, attributes in page.tags if tag == "img"]
        assert images
        for attributes in images:
            assert len(attributes["alt"]) > 20
            kind, _, code = attributes["src"].partition(";base64,")
            content = base64.b64decode(code)
            if kind == "data:image/webp":
                with Image.open(io.BytesIO(content)) as image:
                    image.load()
            else:
                assert content.rstrip().endswith(b"</svg>")

    def test_is_of_modest_size(self, source):
        assert len(source) < 1_000_000

    def test_names_are_data_not_markup(self, tiny_run, tmp_path):
        evil = "<img src=x onerror=alert(1)>"
        model = replace(tiny_run.model, train_sections=[evil])
        found = Page(write_report(model, None, tmp_path / "r.html", figures=False).read_text(encoding="utf-8"))
        assert not [tag for tag, _ in found.tags if tag == "img"]
        assert evil in found.text

    def test_without_test_sections_there_is_the_evidence_alone(self, tiny_run, tmp_path):
        found = written(replace(tiny_run, evaluation=None), tmp_path / "r.html")
        assert not [row for row in found.rows if row[0].startswith("ridge")]
        assert sum(row[0] in tiny_run.model.genes for row in found.rows) == len(tiny_run.model.genes)
        assert "scored on" in found.text

    def test_an_earlier_model_has_a_page_that_says_so(self, tiny_run, tmp_path):
        model = replace(tiny_run.model, confidence=None)
        found = written(replace(tiny_run, model=model), tmp_path / "r.html")
        assert "earlier version" in found.text
        assert [row for row in found.rows if row[0].startswith("ridge")]

    def test_what_must_be_known_first_is_a_warning(self, tiny_run, tmp_path):
        detected = np.array([3, *[50] * (len(tiny_run.model.genes) - 1)])
        run = with_reliable(tiny_run, [], detected=detected)
        evaluation = run.evaluation
        section = {**evaluation.metrics["sections"]["S3"], "coverage": 0.6}
        run = replace(run, evaluation=replace(evaluation, metrics={**evaluation.metrics, "sections": {"S3": section}}))
        run.evaluation.predictions["S3"].obs["familiarity"] = 0.0
        about = run.evaluation.predictions["S3"].uns["nh2st_prediction"]
        about["familiarity"] = {"unlike": True, "reasons": "other colours"}
        found = written(run, tmp_path / "r.html")
        for part in (
            "1 of 12 genes were detected in fewer than 10 training spots and are not predicted (NaN): "
            f"{run.model.genes[0]}. Scores count them",
            "On S3, the 90% intervals held only 60%",
            "100% of the spots of S3 are unlike training",
            "S3 is unlike the training sections: other colours",
        ):
            assert part in found.text
        (row,) = [row for row in found.rows if row[0] == run.model.genes[0]]
        assert row[1] == "not predicted"

    def test_reliable_genes_and_familiarity_are_drawn(self, tiny_run, tmp_path):
        run = with_reliable(tiny_run, tiny_run.model.genes[:1])
        run.evaluation.predictions["S3"].obs["familiarity"] = 0.5
        found = written(run, tmp_path / "r.html", figures=True)
        alts = [attributes["alt"] for tag, attributes in found.tags if tag == "img"]
        assert any(run.model.genes[0] in alt for alt in alts)
        assert any("familiarity" in alt for alt in alts)


class TestGenesTable:
    def test_is_what_the_run_wrote(self, tiny_run):
        stored = pd.read_csv(tiny_run.folder / "genes.csv", index_col="gene")
        confidence = tiny_run.model.confidence
        pd.testing.assert_frame_equal(stored, evidence_table(confidence), rtol=1e-5, check_dtype=False)
        kinds = ("training_patients", "new_patients")
        columns = [f"{kind}_{column}" for kind in kinds for column in EVIDENCE]
        assert list(stored) == ["detected_spots", "predicted", *columns]
        assert (stored["predicted"] == (stored["detected_spots"] >= 10)).all()
        assert sorted(stored.index) == sorted(tiny_run.model.genes)

    def test_has_both_kinds_of_slides_side_by_side(self, tiny_run):
        confidence = tiny_run.model.confidence
        table = evidence_table(confidence).loc[tiny_run.model.genes]
        for column in EVIDENCE:
            for kind, evidence in (("training", confidence.known), ("new", confidence.new)):
                np.testing.assert_array_equal(table[f"{kind}_patients_{column}"], evidence.genes[column])
        assert list(evidence_table(replace(confidence, known=None)))[2] == "new_patients_held_out_pcc"

    def test_begins_with_what_is_best(self, tiny_run):
        genes = tiny_run.model.genes[3:5]
        table = evidence_table(with_reliable(tiny_run, genes).model.confidence)
        assert sorted(table.index[:2]) == sorted(genes)
        assert table["new_patients_held_out_pcc_partial"].iloc[2:].is_monotonic_decreasing


class TestFindings:
    def test_count_the_reliable_genes_and_name_the_best(self, tiny_run):
        genes = tiny_run.model.genes[2:7]
        run = with_reliable(tiny_run, genes)
        r = run.model.confidence.new.genes["held_out_pcc_partial"][genes].sort_values(ascending=False)
        text = readable(run.model, OF_NEW)
        assert text.startswith("5 of 12 genes can be read from slides of new patients; best: ")
        for gene, value in r.iloc[:3].items():
            assert str(gene) in text
            assert f"{value:.2f})" in text
        assert not any(str(gene) in text for gene in r.index[3:])

    def test_none_is_said_with_the_reason(self, tiny_run):
        run = with_reliable(tiny_run, [])
        assert "None of 12 genes" in readable(run.model, OF_NEW)
        one = with_reliable(tiny_run, [], n_patients=1, known=run.model.confidence.new)
        text = readable(one.model, OF_NEW)
        for part in ("No gene can be called reliable", "one patient", "several patients"):
            assert part in text
        assert "None of 12 genes can be read from slides of the training patient:" in readable(one.model, OF_KNOWN)
        nobody = with_reliable(tiny_run, [], n_patients=0)
        assert "no patient is named" in readable(nobody.model, OF_NEW)

    def test_come_in_the_order_of_what_was_tested(self, tiny_run):
        run = with_reliable(tiny_run, tiny_run.model.genes[:1], known=tiny_run.model.confidence.new)
        new, known, *_ = run.findings()
        assert "new patients" in new
        assert "training patients" in known
        run.evaluation.predictions["S3"].uns["nh2st_prediction"]["evidence"] = "training patients"
        assert "training patients" in run.findings()[0]
        assert "On S3, the 90% intervals held" in run.findings()[-1]

    def test_an_earlier_model_has_none(self, tiny_run):
        assert findings(replace(tiny_run.model, confidence=None), tiny_run.evaluation) == []


class TestTrustScores:
    def test_stand_in_the_metrics_of_each_test_section(self, tiny_run):
        scores = tiny_run.evaluation.metrics["sections"]["S3"]
        prediction = tiny_run.evaluation.predictions["S3"]
        observed, lower, upper = (prediction.layers[key] for key in ("observed", "lower", "upper"))
        there = ~np.isnan(prediction.X).any(axis=0)
        inside = ((observed >= lower) & (observed <= upper))[:, there]
        assert scores["coverage"] == pytest.approx(inside.mean(), abs=1e-6)
        varies = there & (observed.std(axis=0) > 0)
        widths = [(upper - lower)[:, i].mean() / observed[:, i].std() for i in np.flatnonzero(varies)]
        assert scores["interval_width"] == pytest.approx(np.median(widths), abs=1e-3)
        assert scores["n_reliable"] == prediction.var["reliable"].sum()
        assert tiny_run.evaluation.metrics["mean"]["coverage"] == scores["coverage"]

    def test_count_reliable_genes_whose_r_given_depth_is_positive(self, tiny_run):
        run = with_reliable(tiny_run, tiny_run.model.genes[:4])
        prediction = run.evaluation.predictions["S3"]
        prediction.var["pcc_partial"] = [0.2, -0.1, 0.3, np.nan, *[0.5] * 8]
        found = trust_scores(run.model, prediction)
        assert (found["n_reliable"], found["reliable_positive"]) == (4, 0.5)
        prediction.var["reliable"] = False
        assert trust_scores(run.model, prediction)["reliable_positive"] is None
        assert trust_scores(replace(run.model, confidence=None), prediction) == {}

    def test_wider_intervals_hold_more(self, tiny_run):
        prediction = tiny_run.evaluation.predictions["S3"].copy()
        calibration = evidence_of(tiny_run.model, prediction).calibration
        shares = covered(calibration, prediction, [0.3, 0.6, 0.9])
        assert (np.diff(shares) >= 0).all()
        prediction.X[:, 0] = np.nan
        assert not np.isnan(covered(calibration, prediction, [0.9])).any()
