"""GeoJSON for QuPath, read by geopandas."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import nh2st_graph as ng
from nh2st_graph import DataError
from nh2st_graph.slide import scan_origin


@pytest.fixture
def write(prediction, tmp_path):
    def write(**options) -> geopandas.GeoDataFrame:
        ng.write_qupath(prediction, tmp_path / "new" / "S3.geojson", **options)
        return geopandas.read_file(tmp_path / "new" / "S3.geojson")

    return write


def test_every_spot_is_a_circle_where_it_lies(write, prediction):
    table = write()
    assert set(table["objectType"]) == {"detection"}
    assert list(table["name"]) == list(prediction.obs_names)
    assert table["id"].is_unique
    corners = [np.asarray(shape.exterior.coords) for shape in table.geometry]
    centres = np.array([each[:-1].mean(axis=0) for each in corners])
    assert_allclose(centres, prediction.obsm["spatial"], atol=0.01)
    radius = prediction.uns["spatial"]["S3"]["scalefactors"]["spot_diameter_fullres"] / 2
    assert_allclose(np.linalg.norm(corners[0] - prediction.obsm["spatial"][0], axis=1), radius, atol=0.01)


def test_measurements_are_genes_intervals_familiarity_and_resolution(write, prediction, caplog):
    found = pd.DataFrame(list(write()["measurements"]), index=prediction.obs_names)
    genes, missing = list(prediction.var_names[:-1]), prediction.var_names[-1]
    assert_allclose(found[genes], prediction.X[:, :-1], rtol=1e-4)
    assert_allclose(found[[f"{gene} upper" for gene in genes]], prediction.layers["upper"][:, :-1], rtol=1e-4)
    assert_allclose(found["familiarity"], prediction.obs["familiarity"], rtol=1e-4)
    assert set(found["um per px"]) == {prediction.uns["spatial"]["S3"]["metadata"]["microns_per_pixel"]}
    assert not [name for name in found if name.startswith(missing)]
    assert f"cannot hold NaN: {missing}" in caplog.text
    assert not {"array_row", "array_col"} & set(found)


def test_numbers_that_are_not_known_are_left_out_of_valid_json(write, prediction, tmp_path):
    prediction.obs["quality"] = np.where(np.arange(prediction.n_obs) == 0, np.nan, 1.0)
    measured = write()["measurements"]
    assert "quality" not in measured[0]
    assert measured[1]["quality"] == 1.0
    json.loads((tmp_path / "new" / "S3.geojson").read_text(), parse_constant=pytest.fail)


def test_is_coloured_by_the_best_reliable_gene_or_what_is_named(write, prediction, tmp_path):
    def order(values: np.ndarray, table: geopandas.GeoDataFrame) -> bool:
        # viridis grows lighter
        light = np.array([np.dot(colour, (0.3, 0.6, 0.1)) for colour in table["color"]])
        return bool(np.corrcoef(values, light)[0, 1] > 0.8)

    assert order(prediction.X[:, 0], write())
    about = json.loads((tmp_path / "new" / "S3.geojson").read_text())["nh2st_graph"]
    assert about["color_by"] == prediction.var_names[0]
    assert "log1p" in about["values"]
    assert order(prediction.X[:, 2], write(color_by=prediction.var_names[2]))
    prediction.var["reliable"] = False
    assert order(prediction.obs["familiarity"].to_numpy(), write())
    with pytest.raises(DataError, match="color_by='nope'"):
        write(color_by="nope")


def test_classes_have_names_and_colours(write, prediction):
    prediction.obs["annotation"] = pd.Categorical(["Tumor", None] + ["Stroma"] * (prediction.n_obs - 2))
    table = write()
    classes = table["classification"]
    assert classes[0]["name"] == "Tumor"
    assert pd.isna(classes[1])
    assert len({tuple(each["color"]) for each in classes.dropna()}) == 2
    assert "color" in table
    table = write(class_by="domain")
    assert [each["name"] for each in table["classification"]] == list(prediction.obs["domain"])
    assert "color" not in table
    with pytest.raises(DataError, match="class_by='nope'"):
        write(class_by="nope")
    with pytest.raises(DataError, match=r"class_by='familiarity': .* holds numbers"):
        write(class_by="familiarity")


def test_classes_are_calls_of_the_best_gene_or_familiarity(write, prediction):
    best = prediction.var_names[0]
    names = [each["name"] for each in write()["classification"]]
    assert names == [f"{best} {word}" for word in ng.tl.call(prediction, best)]
    prediction.var["reliable"] = False
    assert {each["name"] for each in write()["classification"]} <= {"like training", "unlike training"}


@pytest.mark.parametrize("name", ["{gene}", "{gene} upper", "um per px"])
def test_two_measurements_of_one_name_are_refused(write, prediction, name):
    name = name.format(gene=prediction.var_names[1])
    prediction.obs[name] = 1.0
    with pytest.raises(DataError, match=f"would be named '{name}'"):
        write()


def test_some_genes_and_none(write, prediction, tmp_path):
    gene = prediction.var_names[1]
    assert {name for each in write(genes=[gene])["measurements"] for name in each} >= {gene, f"{gene} lower"}
    for genes, says in (
        ([], "genes is empty"),
        (["nope"], "'nope'"),
        ([prediction.var_names[-1]], "no gene has a value"),
    ):
        before = (tmp_path / "new" / "S3.geojson").read_bytes()
        with pytest.raises(DataError, match=says):
            write(genes=genes)
        assert (tmp_path / "new" / "S3.geojson").read_bytes() == before


def test_numbers_are_rounded_as_text_is(write, prediction):
    values = [0.0, 1e-9, -3.14159265, 123456.789, 1e12, 0.1 + 0.2]
    prediction.obs["mine"] = np.resize([*values, np.nan, -5e-324], prediction.n_obs)
    *found, missing, tiny = (each.get("mine") for each in write()["measurements"][:8])
    assert found == pytest.approx([float(f"{value:.5g}") for value in values], rel=1e-15)
    assert (missing, tiny) == (None, 0)


def test_a_writer_that_is_interrupted_leaves_nothing(prediction, tmp_path, monkeypatch):
    def interrupted(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("nh2st_graph.write._qupath.uuid.uuid5", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ng.write_qupath(prediction, tmp_path / "S3.geojson")
    assert not list(tmp_path.iterdir())


def test_coordinates_count_as_qupath_counts(write, prediction, monkeypatch):
    """From the corner of what was scanned, where the scanner's file says it."""
    monkeypatch.setattr("nh2st_graph.section._library.scan_origin", lambda source: (100, 50))
    left, top, *_ = write().total_bounds
    radius = prediction.uns["spatial"]["S3"]["scalefactors"]["spot_diameter_fullres"] / 2
    expected = prediction.obsm["spatial"].min(axis=0) - radius - (100, 50)
    assert_allclose((left, top), expected, atol=0.01)


def test_an_image_that_is_gone_counts_from_its_corner(tmp_path):
    assert scan_origin(Path(tmp_path / "gone.mrxs")) == (0, 0)
