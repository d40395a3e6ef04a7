"""Study files: their keys, and the study that they describe."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AliasChoices, Field, field_validator, model_validator

from nh2st_graph._errors import ConfigError, nearest
from nh2st_graph._progress import phase
from nh2st_graph.config import (
    Config,
    ModelConfig,
    builtin_config,
    flatten,
    in_keys,
    other_keys,
    read_config,
    read_yaml,
)
from nh2st_graph.models import check_encoder, check_settings
from nh2st_graph.study._folds import read_folds
from nh2st_graph.study._hest import completed
from nh2st_graph.study._parts import Part, checked, expected
from nh2st_graph.study._plan import Study, Variant, check_only, check_runs

__all__ = ["BenchmarkFile", "StudyFile", "read_benchmark", "read_study"]

#: What every run of a benchmark leaves: no baselines beside each, since they are methods of their own, and no
#: figures of each, which would take longer than the training. ``set`` may change it.
_SCORED = {"evaluate": {"baselines": False, "downstream": True, "figures": False}}
#: Keys that the study itself sets, and the key of the study file that gives them.
_OF_ALL = {"seed": "seeds", "data.train": "folds", "data.test": "folds"}

_VARIANTS = "what each variant changes, by its name; or a file that holds this; or a list of such files"


class BenchmarkFile(Part):
    """A benchmark as it is written in YAML.

    Attributes
    ----------
    base
        The configuration that all runs share: a file beside the study file, or the name of one that ships with the
        package, such as ``demo``.
    set
        Changes to the base: ``{model.width: 32}`` or ``["model.width=32"]``.
    seeds
        Every variant runs once with each.
    variants
        Or ``methods``. What each changes in the base, by its name: ``{ridge: {model.name: ridge}}``. Or a file beside
        the study file that holds these; or several files, of which a later one adds variants, and keys to those of an
        earlier one.
    grid
        In place of ``variants``: values by key. All combinations run, except the base itself.
    skip
        Names of variants to leave out.
    folds
        Or ``splits``. A :class:`FoldEntry` by name, or a list of them; ``leave_one_section_out: [S1, S2]`` stands for
        one fold a section. Means are taken over the folds of a split, never across splits. Without this key the data
        decide: one patient is left out at a time where the data name two or more, otherwise one section.
    """

    base: str
    set: dict[str, Any] | list[str] = Field({})
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    variants: dict[str, Any] | str | list[str] = Field({}, validation_alias=AliasChoices("variants", "methods"))
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field({})
    skip: tuple[str, ...] = ()
    folds: dict[str, Any] = Field({}, validation_alias=AliasChoices("folds", "splits"))

    _kinds = field_validator("set", "variants", mode="wrap")(
        expected(set="keys and values, or a list of KEY=VALUE", variants=_VARIANTS)
    )

    @model_validator(mode="before")
    @classmethod
    def _check_aliases(cls, values: Any) -> Any:
        for names in (("variants", "methods"), ("folds", "splits")):
            if all(name in values for name in names):
                raise ValueError(f"{names[1]} is another name of {names[0]}, and both are given; give one of them")
        return values

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len({*seeds}) < len(seeds):
            raise ValueError(f"seeds = {list(seeds)}; expected one or more, each once")
        return seeds

    @field_validator("folds", mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        """Name the folds of a list by the sections that they test."""
        if not isinstance(given, list):
            return given or {}
        named = {"+".join(map(str, fold.get("test", ()))) if isinstance(fold, dict) else "": fold for fold in given}
        if len(named) < len(given):
            raise ValueError("folds: two of the list test the same sections; give each a name: folds: {NAME: ...}")
        return named

    @model_validator(mode="after")
    def _check_grid(self) -> BenchmarkFile:
        if self.variants and self.grid:
            raise ValueError("variants and grid are both given; give one of them")
        return self


class StudyFile(BenchmarkFile):
    """An ablation study as it is written in YAML: the base is what the variants are compared with.

    The other keys are those of :class:`BenchmarkFile`. Without ``folds``, the base's own ``data.train`` and
    ``data.test`` are the one fold.

    Attributes
    ----------
    base_name
        The name of the base in tables.
    """

    base_name: str = "base"


def read_study(
    path: str | Path,
    overrides: Iterable[str] = (),
    *,
    seeds: Sequence[int] | None = None,
    only: Iterable[str] = (),
) -> Study:
    """Read a file of variants that are compared with the base, and check their configurations on every fold.

    Parameters
    ----------
    path
        A YAML file; see :class:`StudyFile` for its keys.
    overrides
        Changes to the base, such as ``"data.root=DIR"``. They hold for every variant that does not change the same key.
    seeds
        Seeds to use in place of those of the file.
    only
        Names of variants that will run. An unknown one is refused now; the study holds the others too.

    Raises
    ------
    ConfigError
        If the file is missing, not YAML, or does not fit the schema; if the configuration of a variant is not valid; if
        ``only`` names no variant; or if two variants or two folds would share a folder.
    DataError
        If folds depend on the patients of the data, and the data cannot be read or split, or do not name the patient of
        each section.
    """
    return _read(path, overrides, seeds, only, StudyFile)


def read_benchmark(
    path: str | Path,
    overrides: Iterable[str] = (),
    *,
    seeds: Sequence[int] | None = None,
    only: Iterable[str] = (),
) -> Study:
    """Read a file of methods that are ranked, and compared with the best baseline among them.

    Parameters and errors are those of :func:`read_study`. A method without anything random runs with the first seed
    only. See :class:`BenchmarkFile` for the keys of the file.
    """
    return _read(path, overrides, seeds, only, BenchmarkFile)


def _read(
    path: str | Path,
    overrides: Iterable[str],
    seeds: Sequence[int] | None,
    only: Iterable[str],
    schema: type[BenchmarkFile],
) -> Study:
    path = Path(path)
    values = {**read_yaml(path), **({} if seeds is None else {"seeds": list(seeds)})}
    of_one_run = [key for key in values if key in Config.model_fields]
    if of_one_run and "base" not in values:
        raise ConfigError(
            f"{path} is the configuration of one run ({', '.join(map(repr, of_one_run))}), not a study; give it to "
            "'nh2st-graph train', or name it in a study file: base: FILE"
        )
    file = checked(schema, values, str(path))
    reference = file.base_name if isinstance(file, StudyFile) else None
    base = completed(_base(file, path, _SCORED if reference is None else {}).override(overrides))
    given = _changes(file, path, base)
    check_only(only, [*([reference] if reference is not None else []), *given], path.stem, ranked=reference is None)
    _check_early(base, given, path, reference)
    from nh2st_graph import tl

    phase("loading PyTorch and other libraries")  # settings of other methods stand beside their networks
    variants = [] if reference is None else [Variant(reference, {}, tl.explicit(base), "base")]
    for name, changes in given.items():
        source = f"{path}: variant {name!r}"
        variant = Variant(name, changes, tl.explicit(base.change(changes, source)))
        variants.append(_as_method(variant) if reference is None else variant)
    if not variants:
        raise ConfigError(f"{path}: there are no methods; name at least one, such as ridge: {{model.name: ridge}}")
    key = "splits" if "splits" in values else "folds"
    folds = read_folds(file.folds, base, f"{path}: {key}", ranked=reference is None)
    study = Study(path.stem, tuple(variants), folds, file.seeds, tl.explicit(base), reference)
    check_runs(study, str(path))
    return study


def _check_early(base: Config, given: Mapping[str, Mapping[str, Any]], path: Path, reference: str | None) -> None:
    """Refuse what the names in the configurations rule out, before settings of other methods load torch."""
    from nh2st_graph import tl

    of_base = flatten(base.model_dump(mode="json"))
    plain = base.model_copy(update={"model": ModelConfig()})
    for name, changes in {**({} if reference is None else {reference: {}}), **given}.items():
        source = f"{path}: variant {name!r}"
        for key in _OF_ALL.keys() & changes:
            raise ConfigError(f"{source} changes {key!r}, which {_OF_ALL[key]!r} of the study give; leave it out")
        # Another method has its own settings, and none of the base's.
        kept = {key: of_base[key] for key in of_base if "model.name" not in changes or not key.startswith("model.")}
        if "features.encoder" in changes:
            kept.pop("features.encoders", None)
        with _within(source):
            check_encoder({**kept, **changes})
            check_settings({**kept, **changes}, other_keys())
        others = {key: value for key, value in changes.items() if key.partition(".")[0] != "model"}
        config = plain.change(others, source)
        with _within(source):
            tl.check_devices(config)


def _as_method(variant: Variant) -> Variant:
    """Add the role in a benchmark, and whether anything is random: a network is, and an estimator that says so."""
    from nh2st_graph.models import Estimator, find_method

    method = find_method(variant.config.model.name)
    if not issubclass(method, Estimator):
        return replace(variant, role="method", random=True)
    return replace(variant, role="baseline" if method.baseline else "method", random=method.random)


@contextmanager
def _within(source: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise in_keys(f"{source}: {error.args[0]}") from None


def _base(file: BenchmarkFile, path: Path, scored: Mapping[str, Any]) -> Config:
    """Read the base from a file beside the study, or by a built-in name, and apply what is scored, then ``set``."""
    beside = path.parent / file.base
    with _within(f"{path}: base"):
        is_file = beside.is_file() or beside.suffix in {".yaml", ".yml"}
        base = read_config(beside) if is_file else builtin_config(file.base)
    base = base.change(scored)
    source = f"{path}: set"
    return base.change(file.set, source) if isinstance(file.set, dict) else base.override(file.set, source)


def _changes(file: BenchmarkFile, path: Path, base: Config) -> dict[str, dict[str, Any]]:
    """Changes of each variant, by dotted key."""
    merged = _combinations(file.grid, base)
    for part in [file.variants] if isinstance(file.variants, str | dict) else file.variants:
        source = str(path.parent / part) if isinstance(part, str) else f"{path}: variants"
        with _within(f"{path}: variants"):
            values = read_yaml(path.parent / part) if isinstance(part, str) else part
        for name, changes in values.items():
            if not isinstance(changes, Mapping | None):
                raise ConfigError(
                    f"{source}: {name} = {changes!r}; expected the keys that it changes, such as {{model.name: ridge}}"
                )
            with _within(f"{source}: {name}"):
                merged[str(name)] = merged.get(str(name), {}) | flatten(changes or {})
    for name in file.skip:
        if name not in merged:
            raise ConfigError(f"{path}: skip names {name!r}; {nearest(name, merged)}")
    return {name: changes for name, changes in merged.items() if name not in file.skip}


def _combinations(grid: Mapping[str, list[Any]], base: Config) -> dict[str, dict[str, Any]]:
    """All combinations of a grid, except the base itself, each by a name made of its values."""
    known = flatten(base.model_dump(mode="json"))
    # YAML's `on` is text until a field wants true or false.
    grid = {
        key: [_as_bool(x) for x in values] if isinstance(known.get(key), bool) else values
        for key, values in grid.items()
    }
    last = [key.rpartition(".")[2] for key in grid]
    labels = [word if last.count(word) == 1 else key for word, key in zip(last, grid, strict=True)]
    changes: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*grid.values()):
        name = ", ".join(f"{label}={_in_one_line(value)}" for label, value in zip(labels, values, strict=True))
        changes[name] = dict(zip(grid, values, strict=True))
    return {name: given for name, given in changes.items() if any(known.get(key, ...) != x for key, x in given.items())}


def _as_bool(value: Any) -> Any:
    return {"on": True, "yes": True, "off": False, "no": False}.get(str(value).lower(), value)


def _in_one_line(value: Any) -> str:
    """Write a value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
