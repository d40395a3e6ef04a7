from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from skimage.color import rgb2hed
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import radius_neighbors_graph
from sklearn.preprocessing import scale

from nh2st_graph import ConfigError, ImageError
from nh2st_graph.datasets import synthetic_tissue
from nh2st_graph.section import check_section, library
from nh2st_graph.slide import open_full

Features = Callable[[AnnData], np.ndarray]


def target(adata: AnnData) -> np.ndarray:
    counts = adata.X.toarray().astype(float)
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)


def own(adata: AnnData) -> np.ndarray:
    return adata.obsm["truth_morphology"].to_numpy()


def around(adata: AnnData) -> np.ndarray:
    return adata.obsm["truth_neighbourhood"].to_numpy()


def selected(adata: AnnData) -> np.ndarray:
    return adata.obsm["truth_interaction"].to_numpy()


def neighbours_mean(adata: AnnData, values: np.ndarray) -> np.ndarray:
    grid = adata.obs[["array_row", "array_col"]].to_numpy()
    ring = radius_neighbors_graph(grid, 1, metric="chebyshev")
    return ring @ values / np.diff(ring.indptr)[:, None]


def seen(adata: AnnData) -> np.ndarray:
    """Simple statistics of each spot's patch, as they are in the image's file."""
    entry = library(adata).metadata
    half = 56 / entry["microns_per_pixel"]
    statistics = []
    with open_full(entry["source_image_path"]) as image:
        for x, y in adata.obsm["spatial"]:
            patch = np.asarray(image.crop((int(x - half), int(y - half), int(x + half), int(y + half))))
            hed = rgb2hed(patch)
            grey = patch.mean(axis=2)
            statistics.append(
                [
                    *patch.mean(axis=(0, 1)),
                    *patch.std(axis=(0, 1)),
                    *hed.mean(axis=(0, 1)),
                    *hed.std(axis=(0, 1)),
                    np.abs(np.diff(grey, axis=0)).mean(),
                    np.abs(np.diff(grey, axis=1)).mean(),
                    (grey > 225).mean(),
                ]
            )
    return scale(np.array(statistics))


def ridge_scores(sections: dict[str, AnnData], features: list[np.ndarray]) -> dict[str, float]:
    """Train on S1 to S3, test on S4: mean Pearson r over the genes of each kind."""
    y = [target(adata) for adata in sections.values()]
    centred = [values - values.mean(axis=0) for values in y]
    model = RidgeCV(np.logspace(-1, 4, 11)).fit(np.vstack(features[:3]), np.vstack(centred[:3]))
    predicted = model.predict(features[3])
    r = (scale(predicted) * scale(y[3])).mean(axis=0)
    kind = sections["S4"].var["kind"].to_numpy()
    return {k: float(r[kind == k].mean()) for k in ("own", "neighbour", "interaction", "noise")}


# What the tissue promises -------------------------------------------------------------------------------


def test_true_morphology_predicts_own_genes_alone(sections: dict[str, AnnData]) -> None:
    score = ridge_scores(sections, [own(adata) for adata in sections.values()])
    assert 0.6 < score["own"] < 0.8
    assert abs(score["neighbour"]) < 0.1
    assert abs(score["interaction"]) < 0.1
    assert abs(score["noise"]) < 0.1


def test_true_surroundings_predict_neighbour_genes_alone(sections: dict[str, AnnData]) -> None:
    score = ridge_scores(sections, [around(adata) for adata in sections.values()])
    assert 0.6 < score["neighbour"] < 0.8
    assert abs(score["own"]) < 0.1
    assert abs(score["interaction"]) < 0.1
    assert abs(score["noise"]) < 0.1


def test_spot_and_neighbours_mean_explain_no_interaction_gene(sections: dict[str, AnnData]) -> None:
    """No linear function of the true variables does, in any section."""
    known = [np.hstack([own(adata), neighbours_mean(adata, own(adata))]) for adata in sections.values()]
    for features, adata in zip(known, sections.values(), strict=True):
        truth = selected(adata)
        explained = np.column_stack([np.ones(len(truth)), features])
        rest = truth - explained @ np.linalg.lstsq(explained, truth, rcond=None)[0]
        assert rest.var() > (1 - 1e-9) * truth.var()
    linear = ridge_scores(sections, known)
    assert abs(linear["interaction"]) < 0.15
    assert linear["neighbour"] > 0.6
    assert linear["own"] > 0.6
    by_truth = ridge_scores(sections, [selected(adata) for adata in sections.values()])
    assert 0.6 < by_truth["interaction"] < 0.8
    assert max(abs(by_truth[kind]) for kind in ("own", "neighbour", "noise")) < 0.1


def test_which_neighbour_counts_depends_on_what_is_in_it(sections: dict[str, AnnData]) -> None:
    """Means by weights that grow with density explain much of what the plain mean does not."""
    for adata in sections.values():
        density = np.exp(2 * own(adata)[:, [0]])
        weighted = neighbours_mean(adata, density * own(adata)) / neighbours_mean(adata, density)
        known = np.column_stack([np.ones(adata.n_obs), neighbours_mean(adata, own(adata))])
        rest = weighted - known @ np.linalg.lstsq(known, weighted, rcond=None)[0]
        r = (scale(rest) * selected(adata)).mean(axis=0)
        assert r.min() > 0.4


def test_images_carry_the_truth(sections: dict[str, AnnData]) -> None:
    patch = [seen(adata) for adata in sections.values()]
    alone = ridge_scores(sections, patch)
    assert alone["own"] > 0.55
    assert abs(alone["neighbour"]) < 0.1
    assert abs(alone["noise"]) < 0.1
    context = [
        np.hstack([features, neighbours_mean(adata, features)])
        for features, adata in zip(patch, sections.values(), strict=True)
    ]
    both = ridge_scores(sections, context)
    assert both["own"] > 0.55
    assert both["neighbour"] > 0.4
    assert both["interaction"] < 0.25
    assert abs(both["noise"]) < 0.1


def test_noise_genes_follow_nothing(sections: dict[str, AnnData]) -> None:
    noise = np.vstack(
        [scale(target(adata)[:, (adata.var["kind"] == "noise").to_numpy()]) for adata in sections.values()]
    )
    truth = np.vstack([np.hstack([own(adata), around(adata), selected(adata)]) for adata in sections.values()])
    r = truth.T @ noise / len(noise)
    assert np.abs(r.mean(axis=1)).max() < 0.04
    assert np.abs(r).max() < 4 / np.sqrt(len(noise))


def test_depth_is_independent_of_the_image(sections: dict[str, AnnData]) -> None:
    depth = np.concatenate(
        [scale(np.log(np.asarray(adata.X.sum(axis=1), float).ravel())) for adata in sections.values()]
    )
    truth = np.vstack([np.hstack([own(adata), around(adata), selected(adata)]) for adata in sections.values()])
    assert np.abs(truth.T @ depth / len(depth)).max() < 4 / np.sqrt(len(depth))


def test_counts_scatter_around_the_truth(sections: dict[str, AnnData]) -> None:
    for adata in sections.values():
        mean = adata.layers["truth_mean"]
        dispersion = adata.uns["nh2st_truth"]["dispersion"]
        z = (adata.X.toarray() - mean) / np.sqrt(mean + dispersion * mean**2)
        assert z.mean() == pytest.approx(0, abs=5 / np.sqrt(z.size))
        assert z.var() == pytest.approx(1, abs=0.1)


def test_surroundings_are_not_a_function_of_the_spot(sections: dict[str, AnnData]) -> None:
    for adata in sections.values():
        mean = neighbours_mean(adata, own(adata))
        r = [np.corrcoef(mean[:, j], own(adata)[:, j])[0, 1] for j in range(4)]
        assert max(r) < 0.85


# The section contract -----------------------------------------------------------------------------------


def test_sections_have_names_patients_and_few_gaps(sections: dict[str, AnnData]) -> None:
    assert list(sections) == ["S1", "S2", "S3", "S4"]
    assert [a.obs["patient"].iloc[0] for a in sections.values()] == ["P1", "P1", "P2", "P2"]
    for name, adata in sections.items():
        check_section(adata, need=("genes", "image"))
        assert 220 <= adata.n_obs <= 256
        row, col = adata.obs["array_row"], adata.obs["array_col"]
        assert list(adata.obs_names) == [f"{name}_{r}x{c}" for r, c in zip(row, col, strict=True)]
        assert adata.X.dtype.kind == "i"
        assert adata.X.format == "csr"
        assert dict(adata.var["kind"].value_counts()) == {"own": 20, "neighbour": 20, "interaction": 20, "noise": 10}
        assert list(adata.obs["domain"].cat.categories) == ["tumour", "stroma", "immune", "fat"]


def test_spots_lie_on_a_grid_of_200_um(sections: dict[str, AnnData]) -> None:
    for adata in sections.values():
        entry = library(adata).entry
        scale_um = entry["metadata"]["microns_per_pixel"]
        grid = adata.obs[["array_col", "array_row"]].to_numpy()
        np.testing.assert_allclose(adata.obsm["spatial"] * scale_um, 250.0 + 200.0 * grid)
        assert entry["scalefactors"]["spot_diameter_fullres"] * scale_um == pytest.approx(100)


def test_images_are_files_and_spots_lie_on_tissue(sections: dict[str, AnnData]) -> None:
    for name, adata in sections.items():
        entry = library(adata).entry
        path = Path(entry["metadata"]["source_image_path"])
        assert path.name == f"{name}.jpg"
        assert [p.name for p in path.parent.glob("*.part")] == []
        hires, scale_hires = entry["images"]["hires"], entry["scalefactors"]["tissue_hires_scalef"]
        with open_full(path) as image:
            assert max(hires.shape) == round(max(image.size) * scale_hires)
            assert np.asarray(image.crop((0, 0, 20, 20))).min() > 215
        x, y = (adata.obsm["spatial"] * scale_hires).astype(int).T
        assert (hires[y, x].mean(axis=1) < 225).mean() > 0.75


def test_h5ad_round_trip(small: AnnData, tmp_path: Path) -> None:
    small.write_h5ad(tmp_path / "S1.h5ad")
    back = check_section(ad.read_h5ad(tmp_path / "S1.h5ad"), need=("genes", "image"))
    assert (back.X != small.X).nnz == 0
    assert back.obs.equals(small.obs)
    assert back.var.equals(small.var)
    for key in ("truth_morphology", "truth_neighbourhood", "truth_interaction"):
        assert back.obsm[key].equals(small.obsm[key])
    assert back.varm["truth_loadings"].equals(small.varm["truth_loadings"])
    np.testing.assert_array_equal(back.layers["truth_mean"], small.layers["truth_mean"])
    assert back.uns["nh2st_truth"] == small.uns["nh2st_truth"]
    assert library(back).metadata == library(small).metadata


# Determinism --------------------------------------------------------------------------------------------

SMALL = {"n_rows": 6, "n_cols": 7, "microns_per_pixel": 4.0}


def test_one_seed_one_tissue_however_many_sections(small: AnnData, small_folder: Path, tmp_path: Path) -> None:
    again = synthetic_tissue(2, seed=5, folder=tmp_path, **SMALL)
    assert (again["S1"].X != small.X).nnz == 0
    assert again["S1"].obsm["truth_morphology"].equals(small.obsm["truth_morphology"])
    assert (tmp_path / "S1.jpg").read_bytes() == (small_folder / "S1.jpg").read_bytes()
    assert (tmp_path / "S1.jpg").read_bytes() != (tmp_path / "S2.jpg").read_bytes()
    np.testing.assert_array_equal(again["S2"].varm["truth_loadings"], small.varm["truth_loadings"])


def test_another_seed_another_tissue(small: AnnData, tmp_path: Path) -> None:
    other = synthetic_tissue(1, seed=6, folder=tmp_path, **SMALL)["S1"]
    assert not np.allclose(other.varm["truth_loadings"], small.varm["truth_loadings"])
    assert not np.array_equal(library(other).hires, library(small).hires)


def test_genes_do_not_move_the_image(small: AnnData, small_folder: Path, tmp_path: Path) -> None:
    other = synthetic_tissue(1, 5, folder=tmp_path, n_own=3, n_neighbour=0, n_noise=1, depth=50.0, **SMALL)
    assert (tmp_path / "S1.jpg").read_bytes() == (small_folder / "S1.jpg").read_bytes()
    assert other["S1"].obsm["truth_morphology"].equals(small.obsm["truth_morphology"])
    assert list(other["S1"].var_names) == ["OWN01", "OWN02", "OWN03", "NOISE01"]


def test_the_truth_is_the_same_at_every_scale(small: AnnData, tmp_path: Path) -> None:
    fine = synthetic_tissue(1, 5, folder=tmp_path, n_rows=6, n_cols=7, microns_per_pixel=2.0)["S1"]
    assert list(fine.obs_names) == list(small.obs_names)
    for key in ("truth_morphology", "truth_neighbourhood"):
        for column in fine.obsm[key]:
            assert np.corrcoef(fine.obsm[key][column], small.obsm[key][column])[0, 1] > 0.98


def test_a_image_that_is_there_stays_and_another_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "S1.jpg"
    synthetic_tissue(1, 5, folder=path.parent, **SMALL)
    written = path.stat()
    synthetic_tissue(1, 5, folder=path.parent, **SMALL)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (written.st_mtime_ns, written.st_ino)
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    synthetic_tissue(1, 5, folder=path.parent, **SMALL)
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["S1.jpg"]


# Bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("n_sections", 0),
        ("n_sections", 2.0),
        ("n_sections", True),
        ("seed", -1),
        ("n_rows", 5),
        ("n_cols", 0),
        ("n_own", 1),
        ("n_neighbour", -2),
        ("n_interaction", 1),
        ("n_interaction", -1),
        ("microns_per_pixel", 0.0),
        ("microns_per_pixel", 40.0),
        ("depth", 0.0),
        ("depth", "many"),
        ("dispersion", -0.1),
        ("strength", float("nan")),
        ("stain_shift", float("inf")),
        ("scanner", -1),
    ],
)
def test_an_argument_out_of_range_is_named(tmp_path: Path, argument: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{argument}=.*; allowed: [^\n]*$"):
        synthetic_tissue(folder=tmp_path / "none", **{argument: value})
    assert not (tmp_path / "none").exists()


def test_another_scanner_shows_the_same_tissue(tmp_path: Path) -> None:
    """Spots, counts and truth are the same; colours are not, and those of one scanner are always the same."""
    made = {k: synthetic_tissue(1, folder=tmp_path / str(k), scanner=k, **SMALL)["S1"] for k in (0, 1, 2)}
    images = {}
    for k, section in made.items():
        assert (section.X != made[0].X).nnz == 0
        assert np.array_equal(section.obsm["spatial"], made[0].obsm["spatial"])
        with open_full(library(section).source) as image:
            images[k] = np.asarray(image).astype(float)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(images[a].mean((0, 1)) - images[b].mean((0, 1))).max() > 3
        assert np.corrcoef(images[a].mean(2).ravel(), images[b].mean(2).ravel())[0, 1] > 0.9
    again = synthetic_tissue(1, folder=tmp_path / "again", scanner=2, **SMALL)["S1"]
    assert Path(library(again).source).read_bytes() == Path(library(made[2]).source).read_bytes()


def test_no_genes_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="all 0"):
        synthetic_tissue(folder=tmp_path, n_own=0, n_neighbour=0, n_noise=0)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ImageError, match=r"file/S1\.jpg cannot be written: .*"):
        synthetic_tissue(1, folder=tmp_path / "file", **SMALL)
