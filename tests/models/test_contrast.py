"""The contrast's switches against info_nce, and against sums over candidates that are picked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from nh2st_graph.config import ModelConfig
from nh2st_graph.models import EMBEDDINGS
from nh2st_graph.models._contrast import Contrast, scales
from nh2st_graph.nn import info_nce

WEIGHTS = {"weight_spot": 0.3, "weight_neighbourhood": 0.7}


def drawn_pairs(n_spots, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(n_spots, 4, generator=generator, dtype=torch.float64)
        for scale in EMBEDDINGS.values()
        for name in scale
    }


def candidates_of(section, negatives):
    """Whom each seed's partner is told from, itself included."""
    seeds, edges = section.seeds.tolist(), section.edge_index.T.tolist()
    if negatives == "batch":
        return [seeds for _ in seeds]
    everyone = range(section.num_nodes)
    if negatives == "section":
        return [list(everyone) for _ in seeds]
    return [[j for j in everyone if [i, j] not in edges and [j, i] not in edges] for i in seeds]


def one_way(a, b, seeds, candidates, temperature, weight):
    """InfoNCE from a to b, one seed at a time."""
    costs = []
    for i, others in zip(seeds, candidates, strict=True):
        cosine = F.cosine_similarity(a[i], b[others]) / temperature
        own = torch.tensor([j == i for j in others])
        costs.append(-torch.where(own, cosine, weight * cosine).log_softmax(dim=0)[own])
    return torch.cat(costs).mean()


@pytest.mark.parametrize("negatives", ["batch", "section", "distant"])
@given(
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True),
    symmetric=st.booleans(),
    projection=st.booleans(),
    temperature=st.sampled_from([0.05, 0.5]),
    negative_weight=st.sampled_from([0.1, 1.0]),
    learn_temperature=st.booleans(),
)
def test_it_is_info_nce_over_the_candidates_that_it_says(negatives, seeds, contrast_of, section_of, **switches):
    section, pairs = section_of(10, isolated=1), drawn_pairs(10)
    section.seeds = torch.tensor(seeds)
    contrast = contrast_of(negatives=negatives, **WEIGHTS, **switches)
    parts, weighted = contrast(pairs, section)
    candidates = candidates_of(section, negatives)
    temperature, weight = switches["temperature"], switches["negative_weight"]
    total, projected = 0.0, contrast.projected(pairs)
    for scale, names in EMBEDDINGS.items():
        image, gene = (projected[name] for name in names)
        by_hand = one_way(image, gene, seeds, candidates, temperature, weight)
        if switches["symmetric"]:
            by_hand = (by_hand + one_way(gene, image, seeds, candidates, temperature, weight)) / 2
        # A learned temperature is kept in float32 until the model is made double.
        close = {"rtol": 1e-5, "atol": 1e-6} if switches["learn_temperature"] else {}
        torch.testing.assert_close(parts[f"contrast_{scale}"], by_hand, **close)
        options = {"symmetric": switches["symmetric"], "negative_weight": weight}
        if negatives == "batch":
            direct = info_nce(image[seeds], gene[seeds], temperature, **options)
        else:
            barred = section.edge_index if negatives == "distant" else None
            direct = info_nce(image, gene, temperature, anchors=section.seeds, excluded=barred, **options)
        torch.testing.assert_close(parts[f"contrast_{scale}"], direct, **close)
        chance = sum(math.log(len(others)) for others in candidates) / len(seeds)
        assert float(parts[f"contrast_{scale}_chance"]) == pytest.approx(chance)
        total = total + WEIGHTS[f"weight_{scale}"] * parts[f"contrast_{scale}"]
    torch.testing.assert_close(weighted, total)


def test_retrieval_is_told_beside_the_loss(contrast_of, section_of):
    """Among the batch's spots, whatever the negatives are; on a section, among all."""
    section, pairs = section_of(30), drawn_pairs(30)
    section.seeds = seeds = torch.arange(5, 25)
    for negatives in ("batch", "section", "distant"):
        contrast = contrast_of(negatives=negatives, projection=False)
        parts, _ = contrast(pairs, section)
        cosine = F.cosine_similarity(pairs["image"][seeds, None], pairs["gene"][None, seeds], dim=2)
        rank = (cosine >= cosine.diagonal()[:, None]).sum(dim=1)
        assert float(parts["retrieval_spot"]) == pytest.approx(float((rank <= 10).double().mean()))
    same = contrast.retrieval(dict.fromkeys(pairs, pairs["image"]))
    assert same == {"retrieval_spot": 1.0, "retrieval_neighbourhood": 1.0}


SCALES = {"none": (), "spot": ("spot",), "neighbourhood": ("neighbourhood",), "both": ("spot", "neighbourhood")}


@pytest.mark.parametrize("contrast", SCALES)
def test_embeddings_are_compared_as_they_are_without_projection(contrast, contrast_of):
    pairs = drawn_pairs(6)
    plain = contrast_of(contrast=contrast, projection=False)
    assert not list(plain.parameters())
    assert all(torch.equal(h, pairs[name]) for name, h in plain.projected(pairs).items())
    projected = contrast_of(contrast=contrast).projected(pairs)
    moved = {name for name, h in projected.items() if not torch.equal(h, pairs[name])}
    assert moved == {name for scale in SCALES[contrast] for name in EMBEDDINGS[scale]}


@pytest.mark.parametrize(
    ("contrast", "off", "left"),
    [
        *((contrast, None, left) for contrast, left in SCALES.items()),
        ("both", "query", ("neighbourhood",)),
        ("both", "neighbours", ("spot",)),
        ("spot", "neighbours", ("spot",)),
        ("neighbourhood", "query", ("neighbourhood",)),
        ("none", "query", ()),
    ],
)
def test_only_branches_that_are_on_are_contrasted(contrast, off, left, contrast_of, section_of):
    switches = {"contrast": contrast} | ({off: False} if off else {})
    assert scales(ModelConfig(edge_features="none", **switches)) == left
    parts, weighted = contrast_of(**switches)(drawn_pairs(6), section_of(6))
    names = ("contrast_{}", "contrast_{}_chance", "retrieval_{}")
    assert set(parts) == {name.format(scale) for scale in left for name in names}
    assert bool(weighted > 0) is bool(left)


# A temperature that is learned


def learner(temperature, contrast="both"):
    """As in training: in float32."""
    torch.manual_seed(0)
    return Contrast(ModelConfig(width=4, temperature=temperature, learn_temperature=True, contrast=contrast))


def gradient(contrast, section):
    contrast.zero_grad()
    _, weighted = contrast({name: h.float() for name, h in drawn_pairs(len(section.y)).items()}, section)
    weighted.backward()
    return float(contrast.log_temperature.grad)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.1, 2.0])
def test_a_learned_temperature_starts_where_it_is_told_and_gets_the_gradient_of_the_loss(temperature, section_of):
    section, contrast = section_of(8), learner(temperature)
    assert contrast.temperature.item() == pytest.approx(temperature)
    pairs = {name: h.float() for name, h in drawn_pairs(8).items()}

    def loss(log_temperature):
        with torch.no_grad():
            contrast.log_temperature.fill_(log_temperature)
            return contrast(pairs, section)[1].item()

    found, start = gradient(contrast, section), math.log(temperature)
    assert found != 0
    if temperature > 0.01:  # below it the loss does not move
        assert found == pytest.approx((loss(start + 1e-2) - loss(start - 1e-2)) / 2e-2, rel=2e-2)


def test_a_learned_temperature_stays_above_a_hundredth_and_can_rise_again(section_of):
    section, contrast = section_of(8), learner(0.1)
    with torch.no_grad():
        contrast.log_temperature.fill_(-9.0)
    assert contrast.temperature.item() == pytest.approx(0.01)
    assert gradient(contrast, section) < 0, "embeddings that know nothing of each other want it warmer"
    step = torch.optim.Adam([contrast.log_temperature], lr=0.5)
    for _ in range(20):
        gradient(contrast, section)
        step.step()
    assert contrast.temperature.item() > 0.05


def test_a_temperature_is_learned_only_where_asked_and_read():
    assert learner(0.1, contrast="none").log_temperature is None
    fixed = Contrast(ModelConfig(width=4, temperature=0.2))
    assert fixed.log_temperature is None
    assert fixed.temperature == 0.2
