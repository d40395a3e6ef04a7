"""What any method must beat, on the same features: the training mean, ridge, ridge with the neighbours, kNN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.neighbors import KNeighborsRegressor
from torch_geometric.data import Data
from torch_geometric.utils import scatter

__all__ = ["FLOORS", "Floor", "make_floor"]

Features = Callable[[Data], NDArray[np.float64]]

_PENALTIES = tuple(np.logspace(0, 5, 11).tolist())
_NEIGHBOURS = (5, 10, 20, 40, 80)


def own_features(section: Data) -> NDArray[np.float64]:
    """Read a spot's own image features, ``(n_spots, d)``."""
    return np.asarray(section.x.double().numpy())


def with_neighbours(section: Data) -> NDArray[np.float64]:
    """Read a spot's own features and its neighbours' mean, ``(n_spots, 2 d)``; zeros where it has none."""
    sender, receiver = section.edge_index
    around = scatter(section.x[sender].double(), receiver, dim=0, dim_size=section.num_nodes, reduce="mean")
    return np.hstack([own_features(section), around.numpy()])


class _NearestSpots(KNeighborsRegressor):
    """Mean of the nearest training spots, or of all where there are fewer (a small fold, a small section)."""

    def kneighbors(self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True) -> Any:
        wanted = min(n_neighbors or self.n_neighbors, self.n_samples_fit_)
        return super().kneighbors(X, wanted, return_distance)


class Floor:
    """A scikit-learn regression on a spot's features, its hyper-parameter chosen by folds grouped by section.

    Parameters
    ----------
    estimator
        A multi-output regression.
    features
        What it reads of a section.
    grid
        Values to choose from, by squared error on held-out groups; empty where there is nothing to choose.
    """

    def __init__(self, estimator: Any, features: Features, grid: dict[str, Sequence[Any]]) -> None:
        self.estimator, self.features, self.grid = estimator, features, grid
        self.chosen: dict[str, Any] = {}

    def fit(self, sections: Sequence[Data], groups: NDArray[np.int64]) -> Floor:
        """Learn from graphs with targets ``y``.

        Parameters
        ----------
        sections
            Training graphs.
        groups
            For each spot of the joined sections, which fold it is held out with: its section's number.
        """
        x = np.vstack([self.features(section) for section in sections])
        y = np.vstack([section.y.numpy() for section in sections]).astype(np.float64)
        if self.grid:
            search = GridSearchCV(
                self.estimator, self.grid, cv=LeaveOneGroupOut(), scoring="neg_mean_squared_error"
            ).fit(x, y, groups=groups)
            self.estimator = search.best_estimator_
            self.chosen = {name: np.asarray(value).item() for name, value in search.best_params_.items()}
        else:
            self.estimator.fit(x, y)
        return self

    def predict(self, section: Data) -> NDArray[np.float64]:
        """Predict expression, ``(n_spots, n_genes)``."""
        predicted = np.asarray(self.estimator.predict(self.features(section)))
        # scikit-learn gives a panel of one gene without its axis.
        return predicted.reshape(len(predicted), -1)


#: The floors by name, each a call that makes a new one.
FLOORS: dict[str, Callable[[], Floor]] = {
    "mean": lambda: Floor(DummyRegressor(), own_features, {}),
    "ridge": lambda: Floor(Ridge(), own_features, {"alpha": _PENALTIES}),
    "ridge_neighbours": lambda: Floor(Ridge(), with_neighbours, {"alpha": _PENALTIES}),
    "knn": lambda: Floor(_NearestSpots(), own_features, {"n_neighbors": _NEIGHBOURS}),
}


def make_floor(name: str) -> Floor:
    """Make a floor by its name in :data:`FLOORS`."""
    return FLOORS[name]()
