"""The study folder: what a study was begun with, and what each of its runs left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nh2st_graph._atomic import write_text
from nh2st_graph._errors import RunError
from nh2st_graph._version import __version__
from nh2st_graph.config import changes
from nh2st_graph.study._plan import Study

__all__ = ["RunRecord", "is_finished", "open_folder", "read_record", "write_record"]

_STUDY = "study.yaml"
_RECORD = "study.json"
_METRICS = "metrics.json"


class RunRecord(NamedTuple):
    """What a study notes of a run beside its scores.

    Attributes
    ----------
    parameters
        Number of the model's weights.
    seconds
        How long the run took, from reading sections to figures.
    fit_seconds, predict_seconds
        How long fitting took, and predicting the test sections.
    peak_memory_mb
        Most memory that its process had, with all its libraries, in 1e6 bytes.
    steps
        Steps of the optimiser in the longest of its stages; 0 for a method that fits itself.

    What was measured is None where the run was interrupted on the way.
    """

    parameters: int
    seconds: float | None = None
    fit_seconds: float | None = None
    predict_seconds: float | None = None
    peak_memory_mb: float | None = None
    steps: int = 0


def read_record(folder: Path) -> RunRecord | None:
    """Read what was noted of a run; None where nothing was."""
    path = folder / _RECORD
    return RunRecord(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def write_record(folder: Path, record: RunRecord) -> None:
    """Note it in the run folder."""
    write_text(folder / _RECORD, json.dumps(record._asdict()) + "\n")


def is_finished(folder: Path) -> bool:
    """Whether a run is complete: scored, and noted."""
    return (folder / _METRICS).is_file() and (folder / _RECORD).is_file()


def open_folder(study: Study, folder: Path, *, resume: bool) -> None:
    """Make the folder of a study, or see that it is this study's.

    What a study asks for may grow between two calls (a variant, a fold, a seed), since that leaves the runs that are
    there as they were. Anything else would mix results of two configurations under one name.

    Raises
    ------
    RunError
        If the folder exists, or with ``resume`` holds no study or one whose runs differ.
    """
    record, word = _record(study), study.words.study
    if not resume:
        if folder.exists():
            raise RunError(f"{word} folder {folder} exists already; choose another with --out, or go on by --resume")
        folder.mkdir(parents=True)
    else:
        before = _read(folder, word)
        differences = _differences(before, record, study.words.variant)
        if differences:
            raise RunError(
                f"{word} folder {folder} was begun with another {word} ({'; '.join(differences[:3])}); "
                "undo the change, or choose another folder with --out"
            )
    write_text(folder / _STUDY, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))


def _record(study: Study) -> dict[str, Any]:
    """All that the runs of a study depend on."""
    return {
        "study": study.name,
        "version": __version__,
        "seeds": list(study.seeds),
        "folds": {f.name: {"train": list(f.train), "test": list(f.test), "split": f.split} for f in study.folds},
        "base": study.base.name if study.has_base else None,
        "variants": {v.name: v.changes for v in study.variants if not (study.has_base and v is study.base)},
        "config": study.config.model_dump(mode="json"),
    }


def _read(folder: Path, word: str) -> dict[str, Any]:
    path = folder / _STUDY
    if not path.is_file():
        raise RunError(f"{folder} holds no {word} to resume ({_STUDY} is missing); leave --resume out")
    try:
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        record = None
    if not isinstance(record, dict) or not set(record) >= {"version", "seeds", "folds", "base", "variants", "config"}:
        raise RunError(f"{path} is damaged; choose another folder with --out")
    return record


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], word: str) -> list[str]:
    """What is gone from a study, or changed; not what was added."""
    found = [f"{key}: {before[key]} -> {after[key]}" for key in ("version", "base") if before[key] != after[key]]
    found += [f"seed {seed} is gone" for seed in before["seeds"] if seed not in after["seeds"]]
    for what, key in (("fold", "folds"), (word, "variants")):
        for name, given in before[key].items():
            if name not in after[key]:
                found.append(f"{what} {name!r} is gone")
            else:
                found += [f"{what} {name!r}: {change}" for change in changes(given, after[key][name])]
    return found + changes(before["config"], after["config"])
