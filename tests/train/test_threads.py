"""Threads while a block runs, and the same numbers on any number of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_info
from torch_geometric.data import Data

from nh2st_graph import im, metrics, tl
from nh2st_graph.confidence import Confidence, Familiarity
from nh2st_graph.models import Baseline, make_baseline
from nh2st_graph.nn import RidgeSpots, fit_component_ridge
from nh2st_graph.train import one_thread, threads_for, use_threads


@pytest.fixture(params=[1, 3])
def threads(request) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_inside_there_is_one_and_after_as_many_as_before(threads):
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("n_spots", "expected"), [(9_999, 1), (10_000, 3)])
def test_regressions_of_few_spots_have_one(n_spots, expected):
    with threads_for(n_spots, 3):
        assert torch.get_num_threads() == expected


def test_an_error_leaves_none_behind(threads):
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert torch.get_num_threads() == threads


def test_linear_algebra_of_numpy_has_as_many(threads):
    def pools():
        return {each["filepath"]: each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

    before = pools()
    with use_threads(2):
        assert torch.get_num_threads() == 2
        assert {*pools().values()} == {2}
    assert (torch.get_num_threads(), pools()) == (threads, before)


def test_evidence_and_baselines_are_computed_on_one(quick_config, few_spots, monkeypatch):
    """Its matrices are small: split, they take many times as long on a machine with other work."""
    seen: dict[str, set[int]] = {}

    def spied(owner: type, name: str) -> None:
        compute, method = getattr(owner, name), owner.__dict__[name]

        def noted(*given, **options):
            pools = {each["num_threads"] for each in threadpool_info()} | {torch.get_num_threads()}
            seen.setdefault(f"{owner.__name__}.{name}", set()).update(pools)
            return compute(*given, **options)

        monkeypatch.setattr(owner, name, staticmethod(noted) if isinstance(method, classmethod) else noted)

    spied(Confidence, "fit")
    for name in ("fit", "of", "judge"):
        spied(Familiarity, name)
    spied(Baseline, "fit")
    *train, test = few_spots.values()
    with use_threads(2):
        model = tl.fit(train, quick_config.change({"train.threads": 2, "evaluate.baselines": True}))
        tl.evaluate({"test": test}, model, train)
    names = ("Confidence.fit", "Familiarity.fit", "Familiarity.of", "Familiarity.judge", "Baseline.fit")
    assert seen == {key: {1} for key in names}


def encoded(encoder):
    size = encoder.input_size
    return encoder.encode(np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8))


def sections(n_spots=40, n_features=6, n_genes=10):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(n_features, n_genes, generator=generator)
    ring = torch.arange(n_spots)
    for name in "abc":
        x = torch.randn(n_spots, n_features, generator=generator)
        yield Data(
            x=x,
            y=x @ weights + torch.randn(n_spots, n_genes, generator=generator),
            library=torch.rand(n_spots, 1, generator=generator) * 100 + 1,
            edge_index=torch.stack([ring, ring.roll(1)]),
            section=name,
            patient="p",
        )


def closed_form():
    """Component scores of held-out spots, whose regressions are solved by eigenvalues."""
    generator = torch.Generator().manual_seed(0)
    described, targets = (torch.randn(60, width, generator=generator).double() for width in (8, 12))
    part = torch.arange(60) % 3
    spots = RidgeSpots(described, targets + described @ torch.ones(8, 12).double(), part, part, torch.ones(60).double())
    chosen = {"sharpness": [0.2], "n_components": [3], "penalties": [0.01, 0.1], "by_component": True}
    return fit_component_ridge(spots, **chosen).held_out


def baseline():
    *train, test = sections()
    ridge = make_baseline("ridge_neighbours")
    ridge.fit(train)
    return ridge.predict(test)


def scores():
    generator = np.random.default_rng(0)
    observed = pd.DataFrame(generator.poisson(3, (200, 30)).astype(float)).rename(index=str, columns=str)
    predicted = observed + generator.normal(size=observed.shape)
    return (
        metrics.score_section(predicted, observed, depth=observed.sum(axis=1))
        .per_gene.select_dtypes("number")
        .to_numpy()
    )


@pytest.mark.parametrize(
    "compute",
    ["timm:test_resnet@random", "handcrafted", closed_form, baseline, scores],
    ids=["network", "handcrafted", "closed form", "ridge", "scores"],
)
def test_results_do_not_depend_on_threads(compute):
    if isinstance(compute, str):
        (encoder,) = im.make_encoders(compute, "cpu")
        compute = partial(encoded, encoder)
    found = []
    for number in (1, 2, 4):
        with use_threads(number):
            first, again = np.asarray(compute()), np.asarray(compute())
        np.testing.assert_array_equal(first, again)
        found.append(first)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-6, atol=1e-6)
