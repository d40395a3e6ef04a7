from __future__ import annotations

import datetime
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from nh2st_graph import DataError
from nh2st_graph.read import write_h5ad, write_spatialdata

#: What the oldest anndata that the package allows can read.
READABLE = {
    "anndata",
    "dict",
    "array",
    "string",
    "string-array",
    "numeric-scalar",
    "categorical",
    "nullable-integer",
    "nullable-boolean",
    "dataframe",
    "csr_matrix",
    "csc_matrix",
    "rec-array",
    "raw",
}


@pytest.fixture
def section() -> AnnData:
    """One section with whatever analyses leave in an AnnData."""
    n = 4
    obs = pd.DataFrame(
        {
            "section": pd.Categorical(["A1"] * n),
            "patient": pd.Categorical(["P"] * n),
            "text": pd.array(["a", "b", "a", "c"], dtype="string"),
            "gaps": pd.array(["a", None, "a", pd.NA], dtype="string"),
            "mixed": [1, "x", None, 2.5],
            "flags": [True, None, False, True],
            "whole": pd.array([1, None, 3, 4], dtype="Int64"),
            "real": pd.array([1.5, None, 3, 4], dtype="Float64"),
            "arrow": pd.array([1, None, 3, 4], dtype="int64[pyarrow]"),
            "arrow_text": pd.array(["a", None, "b", "b"], dtype="string[pyarrow]"),
            "arrow_flag": pd.array([True, None, False, True], dtype="bool[pyarrow]"),
            "sparse": pd.arrays.SparseArray([0.0, 0.0, 1.0, 0.0]),
            "span": pd.interval_range(0, 4),
            "when": pd.to_datetime(["2024-01-01"] * n),
            "of_text": pd.Categorical(pd.array(["u", "v", "u", "u"], dtype="string")),
            "of_times": pd.Categorical(pd.to_datetime(["2024-01-01"] * n)),
            5: [1.0] * n,
        },
        index=pd.Index(pd.array([f"s{i}" for i in range(n)], dtype="string"), name="barcode"),
    )
    var = pd.DataFrame({"name": pd.array(["g", None, "h"], dtype="string")}, index=list("ABC"))
    adata = AnnData(sparse.csr_matrix(np.ones((n, 3), np.float32)), obs=obs, var=var)
    adata.obsm["spatial"] = np.arange(8.0).reshape(4, 2)
    adata.obsm["table"] = pd.DataFrame({"t": pd.array(list("abca"), dtype="string")}, index=adata.obs_names)
    adata.layers["counts"] = adata.X.copy()
    adata.uns = {
        "spatial": {"A1": {"images": {}, "scalefactors": {"spot_diameter_fullres": 1.0}, "metadata": {}}},
        "spatial_neighbors": {"params": {"n_neighbors": 6, "transform": None, "radius": None}},
        "tuple": (1, 2),
        "words": ("a", "b"),
        "set": {"b", "a"},
        "none": None,
        "path": Path("a/b"),
        "day": datetime.date(2024, 1, 1),
        3: {4: "four"},
        "gaps": [1, None],
        "nested": [{"a": 1}, {"b": None}],
        "pandas": pd.array(["a", "b"], dtype="string"),
        "pandas_gaps": pd.array(["a", None], dtype="string"),
        "numpy": np.array(["a", "b"], dtype=np.dtypes.StringDType()),
        "series": pd.Series(["a", "b"], dtype="string"),
        "frame": pd.DataFrame({"a": pd.array(["x", None], dtype="string")}),
    }
    return adata


def encodings(path: Path) -> set[str]:
    with h5py.File(path) as file:
        found = {file.attrs["encoding-type"]}
        file.visititems(lambda _, item: found.add(item.attrs.get("encoding-type", "no encoding")))
    return found


@pytest.mark.filterwarnings("ignore")
class TestWhatIsWritten:
    def test_has_forms_that_every_anndata_reads(self, section, tmp_path):
        write_h5ad(section, tmp_path / "A1.h5ad")
        with h5py.File(tmp_path / "A1.h5ad") as file:
            # Parts of a column (codes, values, mask) and of a sparse matrix have encodings of their own or none.
            assert "transform" not in file["uns/spatial_neighbors/params"]
        assert encodings(tmp_path / "A1.h5ad") - {"no encoding"} <= READABLE

    def test_has_the_values(self, section, tmp_path):
        write_h5ad(section, tmp_path / "A1.h5ad")
        found = ad.read_h5ad(tmp_path / "A1.h5ad")
        assert list(found.obs_names) == ["s0", "s1", "s2", "s3"]
        assert list(found.obs["text"]) == list("abac")
        assert found.obs["gaps"].isna().tolist() == [False, True, False, True]
        assert list(found.obs["mixed"].astype(object).iloc[[0, 1, 3]]) == ["1", "x", "2.5"]
        assert found.obs["whole"].isna().tolist() == [False, True, False, False]
        assert next(iter(found.obs["when"])).startswith("2024-01-01")
        assert found.obs["real"].isna().tolist() == found.obs["arrow"].isna().tolist() == [False, True, False, False]
        assert found.obs["sparse"].tolist() == [0, 0, 1, 0]
        assert list(found.uns["pandas_gaps"]) == ["a", ""]
        assert list(found.uns["numpy"]) == ["a", "b"]
        assert "5" in found.obs
        assert found.uns["spatial_neighbors"]["params"] == {"n_neighbors": 6}
        assert list(found.uns["tuple"]) == [1, 2]
        assert list(found.uns["words"]) == ["a", "b"]
        assert list(found.uns["set"]) == ["a", "b"]
        assert found.uns["3"] == {"4": "four"}
        assert "none" not in found.uns
        assert (found.uns["path"], found.uns["day"]) == ("a/b", "2024-01-01")
        np.testing.assert_array_equal(found.uns["gaps"], [1, np.nan])
        assert found.uns["nested"]["0"] == {"a": 1}
        np.testing.assert_array_equal(found.layers["counts"].toarray(), section.X.toarray())

    def test_leaves_what_was_given(self, section, tmp_path):
        write_h5ad(section, tmp_path / "A1.h5ad")
        assert section.uns["tuple"] == (1, 2)
        assert section.obs["text"].dtype == "string"

    def test_a_store(self, section, tmp_path):
        import json

        section.uns["spatial"]["A1"]["metadata"] = {"microns_per_pixel": 1.0}
        write_spatialdata(section, tmp_path / "A1.zarr")
        found = {
            json.loads(path.read_text()).get("attributes", {}).get("encoding-type", "dict")
            for path in (tmp_path / "A1.zarr" / "tables" / "table").rglob("zarr.json")
            if path.parent.name != "raw"  # null is what anndata itself writes there, and zarr 3 needs anndata 0.12
        }
        assert found <= READABLE

    def test_raw_and_a_backed_file(self, section, tmp_path):
        section.raw = section.copy()
        write_h5ad(section, tmp_path / "A1.h5ad")
        write_h5ad(ad.read_h5ad(tmp_path / "A1.h5ad", backed="r"), tmp_path / "A2.h5ad")
        assert ad.read_h5ad(tmp_path / "A2.h5ad").raw.shape == (4, 3)
        assert encodings(tmp_path / "A2.h5ad") - {"no encoding"} <= READABLE


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: a.uns.update(model=object()), r"uns\['model'\] holds a object"),
        (lambda a: a.uns.update(deep={"f": [len]}), r"uns\['deep'\]\['f'\] holds a builtin"),
        (lambda a: a.uns.update({7: 1, "7": 2}), "have one name as text"),
        (lambda a: a.obs.__setitem__("things", [object()] * 4), r"obs\['things'\] holds a object"),
    ],
)
def test_what_has_no_form_is_refused_by_name(section, tmp_path, spoil, message):
    spoil(section)
    with pytest.raises(DataError, match=message) as error:
        write_h5ad(section, tmp_path / "A1.h5ad")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
