"""The default model beside its own baselines on synthetic tissue, where what can be predicted is known."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData

from nh2st_graph import datasets, metrics, tl
from nh2st_graph.config import Config
from nh2st_graph.section import targets


@pytest.fixture(scope="module")
def tissues(tmp_path_factory) -> list[dict[str, AnnData]]:
    """Five sections of three patients for each of two seeds."""
    few = {"n_rows": 9, "n_cols": 9, "n_own": 8, "n_neighbour": 8, "n_noise": 4, "microns_per_pixel": 4.0}
    return [datasets.synthetic_tissue(5, seed, folder=tmp_path_factory.mktemp("images"), **few) for seed in (11, 12)]


def mean_r(config: Config, sections: dict[str, AnnData], train: list[str], test: str) -> float:
    model = tl.fit({name: sections[name] for name in train}, config=config)
    predicted = tl.predict(sections[test], model)
    observed = targets(sections[test], model.genes, **config.data.target)
    return float(np.mean(metrics.pearson(predicted.to_df().to_numpy(), observed.to_numpy())))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        pytest.param(["S1", "S2"], "S3", id="another patient, after one"),
        pytest.param(["S1", "S2", "S3", "S4"], "S5", id="another patient, after two"),
        pytest.param(["S1", "S2", "S3"], "S4", id="a training patient"),
    ],
)
def test_the_model_is_not_below_its_baselines(tissues, train, test, tiny_config):
    config = tiny_config.change({"data.panel": "hvg:16", "train.max_epochs": 1})
    r = {
        name: np.mean([mean_r(each, sections, train, test) for sections in tissues])
        for name, each in {
            "model": config,
            "linear": config.change({"model": {"name": "reduced_rank_ridge"}}),
            "kernel": config.change({"model": {"name": "kernel_ridge"}}),
        }.items()
    }
    # Which of the two is better is known after the test, and r of 80 spots differs by more than that between seeds.
    assert r["model"] > max(r["linear"], r["kernel"]) - 0.02, r
