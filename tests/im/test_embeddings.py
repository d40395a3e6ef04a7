"""Features of other packages, in files as these packages write them, and how their rows find the spots."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

import nh2st_graph as ng
from nh2st_graph import DataError, im
from nh2st_graph.section import Key
from tests.slides import write_pyramid

from ..examples import draws

Values = NDArray[np.float32]

WIDTH = 5
PATCH = 112


def make(name: str) -> AnnData:
    """Nine spots at 0.5 um per px, of which the nearest are 280 px apart; its image is not there."""
    spots = pd.DataFrame(index=[f"{name}-{i}" for i in range(9)])
    spots[Key.obs.section] = pd.Categorical([name] * 9)
    spots[Key.obs.patient] = pd.Categorical([name] * 9)
    adata = AnnData(obs=spots)
    adata.obsm[Key.obsm.spatial] = np.array([[x, y] for y in (200.0, 480.0, 800.0) for x in (180.0, 620.0, 1040.0)])
    metadata = {Key.library.source_image: "/elsewhere/slide.tif", Key.library.microns_per_pixel: 0.5}
    adata.uns[Key.uns.spatial] = {name: {Key.library.metadata: metadata}}
    return adata


@pytest.fixture
def section() -> AnnData:
    return make("S1")


@pytest.fixture
def values() -> Values:
    return np.random.default_rng(0).normal(size=(9, WIDTH)).astype(np.float32)


def corners(section: AnnData, side: int = 224) -> NDArray[np.int64]:
    return np.rint(section.obsm[Key.obsm.spatial] - side / 2).astype(np.int64)


def trident(path: Path, values: Values, coords: NDArray[Any], **changed: Any) -> Path:
    """Write as ``save_h5`` of TRIDENT does: chunks of a row, None as a text."""
    about = {
        "patch_size": 224,
        "patch_size_level0": 224,
        "level0_magnification": 20,
        "target_magnification": 20,
        "overlap": 0,
        "name": path.stem,
        "savetodir": "trident_processed/20x_224px_0px_overlap",
        "level0_width": 1200,
        "level0_height": 960,
    } | changed
    encoder = about.pop("encoder", "uni_v1")
    with h5py.File(path, "w") as file:
        for key, each in (("features", values), ("coords", coords)):
            chunks, shape = (1, *each.shape[1:]), (None, *each.shape[1:])
            file.create_dataset(key, data=each, maxshape=shape, chunks=chunks)
        file["features"].attrs.update({"name": path.stem, "savetodir": "f", "encoder": encoder or "None"})
        file["coords"].attrs.update({key: each for key, each in about.items() if each is not None})
    return path


def hest(path: Path, values: Values, names: Any, coords: NDArray[Any]) -> Path:
    """Write as ``save_hdf5`` of HEST does: one-dimensional arrays become a column."""
    with h5py.File(path, "w") as file:
        file.create_dataset("embeddings", data=values, chunks=True, maxshape=(None, values.shape[1]))
        barcodes = np.array([name.encode() for name in names])[:, None]
        file.create_dataset("barcodes", data=barcodes, chunks=True, maxshape=(None, 1))
        file.create_dataset("coords", data=coords, chunks=True, maxshape=(None, 2))
    return path


def slide2vec(root: Path, name: str, values: Values, coords: NDArray[Any], ending: str = "pt") -> Path:
    """Write as slide2vec's pipeline does: embeddings, tiles, and a description of each."""
    (root / "tile_embeddings").mkdir(parents=True)
    (root / "tiles").mkdir()
    path = root / "tile_embeddings" / f"{name}.{ending}"
    index = np.arange(len(values), dtype=np.int32)
    if ending == "pt":
        torch.save(torch.from_numpy(values).to(torch.float16), path)
    else:
        np.savez_compressed(path, features=values, tile_index=index)
    tiles = root / "tiles" / f"{name}.coordinates.npz"
    np.savez(tiles, x=coords[:, 0], y=coords[:, 1], tile_index=index, tissue_fractions=np.ones(len(index), np.float32))
    about = {
        "sample_id": name,
        "artifact_type": "tile_embeddings",
        "annotation": None,
        "coordinates_npz_path": f"/elsewhere/tiles/{name}.coordinates.npz",
        "encoder_level": "tile",
        "encoder_name": "uni2",
        "feature_dim": values.shape[1],
        "format": ending,
        "num_tiles": len(values),
        "requested_tile_size_px": 224,
        "requested_spacing_um": 0.5,
        "tile_size_lv0": 224,
    }
    path.with_suffix(".meta.json").write_text(json.dumps(about))
    slide = {"dimensions": [1200, 960], "base_spacing_um": 0.5, "level_downsamples": [1.0]}
    tiles.with_suffix(".meta.json").write_text(json.dumps({"slide": slide, "tiling": {"tile_size_lv0": 224}}))
    return path


def about(section: AnnData, key: str = Key.uns.image) -> tuple[str, float, str]:
    entry = section.uns[key]
    return entry["encoder"], entry["patch_um"], entry["joined_by"]


SHUFFLED = np.array([4, 8, 1, 0, 6, 2, 7, 3, 5])


class TestLayouts:
    def test_trident(self, section, values, tmp_path):
        path = trident(tmp_path / "S1.h5", values[SHUFFLED], corners(section)[SHUFFLED])
        assert im.embeddings(section, path) is None
        assert_array_equal(section.obsm[Key.obsm.image], values)
        assert about(section) == ("uni", PATCH, "positions")
        assert section.uns[Key.uns.image]["layout"] == "TRIDENT"
        assert list(section.uns[Key.uns.image]["feature_names"][:2]) == ["uni_0", "uni_1"]

    def test_trident_without_the_side_at_level_0(self, section, values, tmp_path):
        changed = {"patch_size_level0": None, "patch_size": 112, "target_magnification": 10, "encoder": None}
        im.embeddings(section, trident(tmp_path / "S1.h5", values, corners(section), **changed))
        assert about(section) == ("unknown", PATCH, "positions")

    @pytest.mark.parametrize("centres", [False, True])
    def test_hest(self, section, values, tmp_path, centres):
        coords = section.obsm[Key.obsm.spatial].astype(int)[:, ::-1] if centres else corners(section)
        path = hest(tmp_path / "S1.h5", values[SHUFFLED], section.obs_names[SHUFFLED], coords[SHUFFLED])
        im.embeddings(section, path, encoder="uni_v2", patch_um=112)
        assert_array_equal(section.obsm[Key.obsm.image], values)
        assert about(section) == ("uni2-h", PATCH, "names")

    @pytest.mark.parametrize("ending", ["pt", "npz"])
    def test_slide2vec(self, section, values, tmp_path, ending):
        values = values.astype(np.float16).astype(np.float32)
        im.embeddings(section, slide2vec(tmp_path / "run", "S1", values, corners(section), ending))
        assert_array_equal(section.obsm[Key.obsm.image], values)
        assert about(section) == ("uni2-h", PATCH, "positions")

    def test_slide2vec_without_its_tiles(self, section, values, tmp_path):
        path = slide2vec(tmp_path / "run", "S1", values, corners(section))
        (tmp_path / "run" / "tiles" / "S1.coordinates.npz").unlink()
        with pytest.raises(DataError, match=r"S1\.coordinates\.npz"):
            im.embeddings(section, path)
        path.with_suffix(".meta.json").unlink()
        with pytest.raises(DataError, match="no names of spots"):
            im.embeddings(section, path)

    def test_lazyslide(self, section, values, tmp_path):
        from wsidata import TileSpec, open_wsi
        from wsidata.io import add_features, add_tiles

        slide = write_pyramid(tmp_path / "S1.tif", 1200, 0.5, levels=1)
        wsi = open_wsi(slide, store=str(tmp_path / "S1.zarr"))
        spec = TileSpec(112, 112, 112, 112, mpp=1.0, base_downsample=2.0)
        add_tiles(wsi, "tiles", corners(section)[SHUFFLED], spec, np.zeros(9, int))
        add_features(wsi, "uni2_tiles", "tiles", values[SHUFFLED])
        wsi.fetch.features_anndata("uni2").write_h5ad(tmp_path / "S1.h5ad")
        wsi.write()
        for source in (wsi, tmp_path / "S1.zarr", tmp_path / "S1.h5ad"):
            im.embeddings(section, source, encoder="uni2")
            assert_array_equal(section.obsm[Key.obsm.image], values)
            assert about(section) == ("uni2-h", PATCH, "positions")
        add_features(wsi, "virchow_tiles", "tiles", values[::-1][SHUFFLED])
        im.embeddings(section, wsi, encoder="virchow")
        assert_array_equal(section.obsm[Key.obsm.image], values[::-1])
        with pytest.raises(DataError, match=r"features of 2 encoders .*virchow_tiles.*encoder"):
            im.embeddings(section, wsi)

    @pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "parquet"])
    @pytest.mark.parametrize("by", ["barcode", "", "x, y"])
    def test_tables(self, section, values, tmp_path, ending, by):
        table = pd.DataFrame(values[SHUFFLED], columns=[f"F{i}" for i in range(WIDTH)])
        if by == "x, y":
            table[["x", "y"]] = section.obsm[Key.obsm.spatial][SHUFFLED]
        else:
            table.insert(0, by or "index", section.obs_names[SHUFFLED])
            table = table if by else table.set_index("index").rename_axis(None)
        path = tmp_path / f"S1.{ending}"
        if ending == "parquet":
            table.to_parquet(path)
        else:
            table.to_csv(path, sep="\t" if ending == "tsv" else ",", index=not by)
        im.embeddings(section, path)
        np.testing.assert_allclose(section.obsm[Key.obsm.image], values, rtol=1e-6)
        assert about(section)[0] == "unknown"
        assert list(section.uns[Key.uns.image]["feature_names"]) == [f"F{i}" for i in range(WIDTH)]

    def test_a_column_of_lists(self, section, values, tmp_path):
        pd.DataFrame({"spot": section.obs_names, "embedding": list(values)}).to_parquet(tmp_path / "S1.parquet")
        im.embeddings(section, tmp_path / "S1.parquet")
        assert_array_equal(section.obsm[Key.obsm.image], values)

    def test_names_of_numbers_stay_texts(self, section, values, tmp_path):
        section.obs_names = [f"00{i}" for i in range(9)]
        pd.DataFrame(values, index=section.obs_names).to_csv(tmp_path / "S1.csv")
        im.embeddings(section, tmp_path / "S1.csv")
        np.testing.assert_allclose(section.obsm[Key.obsm.image], values, rtol=1e-6)

    def test_arrays_with_names(self, section, values, tmp_path):
        names = list(section.obs_names[SHUFFLED])
        torch.save({"features": torch.from_numpy(values[SHUFFLED]), "barcodes": names}, tmp_path / "S1.pt")
        np.savez(tmp_path / "S1.npz", embeddings=values[SHUFFLED], names=np.array(names))
        for ending in ("pt", "npz"):
            im.embeddings(section, tmp_path / f"S1.{ending}")
            assert_array_equal(section.obsm[Key.obsm.image], values)

    @pytest.mark.parametrize("frame", [False, True])
    def test_an_entry_of_obsm(self, section, values, frame):
        section.obsm["uni2h"] = pd.DataFrame(values, index=section.obs_names).add_prefix("u") if frame else values
        im.embeddings(section, "obsm:uni2h", encoder="UNI2-h", patch_um=112)
        assert_array_equal(section.obsm[Key.obsm.image], values)
        assert about(section)[:2] == ("uni2-h", PATCH)
        im.embeddings(section, "obsm:X_image", key_added="again")
        assert about(section, "again")[:2] == ("uni2-h", PATCH)
        section.obsm[Key.obsm.spatial][3] += 10
        with pytest.raises(DataError, match=r"X_image.*positions"):
            im.embeddings(section, "obsm:X_image", key_added="again")
        for key in ("spatial", "other"):
            with pytest.raises(DataError, match=key):
                im.embeddings(section, f"obsm:{key}")


@draws(20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(9)), moved=st.integers(-60, 60), extra=st.integers(0, 5))
def test_each_spot_gets_the_nearest_patch(section, values, tmp_path, order, moved, extra):
    """As a loop over spots finds it, whatever the order of rows, and with other patches beside."""
    coords = np.concatenate([corners(section) + moved, 5000 + 300 * np.arange(2 * extra).reshape(extra, 2)])
    rows = np.concatenate([values, np.full((extra, WIDTH), np.nan, np.float32)])
    shuffled = np.array([*order, *range(9, 9 + extra)])
    im.embeddings(section, trident(tmp_path / "S1.h5", rows[shuffled], coords[shuffled]))
    for i, spot in enumerate(section.obsm[Key.obsm.spatial]):
        nearest = np.argmin([np.hypot(*(corner + 112 - spot)) for corner in coords])
        assert_array_equal(section.obsm[Key.obsm.image][i], rows[nearest])


class TestSections:
    @pytest.fixture
    def two(self) -> AnnData:
        both = ad.concat([make("S1"), make("S2")], uns_merge="unique")
        for column in (Key.obs.section, Key.obs.patient):
            both.obs[column] = both.obs[column].astype("category")
        return both

    @pytest.mark.parametrize("source", ["", "{section}.csv", dict])
    def test_several(self, two, tmp_path, source):
        rows = np.arange(18 * WIDTH, dtype=np.float32).reshape(18, WIDTH)
        for name, at in (("S1", slice(9)), ("S2", slice(9, 18))):
            pd.DataFrame(rows[at], index=two.obs_names[at]).to_csv(tmp_path / f"{name}.csv")
        files = {name: tmp_path / f"{name}.csv" for name in ("S1", "S2")}
        given = files if source is dict else tmp_path / source
        copy = im.embeddings(two, given, library_key=Key.obs.section, copy=True, key_added="mine")
        assert "mine" not in two.obsm
        assert_array_equal(copy.obsm["mine"], rows)
        assert set(copy.uns["mine"]["sections"]) == {"S1", "S2"}

    def test_one_file_for_several_is_refused(self, two, tmp_path):
        pd.DataFrame(np.ones((18, 2)), index=two.obs_names).to_csv(tmp_path / "all.csv")
        for source, says in ((tmp_path / "all.csv", "{section}"), (tmp_path, "'S1'"), ({"S1": "a"}, "'S2'")):
            with pytest.raises(DataError, match=says):
                im.embeddings(two, source, library_key=Key.obs.section)
        assert Key.obsm.image not in two.obsm

    def test_a_folder_with_two_files_of_one_name(self, section, tmp_path):
        for name in ("S1.csv", "S1.tsv", "S1.json"):
            (tmp_path / name).touch()
        with pytest.raises(DataError, match=r"2 files.*S1\.csv, S1\.tsv"):
            im.embeddings(section, tmp_path)

    def test_a_file_that_is_not_there(self, section, tmp_path):
        with pytest.raises(DataError, match=r"S1\.h5 does not exist"):
            im.embeddings(section, str(tmp_path / "{section}.h5"))


class TestMissing:
    def test_is_refused_by_number_and_names(self, section, values, tmp_path):
        path = trident(tmp_path / "S1.h5", values[2:], corners(section)[2:])
        with pytest.raises(DataError, match=r"2 of 9 spots .*S1-0, S1-1.*missing='drop'"):
            im.embeddings(section, path)
        assert Key.obsm.image not in section.obsm

    def test_spots_are_left_out(self, section, values, tmp_path):
        path = trident(tmp_path / "S1.h5", values[2:], corners(section)[2:])
        copy = im.embeddings(section, path, missing="drop", copy=True)
        assert section.n_obs == 9
        assert list(copy.obs_names) == list(section.obs_names[2:])
        assert_array_equal(copy.obsm[Key.obsm.image], values[2:])
        assert copy.uns[Key.uns.dropped] == {"spots_without_embedding": 2}
        im.embeddings(section, path, missing="drop")
        assert section.n_obs == 7


def refuses(section: AnnData, source: Any, *says: str, **options: Any) -> None:
    with pytest.raises(DataError) as error:
        im.embeddings(section, source, **options)
    message = str(error.value)
    assert "\n" not in message
    assert all(each in message for each in ("S1", *says)), message
    assert Key.obsm.image not in section.obsm


class TestRefused:
    def test_another_section(self, section, values, tmp_path):
        far = corners(section) + 400
        refuses(section, hest(tmp_path / "h.h5", values, [f"x{i}" for i in range(9)], far), "x0", "S1-0")
        refuses(section, trident(tmp_path / "t.h5", values, far + 5000), "another section")
        # The barcodes of Visium are those of every slide.
        moved = corners(section) + np.array([0, 40])
        refuses(section, hest(tmp_path / "v.h5", values, section.obs_names, moved), "same barcodes")

    def test_another_image(self, section, values, tmp_path):
        other = {"level0_magnification": 40, "target_magnification": 20, "patch_size_level0": 448}
        refuses(section, trident(tmp_path / "t.h5", values, 2 * corners(section), **other), "magnification 40", "0.5")
        refuses(section, trident(tmp_path / "u.h5", values, corners(section), level0_width=900), "900 x 960")
        path = slide2vec(tmp_path / "run", "S1", values, corners(section))
        beside = tmp_path / "run" / "tiles" / "S1.coordinates.meta.json"
        beside.write_text(json.dumps({"slide": {"base_spacing_um": 0.25}}))
        refuses(section, path, "0.25 um per px", "0.5")
        beside.write_text(json.dumps({"slide": {"base_spacing_um": 0.5}}))
        path.with_suffix(".meta.json").write_text(
            path.with_suffix(".meta.json")
            .read_text()
            .replace('"requested_spacing_um": 0.5', '"requested_spacing_um": 1')
        )
        refuses(section, path, "112 um", "224 um")

    def test_what_the_caller_says_otherwise(self, section, values, tmp_path):
        path = slide2vec(tmp_path / "run", "S1", values, corners(section))
        refuses(section, path, "uni2", "virchow", encoder="virchow")
        refuses(section, path, "112 um", "224", "patch_um", patch_um=224)
        im.embeddings(section, path, encoder="uni_v2", patch_um=112)

    def test_corners_of_patches_of_unknown_side(self, section, values, tmp_path):
        nothing = dict.fromkeys(("patch_size", "patch_size_level0", "level0_magnification", "level0_width"))
        path = trident(tmp_path / "clam.h5", values, corners(section), **nothing)
        refuses(section, path, "patch_um")
        im.embeddings(section, path, patch_um=112)
        assert_array_equal(section.obsm[Key.obsm.image], values)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
    def test_values_that_are_no_numbers(self, section, values, tmp_path, bad):
        table = pd.DataFrame(values.astype(float), index=section.obs_names)
        table.iloc[3, 2] = bad
        table.to_csv(tmp_path / "S1.csv")
        refuses(section, tmp_path / "S1.csv", "1 spots", "S1-3")

    def test_duplicates(self, section, values, tmp_path):
        twice = np.array([*range(9), 4])
        table = pd.DataFrame(values, index=section.obs_names)
        table.iloc[twice].to_csv(tmp_path / "S1.csv")
        refuses(section, tmp_path / "S1.csv", "S1-4", "more than once")
        refuses(section, trident(tmp_path / "S1.h5", values[twice], corners(section)[twice]), "more than once")

    def test_genes(self, section, values, tmp_path):
        genes = ["ACTB", "ERBB2", *(f"F{i}" for i in range(1, 14))]
        section = AnnData(
            X=np.ones((9, len(genes)), np.float32),
            obs=section.obs,
            obsm=section.obsm,
            uns=section.uns,
            var=pd.DataFrame({"symbol": genes}, index=[f"ENSG{i:011}" for i in range(len(genes))]),
        )
        # F2 to F13 are genes, and features are often numbered so.
        numbered = pd.DataFrame(np.ones((9, 40)), index=section.obs_names).add_prefix("F")
        numbered.to_csv(tmp_path / "S1.csv")
        im.embeddings(section, tmp_path / "S1.csv")
        del section.obsm[Key.obsm.image]
        numbered.assign(ERBB2=1.0).to_csv(tmp_path / "S1.csv")
        refuses(section, tmp_path / "S1.csv", "1 columns", "ERBB2")
        section.obsm["genes"] = pd.DataFrame(np.ones((9, 2)), index=section.obs_names, columns=["ACTB", "ERBB2"])
        refuses(section, "obsm:genes", "ACTB, ERBB2")
        section.obsm["X_pca"] = np.ones((9, 2))
        refuses(section, "obsm:X_pca", "X_pca", "expression")

    def test_columns_of_positions_and_texts(self, section, values, tmp_path):
        table = pd.DataFrame(values, index=section.obs_names).assign(array_row=1, tissue="tumour")
        table.to_csv(tmp_path / "S1.csv")
        refuses(section, tmp_path / "S1.csv", "tissue, array_row")

    def test_files_of_other_kinds(self, section, values, tmp_path):
        np.save(tmp_path / "S1.npy", values)
        (tmp_path / "S1.txt.bz2").write_text("x")
        (tmp_path / "S1.h5").write_bytes(b"damaged")
        torch.save(torch.from_numpy(values), tmp_path / "S1.pt")
        pd.DataFrame(values).to_csv(tmp_path / "S1.csv", index=False)
        for name, says in (
            ("S1.npy", "no names of spots"),
            ("S1.txt.bz2", "no file of embeddings"),
            ("S1.h5", "cannot be read"),
            ("S1.pt", "no names of spots"),
            ("S1.csv", "neither names nor positions"),
        ):
            refuses(section, tmp_path / name, name, says)
        slide = trident(tmp_path / "S1.h5", values[0], corners(section))
        refuses(section, slide, "features of patches, not of a slide")
        with h5py.File(tmp_path / "S1.h5", "w") as file:
            file["patches"] = values
        refuses(section, tmp_path / "S1.h5", "there: patches")

    def test_a_pickle_with_more_than_tensors(self, section, tmp_path):
        torch.save({"features": Path("x")}, tmp_path / "S1.pt")
        refuses(section, tmp_path / "S1.pt", "cannot be read")


def test_what_is_unknown_is_said(section, values, tmp_path, caplog):
    pd.DataFrame(values, index=section.obs_names).to_csv(tmp_path / "S1.csv")
    with caplog.at_level(logging.WARNING):
        im.embeddings(section, tmp_path / "S1.csv")
    assert "encoder and patch size" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        im.embeddings(section, tmp_path / "S1.csv", encoder="uni2-h", patch_um=112)
    assert all(each in caplog.text for each in ("5 features", "1536"))


@pytest.mark.parametrize(
    ("name", "known"), [*((each, "uni2-h") for each in ("uni_v2", "UNI2-h", "uni2")), ("mine", "mine")]
)
def test_names_of_other_packages(section, values, tmp_path, name, known):
    pd.DataFrame(values, index=section.obs_names).to_csv(tmp_path / "S1.csv")
    im.embeddings(section, tmp_path / "S1.csv", encoder=name, patch_um=112)
    assert section.uns["X_image"]["encoder"] == known


def test_the_entry_survives_a_file(section, values, tmp_path):
    pd.DataFrame(values, index=section.obs_names).to_csv(tmp_path / "S1.csv")
    ng.im.embeddings(section, tmp_path / "S1.csv")
    section.write_h5ad(tmp_path / "S1.h5ad")
    read = ng.read.h5ad_section(tmp_path / "S1.h5ad")
    assert_array_equal(read.obsm[Key.obsm.image], section.obsm[Key.obsm.image])
    assert read.uns[Key.uns.image]["made_from"]["embeddings"] == section.uns[Key.uns.image]["made_from"]["embeddings"]
