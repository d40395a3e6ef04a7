"""Sections whose counts stay in their files: the same panel, graphs and predictions as in memory."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from anndata import AnnData

from nh2st_graph import read, tl
from nh2st_graph.section import copy_of, on_disk, section_digest
from nh2st_graph.train import Preparation

from ..prepared import complete_section


@pytest.fixture(scope="module")
def folder(few_spots, tiny_config, tmp_path_factory) -> Path:
    """The tiny sections with their features, in order of their names."""
    folder = tmp_path_factory.mktemp("backed")
    for name, section in few_spots.items():
        read.write_h5ad(complete_section(section, tiny_config), folder / f"{name}.h5ad")
    return folder


def stays_on_disk(section: AnnData) -> bool:
    return not hasattr(section.X, "copy")


@pytest.mark.parametrize("large", [False, True])
def test_a_preparation_is_that_of_sections_in_memory(folder, tiny_config, monkeypatch, large):
    if large:
        monkeypatch.setattr("nh2st_graph.train._prepare.LARGE", 1)
    whole, backed = (read.sections("h5ad", folder, backed=backed) for backed in (False, True))
    assert all(stays_on_disk(section) for section in backed.values())
    learned = [
        Preparation.learn(tiny_config, {n: given[n] for n in ("S1", "S2")}, {"S3": given["S3"]})
        for given in (whole, backed)
    ]
    assert learned[0].preparation.genes == learned[1].preparation.genes
    for expected, found in zip(learned[0].train + learned[0].tests, learned[1].train + learned[1].tests, strict=True):
        assert stays_on_disk(found.section)
        assert found.digest == expected.digest
        for key in ("x", "y", "counts", "library", "edge_index"):
            values = [each.measured[key] for each in (expected, found)]
            assert torch.equal(*(each if isinstance(each, torch.Tensor) else each[:] for each in values)), key


def test_a_prediction_and_its_scores(folder, tiny_run, few_spots):
    backed = ad.read_h5ad(folder / "S3.h5ad", backed="r")
    found, expected = (tl.predict(each, tiny_run.model) for each in (backed, few_spots["S3"]))
    np.testing.assert_array_equal(found[expected.obs_names].X, expected.X)
    np.testing.assert_array_equal(found[expected.obs_names].layers["observed"], expected.layers["observed"])
    assert backed.isbacked


def test_spots_in_another_order_are_read_into_memory(folder, tiny_config, tmp_path):
    section = ad.read_h5ad(folder / "S1.h5ad")
    section[::-1].copy().write_h5ad(tmp_path / "S1.h5ad")
    backed = read.h5ad_section(tmp_path / "S1.h5ad", backed=True)
    completed = complete_section(backed, tiny_config)
    assert not stays_on_disk(completed)
    assert (completed.X != section.X).nnz == 0


def test_a_copy_shares_what_is_on_disk_and_a_part_is_in_memory(folder):
    section = on_disk(ad.read_h5ad(folder / "S1.h5ad", backed="r"))
    assert not section.isbacked
    copied = copy_of(section)
    copied.obs["more"] = 1
    copied.uns["spatial"].clear()
    assert "more" not in section.obs
    assert section.uns["spatial"]
    assert stays_on_disk(copied)
    part = section[3:8].copy()
    assert not stays_on_disk(part)
    read.write_h5ad(section, folder / "again" / "S1.h5ad")
    assert section_digest(read.h5ad_section(folder / "again" / "S1.h5ad")) == section_digest(section)
