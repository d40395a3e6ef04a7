"""Synthetic Visium HD folders: what they hold, and that the readers of other packages read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData

from nh2st_graph import ConfigError, DataError
from nh2st_graph.datasets import synthetic_hd
from nh2st_graph.datasets._stain import draw_stain, render
from nh2st_graph.datasets._synthetic_hd import _strips
from nh2st_graph.datasets._tissue import grow_lattice
from nh2st_graph.im import check_placement
from nh2st_graph.read import sections, visium_hd_section
from nh2st_graph.section import check_section, library
from nh2st_graph.slide import open_slide

N_BINS = 900


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hd")
    synthetic_hd(N_BINS, folder, n_sections=2, n_own=60, n_noise=40)
    return folder


@pytest.fixture(scope="module")
def section(folder: Path) -> AnnData:
    return visium_hd_section(folder / "H1", 8)


def test_our_reader_finds_what_was_asked_for(section):
    assert section.shape == (N_BINS, 100)
    assert check_section(section, need=("genes", "image")) is section
    check_placement(section)
    depth = np.asarray(section.X.sum(axis=1))
    assert depth.min() >= 100
    assert depth.max() <= 300
    assert library(section).microns_per_pixel == 1.0
    assert library(section).source.endswith("H1/tissue_image.tif")
    assert set(section.obs["patient"]) == {"P1"}


def test_all_sections_are_read_at_once_and_share_genes(folder, section):
    found = sections("visium_hd", folder, bin_um=8)
    assert list(found) == ["H1", "H2"]
    assert list(found["H2"].var_names) == list(section.var_names)
    np.testing.assert_array_equal(found["H1"].X.toarray(), section.X.toarray())
    assert (found["H2"].obs["patient"] == "P2").all()
    means = [each.X.mean(axis=0) for each in found.values()]
    assert 0.8 < np.corrcoef(*np.vstack(means))[0, 1] < 1  # the same genes in other tissue


def test_positions_hold_the_whole_square_and_counts_the_tissue(folder, section):
    bins = folder / "H1" / "outs" / "binned_outputs" / "square_008um"
    positions = pd.read_parquet(bins / "spatial" / "tissue_positions.parquet").set_index("barcode")
    side = positions["array_row"].max() + 1
    assert len(positions) == side**2 > N_BINS
    counts = sc.read_10x_h5(bins / "filtered_feature_bc_matrix.h5")
    assert set(counts.obs_names) == set(positions.index[positions["in_tissue"] == 1])
    np.testing.assert_array_equal(counts[section.obs_names].X.toarray(), section.X.toarray())
    with open_slide(folder / "H1" / "tissue_image.tif") as slide:
        assert slide.sizes == [(8 * side, 8 * side), (2 * side, 2 * side)]
        assert slide.microns_per_pixel == pytest.approx(1.0)


def test_genes_follow_the_image_or_not(section):
    hires = library(section).hires.mean(axis=2)
    x, y = (section.obsm["spatial"] / 4).astype(int).T
    bright = np.log(hires[y, x])
    shares = section.X.toarray() / np.asarray(section.X.sum(axis=1))
    related = np.array([abs(np.corrcoef(bright, share)[0, 1]) if share.std() else 0 for share in shares.T])
    own = section.var_names.str.startswith("OWN")
    assert np.sort(related[own])[-10:].mean() > 2 * np.sort(related[~own])[-10:].mean()


def test_strips_of_the_image_have_no_seams():
    """They differ from the image that is rendered at once by the fine grain alone."""
    tissue = grow_lattice(np.random.default_rng(0), (40, 30))
    stain = draw_stain(np.random.default_rng(1), 0.1)
    strips = np.concatenate(list(_strips(tissue, stain, 0.5, np.random.default_rng(2))))
    whole = render(tissue, stain, 0.5, np.random.default_rng(3)).rgb
    assert strips.shape == whole.shape == (640, 480, 3)
    off = np.abs(strips.astype(float) - whole).mean(axis=(1, 2))
    assert off[508:516].max() < 1.3 * np.median(off[480:544]) < 15


def test_what_was_made_with_the_same_arguments_is_kept(folder, tmp_path):
    counts = next(folder.glob("H1/**/*.h5"))
    before = counts.stat().st_mtime_ns
    made = synthetic_hd(N_BINS, folder, n_sections=1, n_own=60, n_noise=40)
    assert made == {"H1": folder / "H1" / "outs"}
    assert counts.stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"H1 exists, and was not made with these arguments"):
        synthetic_hd(N_BINS, folder, n_own=50)


@pytest.mark.parametrize(
    "wrong",
    [{"n_bins": 99}, {"n_sections": 0}, {"seed": -1}, {"n_own": 0, "n_noise": 0}, {"microns_per_pixel": 0.3}],
)
def test_arguments_out_of_range_are_named(tmp_path, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        synthetic_hd(folder=tmp_path, **wrong)


def test_spatialdata_io_reads_it(folder, section):
    reader = pytest.importorskip("spatialdata_io")
    outs = folder / "H1" / "outs"
    image = folder / "H1" / "tissue_image.tif"
    found = reader.visium_hd(outs, "H1", bin_size=8, load_segmentations_only=False, fullres_image_file=image)
    table = found["square_008um"][section.obs_names]
    np.testing.assert_array_equal(table.X.toarray(), section.X.toarray())
    np.testing.assert_array_equal(table.obsm["spatial"], section.obsm["spatial"])
    with open_slide(image) as slide:
        assert found["H1_full_image"]["scale0"].image.shape == (3, *slide.sizes[0][::-1])
