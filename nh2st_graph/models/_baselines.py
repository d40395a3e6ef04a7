"""Baselines that read the same features as a model: regressions of scikit-learn on single spots."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.decomposition import PCA
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import GroupKFold, ParameterGrid
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch_geometric.data import Data

from nh2st_graph._errors import ConfigError, DataError, setting
from nh2st_graph._settings import Positive
from nh2st_graph.models._groups import MOST_FOLDS, by_section, drawn_spots, section_groups
from nh2st_graph.models._held_out_errors import Spots, ridge_errors
from nh2st_graph.models._network import Estimator, Memory
from nh2st_graph.models._registry import find_method, register_method
from nh2st_graph.models._settings import MethodConfig
from nh2st_graph.nn import LARGE, own_and_around, senders_of

__all__ = [
    "BASELINES",
    "Baseline",
    "NearestSpots",
    "NeighbourRidge",
    "OwnRidge",
    "PCARidge",
    "RandomForest",
    "TrainingMean",
    "make_baseline",
]

#: Baselines that every model is compared with.
BASELINES = ("mean", "ridge", "ridge_neighbours", "reduced_rank_ridge", "kernel_ridge", "knn")

#: Prefix of a chosen hyper-parameter in a baseline's memory.
_CHOSEN = "chosen."

#: Spots that are predicted at a time.
_ROWS = 8192

#: Features that are computed with at a time.
_COLUMNS = 1024

#: Reads features of some spots, given their positions: ``(n, d)``, float or uint8.
Features = Callable[[NDArray[np.int64]], NDArray[Any]]

#: Positions of some spots.
Some = NDArray[np.intp]

Counts = Annotated[tuple[Positive, ...], Field(min_length=1)]
Penalties = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]

_PENALTIES: tuple[float, ...] = tuple(np.logspace(0, 5, 11).tolist())


class Baseline(Estimator):
    """A scikit-learn regression on a spot's features, with a hyper-parameter that is chosen by cross-validation.

    Folds hold out whole sections, several at a time if there are more than five, and bands of a single section. The
    value with the smallest squared error on held-out spots is chosen, and the regression is fitted on all spots; on an
    even sample of them, if there are very many.

    A saved baseline holds its training data and the chosen value, and is fitted again when it is loaded: on the same
    data in the same order, so that its predictions are the same.
    """

    baseline: ClassVar[bool] = True

    def __init__(self, settings: Any, seed: int = 0) -> None:
        super().__init__(settings, seed)
        self._memory: Memory | None = None
        self._fitted: Any = None

    @abstractmethod
    def regression(self) -> Any:
        """Make the multi-output regression of scikit-learn, before a hyper-parameter is chosen."""

    def grid(self) -> Mapping[str, Sequence[Any]]:
        """List the values to choose from, by the name of the regression's parameter; empty if there is no choice."""
        return {}

    def features(self, section: Data) -> Features:
        """Give what reads the features of the regression for some spots of a section."""
        return own_features(section)

    def fit(self, sections: Sequence[Data]) -> None:
        """Choose the hyper-parameter and fit; see :meth:`Estimator.fit`.

        Raises
        ------
        DataError
            If there is a choice, and too few spots to hold some out.
        """
        drawn = drawn_spots(sections, LARGE)
        parts = list(zip(sections, by_section(drawn, sections), strict=True))
        x = np.vstack([self.features(section)(spots) for section, spots in parts])
        y = np.vstack([section.y[torch.from_numpy(spots)].numpy() for section, spots in parts])
        self._learn(x, y, self._choose(x, y, section_groups(sections)[drawn]))

    def predict(self, section: Data) -> NDArray[np.floating]:
        """Predict expression, ``(n_spots, n_genes)``; float32 for a large section."""
        n_spots, read = len(section.x), self.features(section)
        predicted = np.empty((n_spots, self._n_genes), np.float32 if n_spots >= LARGE else np.float64)
        for start in range(0, n_spots, _ROWS):
            spots = np.arange(start, min(start + _ROWS, n_spots))
            # For a panel of one gene, scikit-learn drops the axis of genes.
            predicted[spots] = np.reshape(self._fitted.predict(_numbers(read(spots))), (len(spots), -1))
        return predicted

    def memory(self) -> Memory | None:
        """Return the training features ``x``, targets ``y`` and what was chosen; None before fitting."""
        return self._memory

    def restore(self, memory: Memory) -> None:
        """Fit on ``memory`` again, with the chosen value."""
        self._learn(memory["x"].numpy(), memory["y"].numpy(), chosen_in(memory))

    def _choose(self, x: NDArray[Any], y: NDArray[Any], groups: NDArray[np.int64]) -> dict[str, Any]:
        grid = self.grid()
        if all(len(values) == 1 for values in grid.values()):
            return {name: values[0] for name, values in grid.items()}
        n_groups = len(np.unique(groups))
        if n_groups < 2:
            raise DataError(
                f"method {self.config.name!r}: {len(x)} training spots are too few to hold out some and choose "
                f"{', '.join(grid)}; give more sections, or a single value"
            )
        return self._best(self._searched(x), _targets(y), groups, GroupKFold(min(n_groups, MOST_FOLDS)))

    def _best(
        self, x: NDArray[np.float64], y: NDArray[np.float64], groups: NDArray[np.int64], folds: GroupKFold
    ) -> dict[str, Any]:
        """Find the values with the smallest mean of the folds' squared errors; of equal ones, the first."""
        candidates = list(ParameterGrid(dict(self.grid())))
        errors = [
            self._errors(candidates, (x, y), train, held_out) for train, held_out in folds.split(x, groups=groups)
        ]
        chosen = candidates[int(np.mean(errors, axis=0).argmin())]
        return {name: np.asarray(value).item() for name, value in chosen.items()}

    def _errors(self, candidates: Sequence[dict[str, Any]], spots: Spots, train: Some, held_out: Some) -> list[float]:
        """Give the squared errors of held-out spots with each of the values; others may find them in less time."""
        (x, y), errors = spots, []
        for values in candidates:
            fitted = self.regression().set_params(**values).fit(x[train], y[train])
            errors.append(float(mean_squared_error(y[held_out], fitted.predict(x[held_out]))))
        return errors

    def _searched(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Give the features among which the hyper-parameter is chosen: others may choose the same in less time."""
        return _numbers(x)

    def _learn(self, x: NDArray[Any], y: NDArray[Any], chosen: dict[str, Any]) -> None:
        self.chosen, self._n_genes = chosen, y.shape[1]
        self._memory = {"x": torch.from_numpy(x), "y": torch.from_numpy(y)} | chosen_tensors(chosen)
        self._fitted = self.regression().set_params(**chosen).fit(_numbers(x), _targets(y))


def chosen_tensors(chosen: Mapping[str, Any]) -> Memory:
    """Give what was chosen as tensors of a memory."""
    return {f"{_CHOSEN}{name}": torch.from_numpy(np.asarray(value)) for name, value in chosen.items()}


def chosen_in(memory: Memory) -> dict[str, Any]:
    """Read what :func:`chosen_tensors` gave from a memory."""
    return {name.removeprefix(_CHOSEN): value.item() for name, value in memory.items() if name.startswith(_CHOSEN)}


def own_features(section: Data) -> Features:
    """Read spots' own image features, ``(n, d)``."""
    return lambda spots: np.asarray(section.x[torch.from_numpy(spots)].numpy())


def with_neighbours(section: Data) -> Features:
    """Read spots' own features and the mean of their neighbours, ``(n, 2 d)``; zeros without neighbours."""
    senders = senders_of(section.edge_index, len(section.x))
    return lambda spots: np.hstack([each.numpy() for each in own_and_around(section.x, senders, spots)])


def _numbers(features: NDArray[Any]) -> NDArray[np.float64]:
    return features.astype(np.float64)


def _targets(y: NDArray[Any]) -> NDArray[np.float64]:
    """Give targets in scikit-learn's shape: without an axis for a single gene."""
    return _numbers(y[:, 0] if y.shape[1] == 1 else y)


def _coordinates(features: NDArray[Any]) -> NDArray[np.float64]:
    """Give spots ``(n, n)`` numbers with the same products as their features about the mean, which a ridge reads."""
    products = np.zeros((len(features), len(features)))
    for start in range(0, features.shape[1], _COLUMNS):
        block = features[:, start : start + _COLUMNS].astype(np.float64)
        block -= block.mean(axis=0)
        products += block @ block.T
    values, vectors = np.linalg.eigh(products)
    return np.asarray(vectors * np.sqrt(values.clip(min=0)))


class MeanConfig(MethodConfig):
    """Settings of the training mean, which has none."""

    name: Literal["mean"] = "mean"


@register_method
class TrainingMean(Baseline):
    """The mean of each gene over the training spots."""

    Settings: ClassVar[type[MethodConfig]] = MeanConfig

    def features(self, section: Data) -> Features:
        """Read no feature; see :meth:`Baseline.features`."""
        return lambda spots: np.empty((len(spots), 0))

    def regression(self) -> DummyRegressor:
        """Make the mean; see :meth:`Baseline.regression`."""
        return DummyRegressor()


class RidgeConfig(MethodConfig):
    """Settings of ridge regression.

    Attributes
    ----------
    alphas
        Penalties to choose from.
    """

    name: Literal["ridge"] = "ridge"
    alphas: Penalties = _PENALTIES


@register_method
class OwnRidge(Baseline):
    """Ridge regression on the spot's features; with ``features.encoder: pixels:1``, on its mean colour."""

    Settings: ClassVar[type[MethodConfig]] = RidgeConfig

    def regression(self) -> Ridge:
        """Make the ridge, which may overwrite what it learns from; see :meth:`Baseline.regression`."""
        return Ridge(copy_X=False)

    def _searched(self, x: NDArray[Any]) -> NDArray[np.float64]:
        return _coordinates(x) if x.shape[1] > len(x) else _numbers(x)

    def grid(self) -> dict[str, Sequence[float]]:
        """Give the penalties; see :meth:`Baseline.grid`."""
        return {"alpha": self.config.alphas}

    def _errors(self, candidates: Sequence[dict[str, Any]], spots: Spots, train: Some, held_out: Some) -> list[float]:
        """Make the equations once for all penalties."""
        (x, y), penalties = spots, [values["alpha"] for values in candidates]
        found = ridge_errors(penalties, (x[train], y[train]), (x[held_out], y[held_out]))
        return super()._errors(candidates, spots, train, held_out) if found is None else found


class RidgeNeighboursConfig(MethodConfig):
    """Settings of ridge regression with neighbours.

    Attributes
    ----------
    alphas
        Penalties to choose from.
    """

    name: Literal["ridge_neighbours"] = "ridge_neighbours"
    alphas: Penalties = _PENALTIES


@register_method
class NeighbourRidge(OwnRidge):
    """Ridge regression on the spot's features and the mean features of its neighbours in the graph."""

    Settings: ClassVar[type[MethodConfig]] = RidgeNeighboursConfig

    def features(self, section: Data) -> Features:
        """Read own and neighbours' features; see :meth:`Baseline.features`."""
        return with_neighbours(section)


class PCARidgeConfig(MethodConfig):
    """Settings of PCA and ridge.

    Attributes
    ----------
    components
        Principal components of the features; fewer if there are fewer features or training spots.
    repaired
        Choose the penalty by cross-validation, fit an intercept, and solve exactly. Published: none of these.
    alphas
        Penalties to choose from, with ``repaired``.
    """

    name: Literal["pca_ridge"] = "pca_ridge"
    components: Positive = 256
    repaired: bool = False
    alphas: Penalties = _PENALTIES


@register_method
class PCARidge(Baseline):
    """Ridge regression on principal components of standardised features: the head of the HEST benchmark.

    Source: Jaume et al., *HEST-1k*, NeurIPS 2024 (arXiv 2406.16192), and its public code
    (``src/hest/bench/trainer.py``). Features are standardised by the training spots, and the regression is on 256
    components of them. In the published code:

    - the penalty is ``100 / (n_components * n_genes)``, so that the prediction of a gene depends on the number of
      genes; the argument ``alpha`` is not read, and nothing is chosen;
    - there is no intercept although expression is not centred, so that predictions of every gene have mean 0 over the
      training spots. This changes squared errors, but no correlation;
    - LSQR stops at a tolerance of 1e-4, long before it converges with so small a penalty: early stopping keeps the
      weights small;
    - fewer training spots or features than components are an error; here they give fewer components.

    ``repaired: true`` replaces the first three.
    """

    Settings: ClassVar[type[MethodConfig]] = PCARidgeConfig

    def regression(self) -> _PCARidge:
        """Make PCA and ridge; see :meth:`Baseline.regression`."""
        return _PCARidge(self.config.components)

    def grid(self) -> dict[str, Sequence[float]]:
        """Give the penalties, with ``repaired``; see :meth:`Baseline.grid`."""
        return {"alpha": self.config.alphas} if self.config.repaired else {}

    def _errors(self, candidates: Sequence[dict[str, Any]], spots: Spots, train: Some, held_out: Some) -> list[float]:
        """Find the components once for all penalties."""
        (x, y), penalties = spots, [values["alpha"] for values in candidates]
        components = _components(self.config.components, x[train])
        first, second = components.fit_transform(x[train]), components.transform(x[held_out])
        found = ridge_errors(penalties, (first, y[train]), (second, y[held_out]))
        return super()._errors(candidates, spots, train, held_out) if found is None else found


def _components(most: int, x: NDArray[np.float64]) -> Pipeline:
    """Make standardising and PCA, with as many components as there can be of these features."""
    n_components = max(min(most, x.shape[1], len(x) - 1), 1)
    return make_pipeline(StandardScaler(), PCA(n_components, svd_solver="full"))


class _PCARidge(RegressorMixin, BaseEstimator):
    """PCA and ridge, with a number of components that depends on the data; as published if there is no penalty."""

    def __init__(self, n_components: int = 256, alpha: float | None = None) -> None:
        self.n_components, self.alpha = n_components, alpha

    def fit(self, X: NDArray[np.float64], y: NDArray[np.float64]) -> _PCARidge:
        components = _components(self.n_components, X)
        if self.alpha is None:
            penalty = 100 / (components[-1].n_components * y[0].size)
            ridge = Ridge(penalty, fit_intercept=False, solver="lsqr", tol=1e-4, max_iter=1000)
        else:
            ridge = Ridge(self.alpha)
        self.pipeline_ = make_pipeline(*components, ridge).fit(X, y)
        return self

    def predict(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return cast("NDArray[np.float64]", self.pipeline_.predict(X))


class KNNConfig(MethodConfig):
    """Settings of the nearest neighbours.

    Attributes
    ----------
    neighbours
        Numbers of nearest training spots to choose from.
    """

    name: Literal["knn"] = "knn"
    neighbours: Counts = (5, 10, 20, 40, 80)


@register_method
class NearestSpots(Baseline):
    """The mean expression of the training spots with the nearest features, by Euclidean distance."""

    Settings: ClassVar[type[MethodConfig]] = KNNConfig

    def regression(self) -> _NearestOrAll:
        """Make the nearest neighbours; see :meth:`Baseline.regression`."""
        return _NearestOrAll()

    def grid(self) -> dict[str, Sequence[int]]:
        """Give the numbers of neighbours; see :meth:`Baseline.grid`."""
        return {"n_neighbors": self.config.neighbours}

    def _errors(self, candidates: Sequence[dict[str, Any]], spots: Spots, train: Some, held_out: Some) -> list[float]:
        """Find the errors of all numbers by one search for the nearest, which takes most of the time."""
        (x, y), wanted = spots, [values["n_neighbors"] for values in candidates]
        found = _NearestOrAll(max(wanted)).fit(x[train], y[train])
        nearest = found.kneighbors(x[held_out], return_distance=False)
        return [float(mean_squared_error(y[held_out], found.mean_of(nearest[:, :n]))) for n in wanted]


class _NearestOrAll(KNeighborsRegressor):
    """The mean of the nearest training spots, or of all spots if there are fewer."""

    def kneighbors(self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True) -> Any:
        wanted = min(n_neighbors or self.n_neighbors, self.n_samples_fit_)
        return super().kneighbors(X, wanted, return_distance)

    def predict(self, X: Any) -> NDArray[np.float64]:
        return self.mean_of(self.kneighbors(X, return_distance=False))

    def mean_of(self, nearest: NDArray[np.intp]) -> NDArray[np.float64]:
        """Take means over neighbours ``(n, k)``, without the expression of all of them at once."""
        n, k = nearest.shape
        parts = np.ones(n * k), nearest.ravel(), np.arange(0, n * k + 1, k)
        return np.asarray(sparse.csr_array(parts, shape=(n, self.n_samples_fit_)) @ self._y) / k


class RandomForestConfig(MethodConfig):
    """Settings of the random forest.

    Attributes
    ----------
    trees
        Number of trees.
    depth
        Largest number of splits between the root and a leaf.
    min_leaf
        Smallest numbers of spots in a leaf to choose from.
    """

    name: Literal["random_forest"] = "random_forest"
    trees: Positive = 50
    depth: Positive = 10
    min_leaf: Counts = (5, 20)


@register_method
class RandomForest(Baseline):
    """A random forest over all genes at once.

    It is small, so that a fit of a thousand spots and 800 genes takes seconds: 50 trees of at most ten levels. Each
    tree is grown on half of the spots, drawn with replacement, and each split chooses among the square root of the
    number of features.
    """

    Settings: ClassVar[type[MethodConfig]] = RandomForestConfig
    random: ClassVar[bool] = True

    def regression(self) -> RandomForestRegressor:
        """Make the forest; see :meth:`Baseline.regression`."""
        return RandomForestRegressor(
            self.config.trees,
            max_depth=self.config.depth,
            max_features="sqrt",
            max_samples=0.5,
            random_state=self.seed,
        )

    def grid(self) -> dict[str, Sequence[int]]:
        """Give the sizes of leaves; see :meth:`Baseline.grid`."""
        return {"min_samples_leaf": self.config.min_leaf}


def make_baseline(name: str, seed: int = 0) -> Estimator:
    """Make a baseline with its default settings.

    Parameters
    ----------
    name
        One of :data:`BASELINES`, or another estimator that is a ``baseline`` (``pca_ridge``, ``random_forest``).
    seed
        Seed of a baseline that draws random numbers.

    Returns
    -------
    The baseline, not yet fitted.

    Raises
    ------
    ConfigError
        If the method is unknown, or is no baseline.
    """
    method = find_method(name)
    if not (issubclass(method, Estimator) and method.baseline):
        raise ConfigError(f"{setting('name', name)} is no baseline; choose one of {', '.join(BASELINES)}")
    return method(method.Settings.model_validate({}), seed)
