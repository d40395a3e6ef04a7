"""A model is adapted to sections of one's own where held-out blocks of them say that this gains something."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from numpy.testing import assert_allclose, assert_array_equal

from nh2st_graph import DataError, ModelError, RenamedWarning, load, tl
from nh2st_graph.confidence import OF_ADAPTED, OF_KNOWN, OF_NEW
from nh2st_graph.models import patient_digest
from nh2st_graph.nn import ComponentRidge
from nh2st_graph.tl import FittedModel
from nh2st_graph.tl._adapt import _fit, _held_out, _spots
from nh2st_graph.tl._measured import measured_entries, measured_values
from nh2st_graph.train import image_only

from ..prepared import complete_section
from .test_impute import counted


@pytest.fixture(scope="module")
def model(tiny_run) -> FittedModel:
    return tiny_run.model


@pytest.fixture(scope="module")
def section(tiny_sections, tiny_config) -> AnnData:
    return complete_section(tiny_sections["S3"], tiny_config)


@pytest.fixture(scope="module")
def others(section) -> AnnData:
    """The section as another laboratory measures it: half of the genes ten times as often."""
    counts = section.X.toarray()
    counts[:, ::2] *= 10
    return counted(section, counts)


@pytest.fixture(scope="module")
def adapted(model, others) -> FittedModel:
    return tl.adapt(others, model)


def test_it_says_what_it_was_adapted_on_and_what_was_gained(model, adapted):
    about = adapted.origin["adapted"]
    assert list(about["sections"]) == ["S3"]
    assert about["sections"]["S3"]["counts"]
    assert (about["n_spots"], about["n_blocks"], about["offset"]) == (64, 8, True)
    assert about["mse"][1] < 0.5 * about["mse"][0]
    low, high = about["pcc_gain"][1:]
    assert low <= about["pcc_gain"][0] <= high
    assert "adapted" not in model.origin
    assert adapted.digest != model.digest
    assert len(adapted.folds) == 0


def test_its_predictions_say_what_it_was_adapted_on(model, adapted, others, tiny_sections, caplog):
    section = tiny_sections["S2"]
    assert tl.predict(section, adapted).uns["nh2st_prediction"]["adapted_sections"] == ["S3"]
    assert "adapted_sections" not in tl.predict(section, model).uns["nh2st_prediction"]
    assert "the model was adapted on it" not in caplog.text
    tl.predict(others, adapted)
    assert "section 'S3': the model was adapted on it" in caplog.text


def test_it_predicts_better_what_was_measured_alike(model, adapted, others):
    errors = [tl.predict(others, each) for each in (model, adapted)]
    before, after = (np.square(each.X - each.layers["observed"]).mean() for each in errors)
    assert after < 0.5 * before


def test_the_gain_is_of_blocks_that_were_held_out(model, others):
    """Their own genes are not read: one block at a time, against fits without it."""
    form, prepared = model.nh2st_graph.closed_form, model.preparation.prepare(others)
    whole = measured_entries(prepared.section, np.ones(64, dtype=bool))
    values = measured_values(prepared.section, whole, model.genes, model.config.data, np.zeros(len(model.genes)))
    spots = _spots(model, form, [prepared], [values])
    assert spots.blocks.bincount().tolist() == [8] * 8
    ridge = form.ridge(image_only(prepared.graph))
    gain = _held_out(spots, ridge)
    inside = spots.blocks == 3
    fitted = _fit(spots, ~inside, ridge)
    torch.testing.assert_close(gain.mean[inside], gain.offset * fitted.mean.expand(8, -1))
    rest = fitted(spots.described[inside]) - fitted.mean
    torch.testing.assert_close(gain.pattern[inside], gain.weights * rest)
    changed = spots._replace(observed=torch.where(inside[:, None], 7.0, spots.observed))
    found = _held_out(changed, ridge)
    for part, kept in (("mean", "offset"), ("pattern", "weights")):
        if getattr(found, kept) and getattr(gain, kept):
            torch.testing.assert_close(getattr(found, part)[inside], getattr(gain, part)[inside])


def test_it_is_the_model_and_the_error_that_was_fitted(model, adapted, others):
    """The last layer alone differs, by a sum of two regressions."""
    before, after = model.nh2st_graph.closed_form, adapted.nh2st_graph.closed_form
    graph = image_only(model.preparation.prepare(others).graph)
    assert torch.equal(before.description.weight, after.description.weight)
    known = before.knows(graph)
    kept, moved = (before.new, before.known) if known else (before.known, before.new)
    same, other = (after.new, after.known) if known else (after.known, after.new)
    assert torch.equal(kept.coefficients, same.coefficients)
    assert torch.equal(kept.mean, same.mean)
    assert not torch.equal(moved.mean, other.mean)
    for name, weight in model.module.state_dict().items():
        assert torch.equal(weight, adapted.module.state_dict()[name]), name


def test_its_evidence_has_the_noise_ceiling_of_what_was_measured_whole(model, adapted, others, tiny_sections):
    train = {name: tiny_sections[name] for name in ("S1", "S2")}
    expected = tl.evaluate({"S3": others}, model, train).per_gene
    genes = adapted.confidence.new.genes
    there = expected["ceiling_low"].to_numpy() > 0
    found = genes["held_out_ceiling"].to_numpy()
    assert there.any()
    assert_allclose(found[there], expected["ceiling"].to_numpy()[there], rtol=1e-6)
    assert np.isnan(found[~there]).all()
    half = tl.adapt(others, model, measured=np.arange(64) < 40)
    assert half.confidence.new.genes["held_out_ceiling"].isna().all()


def test_without_a_gain_the_model_stays_as_it_is(model, section, caplog):
    """Here the genes are what the model says, and noise."""
    expected = np.expm1(np.maximum(tl.predict(section, model).X, 0)) / 1e4
    counts = np.zeros(section.shape)
    counts[:, section.var_names.get_indexer(model.genes)] = expected
    rest = section.var_names.get_indexer(section.var_names.difference(model.genes))
    counts[:, rest] = ((1 - expected.sum(axis=1)) / len(rest))[:, None].clip(0)
    noisy = counted(section, np.random.default_rng(0).poisson(1e5 * counts))
    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        assert tl.adapt(noisy, model) is model
    assert "S3" in caplog.text


def test_genes_of_spots_that_were_not_measured_are_not_read(model, others):
    measured = np.arange(64) % 64 < 40
    expected = tl.adapt(others, model, measured=measured)
    counts = others.X.toarray()
    changed = counted(others, np.where(measured[:, None], counts, np.random.default_rng(0).poisson(9, counts.shape)))
    found = tl.adapt(changed, model, measured={"S3": measured})
    assert found.digest == expected.digest
    assert expected.origin["adapted"]["n_spots"] == 40


def test_the_order_of_spots_decides_nothing(model, adapted, others):
    shuffled = others[np.random.default_rng(1).permutation(64)].copy()
    assert tl.adapt(shuffled, model).digest == adapted.digest


def test_the_model_may_come_first_for_one_version(model, adapted, others):
    with pytest.warns(RenamedWarning, match=r"ng\.tl\.adapt takes the data first and then the model"):
        assert tl.adapt(model, others).digest == adapted.digest


def test_it_is_saved_with_its_provenance(model, adapted, others, tmp_path):
    adapted.save(tmp_path)
    again = load(tmp_path)
    assert_array_equal(tl.predict(others, again).X, tl.predict(others, adapted).X)
    assert again.origin["adapted"] == adapted.origin["adapted"]
    spots = np.arange(64) % 3 == 0
    assert np.isfinite(tl.impute(others, again, measured=spots).X).all()


def test_genes_never_reach_its_predictions(adapted, others):
    expected = tl.predict(others, adapted).X
    assert_array_equal(tl.predict(others[:, :0].copy(), adapted).X, expected)


def test_a_section_that_it_was_adapted_on_is_not_scored(adapted, others, tiny_sections):
    with pytest.raises(DataError, match="S3"):
        tl.evaluate({"S3": others}, adapted, {name: tiny_sections[name] for name in ("S1", "S2")})


def test_a_score_on_its_patient_is_within_a_patient(adapted, others, tiny_sections):
    section = others.copy()
    section.obs["section"] = pd.Categorical(["S9"] * section.n_obs)
    train = {name: tiny_sections[name] for name in ("S1", "S2")}
    protocol = tl.evaluate({"S9": section}, adapted, train).metrics["protocol"]
    assert protocol["patients_in_both"] == list(others.obs["patient"].unique())
    assert protocol["split"] == "within patient"


def renamed(section: AnnData, name: str, **obs: str) -> AnnData:
    section = section.copy()
    for column, value in {"section": name, **obs}.items():
        section.obs[column] = pd.Categorical([value] * section.n_obs)
    return section


def test_a_model_that_is_adapted_again_has_learned_from_all_sections(model, adapted, others, tiny_sections):
    patient = str(tiny_sections["S1"].obs["patient"].iloc[0])
    second = renamed(others, "S9", patient=patient)
    again = tl.adapt(second, adapted)
    about, before = again.origin["adapted"], adapted.origin["adapted"]
    assert list(about["sections"]) == ["S3", "S9"]
    assert about["sections"]["S3"] == before["sections"]["S3"]
    assert (about["n_spots"], about["n_blocks"]) == (128, 8)
    kinds = {before["predicted_as"], tl.adapt(second, model).origin["adapted"]["predicted_as"]}
    assert about["predicted_as"] == " and ".join(sorted(kinds, reverse=True))
    for name, section in (("S3", others), ("S9", second)):
        with pytest.raises(DataError, match=f"{name}.* was adapted on"):
            tl.evaluate({name: section}, again, {each: tiny_sections[each] for each in ("S1", "S2")})


def test_nothing_is_held_out_of_what_the_model_learned_from(model, adapted, others, tiny_sections, caplog):
    with pytest.raises(DataError, match="'S3' was adapted on before, and no block of it is held out"):
        tl.adapt(others, adapted)
    with pytest.raises(DataError, match="'S1' was trained on, and no block of it is held out"):
        tl.adapt(tiny_sections["S1"], model)
    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        tl.adapt(renamed(others, "S9"), adapted)
    assert "sections 'S3' and 'S9' have the same counts" in caplog.text


def test_a_section_under_another_name_is_told(adapted, others, tiny_sections, caplog):
    train = {name: tiny_sections[name] for name in ("S1", "S2")}
    with caplog.at_level(logging.WARNING, logger="nh2st_graph"):
        tl.evaluate({"S9": renamed(others, "S9")}, adapted, train)
    assert "sections 'S3' and 'S9' have the same counts" in caplog.text


@pytest.mark.parametrize("known", [True, False])
def test_one_patient_alone_says_nothing_of_others_but_of_its_own(model, others, tiny_sections, known):
    section = others.copy()
    patient = tiny_sections["S1"].obs["patient"].iloc[0] if known else "another"
    section.obs["patient"] = pd.Categorical([patient] * section.n_obs)
    adapted = tl.adapt(section, model)
    assert adapted.origin["adapted"]["predicted_as"] == ("training patients" if known else "new patients")
    kinds = [OF_KNOWN, OF_NEW] if known else [OF_NEW, OF_KNOWN]
    evidence, other = map(adapted.confidence.of, kinds)
    own = evidence if known else adapted.confidence.of(OF_ADAPTED)
    good = evidence.genes["held_out_low"] > evidence.genes["held_out_chance"].clip(lower=0)
    assert good.any()
    assert list(evidence.genes["reliable"]) == list(good & known)
    assert list(own.genes["reliable"]) == list(good), "for slides of this very patient"
    assert evidence.coverage(0.9).to_another_patient == (not known)
    assert own.coverage(0.9).guaranteed == 0, "these are blocks of one section"
    prediction = tl.predict(section, adapted)
    assert prediction.uns["nh2st_prediction"]["evidence"] == ("training patients" if known else "patients adapted to")
    assert list(prediction.var["reliable"]) == list(good)
    assert other.genes.equals(model.confidence.of(kinds[1]).genes)


@pytest.mark.parametrize("patients", [("C", "D"), ("C", "C"), ("", "")])
def test_blocks_of_several_sections_say_nothing_of_others(model, others, tiny_sections, patients):
    second = counted(
        renamed(tiny_sections["S2"], "S9"), tiny_sections["S2"].X.toarray() * np.r_[10, 1][np.arange(15) % 2]
    )
    sections = {"S3": others.copy(), "S9": second}
    for each, patient in zip(sections.values(), patients, strict=True):
        each.obs["patient"] = pd.Categorical([patient] * each.n_obs)
    found = tl.adapt(sections, model).confidence
    assert not found.new.genes["reliable"].any()
    assert [found.of(each).coverage(0.9).guaranteed for each in (OF_NEW, OF_ADAPTED)] == [0, 0]
    assert found.adapted_patients == {patient_digest(each) for each in patients if each}


def test_blocks_of_one_training_patient_say_nothing_of_another(model, others, tiny_sections):
    form, names = model.nh2st_graph.closed_form, [tiny_sections["S1"].obs["patient"].iloc[0], "another"]
    module = copy.deepcopy(model.module)
    module.recall({**module.memory, **replace(form, patients=frozenset(map(digest, names))).memory()})
    of_two = replace(model, module=module)
    section = others.copy()
    section.obs["patient"] = pd.Categorical(names[:1] * section.n_obs)
    adapted = tl.adapt(section, of_two)
    kinds = []
    for name in names:
        section.obs["patient"] = pd.Categorical([name] * section.n_obs)
        found = tl.predict(section, adapted)
        kinds.append((found.uns["nh2st_prediction"]["evidence"], bool(found.var["reliable"].any())))
    assert kinds == [(OF_ADAPTED, True), (OF_KNOWN, False)]


def digest(name: str) -> bytes:
    return bytes.fromhex(patient_digest(name))


def test_what_was_said_of_slides_of_training_patients_stays(model, others, tiny_sections):
    """Their weights stay, too, and of several training patients the evidence was that for new ones."""
    several = replace(model, confidence=replace(model.confidence, known=None))
    section = others.copy()
    section.obs["patient"] = pd.Categorical(["another"] * section.n_obs)
    before, after = (tl.predict(tiny_sections["S1"], each) for each in (several, tl.adapt(section, several)))
    assert_array_equal(after.X, before.X)
    assert after.var.equals(before.var)
    assert_array_equal(after.layers["upper"], before.layers["upper"])


@pytest.mark.parametrize("sharpness", [0.0, 0.3])
def test_regressions_add_up(sharpness):
    torch.manual_seed(0)
    n_points, d, k, n_genes = 5, 4, 2, 6
    basis, parts = torch.randn(k, n_genes).double(), []
    for _ in range(2):
        points = torch.randn(n_points if sharpness else 0, d).double()
        coefficients = torch.randn(n_points if sharpness else d, k).double()
        parts.append(
            ComponentRidge(
                sharpness, points, coefficients, torch.randn(k).double(), torch.randn(n_genes).double(), basis
            )
        )
    described = torch.randn(7, d).double()
    assert_allclose(parts[0].plus(parts[1])(described), parts[0](described) + parts[1](described), rtol=1e-9)


class TestRefusals:
    def test_of_a_model_without_a_closed_form(self, model, section):
        other = replace(model, module=model.module.__class__(model.config.model, model.n_features, len(model.genes)))
        with pytest.raises(ModelError, match="closed_form=True"):
            tl.adapt(section, other)

    def test_of_too_few_spots(self, model, section):
        with pytest.raises(DataError, match=r"section 'S3': 12 measured spots"):
            tl.adapt(section, model, measured=np.arange(64) < 12)

    def test_of_a_panel_that_is_not_there(self, model, section):
        with pytest.raises(DataError, match=rf"section 'S3': panel gene {model.genes[0]} not measured"):
            tl.adapt(section[:, section.var_names != model.genes[0]].copy(), model)

    def test_but_a_gene_that_is_not_predicted_may_be_absent(self, model, others):
        detected = model.confidence.detected.copy()
        detected[0] = 9
        barely = replace(model, confidence=replace(model.confidence, detected=detected))
        less = others[:, others.var_names != model.genes[0]].copy()
        as_zero = others.copy()
        as_zero.X[:, others.var_names.get_loc(model.genes[0])] = 0
        found, expected = (tl.adapt(each, barely) for each in (less, as_zero))
        assert_allclose(tl.predict(less, found).X, tl.predict(less, expected).X, rtol=1e-5)
        assert "adapted on ['S3']" in repr(found)

    def test_of_masks_of_other_sections(self, model, section):
        with pytest.raises(DataError, match="measured is not of sections S3"):
            tl.adapt(section, model, measured={"S1": np.ones(64, dtype=bool)})
        with pytest.raises(DataError, match=r"measured names genes, .* for each spot, or use ng\.tl\.impute"):
            tl.adapt(section, model, measured=list(section.var_names[:2]))

    def test_of_spots_that_were_measured_in_part(self, model, section):
        but_one = np.broadcast_to(section.var_names != model.genes[0], section.shape)
        with pytest.raises(DataError, match=r"section 'S3': measured has no spot of which all genes .* ng\.tl\.impute"):
            tl.adapt(section, model, measured=but_one)

    def test_of_no_section(self, model):
        with pytest.raises(DataError, match="no section given"):
            tl.adapt({}, model)
