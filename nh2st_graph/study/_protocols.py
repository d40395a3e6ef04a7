"""HEST-Benchmark's own protocol, each repair of it, and ours, on the same samples and the same features.

The published protocol is that of mahmoodlab/HEST afd42c3 (``src/hest/bench/benchmark.py``, ``trainer.py`` and
``st_dataset.py``): log1p of raw counts; features standardised and reduced to 256 principal components of the training
spots; ridge regression without intercept, whose penalty is ``100 / (components * genes)``, solved by LSQR with
scikit-learn's tolerance; r of each gene over all test spots of a fold together; the mean over genes, then over folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nh2st_graph._errors import DataError
from nh2st_graph._progress import phase
from nh2st_graph.metrics import partial_pearson, pearson
from nh2st_graph.study._hest import read_task, task_name
from nh2st_graph.study._plan import Study

if TYPE_CHECKING:
    from nh2st_graph.read import PublishedSplit

__all__ = ["REPAIRS", "Head", "Protocols", "Sample", "Task", "compare_protocols", "published_scores"]

_COMPONENTS, _SEED = 256, 1
#: Penalties to choose from, as :class:`~nh2st_graph.models.PCARidge` has them, and the largest number of inner folds.
_PENALTIES, _INNER = tuple(np.logspace(0, 5, 11).tolist()), 5

#: What each field of :class:`Head` repairs, in the order in which repairs are added up.
REPAIRS = {
    "intercept": "an intercept, and the regression solved exactly",
    "chosen": "the penalty chosen by folds inside the training sections",
    "by_section": "r by section, in place of over a fold's sections together",
    "patients": "patients corrected, copies left out",
    "library": "targets relative to the library size",
    "within": "features as z-scores of each section",
}
#: The last of them that belongs to the repaired protocol; those after it lead to ours.
_LAST = "patients"


@dataclass(frozen=True)
class Head:
    """The head of HEST-Benchmark, with some of its :data:`REPAIRS`."""

    intercept: bool = False
    chosen: bool = False
    by_section: bool = False
    patients: bool = False
    library: bool = False
    within: bool = False


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample: features, ``(n_spots, d)``; raw counts and targets of ours, ``(n_spots, n_genes)``; library sizes.

    Rows are in the order of the benchmark's patches.
    """

    name: str
    features: NDArray[np.floating]
    counts: NDArray[np.float64]
    targets: NDArray[np.float64]
    library: NDArray[np.float64]

    @cached_property
    def standardized(self) -> NDArray[np.floating]:
        """Features as z-scores of this sample."""
        spread = self.features.std(axis=0, dtype=np.float64)
        scores = (self.features - self.features.mean(axis=0, dtype=np.float64)) / np.where(spread > 0, spread, 1)
        return scores.astype(self.features.dtype)


@dataclass(frozen=True, eq=False)
class Task:
    """Samples by name, genes, and folds: the published ones, and those with patients corrected."""

    samples: Mapping[str, Sample]
    genes: Sequence[str]
    published: Sequence[PublishedSplit]
    corrected: Sequence[PublishedSplit]
    _fitted: dict[tuple[object, ...], tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=dict)

    def folds(self, head: Head) -> Sequence[PublishedSplit]:
        """Give the folds that a head is scored on."""
        return self.corrected if head.patients else self.published

    def components(self, fold: PublishedSplit, within: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Reduce the features of training and test spots of a fold."""
        from sklearn.decomposition import PCA
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        key = (fold.train, fold.test, within)
        if key not in self._fitted:
            train, test = (
                np.concatenate(
                    [self.samples[name].standardized if within else self.samples[name].features for name in part]
                )
                for part in (fold.train, fold.test)
            )
            # The published code refuses fewer features or training spots than components.
            pca = PCA(min(_COMPONENTS, *train.shape), random_state=_SEED)
            pipeline = make_pipeline(StandardScaler(), pca)
            learned = pipeline.fit_transform(train)
            # The public code gives scikit-learn tensors of float32, which it computes with in float64. That LSQR stops
            # early makes this visible: in float32 r differs by 1e-4.
            self._fitted[key] = _rounded(learned), _rounded(pipeline.transform(test))
        return self._fitted[key]

    def expression(self, names: Sequence[str], library: bool) -> NDArray[np.float64]:
        """Give the targets of some samples, one below the other."""
        values = [self.samples[name].targets if library else np.log1p(self.samples[name].counts) for name in names]
        return np.concatenate(values)


def _rounded(values: NDArray[np.floating]) -> NDArray[np.float64]:
    return values.astype(np.float32).astype(np.float64)


def published_scores(task: Task) -> pd.DataFrame:
    """Score HEST-Benchmark's head as published.

    Returns
    -------
    r of each gene in each fold, genes by folds. A gene that is constant in the test spots of a fold has no r.
    """
    columns = []
    for fold in task.published:
        predicted, observed = _predict(task, Head(), fold), task.expression(fold.test, library=False)
        flat = (np.ptp(observed, axis=0) == 0) | (np.ptp(predicted, axis=0) == 0)
        columns.append(np.where(flat, np.nan, pearson(predicted, observed)))
    return pd.DataFrame(np.stack(columns, axis=1), index=pd.Index(task.genes, name="gene"))


def _predict(task: Task, head: Head, fold: PublishedSplit) -> NDArray[np.float64]:
    """Fit a head on the training sections of a fold, and predict its test sections."""
    from sklearn.linear_model import Ridge

    train, test = task.components(fold, head.within)
    y = task.expression(fold.train, head.library)
    penalty = _choose(task, head, fold, train, y) if head.chosen else 100 / (train.shape[1] * y.shape[1])
    if head.intercept:
        ridge = Ridge(penalty).fit(train, y)
        return np.asarray(ridge.predict(test)).reshape(len(test), -1)
    ridge = Ridge(penalty, solver="lsqr", fit_intercept=False, max_iter=1000, tol=1e-4).fit(train, y)
    return np.asarray(ridge.predict(test)).reshape(len(test), -1)


def _choose(task: Task, head: Head, fold: PublishedSplit, train: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Choose the penalty with the smallest squared error on held-out sections, or bands of a single one."""
    from sklearn.model_selection import GroupKFold, KFold

    sizes = [len(task.samples[name].library) for name in fold.train]
    several = len(sizes) > 1
    inner = GroupKFold(min(len(sizes), _INNER)) if several else KFold(_INNER)
    errors = np.zeros(len(_PENALTIES))
    for learn, held in inner.split(train, y, np.repeat(np.arange(len(sizes)), sizes) if several else None):
        x, values = train[learn], y[learn]
        mean_x, mean_y = (x.mean(axis=0), values.mean(axis=0)) if head.intercept else (0.0, 0.0)
        x = x - mean_x
        # One decomposition serves all penalties.
        spread, axes = np.linalg.eigh(x.T @ x)
        along, seen = axes.T @ (x.T @ (values - mean_y)), (train[held] - mean_x) @ axes
        for k, penalty in enumerate(_PENALTIES):
            predicted = seen @ (along / (spread + penalty)[:, None]) + mean_y
            errors[k] += np.square(predicted - y[held]).mean()
    return _PENALTIES[int(errors.argmin())]


def _score(task: Task, head: Head, *, depth_alone: bool = False) -> tuple[float, float]:
    """Score a head, or the spots' library size in its place: mean r, and mean r given depth."""
    units: list[tuple[float, float]] = []
    for fold in task.folds(head):
        depth = np.log1p(np.concatenate([task.samples[name].library for name in fold.test]))
        observed = task.expression(fold.test, head.library)
        predicted = np.tile(depth[:, None], observed.shape[1]) if depth_alone else _predict(task, head, fold)
        ends = np.cumsum([len(task.samples[name].library) for name in fold.test])[:-1]
        parts = np.split(np.arange(len(depth)), ends if head.by_section else [])
        units += [
            (
                float(pearson(predicted[spots], observed[spots]).mean()),
                float(partial_pearson(predicted[spots], observed[spots], depth[spots]).mean()),
            )
            for spots in parts
        ]
    r, partial = np.mean(units, axis=0)
    return float(r), float(partial)


@dataclass(frozen=True, eq=False)
class Protocols:
    """The three protocols side by side, and what each repair moves.

    Attributes
    ----------
    task
        The name of the task.
    sides
        One row a protocol and method: ``protocol``, ``method``, ``r``, ``difference`` (from the head as published),
        ``r_given_depth``, ``share_of_ceiling``, where they are known.
    repairs
        One row for each step from the published protocol to ours: ``repair``; ``alone`` and ``alone_moves``, r with
        this repair only, and its difference from the published r; ``together`` and ``together_moves``, r with this and
        all repairs above it, and the difference from the row above; ``together_given_depth``.
    genes
        r of each gene in each fold as published.
    notes
        Sentences on the task and its samples.
    """

    task: str
    sides: pd.DataFrame
    repairs: pd.DataFrame
    genes: pd.DataFrame
    notes: list[str]

    def beside(self, table: pd.DataFrame) -> Protocols:
        """Add the rows of our protocol from the table of the study."""
        published = float(self.sides["r"].iloc[0])
        rows = table[table["pcc_mean"].notna()]
        ours = pd.DataFrame(
            {
                "protocol": "ours",
                "method": rows["variant"],
                "r": rows["pcc_mean"],
                "difference": rows["pcc_mean"] - published,
                "r_given_depth": rows["pcc_partial"],
                "share_of_ceiling": rows.get("share_of_ceiling", pd.Series(np.nan, index=rows.index)),
            }
        )
        return replace(self, sides=pd.concat([self.sides, ours], ignore_index=True))


def compare_protocols(study: Study) -> Protocols:
    """Score HEST-Benchmark's head as published and with its repairs, on the samples and features of a study.

    Raises
    ------
    DataError, ImageError, ConfigError
        If the folder of the task is not complete, or features cannot be computed.
    """
    task, phases = _task(study), [each.name for each in fields(Head)]
    if study.config.features.standardize != "section":
        phases.remove("within")
    phase("scoring HEST-Benchmark's protocol")
    genes = published_scores(task)
    as_published = float(genes.mean(skipna=False).mean(skipna=False))
    start = _score(task, Head())
    rows = [("as published", np.nan, np.nan, as_published, np.nan, start[1])]
    head, last = Head(), as_published
    repaired = start
    for name in phases:
        alone, head = _score(task, replace(Head(), **{name: True}))[0], replace(head, **{name: True})
        together = _score(task, head)
        rows.append((f"+ {REPAIRS[name]}", alone, alone - as_published, together[0], together[0] - last, together[1]))
        last = together[0]
        if name == _LAST:
            repaired, repaired_head = together, head
    columns = ["repair", "alone", "alone_moves", "together", "together_moves", "together_given_depth"]
    label, depth = "PCA and ridge", "(reference) depth alone"
    sides = [
        ("as published", label, as_published, start[1]),
        ("as published", depth, *_score(task, Head(), depth_alone=True)),
        ("repaired", label, *repaired),
        ("repaired", depth, *_score(task, repaired_head, depth_alone=True)),
    ]
    table = pd.DataFrame(sides, columns=["protocol", "method", "r", "r_given_depth"])
    table.insert(3, "difference", [np.nan, *(table["r"].iloc[1:] - as_published)])
    return Protocols(
        task_name(study.config),
        table.assign(share_of_ceiling=np.nan),
        pd.DataFrame(rows, columns=columns),
        genes,
        _notes(task, genes),
    )


def _notes(task: Task, genes: pd.DataFrame) -> list[str]:
    """Say what is special about a task."""
    from nh2st_graph.read import known_errors

    notes = known_errors(task.samples, corrected=True)
    if len(task.corrected) != len(task.published) or set(task.corrected) != set(task.published):
        tested = "; ".join(", ".join(fold.test) for fold in task.corrected)
        notes.append(f"the repaired protocol and ours test {tested}, each from the other patients")
    flat = [f"{gene} (fold {fold})" for fold in genes for gene in genes.index[genes[fold].isna()]]
    if flat:
        notes.append(
            f"constant in the test spots: {', '.join(flat)}; r does not exist, so that the published protocol has no "
            "mean. Other rows count such a gene as r = 0"
        )
    few = min(_COMPONENTS, *next(iter(task.samples.values())).features.shape[1:])
    if few < _COMPONENTS:
        notes.append(f"{few} features give {few} principal components, where the published code wants {_COMPONENTS}")
    return notes


def _task(study: Study) -> Task:
    """Read samples, and take features from the harness of the study."""
    from nh2st_graph.read import PublishedSplit, patch_order, published_splits
    from nh2st_graph.section import Key, library_size, panel_counts
    from nh2st_graph.train import Preparation, use_threads

    config = study.config.model_copy(update={"features": study.config.features.model_copy(update={"finetune": False})})
    assert config.data.root is not None
    published, sections = published_splits(config.data.root), read_task(config)
    samples = {}
    phase("computing image features")
    with use_threads(config.train.n_threads):
        learned = Preparation.learn(config, sections, {}, checked=True)
    genes = learned.preparation.genes
    for each in learned.train:
        section = each.section
        stored = patch_order(config.data.root, each.name)
        rows = (
            section.obs_names.get_indexer(stored[stored.isin(section.obs_names)]) if stored is not None else slice(None)
        )
        samples[each.name] = Sample(
            each.name,
            np.asarray(section.obsm[Key.obsm.image])[rows],
            panel_counts(section, genes).to_numpy()[rows],
            each.observed.to_numpy()[rows],
            library_size(section)[rows],
        )
    corrected = [PublishedSplit(fold.train, fold.test) for fold in study.folds]
    missing = sorted({name for fold in corrected for part in fold for name in part} - set(samples))
    if missing:
        raise DataError(
            f"{task_name(config)}: folds name {', '.join(missing)}, which no published split has; leave out"
        )
    return Task(samples, genes, published, corrected)
