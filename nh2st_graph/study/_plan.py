"""From a study file to the runs that it asks for, each with a complete, checked configuration."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nh2st_graph._errors import ConfigError, nearest
from nh2st_graph.config import Config, builtin_config, flatten, load_config
from nh2st_graph.study._schema import LEAVE_ONE_OUT, BaseEntry, FoldEntry, StudyFile, checked

__all__ = [
    "BENCHMARK",
    "STUDY",
    "Fold",
    "PlannedRun",
    "Study",
    "Variant",
    "Words",
    "check_runs",
    "make_variants",
    "read_base",
    "read_study",
    "read_yaml",
]

_RUNS = "runs"


class Words(NamedTuple):
    """What messages call a study, one of the things that it compares, and its folds' key."""

    study: str
    variant: str
    folds: str


STUDY, BENCHMARK = Words("study", "variant", "folds"), Words("benchmark", "method", "splits")


@dataclass(frozen=True)
class Fold:
    """Sections to train on and to test on, and the split that they are a part of."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    split: str


@dataclass(frozen=True)
class Variant:
    """One of the things compared.

    Attributes
    ----------
    name
        What tables call it.
    changes
        Configuration keys that differ from the base, dotted, with their values; none for the base itself.
    config
        The complete configuration, less seed and fold.
    random
        Whether its result depends on the seed; otherwise it runs with the first one only.
    """

    name: str
    changes: dict[str, Any]
    config: Config
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


@dataclass(frozen=True)
class Study:
    """What is compared, on which folds, with which seeds.

    Attributes
    ----------
    name
        The study file's, without its ending.
    variants
        The first is the base, which the others are compared with.
    folds, seeds
        Every variant runs on every fold with every seed.
    config
        What all variants change.
    has_base
        Whether the first variant is the base of all comparisons; otherwise no variant is more than another.
    """

    name: str
    variants: tuple[Variant, ...]
    folds: tuple[Fold, ...]
    seeds: tuple[int, ...]
    config: Config
    has_base: bool = True

    @property
    def base(self) -> Variant:
        """The variant that the others are compared with."""
        return self.variants[0]

    @property
    def words(self) -> Words:
        """What messages call its parts."""
        return STUDY if self.has_base else BENCHMARK

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that the folds make up, in order."""
        return tuple(dict.fromkeys(fold.split for fold in self.folds))

    def runs(self, folder: Path, only: Iterable[str] = ()) -> list[PlannedRun]:
        """List the runs, each with its folder under ``folder``.

        All variants with the first seed come first, so that a study that is stopped early can be read.

        Parameters
        ----------
        folder
            The study folder.
        only
            Names of variants; a base is always among them. All where empty.

        Raises
        ------
        ConfigError
            If a name is unknown.
        """
        chosen = set(only)
        names = [variant.name for variant in self.variants]
        for name in sorted(chosen - set(names)):
            what = f"no such {self.words.variant} in {self.words.study} {self.name!r}"
            raise ConfigError(f"--only {name!r}: {what}; {nearest(name, names)}")
        wanted = [v for v in self.variants if not chosen or v.name in chosen or (self.has_base and v is self.base)]
        return [
            PlannedRun(
                variant.name,
                fold,
                seed,
                _on_fold(variant.config, fold, seed),
                folder / _RUNS / slug(variant.name) / f"{slug(fold.name)}_seed{seed}",
            )
            for seed in self.seeds
            for fold in self.folds
            for variant in wanted
            if variant.random or seed == self.seeds[0]
        ]


def read_study(path: str | Path, overrides: Iterable[str] = (), *, seeds: Sequence[int] | None = None) -> Study:
    """Read a study file, and check the configuration of every variant on every fold.

    Parameters
    ----------
    path
        A YAML file; see :class:`~nh2st_graph.study.StudyFile` for its keys.
    overrides
        Changes to the base, such as ``"data.root=DIR"``, which hold for every variant that does not change the same.
    seeds
        In place of those of the file.

    Raises
    ------
    ConfigError
        If the file is missing, not YAML, or does not fit the schema; if a variant's configuration does not, naming it;
        or if two variants or two folds would share a folder.
    """
    path = Path(path)
    values = read_yaml(path)
    if seeds is not None:
        values = {**values, "seeds": list(seeds)}
    file = checked(StudyFile, values, str(path))
    base = read_base(file, path).override(overrides)
    changes = {name: flatten(given) for name, given in file.variants.items()} or _combinations(file.grid, base)
    variants = [Variant(file.base_name, {}, base), *make_variants(changes, base, str(path))]
    study = Study(path.stem, tuple(variants), _folds(file, base, str(path)), file.seeds, base)
    check_runs(study, str(path))
    return study


def make_variants(
    changes: Mapping[str, Mapping[str, Any]], base: Config, source: str, words: Words = STUDY
) -> list[Variant]:
    """Change a configuration in each of several ways.

    Raises
    ------
    ConfigError
        If what comes of it is no configuration, or a change is the study's to make.
    """
    variants = []
    for name, changed in changes.items():
        where = f"{source}: {words.variant} {name!r}"
        _check_keys(changed, where, words)
        variants.append(Variant(name, dict(changed), _changed(base, changed, where)))
    return variants


def check_runs(study: Study, source: str) -> None:
    """Refuse a study whose runs would share a folder, or have no valid configuration."""
    word = study.words.variant
    _check_slugs(f"{word}s", [variant.name for variant in study.variants], source)
    _check_slugs("folds", [fold.name for fold in study.folds], source)
    for variant, fold in itertools.product(study.variants, study.folds):
        _on_fold(variant.config, fold, study.seeds[0], f"{source}: {word} {variant.name!r} on fold {fold.name!r}")


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, which YAML would answer by dropping a variant without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = [key for i, key in enumerate(keys) if key in keys[:i]]
        if twice:
            raise yaml.YAMLError(f"key {twice[0]!r} stands twice (line {node.start_mark.line + 1} and below)")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Read the keys and values of a study file."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{path} cannot be read: {reason}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: expected keys and values at the top, found {type(values).__name__}")
    return values


def read_base(file: BaseEntry, path: Path) -> Config:
    """Read the base from a file beside the study, or by a built-in name, and apply ``set``."""
    beside = path.parent / file.base
    is_file = beside.is_file() or beside.suffix in {".yaml", ".yml"}
    try:
        base = load_config(beside) if is_file else builtin_config(file.base)
    except ConfigError as error:
        raise ConfigError(f"{path}: base: {error}") from None
    given = _assignments(flatten(file.set)) if isinstance(file.set, dict) else file.set
    try:
        return base.override(given)
    except ConfigError as error:
        raise ConfigError(f"{path}: set: {_without_option(error)}") from None


def _assignments(changes: Mapping[str, Any]) -> list[str]:
    return [f"{key}={_in_yaml(value)}" for key, value in changes.items()]


def _in_yaml(value: Any) -> str:
    """Write a value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _changed(base: Config, changes: Mapping[str, Any], source: str) -> Config:
    try:
        return base.override(_assignments(changes))
    except ConfigError as error:
        raise ConfigError(f"{source}: {_without_option(error)}") from None


def _without_option(error: ConfigError) -> str:
    """Take the name of the command line's option out of an error about keys that come from a file."""
    return re.sub(r"^--set:? ", "", str(error))


def _check_keys(changes: Mapping[str, Any], source: str, words: Words) -> None:
    """Refuse what is the whole study's to say."""
    of_all = {"seed": "seeds", "data.train": words.folds, "data.test": words.folds}
    for key in changes:
        if key in of_all:
            given = f"{of_all[key]!r} of the {words.study} give"
            raise ConfigError(f"{source} changes {key!r}, which {given}; leave it out")


def _combinations(grid: Mapping[str, list[Any]], base: Config) -> dict[str, dict[str, Any]]:
    """All combinations of a grid by a name made of their values, but for the one that is the base."""
    if not grid:
        return {}
    last = [key.rpartition(".")[2] for key in grid]
    labels = [word if last.count(word) == 1 else key for word, key in zip(last, grid, strict=True)]
    changes: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*grid.values()):
        name = ", ".join(f"{label}={_in_yaml(value)}" for label, value in zip(labels, values, strict=True))
        changes[name] = dict(zip(grid, values, strict=True))
    known = base.model_dump(mode="json")
    return {name: given for name, given in changes.items() if not _holds(known, given)}


def _holds(known: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    """Whether nested values are already what changes would make them."""
    return all(flatten(known).get(key, ...) == value for key, value in changes.items())


def _folds(file: StudyFile, base: Config, source: str) -> tuple[Fold, ...]:
    if not file.folds:
        if not base.data.test:
            raise ConfigError(f"{source}: the base's data.test is empty, so nothing can be scored; give folds")
        own = FoldEntry(train=base.data.train, test=base.data.test)
        return (Fold("+".join(own.test), own.train, own.test, own.split),)
    folds: list[Fold] = []
    for name, given in file.folds.items():
        if name == LEAVE_ONE_OUT:
            folds += _leave_one_out(given, f"{source}: folds.{name}")
        else:
            entry = checked(FoldEntry, given, f"{source}: folds.{name}")
            folds.append(Fold(name, entry.train, entry.test, entry.split))
    return tuple(folds)


def _leave_one_out(sections: Any, source: str) -> list[Fold]:
    if not isinstance(sections, list) or len(set(map(str, sections))) < max(len(sections), 2):
        raise ConfigError(f"{source} = {sections!r}; expected a list of two or more sections, each once")
    names = [str(name) for name in sections]
    return [Fold(test, tuple(name for name in names if name != test), (test,), LEAVE_ONE_OUT) for test in names]


def _on_fold(config: Config, fold: Fold, seed: int, source: str = "configuration") -> Config:
    """Complete a variant's configuration by its sections and its seed. Runs show no bars of their own."""
    values = config.model_dump(mode="json")
    values["seed"] = seed
    values["data"] |= {"train": list(fold.train), "test": list(fold.test)}
    values["train"]["progress"] = False
    return Config.parse(values, source)


def slug(name: str) -> str:
    """Turn a name into one of a folder, the same on every system: lower case, nothing but ``a-z0-9._+-``."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9.+-]+", "_", plain).strip("_.") or "unnamed"


def _check_slugs(what: str, names: list[str], source: str) -> None:
    """Refuse names that would share a folder, rather than number them: a number would move when one is added."""
    seen: dict[str, str] = {}
    for name in names:
        folder = slug(name)
        if folder in seen:
            raise ConfigError(
                f"{source}: {what} {seen[folder]!r} and {name!r} would share the folder {folder!r}; rename one"
            )
        seen[folder] = name
