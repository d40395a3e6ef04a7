"""A study: what it compares, on which folds, with which seeds, and the runs that this takes."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nh2st_graph._errors import ConfigError, nearest, setting
from nh2st_graph._files import is_count
from nh2st_graph.config import Config

__all__ = [
    "METRICS",
    "RECORD",
    "Fold",
    "PlannedRun",
    "Study",
    "Variant",
    "check_jobs",
    "check_only",
    "check_runs",
    "slug",
]

#: What a finished run has in its folder: its scores, and what the study notes of it.
METRICS, RECORD = "metrics.json", "study.json"


@dataclass(frozen=True)
class Fold:
    """Sections to train on and to test on, and the split that they are a part of."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    split: str


@dataclass(frozen=True)
class Variant:
    """One of the things compared: a changed part, a value of a grid, or a method.

    Attributes
    ----------
    name
        Its name in tables.
    changes
        Configuration keys that differ from what all variants share, dotted, with their values.
    config
        The complete configuration, less seed and fold.
    role
        ``base`` or ``variant``; in a benchmark ``baseline`` or ``method``.
    random
        Whether its result depends on the seed. Otherwise it runs with the first seed only.
    """

    name: str
    changes: dict[str, Any]
    config: Config
    role: str = "variant"
    random: bool = True


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: a variant on a fold with a seed, its configuration and its run folder."""

    variant: str
    fold: Fold
    seed: int
    config: Config
    folder: Path

    def __str__(self) -> str:
        return f"{self.variant}, {self.fold.name}, seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Whether the run is scored, and noted by the study."""
        return (self.folder / METRICS).is_file() and (self.folder / RECORD).is_file()


@dataclass(frozen=True)
class Study:
    """What is compared, on which folds, with which seeds.

    Attributes
    ----------
    name
        The name of the study file, without its ending.
    variants, folds, seeds
        Every variant runs on every fold with every seed.
    config
        The configuration that the variants change.
    reference
        The variant that the others are compared with. Where None, variants are ranked, and compared with the best
        baseline among them.
    """

    name: str
    variants: tuple[Variant, ...]
    folds: tuple[Fold, ...]
    seeds: tuple[int, ...]
    config: Config
    reference: str | None = None

    @property
    def ranked(self) -> bool:
        """Whether variants are ranked and compared with the best baseline, as the methods of a benchmark are."""
        return self.reference is None

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that the folds make up, in order."""
        return tuple(dict.fromkeys(fold.split for fold in self.folds))

    def runs(self, folder: Path, only: Iterable[str] = ()) -> list[PlannedRun]:
        """List the runs, each with its folder under ``folder``.

        All variants with the first seed come first, so that the tables of a study that is stopped early are complete.

        Parameters
        ----------
        folder
            The study folder.
        only
            Names of variants, to which the reference is added. All variants where empty.

        Raises
        ------
        ConfigError
            If a name is unknown.
        """
        chosen = set(only)
        check_only(chosen, [variant.name for variant in self.variants], self.name, ranked=self.ranked)
        return [
            PlannedRun(
                variant.name,
                fold,
                seed,
                _on_fold(variant.config, fold, seed),
                folder / "runs" / slug(variant.name) / f"{slug(fold.name)}_seed{seed}",
            )
            for seed in self.seeds
            for fold in self.folds
            for variant in self.variants
            if not chosen or variant.name in {*chosen, self.reference}
            if variant.random or seed == self.seeds[0]
        ]


def check_only(only: Iterable[str], names: Sequence[str], study: str, *, ranked: bool) -> None:
    """Refuse names of variants, or of methods if they are ranked, that a study does not have.

    Raises
    ------
    ConfigError
        If a name is unknown.
    """
    kind = "method" if ranked else "variant"
    for name in sorted(set(only) - set(names)):
        raise ConfigError(f"{setting('only', name)}: study {study!r} has no such {kind}; {nearest(name, names)}")


def check_jobs(jobs: int | None) -> None:
    """Refuse a number of processes below 1.

    Raises
    ------
    ConfigError
        If it is.
    """
    if jobs is not None and not is_count(jobs):
        raise ConfigError(f"{setting('jobs', jobs)}; allowed: 1 or more")


def check_runs(study: Study, source: str) -> None:
    """Refuse a study whose runs would share a folder, have no valid configuration, or take several processes each."""
    _check_slugs("variants", [variant.name for variant in study.variants], source)
    _check_slugs("folds", [fold.name for fold in study.folds], source)
    for variant in study.variants:
        train = variant.config.train
        if not train.devices == train.nodes == 1:
            raise ConfigError(
                f"{source}: variant {variant.name!r} has {setting('train.devices', train.devices)} and "
                f"{setting('train.nodes', train.nodes)}; a run of a study has one process: leave them out"
            )
    for variant, fold in itertools.product(study.variants, study.folds):
        _on_fold(variant.config, fold, study.seeds[0], f"{source}: variant {variant.name!r} on fold {fold.name!r}")


def _on_fold(config: Config, fold: Fold, seed: int, source: str = "configuration") -> Config:
    """Complete a variant's configuration by its sections and its seed. Runs show no progress bars of their own."""
    data = {"train": list(fold.train), "test": list(fold.test)}
    return config.change({"seed": seed, "data": data, "train.progress": False}, source)


def slug(name: str) -> str:
    """Turn a name into the name of a folder on any system: lower case, nothing but ``a-z0-9._+-``."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9.+-]+", "_", plain).strip("_.") or "unnamed"


def _check_slugs(what: str, names: Sequence[str], source: str) -> None:
    """Refuse names that would share a folder. A number beside them would change when a name is added."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(slug(name), name)
        if other is not name:
            raise ConfigError(
                f"{source}: {what} {other!r} and {name!r} would share the folder {slug(name)!r}; rename one"
            )
