"""Methods of somebody else's through the same loop: a network with a memory, an estimator, and one that needs more."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from anndata import AnnData
from sklearn.cross_decomposition import PLSRegression
from torch import Tensor, nn
from torch_geometric.data import Data

from nh2st_graph import DataError, ModelError, load, tl
from nh2st_graph.config import MethodConfig
from nh2st_graph.models import Estimator, Network, find_method
from nh2st_graph.section import Key
from nh2st_graph.tl import FittedModel


class Nearest(Network):
    """Learns a projection, and predicts by the expression of the nearest remembered spot."""

    calls: ClassVar[list[int]] = []

    def __init__(self, settings, n_features, n_genes, patch_encoder=None):
        super().__init__(settings, n_features, n_genes, patch_encoder)
        self.project = nn.Linear(n_features, 4)
        self.decode = nn.Linear(4, n_genes)

    @property
    def receptive_hops(self) -> int:
        return 0

    def losses(self, data: Data) -> dict[str, Tensor]:
        assert data.edge_index.numel() < 2 * data.num_nodes**2
        predicted = self.decode(self.project(self.features(data)))[data.seeds]
        loss = nn.functional.mse_loss(predicted, data.y[data.seeds])
        return {"loss": loss, "regression": loss}

    def remember(self, sections: Sequence[Data]) -> None:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls.append(len(sections))
        self.memory = {
            "keys": torch.cat([self.project(self.features(section)) for section in sections]),
            "values": torch.cat([section.y for section in sections]),
        }

    def predict(self, data: Data) -> Tensor:
        assert not {"y", "counts", "library"} & set(data.keys())
        keys = self.memory["keys"]
        return self.memory["values"][torch.cdist(self.project(self.features(data)), keys).argmin(1)]


class Pls(Estimator):
    """Partial least squares."""

    def fit(self, sections: Sequence[Data]) -> None:
        x, y = (np.vstack([section[name] for section in sections]) for name in ("x", "y"))
        self.model = PLSRegression(2).fit(x, y)

    def predict(self, section: Data) -> np.ndarray:
        assert not {"y", "counts", "library"} & set(section.keys())
        return self.model.predict(section.x.numpy())


class Wrong(Pls):
    def predict(self, section: Data) -> np.ndarray:
        return super().predict(section)[:, 1:]


class Arrayed(Pls):
    needs = frozenset({"array"})


class Large(Nearest):
    def check(self, data: Data) -> None:
        if data.num_nodes < 1000:
            raise DataError(f"section {data.section!r}: {data.num_nodes} spots, Large needs 1000")


@pytest.fixture(scope="module")
def train(tiny_sections) -> dict[str, AnnData]:
    return {name: tiny_sections[name] for name in ("S1", "S2")}


@pytest.fixture(scope="module")
def quick(tiny_config):
    def make(method: type, *changes: str):
        name = f"{__name__}:{method.__name__}"
        config = tiny_config.override(["train.max_epochs=2", "train.folds=2", f"model.name={name}", *changes])
        assert find_method(name) is method
        return config

    return make


@pytest.fixture(scope="module")
def fitted(train, quick) -> tuple[FittedModel, list[int]]:
    """A model, and of how many sections it was to remember something, each time."""
    Nearest.calls.clear()
    return tl.fit(train, quick(Nearest)), list(Nearest.calls)


@pytest.fixture(scope="module")
def nearest(fitted) -> FittedModel:
    return fitted[0]


@pytest.fixture(scope="module")
def pls(train, quick) -> FittedModel:
    return tl.fit(train, quick(Pls))


def test_a_network_that_remembers_is_trained_saved_and_loaded(fitted, train, tiny_sections, tmp_path):
    model, calls = fitted
    assert set(calls) == {1, 2}  # one section in the folds, both at the end
    assert calls[-1] == 2
    assert len(model.module.memory["keys"]) == sum(section.n_obs for section in train.values())
    predicted = tl.predict(tiny_sections["S3"], model)
    values = {row.tobytes() for row in model.module.memory["values"].numpy()}
    assert {row.tobytes() for row in predicted.X} <= values  # each is some training spot's expression
    model.save(tmp_path)
    again = load(tmp_path)
    assert isinstance(again.module, Nearest)
    assert again.module.memory.keys() == model.module.memory.keys()
    np.testing.assert_array_equal(tl.predict(tiny_sections["S3"], again).X, predicted.X)


def test_no_refit_keeps_the_memory_of_the_first_fold(train, quick):
    model = tl.fit(train, quick(Nearest, "train.refit=false"))
    assert len(model.module.memory["keys"]) == train["S2"].n_obs  # the first fold holds out S1


def test_an_estimator_is_fitted_and_scored(tiny_sections, train, quick, tmp_path):
    config = quick(Pls, "data.train=[S1,S2]", "data.test=[S3]", "evaluate.figures=false")
    run = tl.train_run(config, tmp_path / "run", sections=tiny_sections)
    assert run.fit_seconds > 0
    assert run.evaluation.metrics["protocol"]["method"] == config.model.name
    assert len(run.model.hpg50) == len(run.model.genes)
    x, y = (np.vstack([part[name] for part in graphs(run.model, train)]) for name in ("x", "y"))
    expected = PLSRegression(2).fit(x, y).predict(graphs(run.model, {"S3": tiny_sections["S3"]})[0].x.numpy())
    prediction = run.evaluation.predictions["S3"]
    order = np.argsort(prediction.obs_names.to_numpy(dtype=str), kind="stable")
    np.testing.assert_allclose(prediction.X[order], expected, rtol=1e-5)
    assert not (tmp_path / "run" / "model.safetensors").exists()  # it cannot be saved, its scores are there
    assert (tmp_path / "run" / "metrics.json").exists()


def graphs(model, sections):
    return [model.preparation.prepare(section).measured for section in sections.values()]


@pytest.mark.parametrize("method", ["nearest", "pls"])
def test_genes_of_the_section_change_nothing(method, tiny_sections, request):
    model = request.getfixturevalue(method)
    first = tl.predict(tiny_sections["S3"], model).X
    others = tiny_sections["S3"].copy()
    others.X = others.X[::-1] * 3
    np.testing.assert_array_equal(tl.predict(others, model).X, first)
    np.testing.assert_array_equal(tl.predict(tiny_sections["S3"][:, :0].copy(), model).X, first)


def test_a_prediction_of_another_shape_is_refused(tiny_sections, pls):
    model = replace(pls, module=copy.copy(pls.module))
    model.module.__class__ = Wrong
    with pytest.raises(ModelError, match=r"predicted shape \(\d+, 11\) for section 'S3', expected \(\d+, 12\)"):
        tl.predict(tiny_sections["S3"], model)


@pytest.mark.parametrize("lacking", ["S1", "S3"])
def test_what_a_section_lacks_is_said_before_training(lacking, tiny_sections, quick, tmp_path):
    sections = {name: section.copy() for name, section in tiny_sections.items()}
    del sections[lacking].obs[Key.obs.array_row]
    config = quick(Arrayed, "graph.mode=knn")
    with pytest.raises(DataError, match=rf"section '{lacking}': Arrayed needs array positions"):
        tl.train_run(config, tmp_path / "run", sections=sections)
    assert not (tmp_path / "run").exists()


def test_a_method_checks_sections_itself(tiny_sections, quick, tmp_path):
    with pytest.raises(DataError, match=r"section 'S1': \d+ spots, Large needs 1000"):
        tl.train_run(quick(Large), tmp_path / "run", sections=tiny_sections)
    assert not (tmp_path / "run").exists()


def test_what_only_nh2st_graph_has_is_refused(tiny_sections, pls):
    with pytest.raises(ModelError, match="only NH2ST-Graph can be asked this"):
        tl.explain(tiny_sections["S3"], pls)
    with pytest.raises(ModelError, match="has no embeddings"):
        tl.embed(tiny_sections["S3"], pls)


def test_settings_without_keys_are_the_base_class(quick):
    assert type(quick(Pls).model) is MethodConfig
