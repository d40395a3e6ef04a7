"""What is found in a bank is what a loop over all pairs finds, in every direction."""

from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from numpy.testing import assert_allclose

import nh2st_graph as ng
from nh2st_graph import ConfigError, DataError, ModelError
from nh2st_graph.models import MclSTExp, NH2STGraph
from nh2st_graph.section import targets
from nh2st_graph.tl import Run
from nh2st_graph.train import patch_encoder

KEYS = {"image": "X_nh2st_image", "gene": "X_nh2st_gene"}
DIRECTIONS = [("image", "gene"), ("gene", "image"), ("image", "image"), ("gene", "gene")]
SCALES = [(None, (0, 1)), (["spot"], (0,)), (["neighbourhood"], (1,))]


@pytest.fixture(scope="module")
def model(tiny_run: Run) -> ng.FittedModel:
    return ng.load(tiny_run.folder)


@pytest.fixture(scope="module")
def embedded(model: ng.FittedModel, tiny_sections: dict[str, AnnData]) -> dict[str, AnnData]:
    sections = {name: tiny_sections[name].copy() for name in ("S1", "S2", "S3")}
    for section in sections.values():
        ng.tl.embed(section, model)
    return sections


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def by_loop(query: AnnData, bank: list[AnnData], of: str, among: str, halves: tuple[int, ...]) -> pd.DataFrame:
    """Mean of the scales' cosines of every pair."""
    rows, asked = [], query.obsm[KEYS[of]]
    for section in bank:
        name, known = section.obs["section"].iloc[0], section.obsm[KEYS[among]]
        for i, spot in enumerate(query.obs_names):
            for j, other in enumerate(section.obs_names):
                a, b = np.split(asked[i], 2), np.split(known[j], 2)
                rows.append((spot, name, other, np.mean([cosine(a[half], b[half]) for half in halves])))
    return pd.DataFrame(rows, columns=["query", "section", "spot", "similarity"])


@pytest.mark.parametrize(("of", "among"), DIRECTIONS)
@pytest.mark.parametrize(("scales", "halves"), SCALES)
def test_finds_what_a_loop_finds(embedded, of: str, among: str, scales, halves) -> None:
    query, bank = embedded["S3"][:4], [embedded["S1"], embedded["S2"]]
    result = ng.tl.retrieve(query, bank, of=of, among=among, k=5, scales=scales)
    expected = by_loop(query, bank, of, among, halves).sort_values("similarity", ascending=False, kind="stable")
    assert result.found.columns.tolist() == ["query_section", "query", "rank", "section", "spot", "similarity"]
    assert result.recall.empty  # the queries are no spots of the bank
    for spot, found in result.found.groupby("query"):
        best = expected[expected["query"] == spot].head(5)
        assert found["rank"].tolist() == [1, 2, 3, 4, 5]
        assert_allclose(found["similarity"], best["similarity"], atol=1e-5)
        spots = [set(zip(each["section"], each["spot"], strict=True)) for each in (found, best)]
        assert spots[0] == spots[1]


def test_one_scale_is_named_without_a_list(embedded) -> None:
    query, bank = embedded["S3"], embedded["S1"]
    found = ng.tl.retrieve(query, bank, k=2, scales="spot").found
    pd.testing.assert_frame_equal(found, ng.tl.retrieve(query, bank, k=2, scales=["spot"]).found)


def test_recall_is_the_share_of_queries_that_find_themselves(embedded) -> None:
    bank, query = [embedded["S1"], embedded["S3"]], embedded["S3"][::3]
    result = ng.tl.retrieve(query, bank, k=10)
    itself = result.found[(result.found["section"] == "S3") & (result.found["query"] == result.found["spot"])]
    n = sum(section.n_obs for section in bank)
    for k in (1, 5, 10):
        assert result.recall.loc[k, "recall"] == pytest.approx((itself["rank"] <= k).sum() / query.n_obs)
        assert result.recall.loc[k, "chance"] == pytest.approx(k / n)
    # A modality finds itself.
    same = ng.tl.retrieve(query, bank, of="image", among="image", k=1)
    assert (same.recall["recall"] == 1).all()
    assert (same.found["spot"] == same.found["query"]).all()


def test_the_order_and_the_object_that_sections_are_given_in_do_not_matter(embedded) -> None:
    query = embedded["S3"]
    listed = ng.tl.retrieve(query, [embedded["S1"], embedded["S2"]], k=3)
    mapped = ng.tl.retrieve(query, {"b": embedded["S2"], "a": embedded["S1"]}, k=3)
    pd.testing.assert_frame_equal(listed.found, mapped.found)


def test_several_sections_in_one(model: ng.FittedModel, tiny_sections: dict[str, AnnData]) -> None:
    parts = {name: tiny_sections[name] for name in ("S1", "S2")}
    both = ad.concat(parts, index_unique="-", uns_merge="unique", pairwise=True)
    ng.tl.embed(both, model, library_key="section")
    result = ng.tl.retrieve(both, both, of="image", among="image", k=1, library_key="section")
    assert (result.found["similarity"] > 0.999).all()
    assert set(result.found["section"]) == {"S1", "S2"}


class TestKeys:
    """The bank's keys are not the query's, but where both have them."""

    @pytest.fixture(scope="class")
    def bank(self, model: ng.FittedModel, tiny_sections: dict[str, AnnData]) -> AnnData:
        parts = {name: tiny_sections[name] for name in ("S1", "S2")}
        both = ad.concat(parts, label="library", index_unique="-", uns_merge="unique", pairwise=True)
        del both.obs["section"], both.obs["patient"]
        ng.tl.embed(both, model, library_key="library")
        return both

    @pytest.fixture(scope="class")
    def parts(self, bank: AnnData) -> list[AnnData]:
        """The same bank as one AnnData a section."""
        names = bank.obs["library"].unique()
        parts = [bank[bank.obs["library"] == name].copy() for name in names]
        for name, part in zip(names, parts, strict=True):
            part.obs["section"] = part.obs["patient"] = pd.Categorical([name] * part.n_obs)
        return parts

    def test_of_the_bank_need_not_fit_the_query(self, model: ng.FittedModel, bank, parts, embedded) -> None:
        profiles = ng.tl.embed_profiles(counts(embedded["S3"])[:3], model)
        for query in (profiles, embedded["S3"], [profiles, embedded["S3"]], {"S3": embedded["S3"]}):
            expected = ng.tl.retrieve(query, parts, k=3, of="gene")
            found = ng.tl.retrieve(query, bank, k=3, of="gene", library_key="library")
            pd.testing.assert_frame_equal(found.found, expected.found)

    def test_serve_spots_of_the_bank_as_they_are(self, bank, parts) -> None:
        few = bank[::9].copy()
        found = ng.tl.retrieve(few, bank, of="image", among="image", k=1, library_key="library")
        assert (found.recall["recall"] == 1).all()
        assert set(found.found["query_section"]) == {"S1", "S2"}

    def test_of_the_query_are_its_own(self, bank, embedded) -> None:
        query = bank[::9].copy()
        query.obs["sample"] = query.obs.pop("library")
        expected = ng.tl.retrieve(bank[::9].copy(), embedded["S3"], k=3, query_library_key="library")
        found = ng.tl.retrieve(query, embedded["S3"], k=3, query_library_key="sample")
        pd.testing.assert_frame_equal(found.found, expected.found)
        among = ng.tl.retrieve(query, bank, k=3, library_key="library", query_library_key="sample")
        assert among.recall.notna().all(axis=None)
        with pytest.raises(DataError, match="no column library_key='sampel'; did you mean 'sample'"):
            ng.tl.retrieve(query, bank, library_key="library", query_library_key="sampel")
        with pytest.raises(DataError, match="no column library_key='librari'"):
            ng.tl.retrieve(query, bank, library_key="librari", query_library_key="sample")

    def test_name_tables_of_either(self, embedded) -> None:
        from nh2st_graph.read import to_spatialdata

        expected = ng.tl.retrieve(embedded["S3"], embedded["S1"], k=3).found
        query, bank = (to_spatialdata(embedded[name], image=None) for name in ("S3", "S1"))
        bank.tables["second"] = bank.tables["table"].copy()
        query.tables["first"] = query.tables["table"].copy()
        of_table = ng.tl.retrieve(embedded["S3"], bank, k=3, table_key="second")
        of_both = ng.tl.retrieve(query, bank, k=3, table_key="second", query_table_key="first")
        of_query = ng.tl.retrieve(query, embedded["S1"], k=3, query_table_key="first")
        for found in (of_table, of_both, of_query):
            pd.testing.assert_frame_equal(found.found, expected)
        with pytest.raises(DataError, match="2 candidates for the table"):
            ng.tl.retrieve(embedded["S3"], bank)
        with pytest.raises(DataError, match="table_key='first' is for SpatialData, and this is AnnData"):
            ng.tl.retrieve(embedded["S3"], bank, table_key="second", query_table_key="first")


def test_searches_embeddings_under_another_key(model: ng.FittedModel, embedded, tiny_sections) -> None:
    query, bank = embedded["S3"], embedded["S1"]
    renamed = [tiny_sections[name].copy() for name in ("S3", "S1")]
    for section in renamed:
        ng.tl.embed(section, model, key_added="second")
        assert {"X_second_image", "X_second_gene"} <= set(section.obsm)
        assert not set(KEYS.values()) & set(section.obsm)
    expected = ng.tl.retrieve(query, bank, k=3).found
    pd.testing.assert_frame_equal(ng.tl.retrieve(*renamed, k=3, embed_key="second").found, expected)
    profiles = [ng.tl.embed_profiles(counts(query), model, key_added=key) for key in ("nh2st", "second")]
    expected = ng.tl.retrieve(profiles[0], bank, of="gene", k=3).found
    found = ng.tl.retrieve(profiles[1], renamed[1], of="gene", k=3, embed_key="second").found
    pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(DataError, match=r"no uns\['second_embed'\]; run .*embed\(adata, model, key_added='second'\)"):
        ng.tl.retrieve(query, bank, embed_key="second")


def counts(section: AnnData) -> pd.DataFrame:
    return pd.DataFrame(section.X.toarray(), index=section.obs_names, columns=section.var_names)


class TestProfiles:
    def test_are_embedded_as_spots_are(self, model: ng.FittedModel, embedded) -> None:
        section = embedded["S3"]
        profiles = ng.tl.embed_profiles(counts(section), model)
        spot_half = np.split(section.obsm["X_nh2st_gene"], 2, axis=1)[0]
        assert_allclose(profiles.obsm["X_nh2st_gene"], spot_half, atol=1e-5)

    def test_find_spots_by_their_own_scale(self, model: ng.FittedModel, embedded) -> None:
        profiles = ng.tl.embed_profiles(counts(embedded["S3"])[:3], model)
        result = ng.tl.retrieve(profiles, embedded["S3"], of="gene", among="gene", k=1)
        assert result.found["query"].tolist() == result.found["spot"].tolist()
        assert set(result.found["query_section"]) == {"profiles"}
        assert len(ng.tl.retrieve(profiles, list(embedded.values()), of="gene", among="image", k=4).found) == 12
        with pytest.raises(DataError, match="scale 'neighbourhood'; they have spot"):
            ng.tl.retrieve(profiles, embedded["S3"], of="gene", scales=["neighbourhood"])

    def test_lack_a_gene(self, model: ng.FittedModel, embedded) -> None:
        without = counts(embedded["S3"]).drop(columns=model.genes[0])
        with pytest.raises(DataError, match=model.genes[0]):
            ng.tl.embed_profiles(without, model)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda x: x.iloc[:0], "no profile"),
            (lambda x: x.set_axis(["a", "b", "a"]), "two profiles are named 'a'"),
            (lambda x: x.astype(str), "holds object, not real numbers"),
            (lambda x: x * np.nan, "not numbers"),
            (lambda x: -x, "negative counts"),
            (lambda x: np.log1p(x), "not integers"),
            (lambda x: x.mul([1, 0, 1], axis=0), "profile 'b' has no counts"),
        ],
    )
    def test_are_raw_counts_with_names(self, model: ng.FittedModel, embedded, change, said: str) -> None:
        profiles = counts(embedded["S3"])[:3].set_axis(["a", "b", "c"])
        with pytest.raises(DataError, match=f"^counts.*{said}"):
            ng.tl.embed_profiles(change(profiles), model)

    def test_need_no_image_where_patches_are_encoded(
        self, model: ng.FittedModel, tiny_config: ng.Config, tiny_sections: dict[str, AnnData]
    ) -> None:
        config = tiny_config.override(["features.encoder=timm:test_resnet@random", "features.finetune=true"])
        encoder = patch_encoder(config.features, trained=True)
        section, n_features = tiny_sections["S3"][:6].copy(), len(encoder.feature_mean)
        module = NH2STGraph(config.model, n_features, len(model.genes), encoder).eval()
        observed = targets(tiny_sections["S3"], model.genes, **config.data.target)
        module.set_targets(torch.from_numpy(observed.to_numpy(np.float32)))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for name, weight in module.named_parameters():
                if not name.startswith("patch_encoder."):
                    torch.nn.init.normal_(weight, std=0.3)
        tuned = replace(model, module=module, config=config, n_features=n_features, origin={})
        profiles = ng.tl.embed_profiles(counts(section), tuned)
        assert module.patch_encoder is encoder
        ng.tl.embed(section, tuned)
        spot_half = np.split(section.obsm["X_nh2st_gene"], 2, axis=1)[0]
        assert spot_half.std(axis=0).min() > 0.01
        assert_allclose(profiles.obsm["X_nh2st_gene"], spot_half, atol=1e-5)
        itself = ng.tl.retrieve(profiles, section, of="gene", among="gene", k=1).found
        assert itself["query"].tolist() == itself["spot"].tolist()

    def test_have_no_residuals_of_their_own(self, model: ng.FittedModel, embedded) -> None:
        config = model.config.override(["data.normalize=residuals"])
        with pytest.raises(ModelError, match="residuals of a profile depend on which others"):
            ng.tl.embed_profiles(counts(embedded["S3"])[:3], replace(model, config=config))

    def test_have_no_place_on_an_array(self, model: ng.FittedModel, embedded) -> None:
        settings = MclSTExp.Settings(width=8, depth=0, n_positions=16)
        module = MclSTExp(settings, model.n_features, len(model.genes)).eval()
        config = model.config.model_copy(update={"model": settings})
        with pytest.raises(ModelError, match="'mclstexp' reads array positions"):
            ng.tl.embed_profiles(replace(model, module=module, config=config), counts(embedded["S3"]))

    def test_need_a_gene_side(self, tiny_config: ng.Config, tiny_sections: dict[str, AnnData], embedded) -> None:
        config = tiny_config.override(
            ["model.contrast=none", "model.cross_attention=none", "train.max_epochs=1", "train.refit=false"]
        )
        without = ng.tl.fit({name: tiny_sections[name] for name in ("S1", "S2")}, config)
        with pytest.raises(ModelError, match=r"no gene side; .*contrast='both'"):
            ng.tl.embed_profiles(counts(embedded["S3"]), without)
        other = ng.tl.embed(tiny_sections["S3"], without, copy=True)
        with pytest.raises(DataError, match="embedded by 2 different models"):
            ng.tl.retrieve(other, embedded["S1"])
        with pytest.raises(DataError, match=r"section 'S3': no obsm\['X_nh2st_gene'\].*a model with a gene side"):
            ng.tl.retrieve(other, other)


def test_what_cannot_be_searched(embedded, tiny_sections: dict[str, AnnData]) -> None:
    section = embedded["S3"]
    with pytest.raises(DataError, match=r"section 'S2': no uns\['nh2st_embed'\]; run ng.tl.embed"):
        ng.tl.retrieve(section, tiny_sections["S2"])
    with pytest.raises(ConfigError, match="k=0"):
        ng.tl.retrieve(section, section, k=0)
    with pytest.raises(ConfigError, match="scales is empty; give 'spot' or 'neighbourhood'"):
        ng.tl.retrieve(section, section, scales=[])
    broken = section.copy()
    broken.obsm[KEYS["gene"]][3] = np.nan
    with pytest.raises(DataError, match=rf"'S3': obsm\['X_nh2st_gene'\] of 1 spots.*'{section.obs_names[3]}'"):
        ng.tl.retrieve(section, broken)
    with pytest.raises(ConfigError, match=r"'genes' is not a modality; .*'image'.*'gene'"):
        ng.tl.retrieve(section, section, of="genes")
    for query, bank in ((section, []), ([], section)):
        with pytest.raises(DataError, match="query or bank holds no section"):
            ng.tl.retrieve(query, bank)
