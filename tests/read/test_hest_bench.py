from __future__ import annotations

import json

import anndata as ad
import h5py
import numpy as np
import pytest

from nh2st_graph import DataError
from nh2st_graph.datasets import patients_of
from nh2st_graph.read import KNOWN_SAMPLES, hest_bench, published_splits, section_names, sections
from nh2st_graph.section import check_section, library
from tests.hest_bench import PUBLISHED, write_task

SMALL = {"TENX111": 30, "TENX147": 20, "TENX148": 20, "TENX149": 20}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NH2ST_GRAPH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def task(tmp_path):
    return write_task(tmp_path / "COAD", SMALL, n_features=8)


def test_sections_hold_the_spots_with_a_patch(task):
    found = sections("hest_bench", task)
    assert list(found) == section_names("hest_bench", task) == sorted(SMALL)
    for name, adata in found.items():
        assert check_section(adata, need=("genes", "image")) is adata
        stored = ad.read_h5ad(task / "adata" / f"{name}.h5ad")
        with h5py.File(task / "patches" / f"{name}.h5") as file:
            assert set(adata.obs_names) == {each.decode() for each in file["barcode"][:, 0]}
        np.testing.assert_array_equal(adata.X.toarray(), stored[adata.obs_names].X)
        assert library(adata).microns_per_pixel == pytest.approx(112 / 16)


def test_without_patches_there_is_no_image(tmp_path):
    task = write_task(tmp_path / "COAD", SMALL, parts=("adata", "splits"), n_features=8)
    adata = hest_bench(task, "TENX111")["TENX111"]
    assert check_section(adata, need=("genes",)).n_obs == SMALL["TENX111"]
    with pytest.raises(DataError):
        library(adata)


def test_known_patients_replace_the_published_ones(task):
    expected = {"TENX111": "test group 0", "TENX147": "CRC P5", "TENX148": "CRC P2", "TENX149": "CRC P1"}
    assert patients_of(hest_bench(task)) == expected
    (task / "ids.csv").write_text("sample_id,patient\nTENX147,mine\n")
    assert patients_of(hest_bench(task)) == {**expected, "TENX147": "mine"}


def test_samples_tested_together_are_held_out_together(tmp_path):
    task = write_task(tmp_path / "T", dict.fromkeys("ABC", 12), [("C", "AB"), ("AB", "C")], n_features=4)
    assert patients_of(hest_bench(task)) == {"A": "test group 0", "B": "test group 0", "C": "test group 1"}


def test_splits_as_published(task):
    assert published_splits(task) == PUBLISHED
    (task / "splits" / "README.txt").write_text("not a split")
    assert published_splits(task) == PUBLISHED


def test_known_samples_say_where_they_were_reported():
    assert KNOWN_SAMPLES["TENX128"].same_as == "TENX155"
    assert all("#" in each.source and each.sample == name for name, each in KNOWN_SAMPLES.items())
    assert json.dumps(KNOWN_SAMPLES)


def _remove(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda task: _remove(task / "adata"), ["no folder 'adata'"]),
        (lambda task: _remove(task / "splits"), ["no folder 'splits'", "train_0.csv"]),
        (lambda task: [path.unlink() for path in (task / "splits").iterdir()], ["splits has no train_0.csv"]),
        (lambda task: (task / "splits" / "test_1.csv").unlink(), ["test_1.csv is missing"]),
        (lambda task: [(task / "splits" / f"{side}_0.csv").unlink() for side in ("train", "test")], ["count from 0"]),
        (lambda task: (task / "splits" / "test_1.csv").write_text("id\nA\n"), ["test_1.csv", "no column sample_id"]),
        (lambda task: (task / "splits" / "test_1.csv").write_text(""), ["test_1.csv cannot be read"]),
        (lambda task: (task / "splits" / "test_1.csv").write_text("sample_id\n"), ["test_1.csv names no sample"]),
        (lambda task: (task / "adata" / "TENX148.h5ad").unlink(), ["TENX148", "data.root"]),
        (lambda task: (task / "adata" / "TENX148.h5ad").write_text("x"), ["TENX148", "cannot be read as h5ad"]),
        (lambda task: (task / "patches" / "TENX148.h5").write_text("x"), ["TENX148", "cannot be read as HDF5"]),
    ],
)
def test_a_missing_or_damaged_part_is_named(tmp_path, harm, words):
    task = write_task(tmp_path / "COAD", dict.fromkeys(SMALL, 9), n_features=4)
    harm(task)
    with pytest.raises(DataError) as raised:
        hest_bench(task)
    assert all(word in raised.value.at("key") for word in words)


def test_the_folder_of_all_tasks_is_told_from_one_task(task):
    with pytest.raises(DataError, match="COAD"):
        hest_bench(task.parent)
