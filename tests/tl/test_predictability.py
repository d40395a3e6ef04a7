"""Which genes can be read before training: on genes of known kinds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_allclose
from scipy import ndimage, sparse

from nh2st_graph import ConfigError, DataError
from nh2st_graph.datasets import read_panel
from nh2st_graph.metrics import partial_pearson, pearson
from nh2st_graph.models import make_baseline
from nh2st_graph.tl import Predictability, predictability

KINDS = ("OWN", "NBR", "INT", "NOISE", "RARE")
EACH = 3
SIDE = 12
SETTINGS = {"embeddings": "obsm:X_made", "panel": "hvg:200", "threads": 1}


def tissue(name: str, seed: int, patient: str | None = None, side: int = SIDE) -> AnnData:
    """A section whose image features are made, and whose genes follow them, the neighbours', a product, or nothing."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(side, side, 4)), (1, 1, 0))
    features = (smooth + 0.2 * rng.normal(size=smooth.shape)).reshape(-1, 4)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    around = ndimage.uniform_filter(features.reshape(side, side, 4), (3, 3, 0)).reshape(-1, 4)
    around /= around.std(axis=0)
    shapes = {
        "OWN": features[:, :EACH],
        "NBR": around[:, :EACH],
        "INT": features[:, :1] * features[:, 1 : 1 + EACH],
        "NOISE": np.zeros((side**2, EACH)),
        "RARE": np.full((side**2, EACH), -6.0),
    }
    log = np.hstack([shapes[kind] for kind in KINDS])
    depth = rng.lognormal(0, 0.4, (side**2, 1))
    counts = rng.poisson(6 * depth * np.exp(0.6 * log))
    rest = rng.poisson(400 * depth, (side**2, 5)) * [1, 1, 1, 1, 0]
    y, x = np.divmod(np.arange(side**2), side)
    of = {"section": name} | ({} if patient is None else {"patient": patient})
    names = [f"{a}x{b}" for a, b in zip(x, y, strict=True)]
    genes = [f"{kind}{i}" for kind in KINDS for i in range(EACH)]
    return AnnData(
        sparse.csr_matrix(np.hstack([counts, rest]).astype(np.float32)),
        pd.DataFrame(of, names).astype("category").assign(array_row=y, array_col=x),
        pd.DataFrame(index=[*genes, "REST0", "REST1", "REST2", "REST3", "ZERO"]),
        obsm={"spatial": np.column_stack([x, y]) * 100.0, "X_made": features.astype(np.float32)},
    )


@pytest.fixture(scope="module")
def sections() -> dict[str, AnnData]:
    return {name: tissue(name, i, "P") for i, name in enumerate(("A", "B", "C"))}


@pytest.fixture(scope="module")
def found(sections) -> Predictability:
    return predictability(sections, **SETTINGS, genes=list(sections["A"].var_names))


def of_kind(found: Predictability, kind: str) -> pd.DataFrame:
    return found.genes.loc[[f"{kind}{i}" for i in range(EACH)]]


class TestGenes:
    def test_of_the_image_are_readable_and_noise_is_not(self, found):
        for kind in ("OWN", "NBR"):
            assert of_kind(found, kind)["readable"].all()
            assert (of_kind(found, kind)["pcc_partial"] > 0.4).all()
        assert not of_kind(found, "NOISE")["readable"].any()
        assert not of_kind(found, "RARE")["readable"].any()

    def test_come_best_first(self, found):
        assert found.genes["pcc_partial"].dropna().is_monotonic_decreasing
        assert found.genes.index[0][:3] in {"OWN", "NBR"}

    def test_of_a_product_are_beyond_a_line_but_have_a_ceiling(self, found):
        product = of_kind(found, "INT")
        assert (product["ceiling_low"] > 0.3).all()
        assert (product["pcc_partial_ridge_neighbours"] < 0.35).all()

    def test_intervals_hold_the_score(self, found):
        genes = found.genes.dropna()
        assert (genes["low"] <= genes["pcc_partial"] + 0.02).all()
        assert (genes["pcc_partial"] <= genes["high"] + 0.02).all()
        assert (genes["ceiling_low"] <= genes["ceiling"]).all()
        scored = genes.dropna(subset="chance")
        assert (scored["readable"] == (scored["low"] > scored["chance"].clip(lower=0))).all()

    def test_score_higher_by_image_neighbours_if_they_are_of_the_image(self, found):
        assert of_kind(found, "OWN")["eps"].min() > of_kind(found, "NOISE")["eps"].max()

    def test_have_their_counts_beside_them(self, found, sections):
        joined = np.vstack([each[:, "OWN0"].X.toarray() for each in sections.values()])
        row = found.genes.loc["OWN0"]
        assert row["detection"] == pytest.approx((joined > 0).mean())
        assert row["mean_counts"] == pytest.approx(joined.mean())
        assert (row["n_sections"], row["n_patients"]) == (3, 1)

    def test_that_vary_nowhere_have_no_score(self, found):
        assert found.genes.index[-1] == "ZERO"
        row = found.genes.loc["ZERO"]
        assert row[["pcc", "pcc_partial", "low", "high", "chance", "eps"]].isna().all()
        assert (row["n_sections"], row["readable"]) == (0, False)


def test_the_scores_are_those_of_the_held_out_mean_of_three_regressions(sections, found):
    from nh2st_graph.config import Config, with_arguments
    from nh2st_graph.train import Preparation

    config = with_arguments(Config(), SETTINGS)
    prepared = Preparation.learn(config, sections, {}, genes=list(sections["A"].var_names)).train
    graphs = [each.measured for each in prepared]
    r, partial = [], []
    for i, section in enumerate(prepared):
        predicted = []
        for name in ("ridge_neighbours", "reduced_rank_ridge", "kernel_ridge"):
            reader = make_baseline(name)
            reader.fit(graphs[:i] + graphs[i + 1 :])
            predicted.append(reader.predict(graphs[i]))
        depth = np.log1p(np.asarray(section.section.X.sum(axis=1)).ravel())
        r.append(pearson(np.mean(predicted, axis=0), section.observed))
        partial.append(partial_pearson(np.mean(predicted, axis=0), section.observed, depth))
    genes = found.genes.loc[prepared[0].preparation.genes].fillna(0)
    assert_allclose(genes["pcc"], np.mean(r, axis=0), atol=1e-6)
    assert_allclose(genes["pcc_partial"], np.mean(partial, axis=0), atol=1e-6)
    assert_allclose(found.sections["pcc"], np.mean(r, axis=1), atol=1e-6)


def test_the_order_of_spots_genes_and_sections_changes_nothing(sections, found):
    rng = np.random.default_rng(0)
    changed = [
        each[rng.permutation(each.n_obs), rng.permutation(each.n_vars)].copy() for each in reversed(sections.values())
    ]
    panel = list(rng.permutation(found.genes.index))
    other = predictability(changed, **SETTINGS, genes=panel)
    pd.testing.assert_frame_equal(other.genes.loc[found.genes.index], found.genes, rtol=1e-4, atol=1e-5)


class TestHeldOut:
    def test_are_patients_if_there_are_several(self):
        two = [tissue("A", 0, "P"), tissue("B", 1, "P"), tissue("C", 2, "Q")]
        found = predictability(two, **SETTINGS)
        assert found.held_out == "patients"
        assert found.sections["patient"].tolist() == ["P", "P", "Q"]
        assert (of_kind(found, "OWN")["n_patients"] == 2).all()
        assert "whole patients" in str(found)
        assert "another" not in str(found)
        assert "No patient is named" not in str(found)

    def test_are_said_to_be_of_nobody_where_no_patient_is_named(self):
        found = predictability([tissue("A", 0, ""), tissue("B", 1, "P")], **SETTINGS)
        assert "No patient is named for A: each counts as a patient of its own" in str(found)

    def test_are_bands_of_one_section(self, sections):
        found = predictability(sections["A"], **SETTINGS)
        assert found.held_out == "bands"
        assert of_kind(found, "OWN")["readable"].all()
        assert not of_kind(found, "NOISE")["readable"].any()
        assert "bands of the tissue" in str(found)


class TestWords:
    def test_say_what_can_be_read_what_is_noise_and_for_whom(self, found):
        first, *others = str(found).splitlines()
        n = found.genes["readable"].sum()
        assert first.startswith(f"{n} of {len(found.genes)} genes can be read from these images; best")
        assert found.genes.index[0] in first
        assert any("noise by their counts alone" in line for line in others)
        assert "whole sections, of 3 sections of 1 patient" in str(found)
        assert "another" in others[-1]

    def test_say_so_if_nothing_can_be_read(self, found):
        none = Predictability(found.genes.assign(readable=False), found.sections, found.held_out)
        assert str(none).startswith(f"0 of {len(found.genes)} genes can be read from these images.")


def test_of_a_large_section_even_pieces_are_read_and_that_is_said(monkeypatch):
    monkeypatch.setattr("nh2st_graph.tl._predictability.LARGE", 400)
    monkeypatch.setattr("nh2st_graph.tl._predictability._SAMPLE", 192)
    monkeypatch.setattr("nh2st_graph.tl._predictability._PIECE", 48)
    monkeypatch.setattr("nh2st_graph.tl._predictability._MANY", 100)
    found = predictability([tissue("A", 0, "P"), tissue("L", 1, "P", side=24)], **SETTINGS)
    assert found.sections["n_spots"].tolist() == [144, 192]
    assert found.sections["of_spots"].tolist() == [144, 576]
    assert "Of L, 192 of 576 spots were read" in str(found)
    assert of_kind(found, "OWN")["readable"].all()
    # The regression that is slow for many spots is left out.
    assert [name for name in found.genes if name.endswith("ridge")] == [
        "pcc_partial_reduced_rank_ridge",
        "pcc_partial_kernel_ridge",
    ]


def test_writes_a_table_and_a_figure(found, tmp_path):
    table, figure, panel = found.save(tmp_path / "new" / "folder")
    read = pd.read_csv(table, index_col="gene")
    assert read.index.equals(found.genes.index)
    assert_allclose(read["pcc_partial"], found.genes["pcc_partial"], rtol=1e-5)
    assert read["readable"].tolist() == found.genes["readable"].tolist()
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert read_panel(panel) == found.genes.index[found.genes["readable"]].tolist()


def test_writes_no_panel_where_nothing_can_be_read(found, tmp_path):
    nothing = replace(found, genes=found.genes.assign(readable=False))
    assert [path.name for path in nothing.save(tmp_path)] == ["predictability.csv", "predictability.png"]


class TestRefuses:
    def test_no_section(self):
        with pytest.raises(DataError, match="sections"):
            predictability([])

    def test_an_unknown_setting(self, sections):
        with pytest.raises(ConfigError, match="panle"):
            predictability(sections, panle="hvg:3")

    def test_sections_without_genes(self, sections):
        with pytest.raises(DataError, match="'A'"):
            predictability(sections["A"][:, []].copy(), embeddings="obsm:X_made")

    def test_too_few_spots_to_hold_some_out(self, sections):
        with pytest.raises(DataError, match="'A'"):
            predictability(sections["A"][:5].copy(), **SETTINGS)
