"""Categories for Loupe, and one table with everything, read by pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import nh2st_graph as ng
from nh2st_graph import DataError


def test_loupe_has_a_barcode_and_categories(prediction, tmp_path):
    prediction.obs["call"] = pd.Categorical(["high", None, *["low"] * (prediction.n_obs - 2)])
    ng.write_loupe(prediction, tmp_path / "new" / "S3.csv")
    found = pd.read_csv(tmp_path / "new" / "S3.csv")
    best, other = prediction.var_names[:2]
    assert list(found) == ["Barcode", "familiarity to the model", best, "domain", "call"]
    assert list(found["Barcode"]) == list(prediction.obs_names)
    assert list(found[best]) == list(ng.tl.call(prediction, best))
    assert (tmp_path / "new" / "S3.csv").read_text().splitlines()[2].endswith(",")
    for given, columns in (
        ({"class_by": "call"}, ["call"]),
        ({"class_by": ["call", "domain"], "genes": [other]}, [other, "call", "domain"]),
        ({"class_by": [], "genes": "reliable"}, [best]),
    ):
        ng.write_loupe(prediction, tmp_path / "some.csv", **given)
        assert list(pd.read_csv(tmp_path / "some.csv")) == ["Barcode", *columns]


def test_loupe_takes_no_numbers_and_no_nothing(prediction, tmp_path):
    for columns, says in (
        ("familiarity", "holds numbers"),
        ("nope", "class_by='nope' is no column"),
        ([], "nothing to write for Loupe"),
    ):
        with pytest.raises(DataError, match=says):
            ng.write_loupe(prediction, tmp_path / "S3.csv", class_by=columns)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["S3.csv", "S3.csv.gz"])
def test_the_table_has_all_of_it(prediction, tmp_path, name):
    ng.write_csv(prediction, tmp_path / name)
    found = pd.read_csv(tmp_path / name, index_col="spot")
    assert list(found.index) == list(prediction.obs_names)
    assert_allclose(found[["x", "y"]], prediction.obsm["spatial"])
    assert_allclose(found[list(prediction.var_names)], prediction.X, rtol=1e-6)
    assert np.isnan(found[prediction.var_names[-1]]).all()
    assert_allclose(found[f"{prediction.var_names[0]} lower"], prediction.layers["lower"][:, 0], rtol=1e-6)
    assert set(prediction.obs) <= set(found)


def test_the_table_has_the_genes_that_are_named(prediction, tmp_path):
    ng.write_csv(prediction, tmp_path / "S3.csv", genes=prediction.var_names[1])
    found = set(pd.read_csv(tmp_path / "S3.csv"))
    assert {*prediction.var_names} & found == {prediction.var_names[1]}


def test_two_columns_of_one_name_are_refused(prediction, tmp_path):
    prediction.obs[prediction.var_names[0]] = 1.0
    with pytest.raises(DataError, match=f"would be named '{prediction.var_names[0]}'"):
        ng.write_csv(prediction, tmp_path / "S3.csv")


def test_loupe_never_takes_a_column_for_the_calls_of_a_gene(prediction, tmp_path):
    gene = prediction.var_names[0]
    prediction.obs[gene] = "mine"
    with pytest.raises(DataError, match=f"would be named '{gene}'"):
        ng.write_loupe(prediction, tmp_path / "S3.csv", genes=[gene])
    ng.write_loupe(prediction, tmp_path / "S3.csv")
    assert set(pd.read_csv(tmp_path / "S3.csv")[gene]) == {"mine"}
    ng.write_loupe(prediction, tmp_path / "S3.csv", genes=[gene], class_by="section")
    assert set(pd.read_csv(tmp_path / "S3.csv")[gene]) <= {"high", "low", "not called"}


@pytest.mark.parametrize("write", [ng.write_csv, ng.write_qupath, ng.write_seurat], ids=lambda each: each.__name__)
def test_a_prediction_without_positions_is_refused_and_nothing_written(prediction, tmp_path, write):
    del prediction.obsm["spatial"]
    with pytest.raises(DataError, match=r"section 'S3': obsm\['spatial'\] is missing"):
        write(prediction, tmp_path / "S3")
    assert not list(tmp_path.iterdir())
