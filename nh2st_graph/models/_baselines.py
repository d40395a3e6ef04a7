"""What any method must beat, on the same features: regressions of scikit-learn, a spot at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.decomposition import PCA
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch_geometric.data import Data
from torch_geometric.utils import scatter

from nh2st_graph._errors import ConfigError, DataError, setting
from nh2st_graph._settings import Positive
from nh2st_graph.models._groups import section_groups
from nh2st_graph.models._network import Estimator, Memory
from nh2st_graph.models._registry import find_method, register_method
from nh2st_graph.models._settings import MethodConfig

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

#: Baselines that a model is scored beside.
BASELINES = ("mean", "ridge", "ridge_neighbours", "knn")

#: Most folds by which a hyper-parameter is chosen; more sections are held out several at a time.
_MOST_FOLDS = 5

#: What a chosen hyper-parameter is called in a baseline's memory, before its name.
_CHOSEN = "chosen."

Counts = Annotated[tuple[Positive, ...], Field(min_length=1)]
Penalties = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]

_PENALTIES: tuple[float, ...] = tuple(np.logspace(0, 5, 11).tolist())


class Baseline(Estimator):
    """A scikit-learn regression on a spot's features, its hyper-parameter chosen by folds grouped by section.

    Folds hold out whole sections, several at a time where there are more than five; of a single section, bands. The
    value with the smallest squared error on held-out spots is taken, and all spots are learned from.

    It is saved as what it learned from and what it chose, and learns again when it is loaded: from the same numbers in
    the same order, so that its predictions are the same.
    """

    def __init__(self, settings: Any, seed: int = 0) -> None:
        super().__init__(settings, seed)
        self._memory: Memory | None = None
        self._fitted: Any = None

    @abstractmethod
    def regression(self) -> Any:
        """Make the multi-output regression, in scikit-learn's form, before anything is chosen."""

    def grid(self) -> Mapping[str, Sequence[Any]]:
        """Values to choose from, by the regression's name of them; nothing where there is nothing to choose."""
        return {}

    def features(self, section: Data) -> NDArray[Any]:
        """Read what is regressed on, ``(n_spots, d)``, numbers or bytes."""
        return own_features(section)

    def fit(self, sections: Sequence[Data]) -> None:
        """Choose the hyper-parameter and learn; see :meth:`Estimator.fit`.

        Raises
        ------
        DataError
            If there is something to choose, and too few spots to hold any out.
        """
        x = np.vstack([self.features(section) for section in sections])
        y = np.vstack([section.y.numpy() for section in sections])
        self._learn(x, y, self._choose(x, y, section_groups(sections)))

    def predict(self, section: Data) -> NDArray[np.float64]:
        """Predict expression, ``(n_spots, n_genes)``."""
        predicted = np.asarray(self._fitted.predict(_numbers(self.features(section))))
        # scikit-learn gives a panel of one gene without its axis.
        return predicted.reshape(len(predicted), -1)

    def memory(self) -> Memory | None:
        """Return the training features ``x``, targets ``y`` and what was chosen; None before fitting."""
        return self._memory

    def restore(self, memory: Memory) -> None:
        """Learn from ``memory`` again, with what was chosen."""
        chosen = {
            name.removeprefix(_CHOSEN): value.item() for name, value in memory.items() if name.startswith(_CHOSEN)
        }
        self._learn(memory["x"].numpy(), memory["y"].numpy(), chosen)

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
        folds = GroupKFold(min(n_groups, _MOST_FOLDS))
        search = GridSearchCV(self.regression(), dict(grid), cv=folds, scoring="neg_mean_squared_error", refit=False)
        search.fit(_numbers(x), _targets(y), groups=groups)
        return {name: np.asarray(value).item() for name, value in search.best_params_.items()}

    def _learn(self, x: NDArray[Any], y: NDArray[Any], chosen: dict[str, Any]) -> None:
        self.chosen = chosen
        self._memory = {"x": torch.from_numpy(x), "y": torch.from_numpy(y)}
        self._memory |= {f"{_CHOSEN}{name}": torch.from_numpy(np.asarray(value)) for name, value in chosen.items()}
        self._fitted = self.regression().set_params(**chosen).fit(_numbers(x), _targets(y))


def own_features(section: Data) -> NDArray[Any]:
    """Read a spot's own image features, ``(n_spots, d)``, as they are."""
    return np.asarray(section.x.numpy())


def with_neighbours(section: Data) -> NDArray[np.float64]:
    """Read a spot's own features and its neighbours' mean, ``(n_spots, 2 d)``; zeros where it has none."""
    sender, receiver = section.edge_index
    x = section.x.double()
    around = scatter(x[sender], receiver, dim=0, dim_size=section.num_nodes, reduce="mean")
    return np.hstack([x.numpy(), around.numpy()])


def _numbers(features: NDArray[Any]) -> NDArray[np.float64]:
    return features.astype(np.float64)


def _targets(y: NDArray[Any]) -> NDArray[np.float64]:
    """Targets as scikit-learn has them: without an axis for a single gene."""
    return _numbers(y[:, 0] if y.shape[1] == 1 else y)


class MeanConfig(MethodConfig):
    """Settings of the training mean: none."""

    name: Literal["mean"] = "mean"


@register_method
class TrainingMean(Baseline):
    """Each gene's mean over the training spots."""

    Settings: ClassVar[type[MethodConfig]] = MeanConfig

    def features(self, section: Data) -> NDArray[np.float64]:
        """Read no feature; see :meth:`Baseline.features`."""
        return np.empty((len(section.x), 0))

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
    """Ridge regression on the spot's features; of ``features.encoder: pixels:1``, on its mean colour."""

    Settings: ClassVar[type[MethodConfig]] = RidgeConfig

    def regression(self) -> Ridge:
        """Make the ridge; see :meth:`Baseline.regression`."""
        return Ridge()

    def grid(self) -> dict[str, Sequence[float]]:
        """Give the penalties; see :meth:`Baseline.grid`."""
        return {"alpha": self.config.alphas}


class RidgeNeighboursConfig(MethodConfig):
    """Settings of ridge regression with the neighbours.

    Attributes
    ----------
    alphas
        Penalties to choose from.
    """

    name: Literal["ridge_neighbours"] = "ridge_neighbours"
    alphas: Penalties = _PENALTIES


@register_method
class NeighbourRidge(OwnRidge):
    """Ridge regression on the spot's features and the mean of those of its neighbours in the graph."""

    Settings: ClassVar[type[MethodConfig]] = RidgeNeighboursConfig

    def features(self, section: Data) -> NDArray[np.float64]:
        """Read own and neighbours' features; see :meth:`Baseline.features`."""
        return with_neighbours(section)


class PCARidgeConfig(MethodConfig):
    """Settings of PCA and ridge.

    Attributes
    ----------
    components
        Principal components of the features; fewer where there are fewer features or training spots.
    repaired
        Choose the penalty by folds, fit an intercept, and solve exactly, rather than as published.
    alphas
        Penalties to choose from, where repaired.
    """

    name: Literal["pca_ridge"] = "pca_ridge"
    components: Positive = 256
    repaired: bool = False
    alphas: Penalties = _PENALTIES


@register_method
class PCARidge(Baseline):
    """Ridge regression on principal components of standardised features: the head of the HEST benchmark.

    Source: Jaume et al., *HEST-1k*, NeurIPS 2024 (arXiv 2406.16192), and its public code
    (``src/hest/bench/trainer.py``). The features are standardised by the training spots, and 256 components of them
    regressed on. Of the code, as published:

    - the penalty is ``100 / (n_components * n_genes)``, so that a gene's prediction depends on how many others there
      are; its argument ``alpha`` is not read, and nothing is chosen;
    - there is no intercept, while expression is not centred: predictions have a mean of 0 for every gene over the
      training spots. Correlations are what they are with one, squared errors are not;
    - LSQR is stopped at a tolerance of 1e-4, well before it gets to a solution with so small a penalty: what keeps the
      weights small is that it stops;
    - fewer training spots or features than components are an error there, and give fewer components here.

    ``repaired: true`` replaces the first three.
    """

    Settings: ClassVar[type[MethodConfig]] = PCARidgeConfig

    def regression(self) -> _PCARidge:
        """Make PCA and ridge; see :meth:`Baseline.regression`."""
        return _PCARidge(self.config.components)

    def grid(self) -> dict[str, Sequence[float]]:
        """Give the penalties, where repaired; see :meth:`Baseline.grid`."""
        return {"alpha": self.config.alphas} if self.config.repaired else {}


class _PCARidge(RegressorMixin, BaseEstimator):
    """PCA and ridge, whose size is known when they see the data; without a penalty, as published."""

    def __init__(self, n_components: int = 256, alpha: float | None = None) -> None:
        self.n_components, self.alpha = n_components, alpha

    def fit(self, X: NDArray[np.float64], y: NDArray[np.float64]) -> _PCARidge:
        n_components = max(min(self.n_components, X.shape[1], len(X) - 1), 1)
        if self.alpha is None:
            penalty = 100 / (n_components * y[0].size)
            ridge = Ridge(penalty, fit_intercept=False, solver="lsqr", tol=1e-4, max_iter=1000)
        else:
            ridge = Ridge(self.alpha)
        components = PCA(n_components, svd_solver="full")
        self.pipeline_ = make_pipeline(StandardScaler(), components, ridge).fit(X, y)
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
    """Mean expression of the training spots whose features are nearest, by Euclidean distance."""

    Settings: ClassVar[type[MethodConfig]] = KNNConfig

    def regression(self) -> _NearestOrAll:
        """Make the nearest neighbours; see :meth:`Baseline.regression`."""
        return _NearestOrAll()

    def grid(self) -> dict[str, Sequence[int]]:
        """Give the numbers of neighbours; see :meth:`Baseline.grid`."""
        return {"n_neighbors": self.config.neighbours}


class _NearestOrAll(KNeighborsRegressor):
    """Mean of the nearest training spots, or of all where there are fewer (a small fold, a small section)."""

    def kneighbors(self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True) -> Any:
        wanted = min(n_neighbors or self.n_neighbors, self.n_samples_fit_)
        return super().kneighbors(X, wanted, return_distance)


class RandomForestConfig(MethodConfig):
    """Settings of the random forest.

    Attributes
    ----------
    trees
        How many.
    depth
        Most splits between the root and a leaf.
    min_leaf
        Fewest spots of a leaf, to choose from.
    """

    name: Literal["random_forest"] = "random_forest"
    trees: Positive = 50
    depth: Positive = 10
    min_leaf: Counts = (5, 20)


@register_method
class RandomForest(Baseline):
    """A random forest over all genes at once.

    It is kept small, for a fit of a thousand spots and some 800 genes to take seconds: 50 trees of at most ten levels,
    each grown on half of the spots, drawn with replacement, a split choosing among the square root of the number of
    features.
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


def make_baseline(name: str, seed: int = 0) -> Baseline:
    """Make a baseline with its default settings.

    Parameters
    ----------
    name
        One of :data:`BASELINES`, or another method that is a :class:`Baseline` (``pca_ridge``, ``random_forest``).
    seed
        Of a baseline that draws random numbers.

    Returns
    -------
    The baseline, to be fitted.

    Raises
    ------
    ConfigError
        If there is no method of that name, or it is no baseline.
    """
    method = find_method(name)
    if not issubclass(method, Baseline):
        raise ConfigError(f"{setting('name', name)} is no baseline; choose one of {', '.join(BASELINES)}")
    return method(method.Settings.model_validate({}), seed)
