"""From a section to the graph that a model reads."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from nh2st_graph import Config, DataError, ImageError, im
from nh2st_graph.im._jitter import section_jitters
from nh2st_graph.models import patients_of
from nh2st_graph.section import library_size, panel_counts, section_name, targets
from nh2st_graph.train import Preparation, Standardizer, _complete, image_only

from ..prepared import complete_section, section_graph

GENES = ["NBR02", "OWN01"]


class TestStandardizer:
    def test_by_section_gives_mean_0_and_deviation_1_in_each(self):
        rng = np.random.default_rng(0)
        sections = [rng.normal(5 * k, k + 1, (40, 3)).astype(np.float32) for k in range(2)]
        standardize = Standardizer.fit(sections, "section")
        for features in sections:
            scaled = standardize(features)
            assert scaled.dtype == np.float32
            assert_allclose(scaled.mean(axis=0), 0, atol=1e-6)
            assert_allclose(scaled.std(axis=0), 1, rtol=1e-5)

    def test_by_training_sections_scales_all_alike(self):
        rng = np.random.default_rng(0)
        sections = [rng.normal(5 * k, k + 1, (40, 3)).astype(np.float32) for k in range(2)]
        standardize = Standardizer.fit(sections, "train")
        joined = np.vstack(sections).astype(float)
        assert_allclose(np.vstack([standardize(s) for s in sections]).mean(axis=0), 0, atol=1e-6)
        other = rng.normal(size=(7, 3)).astype(np.float32)
        assert_allclose(standardize(other), (other - joined.mean(axis=0)) / joined.std(axis=0), rtol=1e-5)

    @pytest.mark.parametrize("mode", ["section", "train"])
    @pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 254.7, 1e6])
    def test_a_constant_feature_becomes_zero(self, mode, value):
        features = np.column_stack([np.full(50, value), np.arange(50)]).astype(np.float32)
        scaled = Standardizer.fit([features], mode)(features)
        assert not scaled[:, 0].any()
        assert_allclose(scaled[:, 1].std(), 1, rtol=1e-5)

    @pytest.mark.parametrize("type_", [np.uint8, np.float32])
    def test_none_leaves_features_what_they_are(self, type_):
        features = np.random.default_rng(0).integers(0, 256, (30, 4)).astype(type_)
        standardize = Standardizer.fit(iter([features]), "none")
        again = Standardizer(standardize.mean.copy(), standardize.std.copy())
        for each in (standardize, again):
            scaled = each(features)
            assert scaled.dtype == type_
            assert_array_equal(scaled, features)

    @pytest.mark.parametrize("mode", ["section", "train"])
    def test_bytes_are_scaled_as_numbers_are(self, mode):
        features = np.random.default_rng(0).integers(0, 256, (30, 4), dtype=np.uint8)
        scaled = Standardizer.fit([features], mode)(features)
        assert scaled.dtype == np.float32
        assert_array_equal(scaled, Standardizer.fit([features.astype(float)], mode)(features.astype(float)))

    def test_large_features_with_a_small_spread_keep_it(self):
        features = (1000 + np.random.default_rng(0).normal(0, 0.5, (60, 1))).astype(np.float32)
        assert_allclose(Standardizer()(features).std(), 1, rtol=1e-5)


class TestCompleteSection:
    @pytest.fixture
    def encoded(self, monkeypatch) -> list[str]:
        """Names of the sections whose features were computed."""
        calls: list[str] = []
        original = _complete.add_features

        def counted(section, *args, **kwargs):
            calls.append(section_name(section))
            return original(section, *args, **kwargs)

        monkeypatch.setattr(_complete, "add_features", counted)
        return calls

    def test_leaves_the_section_as_it_was(self, few_spots, tiny_config):
        section = few_spots["S1"].copy()
        before = section.copy()
        done = complete_section(section, tiny_config)
        assert set(done.obsm) > set(section.obsm) == set(before.obsm)
        assert set(section.obsp) == set(before.obsp) == set()
        assert set(section.uns) == set(before.uns)
        done.obsm["spatial"][:] = 0
        done.uns["spatial"]["S1"]["metadata"]["microns_per_pixel"] = 9.0
        assert_array_equal(section.obsm["spatial"], before.obsm["spatial"])
        assert section.uns["spatial"]["S1"]["metadata"]["microns_per_pixel"] == 2.0

    def test_uses_what_is_there(self, few_spots, tiny_config, encoded):
        done = complete_section(few_spots["S1"], tiny_config)
        assert len(encoded) == 1
        done.obsm["X_image"] += 1
        again = complete_section(done, tiny_config)
        assert len(encoded) == 1
        assert_array_equal(again.obsm["X_image"], done.obsm["X_image"])

    @pytest.mark.parametrize("change", [{"encoder": "squidpy:histogram"}, {"patch_um": 80.0}])
    def test_computes_features_anew_where_the_configuration_asks_for_others(
        self, few_spots, tiny_config, encoded, change
    ):
        done = complete_section(few_spots["S1"], tiny_config)
        other = tiny_config.model_copy(update={"features": tiny_config.features.model_copy(update=change)})
        again = complete_section(done, other)
        assert len(encoded) == 2
        for key, value in change.items():
            assert again.uns["X_image"][key] == value
        assert not np.array_equal(again.obsm["X_image"], done.obsm["X_image"])

    def test_builds_another_graph_where_the_configuration_asks_for_it(self, few_spots, tiny_config, encoded):
        done = complete_section(few_spots["S1"], tiny_config)
        other = tiny_config.override(["graph.mode=knn", "graph.n_neighs=3"])
        again = complete_section(done, other)
        assert (again.obsp["spatial_connectivities"].sum(axis=1) == 3).all()
        assert (done.obsp["spatial_connectivities"].sum(axis=1) != 3).any()
        assert len(encoded) == 1

    @pytest.mark.parametrize("mode", ["grid", "knn", "delaunay"])
    def test_does_not_depend_on_the_order_of_the_spots(self, few_spots, tiny_config, mode):
        """On a lattice nearest neighbours tie, so that the order could choose among them."""
        config = tiny_config.override([f"graph.mode={mode}"])
        section = few_spots["S1"]
        shuffled = section[np.random.default_rng(0).permutation(section.n_obs)].copy()
        first, second = complete_section(section, config), complete_section(shuffled, config)
        assert list(first.obs_names) == list(second.obs_names)
        assert_array_equal(first.obsm["X_image"], second.obsm["X_image"])
        assert (first.obsp["spatial_connectivities"] != second.obsp["spatial_connectivities"]).nnz == 0

    def test_refuses_spots_off_the_tissue_unless_told_not_to(self, tiny_sections, tiny_config):
        moved = tiny_sections["S3"].copy()
        moved.obsm["spatial"] /= 4
        with pytest.raises(ImageError, match=r"coordinates look scaled by .*multiply obsm\['spatial'\] by 4;"):
            complete_section(moved, tiny_config)
        unchecked = complete_section(moved, tiny_config.override(["features.check_placement=false"]))
        assert unchecked.obsm["X_image"].shape[0] == moved.n_obs

    def test_refuses_features_that_are_no_numbers(self, few_spots, tiny_config):
        done = complete_section(few_spots["S1"], tiny_config)
        done.obsm["X_image"][3, 2] = np.nan
        with pytest.raises(DataError, match=r"section 'S1': obsm\['X_image'\] has values that are not numbers"):
            complete_section(done, tiny_config)


class TestSectionGraph:
    @pytest.fixture(scope="class")
    def section(self, few_spots, tiny_config) -> AnnData:
        return complete_section(few_spots["S1"], tiny_config)

    def test_carries_targets_counts_and_library_by_spot(self, section, tiny_config):
        graph = section_graph(section, tiny_config, Standardizer(), GENES)
        assert graph.spots == list(section.obs_names)
        assert_allclose(graph.y, targets(section, GENES, **tiny_config.data.target), rtol=1e-6)
        assert_array_equal(graph.counts, panel_counts(section, GENES))
        assert_array_equal(graph.library[:, 0], library_size(section))

    @pytest.mark.parametrize("normalize", ["total", "panel"])
    def test_targets_times_library_are_counts(self, section, tiny_config, normalize):
        """The negative binomial's mean is the share that a target stands for, of the library that it is relative to."""
        config = tiny_config.override([f"data.normalize={normalize}"])
        graph = section_graph(section, config, Standardizer(), GENES)
        assert_allclose(np.expm1(graph.y) / 1e4 * graph.library, graph.counts, rtol=1e-4)

    def test_names_a_patient_that_is_known(self, section, tiny_config):
        assert section_graph(section, tiny_config, Standardizer()).patient == "P1"
        nameless = section.copy()
        nameless.obs["patient"] = pd.Categorical(["unknown (S1)"] * nameless.n_obs)
        graph = section_graph(nameless, tiny_config, Standardizer())
        assert "patient" not in graph
        assert patients_of([graph]) == ["unknown (S1)"]

    def test_names_the_encoders_that_features_are_of(self, few_spots, tiny_config):
        blocks = [["pixels:1", 112], ["squidpy:summary", 112], ["pixels:1", 56]]
        config = tiny_config.change({"features.encoders": blocks})
        graph = section_graph(complete_section(few_spots["S1"], config), config, Standardizer())
        assert graph.encoders.split("\n") == ["pixels:1", "squidpy:summary"]
        assert graph.x_groups[0].unique_consecutive().tolist() == [0, 1, 0]
        assert graph.x_groups.shape == (1, graph.x.shape[1])

    def test_without_genes_looks_at_no_count(self, section, tiny_config):
        graph = section_graph(section[:, :0].copy(), tiny_config, Standardizer())
        assert not {"y", "counts", "library"} & set(graph.keys())
        whole = section_graph(section, tiny_config, Standardizer(), GENES)
        assert_array_equal(graph.x, whole.x)
        assert_array_equal(graph.edge_index, whole.edge_index)

    @pytest.mark.parametrize(("mode", "type_"), [("none", torch.uint8), ("section", torch.float32)])
    def test_pixels_are_bytes_where_they_are_not_scaled(self, few_spots, tiny_config, mode, type_):
        config = tiny_config.override(["features.encoder=pixels:8", f"features.standardize={mode}"])
        done = complete_section(few_spots["S1"], config)
        pixels = done.obsm["X_image"]
        assert pixels.dtype == np.uint8
        graph = section_graph(done, config, Standardizer.fit([pixels], mode))
        assert graph.x.dtype == type_
        if mode == "none":
            assert_array_equal(graph.x, pixels)

    def test_features_of_another_length_are_refused(self, section, tiny_config):
        standardize = Standardizer(np.zeros(3, np.float32), np.ones(3, np.float32))
        with pytest.raises(DataError, match="image features, the model was trained on 3; compute them with the same"):
            section_graph(section, tiny_config, standardize)

    def test_one_spot_is_refused_where_it_can_say_nothing(self, section, tiny_config):
        one = complete_section(section[:1].copy(), tiny_config)
        trained = Standardizer.fit([np.asarray(section.obsm["X_image"])], "train")
        for standardize, genes in ((Standardizer(), None), (Standardizer(), GENES), (trained, GENES)):
            with pytest.raises(DataError, match="section 'S1': one spot alone cannot be trained on, scored, or"):
                section_graph(one, tiny_config, standardize, genes)
        assert section_graph(one, tiny_config, trained).num_nodes == 1

    def test_few_spots_are_told(self, section, tiny_config, caplog):
        section_graph(complete_section(section[:5].copy(), tiny_config), tiny_config, Standardizer())
        assert "section 'S1' has 5 spots, too few for statistics of its own" in caplog.text


class TestViews:
    """Training sections in other stains."""

    @pytest.fixture(scope="class")
    def config(self, tiny_config) -> Config:
        return tiny_config.override(["features.stain_views=2", "features.stain_jitter=0.2"])

    @pytest.fixture(scope="class")
    def sections(self, few_spots) -> list[dict[str, AnnData]]:
        """Training sections and a test section; those with features, too."""
        return [{name: few_spots[name] for name in names} for names in (("S1",), ("S3",))]

    @pytest.fixture(scope="class")
    def learned(self, config, sections):
        return Preparation.learn(config, *sections, genes=GENES)

    def test_are_features_of_the_section_in_other_stains_each_standardised(self, learned, config):
        (prepared,) = learned.train
        graph, section = prepared.measured, prepared.section
        assert graph.x_views.shape == (section.n_obs, 2, graph.x.shape[1])
        assert graph.x_views.dtype == torch.float32
        assert_allclose(graph.x_views.mean(dim=0), 0, atol=1e-5)
        for i, jitter in enumerate(section_jitters(section, 2, 0.2)):
            alone = im.features(section, "squidpy:summary", 112, stain=jitter, progress=False, copy=True)
            assert_array_equal(graph.x_views[:, i], Standardizer()(alone.obsm["X_image"]))
            assert not np.allclose(graph.x_views[:, i], graph.x, atol=1e-3)

    def test_are_of_training_alone(self, learned):
        (train,), (test,) = learned.train, learned.tests
        assert "x_views" not in test.graph
        assert "x_views" not in image_only(train.measured)
        assert "x_views" not in learned.preparation.prepare(train.section).graph

    def test_without_them_nothing_changes(self, learned, config, sections):
        plain = Preparation.learn(config.override(["features.stain_views=0"]), *sections, genes=GENES)
        graph, with_views = plain.train[0].measured, learned.train[0].measured
        assert set(with_views.keys()) - set(graph.keys()) == {"x_views"}
        assert_array_equal(graph.x, with_views.x)
        assert_array_equal(plain.train[0].section.uns["X_image"]["cache_key"], self.keys(learned))

    def keys(self, learned) -> np.ndarray:
        return learned.train[0].section.uns["X_image"]["cache_key"]

    def test_by_the_statistics_of_training_sections_a_shift_stays(self, config, sections):
        done = Preparation.learn(config.override(["features.standardize=train"]), *sections, genes=GENES)
        assert np.abs(done.train[0].graph.x_views.mean(dim=0)).max() > 0.1

    def test_features_that_are_there_need_the_image_for_them(self, learned, config, sections, tmp_path):
        known = learned.train[0].section.copy()
        again = Preparation.learn(config, {"S1": known}, sections[1], genes=GENES)
        assert_array_equal(again.train[0].graph.x_views, learned.train[0].graph.x_views)
        (entry,) = known.uns["spatial"].values()
        entry["metadata"]["source_image_path"] = str(tmp_path / "gone.png")
        with pytest.raises(ImageError, match=r"stain_views=2 .*'S1'.*gone\.png"):
            Preparation.learn(config, {"S1": known}, sections[1], genes=GENES)

    def test_features_in_another_stain_are_not_the_sections_own(self, sections, tiny_config):
        section = im.features(
            sections[0]["S1"], "squidpy:summary", 112, stain=im.StainJitter(), progress=False, copy=True
        )
        done = complete_section(section, tiny_config)
        assert "stain" not in done.uns["X_image"]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("normalize", "smooth"), [("total", "3x3"), ("panel", "3x3"), ("panel", "none"), ("residuals", "none")]
)
def test_spots_without_counts_are_said_once(few_spots, tiny_config, caplog, monkeypatch, normalize, smooth, large):
    monkeypatch.setattr("nh2st_graph.train._prepare.LARGE", 1 if large else 50_000)
    changes = [f"data.normalize={normalize}", f"data.smooth={smooth}"]
    section, config = few_spots["S1"].copy(), tiny_config.override(changes)
    counts = section.X.toarray()
    counts[[3, 5]] = 0
    counts[7, section.var_names.get_indexer(GENES)] = 0
    section.X = sparse.csr_matrix(counts)
    prepared = Preparation.of(config, GENES, Standardizer()).prepare(section)
    n, of = (3, " of the panel") if normalize == "panel" else (2, "")
    assert tuple(prepared.measured.y.shape) == prepared.observed.shape == (section.n_obs, 2)
    assert caplog.text.count("spots have no counts") == 1
    assert f"section 'S1': {n} of {section.n_obs} spots have no counts{of}, and count as measured zeros" in caplog.text
