"""What is found in a bank is what a loop over all pairs finds, in every direction."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_allclose

import nh2st_graph as ng
from nh2st_graph import ConfigError, DataError, ModelError
from nh2st_graph.tl import Run

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
        ng.tl.embed(model, section)
    return sections


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def by_loop(query: AnnData, bank: list[AnnData], of: str, among: str, halves: tuple[int, ...]) -> pd.DataFrame:
    """Mean of the scales' cosines of every pair."""
    rows = []
    for i, spot in enumerate(query.obs_names):
        for section in bank:
            for j, other in enumerate(section.obs_names):
                a, b = (np.split(each.obsm[KEYS[m]][n], 2) for each, m, n in ((query, of, i), (section, among, j)))
                mean = np.mean([cosine(a[half], b[half]) for half in halves])
                rows.append((spot, section.obs["section"].iloc[0], other, mean))
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
    ng.tl.embed(model, both, library_key="section")
    result = ng.tl.retrieve(both, both, of="image", among="image", k=1, library_key="section")
    assert (result.found["similarity"] > 0.999).all()
    assert set(result.found["section"]) == {"S1", "S2"}


class TestProfiles:
    def counts(self, section: AnnData) -> pd.DataFrame:
        return pd.DataFrame(section.X.toarray(), index=section.obs_names, columns=section.var_names)

    def test_are_embedded_as_spots_are(self, model: ng.FittedModel, embedded) -> None:
        section = embedded["S3"]
        profiles = ng.tl.embed_profiles(model, self.counts(section))
        spot_half = np.split(section.obsm["X_nh2st_gene"], 2, axis=1)[0]
        assert_allclose(profiles.obsm["X_nh2st_gene"], spot_half, atol=1e-5)

    def test_find_spots_by_their_own_scale(self, model: ng.FittedModel, embedded) -> None:
        profiles = ng.tl.embed_profiles(model, self.counts(embedded["S3"])[:3])
        result = ng.tl.retrieve(profiles, embedded["S3"], of="gene", among="gene", k=1)
        assert result.found["query"].tolist() == result.found["spot"].tolist()
        assert set(result.found["query_section"]) == {"profiles"}
        assert len(ng.tl.retrieve(profiles, list(embedded.values()), of="gene", among="image", k=4).found) == 12
        with pytest.raises(DataError, match="both have embeddings of scale 'neighbourhood'; they have spot"):
            ng.tl.retrieve(profiles, embedded["S3"], of="gene", scales=["neighbourhood"])

    def test_lack_a_gene(self, model: ng.FittedModel, embedded) -> None:
        counts = self.counts(embedded["S3"]).drop(columns=model.genes[0])
        with pytest.raises(DataError, match=model.genes[0]):
            ng.tl.embed_profiles(model, counts)

    def test_need_a_gene_side(self, tiny_config: ng.Config, tiny_sections: dict[str, AnnData], embedded) -> None:
        config = tiny_config.override(["model.contrast=none", "model.cross_attention=none", "train.max_epochs=1"])
        without = ng.tl.fit({name: tiny_sections[name] for name in ("S1", "S2")}, config)
        with pytest.raises(ModelError, match="no gene side"):
            ng.tl.embed_profiles(without, self.counts(embedded["S3"]))
        other = ng.tl.embed(without, tiny_sections["S3"], copy=True)
        with pytest.raises(DataError, match="embedded by 2 different models"):
            ng.tl.retrieve(other, embedded["S1"])
        with pytest.raises(DataError, match=r"section 'S3': no obsm\['X_nh2st_gene'\].*a model with a gene side"):
            ng.tl.retrieve(other, other)


def test_what_cannot_be_searched(embedded, tiny_sections: dict[str, AnnData]) -> None:
    section = embedded["S3"]
    with pytest.raises(DataError, match=r"section 'S2': no uns\['nh2st_embed'\]; run ng.tl.embed"):
        ng.tl.retrieve(section, tiny_sections["S2"])
    with pytest.raises(ConfigError, match="k = 0"):
        ng.tl.retrieve(section, section, k=0)
    with pytest.raises(ConfigError, match="'genes' is no modality; there are 'image' and 'gene'"):
        ng.tl.retrieve(section, section, of="genes")
    with pytest.raises(DataError, match="no section given"):
        ng.tl.retrieve(section, [])
