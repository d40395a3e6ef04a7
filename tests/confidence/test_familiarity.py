"""Familiarity of spots and slides: by numbers whose answer is known, and on real patches in other stains and scales."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from safetensors.numpy import load, save
from scipy import stats

from nh2st_graph import DataError, im, read
from nh2st_graph.confidence import Familiarity, FeatureColumns, Verdict
from nh2st_graph.section import changed_entry, library, section_name

from ..examples import draws

N_COLUMNS = 12
COLUMNS = FeatureColumns((4, 8))
GROUPS = {"colour": np.arange(8), "structure": np.arange(4, 12)}


def drawn(n: int, seed: int, moved: float = 0.0) -> NDArray[np.float32]:
    """Spots whose features follow from five variables."""
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(99).normal(size=(5, N_COLUMNS))
    return (rng.normal(size=(n, 5)) @ loadings + 0.3 * rng.normal(size=(n, N_COLUMNS)) + moved).astype(np.float32)


def fitted(features: NDArray[np.float32], n_sections: int = 4, columns: FeatureColumns = COLUMNS) -> Familiarity:
    sections = np.arange(len(features)) % n_sections
    found = Familiarity.fit(features, sections, sections, columns, "section")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def known() -> Familiarity:
    return fitted(drawn(200, 0))


def slow_distances(
    train: NDArray[np.float32], spots: NDArray[np.float32], n_components: int, chosen: NDArray[np.intp] | None = None
) -> NDArray[np.float64]:
    """The distance as it is described, spot by spot, by some columns."""
    weight = np.repeat([1 / 2, 1 / np.sqrt(8)], [4, 8])
    if chosen is not None:
        train, spots, weight = train[:, chosen], spots[:, chosen], weight[chosen]
    mean, std = train.mean(axis=0, dtype=float), train.std(axis=0, dtype=float)

    def scaled(values: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.clip((values - mean) / std, -10, 10) * weight

    z = scaled(train)
    _, values, directions = np.linalg.svd(z, full_matrices=False)
    variance = values**2 / (len(z) - 1)
    kept = np.append(variance[:n_components], variance[n_components:].mean())
    spread = np.sqrt(kept + 1e-3 * kept.max())

    def placed(values: NDArray[np.float32]) -> NDArray[np.float64]:
        along = scaled(values) @ directions[:n_components].T
        left = np.linalg.norm(scaled(values) - along @ directions[:n_components], axis=1)
        return np.column_stack([along, left]) / spread

    reference = placed(train)
    return np.array([np.sort(np.linalg.norm(reference - one, axis=1))[:5].mean() for one in placed(spots)])


class TestOfSpots:
    def test_is_what_a_slow_formulation_gives(self):
        train, query = drawn(40, 0), drawn(9, 1, moved=0.5)
        sections = np.arange(40) % 4
        apart = np.empty(40)
        for each in range(4):
            apart[sections == each] = slow_distances(train[sections != each], train[sections == each], 7)
        expected = [(apart >= d).mean() for d in slow_distances(train, query, 7)]
        found = fitted(train)
        assert_allclose(found.distances, np.sort(apart), rtol=1e-4)
        assert_allclose(found.of(query), expected, atol=1e-6)

    def test_counts_the_space_in_which_a_spot_lies_farthest(self):
        """Of all features, of colours and of structure, each by its own held-out distances."""
        train, query = drawn(40, 0), drawn(30, 1)
        query[:10, :4] += 1.0
        query[10:20, 8:] -= 1.0
        sections, shares, held_out = np.arange(40) % 4, [], []
        for chosen in (np.arange(12), *GROUPS.values()):
            apart = np.empty(40)
            for each in range(4):
                apart[sections == each] = slow_distances(train[sections != each], train[sections == each], 7, chosen)
            shares.append([(apart >= d).mean() for d in slow_distances(train, query, 7, chosen)])
            held_out.append([(apart >= d).mean() for d in apart])
        least = np.min(held_out, axis=0)
        expected = [(least <= share).mean() for share in np.min(shares, axis=0)]
        assert_allclose(fitted(train, columns=FeatureColumns((4, 8), GROUPS)).of(query), expected, atol=1e-6)

    def test_of_an_earlier_model_is_that_of_all_features(self):
        arrays, facts = fitted(drawn(48, 0), columns=FeatureColumns((4, 8), GROUPS)).state()
        earlier = {name: each for name, each in arrays.items() if name != "shares" and not name.endswith(".distances")}
        earlier["distances"] = arrays["features.distances"]
        again, query = Familiarity.restore(earlier, facts), drawn(30, 1, moved=0.5)
        assert_array_equal(again.of(query), fitted(drawn(48, 0)).of(query))
        assert Familiarity.restore(*again.state()) == again
        assert_array_equal(Familiarity.restore(*again.state()).of(query), again.of(query))

    def test_of_held_out_training_spots_is_uniform(self, known):
        ranks = 1 - np.searchsorted(known.distances, known.distances, side="left") / len(known.distances)
        assert_allclose(np.sort(ranks), np.arange(1, 201) / 200)

    def test_of_new_spots_like_those_of_training_is_nearly_uniform(self, known):
        found = known.of(drawn(2000, 5))
        assert stats.kstest(found, "uniform").statistic < 0.12
        assert found.dtype == np.float32

    def test_falls_from_1_to_0_with_the_distance(self, known):
        medians = [float(np.median(known.of(drawn(100, 6, moved)))) for moved in (0, 1, 2, 4, 50)]
        assert medians == sorted(medians, reverse=True)
        assert medians[-1] == 0
        assert known.of(drawn(200, 0)).min() > 0, "the training spots themselves"

    @draws(10)
    @given(st.randoms(use_true_random=False))
    def test_permuting_spots_permutes_it(self, known, random):
        spots = drawn(30, 7)
        order = random.sample(range(30), 30)
        assert_allclose(known.of(spots[order]), known.of(spots)[order], atol=1 / 200)
        assert_allclose(known.judge(spots[order]).tails["features"], known.judge(spots).tails["features"], rtol=1e-4)

    def test_reads_a_memory_map_in_blocks(self, known, tmp_path):
        spots = drawn(1300, 8)
        np.save(tmp_path / "features.npy", spots)
        mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
        assert_allclose(
            known.of(mapped), np.concatenate([known.of(part) for part in np.split(spots, 13)]), atol=1 / 200
        )

    def test_without_a_number_is_0(self, known):
        spots = drawn(4, 9)
        spots[1, 3], spots[2, 0] = np.nan, np.inf
        found = known.of(spots)
        assert_array_equal(found[1:3], 0)
        assert found[0] > 0
        assert known.judge(spots) == known.judge(spots[[0, 3]])
        assert not known.judge(spots[1:3]).unlike

    def test_blocks_weigh_alike(self):
        """A block that says everything five times counts no more than before."""
        train, spots = drawn(80, 0), drawn(20, 1)
        repeated = [np.hstack([np.repeat(each[:, :4], 5, axis=1), each[:, 4:]]) for each in (train, spots)]
        more = fitted(repeated[0], columns=FeatureColumns((20, 8)))
        assert_allclose(more.distances, fitted(train).distances, rtol=0.02)
        assert_allclose(more.of(repeated[1]), fitted(train).of(spots), atol=0.05)

    def test_a_constant_feature_counts_nothing(self):
        train, spots = drawn(80, 0), drawn(20, 1)
        train[:, 2] = 3
        other = spots.copy()
        other[:, 2] = 77
        found = fitted(train)
        assert_array_equal(found.of(other), found.of(spots))

    def test_bytes_are_numbers_too(self):
        train = np.clip(drawn(80, 0) * 20 + 128, 0, 255).astype(np.uint8)
        assert_array_equal(fitted(train).of(train), fitted(train.astype(np.float32)).of(train))

    def test_images_without_variation_are_as_familiar_as_can_be(self):
        same = np.ones((40, N_COLUMNS), dtype=np.float32)
        found = fitted(same)
        assert_array_equal(found.of(same), 1)
        assert not found.judge(same).unlike

    def test_needs_something_to_compare(self):
        spots, one = drawn(40, 0), np.zeros(40, dtype=int)
        assert Familiarity.fit(spots, one, one, COLUMNS, "section") is None
        few = np.arange(6) % 2
        assert Familiarity.fit(spots[:6], few, few, COLUMNS, "section") is None

    def test_refuses_other_features(self, known):
        for ask in (known.of, known.judge):
            with pytest.raises(DataError, match=r"11 image features.*12"):
                ask(drawn(5, 0)[:, :11])

    def test_many_sections_are_held_out_together(self):
        many = fitted(drawn(300, 0), n_sections=30)
        assert many.n_units == 30
        assert many.judge(drawn(50, 1)).caution == ""


class TestState:
    def test_is_kept_by_arrays_and_facts(self, known):
        arrays, facts = known.state()
        again = Familiarity.restore(load(save(arrays)), json.loads(json.dumps(facts)))
        assert again == known
        assert again != fitted(drawn(200, 1))
        spots = drawn(30, 3)
        assert_array_equal(again.of(spots), known.of(spots))
        assert again.judge(spots) == known.judge(spots)

    @pytest.mark.parametrize(
        ("change", "error"), [({"held_out_by": "spot"}, ValueError), ({"spaces": ["x"]}, KeyError)]
    )
    def test_that_is_damaged_is_refused(self, known, change, error):
        arrays, facts = known.state()
        with pytest.raises(error):
            Familiarity.restore(arrays, facts | change)

    def test_of_wide_features_is_small(self):
        """As of 2,000 spots, of which each takes a row; a direction for each four spots would take 60 MB."""
        wide = np.random.default_rng(0).normal(size=(120, 30_000)).astype(np.float32)
        arrays, _ = fitted(wide, n_sections=2, columns=FeatureColumns((30_000,))).state()
        assert arrays["features.components"].nbytes < 2.1e6
        assert sum(each.nbytes for each in arrays.values()) < 4e6


class TestJudge:
    def test_limit_is_that_of_one_more_draw(self, known):
        """A t distribution whose deviation is of the sections seen, and of an expectation that is worth three."""
        judged = known._judges["features"]
        spots = drawn(60, 4, moved=1.0)
        seen = judged.held_out.astype(float)
        near = np.log(np.quantile(judged.space.distances(spots), 0.1))
        deviation = np.sqrt((((seen - seen.mean()) ** 2).sum() + 3 * 0.2**2) / 6)
        expected = stats.t.sf((near - seen.mean()) / (deviation * np.sqrt(1 + 1 / 4)), 6)
        assert known.judge(spots).tails["features"] == pytest.approx(expected, rel=1e-4)

    def test_of_a_slide_like_training_and_of_another(self, known):
        assert known.judge(drawn(60, 4)).reasons == ()
        other = known.judge(drawn(60, 4, moved=30.0))
        assert other.unlike
        assert "another stain, tissue or resolution" in other.reasons[0], "nothing says which of them"

    def test_new_tissue_in_part_of_a_slide_is_no_other_slide(self, known):
        spots = np.vstack([drawn(60, 4), drawn(40, 5, moved=30.0)])
        assert not known.judge(spots).unlike
        assert (known.of(spots)[60:] == 0).all(), "the spots say where it is"

    @pytest.mark.parametrize("n", [2, 3, 9])
    def test_fewer_sections_allow_more(self, n):
        shifted = drawn(60, 4, moved=3.0)
        few, many = (fitted(drawn(40 * each, 0), each) for each in (n, n + 3))
        one, more = (replace(each, _judges=dict(known_spread(each))) for each in (few, many))
        assert one.judge(shifted).tails["features"] > more.judge(shifted).tails["features"]

    def test_few_sections_are_said(self):
        said = fitted(drawn(60, 0), 2).judge(drawn(9, 1)).caution
        assert "2 training sections" in said
        sections = np.arange(60) % 3
        bands = Familiarity.fit(drawn(60, 0), sections, sections, COLUMNS, "band")
        assert "single training section" in bands.judge(drawn(9, 1)).caution
        assert (
            bands.judge(drawn(9, 1, 2.0)).tails["features"]
            > fitted(drawn(60, 0), 3).judge(drawn(9, 1, 2.0)).tails["features"]
        ), "bands of one section say nothing of others"


def known_spread(found: Familiarity):
    """The judges with held-out sections that all came as near."""
    for name, judge in found._judges.items():
        yield name, replace(judge, held_out=np.full_like(judge.held_out, -0.5))


class TestColumns:
    ENTRY: ClassVar = {
        "encoders": np.array(["a", "a", "b"], dtype=object),
        "n_features": np.array([3, 3, 2]),
        "patch_um": np.array([112.0, 224.0, 112.0]),
    }

    def test_blocks_and_scales_are_those_described(self):
        found = FeatureColumns.of(self.ENTRY, 8)
        assert found.sizes == (3, 3, 2)
        assert [(side, list(columns)) for side, columns in found.scales] == [(112, [0, 1, 2]), (224, [3, 4, 5])]
        assert not found.groups
        assert_allclose(found.weights**2 * np.repeat([3, 3, 2], [3, 3, 2]), 1)

    @pytest.mark.parametrize("entry", [{}, {"encoder": "of another package"}, ENTRY], ids=["none", "a name", "another"])
    def test_of_features_that_nothing_describes(self, entry):
        found = FeatureColumns.of(entry, 5)
        assert (found.sizes, found.scales) == ((5,), ())

    def test_groups_follow_from_names(self):
        names = [*(f"colour_red_bin-{i}" for i in range(4)), *(f"texture_grey_pattern-{i}_scale-1" for i in range(4))]
        names += ["stain_nuclei_disc-ring", "texture_grey_contrast_dist-1"]
        entry = {"encoders": ["x"], "n_features": [10], "patch_um": 224.0, "feature_names": names}
        groups = FeatureColumns.of(entry, 10).groups
        assert {name: list(columns) for name, columns in groups.items()} == {
            "colour": [0, 1, 2, 3],
            "structure": [4, 5, 6, 7],
        }


ENCODERS = [("handcrafted", 112.0), ("handcrafted", 224.0)]
Encode = Callable[..., NDArray[np.float32]]


@pytest.fixture(scope="module")
def patients_c(her2st_crops: Path) -> dict[str, AnnData]:
    return read.sections("her2st", her2st_crops, ("C3", "C4", "C5", "C6"))


def encoded(section: AnnData, times: float = 1.0, stain: im.StainJitter | None = None) -> AnnData:
    """Features of a section whose image is said to have ``times`` its resolution, in another stain."""
    other, own = section.copy(), library(section)
    entry = changed_entry(own.entry, microns_per_pixel=own.microns_per_pixel * times)
    other.uns["spatial"] = {section_name(section): entry}
    im.features(other, ENCODERS, stain=stain, progress=False, check_placement=False, cache=False)
    return other


@pytest.fixture(scope="module")
def real(patients_c: dict[str, AnnData]) -> Familiarity:
    """What is familiar from three sections of a patient."""
    done = [encoded(patients_c[name]) for name in ("C3", "C4", "C5")]
    features = np.vstack([each.obsm["X_image"] for each in done])
    sections = np.repeat(np.arange(3), [each.n_obs for each in done])
    columns = FeatureColumns.of(done[0].uns["X_image"], features.shape[1])
    found = Familiarity.fit(features, sections, sections, columns, "section")
    assert found is not None
    return found


class TestOfRealSlides:
    def judged(self, real: Familiarity, section: AnnData, **change) -> Verdict:
        return real.judge(encoded(section[::2].copy(), **change).obsm["X_image"])

    def test_the_patients_next_section_is_like_training(self, real, patients_c):
        assert self.judged(real, patients_c["C6"]).reasons == ()

    def test_another_stain_is_told_by_its_colours(self, real, patients_c):
        verdict = self.judged(real, patients_c["C6"], stain=im.StainJitter("hed", 0.4, 1))
        assert verdict.unlike
        assert "stain or scanner" in verdict.reasons[0]
        assert verdict.resolution is None
        assert verdict.tails["colour"] < verdict.tails["structure"]

    @pytest.mark.parametrize("times", [0.5, 2.0])
    def test_another_resolution_is_told_with_its_factor(self, real, patients_c, times):
        """The image has another resolution than its file says."""
        verdict = self.judged(real, patients_c["C6"], times=times)
        assert verdict.resolution == pytest.approx(1 / times, rel=0.35)
        assert "um per pixel" in verdict.reasons[0]

    def test_another_tissue_is_told_by_colours_and_texture(self, real, small_visium):
        section = read.visium_section(small_visium)
        verdict = self.judged(real, section[::3].copy())
        assert "another tissue" in verdict.reasons[0]
        assert max(verdict.tails.values()) < 0.01
