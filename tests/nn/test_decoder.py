"""Decoders against principal components by scikit-learn, and against plain matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from nh2st_graph.nn import ComponentDecoder, GatedSum, LinearDecoder

N_SPOTS, N_GENES, WIDTH = 60, 12, 5


@pytest.fixture
def targets() -> torch.Tensor:
    """Expression of genes that share a few programmes of unequal size."""
    rng = np.random.default_rng(0)
    programmes = rng.normal(size=(N_SPOTS, 4)) * [4, 2, 1, 0.5]
    values = 3 + programmes @ rng.normal(size=(4, N_GENES)) + 0.1 * rng.normal(size=(N_SPOTS, N_GENES))
    return torch.from_numpy(values)


@pytest.fixture
def spots() -> torch.Tensor:
    return torch.randn(N_SPOTS, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def fitted(targets, n_components, n_inputs=1):
    decoder = ComponentDecoder(WIDTH, n_inputs, targets.shape[1], n_components).double()
    decoder.set_targets(targets)
    return decoder


# Components


@pytest.mark.parametrize("n_components", [1, 3, N_GENES])
def test_components_are_those_of_scikit_learn(targets, n_components):
    decoder, pca = fitted(targets, n_components), PCA(n_components, svd_solver="full").fit(targets)
    sign = np.sign(pca.components_[np.arange(n_components), np.abs(pca.components_).argmax(axis=1)])[:, None]
    np.testing.assert_allclose(decoder.mean, pca.mean_)
    np.testing.assert_allclose(decoder.loadings, sign * pca.components_, atol=1e-7)
    np.testing.assert_allclose(decoder.scale**2, pca.explained_variance_[0] * (N_SPOTS - 1) / N_SPOTS, rtol=1e-7)
    np.testing.assert_allclose(
        decoder.gene_input(targets) * decoder.scale, pca.transform(targets) * sign.T, rtol=1e-7, atol=1e-7
    )


def test_components_explain_the_variance_that_scikit_learns_do(targets):
    for n_components in (1, 2, 3, 4):
        decoder = fitted(targets, n_components)
        left = (decoder.expression(decoder.gene_input(targets)) - targets).square().sum()
        explained = 1 - float(left / (targets - targets.mean(dim=0)).square().sum())
        assert explained == pytest.approx(
            PCA(n_components, svd_solver="full").fit(targets).explained_variance_ratio_.sum()
        )


@given(seed=st.integers(0, 10**6), shape=st.tuples(st.integers(2, 9), st.integers(2, 9)))
def test_largest_loading_is_positive_and_spots_have_no_order(seed, shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    decoder = fitted(values, n_components=min(shape) - 1)
    largest = decoder.loadings.gather(1, decoder.loadings.abs().argmax(dim=1, keepdim=True))
    assert (largest > 0).all()
    turned = fitted(values.flip(0), n_components=min(shape) - 1)
    torch.testing.assert_close(turned.loadings, decoder.loadings, atol=1e-6, rtol=1e-6)


def test_scores_are_of_the_order_of_one_and_total_variance_is_the_error_of_the_mean(targets):
    decoder = fitted(targets, n_components=3)
    scores = decoder.gene_input(targets)
    assert float(scores[:, 0].square().mean()) == pytest.approx(1)
    torch.testing.assert_close(scores.mean(dim=0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(decoder.gene_input(decoder.mean[None]), torch.zeros(1, 3, dtype=torch.float64))
    assert float(decoder.total_variance) == pytest.approx(float(scores.square().sum(dim=1).mean()))


def test_scores_and_expression_undo_each_other_within_the_span(targets):
    decoder = fitted(targets, n_components=4)
    scores = torch.randn(7, 4, dtype=torch.float64)
    torch.testing.assert_close(decoder.gene_input(decoder.expression(scores)), scores)
    complete = fitted(targets, n_components=N_GENES)
    torch.testing.assert_close(complete.expression(complete.gene_input(targets)), targets)


def test_components_beyond_the_span_are_zero(targets):
    few = targets[:4]
    decoder = fitted(few, n_components=8)
    assert decoder.loadings[:3].norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    assert not decoder.loadings[3:].any()
    torch.testing.assert_close(decoder.expression(decoder.gene_input(few)), few)
    assert not fitted(targets, n_components=N_GENES + 3).loadings[N_GENES:].any()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("n", [1, N_SPOTS])
def test_constant_targets_have_no_component_and_are_predicted(n, value):
    decoder = ComponentDecoder(WIDTH, 1, N_GENES, 4)
    constant = torch.full((n, N_GENES), value)
    decoder.set_targets(constant)
    assert not decoder.loadings.any()
    assert float(decoder.scale) == float(decoder.total_variance) == 1
    torch.testing.assert_close(decoder(torch.randn(3, WIDTH)), constant[:1].expand(3, -1))


def test_squared_error_is_one_for_the_training_mean_and_zero_for_the_truth(targets):
    decoder = fitted(targets, n_components=3)
    scores = decoder.gene_input(targets)
    assert float(
        decoder.squared_error(decoder.gene_input(decoder.mean[None]).expand_as(scores), scores)
    ) == pytest.approx(1)
    assert float(decoder.squared_error(scores, scores)) == 0
    assert float(decoder.squared_error(2 * scores, scores)) == pytest.approx(1)


def test_setting_components_again_forgets_the_first(targets):
    decoder = fitted(targets, n_components=4)
    first = {name: value.clone() for name, value in decoder.state_dict().items()}
    decoder.set_targets(targets[:3] ** 2)
    assert not torch.equal(decoder.loadings, first["loadings"])
    decoder.set_targets(targets)
    for name, value in decoder.state_dict().items():
        assert torch.equal(value, first[name]), name


def test_components_travel_with_the_state(targets, spots):
    decoder = fitted(targets, n_components=4, n_inputs=2)
    other = ComponentDecoder(WIDTH, 2, N_GENES, 4).double()
    other.load_state_dict(decoder.state_dict())
    assert torch.equal(other(spots, -spots), decoder(spots, -spots))
    assert set(decoder.state_dict()) == {
        "mean",
        "loadings",
        "scale",
        "total_variance",
        "heads.0.weight",
        "heads.1.weight",
    }


def test_embeddings_add_up_each_by_its_own_head(targets, spots):
    decoder, around = fitted(targets, n_components=3, n_inputs=2), spots.flip(0)
    own_head, around_head = (head.weight for head in decoder.heads)
    scores = spots @ own_head.T + around @ around_head.T
    torch.testing.assert_close(decoder(spots, around), decoder.mean + decoder.scale * scores @ decoder.loadings)


# Free linear layers


@pytest.mark.parametrize("n_inputs", [1, 2])
def test_linear_decoder_without_activation_is_one_matrix(n_inputs):
    hidden = 3
    decoder = LinearDecoder(WIDTH, n_inputs, N_GENES, hidden).double()
    matrix = decoder.out.weight @ decoder.hidden.weight
    offset = decoder.out.weight @ decoder.hidden.bias + decoder.out.bias
    embeddings = torch.randn(n_inputs, 50, WIDTH, dtype=torch.float64)
    predicted = decoder(*embeddings)
    torch.testing.assert_close(predicted, torch.cat(list(embeddings), dim=1) @ matrix.T + offset)
    assert torch.linalg.matrix_rank(predicted - offset) == hidden


def test_with_activation_it_is_not_linear():
    decoder = LinearDecoder(WIDTH, 1, N_GENES, 20, activation=True).double()
    h = torch.randn(50, WIDTH, dtype=torch.float64)
    hidden = (h @ decoder.hidden.weight.T + decoder.hidden.bias).clamp(min=0)
    torch.testing.assert_close(decoder(h), hidden @ decoder.out.weight.T + decoder.out.bias)
    bent = decoder(h) + decoder(-h) - 2 * decoder(torch.zeros_like(h))
    assert bent.abs().max() > 0.01


def test_it_has_the_published_size():
    decoder = LinearDecoder(512, 1, 250, 256)
    shapes = {name: tuple(weight.shape) for name, weight in decoder.named_parameters()}
    assert shapes == {
        "hidden.weight": (256, 512),
        "hidden.bias": (256,),
        "out.weight": (250, 256),
        "out.bias": (250,),
    }


def test_targets_change_nothing_of_it_and_errors_are_over_spots_and_genes(targets):
    decoder = LinearDecoder(WIDTH, 1, N_GENES, 3).double()
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    decoder.set_targets(targets)
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())
    of_mean = decoder.squared_error(targets.mean(dim=0).expand_as(targets), targets)
    assert float(of_mean) == pytest.approx(targets.numpy().var(axis=0).mean())


# What both decoders share


@pytest.mark.parametrize("make", [ComponentDecoder, LinearDecoder])
def test_interface(make, targets, spots):
    decoder = make(WIDTH, 2, N_GENES, 4).double()
    decoder.set_targets(targets)
    predicted = decoder(spots, spots)
    assert predicted.shape == (N_SPOTS, N_GENES)
    read = decoder.gene_input(targets)
    assert read.shape == (N_SPOTS, decoder.gene_input_dim)
    assert decoder.squared_error(decoder.gene_input(predicted), read) > 0
    assert decoder.squared_error(read, read) == 0
    decoder.reset_parameters()
    assert not torch.equal(decoder(spots, spots), predicted)


@pytest.mark.parametrize(
    ("make", "read"),
    [(ComponentDecoder, lambda d, y: (y - d.mean) @ d.loadings.T / d.scale), (LinearDecoder, lambda d, y: y)],
)
def test_gene_side_reads_components_or_the_targets_themselves(make, read, targets):
    decoder = make(WIDTH, 1, N_GENES, 4).double()
    decoder.set_targets(targets)
    assert torch.equal(decoder.gene_input(targets), read(decoder, targets))


@pytest.mark.parametrize("make", [ComponentDecoder, LinearDecoder])
@pytest.mark.parametrize("given", [1, 3])
def test_a_wrong_number_of_embeddings_is_refused(make, given, spots):
    decoder = make(WIDTH, 2, N_GENES, 4).double()
    with pytest.raises((ValueError, RuntimeError)):
        decoder(*[spots] * given)


# The gate


def test_gate_starts_balanced_and_follows_its_formula(spots):
    gate, around = GatedSum(WIDTH).double(), spots.flip(0) + 2
    torch.testing.assert_close(gate(spots, around), (spots + around) / 2)
    torch.nn.init.normal_(gate.gate.weight)
    torch.nn.init.normal_(gate.gate.bias)
    w_own, w_around = gate.gate.weight.split(WIDTH, dim=1)
    for i in (0, 7):
        g = 1 / (1 + torch.exp(-(w_own @ spots[i] + w_around @ around[i] + gate.gate.bias)))
        torch.testing.assert_close(gate(spots, around)[i], g * spots[i] + (1 - g) * around[i])
    gate.reset_parameters()
    torch.testing.assert_close(gate(spots, around), (spots + around) / 2)


def test_an_open_gate_gives_the_spot_and_a_shut_one_its_neighbourhood(spots):
    gate, around = GatedSum(WIDTH).double(), spots.flip(0) + 2
    for bias, expected in ((100.0, spots), (-100.0, around)):
        torch.nn.init.constant_(gate.gate.bias, bias)
        torch.testing.assert_close(gate(spots, around), expected)


def test_a_balanced_gate_learns(spots):
    gate = GatedSum(WIDTH).double()
    (gate(spots, spots.flip(0)) - spots).square().sum().backward()
    assert gate.gate.weight.grad.any()
    assert gate.gate.bias.grad.any()


def test_gradients(targets, spots):
    few, around = spots[:3].clone().requires_grad_(), spots[3:6].clone().requires_grad_()
    gate = GatedSum(WIDTH).double()
    torch.nn.init.normal_(gate.gate.weight)
    decoders = fitted(targets, 3, n_inputs=2), LinearDecoder(WIDTH, 2, N_GENES, 4, True).double()
    for function in (gate, *decoders):
        assert torch.autograd.gradcheck(function, (few, around))
