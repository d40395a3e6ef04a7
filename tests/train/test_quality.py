"""Bad spots: left out of training, marked in predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from anndata import AnnData
from numpy.testing import assert_array_equal
from PIL import Image, ImageFilter

from nh2st_graph import Config, ConfigError, DataError, im, tl
from nh2st_graph.section import full_image


@pytest.fixture(scope="module")
def config(quick_config) -> Config:
    return quick_config.change({"data.bad_spots": "drop"})


def blurred(section: AnnData, row: int, folder: Path) -> AnnData:
    """The section with an image that is out of focus around one spot."""
    image = Image.open(full_image(section).path)
    x, y = section.obsm["spatial"][row].astype(int)
    box = (x - 40, y - 40, x + 40, y + 40)
    image.paste(image.crop(box).filter(ImageFilter.GaussianBlur(4)), box[:2])
    path = folder / "blurred.png"
    image.save(path, compress_level=0)
    copy = section.copy()
    (entry,) = copy.uns["spatial"].values()
    entry["metadata"]["source_image_path"] = str(path)
    return copy


def test_training_leaves_a_bad_spot_out(few_spots, config, tmp_path, caplog):
    bad = blurred(few_spots["S1"], 20, tmp_path)
    model = tl.fit([bad, few_spots["S2"]], config)
    assert "section 'S1': 1 of" in caplog.text
    without = bad[np.arange(bad.n_obs) != 20].copy()
    expected = tl.fit([without, few_spots["S2"]], config.change({"data.bad_spots": "keep"}))
    assert model.genes == expected.genes
    section = few_spots["S3"]
    assert_array_equal(tl.predict(section, model).X, tl.predict(section, expected).X)


def test_predictions_mark_bad_spots_and_keep_them(few_spots, config, tmp_path):
    train = [few_spots["S1"], few_spots["S2"]]
    bad = blurred(few_spots["S3"], 20, tmp_path)
    model = tl.fit(train, config)
    predicted = tl.predict(bad, model)
    assert predicted.n_obs == bad.n_obs
    assert predicted.obs["quality"].iloc[20] == "blurred"
    assert (predicted.obs["quality"].drop(bad.obs_names[20]) == "good").all()
    assert "quality" not in bad.obs
    scores = tl.evaluate([bad], model, train)
    assert scores.predictions["S3"].obs["quality"].value_counts()["blurred"] == 1
    keep = tl.fit(train, config.change({"data.bad_spots": "keep"}))
    assert_array_equal(tl.predict(bad, keep).X, predicted.X)
    assert "quality" not in tl.predict(bad, keep).obs


def test_limits_of_the_user_count(few_spots, config):
    section = im.quality(few_spots["S1"], min_focus=9.0, copy=True)
    with pytest.raises(DataError, match=r"'S1'.*blurred.*bad_spots"):
        tl.fit([section, few_spots["S2"]], config)
    row = section.obs_names[3]
    section.obs["quality"] = ["blank" if name == row else "good" for name in section.obs_names]
    assert row not in tl.fit([section], config).preparation.prepare(section, training=True).section.obs_names


@pytest.mark.parametrize("change", ["data.bad_spots=drop", "features.stain=macenko"])
def test_a_bad_encoder_shows_before_images_are_read(few_spots, tiny_config, tmp_path, change):
    section = few_spots["S1"].copy()
    section.uns["spatial"]["S1"]["metadata"]["source_image_path"] = "/nowhere/slide.tif"
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    config = tiny_config.override([change, f"features.encoder=timm:test_vit@{tmp_path}/other.pth"])
    with pytest.raises(ConfigError, match="belongs to another model"):
        tl.fit([section], config)
