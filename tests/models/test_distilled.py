from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch_geometric.data import Data

from nh2st_graph import DataError
from nh2st_graph.models._distilled import SelfDistilled, zero_inflated_loss

N_GENES, WIDTH = 4, 3


class _Linear(SelfDistilled):
    """Embeds by a matrix; a view is the image twice as bright, and the only one."""

    def __init__(self, **settings):
        defaults = {"n_views": 1, "weight_likelihood": 0.25, "weight_distillation": 0.5, "detach_prediction": False}
        super().__init__(SimpleNamespace(**defaults | {"n_positions": 4} | settings), WIDTH, N_GENES)
        torch.manual_seed(0)
        self.trunk, self.head = nn.Linear(WIDTH, WIDTH).double(), nn.Linear(WIDTH, N_GENES).double()

    def embed(self, images, data):
        return self.trunk(images)

    def _images(self, data):
        return data.x

    def _likelihood(self, embedded, data):
        return embedded.square().mean() if self.config.weight_likelihood else None

    def _predict_from_views(self, images, data):
        return self.head(self.embed(2 * images, data)[data.seeds])


def _section(n=6):
    generator = torch.Generator().manual_seed(1)
    return Data(
        x=torch.rand(n, WIDTH, generator=generator, dtype=torch.float64),
        y=torch.rand(n, N_GENES, generator=generator, dtype=torch.float64),
        array=torch.tensor([[i % 3, i // 3] for i in range(n)]),
        seeds=torch.tensor([4, 0, 3]),
        section="S1",
    )


@torch.no_grad()
def test_the_loss_is_the_weighted_sum_of_its_parts_on_the_seeds():
    model, section = _Linear(), _section()
    predicted, seeds = model.predict(section), section.seeds
    losses = model.losses(section)
    views = model.head(model.trunk(2 * section.x))
    torch.testing.assert_close(losses["regression"], (predicted - section.y)[seeds].square().mean())
    torch.testing.assert_close(losses["likelihood"], model.trunk(section.x)[seeds].square().mean())
    torch.testing.assert_close(losses["distillation"], (predicted - views)[seeds].square().mean())
    total = losses["regression"] + 0.25 * losses["likelihood"] + 0.5 * losses["distillation"]
    torch.testing.assert_close(losses["loss"], total)


def test_what_is_off_is_no_part():
    assert set(_Linear(weight_likelihood=0, n_views=0).losses(_section())) == {"loss", "regression"}


@pytest.mark.parametrize("detached", [True, False])
def test_detached_the_prediction_does_not_follow_the_views(detached):
    """Its gradient is then that of the views alone."""
    model, section = _Linear(detach_prediction=detached), _section()
    model.losses(section)["distillation"].backward()
    predicted = model.predict(section).detach()[section.seeds]
    views = model.head(model.trunk(2 * section.x))[section.seeds]
    (alone,) = torch.autograd.grad((views - predicted).square().mean(), model.head.bias)
    assert torch.allclose(model.head.bias.grad, alone) is detached


def test_positions_beyond_the_tables_are_refused():
    model, section = _Linear(n_positions=2), _section()
    for ask in (model.check, model.predict):
        with pytest.raises(DataError, match=r"section 'S1': .* reach 2, .* n_positions=3"):
            ask(section)


def test_the_zero_inflated_loss_is_that_of_scipy_within_bounds():
    rng = np.random.default_rng(0)
    counts, size = rng.poisson(2.0, (8, N_GENES)), rng.uniform(0.5, 2, (8, 1))
    log_mean, dispersion, zeros = rng.normal(size=(3, 8, N_GENES))
    log_mean[0, 0], dispersion[1, 1] = 99, -99
    mean = np.exp(np.minimum(log_mean, np.log(1e6))) * size
    theta = np.maximum(np.log1p(np.exp(dispersion)), 1e-4)
    extra = 1 / (1 + np.exp(-zeros))
    likely = extra * (counts == 0) + (1 - extra) * stats.nbinom.pmf(counts, theta, theta / (theta + mean))
    found = zero_inflated_loss(*(torch.from_numpy(each) for each in (counts, size, log_mean, dispersion, zeros)))
    assert float(found) == pytest.approx(-np.log(likely).mean())
