"""What is said of attention, shares and gains is what the model does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from nh2st_graph import DataError, tl
from nh2st_graph.models import NH2STGraph
from nh2st_graph.section import targets
from nh2st_graph.tl import FittedModel
from nh2st_graph.train import Standardizer

from ..prepared import complete_section

MakeModel = Callable[[list[str]], FittedModel]

ATTENTION, SHARE, EXPLAIN = "nh2st_attention", "nh2st_neighbour_share", "nh2st_explain"
GAIN, CHANGE = "nh2st_neighbour_gain", "nh2st_neighbour_change"
NO_EDGE_FEATURES = "model.edge_features=none"
EGO = ["model.operator=hypergraph_ego", NO_EDGE_FEATURES]


@pytest.fixture(scope="module")
def section(tiny_sections, tiny_config) -> AnnData:
    """A section with its features, so that many configurations need not read them anew. Copy what you change."""
    return complete_section(tiny_sections["S3"], tiny_config)


@pytest.fixture(scope="module")
def drawn(tiny_run, section, tiny_config) -> MakeModel:
    """Make a model of a changed configuration whose every weight is drawn: a new one attends evenly."""

    def make(changes: list[str]) -> FittedModel:
        config, genes = tiny_config.override(changes), tiny_run.model.genes
        standardize = Standardizer.fit([section.obsm["X_image"]], config.features.standardize)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = NH2STGraph(config.model, section.obsm["X_image"].shape[1], len(genes))
            module.set_targets(torch.from_numpy(targets(section, genes, **config.data.target).to_numpy()).float())
            for weight in module.parameters():
                torch.nn.init.normal_(weight, std=0.3)
        return replace(tiny_run.model, module=module.eval(), config=config, standardize=standardize)

    return make


predictions = arrays(np.float32, (7, 4), elements=st.floats(-8, 8, width=32))


class Silent(torch.nn.Module):
    """A neighbour branch that brings nothing."""

    def forward(self, h: torch.Tensor, *_: object) -> torch.Tensor:
        return torch.zeros_like(h)


def predicted_alone(model: FittedModel, section: AnnData) -> np.ndarray:
    module = copy.deepcopy(model.module)
    module.image_neighbours = Silent()
    return tl.predict(replace(model, module=module), section).X


def explained(model: FittedModel, section: AnnData) -> AnnData:
    found = tl.explain(section, model, copy=True)
    assert found is not None
    return found


def explained_as(
    model: FittedModel, section: AnnData, full: np.ndarray, own: np.ndarray
) -> tuple[np.ndarray, pd.DataFrame]:
    """Shares and genes of a network that predicts these values, over and over, with its neighbours and without."""

    def values(given: np.ndarray) -> torch.Tensor:
        n_spots, n_genes = section.n_obs, len(model.genes)
        return torch.from_numpy(given[np.arange(n_spots) % len(given)][:, np.arange(n_genes) % given.shape[1]])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NH2STGraph, "predict", lambda *_: values(full))
        patch.setattr(NH2STGraph, "predict_alone", lambda *_: values(own))
        found = explained(model, section)
    return found.obs[SHARE].to_numpy(), found.uns[EXPLAIN]["gene_gain"]


def without_neighbours(section: AnnData, i: int) -> AnnData:
    """The section less the neighbours of spot ``i``, its graph still to be computed."""
    near = section.obsp["spatial_connectivities"].toarray()[i] > 0
    apart = section[~near].copy()
    del apart.obsp["spatial_connectivities"], apart.obsp["spatial_distances"], apart.uns["spatial_neighbors"]
    return apart


def attention_by_hand(model: FittedModel, section: AnnData) -> np.ndarray:
    """Equation of ``SpatialAttention``, one receiver and head at a time in float64; rows read columns."""
    module, config = copy.deepcopy(model.module).double(), model.config.model
    graph = model.preparation.prepare(section).graph
    n, size = graph.num_nodes, config.width // config.heads
    senders = [graph.edge_index[0, graph.edge_index[1] == i].tolist() for i in range(n)]
    features = [graph.edge_attr[graph.edge_index[1] == i].double() for i in range(n)]
    total = torch.zeros(n, n, dtype=torch.float64)
    with torch.no_grad():
        state = module.image_encoder(graph.x.double())
        for layer in module.image_neighbours.layers:
            query, key, value = (
                each(state).view(n, config.heads, size) for each in (layer.query, layer.key, layer.value)
            )
            messages = torch.zeros_like(value)
            seen = layer.edge_bias.in_features  # of distance and direction
            for i in range(n):
                read, edges = senders[i], features[i][:, :seen]
                if config.self_loops:
                    read, edges = [*read, i], torch.cat([edges, torch.zeros(1, seen, dtype=torch.float64)])
                for head in range(config.heads):
                    logits = key[read, head] @ query[i, head] / size**0.5 + layer.edge_bias(edges)[:, head]
                    weights = logits.softmax(dim=0)
                    messages[i, head] = weights @ value[read, head]
                    total[i, read] += weights / (config.heads * config.hops)
            state = state + messages.flatten(1)
    order = pd.Index(graph.spots).get_indexer(section.obs_names)
    return total.numpy()[np.ix_(order, order)]


@pytest.fixture(scope="module")
def attending(drawn, section) -> AnnData:
    """The section with what a model says of it that attends. Copy it."""
    return explained(drawn([]), section)


class TestAttention:
    @pytest.mark.parametrize(
        "changes",
        [
            [],
            ["model.edge_features=direction"],
            ["model.hops=2"],
            ["model.self_loops=true", "model.edge_features=direction", "model.hops=2"],
        ],
    )
    def test_is_that_of_the_equation(self, drawn, section, changes):
        model = drawn(changes)
        found = explained(model, section).obsp[ATTENTION]
        expected = attention_by_hand(model, section)
        assert np.ptp(expected[expected > 0]) > 0.2, "even attention would pass anything"
        assert sparse.isspmatrix_csr(found)
        assert found.dtype == np.float32
        assert_allclose(found.toarray(), expected, atol=1e-5)
        assert_allclose(found.sum(axis=1).A1, 1, atol=1e-6)
        joined = section.obsp["spatial_connectivities"].toarray() > 0
        np.fill_diagonal(joined, "model.self_loops=true" in changes)
        assert_array_equal(found.toarray() > 0, joined)

    @pytest.mark.parametrize("operator", ["gatv2", "transformer"])
    def test_of_other_operators_is_their_own(self, drawn, section, operator):
        model = drawn([f"model.operator={operator}"])
        graph = model.preparation.prepare(section).graph
        with torch.no_grad():
            h = model.module.image_encoder(graph.x)
            weights = model.module.image_neighbours.layers[0].attention(h, graph.edge_index, graph.edge_attr)
        found = pd.DataFrame(explained(model, section).obsp[ATTENTION].toarray(), section.obs_names, section.obs_names)
        for (sender, receiver), weight in zip(graph.edge_index.T.tolist(), weights.mean(dim=1).tolist(), strict=True):
            assert found.loc[graph.spots[receiver], graph.spots[sender]] == pytest.approx(weight, abs=1e-6)

    def test_of_a_new_model_is_one_over_the_degree(self, tiny_run, section, tiny_config):
        n_features, n_genes = section.obsm["X_image"].shape[1], len(tiny_run.model.genes)
        new = replace(tiny_run.model, module=NH2STGraph(tiny_config.model, n_features, n_genes).eval())
        joined = section.obsp["spatial_connectivities"].toarray() > 0
        found = explained(new, section).obsp[ATTENTION].toarray()
        assert_allclose(found, joined / joined.sum(axis=1, keepdims=True), atol=1e-6)

    def test_row_reads_column(self, drawn, section):
        """A nearest-neighbour graph on a line, c . a . . b: ``b`` reads ``a``, which reads ``c``."""
        model = drawn(["graph.mode=knn", "graph.n_neighs=1", "features.standardize=train"])
        three = section[:3].copy()
        three.obs_names = ["c", "a", "b"]
        three.obsm["spatial"] = np.array([[100.0, 0.0], [200.0, 0.0], [400.0, 0.0]])
        found = pd.DataFrame(explained(model, three).obsp[ATTENTION].toarray(), three.obs_names, three.obs_names)
        expected = pd.DataFrame(0.0, three.obs_names, three.obs_names)
        expected.loc["b", "a"] = expected.loc["a", "c"] = expected.loc["c", "a"] = 1
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)

    @pytest.mark.parametrize(
        "changes",
        [
            *[[f"model.operator={name}", NO_EDGE_FEATURES] for name in ("gcn", "sage", "hypergraph", "global", "none")],
            EGO,
            ["model.neighbours=false"],
        ],
        ids=lambda changes: changes[0],
    )
    def test_is_absent_where_nothing_attends(self, drawn, section, attending, changes, caplog):
        explained_before = attending.copy()
        with caplog.at_level("WARNING", "nh2st_graph"):
            tl.explain(explained_before, drawn(changes))
        assert ATTENTION not in explained_before.obsp, "that of an earlier model must not stay"
        reason = "branch is off" if "model.neighbours=false" in changes else "does not attend over edges"
        assert any(reason in line and "\n" not in line for line in caplog.messages)

    def test_without_edges_is_empty(self, drawn, section):
        found = explained(drawn(["graph.mode=none"]), section)
        assert found.obsp[ATTENTION].shape == (section.n_obs, section.n_obs)
        assert found.obsp[ATTENTION].nnz == 0
        assert (found.obs[SHARE] == 0).all()


class TestShare:
    @pytest.mark.parametrize("changes", [[], ["model.decoder_input=gated"], ["model.decoder=mlp"], EGO])
    def test_is_the_branchs_part_of_what_sets_a_spot_apart(self, drawn, section, changes):
        model = drawn(changes)
        full = tl.predict(section, model).X.astype(np.float64)
        alone = predicted_alone(model, section).astype(np.float64)
        change = full - alone
        expected = []
        for i in range(section.n_obs):
            around = sum((change[i, g] - change[:, g].mean()) ** 2 for g in range(full.shape[1])) ** 0.5
            own = sum((alone[i, g] - alone[:, g].mean()) ** 2 for g in range(full.shape[1])) ** 0.5
            expected.append(around / (around + own))
        found = explained(model, section).obs[SHARE]
        assert_allclose(found, expected, rtol=1e-5)
        assert found.std() > 0.01

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            (["model.neighbours=false"], 0),
            (["model.decoder_input=query"], 0),
            (["model.decoder_input=neighbourhood"], 1),
            (["model.query=false"], 1),
        ],
    )
    def test_of_one_branch_is_all_or_nothing(self, drawn, section, changes, expected):
        found = explained(drawn(changes), section)
        assert_allclose(found.obs[SHARE], expected, atol=1e-12)
        genes = found.uns[EXPLAIN]["gene_gain"]
        if expected == 0:
            assert (genes[["change", "gain"]] == 0).all(axis=None)
        else:
            assert_allclose(genes["change"], 1, rtol=1e-6)
            assert (genes["pcc_without"] == 0).all()

    def test_of_components_is_that_of_their_scores(self, drawn, section):
        model = drawn([])
        graph = model.preparation.prepare(section).graph
        with torch.no_grad():
            side = model.module(graph.x, graph.edge_index, graph.edge_attr)
            heads = model.module.decoder.heads
            scores = [head(h).double() for head, h in zip(heads, (side.query, side.neighbourhood), strict=True)]
        own, around = ((each - each.mean(dim=0)).norm(dim=1) for each in scores)
        found = explained(model, section).obs[SHARE].loc[graph.spots]
        assert_allclose(found, around / (around + own), rtol=1e-4)

    @pytest.mark.parametrize("changes", [[], ["model.self_loops=true"], ["model.hops=2", "model.jumping=cat"], EGO])
    def test_and_attention_of_a_spot_without_neighbours_are_nothing(self, drawn, section, changes):
        apart = without_neighbours(section, 20)
        found = explained(drawn([*changes, "features.standardize=train"]), apart)
        i = apart.obs_names.get_loc(section.obs_names[20])
        assert found.obs[SHARE].iloc[i] == 0
        assert (found.obs[SHARE].drop(found.obs_names[i]) > 0).all()
        if ATTENTION in found.obsp:
            matrix = found.obsp[ATTENTION]
            assert matrix[i].nnz == matrix[:, i].nnz == 0
            assert_allclose(np.delete(matrix.sum(axis=1).A1, i), 1, atol=1e-6)

    def test_of_full_attention_needs_no_edge(self, drawn, section):
        found = explained(drawn(["model.operator=global", NO_EDGE_FEATURES, "graph.mode=none"]), section)
        assert (found.obs[SHARE] > 0).all()

    @given(full=predictions, own=predictions)
    def test_lies_between_0_and_1(self, tiny_run, section, full, own):
        share, _ = explained_as(tiny_run.model, section, full, own)
        full, own = (np.resize(each, (len(share), full.shape[1])) for each in (full, own))
        assert ((share >= 0) & (share <= 1)).all()
        assert (share[(full == own).all(axis=1)] == 0).all()

    def test_does_not_depend_on_which_branch_holds_a_constant(self, tiny_run, section):
        full, own = np.random.default_rng(0).normal(size=(2, 7, 4))
        shares = [
            explained_as(tiny_run.model, section, full, own + constant)[0] for constant in (0, np.array([3, -2, 0, 9]))
        ]
        assert_allclose(*shares, rtol=1e-12)


class TestGenes:
    @pytest.mark.parametrize("changes", [[], ["model.decoder_input=gated"], ["model.regression=nb"], EGO])
    def test_gain_by_what_the_model_predicts_with_the_neighbourhood_silenced(self, drawn, section, changes):
        model = drawn(changes)
        found = explained(model, section).uns[EXPLAIN]["gene_gain"]
        full, alone = (
            tl.predict(section, model).X.astype(np.float64),
            predicted_alone(model, section).astype(np.float64),
        )
        observed = targets(section, model.genes, **model.config.data.target).to_numpy()
        assert list(found.index) == model.genes
        assert found.index.name == "gene"
        for g, gene in enumerate(model.genes):
            row = found.loc[gene]
            pcc, without = (np.corrcoef(each[:, g], observed[:, g])[0, 1] for each in (full, alone))
            assert row["pcc"] == pytest.approx(pcc, abs=1e-6)
            assert row["pcc_without"] == pytest.approx(without, abs=1e-6)
            assert row["gain"] == pytest.approx(pcc - without, abs=1e-6)
            assert row["change"] == pytest.approx(np.std(full[:, g] - alone[:, g]) / np.std(full[:, g]), rel=1e-5)
        assert found["gain"].abs().max() > 0.01

    def test_are_written_beside_the_genes_that_the_section_has(self, tiny_run, section):
        found = explained(tiny_run.model, section)
        table = found.uns[EXPLAIN]["gene_gain"]
        inside = found.var_names.isin(table.index)
        assert 0 < inside.sum() < len(inside)
        for key, column in ((GAIN, "gain"), (CHANGE, "change")):
            assert found.var[key].notna().tolist() == inside.tolist()
            assert_array_equal(found.var.loc[table.index, key], table[column])

    def test_have_no_gain_where_the_panel_was_not_measured(self, tiny_run, section, caplog):
        model, before = tiny_run.model, explained(tiny_run.model, section)
        one_less = before[:, before.var_names != model.genes[0]].copy()
        none = before[:, :0].copy()
        other = before.copy()
        other.var_names = [f"other{i}" for i in range(other.n_vars)]
        for each, columns in ((one_less, {CHANGE}), (none, set()), (other, set())):
            tl.explain(each, model)
            table = each.uns[EXPLAIN]["gene_gain"]
            assert list(table.columns) == ["change"]
            assert_array_equal(table["change"], before.uns[EXPLAIN]["gene_gain"]["change"])
            assert set(each.var) & {GAIN, CHANGE} == columns, "what an earlier call wrote must not stay"
        number = len(model.genes)
        said = [line for line in caplog.messages if "its genes are not used" in line]
        assert [line.split("lacks ")[1].split(" (")[0] for line in said] == [
            f"{missing} of {number} genes of the panel" for missing in (1, number)
        ], "a section without genes is a slide, and is not told that it lacks them"

    def test_change_of_a_constant_prediction_is_not_a_number(self, tiny_run, section):
        full = np.full((5, 2), 3.7, dtype=np.float32)
        own = full.copy()
        full[:, 1] = np.arange(5)
        _, genes = explained_as(tiny_run.model, section, full, own)
        assert np.isnan(genes["change"].iloc[0])
        assert genes["change"].iloc[1] == pytest.approx(1)


def test_no_gene_moves_attention_share_or_change(drawn, section):
    rng = np.random.default_rng(0)
    model = drawn(["model.hops=2"])
    expected = explained(model, section)
    other_counts, renamed = section.copy(), section.copy()
    other_counts.X = sparse.csr_matrix(rng.poisson(20, section.shape).astype(np.float32))
    other_counts.layers["observed"] = rng.poisson(20, section.shape).astype(np.float32)
    renamed.var_names = [f"other{i}" for i in range(section.n_vars)]
    permuted = section[:, rng.permutation(section.n_vars)].copy()
    for other in (other_counts, renamed, permuted, section[:, :0].copy()):
        found = explained(model, other)
        assert (found.obsp[ATTENTION] != expected.obsp[ATTENTION]).nnz == 0
        assert_array_equal(found.obs[SHARE], expected.obs[SHARE])
        change, unmoved = (each.uns[EXPLAIN]["gene_gain"]["change"] for each in (found, expected))
        assert_array_equal(change, unmoved)
    gains = (explained(model, each).uns[EXPLAIN]["gene_gain"]["gain"] for each in (section, other_counts))
    assert not np.array_equal(*gains), "the measurement decides the gain"


def test_the_order_of_the_spots_decides_nothing(drawn, section):
    model = drawn(["model.hops=2"])
    expected = explained(model, section)
    order = np.random.default_rng(0).permutation(section.n_obs)
    shuffled = section[order].copy()
    found = explained(model, shuffled)
    assert list(found.obs_names) == list(shuffled.obs_names)
    assert_array_equal(found.obsp[ATTENTION].toarray(), expected.obsp[ATTENTION].toarray()[np.ix_(order, order)])
    assert_array_equal(found.obs[SHARE], expected.obs[SHARE].iloc[order])
    pd.testing.assert_frame_equal(found.uns[EXPLAIN]["gene_gain"], expected.uns[EXPLAIN]["gene_gain"])


def test_writes_into_the_section_or_returns_a_copy(tiny_run, tiny_sections):
    section = tiny_sections["S3"].copy()
    other = tl.explain(section, tiny_run.model, copy=True)
    assert not section.obsp
    assert not {SHARE} & set(section.obs)
    assert not {GAIN, CHANGE} & set(section.var)
    assert EXPLAIN not in section.uns
    assert tl.explain(section, tiny_run.model) is None
    assert set(section.obsp) == {ATTENTION}, "features and graph that were computed on the way are not kept"
    assert "X_image" not in section.obsm
    assert (section.obsp[ATTENTION] != other.obsp[ATTENTION]).nnz == 0
    assert_array_equal(section.obs[SHARE], other.obs[SHARE])
    assert section.uns[EXPLAIN]["section"] == "S3"


def test_writes_under_another_key_and_is_drawn_from_there(tiny_run, drawn, section):

    from nh2st_graph import pl

    both = explained(tiny_run.model, section)
    expected = explained(drawn([]), section)
    before = {slot: set(getattr(both, slot)) for slot in ("obs", "obsp", "uns", "var")}
    tl.explain(both, drawn([]), key_added="second")
    new = {slot: set(getattr(both, slot)) - names for slot, names in before.items()}
    assert new == {
        "obs": {"second_neighbour_share"},
        "obsp": {"second_attention"},
        "uns": {"second_explain"},
        "var": {"second_neighbour_gain", "second_neighbour_change"},
    }
    assert (both.obsp["second_attention"] != expected.obsp[ATTENTION]).nnz == 0
    assert_array_equal(both.obs["second_neighbour_share"], expected.obs[SHARE])
    assert_array_equal(both.var["second_neighbour_gain"], expected.var[GAIN])
    pd.testing.assert_frame_equal(both.uns["second_explain"]["gene_gain"], expected.uns[EXPLAIN]["gene_gain"])
    assert not np.array_equal(both.obs[SHARE], expected.obs[SHARE])
    for draw in (pl.neighbour_share, pl.neighbour_gain):
        assert draw(both, explain_key="second").get_title() == draw(expected).get_title() != draw(both).get_title()
    edges, own = (ax.collections[-1] for ax in (pl.attention(both, explain_key="second"), pl.attention(expected)))
    assert_array_equal(edges.get_array(), own.get_array())
    with pytest.raises(DataError, match=r"no obsp\['third_attention'\]"):
        pl.attention(both, explain_key="third")


def test_bad_input_leaves_nothing_behind(tiny_run, tiny_sections):
    section = tiny_sections["S3"][:1].copy()
    with pytest.raises(DataError, match="section 'S3': one spot alone cannot be"):
        tl.explain(section, tiny_run.model)
    assert SHARE not in section.obs
    assert not section.obsp


def test_genes_of_one_name_are_refused_before_features_are_computed(tiny_run, tiny_sections, monkeypatch):
    section, prepared = tiny_sections["S3"].copy(), []
    section.var_names = [section.var_names[1], *section.var_names[1:]]
    monkeypatch.setattr("nh2st_graph.train.Preparation.prepare", lambda *given: prepared.append(given))
    with pytest.raises(DataError, match=r"section 'S3': gene '.*' occurs more than once"):
        tl.explain(section, tiny_run.model)
    assert prepared == []


def test_one_spot_reads_nothing(drawn, section):
    found = explained(drawn(["features.standardize=train"]), section[:1].copy())
    assert found.obsp[ATTENTION].nnz == 0
    assert found.obs[SHARE].tolist() == [0]
    assert found.uns[EXPLAIN]["gene_gain"]["change"].isna().all()


def test_survives_the_disk_and_is_drawn_from_it(tiny_run, tiny_sections, tmp_path):
    import matplotlib as mpl

    mpl.use("Agg")

    from nh2st_graph import pl

    found = explained(tiny_run.model, tiny_sections["S3"])
    found.write_h5ad(tmp_path / "S3.h5ad")
    again = ad.read_h5ad(tmp_path / "S3.h5ad")
    assert (again.obsp[ATTENTION] != found.obsp[ATTENTION]).nnz == 0
    assert again.obsp[ATTENTION].nnz == found.obsp[ATTENTION].nnz
    assert_array_equal(again.obs[SHARE], found.obs[SHARE])
    assert_array_equal(again.var[[GAIN, CHANGE]], found.var[[GAIN, CHANGE]])
    assert again.uns[EXPLAIN]["section"] == "S3"
    pd.testing.assert_frame_equal(again.uns[EXPLAIN]["gene_gain"], found.uns[EXPLAIN]["gene_gain"])
    for ax in (
        pl.attention(again),
        pl.attention(again, again.obs_names[0]),
        pl.neighbour_share(again),
        pl.neighbour_gain(again),
    ):
        ax.figure.canvas.draw()
