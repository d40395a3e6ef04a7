"""What is predicted, into the section that was measured, under a key of one's own."""

from __future__ import annotations

import anndata as ad
import pandas as pd
import pytest
import squidpy as sq
from numpy.testing import assert_array_equal

from nh2st_graph import DataError, tl


def test_takes_a_table_of_genes(tiny_run, tiny_sections, tmp_path):
    section, expected = tiny_sections["S3"].copy(), tl.predict(tiny_sections["S3"], tiny_run.model)
    before = section.copy()
    prediction = tl.predict(section, tiny_run.model, key_added="mine")
    assert_array_equal(prediction.X, expected.X)
    prediction.X[:] = 0  # which is not the section's
    prediction.uns["nh2st_prediction"].clear()
    pd.testing.assert_frame_equal(section.obsm["mine"], expected.to_df())
    assert section.uns["mine"]["train_sections"] == ["S1", "S2"]
    assert (section.X != before.X).nnz == 0, "what was measured stays"
    assert section.var.equals(before.var)
    assert set(section.obsm) == {*before.obsm, "mine"}
    assert set(section.uns) == {*before.uns, "mine"}
    drawn = sq.pl.extract(section, "mine", prefix="predicted")
    gene = tiny_run.model.genes[0]
    assert_array_equal(drawn.obs[f"predicted_{gene}"], expected.obs_vector(gene))
    section.write_h5ad(tmp_path / "S3.h5ad")
    again = ad.read_h5ad(tmp_path / "S3.h5ad").obsm["mine"]
    pd.testing.assert_frame_equal(again, section.obsm["mine"], check_names=False)


def test_decides_no_later_prediction(tiny_run, tiny_sections):
    section, model = tiny_sections["S3"].copy(), tiny_run.model
    expected = tl.predict(section, model, key_added="mine").X
    section.obsm["mine"] += 1
    assert_array_equal(tl.predict(section, model).X, expected)


@pytest.mark.parametrize("key", ["spatial", "X_image", "nh2st_prediction"])
def test_is_no_key_of_something_else(tiny_run, tiny_sections, key):
    section = tiny_sections["S3"].copy()
    with pytest.raises(DataError, match=f"key_added='{key}' is the key of something else"):
        tl.predict(section, tiny_run.model, key_added=key)
    assert set(section.obsm) == set(tiny_sections["S3"].obsm)
