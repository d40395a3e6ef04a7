from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

import nh2st_graph as ng
from nh2st_graph import ConfigError, DataError
from nh2st_graph.section import Key, full_image

COLUMNS = ["quality", "quality_tissue", "quality_contrast", "quality_focus", "quality_folds"]


def real_section(root: Path, name: str = "C3") -> AnnData:
    return ng.read.sections("her2st", root, [name])[name]


def spoiled(section: AnnData, folder: Path, row: int, how) -> AnnData:
    """A copy of a section, in whose image the surroundings of one spot went wrong."""
    image = np.array(Image.open(full_image(section).path))
    x, y = section.obsm[Key.obsm.spatial][row].astype(int)
    part = np.s_[max(0, y - 30) : y + 30, max(0, x - 30) : x + 30]
    image[part] = how(image[part])
    path = folder / "spoiled.png"
    Image.fromarray(image).save(path)
    copy = section.copy()
    copy.uns[Key.uns.spatial]["C3"][Key.library.metadata][Key.library.source_image] = str(path)
    return copy


def blurred(patch: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return gaussian_filter(patch, (2, 2, 0))


def blank(patch: NDArray[np.uint8]) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).normal(0, 1.5, patch.shape)
    return np.clip(np.array([231, 216, 230]) + noise, 0, 255).astype(np.uint8)


def folded(patch: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Light passes through three layers of the same tissue."""
    return (255 * (patch / 255) ** 3).astype(np.uint8)


@pytest.fixture(scope="module")
def measured(her2st_crops: Path) -> AnnData:
    section = real_section(her2st_crops)
    ng.im.quality(section)
    return section


def test_normal_spots_are_good(measured, her2st_crops):
    assert (measured.obs["quality"] == "good").all()
    for name in {"B4", "C3", "C6"} - set(measured.obs["section"]):
        section = real_section(her2st_crops, name)
        assert ng.im.quality(section) is None
        assert (section.obs["quality"] == "good").all(), name


@pytest.mark.parametrize("how", [blurred, blank, folded])
def test_a_bad_spot_is_found(measured, tmp_path, how):
    # Three layers are dark where one has many nuclei.
    row = int(np.argmax(measured.obs["quality_folds"])) if how is folded else 20
    section = spoiled(measured, tmp_path, row, how)
    ng.im.quality(section)
    found = section.obs["quality"]
    assert found.iloc[row] == how.__name__
    assert (found.drop(found.index[row]) == "good").all()


def test_each_row_is_of_its_own_patch(measured):
    """By squidpy's metrics on the patch alone."""
    from squidpy.experimental.im._intensity_metrics import brightness_std, fold_fraction
    from squidpy.experimental.im._sharpness_metrics import laplacian_variance, tenengrad_mean

    scale = full_image(measured).microns_per_pixel
    fine, coarse = (list(ng.im.patches(measured, 112, size)) for size in (round(112 / scale), 14))
    for row in (0, 17, measured.n_obs - 1):
        grey = (fine[row] @ np.array([0.2126, 0.7152, 0.0722])).astype(np.float32)
        focus = laplacian_variance(grey)[0, 0] / tenengrad_mean(grey)[0, 0]
        expected = [brightness_std(grey)[0, 0], focus, fold_fraction(coarse[row] / 255)[0, 0]]
        assert measured.obs[COLUMNS[2:]].iloc[row].to_list() == pytest.approx(expected, rel=1e-3)


def test_limits_are_the_callers(measured):
    section = measured.copy()
    ng.im.quality(section, min_focus=9.0, key_added="strict")
    assert (section.obs["strict"] == "blurred").all()
    assert section.uns["strict"]["min_focus"] == 9.0
    assert section.uns["quality"]["min_focus"] == 0.2
    with pytest.raises(DataError, match="key_added='patient' is a column that says what a section is"):
        ng.im.quality(section, key_added="patient")
    ng.im.quality(section, min_contrast=255)
    assert (section.obs["quality"] == "blank").all()
    for wrong in ({"min_focus": -0.1}, {"max_folds": 1.5}, {"min_contrast": np.nan}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ng.im.quality(section, **wrong)


def test_survives_a_file_and_several_sections(measured, her2st_crops, tmp_path):
    both = ad.concat([measured, real_section(her2st_crops, "B4")], uns_merge="unique")
    done = ng.im.quality(both, library_key=Key.obs.section, copy=True)
    assert "quality" not in both.obs or both.obs["quality"].isna().any()
    assert done.obs["quality"].notna().all()
    alone = measured.obs[COLUMNS[1:]].to_numpy()
    assert np.allclose(done.obs[COLUMNS[1:]].to_numpy(float)[: measured.n_obs], alone)
    done.write_h5ad(tmp_path / "both.h5ad")
    assert set(ad.read_h5ad(tmp_path / "both.h5ad").obs["quality"]) <= {"good", "blank"}


def test_another_image_may_be_given(measured, tmp_path):
    section = spoiled(measured, tmp_path, 20, blurred)
    other = measured.copy()
    ng.im.quality(other, img=full_image(section).path)
    assert other.obs["quality"].iloc[20] == "blurred"
