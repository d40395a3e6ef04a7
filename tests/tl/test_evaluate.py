"""Scores of a run: what they are of, against plain loops, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from nh2st_graph import DataError, __version__, tl
from nh2st_graph.config import Config
from nh2st_graph.im import SquidpyEncoder
from nh2st_graph.metrics import noise_ceiling
from nh2st_graph.models import BASELINES
from nh2st_graph.section import targets
from nh2st_graph.tl import LABELS, Evaluation, FittedModel

SCORES = {"pcc_mean", "pcc_partial", "pcc_heg50", "pcc_hpg50", "pcc_top50_by_test", "mse", "mae", "n_spots", "n_genes"}
REFERENCES = {"depth_oracle", "neighbour_mean", "noise_ceiling"}


@pytest.fixture(scope="module")
def train(tiny_sections) -> dict[str, AnnData]:
    return {name: tiny_sections[name] for name in ("S1", "S2")}


@pytest.fixture(scope="module")
def test(tiny_sections) -> AnnData:
    return tiny_sections["S3"]


@pytest.fixture(scope="module")
def evaluation(tiny_run) -> Evaluation:
    return tiny_run.evaluation


@pytest.fixture(scope="module")
def alone(tiny_run) -> FittedModel:
    """The model, to be scored without baselines beside it."""
    return replace(tiny_run.model, config=tiny_run.model.config.override(["evaluate.baselines=false"]))


def r(a: np.ndarray, b: np.ndarray) -> float:
    return 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else float(np.corrcoef(a, b)[0, 1])


def residual(values: np.ndarray, depth: np.ndarray) -> np.ndarray:
    design = np.column_stack([np.ones_like(depth), depth])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def test_a_gene_that_was_not_measured_names_the_cure(tiny_run, train, test):
    """It is given before training: dropping genes afterwards would not help."""
    lacks = test[:, [gene for gene in test.var_names if gene != tiny_run.model.genes[0]]].copy()
    with pytest.raises(DataError) as error:
        tl.evaluate({"S3": lacks}, tiny_run.model, train)
    assert {"'S3'", "test_sections"} <= set(str(error.value).replace(":", "").replace(",", "").split())
    assert tiny_run.model.genes[0] in str(error.value)
    assert "missing_genes" not in str(error.value)
    assert "data.test" in error.value.at("key")


def test_shows_itself_in_words(evaluation):
    lines = str(evaluation).splitlines()
    assert lines[0] == "mean r on S3"
    assert lines[1].split("  ")[-1] == "mean r given depth"
    named = {line.rsplit("  ", 2)[0].strip() for line in lines[2:]}
    assert all(any(label in name for name in named) for label in ("NH2ST-Graph", *LABELS.values()))
    assert "depth_oracle" not in str(evaluation)


class TestAgainstLoops:
    """Every number once more, in float64 and gene by gene."""

    @pytest.fixture(scope="class")
    def pairs(self, evaluation, test, tiny_run, tiny_config) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        observed = targets(test, tiny_run.model.genes, **tiny_config.data.target)
        predicted = evaluation.predictions["S3"].to_df().loc[observed.index].astype(float)
        return {gene: (predicted[gene].to_numpy(), observed[gene].to_numpy()) for gene in observed}

    def test_of_the_model(self, evaluation, pairs, test):
        depth = np.log1p(np.asarray(test.X.sum(axis=1)).ravel())
        found = evaluation.metrics["sections"]["S3"]
        means = {
            "pcc_mean": np.mean([r(*pair) for pair in pairs.values()]),
            "pcc_partial": np.mean([r(residual(a, depth), residual(b, depth)) for a, b in pairs.values()]),
            "mse": np.mean([np.mean((a - b) ** 2) for a, b in pairs.values()]),
            "mae": np.mean([np.mean(np.abs(a - b)) for a, b in pairs.values()]),
        }
        for name, value in means.items():
            assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
        assert (found["n_spots"], found["n_genes"]) == (test.n_obs, 12)

    def test_of_subsets_of_the_genes(self, alone, train, test):
        """With subsets smaller than the panel: those of the model, and not those that do well here."""
        model = replace(alone, heg50=alone.heg50[:4], hpg50=alone.hpg50[3:5])
        found = tl.evaluate({"S3": test}, model, train)
        per_gene = found.per_gene.loc["S3"]["pcc"]
        assert found.metrics["sections"]["S3"]["pcc_heg50"] == pytest.approx(per_gene[model.heg50].mean())
        assert found.metrics["sections"]["S3"]["pcc_hpg50"] == pytest.approx(per_gene[model.hpg50].mean())

    def test_of_the_depth_oracle(self, evaluation, pairs, test):
        depth = np.log1p(np.asarray(test.X.sum(axis=1)).ravel())
        oracle = evaluation.metrics["references"]["depth_oracle"]["sections"]["S3"]
        assert oracle["pcc_mean"] == pytest.approx(np.mean([r(depth, b) for _, b in pairs.values()]))
        assert oracle["pcc_partial"] == pytest.approx(0, abs=1e-12)
        assert oracle["mse"] is None

    def test_of_the_true_neighbours(self, evaluation, pairs, test, tiny_config):
        """Over the ring of eight on the array, spot by spot."""
        place = dict(zip(test.obs_names, zip(test.obs.array_row, test.obs.array_col, strict=True), strict=True))
        around = {
            spot: [o for o, (v, u) in place.items() if max(abs(v - y), abs(u - x)) == 1]
            for spot, (y, x) in place.items()
        }
        scored = evaluation.metrics["references"]["neighbour_mean"]["sections"]["S3"]["pcc_mean"]
        observed = {gene: pd.Series(b, test.obs_names) for gene, (_, b) in pairs.items()}
        expected = [r(np.array([b[around[spot]].mean() for spot in b.index]), b.to_numpy()) for b in observed.values()]
        assert scored == pytest.approx(np.mean(expected), abs=1e-6)

    def test_of_the_noise_ceiling(self, evaluation, test, tiny_run):
        """Over all measured genes, which the package sums up outside the panel."""
        counts = pd.DataFrame(test.X.toarray().astype(int), test.obs_names, test.var_names)

        def normalize(half: pd.DataFrame) -> pd.DataFrame:
            size = half.sum(axis=1)
            return np.log1p(half.div(size, axis=0).fillna(0) * 1e4)[tiny_run.model.genes]

        expected = noise_ceiling(counts, normalize, n_repeats=200)
        found = evaluation.per_gene.loc["S3"]["ceiling"]
        assert found.between(0, 1).all()
        assert found.mean() == pytest.approx(expected.mean(), abs=0.05)
        reference = evaluation.metrics["references"]["noise_ceiling"]["sections"]["S3"]
        assert reference["pcc_mean"] == pytest.approx(found.mean())

    def test_genes_without_a_measurable_ceiling_are_named_and_left_out_of_the_share(self, test, train, alone):
        """Of two genes, all spots have the same mean: what their counts say is noise."""
        noise = alone.genes[:2]
        section = test.copy()
        counts = section.X.toarray()
        counts[:, section.var_names.get_indexer(noise)] = np.random.default_rng(0).poisson(4, (section.n_obs, 2))
        section.X = sparse.csr_matrix(counts)
        evaluation = tl.evaluate({"S3": section}, alone, train)
        per_gene = evaluation.per_gene.loc["S3"]
        assert per_gene["ceiling_low"].between(0, per_gene["ceiling"]).all()
        assert per_gene["ceiling_high"].between(per_gene["ceiling"], 1).all()
        left_out = per_gene.index[per_gene["ceiling_low"] == 0]
        assert set(noise) <= set(left_out)
        assert len(left_out) < 6
        assert evaluation.metrics["genes_without_ceiling"] == {"S3": list(left_out)}
        reference = evaluation.metrics["references"]["noise_ceiling"]
        assert reference["sections"]["S3"]["n_without_ceiling"] == len(left_out)
        assert reference["mean"]["n_without_ceiling"] == len(left_out)
        kept = per_gene.drop(left_out)
        share = evaluation.metrics["sections"]["S3"]["share_of_ceiling"]
        assert share == pytest.approx(kept["pcc"].mean() / kept["ceiling"].mean())
        assert {"ceiling", "ceiling_low", "ceiling_high"} <= set(evaluation.predictions["S3"].var)

    def test_of_the_training_mean(self, evaluation, pairs, train, tiny_run, tiny_config):
        genes = tiny_run.model.genes
        mean = pd.concat([targets(section, genes, **tiny_config.data.target) for section in train.values()]).mean()
        baseline = evaluation.metrics["baselines"]["mean"]["sections"]["S3"]
        assert baseline["mse"] == pytest.approx(np.mean([np.mean((mean[g] - b) ** 2) for g, (_, b) in pairs.items()]))
        assert baseline["pcc_mean"] == 0
        assert baseline["n_constant_predicted"] == 12


class TestSchema:
    def test_sections_and_their_mean(self, evaluation):
        assert set(evaluation.metrics["sections"]) == {"S3"}
        for scores in (evaluation.metrics["sections"]["S3"], evaluation.metrics["mean"]):
            assert set(scores) >= SCORES | {"share_of_ceiling", "pcc_top50_by_test_shuffled"}
        assert evaluation.metrics["mean"]["pcc_mean"] == evaluation.metrics["sections"]["S3"]["pcc_mean"]

    def test_baselines_and_references_are_scored_by_the_same_names(self, evaluation):
        assert set(evaluation.metrics["baselines"]) == set(BASELINES) >= {"mean", "ridge", "ridge_neighbours", "knn"}
        assert set(evaluation.metrics["references"]) == REFERENCES
        for name in BASELINES:
            assert set(evaluation.metrics["baselines"][name]["sections"]["S3"]) >= SCORES
            assert set(evaluation.metrics["baselines"][name]["mean"]) >= SCORES
        assert set(evaluation.metrics["baselines_chosen"]) == set(BASELINES) - {"mean"}

    def test_it_is_json_without_nan(self, evaluation):
        assert json.loads(json.dumps(evaluation.metrics, allow_nan=False)) == evaluation.metrics

    def test_the_protocol_says_what_was_measured(self, evaluation, tiny_config):
        protocol = evaluation.metrics["protocol"]
        expected = {
            "version": __version__,
            "seed": tiny_config.seed,
            "train": ["S1", "S2"],
            "test": ["S3"],
            "normalize": "total",
            "smooth": "none",
            "n_genes": 12,
            "encoder": "squidpy:summary",
        }
        assert expected.items() <= protocol.items()
        assert protocol["patients_in_both"] == []
        assert protocol["split"] == "across patients"

    def test_the_protocol_says_of_which_sections_and_images(self, evaluation, tiny_run):
        sections, origin = evaluation.metrics["protocol"]["sections"], tiny_run.model.origin
        assert sections == {**origin["train"], **origin["tests"]}
        assert all({"counts", "positions", "image"} <= digests.keys() for digests in sections.values())

    def test_a_patient_in_both_is_told(self, alone, train, test):
        together = {name: section.copy() for name, section in {**train, "S3": test}.items()}
        for section in together.values():
            section.obs["patient"] = pd.Categorical(["P"] * section.n_obs)
        protocol = tl.evaluate({"S3": together.pop("S3")}, alone, together).metrics["protocol"]
        assert (protocol["split"], protocol["patients_in_both"]) == ("within patient", ["P"])

    def test_one_row_a_gene(self, evaluation, tiny_run):
        per_gene = evaluation.per_gene
        assert list(per_gene.index.names) == ["section", "gene"]
        assert list(per_gene.index) == [("S3", gene) for gene in tiny_run.model.genes]
        columns = {
            "pcc",
            "pcc_partial",
            "mse",
            "mae",
            "ceiling",
            "pcc_depth_oracle",
            *(f"pcc_{name}" for name in BASELINES),
        }
        assert set(per_gene.columns) >= columns
        for name in ("ridge", "knn"):
            baseline = evaluation.metrics["baselines"][name]["mean"]["pcc_mean"]
            assert per_gene[f"pcc_{name}"].mean() == pytest.approx(baseline)

    def test_the_table_has_a_row_for_each_label(self, evaluation):
        table = evaluation.table()
        assert list(table.index) == list(evaluation.labels) == ["model", *LABELS]
        assert table.loc["model", "pcc_mean"] == evaluation.metrics["mean"]["pcc_mean"]
        assert np.isnan(table.loc["noise_ceiling", "mse"])

    @pytest.mark.parametrize(
        ("method", "label"), [("nh2st_graph", "NH2ST-Graph"), ("egn", "egn"), ("mine:Mine", "mine:Mine")]
    )
    def test_the_model_is_called_by_its_method(self, evaluation, method, label):
        protocol = evaluation.metrics["protocol"] | {"method": method}
        labels = replace(evaluation, metrics=evaluation.metrics | {"protocol": protocol}).labels
        assert labels == {"model": label, **LABELS}

    def test_a_baseline_as_the_model_has_a_label_beside_that_of_the_baseline(self, tiny_config, train, test):
        config = Config.parse(tiny_config.model_dump(mode="json") | {"model": {"name": "ridge"}})
        evaluation = tl.evaluate({"S3": test}, tl.fit(train, config), train)
        assert evaluation.labels["model"] == "ridge"
        assert len(set(evaluation.labels.values())) == len(evaluation.labels)
        baseline = evaluation.metrics["baselines"]["ridge"]["mean"]["pcc_mean"]
        assert evaluation.metrics["mean"]["pcc_mean"] == pytest.approx(baseline, rel=1e-5), "but for float32"

    def test_predictions_carry_their_scores(self, evaluation, test):
        prediction = evaluation.predictions["S3"]
        assert list(prediction.obs_names) == list(test.obs_names)
        assert prediction.var["pcc"].equals(evaluation.per_gene.loc["S3"]["pcc"])


class TestWhatDecides:
    def test_two_sections_are_scored_each_by_itself(self, tiny_run, alone, train, test):
        other = test.copy()
        other.obs["section"] = pd.Categorical(["S4"] * other.n_obs)
        other.X = sparse.csr_matrix(np.random.default_rng(0).poisson(3.0, other.shape).astype(np.float32))
        both = tl.evaluate({"S3": test, "S4": other}, alone, train)
        one = tl.evaluate({"S4": other}, alone, train)
        assert both.metrics["sections"]["S3"] == tiny_run.evaluation.metrics["sections"]["S3"]
        assert both.metrics["sections"]["S4"] == one.metrics["sections"]["S4"]
        first, second = (both.metrics["sections"][name]["pcc_mean"] for name in ("S3", "S4"))
        assert both.metrics["mean"]["pcc_mean"] == pytest.approx((first + second) / 2)
        assert both.metrics["std"]["pcc_mean"] > 0
        # What was measured decides the scores and not the prediction.
        np.testing.assert_array_equal(both.predictions["S4"].X, tiny_run.evaluation.predictions["S3"].X)

    def test_the_order_of_spots_does_not(self, tiny_run, train, test, evaluation):
        shuffled = test[np.random.default_rng(0).permutation(test.n_obs)].copy()
        found = tl.evaluate({"S3": shuffled}, tiny_run.model, dict(reversed(train.items())))
        assert found.metrics == evaluation.metrics
        pd.testing.assert_frame_equal(found.per_gene, evaluation.per_gene)
        assert list(found.predictions["S3"].obs_names) == list(shuffled.obs_names)


def test_an_encoder_is_made_once_for_all_sections(tiny_run, train, test, monkeypatch):
    made, initialise = [], SquidpyEncoder.__init__
    monkeypatch.setattr(SquidpyEncoder, "__init__", lambda self, *of: made.append(of) or initialise(self, *of))
    tl.evaluate({"S3": test}, tiny_run.model, train)
    assert made == [("summary", "cpu")]


class TestRefusals:
    def test_a_section_that_was_trained_on(self, tiny_run, train):
        with pytest.raises(DataError, match="section 'S1' was trained on"):
            tl.evaluate({"S1": train["S1"]}, tiny_run.model, train)

    def test_a_section_that_was_trained_on_under_another_key(self, tiny_run, train):
        with pytest.raises(DataError, match="section 'S1' was trained on"):
            tl.evaluate({"new": train["S1"]}, tiny_run.model, train)

    def test_no_section(self, tiny_run, train):
        with pytest.raises(DataError, match=r"no test section given; .*test_sections"):
            tl.evaluate({}, tiny_run.model, train)

    def test_baselines_on_other_sections_than_the_model_had(self, tiny_run, train, test):
        with pytest.raises(DataError, match=r"need the model's training sections \(S1, S2\), given: S1"):
            tl.evaluate({"S3": test}, tiny_run.model, {"S1": train["S1"]})

    def test_a_section_without_genes_or_without_one_of_the_panel(self, tiny_run, train, test):
        with pytest.raises(DataError, match="section 'S3': no genes"):
            tl.evaluate({"S3": test[:, :0].copy()}, tiny_run.model, train)
        absent = tiny_run.model.genes[3]
        with pytest.raises(DataError, match=f"section 'S3': panel gene {absent} not measured"):
            tl.evaluate({"S3": test[:, test.var_names != absent].copy()}, tiny_run.model, train)
