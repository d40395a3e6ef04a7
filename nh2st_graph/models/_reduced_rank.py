"""Baselines that predict a few components of expression: reduced-rank ridge regression, linear and with a kernel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch_geometric.data import Data

from nh2st_graph.models._baselines import Counts, Penalties, chosen_in, chosen_tensors
from nh2st_graph.models._closed_form import (
    MOST_SPOTS,
    PENALTIES,
    described_spots,
    description_in,
    description_tensors,
    groups_of,
    predict_spots,
    ridge_in,
    ridge_tensors,
)
from nh2st_graph.models._groups import MOST_FOLDS, drawn_spots, patient_groups
from nh2st_graph.models._network import Estimator, Memory
from nh2st_graph.models._registry import register_method
from nh2st_graph.models._settings import MethodConfig
from nh2st_graph.nn import LARGE, Description, fit_component_ridge

__all__ = ["KernelRidge", "ReducedRankRidge"]

#: Name of the regression in the memory.
_RIDGE = "ridge"


class _ComponentBaseline(Estimator):
    """A ridge regression from a spot's features and its neighbours' mean into a few components of expression.

    The kernel, the number of components and the penalty are those with the smallest squared error on held-out patients;
    on held-out sections if training has a single patient, and on bands of a single section.
    """

    baseline = True

    def __init__(self, settings: MethodConfig, seed: int = 0) -> None:
        super().__init__(settings, seed)
        self._memory: Memory | None = None

    @abstractmethod
    def kernels(self) -> Sequence[float]:
        """List the kernels to choose from: sharpness of a Gaussian, or 0 if the kernel is linear."""

    def fit(self, sections: Sequence[Data]) -> None:
        """Choose the hyper-parameters and fit; see :meth:`Estimator.fit`."""
        description = Description.fit([section.x for section in sections], groups_of(sections[0]))
        drawn = drawn_spots(sections, MOST_SPOTS)
        spots = described_spots(description, sections, drawn)
        folds = torch.from_numpy(patient_groups(sections) % MOST_FOLDS)[drawn]
        fitted = fit_component_ridge(
            spots._replace(folds=folds.repeat(len(spots.weights) // len(folds))),  # once for each view
            sharpness=self.kernels(),
            n_components=self.config.components,
            penalties=self.config.penalties,
            by_component=False,
        )
        # A linear kernel has no sharpness.
        chosen = {name: value for name, value in fitted.chosen.items() if value}
        # Predict from the rounded numbers that are saved, so that a loaded regression predicts the same.
        ridge = ridge_tensors(fitted.ridge, _RIDGE)
        self.restore({**description_tensors(description), **ridge, **chosen_tensors(chosen)})

    def predict(self, section: Data) -> NDArray[np.floating]:
        """Predict expression, ``(n_spots, n_genes)``; float32 for a large section."""
        dtype = torch.float32 if len(section.x) >= LARGE else torch.float64
        return np.asarray(predict_spots(self._description, self._ridge, section, dtype).numpy())

    def memory(self) -> Memory | None:
        """Return the regression and what was chosen; None before fitting."""
        return self._memory

    def restore(self, memory: Memory) -> None:
        """Restore the regression that gave ``memory``."""
        self._memory, self.chosen = memory, chosen_in(memory)
        self._description, self._ridge = description_in(memory), ridge_in(memory, _RIDGE)


class _ComponentsConfig(MethodConfig):
    """Settings of ridge regression into components.

    Attributes
    ----------
    components
        Numbers of components of expression to choose from; fewer if there are fewer genes or training spots.
    penalties
        Penalties to choose from, in units of the number of training spots.
    """

    components: Counts = (4, 8, 16)
    penalties: Penalties = PENALTIES


class ReducedRankRidgeConfig(_ComponentsConfig):
    """Settings of reduced-rank ridge regression; those of :class:`_ComponentsConfig`."""

    name: Literal["reduced_rank_ridge"] = "reduced_rank_ridge"


@register_method
class ReducedRankRidge(_ComponentBaseline):
    """Ridge regression on own features and the neighbours' mean, into a few components of expression.

    Components are the leading principal components of expression within training sections. What few components cannot
    express, noise of single genes above all, is not learned. See :func:`~nh2st_graph.nn.fit_component_ridge`.
    """

    Settings: ClassVar[type[MethodConfig]] = ReducedRankRidgeConfig

    def kernels(self) -> tuple[float]:
        """Give the linear kernel."""
        return (0.0,)


class KernelRidgeConfig(_ComponentsConfig):
    """Settings of kernel ridge regression.

    Attributes
    ----------
    components, penalties
        As in :class:`_ComponentsConfig`.
    sharpness
        Values to choose from: the factor on squared distances between spots in the Gaussian kernel. Distances are
        between z-scores, scaled so that they do not depend on the number of features; the mean square is 1 to 2.
    """

    name: Literal["kernel_ridge"] = "kernel_ridge"
    sharpness: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (0.05, 0.2, 0.4)


@register_method
class KernelRidge(_ComponentBaseline):
    """Kernel ridge regression (Gaussian) on own features and the neighbours' mean, into a few components of expression.

    It is :class:`ReducedRankRidge` with a Gaussian kernel, whose sharpness is chosen too.
    """

    Settings: ClassVar[type[MethodConfig]] = KernelRidgeConfig

    def kernels(self) -> Sequence[float]:
        """Give the values of the sharpness."""
        kernels: tuple[float, ...] = self.config.sharpness
        return kernels
