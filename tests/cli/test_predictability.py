"""The command that says which genes can be read: what it reads, writes, says and refuses."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from nh2st_graph import read

from ..tl.test_predictability import tissue

QUICK = [
    part
    for key, value in {
        "features.embeddings": "obsm:X_made",
        "data.panel": "hvg:12",
        "train.threads": 1,
    }.items()
    for part in ("--set", f"{key}={value}")
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two sections, a folder of h5ad as ``prepare`` writes them."""
    folder = tmp_path_factory.mktemp("sections")
    for i, name in enumerate(("A", "B")):
        read.write_h5ad(tissue(name, i, "P"), folder / f"{name}.h5ad")
    return folder


def test_reads_files_and_writes_a_table_a_figure_and_words(accept, files, tmp_path):
    said = accept("predictability", files / "A.h5ad", files / "B.h5ad", "--out", tmp_path / "out", *QUICK)
    genes = pd.read_csv(tmp_path / "out" / "predictability.csv", index_col="gene")
    assert len(genes) == 12
    assert f"{genes['readable'].sum()} of 12 genes can be read from these images" in said
    assert "2 sections of 1 patient" in said
    written = {"predictability.csv", "predictability.png"} | ({"readable.txt"} if genes["readable"].any() else set())
    assert {each.name for each in (tmp_path / "out").iterdir()} == written
    assert str(tmp_path / "out" / "predictability.png") in said


def test_reads_a_folder_and_the_training_sections_of_a_configuration_alike(accept, files, tmp_path, config):
    said = accept("predictability", files, "--out", tmp_path / "a", *QUICK, "--json", "--quiet")
    found, _ = json.JSONDecoder().raw_decode(said)  # warnings follow
    assert set(found["readable_genes"]) <= set(found["genes"])
    assert len(found["genes"]) == 12
    read.write_h5ad(tissue("T", 9, "P"), files / "T.h5ad")
    of_config = ["--set", f"data.root={files}", "--set", "data.test=[T]"]
    accept("predictability", config, "--out", tmp_path / "b", *of_config, *QUICK)
    (files / "T.h5ad").unlink()
    tables = [(tmp_path / name / "predictability.csv").read_text() for name in "ab"]
    assert tables[0] == tables[1]


class TestRefuses:
    def test_an_output_that_is_there(self, refuse, files, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "predictability.csv").write_text("kept")
        assert "--out" in refuse("predictability", files, "--out", tmp_path / "out")

    def test_a_path_that_is_not_there(self, refuse, tmp_path):
        assert "none.h5ad" in refuse("predictability", tmp_path / "none.h5ad", "--out", tmp_path / "out")

    def test_a_configuration_beside_files(self, refuse, files, config, tmp_path):
        assert "alone" in refuse("predictability", config, files / "A.h5ad", "--out", tmp_path / "out")

    def test_names_of_sections_that_are_given_as_files(self, refuse, files, tmp_path):
        said = refuse("predictability", files, "--out", tmp_path / "out", "--set", "data.train=[A]")
        assert "data.train" in said

    def test_a_configuration_without_a_folder(self, refuse, config, tmp_path):
        assert "--set data.root" in refuse("predictability", config, "--out", tmp_path / "out")

    def test_options_of_files_with_a_configuration(self, refuse, config, files, tmp_path):
        of_config = ["--set", f"data.root={files}", "--library-key", "section"]
        said = refuse("predictability", config, "--out", tmp_path / "out", *of_config)
        assert "--library-key" in said

    def test_a_panel_that_is_not_there(self, refuse, files, tmp_path):
        panel = f"data.panel={tmp_path / 'none.txt'}"
        assert "none.txt" in refuse("predictability", files, "--out", tmp_path / "out", "--set", panel)
