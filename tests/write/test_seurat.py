"""A folder in Cell Ranger's layout, read by scanpy and by this package's own reader of Space Ranger's files."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from numpy.testing import assert_allclose
from PIL import Image

import nh2st_graph as ng
from nh2st_graph import RunError
from nh2st_graph.read._tenx import read_tenx


@pytest.fixture
def folder(prediction, tmp_path):
    ng.write_seurat(prediction, tmp_path / "new" / "S3_10x")
    return tmp_path / "new" / "S3_10x"


def test_scanpy_and_our_reader_read_the_values(folder, prediction):
    found = sc.read_10x_mtx(folder)
    assert list(found.obs_names) == list(prediction.obs_names)
    assert list(found.var_names) == list(prediction.var_names[:-1])
    assert_allclose(found.X.toarray(), prediction.X[:, :-1], rtol=1e-5)
    own = read_tenx(folder, "S3")
    assert_allclose(own.matrix.toarray(), prediction.X[:, :-1], rtol=1e-5)
    assert list(own.barcodes) == list(prediction.obs_names)


def test_says_that_values_are_not_counts_and_names_what_is_missing(folder, prediction):
    said = (folder / "README.txt").read_text()
    assert "NOT COUNTS" in said
    assert f'SpatialFeaturePlot(object, "{prediction.var_names[0]}")' in said
    prediction.var["reliable"] = prediction.var_names == prediction.var_names[2]
    ng.write_seurat(prediction, folder)
    assert f'SpatialFeaturePlot(object, "{prediction.var_names[2]}")' in (folder / "README.txt").read_text()
    assert f"Not written: {prediction.var_names[-1]} " in said
    with gzip.open(folder / "matrix.mtx.gz", "rt") as file:
        assert "not counts" in file.read(200)


def test_coordinates_and_images_are_as_space_ranger_has_them(folder, prediction):
    at = pd.read_csv(folder / "spatial" / "tissue_positions.csv", index_col="barcode")
    assert list(at.index) == list(prediction.obs_names)
    assert_allclose(at[["pxl_col_in_fullres", "pxl_row_in_fullres"]], prediction.obsm["spatial"], atol=0.01)
    assert (at["array_row"] == prediction.obs["array_row"]).all()
    assert set(at["in_tissue"]) == {1}
    factors = json.loads((folder / "spatial" / "scalefactors_json.json").read_text())
    entry = prediction.uns["spatial"]["S3"]
    assert factors["spot_diameter_fullres"] == entry["scalefactors"]["spot_diameter_fullres"]
    for size, key in (("hires", "tissue_hires_scalef"), ("lowres", "tissue_lowres_scalef")):
        with Image.open(folder / "spatial" / f"tissue_{size}_image.png") as image:
            full = np.array(entry["images"]["hires"].shape[1::-1]) / entry["scalefactors"]["tissue_hires_scalef"]
            assert_allclose(image.size, full * factors[key], atol=1)
    assert max(image.size) <= 600


def test_tables_say_what_is_known_of_spots_and_genes(folder, prediction):
    assert list(pd.read_csv(folder / "genes.csv")["reliable"]) == list(prediction.var["reliable"][:-1])
    assert_allclose(pd.read_csv(folder / "spots.csv")["familiarity"], prediction.obs["familiarity"])


def test_the_same_prediction_gives_the_same_bytes(folder, prediction, tmp_path):
    ng.write_seurat(prediction, tmp_path / "again" / "S3_10x")
    for path in (each for each in folder.rglob("*") if each.is_file()):
        assert path.read_bytes() == (tmp_path / "again" / "S3_10x" / path.relative_to(folder)).read_bytes(), path


def test_without_image_and_array_positions_are_blank(prediction, tmp_path):
    del prediction.obs["array_row"], prediction.obs["array_col"]
    del prediction.uns["spatial"]["S3"]["images"]
    ng.write_seurat(prediction, tmp_path / "S3_10x")
    assert not list((tmp_path / "S3_10x" / "spatial").glob("*.png"))
    assert pd.read_csv(tmp_path / "S3_10x" / "spatial" / "tissue_positions.csv")["array_row"].isna().all()


def test_a_folder_of_its_own_is_replaced_and_another_kept(folder, prediction):
    ng.write_seurat(prediction, folder, genes=prediction.var_names[:1])
    assert sc.read_10x_mtx(folder).n_vars == 1
    (folder / "mine.txt").touch()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(RunError, match="S3_10x exists, and is no folder that this function wrote"):
        ng.write_seurat(prediction, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("scale", [1, 1 / 255])
def test_pixels_of_other_types_are_the_same(folder, prediction, scale):
    expected = (folder / "spatial" / "tissue_hires_image.png").read_bytes()
    images = prediction.uns["spatial"]["S3"]["images"]
    images["hires"] = images["hires"].astype(np.int32) * scale
    ng.write_seurat(prediction, folder)
    assert (folder / "spatial" / "tissue_hires_image.png").read_bytes() == expected


def test_a_link_to_such_a_folder_is_replaced(folder, prediction, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    ng.write_seurat(prediction, tmp_path / "link", genes=prediction.var_names[:1])
    assert sc.read_10x_mtx(tmp_path / "link").n_vars == 1
    assert sc.read_10x_mtx(folder).n_vars == prediction.n_vars - 1


def test_one_that_is_interrupted_leaves_nothing(prediction, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nh2st_graph.write._seurat._write_positions", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ng.write_seurat(prediction, tmp_path / "S3_10x")
    assert not list(tmp_path.iterdir())
