"""The closed form of NH2ST-Graph: which regression predicts whom, what is saved, and how much the network may add."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load, save
from scipy import sparse
from torch_geometric.data import Data

from nh2st_graph.config import ModelConfig
from nh2st_graph.models import ClosedForm, NH2STGraph
from nh2st_graph.models._closed_form import PENALTIES, described_spots, fit_closed_form
from nh2st_graph.models._groups import drawn_spots
from nh2st_graph.nn import Rows, fit_component_ridge
from nh2st_graph.train import cut_out

N_FEATURES, N_GENES, N_COMPONENTS = 5, 6, 3


def make_section(seed: int, patient: str | None = "Ada", n: int = 18, slope: float = 1.0, noise: float = 0.5) -> Data:
    """A row of spots whose expression follows the first features; the slope of one of them is the patient's own."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, N_FEATURES))
    means = np.column_stack([x[:, 0], slope * x[:, 1]])
    y = 2 + means @ np.random.default_rng(99).normal(size=(2, N_GENES)) + noise * rng.normal(size=(n, N_GENES))
    left = np.arange(n - 1)
    section = Data(
        x=torch.tensor(x, dtype=torch.float32),
        y=torch.tensor(y, dtype=torch.float32),
        library=torch.tensor(rng.uniform(100, 1000, size=(n, 1)), dtype=torch.float32),
        pos=torch.tensor(np.column_stack([np.arange(n), np.zeros(n)])),
        edge_index=torch.tensor(np.hstack([[left, left + 1], [left + 1, left]])),
        edge_attr=torch.zeros(2 * (n - 1), 3),
        section=f"s{seed}",
    )
    if patient is not None:
        section.patient = patient
    return section


@pytest.fixture(scope="module")
def sections() -> list[Data]:
    """Two patients, of whom the second has one feature the other way round."""
    return [make_section(0), make_section(1), make_section(2, "Bob", slope=-1), make_section(3, "Bob", slope=-1)]


@pytest.fixture(scope="module")
def form(sections) -> ClosedForm:
    return fit_closed_form(sections, N_COMPONENTS, 0.5).form


@pytest.fixture(scope="module")
def noisy() -> list[Data]:
    """Two sections of a single patient, with as much noise as real ones."""
    return [make_section(0, noise=2.5), make_section(1, noise=5.0)]


@pytest.fixture(scope="module")
def form_of_one(noisy) -> ClosedForm:
    """The form of two sections of a single patient."""
    return fit_closed_form(noisy, N_COMPONENTS, 0.5).form


def of(section: Data, patient: str | None) -> Data:
    section = section.clone()
    del section.patient
    if patient is not None:
        section.patient = patient
    return section


# Which regression predicts whom


def test_training_patients_have_one_regression_and_all_others_another(form):
    section = make_section(7)
    described = form.description(section.x, section.edge_index)
    known, new = form.known(described).float(), form.new(described).float()
    assert (known - new).abs().max() > 0.01
    for patient, expected in (("Ada", known), ("Bob", known), ("Eve", new), (None, new)):
        torch.testing.assert_close(form(of(section, patient)), expected)


def test_the_regression_for_new_patients_is_chosen_on_held_out_patients(sections):
    fitted = fit_closed_form(sections, N_COMPONENTS, 0.5)
    spots = described_spots(fitted.form.description, sections)
    expected = fit_component_ridge(
        spots._replace(folds=torch.tensor([0, 1]).repeat_interleave(36)),
        sharpness=(0.0, 0.2),
        n_components=[N_COMPONENTS],
        penalties=PENALTIES,
        by_component=True,
    )
    assert fitted.chosen["new"] == expected.chosen
    assert torch.equal(fitted.form.new.coefficients, expected.ridge.coefficients)


def test_what_is_the_other_way_round_in_another_patient_is_not_predicted_of_new_ones():
    opposed = [make_section(0, "Ada"), make_section(1, "Bob")]
    for section, slope in zip(opposed, (1, -1), strict=True):
        section.y = slope * section.x[:, :1] * torch.arange(1, N_GENES + 1)
    new = fit_closed_form(opposed, 1, 0.5).form.new
    assert float(new.coefficients.abs().max()) == 0


@pytest.mark.parametrize("n", [1, 2])
def test_a_single_patient_says_nothing_of_others(noisy, n):
    chosen = fit_closed_form(noisy[:n], N_COMPONENTS, 0.5).chosen
    assert chosen["new"]["sharpness"] == 0
    assert set(chosen["new"]["penalty"]) == {0.15}
    assert set(chosen["known"]["penalty"]) <= set(PENALTIES)


def five_rings_of_a_row(z: torch.Tensor) -> torch.Tensor:
    """Describe each spot of a row by itself and by the spots one to five places away."""
    parts = [z / 2**0.5]
    for k in range(1, 6):
        rings = [z[[j for j in (i - k, i + k) if 0 <= j < len(z)]] for i in range(len(z))]
        parts.append(torch.stack([ring.mean(dim=0) for ring in rings]) / 10**0.5)
    return torch.cat(parts, dim=1)


def test_new_patients_are_described_by_five_rings_if_training_has_one(noisy, form_of_one):
    description = form_of_one.description
    narrow = described_spots(description, noisy)
    wide = [five_rings_of_a_row(description.own(section.x)) for section in noisy]
    settings = {"n_components": [N_COMPONENTS], "by_component": True}
    new = fit_component_ridge(
        narrow._replace(described=torch.cat(wide)), sharpness=[0.0], penalties=[0.15], **settings
    ).ridge
    torch.testing.assert_close(form_of_one(of(noisy[0], "Eve")), new(wide[0]).float())
    # The regression for training patients is that of one ring.
    weights = torch.cat([section.library[:, 0] for section in noisy]).double().sqrt()
    known = fit_component_ridge(
        narrow._replace(weights=weights), sharpness=(0.0, 0.2), penalties=PENALTIES, **settings
    ).ridge
    assert torch.equal(form_of_one.known.coefficients, known.coefficients)
    torch.testing.assert_close(form_of_one(noisy[0]), known(narrow.described[:18]).float())


@pytest.mark.parametrize("n", [1, 2])
def test_caution_costs_little_of_what_held_out_tissue_says(n):
    """Where expression follows the image closely, one patient's sections are believed more."""
    sections = [make_section(seed, n=60, noise=0.2) for seed in range(n)]
    fitted = fit_closed_form(sections, N_COMPONENTS, 0.5)
    (penalty,) = set(fitted.chosen["new"]["penalty"])
    form, errors = fitted.form, {}
    assert form.new_description.n_rings == 1
    for each in (*(p for p in PENALTIES if p < 0.15), 0.15):
        errors[each] = fit_component_ridge(
            described_spots(form.description, sections),
            sharpness=[0.0],
            n_components=[N_COMPONENTS],
            penalties=[each],
            by_component=True,
        ).error
    cheap = [each for each, error in errors.items() if error <= 1.03 * min(errors.values())]
    assert penalty == max(cheap) < 0.15


def test_the_reach_is_that_of_the_regression(noisy, form, form_of_one):
    known, new = noisy[0], make_section(7, "Eve")
    assert (form.reach(known), form.reach(new)) == (1, 1)
    assert (form_of_one.reach(known), form_of_one.reach(new)) == (1, 5)
    for switches, reach in (({"around": False}, 0), ({"own": False}, 5)):
        apart = fit_closed_form(noisy[:1], N_COMPONENTS, 0.5, **switches).form
        assert apart.reach(new) == reach
        assert bool((apart.own(new) == apart(new)).all()) == (reach == 0)
        # A mean spot without neighbours.
        assert bool((apart.own(new) == apart.own(new)[0]).all()) == ("own" in switches)


@pytest.mark.parametrize("many", [5000, 1])
@pytest.mark.parametrize("patient", ["Ada", "Eve"])
def test_a_part_with_a_rim_as_wide_as_the_reach_is_exact(form_of_one, patient, many, monkeypatch):
    monkeypatch.setattr("nh2st_graph.models._closed_form._MANY", many)
    section, seeds = make_section(7, patient, n=40), torch.arange(17, 23)
    reach = form_of_one.reach(section)
    whole = form_of_one(section)[seeds]
    part = cut_out(section, seeds, reach)
    assert part.num_nodes == len(seeds) + 2 * reach
    torch.testing.assert_close(form_of_one(part)[part.seeds], whole)
    part = cut_out(section, seeds, reach - 1)
    assert (form_of_one(part)[part.seeds] - whole).abs().max() > 1e-4


def test_sections_of_nobody_are_patients_of_their_own(sections):
    named = [of(section, str(section.section)) for section in sections]
    nameless = [of(section, None) for section in sections]
    before, after = (fit_closed_form(each, N_COMPONENTS, 0.5) for each in (named, nameless))
    assert before.chosen == after.chosen


def test_a_section_of_nobody_is_new_even_if_one_of_its_name_was_trained_on(sections):
    form = fit_closed_form([of(sections[0], None), sections[2]], N_COMPONENTS, 0.5).form
    assert not form.knows(of(sections[0], None))
    assert not form.knows(of(sections[0], str(sections[0].section)))
    assert form.knows(sections[3])
    assert not ClosedForm.restore(load(save(fit_closed_form([of(sections[0], None)], 2, 0.5).form.memory()))).patients


def test_own_leaves_out_the_neighbours(form):
    section = make_section(7)
    alone = section.clone()
    alone.edge_index = section.edge_index[:, :0]
    assert torch.equal(form.own(section), form(alone))
    assert (form.own(section) - form(section)).abs().max() > 1e-3


@pytest.mark.parametrize("which", ["form", "form_of_one"])
@pytest.mark.parametrize("patient", ["Ada", "Eve"])
def test_predictions_read_no_gene_of_the_section(request, which, patient):
    form, section = request.getfixturevalue(which), make_section(7, patient)
    expected, changed = form(section), section.clone()
    changed.y, changed.library = -section.y, 7 * section.library
    assert torch.equal(form(changed), expected)
    del changed.y, changed.library
    assert torch.equal(form(changed), expected)


def test_held_out_expression_is_of_regressions_that_did_not_see_it(sections):
    before = fit_closed_form(sections, N_COMPONENTS, 0.5)
    held_out = [before.form.known.expand(each) for each in before.held_out]
    assert [each.shape for each in held_out] == [section.y.shape for section in sections]
    errors = [(found - section.y).square().mean() for found, section in zip(held_out, sections, strict=True)]
    seen = [(before.form(section) - section.y).square().mean() for section in sections]
    assert sum(seen) < sum(errors)


# Very many spots


def as_rows(section: Data) -> Data:
    """Hold the values of spots as those of a large section."""
    held = copy.copy(section)
    held.x, held.y = Rows(section.x.numpy()), Rows(sparse.csr_matrix(section.y.numpy()))
    held.num_nodes = len(section.x)
    return held


@pytest.mark.parametrize("n", [1, 4])
def test_rows_give_what_tensors_give(sections, n, monkeypatch):
    sections = sections[:n]
    before = fit_closed_form(sections, N_COMPONENTS, 0.5)
    after = fit_closed_form([as_rows(each) for each in sections], N_COMPONENTS, 0.5)
    assert before.chosen == after.chosen
    for few, many, section in zip(before.held_out, after.held_out, sections, strict=True):
        assert torch.equal(few, many)
        other = of(section, "Eve")
        for each in (section, other):
            assert torch.equal(after.form(as_rows(each)), before.form(each))
        expected = before.form(other)
        monkeypatch.setattr("nh2st_graph.models._closed_form._MANY", 7)
        torch.testing.assert_close(after.form(as_rows(other)), expected)
        monkeypatch.undo()


def test_a_sample_of_many_spots_comes_close_to_all_of_them():
    sections = [make_section(seed, patient, n=150) for seed, patient in enumerate(("Ada", "Ada", "Bob"))]
    whole = fit_closed_form(sections, N_COMPONENTS, 0.5)
    part = fit_closed_form(sections, N_COMPONENTS, 0.5, most_spots=150)
    again = fit_closed_form([as_rows(each) for each in sections], N_COMPONENTS, 0.5, most_spots=150)
    for i, section in enumerate(sections):
        assert part.held_out[i].shape == (150, N_COMPONENTS)
        assert torch.equal(part.held_out[i], again.held_out[i])
        near, exact = (each.form.known.expand(each.held_out[i]) for each in (part, whole))
        assert (near - exact).square().mean() < 0.05 * section.y.var(dim=0).mean()
    assert len(part.form.known.points) in (0, 150)


def test_a_wider_description_is_fitted_on_fewer_spots():
    """So that no more numbers are held than of a narrow one."""
    section = make_section(0, n=90, noise=2.5)
    form = fit_closed_form([section], N_COMPONENTS, 0.5, most_spots=90).form
    wide = form.new_description
    drawn = drawn_spots([section], 30)
    expected = fit_component_ridge(
        described_spots(wide, [section], drawn),
        sharpness=[0.0],
        n_components=[N_COMPONENTS],
        penalties=[0.15],
        by_component=True,
        basis=form.new.basis,
    ).ridge
    assert len(form.known.points) in (0, 90)
    assert torch.equal(form.new.coefficients, expected.coefficients)


def test_one_ring_is_fitted_on_as_many_spots_as_it_may_hold():
    """Where five rings cost too much, which was found on fewer spots."""
    section = make_section(0, n=400, noise=0.2)
    fitted = fit_closed_form([section], N_COMPONENTS, 0.5, most_spots=200)
    form = fitted.form
    assert form.new_description.n_rings == 1
    expected = fit_component_ridge(
        described_spots(form.description, [section], drawn_spots([section], 200)),
        sharpness=[0.0],
        n_components=[N_COMPONENTS],
        penalties=[fitted.chosen["new"]["penalty"][0]],
        by_component=True,
        basis=form.new.basis,
    ).ridge
    torch.testing.assert_close(form.new.coefficients, expected.coefficients)


def test_no_spot_of_a_sampled_section_is_predicted_by_a_regression_that_has_seen_it():
    sections = [make_section(seed, n=60) for seed in range(3)]
    before = fit_closed_form(sections, N_COMPONENTS, 0.0, most_spots=60)
    spots = described_spots(before.form.description, sections, drawn_spots(sections, 60))
    basis = before.form.known.basis
    fit = fit_component_ridge(
        spots, sharpness=(0.0, 0.2), n_components=[3], penalties=PENALTIES, by_component=True, basis=basis
    )
    for i, section in enumerate(sections):
        expected = fit.without[i].scores(before.form.description(section.x, section.edge_index))
        assert_allclose(before.held_out[i], expected, atol=1e-4)


def test_views_of_a_sample_follow_it(sections):
    viewed = [copy.copy(each) for each in sections]
    for each in viewed:
        each.x_views = torch.stack([each.x, 2 * each.x], dim=1)
    description = fit_closed_form(sections, N_COMPONENTS, 0.5).form.description
    drawn = drawn_spots(sections, 10)
    few, whole = described_spots(description, viewed, drawn), described_spots(description, viewed)
    places = np.concatenate([drawn, 72 + drawn, 144 + drawn])
    for part, all_of_it in zip(few, whole, strict=True):
        assert torch.equal(part, all_of_it[places])


# What is saved


@pytest.mark.parametrize("which", ["form", "form_of_one"])
def test_a_restored_form_predicts_the_same_bits(request, which, sections):
    form = request.getfixturevalue(which)
    memory = form.memory()
    kept, loaded = ClosedForm.restore(memory), ClosedForm.restore(load(save(memory)))
    for section in (*sections, make_section(7, "Eve")):
        assert torch.equal(kept(section), loaded(section))
        assert_allclose(kept(section), form(section), atol=1e-5)


def test_a_form_of_before_has_one_description_for_both_regressions(form, form_of_one):
    memory = form.memory()
    expected = ClosedForm.restore(memory)
    del memory["new.parts"], memory["new.weight"]
    section = make_section(7, "Eve")
    assert torch.equal(ClosedForm.restore(memory)(section), expected(section))
    memory = form_of_one.memory()
    del memory["new.parts"]
    with pytest.raises(KeyError, match=r"new\.parts"):
        ClosedForm.restore(memory)


def test_no_name_of_a_patient_is_saved(form):
    written = save(form.memory())
    assert form.patients
    assert b"Ada" not in written
    assert b"Bob" not in written


# How much of the network's correction is added


def test_features_may_be_bytes(sections):
    """Pixels that nothing standardises are."""
    as_bytes = [each.clone() for each in sections[:2]]
    for each in as_bytes:
        each.x = (100 + 20 * each.x).to(torch.uint8)
    as_floats = [each.clone() for each in as_bytes]
    for each in as_floats:
        each.x = each.x.float()
    models = [make_model(given) for given in (as_bytes, as_floats)]
    assert torch.equal(models[0].predict(as_bytes[0]), models[1].predict(as_floats[0]))


def make_model(sections, **switches) -> NH2STGraph:
    torch.manual_seed(0)
    config = ModelConfig(width=8, n_components=N_COMPONENTS, heads=2, **switches)
    model = NH2STGraph(config, N_FEATURES, N_GENES)
    model.prepare(sections)
    return model.eval()


def told(model: NH2STGraph, corrections: dict[str, torch.Tensor]) -> NH2STGraph:
    """A copy of a model that corrects by what it is told, in the order of the sections."""
    model = copy.copy(model)
    model.memory = dict(model.memory)
    waiting = iter(corrections.values())
    object.__setattr__(model, "correction", lambda _: next(waiting))
    return model


def settled(model: NH2STGraph, sections: list[Data], corrections) -> dict[str, float]:
    """Hold out each section once, and say what each was corrected by."""
    folds = [
        (told(model, {"": correction}), [section]) for section, correction in zip(sections, corrections, strict=True)
    ]
    model.settle(folds)
    for network, _ in folds:
        assert torch.equal(network.memory["correction"], model.memory["correction"])
    return model.chosen["correction"]


def left(model: NH2STGraph, section: Data) -> torch.Tensor:
    return section.y - model.closed_form(section)


@pytest.fixture
def held_out() -> list[Data]:
    return [make_section(seed, patient, slope=2.0) for seed in range(10, 13) for patient in ("Ada", "Eve")]


def test_a_perfect_correction_is_added_whole(sections, held_out):
    model = make_model(sections)
    found = settled(model, held_out, [left(model, section) for section in held_out])
    assert found == pytest.approx({"known": 1, "new": 1})
    assert settled(model, held_out, [left(model, section) / 4 for section in held_out]) == pytest.approx(found)
    doubled = settled(model, held_out, [2 * left(model, section) + 5 for section in held_out])
    assert doubled == pytest.approx({"known": 0.5, "new": 0.5})  # an offset is none of its business


def test_a_wrong_correction_and_noise_are_left_out(sections, held_out):
    model = make_model(sections)
    assert settled(model, held_out, [-left(model, section) for section in held_out]) == {"known": 0, "new": 0}
    factors = []
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        noise = [10 * torch.randn(section.y.shape, generator=draw) for section in held_out]
        factors += settled(model, held_out, noise).values()
    assert np.median(factors) == 0
    assert max(factors) < 0.1


def test_new_patients_get_what_held_for_new_patients(sections, held_out, caplog):
    model = make_model(sections)
    corrections = [left(model, section) if section.patient == "Ada" else -left(model, section) for section in held_out]
    with caplog.at_level("INFO"):
        assert settled(model, held_out, corrections) == pytest.approx({"known": 1, "new": 0})
    assert "100% of the network's correction for training patients, and nothing for others" in caplog.text
    # Of known patients alone, nothing is known of others; of new ones alone, it is taken for known ones.
    known, new = held_out[::2], held_out[1::2]
    assert settled(model, known, corrections[::2]) == pytest.approx({"known": 1, "new": 0})
    perfect = [left(model, section) for section in new]
    assert settled(model, new, perfect) == pytest.approx({"known": 1, "new": 1})


def test_a_prediction_is_the_form_and_as_much_of_the_correction(sections, held_out):
    model = make_model(sections)
    section = held_out[0]
    side = model(section.x, section.edge_index, section.edge_attr)
    correction = side.expression - model.decoder.mean
    with torch.no_grad():
        for known, new in ((0.0, 1.0), (0.5, 0.0)):
            model.memory["correction"] = torch.tensor([known, new])
            for patient, factor in (("Ada", known), ("Eve", new)):
                each = of(section, patient)
                expected = model.closed_form(each) + factor * correction
                torch.testing.assert_close(model.predict(each), expected)
                if factor == 0:
                    assert torch.equal(model.predict(each), model.closed_form(each))


def test_without_a_closed_form_the_network_predicts_alone(sections, held_out):
    model = make_model(sections, closed_form=False)
    assert model.memory == {}
    assert model.closed_form is None
    assert all("base" not in graph for graph in model.training_graphs(sections))
    model.settle([(model, held_out)])
    assert model.memory == model.chosen == {}
    section = held_out[0]
    side = model(section.x, section.edge_index, section.edge_attr)
    assert torch.equal(model.predict(section), side.expression)


def test_training_starts_from_what_was_held_out(sections):
    model = make_model(sections)
    expected = fit_closed_form(sections, 2 * N_COMPONENTS, model.config.depth_power).held_out
    for graph, section, base in zip(model.training_graphs(sections), sections, expected, strict=True):
        assert torch.equal(graph.base, base)
        assert "base" not in section
