from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from nh2st_graph.config import Config
from nh2st_graph.study import Fold, Results, Study, StudyResult, Variant, cells
from nh2st_graph.study._html import write_html
from nh2st_graph.study._table import compare
from nh2st_graph.study._words import under_trained, verdict

from ..pages import Page

EVIL = "</script><img src=x onerror=alert(1)>&\"'"
ROLES = {
    EVIL: "method",
    "wide": "method",
    "broken": "method",
    "ridge": "baseline",
    "kNN": "baseline",
    "depth": "reference",
}
ROLES |= {"ceiling": "reference"}
GENES = ["ERBB2", "<b>GENE</b>", "MT-CO1", "</script>"]
SECTIONS = {"near": ["S1", "S2"], "far": ["S9"]}
FAILED = "section 'S1' <needs> positions & more"


def frames() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Made-up scores, per-gene scores and curves; ``broken`` has none, ``wide`` was still learning at its end."""
    rng = np.random.default_rng(0)
    place = [
        {"split": split, "variant": method, "fold": split, "section": section, "seed": seed}
        for split, sections in SECTIONS.items()
        for method, role in ROLES.items()
        for seed in (range(2) if role == "method" else [0])
        for section in sections
        if method != "broken"
    ]
    per_gene = pd.DataFrame([row | {"gene": gene} for row in place for gene in GENES])
    per_gene = per_gene.assign(pcc=rng.uniform(size=len(per_gene)), pcc_partial=0.1, ceiling=0.8)
    per_gene.loc[per_gene["variant"] == "depth", "pcc_partial"] = np.nan
    keys = list(place[0])
    scores = per_gene.groupby(keys, sort=False)[["pcc", "pcc_partial"]].mean().reset_index()
    scores = scores.rename(columns={"pcc": "pcc_mean"}).assign(fit_seconds=3.0, steps=100, moran_r=0.5, mse=1.0)
    per_gene.loc[per_gene["variant"] == "ceiling", "pcc"] = np.nan  # it has a column of its own
    epochs = pd.DataFrame({"epoch": range(1, 21), "step": range(10, 210, 10), "val_pcc": np.linspace(0, 0.2, 20)})
    curves = pd.concat(
        [
            epochs.assign(split=split, variant=method, fold=split, seed=0, stage="fold0", val_loss=loss)
            for split in SECTIONS
            for method, loss in ((EVIL, 1 + abs(epochs["epoch"] - 5)), ("wide", 2 - epochs["val_pcc"]))
        ]
    )
    return scores, per_gene, curves


def result_of(board: pd.DataFrame, per_gene: pd.DataFrame, curves: pd.DataFrame) -> StudyResult:
    config = Config().change({"data.panel": "some/<genes>", "train.max_epochs": 20})
    folds = tuple(Fold(split, ("S3",), tuple(names), split) for split, names in SECTIONS.items())
    study = Study("<up>", tuple(Variant(name, {}, config) for name in ROLES), folds, (0, 1), config)
    late = under_trained(study, curves)
    verdicts = {split: verdict(part, late.get(split, [])) for split, part in board.groupby("split", sort=False)}
    return StudyResult(study, board, "What it <means>.", verdicts, Results(board, per_gene, curves), {})


@pytest.fixture(scope="module")
def board() -> pd.DataFrame:
    scores, per_gene, _ = frames()
    reasons = {("broken", split): FAILED for split in SECTIONS}
    planned = {(name, split): 2 for split in SECTIONS for name in (EVIL, "wide", "broken")}
    return compare(scores, per_gene, ROLES, reasons=reasons, planned=planned)


@pytest.fixture(scope="module")
def source(board, tmp_path_factory) -> str:
    _, per_gene, curves = frames()
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert write_html(path, result_of(board, per_gene, curves)) == path
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source) -> Page:
    return Page(source)


def test_nothing_is_loaded_from_elsewhere(source, page):
    assert not re.findall(r"https?://|//[a-z]+\.|@import|url\(|@font-face", source)
    allowed = {"href": re.compile(r"#[a-z]+"), "src": re.compile("data:image/svg\\+xml;base64,")}
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert name not in allowed or allowed[name].match(value or ""), (tag, name)
            assert not name.startswith("on")
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_names_and_texts_are_data_not_markup(source, page):
    assert "<img src=x" not in source
    assert "<b>" not in source
    # two splits with a forest plot and curves each
    assert sum(tag == "img" for tag, _ in page.tags) == 4
    assert sum(tag == "script" for tag, _ in page.tags) == len(page.scripts) == 3
    assert EVIL in [row[0] for row in page.rows]
    assert "Benchmark <up>" in page.text
    assert "What it <means>." in page.text
    assert "<genes>" in page.text


def test_figures_are_whole_images_that_name_no_moment(page):
    for tag, attributes in page.tags:
        if tag == "img":
            image = base64.b64decode((attributes["src"] or "").partition("base64,")[2])
            assert ElementTree.fromstring(image).tag.endswith("svg")
            assert b"<dc:date>" not in image
            assert attributes["alt"]


def test_tables_are_those_of_the_leaderboard(page, board):
    for split in SECTIONS:
        for view in ("main", "scores", "costs", "downstream"):
            text = cells(board[board["split"] == split], view)
            rows = [[name, *row] for name, row in zip(text.index, text.to_numpy(), strict=True)]
            expected = [["method", *text.columns], *rows]
            found = [[cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in page.rows]
            at = [i for i in range(len(found)) if found[i : i + len(expected)] == expected]
            assert at, (split, view)
    assert any(row[:1] == ["broken"] and row[-1] == FAILED for row in page.rows)


def test_differences_are_marked_by_their_interval(board, source):
    for _, row in board[board["role"] == "method"].dropna(subset="pcc_mean_difference").iterrows():
        text = cells(board[board["split"] == row["split"]]).loc[row["variant"], "mean r: over the best baseline"]
        side = "above" if row["pcc_mean_low"] > 0 else "below" if row["pcc_mean_high"] < 0 else "level"
        whole = text.replace(", ", ",\N{NO-BREAK SPACE}")  # no line ends within an interval
        assert f'<td class="{side}">{whole}</td>' in source


def test_the_script_is_given_means_over_sections_of_what_was_scored_in_all(page):
    _, per_gene, _ = frames()
    (data,) = [json.loads(script) for script in page.scripts if script.startswith("{")]
    assert list(data) == list(SECTIONS)  # in order, not by name
    for split, found in data.items():
        assert sorted(found["genes"]) == sorted(GENES)
        assert found["ceiling"] == [0.8] * len(GENES)
        assert set(found["methods"]) == {*ROLES} - {"broken", "ceiling"}
        assert found["chosen"][0] in {EVIL, "wide"}
        assert found["chosen"][1] in {"ridge", "kNN"}
        here = per_gene[per_gene["split"] == split]
        for name, scores in found["methods"].items():
            means = here[here["variant"] == name].groupby("gene")["pcc"].mean()
            assert scores["pcc"] == pytest.approx(means[found["genes"]].tolist(), abs=6e-4)
        assert found["methods"]["depth"]["pcc_partial"] == [None] * len(GENES)


def test_methods_that_were_still_learning_are_named(page):
    assert page.text.count("was still improving on held-out training data") == len(SECTIONS)
    assert "when training ended: wide." in page.text
    assert "Without any result: broken." in page.text


def test_the_same_numbers_give_the_same_file(board, source, tmp_path):
    _, per_gene, curves = frames()
    again = write_html(tmp_path / "again.html", result_of(board, per_gene, curves))
    assert again.read_text(encoding="utf-8") == source


def test_a_report_of_nothing_but_failures_is_a_page(tmp_path: Path):
    scores, per_gene, curves = (table.iloc[:0] for table in frames())
    board = compare(scores, per_gene, ROLES, reasons={("broken", "near"): FAILED})
    path = write_html(tmp_path / "r.html", result_of(board, per_gene, curves))
    page = Page(path.read_text(encoding="utf-8"))
    assert "No scores of genes." in page.text
    assert "Not scored." in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert any(row[-1] == FAILED for row in page.rows)
