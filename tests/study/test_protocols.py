from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold

from nh2st_graph import DataError
from nh2st_graph.metrics import pearson
from nh2st_graph.study import read_benchmark, run_study
from nh2st_graph.study._protocols import Head, _choose, _predict, _score, _task, compare_protocols, published_scores
from tests.hest_bench import COAD, LARGER, write_task

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = ROOT / "configs" / "benchmarks" / "hest.yaml"
#: What the public code of HEST-Benchmark gives on the same folder; made by ``golden/make_hest.py``.
GOLDEN = json.loads((ROOT / "tests" / "golden" / "hest.json").read_text())


def read(task, *more, **how):
    """Read the benchmark of a task with its embeddings."""
    place = f"features.embeddings={task / 'embeddings' / '{section}.h5'}"
    common = [f"data.root={task}", place, "features.missing=drop", "features.patch_um=112", "features.encoder=any"]
    return read_benchmark(BENCHMARK, [*common, "train.device=cpu", *more], **how)


@pytest.fixture(scope="module")
def coad(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("bench") / "COAD")


@pytest.fixture(scope="module")
def study(coad):
    return read(coad)


@pytest.fixture(scope="module")
def task(study):
    return _task(study)


def test_published_protocol_is_that_of_the_public_code(tmp_path):
    golden = GOLDEN["small"]
    found = published_scores(_task(read(write_task(tmp_path / "COAD", LARGER))))
    expected = pd.DataFrame(golden["genes"]).T.loc[found.index]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.mean(), golden["folds"], rtol=0, atol=1e-6)
    assert found.mean().mean() == pytest.approx(golden["mean"], abs=1e-6)
    assert found.mean().std(ddof=0) == pytest.approx(golden["std"], abs=1e-6)


def test_folds_have_patients_corrected(study, task):
    assert [fold.test for fold in study.folds] == [("TENX111",), ("TENX147",), ("TENX148",), ("TENX149",)]
    assert all(len(fold.train) == 3 for fold in study.folds)
    assert [fold.test for fold in task.published] == [("TENX111",), ("TENX147", "TENX148", "TENX149")]


def test_each_repair_against_its_slow_form(task):
    fold = task.published[1]
    (x, test), y = task.components(fold, False), task.expression(fold.train, False)
    observed = task.expression(fold.test, False)
    exact = Ridge(100 / (x.shape[1] * y.shape[1])).fit(x, y).predict(test)
    np.testing.assert_allclose(_predict(task, Head(intercept=True), fold), exact, rtol=1e-3, atol=1e-3)
    # r by section is the mean over each section's own spots, and over the sections of all folds.
    by_hand = []
    for each in task.published:
        predicted, start = _predict(task, Head(), each), 0
        for name in each.test:
            end = start + len(task.samples[name].library)
            values = task.expression([name], False)
            by_hand.append(np.mean([np.corrcoef(predicted[start:end, g], values[:, g])[0, 1] for g in range(12)]))
            start = end
    assert _score(task, Head(by_section=True))[0] == pytest.approx(np.mean(by_hand))
    assert pearson(_predict(task, Head(chosen=True), fold), observed).mean() > 0.3
    sizes = [len(task.samples[name].library) for name in task.published[0].train]
    (several, _), values = task.components(task.published[0], False), task.expression(task.published[0].train, False)
    for intercept in (False, True):
        grid = {"alpha": list(np.logspace(0, 5, 11))}
        search = GridSearchCV(Ridge(fit_intercept=intercept), grid, cv=GroupKFold(3), scoring="neg_mean_squared_error")
        search.fit(several, values, groups=np.repeat(np.arange(3), sizes))
        head = Head(intercept=intercept, chosen=True)
        assert _choose(task, head, task.published[0], several, values) == search.best_params_["alpha"]
    each = task.samples["TENX147"]
    assert abs(each.standardized.mean(axis=0)).max() < 1e-5
    np.testing.assert_allclose(each.standardized.std(axis=0), 1, rtol=1e-4)


def test_three_protocols_side_by_side(tmp_path):
    task = write_task(tmp_path / "COAD", dict.fromkeys(COAD, 40), n_features=12)
    study = read(task, "evaluate.downstream=false")
    result = run_study(study, tmp_path / "out", jobs=1, only=["PCA and ridge, repaired"])
    protocols = result.protocols
    sides, repairs = protocols.sides.set_index(["protocol", "method"])["r"], protocols.repairs
    assert sides["as published", "PCA and ridge"] == repairs["together"].iloc[0]
    # The last repair leads to our protocol: the same number, by other code.
    assert repairs["together"].iloc[-1] == pytest.approx(sides["ours", "PCA and ridge, repaired"], abs=1e-4)
    moved = repairs["together_moves"].sum()
    assert repairs["together"].iloc[0] + moved == pytest.approx(repairs["together"].iloc[-1])
    written = {path.name for path in result.written}
    assert {"protocols.md", "protocols.csv", "repairs.csv", "published_genes.csv", "report.html"} <= written
    text, page = ((tmp_path / "out" / name).read_text() for name in ("protocols.md", "report.html"))
    for each in (text, page):
        assert all(word in each for word in ("HEST #133", "TENX148", "as published: PCA and ridge", "r by section"))
    table = pd.read_csv(tmp_path / "out" / "repairs.csv")
    pd.testing.assert_frame_equal(table, repairs, rtol=1e-4)


class TestCorrectedFolds:
    @pytest.fixture
    def small(self, tmp_path):
        def write(samples, splits, **how):
            how = {"n_features": 20, **how}
            return write_task(tmp_path / "TASK", dict.fromkeys(samples, 40), splits, **how)

        return write

    def test_a_copy_is_left_out_and_told(self, small, caplog):
        task = small(["A", "B", "C"], [(["A", "B"], ["C"]), (["C"], ["A", "B"])])
        for folder, end in (("adata", "h5ad"), ("patches", "h5"), ("embeddings", "h5")):
            (task / folder / f"B.{end}").write_bytes((task / folder / f"A.{end}").read_bytes())
        with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
            folds = read(task).folds
        assert [(fold.train, fold.test) for fold in folds] == [(("A",), ("C",)), (("C",), ("A",))]
        assert any("B has the same counts as A" in record.getMessage() for record in caplog.records)

    def test_a_copy_that_is_known_needs_no_equal_counts(self, small):
        names = ["TENX128", "TENX155", "X"]
        folds = read(small(names, [(names[:2], ["X"]), (["X"], names[:2])])).folds
        assert [(fold.train, fold.test) for fold in folds] == [(("TENX155",), ("X",)), (("X",), ("TENX155",))]

    def test_a_known_copy_with_equal_counts_leaves_the_sample_itself(self, small):
        task = small(["TENX128", "TENX155", "X"], [(["TENX128", "TENX155"], ["X"])])
        for folder, end in (("adata", "h5ad"), ("patches", "h5"), ("embeddings", "h5")):
            (task / folder / f"TENX155.{end}").write_bytes((task / folder / f"TENX128.{end}").read_bytes())
        assert [fold.train for fold in read(task).folds] == [("TENX155",)]

    def test_a_patient_is_not_on_both_sides(self, small):
        task = small(["A", "B", "C"], [(["B", "C"], ["A"]), (["A", "C"], ["B"]), (["A", "B"], ["C"])])
        assert [fold.train for fold in read(task).folds] == [("B", "C"), ("A", "C"), ("A", "B")]
        (task / "ids.csv").write_text("sample_id,patient\nA,P\nB,P\nC,Q\n")
        assert [fold.train for fold in read(task).folds] == [("C",), ("C",), ("A", "B")]
        (task / "ids.csv").write_text("sample_id,patient\nA,P\nB,P\nC,P\n")
        with pytest.raises(DataError, match=r"no sample is left to train on where A .*ids.csv"):
            read(task)

    def test_folds_of_the_users_own_are_kept(self, small, tmp_path):
        task = small(["A", "B", "C"], [(["A", "B"], ["C"])])
        text = BENCHMARK.read_text().replace("../her2st_mini.yaml", str(ROOT / "configs" / "her2st_mini.yaml"))
        own = tmp_path / "own.yaml"
        own.write_text(f"{text}\nfolds: {{mine: {{train: [A], test: [B]}}}}\n")
        (fold,) = read_benchmark(own, [f"data.root={task}"]).folds
        assert (fold.train, fold.test) == (("A",), ("B",))

    def test_genes_are_those_of_the_task(self, small, tmp_path):
        task = small(["A", "B"], [(["A"], ["B"]), (["B"], ["A"])])
        assert read(task).config.data.panel == str(task / "var_50genes.json")
        (tmp_path / "var_50genes.json").write_text("{}")
        with contextlib.chdir(tmp_path):  # genes of another task lie here
            assert read(task).config.data.panel == str(task / "var_50genes.json")
        (task / "var_50genes.json").unlink()
        with pytest.raises(DataError, match="has no var_50genes"):
            read(task)
        with pytest.raises(DataError, match="give one task, such as"):
            read(task.parent)
        with pytest.raises(DataError, match="does not exist"):
            read(task / "nowhere")

    def test_a_constant_gene_has_no_r_as_published(self, small):
        task = small(["A", "B"], [(["A"], ["B"]), (["B"], ["A"])])
        adata = ad.read_h5ad(task / "adata" / "B.h5ad")
        adata.X[:, 0] = 0
        adata.write_h5ad(task / "adata" / "B.h5ad")
        protocols = compare_protocols(read(task))
        assert np.isnan(protocols.repairs["together"].iloc[0])
        assert np.isfinite(protocols.repairs["together"].iloc[1:]).all()
        assert any("constant in the test spots: G00 (fold 0)" in note for note in protocols.notes)
        assert any("20 features give 20 principal components" in note for note in protocols.notes)

    def test_a_missing_gene_is_named(self, small):
        task = small(["A", "B"], [(["A"], ["B"]), (["B"], ["A"])])
        genes = json.loads((task / "var_50genes.json").read_text())["genes"]
        (task / "var_50genes.json").write_text(json.dumps({"genes": [*genes, "NOPE"]}))
        with pytest.raises(DataError, match="NOPE"):
            compare_protocols(read(task))

    def test_features_without_patches_and_without_embeddings(self, small):
        task = small(["A", "B"], [(["A"], ["B"])], parts=("adata", "splits", "genes"))
        with pytest.raises(DataError, match=r"image|libraries"):
            compare_protocols(read_benchmark(BENCHMARK, [f"data.root={task}"]))
