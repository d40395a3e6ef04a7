"""Reduced-rank ridge, linear and with a kernel: what they choose, on synthetic sections and on real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from numpy.testing import assert_allclose
from pydantic import ValidationError
from scipy.stats import pearsonr
from torch_geometric.data import Data

import nh2st_graph as ng
from nh2st_graph.models import BASELINES, Estimator, KernelRidge, ReducedRankRidge, find_method, make_baseline
from nh2st_graph.models._closed_form import described_spots
from nh2st_graph.models._groups import patient_groups
from nh2st_graph.nn import Description, fit_component_ridge

BOTH = ("reduced_rank_ridge", "kernel_ridge")
N_GENES = 6


def make_section(seed: int, patient: str = "Ada", n: int = 20, n_genes: int = N_GENES, curved: bool = False) -> Data:
    """A row of spots whose genes follow two functions: of the spot's own image, and of its neighbours'."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5))
    around = np.convolve(x[:, 1], [0.5, 0, 0.5])[1:-1]
    means = np.column_stack([np.abs(x[:, 0]) if curved else x[:, 0], around])
    y = 2 + means @ np.random.default_rng(99).normal(size=(2, n_genes)) + 0.3 * rng.normal(size=(n, n_genes))
    left = np.arange(n - 1)
    return Data(
        x=torch.tensor(x, dtype=torch.float32),
        y=torch.tensor(y, dtype=torch.float32),
        pos=torch.tensor(np.column_stack([np.arange(n), np.zeros(n)])),
        edge_index=torch.tensor(np.hstack([[left, left + 1], [left + 1, left]])),
        section=f"s{seed}",
        patient=patient,
    )


def fitted(name: str, sections: list[Data], **settings: Any) -> Estimator:
    method = find_method(name)
    estimator = method(method.Settings(**settings))
    estimator.fit(sections)
    return estimator


def mean_r(estimator: Estimator, section: Data) -> float:
    predicted = estimator.predict(section)
    return float(np.mean([pearsonr(predicted[:, g], section.y[:, g]).statistic for g in range(predicted.shape[1])]))


def test_they_are_baselines():
    assert set(BOTH) < set(BASELINES)
    assert [type(make_baseline(name)) for name in BOTH] == [ReducedRankRidge, KernelRidge]


def test_components_and_penalty_are_chosen_on_held_out_patients():
    sections = [make_section(seed, patient) for seed, patient in enumerate(("Ada", "Bob", "Ada", "Eve"))]
    description = Description.fit([section.x for section in sections])
    folds = torch.tensor([0, 1, 0, 2]).repeat_interleave(20)
    expected = fit_component_ridge(
        described_spots(description, sections)._replace(folds=folds),
        sharpness=[0.0],
        n_components=[1, 2, 4],
        penalties=[0.001, 0.1, 1.0],
        by_component=False,
    )
    estimator = fitted("reduced_rank_ridge", sections, components=(1, 2, 4), penalties=(0.001, 0.1, 1.0))
    assert estimator.chosen == {name: expected.chosen[name] for name in ("components", "penalty")}
    test = make_section(9)
    assert_allclose(estimator.predict(test), expected.ridge(description(test.x, test.edge_index)), rtol=1e-5)


def test_patients_are_held_out_where_there_are_several():
    ada, bob = [make_section(seed, n=3) for seed in range(2)], make_section(2, "Bob", n=3)
    assert patient_groups([*ada, bob]).tolist() == [0] * 6 + [1] * 3
    assert patient_groups(ada).tolist() == [0] * 3 + [1] * 3
    assert patient_groups(ada[:1]).tolist() == [0, 1, 2]
    del bob.patient
    assert patient_groups([bob, ada[0]]).tolist() == [1] * 3 + [0] * 3  # in the order of names: a section is its own


def test_own_and_neighbours_are_read_and_a_kernel_finds_curves():
    straight, curved = ([make_section(seed, n=60, curved=each) for seed in range(4)] for each in (False, True))
    assert mean_r(fitted("reduced_rank_ridge", straight[:3]), straight[3]) > 0.85
    line, kernel = (mean_r(fitted(name, curved[:3]), curved[3]) for name in BOTH)
    assert kernel > line + 0.1


@pytest.mark.parametrize("name", BOTH)
def test_the_number_of_components_follows_expression(name):
    sections = [make_section(seed, n=40) for seed in range(3)]
    assert fitted(name, sections, components=(1, 2)).chosen["components"] == 2
    for section in sections:
        section.y = torch.from_numpy(np.random.default_rng(section.y.shape[0]).normal(size=section.y.shape))
    noise = fitted(name, sections)
    assert noise.chosen["penalty"] == pytest.approx(1)


@pytest.mark.parametrize("name", BOTH)
def test_single_values_and_a_single_section_need_no_choice(name):
    single = {"components": (2,), "penalties": (0.01,)} | ({"sharpness": (0.2,)} if name == "kernel_ridge" else {})
    estimator = fitted(name, [make_section(0)], **single)
    assert estimator.chosen == {"components": 2, "penalty": 0.01} | (
        {"sharpness": 0.2} if name == "kernel_ridge" else {}
    )
    assert np.isfinite(fitted(name, [make_section(0)]).predict(make_section(1))).all()
    for few in ([make_section(0, n=1)], [make_section(0, n=2)], [make_section(0, n=1), make_section(1, n=1)]):
        assert fitted(name, few).predict(make_section(1)).shape == (20, N_GENES)


@pytest.mark.parametrize("name", BOTH)
def test_a_gene_alone_and_more_components_than_genes(name):
    sections = [make_section(seed, n_genes=1) for seed in range(2)]
    estimator = fitted(name, sections)
    assert estimator.chosen["components"] == 1
    assert estimator.predict(make_section(5)).shape == (20, 1)


def test_many_patients_are_held_out_several_at_a_time(monkeypatch):
    seen = []

    def watched(spots, **settings):
        seen.append(spots.folds)
        return fit_component_ridge(spots, **settings)

    monkeypatch.setattr("nh2st_graph.models._reduced_rank.fit_component_ridge", watched)
    fitted("reduced_rank_ridge", [make_section(seed, f"p{seed:02}", n=3) for seed in range(12)])
    assert seen[0].tolist() == np.repeat(np.arange(12) % 5, 3).tolist()


@pytest.mark.parametrize("name", BOTH)
def test_views_in_other_stains_are_more_spots_of_the_same_patients(name):
    sections = [make_section(seed, patient, n=8) for seed, patient in enumerate(("Ada", "Bob", "Bob"))]
    viewed = [section.clone() for section in sections]
    for section in viewed:
        section.x_views = section.x[:, None].repeat(1, 2, 1)
    before, after = (fitted(name, each) for each in (sections, viewed))
    assert before.chosen == after.chosen
    test = make_section(5)
    assert_allclose(
        after.predict(test), before.predict(test), rtol=1e-4
    )  # each spot three times, of a third the weight


@pytest.mark.parametrize("settings", [{"components": ()}, {"components": (0,)}, {"penalties": (0.0,)}])
def test_settings_are_checked(settings):
    for name in BOTH:
        with pytest.raises(ValidationError):
            find_method(name).Settings(**settings)
    with pytest.raises(ValidationError):
        KernelRidge.Settings(sharpness=(0.0,))


@pytest.mark.parametrize("name", BOTH)
def test_a_saved_one_predicts_the_same_bits(name, tiny_config, tiny_sections, tmp_path):
    config = tiny_config.change({"model": {"name": name, "components": [2, 4]}})
    model = ng.tl.fit([tiny_sections["S1"], tiny_sections["S2"]], config)
    model.save(tmp_path / "model")
    loaded = ng.load(tmp_path / "model")
    before, after = (ng.tl.predict(tiny_sections["S3"], each).X for each in (model, loaded))
    assert np.array_equal(before, after)
    assert loaded.module.chosen == model.module.chosen
    assert model.module.chosen["components"] in (2, 4)


@pytest.fixture(scope="module")
def real_sections(her2st_crops) -> list[AnnData]:
    """Sections of two patients; they are shared."""
    return list(ng.read.sections("her2st", her2st_crops, ["B4", "C3", "C4"]).values())


@pytest.mark.parametrize("name", BOTH)
def test_on_real_sections(name, real_sections):
    *train, test = real_sections
    model = ng.tl.fit(train, panel="hvg:50", encoder="squidpy:summary", model={"name": name})
    found = ng.tl.predict(test, model)
    assert found.shape == (test.n_obs, 50)
    measured = np.isfinite(found.X).all(axis=0)  # others were detected in too few training spots
    assert measured.mean() > 0.5
    assert np.ptp(found.X[:, measured], axis=0).max() > 0
