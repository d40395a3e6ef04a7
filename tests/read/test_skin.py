from __future__ import annotations

import gzip
import logging
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nh2st_graph import DataError, ImageError
from nh2st_graph.datasets import leave_one_patient_out
from nh2st_graph.read import sections, skin
from nh2st_graph.section import check_section, library

STEPS = (36.0, 40.0)  # pixels along x and y; the nearest spots are 150 um apart


@pytest.fixture
def chessboard():
    """Tables of an array of which every second position is printed."""
    x, y = (a.ravel() for a in np.meshgrid(np.arange(2, 9), np.arange(3, 9)))
    black = (x + y) % 2 == 0
    x, y = x[black], y[black]
    new = np.column_stack([x, y]) + np.random.default_rng(0).uniform(-0.05, 0.05, (x.size, 2)).round(3)
    spots = {"x": x, "y": y, "new_x": new[:, 0], "new_y": new[:, 1]}
    spots |= {"pixel_x": new[:, 0] * STEPS[0] - 40, "pixel_y": new[:, 1] * STEPS[1] - 90}
    counts = np.random.default_rng(1).poisson(1.5, (x.size, 3))
    return SimpleNamespace(
        spots=pd.DataFrame(spots),
        counts=pd.DataFrame(counts, index=[f"{a}x{b}" for a, b in zip(x, y, strict=True)], columns=["A", "B", "C"]),
    )


@pytest.fixture
def write(tmp_path):
    """Write tables and an image as GEO has them."""

    def make(tables, section="P2_ST_rep1", *, sample="GSM4284316_", packed=False, folder=""):
        root = tmp_path / "GSE144240"
        place = root / folder
        place.mkdir(parents=True, exist_ok=True)
        ending = ".tsv.gz" if packed else ".tsv"
        files = SimpleNamespace(
            root=root,
            counts=place / f"{sample}{section}_stdata{ending}",
            spots=place / f"{sample}spot_data-selection-{section}{ending}",
            image=place / f"{sample}{section}.jpg",
        )
        tables.counts.to_csv(files.counts, sep="\t")
        tables.spots.to_csv(files.spots, sep="\t", index=False)
        Image.fromarray(np.full((290, 300, 3), 200, dtype=np.uint8)).save(files.image)
        return files

    return make


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folder", ["", "GSE144240_RAW"])
def test_section_holds_what_the_files_say(chessboard, write, packed, folder):
    files = write(chessboard, packed=packed, folder=folder)
    adata = skin(files.root)["P2_ST_rep1"]
    assert check_section(adata, need=("genes", "image")) is adata
    assert adata.X.format == "csr"
    spots = chessboard.spots.set_index(["x", "y"])
    for i, name in enumerate(adata.obs_names):
        x, y = (int(v) for v in name.removeprefix("P2_ST_rep1_").split("x"))
        assert (adata.obs["array_col"].iloc[i], adata.obs["array_row"].iloc[i]) == (x, y)
        np.testing.assert_array_equal(adata.X[i].toarray()[0], chessboard.counts.loc[f"{x}x{y}"])
        np.testing.assert_allclose(adata.obsm["spatial"][i], spots.loc[(x, y), ["pixel_x", "pixel_y"]], rtol=1e-12)
    assert adata.n_obs == len(spots)
    assert set(adata.obs["patient"]) == {"P2"}


def test_scale_of_the_dense_array(chessboard, write):
    entry = library(skin(write(chessboard).root)["P2_ST_rep1"]).entry
    scale = 150 / np.hypot(*STEPS)
    assert entry["metadata"]["microns_per_pixel"] == pytest.approx(scale, rel=1e-3)
    assert entry["scalefactors"]["spot_diameter_fullres"] == pytest.approx(110 / scale, rel=1e-3)


def test_the_folder_that_triplex_gives(chessboard, write, write_prepared):
    files = write(chessboard)
    raw = skin(files.root)["P2_ST_rep1"]
    prepared = write_prepared(chessboard, "P2_ST_rep1", image="GSM4284316_{section}.jpg", size=(300, 290))
    same = skin(prepared.root)["P2_ST_rep1"]
    pd.testing.assert_frame_equal(same.obs, raw.obs)
    np.testing.assert_array_equal(same.X.toarray(), raw.X.toarray())
    np.testing.assert_allclose(same.obsm["spatial"], raw.obsm["spatial"])


@pytest.mark.parametrize("which", ["counts", "spots"])
def test_row_order_of_a_file_changes_nothing(chessboard, write, which):
    before = skin(write(chessboard).root)["P2_ST_rep1"]
    setattr(chessboard, which, getattr(chessboard, which).sample(frac=1, random_state=2))
    after = skin(write(chessboard).root)["P2_ST_rep1"]
    pd.testing.assert_frame_equal(after.obs, before.obs)
    np.testing.assert_array_equal(after.X.toarray(), before.X.toarray())
    np.testing.assert_array_equal(after.obsm["spatial"], before.obsm["spatial"])


def test_splits_by_patient(chessboard, write):
    for i, section in enumerate(("P2_ST_rep1", "P2_ST_rep2", "P5_ST_rep1", "P10_ST_rep3")):
        files = write(chessboard, section, sample=f"GSM42843{16 + i}_")
    # what else the archive of the series holds
    (files.root / "GSM4565823_P4_rep1_tissue_positions_list.csv").write_text("")
    found = skin(files.root)
    assert {split.name: split.test for split in leave_one_patient_out(found)} == {
        "P10": ("P10_ST_rep3",),
        "P2": ("P2_ST_rep1", "P2_ST_rep2"),
        "P5": ("P5_ST_rep1",),
    }
    assert list(sections("skin", files.root, ["P5_ST_rep1"])) == ["P5_ST_rep1"]
    with pytest.raises(DataError, match=r"no section 'P2_ST_rep3' in .*; did you mean 'P2_ST_rep"):
        skin(files.root, "P2_ST_rep3")


def test_spots_without_a_partner_are_dropped_and_told(chessboard, write, caplog):
    chessboard.counts = chessboard.counts.iloc[2:]
    chessboard.spots = chessboard.spots.iloc[:-1].assign(selected=1)
    chessboard.spots.loc[5, "selected"] = 0
    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        adata = skin(write(chessboard).root)["P2_ST_rep1"]
    assert adata.n_obs == 21 - 4
    assert adata.uns["nh2st_dropped"] == {
        "positions_without_counts": 2,
        "counts_without_position": 1,
        "not_selected": 1,
    }
    assert any("2 (positions without counts)" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(("part", "error"), [("counts", DataError), ("spots", DataError), ("image", ImageError)])
def test_missing_files_are_named(chessboard, write, part, error):
    files = write(chessboard)
    getattr(files, part).unlink()
    with pytest.raises(error, match=r"section 'P2_ST_rep1': no .*P2_ST_rep1.* is missing") as caught:
        skin(files.root)
    assert "\n" not in str(caught.value)


def test_packed_image(chessboard, write):
    files = write(chessboard)
    files.image.with_name(f"{files.image.name}.gz").write_bytes(gzip.compress(files.image.read_bytes()))
    assert skin(files.root)["P2_ST_rep1"].n_obs == 21
    files.image.unlink()
    with pytest.raises(ImageError, match=r"rep1\.jpg\.gz is packed: unpack it"):
        skin(files.root)


def test_two_images(chessboard, write):
    files = write(chessboard)
    files.image.with_name("P2_ST_rep1.png").write_bytes(files.image.read_bytes())
    with pytest.raises(ImageError, match=r"'P2_ST_rep1': 2 images \(GSM4284316_P2_ST_rep1\.jpg, P2_ST_rep1\.png\)"):
        skin(files.root)


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="no sections found"):
        skin(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        skin(tmp_path / "nowhere")
