"""A prediction comes from the image alone, and squidpy goes on with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import get_args

import anndata as ad
import matplotlib.pyplot as plt
import numba
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import squidpy as sq
import torch
from anndata import AnnData
from numpy.testing import assert_array_equal
from scipy import sparse

from nh2st_graph import ConfigError, DataError, tl
from nh2st_graph.config import Config, ModelConfig
from nh2st_graph.models import NH2STGraph
from nh2st_graph.section import targets
from nh2st_graph.tl import FittedModel
from nh2st_graph.train import Sources, Standardizer

from ..prepared import complete_section

MakeModel = Callable[[list[str]], FittedModel]

#: What another value of a switch may ask for beside it.
_WITH = ([], ["model.edge_features=none"], ["model.contrast=spot"], ["model.contrast=neighbourhood"])


def _each_switch() -> Iterator[list[str]]:
    """Every value of every switch of the model, one at a time: what is added to the schema is tested by itself."""
    for name, field in ModelConfig.model_fields.items():
        values = ("true", "false") if field.annotation is bool else get_args(field.annotation)
        for value in values:
            if value != str(field.default).lower():
                yield from _first_valid([f"model.{name}={value}"])


def _first_valid(changes: list[str]) -> Iterator[list[str]]:
    for more in _WITH:
        try:
            Config().override([*changes, *more])
        except ConfigError:
            continue
        yield [*changes, *more]
        return


#: Configurations of the model and of what it reads, as changes of the tiny one.
CONFIGURATIONS = [
    [],
    *_each_switch(),
    ["model.hops=2"],
    ["model.hops=3", "model.jumping=cat", "model.self_loops=true"],
    ["model.hops=2", "model.contrast_on=attended", "model.cross_attention=single"],
    ["model.regression=nb", "data.normalize=panel"],
    ["model.contrast=none", "model.cross_attention=none", "model.neighbours=false"],
    ["data.normalize=residuals", "data.smooth=3x3"],
    ["features.standardize=train", "graph.mode=knn"],
    ["features.standardize=none", "graph.mode=delaunay"],
    ["graph.mode=radius", "graph.n_rings=2"],
    ["graph.mode=none"],
]

#: What features are made of, as changes of the tiny configuration.
FEATURES = [
    ["features.encoders=[[squidpy:summary, 56], [squidpy:summary, 112]]"],
    ["features.views=8"],
    ["features.stain=reinhard", "data.bad_spots=drop"],
    ["features.embeddings='obsm:X_image'"],
    ["features.floor_centres=true", "features.standardize=train"],
]

configurations = pytest.mark.parametrize("changes", CONFIGURATIONS, ids=lambda changes: " ".join(changes) or "default")


@pytest.fixture(scope="module")
def completed(tiny_sections, tiny_config) -> dict[str, AnnData]:
    """The sections with their features, so that many configurations need not read them anew."""
    return {name: complete_section(section, tiny_config) for name, section in tiny_sections.items()}


@pytest.fixture(scope="module")
def section(completed) -> AnnData:
    return completed["S3"]


@pytest.fixture(scope="module")
def drawn(tiny_run, completed, tiny_config) -> MakeModel:
    """Make a model of a changed configuration whose every weight is drawn: one that starts at zero hides its path."""

    def make(changes: list[str]) -> FittedModel:
        config, genes, train = tiny_config.override(changes), tiny_run.model.genes, completed["S1"]
        standardize = Standardizer.fit([train.obsm["X_image"]], config.features.standardize)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = NH2STGraph(config.model, train.obsm["X_image"].shape[1], len(genes))
            module.set_targets(torch.from_numpy(targets(train, genes, **config.data.target).to_numpy()).float())
            for weight in module.parameters():
                torch.nn.init.normal_(weight, std=0.3)
        without = {"folds": [], "familiarity": None, "confidence": None}
        return replace(tiny_run.model, module=module.eval(), config=config, standardize=standardize, **without)

    return make


def with_other_genes(section: AnnData) -> dict[str, AnnData]:
    """The section with everything that was measured changed, in every way."""
    rng = np.random.default_rng(0)
    counts = section.X.toarray()

    def counted(values: np.ndarray) -> AnnData:
        other = section.copy()
        other.X = sparse.csr_matrix(values.astype(np.float32))
        return other

    layers = counted(rng.poisson(9.0, counts.shape))
    layers.raw = layers
    layers.obs["total_counts"] = layers.X.sum(axis=1).A1
    for name in (*layers.layers, "observed"):
        layers.layers[name] = rng.poisson(9.0, counts.shape).astype(np.float32)
    for name in [each for each in layers.obsm if each not in {"spatial", "X_image"}]:
        layers.obsm[name] = rng.normal(size=layers.obsm[name].shape)
    renamed = section.copy()
    renamed.var_names = [f"other{i}" for i in range(section.n_vars)]
    return {
        "other counts": counted(rng.poisson(40.0, counts.shape)),
        "no counts": counted(np.zeros_like(counts)),
        "other library sizes": counted(counts * rng.integers(1, 9, (len(counts), 1))),
        "counts of other spots": counted(counts[rng.permutation(len(counts))]),
        "other layers": layers,
        "genes in another order": section[:, rng.permutation(section.n_vars)].copy(),
        "other genes": renamed,
        "a panel gene less": section[:, 1:].copy(),
        "no genes": section[:, :0].copy(),
    }


class TestGenesNeverReachAPrediction:
    @pytest.fixture(scope="class")
    def others(self, section) -> dict[str, AnnData]:
        return with_other_genes(section)

    @configurations
    def test_by_one_bit_in_any_configuration(self, drawn, section, others, changes):
        model = drawn(changes)
        expected = tl.predict(section, model, intervals=False).X
        assert np.isfinite(expected).all()
        assert (expected.std(axis=0) > 0).all()
        for name in ("other layers", "no genes"):
            assert_array_equal(tl.predict(others[name], model, intervals=False).X, expected, err_msg=name)
        image = section.copy()
        image.obsm["X_image"] = np.roll(image.obsm["X_image"], 1, axis=0)
        moved = tl.predict(image, model, intervals=False).X
        assert not np.array_equal(moved, expected), "a model that reads nothing passes anything"

    def test_whatever_changes(self, tiny_run, tiny_sections):
        """From the section as it is read: features and graph are computed on the way."""
        expected = tl.predict(tiny_sections["S3"], tiny_run.model).X
        for name, other in with_other_genes(tiny_sections["S3"]).items():
            assert_array_equal(tl.predict(other, tiny_run.model).X, expected, err_msg=name)

    @pytest.mark.parametrize("changes", FEATURES, ids=" ".join)
    def test_whatever_features_are_made_of(self, completed, tiny_config, changes):
        train, section = (completed[name][::6].copy() for name in ("S1", "S3"))
        model = tl.fit([train], tiny_config.override(["model.name=reduced_rank_ridge", *changes]))
        model = replace(model, sources=Sources(cache=False))  # cached features would hide that they depend on genes
        expected = tl.predict(section, model).X
        assert (expected.std(axis=0) > 0).all()
        others = with_other_genes(section)
        for name in ("other layers", "no genes"):
            assert_array_equal(tl.predict(others[name], model).X, expected, err_msg=name)

    @pytest.mark.parametrize(
        "changes",
        [[], ["model.projection=false"], ["model.contrast_on=attended"], ["model.contrast=none"], ["model.hops=2"]],
        ids=lambda changes: " ".join(changes) or "default",
    )
    def test_nor_the_embeddings_of_the_image(self, drawn, section, others, changes):
        model = drawn(changes)
        expected = tl.embed(section, model, copy=True).obsm
        assert (expected["X_nh2st_image"].std(axis=0) > 0).all()
        for name, other in others.items():
            found = tl.embed(other, model, copy=True).obsm
            assert_array_equal(found["X_nh2st_image"], expected["X_nh2st_image"], err_msg=name)
            if name == "other counts" and "X_nh2st_gene" in expected:
                assert not np.array_equal(found["X_nh2st_gene"], expected["X_nh2st_gene"]), "that of the genes moves"


class TestWhatDecidesNothing:
    @pytest.mark.parametrize("mode", ["grid", "knn", "radius", "delaunay", "random"])
    def test_the_order_of_the_spots(self, drawn, tiny_sections, mode):
        model, section = drawn([f"graph.mode={mode}", "model.hops=2"]), tiny_sections["S3"]
        expected = tl.predict(section, model)
        embedded = tl.embed(section, model, copy=True)
        for seed in range(2):
            order = np.random.default_rng(seed).permutation(section.n_obs)
            shuffled = section[order].copy()
            found = tl.predict(shuffled, model)
            assert list(found.obs_names) == list(shuffled.obs_names)
            assert_array_equal(found.X, expected.X[order])
            assert_array_equal(found.layers["observed"], expected.layers["observed"][order])
            assert_array_equal(found.obsm["spatial"], expected.obsm["spatial"][order])
            before, after = (each.obsp["spatial_connectivities"].toarray() for each in (expected, found))
            assert_array_equal(after, before[np.ix_(order, order)])
            tl.embed(shuffled, model)
            for key in ("X_nh2st_image", "X_nh2st_gene"):
                assert_array_equal(shuffled.obsm[key], embedded.obsm[key][order])

    def test_the_section_that_is_given_stays_as_it_was(self, tiny_run, tiny_sections):
        section = tiny_sections["S3"].copy()
        prediction = tl.predict(section, tiny_run.model)
        assert set(section.obsm) == set(tiny_sections["S3"].obsm)
        assert not section.obsp
        prediction.obsm["spatial"][:] = 0
        prediction.obs["section"] = "other"
        assert_array_equal(section.obsm["spatial"], tiny_sections["S3"].obsm["spatial"])
        assert set(section.obs["section"]) == {"S3"}


class TestNeighbours:
    def test_without_the_branch_a_spot_is_a_perceptron_of_its_own_features(self, drawn, section):
        model = drawn(["model.neighbours=false"])
        graph = model.preparation.prepare(section).graph
        module, x = model.module.double(), graph.x.double()
        nothing = torch.empty(2, 0, dtype=torch.long), torch.empty(0, 3, dtype=torch.float64)
        drawn_edges = torch.randint(len(x), graph.edge_index.shape), torch.rand_like(graph.edge_attr).double()
        with torch.no_grad():
            one_by_one = torch.cat([module(row[None], *nothing).expression for row in x])
            for edges in (nothing, drawn_edges, (graph.edge_index, graph.edge_attr.double())):
                torch.testing.assert_close(module(x, *edges).expression, one_by_one, rtol=1e-10, atol=1e-10)
            query = module.image_encoder
            by_hand = query.linear(x) + query.out(query.hidden(x))
            torch.testing.assert_close(module.decoder(by_hand), one_by_one, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("hops", [1, 2])
    def test_with_it_a_spot_reads_as_many_edges_away_as_there_are_hops(self, drawn, section, hops):
        model = drawn([f"model.hops={hops}", "features.standardize=train"])
        steps = section.obsp["spatial_connectivities"].toarray() > 0
        near = np.linalg.matrix_power(steps + np.eye(len(steps)), hops) > 0
        expected, i = tl.predict(section, model).X, 20
        for others, moves in ((~near[i], False), (near[i] & (np.arange(len(steps)) != i), True)):
            assert others.any()
            changed = section.copy()
            changed.obsm["X_image"][others] += 1
            assert np.array_equal(tl.predict(changed, model).X[i], expected[i]) is not moves

    def test_a_spot_without_any_has_its_own_features_alone(self, drawn, section):
        model = drawn(["features.standardize=train"])
        lonely = section.obs_names[20]
        near = section.obsp["spatial_connectivities"].toarray()[20] > 0
        apart = section[~near].copy()
        del apart.obsp["spatial_connectivities"], apart.obsp["spatial_distances"], apart.uns["spatial_neighbors"]
        prediction = tl.predict(apart, model)
        assert not prediction[lonely].obsp["spatial_connectivities"].nnz
        assert np.isfinite(prediction.X).all()
        others = apart.copy()
        others.obsm["X_image"][apart.obs_names != lonely] += 1
        moved = tl.predict(others, model)
        assert_array_equal(moved[lonely].X, prediction[lonely].X)
        assert not np.array_equal(moved.X, prediction.X)
        alone = tl.predict(apart[lonely].copy(), model)
        np.testing.assert_allclose(alone.X, prediction[lonely].X, rtol=1e-5, atol=1e-5)


class TestPrediction:
    @pytest.fixture(scope="class")
    def prediction(self, tiny_run, tiny_sections) -> AnnData:
        return tl.predict(tiny_sections["S3"], tiny_run.model)

    def test_holds_what_its_description_says(self, prediction, tiny_run, tiny_sections, tiny_config):
        section, model = tiny_sections["S3"], tiny_run.model
        assert prediction.shape == (section.n_obs, 12)
        assert prediction.X.dtype == prediction.layers["observed"].dtype == np.float32
        assert list(prediction.var_names) == model.genes
        assert list(prediction.obs_names) == list(section.obs_names)
        observed = targets(section, model.genes, **tiny_config.data.target)
        assert_array_equal(prediction.layers["observed"], observed.to_numpy().astype(np.float32))
        assert prediction.obs.drop(columns="familiarity").equals(section.obs)
        assert_array_equal(prediction.obsm["spatial"], section.obsm["spatial"])
        assert prediction.obsm["spatial"].dtype == np.float64
        assert prediction.uns["spatial"]["S3"]["metadata"] == section.uns["spatial"]["S3"]["metadata"]
        assert_array_equal(
            prediction.uns["spatial"]["S3"]["images"]["hires"], section.uns["spatial"]["S3"]["images"]["hires"]
        )
        said = prediction.uns["nh2st_prediction"]
        assert said["section"] == "S3"
        assert said["train_sections"] == ["S1", "S2"]
        assert said["encoder"] == tiny_config.features.encoder

    def test_survives_the_disk(self, prediction, tmp_path):
        prediction.write_h5ad(tmp_path / "S3.h5ad")
        again = ad.read_h5ad(tmp_path / "S3.h5ad")
        assert_array_equal(again.X, prediction.X)
        assert (again.obsp["spatial_connectivities"] != prediction.obsp["spatial_connectivities"]).nnz == 0
        assert list(again.uns["nh2st_prediction"]["train_sections"]) == ["S1", "S2"]

    def test_nothing_is_observed_where_a_gene_of_the_panel_was_not_measured(self, tiny_run, tiny_sections):
        section = tiny_sections["S3"]
        some = section[:, section.var_names != tiny_run.model.genes[0]].copy()
        for each in (some, section[:, :0].copy()):
            assert "observed" not in tl.predict(each, tiny_run.model).layers

    @pytest.mark.parametrize("stored", [False, True], ids=["in memory", "of a run"])
    def test_squidpy_goes_on_from_it(self, prediction, tiny_run, stored, monkeypatch):
        # numba refuses another number of threads than it began with.
        monkeypatch.setenv("NUMBA_NUM_THREADS", str(numba.config.NUMBA_NUM_THREADS))
        adata = ad.read_h5ad(tiny_run.folder / "predictions" / "S3.h5ad") if stored else prediction.copy()
        sq.gr.spatial_autocorr(adata, mode="moran", n_jobs=1, show_progress_bar=False)
        assert sorted(adata.uns["moranI"].index) == sorted(adata.var_names)
        assert adata.uns["moranI"]["I"].between(-1, 1).all()
        high = adata.X[:, 0] > np.median(adata.X[:, 0])
        adata.obs["half"] = pd.Categorical(np.where(high, "high", "low"))
        sq.gr.nhood_enrichment(adata, cluster_key="half", n_perms=10, seed=0, show_progress_bar=False)
        assert np.isfinite(adata.uns["half_nhood_enrichment"]["zscore"]).all()
        for more in ({"layer": "observed"}, {"library_key": "section", "library_id": ["S3"]}):
            sq.pl.spatial_scatter(adata, color=[adata.var_names[0], "half"], connectivity_key=None, **more)
        axes = plt.gcf().axes
        assert axes[0].images, "the H&E"
        assert axes[0].collections, "the spots"


class TestVaries:
    """``var["nh2st_varies"]``: genes that squidpy and scanpy can go on with."""

    @pytest.fixture
    def changed(self, monkeypatch) -> Callable[[Callable[[torch.Tensor], None]], None]:
        """Change what the network predicts, ``(n_spots, n_genes)``."""

        def start(change: Callable[[torch.Tensor], None]) -> None:
            predict = NH2STGraph.predict

            def predicted(self, data):
                values = predict(self, data).clone()
                change(values)
                return values

            monkeypatch.setattr(NH2STGraph, "predict", predicted)

        return start

    @pytest.mark.parametrize(
        ("gene", "varies"),
        [
            ([1.0, 1.0, 1.0], False),
            ([0.0, 0.0, 0.0], False),
            ([np.log(2), np.nextafter(np.float32(np.log(2)), np.float32(1)), np.log(2)], False),
            ([1.0, 1.001, 1.0], True),
            ([-0.1, 0.0, 0.1], True),
        ],
    )
    def test_more_than_by_rounding(self, tiny_run, tiny_sections, changed, gene, varies):
        def first(values):
            values[:, 0] = torch.from_numpy(np.resize(np.array(gene, np.float32), len(values)))

        changed(first)
        prediction = tl.predict(tiny_sections["S3"], tiny_run.model)
        assert set(prediction.X[:, 0]) == set(np.array(gene, np.float32))
        assert prediction.var["nh2st_varies"].iloc[0] == varies

    def test_of_a_section_and_of_several(self, tiny_run, tiny_sections):
        prediction = tl.predict(tiny_sections["S3"], tiny_run.model)
        varies = prediction.var["nh2st_varies"]
        assert varies.dtype == bool
        assert varies.tolist() == (np.ptp(prediction.X, axis=0) > 1e-6 * np.abs(prediction.X).max(axis=0)).tolist()
        assert varies.any()

    def test_what_is_left_is_what_the_readme_shows(self, tiny_run, tiny_sections, changed):
        """With a flat gene Moran's I has no FDR, ``scale`` gives NaN, and below 0 so do fold changes."""

        def flat_and_negative(values):
            values[:, 0] = np.log(2)
            values[:, 1] -= values[:, 1].max()

        changed(flat_and_negative)
        prediction = tl.predict(tiny_sections["S3"], tiny_run.model)
        varying = prediction[:, prediction.var["nh2st_varies"]].copy()
        assert list(prediction.var_names[:1]) == [
            gene for gene in prediction.var_names if gene not in varying.var_names
        ]
        varying.layers["clipped"] = varying.X.clip(min=0)
        sq.gr.spatial_autocorr(varying, mode="moran")
        assert varying.uns["moranI"]["pval_norm_fdr_bh"].notna().all()
        assert np.isfinite(sc.pp.scale(varying, copy=True).X).all()
        varying.obs["half"] = pd.Categorical(np.arange(varying.n_obs) % 2 == 0).rename_categories(["a", "b"])
        sc.tl.rank_genes_groups(varying, "half", layer="clipped")
        changes = varying.uns["rank_genes_groups"]["logfoldchanges"]
        assert all(np.isfinite(changes[name]).all() for name in changes.dtype.names)


class TestFeaturesUnderAnotherKey:
    def test_are_used_where_they_are_what_the_model_reads(self, drawn, section):
        model, under_another = drawn([]), section.copy()
        expected = tl.predict(section, model).X
        other = np.roll(section.obsm["X_image"], 1, axis=0)
        del under_another.obsm["X_image"]
        under_another.obsm["X_mine"], under_another.uns["X_mine"] = other, under_another.uns.pop("X_image")
        moved = section.copy()
        moved.obsm["X_image"] = other
        assert_array_equal(tl.predict(under_another, model).X, tl.predict(moved, model).X)
        assert "X_image" not in under_another.obsm
        # Those of another encoder are not, and the usual key goes first.
        under_another.uns["X_mine"]["encoder"] = "squidpy:histogram"
        assert_array_equal(tl.predict(under_another, model).X, expected)
        both = section.copy()
        both.obsm["X_mine"], both.uns["X_mine"] = other, both.uns["X_image"]
        assert_array_equal(tl.predict(both, model).X, expected)


class TestEmbed:
    def test_writes_under_another_key(self, tiny_run, drawn, tiny_sections):
        section, expected = tiny_sections["S3"].copy(), tl.embed(tiny_sections["S3"], tiny_run.model, copy=True)
        tl.embed(section, tiny_run.model, key_added="second")
        tl.embed(section, drawn([]))
        for kind in ("image", "gene"):
            assert_array_equal(section.obsm[f"X_second_{kind}"], expected.obsm[f"X_nh2st_{kind}"])
            assert not np.array_equal(section.obsm[f"X_nh2st_{kind}"], expected.obsm[f"X_nh2st_{kind}"])
        assert section.uns["second_embed"]["model"] == expected.uns["nh2st_embed"]["model"]
        assert section.uns["nh2st_embed"]["model"] != expected.uns["nh2st_embed"]["model"]

    def test_writes_both_sides_or_returns_a_copy(self, tiny_run, tiny_sections, tiny_config):
        section = tiny_sections["S3"].copy()
        before = set(section.obsm)
        other = tl.embed(section, tiny_run.model, copy=True)
        assert set(section.obsm) == before
        assert tl.embed(section, tiny_run.model) is None
        assert set(section.obsm) == {*before, "X_nh2st_image", "X_nh2st_gene"}
        for key in ("X_nh2st_image", "X_nh2st_gene"):
            assert section.obsm[key].shape == (section.n_obs, 2 * tiny_config.model.width)
            assert_array_equal(other.obsm[key], section.obsm[key])

    def test_without_genes_writes_the_images_side(self, tiny_run, tiny_sections):
        section = tiny_sections["S3"][:, :0].copy()
        tl.embed(section, tiny_run.model)
        assert "X_nh2st_image" in section.obsm
        assert "X_nh2st_gene" not in section.obsm

    def test_a_model_without_a_gene_side_writes_the_images(self, drawn, section):
        model = drawn(["model.contrast=none", "model.cross_attention=none"])
        embedded = tl.embed(section, model, copy=True)
        assert embedded.obsm["X_nh2st_image"].shape == (section.n_obs, 2 * model.config.model.width)
        assert "X_nh2st_gene" not in embedded.obsm


def test_one_spot_has_no_statistics_of_its_own(tiny_run, tiny_sections):
    with pytest.raises(DataError, match="section 'S3': one spot alone cannot be"):
        tl.predict(tiny_sections["S3"][:1].copy(), tiny_run.model)


def test_what_was_measured_is_found_under_other_names(tiny_run, tiny_sections, caplog):
    """A model trained on symbols, and a section that names its genes by Ensembl ids."""
    section = tiny_sections["S3"]
    by_id = section.copy()
    by_id.var["gene_name"] = by_id.var_names.to_numpy()
    by_id.var_names = [f"ENSG{j:011d}" for j in range(by_id.n_vars)]
    expected = tl.predict(section, tiny_run.model)
    with caplog.at_level("INFO"):
        found = tl.predict(by_id, tiny_run.model)
    assert_array_equal(found.X, expected.X)
    assert_array_equal(found.layers["observed"], expected.layers["observed"])
    assert f"{len(tiny_run.model.genes)} of {len(tiny_run.model.genes)} panel genes found, by var['gene_name']" in (
        caplog.text
    )
    explained = [tl.explain(each, tiny_run.model, copy=True).var for each in (section, by_id)]
    for column in ("nh2st_neighbour_gain", "nh2st_neighbour_change"):
        assert_array_equal(*[var[column].to_numpy() for var in explained])
