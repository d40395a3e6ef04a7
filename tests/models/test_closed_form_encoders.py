"""Which encoders' features describe spots of new patients to the closed form."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save
from torch_geometric.data import Data

from nh2st_graph.models import ClosedForm
from nh2st_graph.models._closed_form import fit_closed_form

from .test_closed_form import N_COMPONENTS, N_FEATURES, N_GENES, make_section, of


@pytest.fixture(scope="module")
def sections() -> list[Data]:
    """Two sections of one patient."""
    return [make_section(0), make_section(1)]


def with_encoder(section: Data, seed: int, slope: float) -> Data:
    """Add the features of a second encoder, which expression follows with some slope."""
    draw, section = torch.Generator().manual_seed(seed), section.clone()
    own = torch.randn(section.num_nodes, 30, generator=draw)
    section.y = section.y + slope * own[:, :3] @ torch.ones(3, N_GENES)
    section.x = torch.cat([section.x, own], dim=1)
    section.x_groups, section.encoders = torch.tensor([0] * N_FEATURES + [1] * 30)[None], "one\ntwo"
    return section


@pytest.mark.parametrize("patients", ["Ada", "Bob"])
def test_features_without_which_held_out_tissue_is_predicted_better_are_not_shown_to_new_patients(patients):
    # Each section, of one patient or of two, follows the second encoder's features with a slope of its own.
    sections = [make_section(i, patient, n=40) for i, patient in enumerate(("Ada", patients))]
    misled = [with_encoder(each, i, 0.5 * (-1) ** i) for i, each in enumerate(sections)]
    fitted = fit_closed_form(misled, N_COMPONENTS, 0.5)
    assert fitted.chosen["new"]["without"] == ["two"]
    kept = torch.arange(N_FEATURES + 30) < N_FEATURES
    form = fitted.form
    torch.testing.assert_close(form.new_description.weight[kept], torch.full((N_FEATURES,), N_FEATURES**-0.5).double())
    assert not form.new_description.weight[~kept].any()
    other = of(misled[0], "Eve")
    other.x = torch.where(kept, other.x, -other.x)
    assert torch.equal(form(other), form(of(misled[0], "Eve")))
    # Training patients' tissue is read with all of them, and so is it after saving.
    assert form.description.weight.all()
    restored = ClosedForm.restore(load(save(form.memory())))
    assert torch.equal(restored(other), ClosedForm.restore(form.memory())(other))
    other.patient = "Ada"
    assert not torch.equal(form(other), form(misled[0]))


def test_features_that_tell_more_stay(sections):
    fitted = fit_closed_form([with_encoder(each, i, 0.5) for i, each in enumerate(sections[:2])], N_COMPONENTS, 0.5)
    assert "without" not in fitted.chosen["new"]
    assert torch.equal(fitted.form.new_description.weight, fitted.form.description.weight)


def test_several_encoders_are_left_out_one_after_the_other():
    misled = []
    for i, section in enumerate([make_section(seed, n=60) for seed in range(3)]):
        # Two encoders, whose slopes are others in each section.
        for seed in (i, i + 100):
            section = with_encoder(section, seed, 0.5 * (-1) ** i)
        section.x_groups = torch.tensor([0] * N_FEATURES + [1] * 30 + [2] * 30)[None]
        del section.encoders
        misled.append(section)
    assert sorted(fit_closed_form(misled, N_COMPONENTS, 0.5).chosen["new"]["without"]) == ["1", "2"]


def test_encoders_that_say_the_same_stay(sections):
    twice = [each.clone() for each in sections[:2]]
    for section in twice:
        section.x = section.x.repeat(1, 2)
        section.x_groups = torch.arange(2).repeat_interleave(N_FEATURES)[None]
    assert "without" not in fit_closed_form(twice, N_COMPONENTS, 0.5).chosen["new"]


def test_weights_of_another_number_of_features_are_refused(sections):
    memory = fit_closed_form(sections, N_COMPONENTS, 0.5).form.memory()
    memory["new.weight"] = memory["new.weight"][:-1]
    with pytest.raises(KeyError, match=r"new\.weight"):
        ClosedForm.restore(memory)
