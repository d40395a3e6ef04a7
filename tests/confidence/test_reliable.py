"""Reliable genes: what follows tissue is found, what is smooth in the wrong place is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nh2st_graph.confidence import OF_ADAPTED, OF_KNOWN, OF_NEW, Confidence, HeldOut, gene_table, joined, misplaced
from nh2st_graph.metrics import partial_pearson

GENES = ["true", "weak", "smooth", "noise", "depth"]


def section(seed: int, name: str, n_side: int = 18, patient: str = "P") -> HeldOut:
    """Make a section whose first genes are predicted, the third by something as smooth, the last by depth alone."""
    rng = np.random.default_rng(seed)
    pos = np.stack(np.meshgrid(np.arange(n_side), np.arange(n_side)), axis=-1).reshape(-1, 2).astype(float)
    n = len(pos)

    def smooth() -> np.ndarray:
        waves = rng.uniform(0.2, 0.6, size=(6, 2)), rng.uniform(0, 6.3, size=6)
        field = np.cos(pos @ waves[0].T + waves[1]).sum(axis=1)
        return (field - field.mean()) / field.std()

    signal, other = smooth(), smooth()
    depth = np.exp(rng.normal(7, 0.5, n))
    predicted = np.stack([signal, signal, smooth(), rng.normal(size=n), np.log1p(depth)], axis=1)
    observed = np.stack(
        [
            signal + rng.normal(0, 0.7, n),
            0.6 * signal + rng.normal(0, 1, n),
            other + rng.normal(0, 0.7, n),
            rng.normal(size=n),
            np.log1p(depth) + rng.normal(0, 0.3, n),
        ],
        axis=1,
    )
    # Blocks of tissue: squares.
    blocks = (pos[:, 0] * 4 // n_side * 4 + pos[:, 1] * 4 // n_side).astype(np.int64)
    return HeldOut(name, patient, name, predicted, observed - observed.min() + 0.1, depth, blocks, pos)


def test_genes_that_follow_the_tissue_are_reliable_and_no_others():
    found = pd.concat([gene_table([section(10 * i + s, f"S{s}") for s in range(4)], GENES, {}) for i in range(4)])
    reliable = found.groupby(level=0)["reliable"].mean()
    assert reliable["true"] == 1
    assert reliable["weak"] >= 0.75
    assert reliable["smooth"] <= 0.25
    assert reliable["noise"] <= 0.25
    assert reliable["depth"] == 0


def test_scores_are_means_over_sections():
    parts = [section(s, f"S{s}") for s in range(3)]
    table = gene_table(parts, GENES, {})
    expected = np.mean([partial_pearson(p.predicted, p.observed, np.log1p(p.depth)) for p in parts], axis=0)
    np.testing.assert_allclose(table["held_out_pcc_partial"], expected, atol=1e-9)
    assert (table["held_out_low"] <= table["held_out_pcc_partial"] + 1e-9).all()
    assert (table["held_out_high"] >= table["held_out_pcc_partial"] - 1e-9).all()
    assert (table["n_sections"] == 3).all()
    assert (table["n_patients"] == 1).all()


def test_bands_of_a_section_are_scored_as_a_whole():
    whole = section(0, "S")
    bands = np.digitize(whole.pos[:, 0], [6, 12])
    parts = [
        HeldOut(
            "S",
            "P",
            f"band{k}",
            *(getattr(whole, name)[bands == k] for name in ("predicted", "observed", "depth")),
            np.unique(whole.blocks[bands == k], return_inverse=True)[1],
            whole.pos[bands == k],
        )
        for k in range(3)
    ]
    one, together = gene_table([whole], GENES, {}), gene_table(parts, GENES, {})
    np.testing.assert_allclose(one["held_out_pcc"], together["held_out_pcc"], atol=1e-9)
    assert len(joined(parts)) == 1
    assert joined(parts)[0].blocks.max() + 1 == sum(part.blocks.max() + 1 for part in parts)


def test_shares_of_ceilings_are_of_measurable_ones():
    parts = [section(0, "S0"), section(1, "S1")]
    ends = {"ceiling": [0.8, 0.8, 0.8, 0.1, 0.8], "ceiling_low": [0.7, 0.7, 0.7, 0.0, 0.7], "ceiling_high": 0.9}
    ceiling = pd.DataFrame(ends, GENES)
    table = gene_table(parts, GENES, {"S0": ceiling, "S1": ceiling})
    assert table.loc["true", "held_out_ceiling"] == pytest.approx(0.8)
    assert table.loc["true", "held_out_share_of_ceiling"] == pytest.approx(table.loc["true", "held_out_pcc"] / 0.8)
    assert np.isnan(table.loc["noise", "held_out_ceiling"])


def test_misplaced_maps_keep_nearly_all_spots_and_leave_none_in_place():
    pos = section(0, "S").pos
    for source in misplaced(pos, np.random.default_rng(0), 20):
        assert len(np.unique(source)) > 0.55 * len(pos)
        assert np.mean(source == np.arange(len(pos))) < 0.2


def test_one_patient_says_nothing_of_another_and_of_itself_all():
    parts = [section(s, f"S{s}") for s in range(3)]
    detected = np.array([100, 100, 100, 9, 100])
    found = Confidence.fit(GENES, parts, parts, detected, ceilings={})
    assert not found.of(OF_NEW).genes["reliable"].any()
    assert found.of(OF_KNOWN).genes.loc["true", "reliable"]
    assert list(found.barely_measured) == [False, False, False, True, False]
    ceiling = pd.DataFrame({"ceiling": 0.9, "ceiling_low": 0.8, "ceiling_high": 1.0}, index=GENES)
    found = Confidence.fit(GENES, parts, parts, detected, ceilings=dict.fromkeys(["S0", "S1", "S2"], ceiling))
    for kind in (OF_NEW, OF_KNOWN):
        assert list(found.of(kind).genes["held_out_ceiling"].isna()) == list(found.barely_measured)
    several = [replace(part, patient=f"P{i}") for i, part in enumerate(parts)]
    found = Confidence.fit(GENES, several, [], detected, ceilings={})
    assert found.of(OF_NEW).genes.loc["true", "reliable"]
    assert found.n_patients == 3
    # Held-out sections were all of new patients: these are the evidence for a training patient's slide too.
    assert found.of(OF_KNOWN) is found.of(OF_NEW)


def test_sections_of_one_patient_guarantee_nothing_in_another():
    parts = [section(s, f"S{s}") for s in range(4)]
    found = Confidence.fit(GENES, parts, parts, np.full(5, 50), ceilings={})
    new, known = (found.of(each).coverage(0.9) for each in (OF_NEW, OF_KNOWN))
    assert (new.guaranteed, new.to_another_patient, known.to_another_patient) == (0.0, True, False)
    assert 0.3 < known.guaranteed < 0.9
    assert replace(new, guaranteed=known.guaranteed, to_another_patient=False) == known, "what was measured stays"
    assert str(new).endswith("; 4 sections alone, which count as one patient's, guarantee nothing in another patient")
    assert str(known).endswith("in another section like these")
    for parts_of in (
        [replace(part, patient=f"P{i}") for i, part in enumerate(parts)],
        [replace(part, patient="") for part in parts],
    ):
        coverage = Confidence.fit(GENES, parts_of, [], np.full(5, 50), ceilings={}).of(OF_NEW).coverage(0.9)
        assert coverage.guaranteed == known.guaranteed


def test_a_section_of_nobody_is_of_one_patient():
    whole = section(0, "S0", patient="")
    parts = [replace(whole, part=name) for name in "123"]
    found = Confidence.fit(GENES, parts, [], np.full(5, 50), ceilings={}).of(OF_NEW)
    assert not found.genes["reliable"].any()
    assert found.coverage(0.9).to_another_patient


def test_bands_of_one_section_guarantee_nothing_in_another():
    whole = section(0, "S0")
    parts = [replace(whole, part=name, patient=patient) for name in ("1", "2", "3") for patient in ("P",)]
    found = Confidence.fit(GENES, parts, parts, np.full(5, 50), ceilings={}).of(OF_KNOWN).coverage(0.9)
    assert (found.unit, found.guaranteed) == ("band", 0.0)
    assert str(found).endswith("; 3 bands alone, all of one section, guarantee nothing in another section")


def test_sections_of_patients_learned_from_say_nothing_of_others():
    a, b = ([section(s, f"S{s}", patient=f"P{s // 2}") for s in each] for each in (range(2), range(2, 4)))
    found = Confidence.fit(GENES, a + b, a + b, np.full(5, 50), ceilings={})
    new, known = (found.of(each) for each in (OF_NEW, OF_KNOWN))
    assert (new.coverage(0.9).guaranteed, new.genes["reliable"].any()) == (0, False)
    assert known.genes.loc["true", "reliable"]
    assert str(new.coverage(0.9)).endswith(
        "of whom fewer than two were held out whole, guarantee nothing in another patient"
    )
    # Where some were new when they were held out, and several are, these alone count.
    c = [section(4, "S4", patient="P2")]
    assert not Confidence.fit(GENES, [*a, *c], a, np.full(5, 50), ceilings={}).new.genes["reliable"].any()
    some = Confidence.fit(GENES, [*a, *c, *b], a, np.full(5, 50), ceilings={})
    alone = Confidence.fit(GENES, [*c, *b], [], np.full(5, 50), ceilings={})
    assert some.new.genes.equals(alone.new.genes)
    assert some.new.coverage(0.9) == alone.new.coverage(0.9)
    assert some.n_patients == 3


def test_parts_of_sections_guarantee_nothing_in_another():
    whole = [section(s, f"S{s}") for s in range(2)]
    parts = [replace(each, part=f"{i}") for i, each in enumerate([*whole, *whole])]
    found = Confidence.fit(GENES, parts, parts, np.full(5, 50), ceilings={})
    coverage = found.of(OF_KNOWN).coverage(0.9)
    assert (coverage.unit, coverage.n_units, coverage.guaranteed) == ("section", 2, 0)
    assert str(coverage).endswith("parts of 2 sections alone guarantee nothing in another section")
    assert Confidence.restore(GENES, *found.state()).of(OF_KNOWN).coverage(0.9) == coverage


def test_slides_are_judged_by_the_evidence_of_their_patient():
    parts = [section(s, f"S{s}") for s in range(2)]
    found = Confidence.fit(GENES, parts, parts, np.full(5, 50), ceilings={}, patients=["P"])
    assert [found.kind_of(name) for name in ("P", "other", None)] == [OF_KNOWN, OF_NEW, OF_NEW]
    assert list(found.kinds) == [OF_KNOWN, OF_NEW]
    other = Confidence.fit(GENES, parts, [], np.full(5, 50), ceilings={}, patients=["Q"])
    found = replace(found, adapted=found.known, adapted_patients=other.patients)
    again = Confidence.restore(GENES, *found.state())
    for each in (found, again):
        assert [each.kind_of(name) for name in ("P", "Q", "other")] == [OF_KNOWN, OF_ADAPTED, OF_NEW]
        assert list(each.kinds) == [OF_KNOWN, OF_ADAPTED, OF_NEW]
    new = Confidence.fit(GENES, parts, [], np.full(5, 50), ceilings={}, patients=["P"])
    assert new.kind_of("P") == OF_NEW, "nothing of a training patient was held out"


def test_what_is_saved_is_what_was_found():
    parts = [section(s, f"S{s}") for s in range(2)]
    found = Confidence.fit(GENES, parts, [replace(part) for part in parts], np.full(5, 50), ceilings={})
    same = Confidence.fit(GENES, parts, parts, np.full(5, 50), ceilings={})
    assert len(same.state()[0]) < len(found.state()[0]), "the same pairs are kept once"
    for kind in (OF_NEW, OF_KNOWN):
        for each in (same, Confidence.restore(GENES, *same.state())):
            pd.testing.assert_frame_equal(each.of(kind).genes, found.of(kind).genes)
            assert each.of(kind).coverage(0.9) == found.of(kind).coverage(0.9)
    again = Confidence.restore(GENES, *found.state())
    for kind in (OF_NEW, OF_KNOWN):
        pd.testing.assert_frame_equal(again.of(kind).genes, found.of(kind).genes)
        np.testing.assert_array_equal(again.of(kind).calls.high, found.of(kind).calls.high)
        assert again.of(kind).coverage(0.9) == found.of(kind).coverage(0.9)
    assert again.n_patients == found.n_patients
    arrays, facts = found.state()
    for name in ("new", "known"):  # an earlier version did not write it
        del facts[name]["to_another_patient"]
    before = Confidence.restore(GENES, arrays, facts)
    assert [before.of(kind).coverage(0.9).guaranteed > 0 for kind in (OF_NEW, OF_KNOWN)] == [False, True]
