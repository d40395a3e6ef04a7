from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nh2st_graph import DataError, ImageError
from nh2st_graph.datasets import leave_one_patient_out
from nh2st_graph.read import sections, stnet
from nh2st_graph.section import check_section, library

S = "BC23209_C1"


@pytest.fixture
def write(tmp_path, write_prepared):
    """Write tables and an image in one of the layouts of He's data."""

    def make(layout, tables, section=S):
        if layout == "prepared":
            plain = SimpleNamespace(
                counts=tables.counts, spots=tables.spots[["x", "y", "pixel_x", "pixel_y"]].reset_index()
            )
            return write_prepared(plain, section, image="HE_{section}.tif", size=(300, 260))
        root = tmp_path / layout
        folder = root / ("Luminal_A/" + section.split("_")[0] if layout == "code" else "")
        folder.mkdir(parents=True, exist_ok=True)
        if layout == "code":
            names = f"{section}.tsv.gz", f"{section}.spots.txt", f"{section}.jpg"
        else:
            names = f"{section}_stdata.tsv.gz", f"spots_{section}.csv.gz", f"HE_{section}.jpg"
        files = SimpleNamespace(root=root, counts=folder / names[0], spots=folder / names[1], image=folder / names[2])
        tables.counts.to_csv(files.counts, sep="\t")
        spots = tables.spots
        if layout == "code":
            spots[["x", "y", "pixel_x", "pixel_y"]].to_csv(files.spots, sep="\t")
        else:
            names = [f"{x}x{y}" for x, y in zip(spots["x"], spots["y"], strict=True)]
            pd.DataFrame({"X": spots["pixel_x"].to_numpy(), "Y": spots["pixel_y"].to_numpy()}, index=names).to_csv(
                files.spots
            )
        (folder / f"{section}_Coords.tsv").write_text("\tx\ty\ttumor\n")
        Image.fromarray(np.full((260, 300, 3), 200, dtype=np.uint8)).save(files.image)
        return files

    return make


LAYOUTS = ["deposited", "code", "prepared"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shuffled", [None, "counts", "spots"])
def test_section_holds_what_the_files_say(st_tables, write, layout, shuffled):
    tables = st_tables()
    if shuffled:
        setattr(tables, shuffled, getattr(tables, shuffled).sample(frac=1, random_state=0))
    adata = stnet(write(layout, tables).root)[S]
    assert check_section(adata, need=("genes", "image")) is adata
    spots = tables.spots.set_index(["x", "y"])
    assert adata.n_obs == 20
    for i, name in enumerate(adata.obs_names):
        x, y = (int(v) for v in name.removeprefix(f"{S}_").split("x"))
        assert (adata.obs["array_col"].iloc[i], adata.obs["array_row"].iloc[i]) == (x, y)
        np.testing.assert_array_equal(adata.X[i].toarray()[0], tables.counts.loc[f"{x}x{y}"])
        np.testing.assert_array_equal(adata.obsm["spatial"][i], spots.loc[(x, y), ["pixel_x", "pixel_y"]])
    assert sorted(adata.obs["array_row"]) == list(adata.obs["array_row"])
    assert set(adata.obs["patient"]) == {"BC23209"}
    assert library(adata).microns_per_pixel == pytest.approx(5.0, rel=0.05)
    assert library(adata).spot_diameter == pytest.approx(20.0, rel=0.05)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_by_patient(st_tables, write, layout):
    for section in (S, "BC23209_C2", "BC23450_D1"):
        files = write(layout, st_tables(), section)
    found = sections("stnet", files.root)
    assert {split.name: split.test for split in leave_one_patient_out(found)} == {
        "BC23209": (S, "BC23209_C2"),
        "BC23450": ("BC23450_D1",),
    }
    assert list(stnet(files.root, ["BC23450_D1", S])) == ["BC23450_D1", S]
    with pytest.raises(DataError, match=r"no section 'BC23450_D2' in .*; did you mean"):
        stnet(files.root, "BC23450_D2")


def test_a_converted_image_is_no_second_one(st_tables, write):
    files = write("code", st_tables())
    with Image.open(files.image) as image:
        image.save(files.image.with_suffix(".tif"))
    assert library(stnet(files.root)[S]).source == str(files.image.resolve())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("part", "error"), [("counts", DataError), ("spots", DataError), ("image", ImageError)])
def test_missing_files_are_named(st_tables, write, layout, part, error):
    files = write(layout, st_tables())
    getattr(files, part).unlink()
    with pytest.raises(error, match=rf"section '{S}': no .*{S}.* is missing") as caught:
        stnet(files.root)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="no sections found"):
        stnet(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        stnet(tmp_path / "nowhere")
