from __future__ import annotations

from dataclasses import replace

import pandas as pd
from PIL import Image

from nh2st_graph.study import Fold, explanation
from nh2st_graph.study._report import write_reports


def test_tables_hold_the_numbers(finished):
    result, folder, _ = finished
    table = pd.read_csv(folder / "table.csv", keep_default_na=False, na_values=[""])
    numbers = result.table.select_dtypes("number").columns
    pd.testing.assert_frame_equal(table[numbers], result.table[numbers], check_dtype=False, rtol=1e-5)
    assert list(table["variant"]) == list(result.table["variant"])
    scores = pd.read_csv(folder / "scores.csv")
    pd.testing.assert_frame_equal(scores, result.results.scores, check_dtype=False, rtol=1e-5)


def test_markdown_says_what_the_numbers_are_and_what_failed(tiny_study, finished):
    text = (finished[1] / "table.md").read_text()
    assert text.startswith("# tiny\n\nMeans and standard deviations over sections and seeds (0, 1).")
    assert explanation(tiny_study) in text
    assert explanation(tiny_study).endswith("With one test section the interval is over genes alone.")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:5]] == ["base", "no neighbours", "no panel"]
    assert len({row.count("|") for row in rows}) == 1
    assert "\nFailed:\n\n- no panel, S3, seed 0: gene panel " in text


def test_the_figure_is_a_image(finished):
    with Image.open(finished[1] / "forest.png") as image:
        assert min(image.size) > 200


def test_splits_are_parts_and_a_line_in_a_name_ends_no_cell(tiny_study, finished, tmp_path):
    result = finished[0]
    twice = pd.concat([result.table.assign(split=split) for split in ("near", "far")])
    twice["variant"] = twice["variant"].replace("no neighbours", "a|b")
    folds = (Fold("near", ("S1",), ("S2", "S3"), "near"), Fold("far", ("S2",), ("S1",), "far"))
    study = replace(tiny_study, folds=folds)
    written = write_reports(study, twice, result.results, {}, tmp_path)
    assert [path.name for path in written] == ["table.md", "table.csv", "scores.csv", "forest.png"]
    text = (tmp_path / "table.md").read_text()
    assert text.index("## near") < text.index("## far")
    assert r"| a\|b |" in text
    assert "Failed" not in text
    assert "With one test section (far) the interval" in text
    with Image.open(tmp_path / "forest.png") as wide, Image.open(finished[1] / "forest.png") as narrow:
        assert wide.width > 1.4 * narrow.width


def test_without_a_difference_there_is_no_figure(tiny_study, finished, tmp_path):
    result = finished[0]
    (tmp_path / "forest.png").write_text("of before")
    alone = result.table[result.table["role"] == "base"]
    assert len(write_reports(tiny_study, alone, result.results, {}, tmp_path)) == 3
    assert not (tmp_path / "forest.png").exists()
