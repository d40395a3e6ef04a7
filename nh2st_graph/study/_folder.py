"""The study folder: what the study began with, and the notes of each run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from nh2st_graph._errors import RunError, reason, setting
from nh2st_graph._files import check_format, check_place, is_left_over, on_disk, parse_json, stamp, write_text
from nh2st_graph.config import changes, completed_keys, current_keys, parse_yaml
from nh2st_graph.study._plan import METRICS, RECORD, Study

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "RunRecord",
    "check_folder",
    "holds_study",
    "open_folder",
    "read_metrics",
    "read_record",
    "read_rows",
    "write_record",
]

_STUDY = "study.yaml"
#: The format of study folders, which that file says.
_FORMAT = 1
_ANOTHER = f"choose another {setting('out')}"


class RunRecord(NamedTuple):
    """What a study notes of a run beside its scores. A time is None where the run was interrupted on the way.

    Attributes
    ----------
    parameters
        Number of the model's weights.
    seconds
        Duration of the run, from reading sections to figures.
    fit_seconds, predict_seconds
        Duration of the fit, and of the prediction of the test sections.
    peak_memory_mb
        Peak memory of the process with all its libraries, in 1e6 bytes.
    steps
        Optimiser steps of the longest stage; 0 for a method that fits itself.
    """

    parameters: int
    seconds: float | None = None
    fit_seconds: float | None = None
    predict_seconds: float | None = None
    peak_memory_mb: float | None = None
    steps: int = 0


def read_record(folder: Path) -> RunRecord | None:
    """Read the notes of a run; None if there are none."""
    path = folder / RECORD
    if not path.is_file():
        return None
    with _whole(path):
        return RunRecord(**parse_json(path.read_bytes()))


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read the scores of a finished run.

    Raises
    ------
    RunError
        If the file is damaged.
    """
    path = folder / METRICS
    with _whole(path):
        metrics = parse_json(path.read_bytes())
        metrics["sections"], metrics["references"], metrics["protocol"]["n_constant_train"]
        return dict(metrics)


def read_rows(path: Path, **how: Any) -> pd.DataFrame:
    """Read a table of a finished run; ``how`` as for pandas.

    Raises
    ------
    RunError
        If the file is damaged.
    """
    import pandas as pd

    with _whole(path):
        return pd.read_csv(path, **how)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is missing or damaged ({reason(error)}); remove the run folder {path.parent}, and go on with the "
            f"study: {setting('resume', True)}"
        ) from error


def write_record(folder: Path, record: RunRecord) -> None:
    """Write the notes of a run into its folder."""
    write_text(folder / RECORD, json.dumps(record._asdict()) + "\n")


def holds_study(folder: Path) -> bool:
    """Whether a folder is that of a study."""
    return (folder / _STUDY).is_file()


def check_folder(folder: str | Path, *, resume: bool) -> None:
    """Refuse a study folder that exists; with ``resume``, one that holds no study.

    Raises
    ------
    RunError
        If the folder cannot be used.
    """
    folder = Path(folder)
    check_place(folder)
    if is_left_over(folder):  # a study that was killed before it wrote a file
        return
    if resume:
        _read(folder)
    elif folder.exists():
        raise RunError(f"study folder {folder} exists already; {_ANOTHER}, or go on with {setting('resume', True)}")


def open_folder(study: Study, folder: Path, *, resume: bool) -> None:
    """Make the folder of a study, or check that it is the folder of this study.

    A study may grow between two calls (by a variant, a fold, a seed), since that leaves finished runs as they are. Any
    other change would mix results of two configurations under one name.

    Raises
    ------
    RunError
        If the folder exists; or with ``resume``, if it holds no study, or one whose runs differ.
    """
    record = _record(study)
    check_folder(folder, resume=resume)
    if is_left_over(folder):
        pass
    elif not resume:
        try:
            with on_disk(folder):
                folder.mkdir(parents=True)
        except FileExistsError:  # another process was a moment faster
            raise RunError(f"study folder {folder} exists already; {_ANOTHER}") from None
    else:
        differences = _differences(_read(folder), record)
        if differences:
            raise RunError(
                f"study folder {folder} was begun with another study ({'; '.join(differences[:3])}); "
                f"undo the change, or {_ANOTHER}"
            )
    write_text(folder / _STUDY, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))


def _record(study: Study) -> dict[str, Any]:
    """Everything that the runs of a study depend on."""
    return {
        "study": study.name,
        **stamp(_FORMAT),
        "seeds": list(study.seeds),
        "folds": {f.name: {"train": list(f.train), "test": list(f.test), "split": f.split} for f in study.folds},
        "base": study.reference,
        "variants": {v.name: v.changes for v in study.variants if v.name != study.reference},
        "config": study.config.model_dump(mode="json"),
    }


def _read(folder: Path) -> dict[str, Any]:
    path = folder / _STUDY
    if not path.is_file():
        raise RunError(f"{folder} holds no study to resume ({_STUDY} is missing); leave {setting('resume')} out")
    try:
        record = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        record = None
    if isinstance(record, dict):
        said = {key: record[key] for key in ("format", "version") if key in record}
        check_format(f"study {path}", said, _FORMAT, RunError, _ANOTHER)
    if not isinstance(record, dict) or not set(record) >= {"version", "seeds", "folds", "base", "variants", "config"}:
        raise RunError(f"{path} is damaged; {_ANOTHER}")
    return record


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """List what is gone from a study, or changed; not what was added."""
    found = [f"{key}: {before[key]} -> {after[key]}" for key in ("version", "base") if before[key] != after[key]]
    found += [f"seed {seed} is gone" for seed in before["seeds"] if seed not in after["seeds"]]
    for what in ("fold", "variant"):
        for name, given in before[f"{what}s"].items():
            now = after[f"{what}s"].get(name)
            changed = ["is gone"] if now is None else changes(current_keys(given), current_keys(now))
            found += [f"{what} {name!r}{':' * (now is not None)} {change}" for change in changed]
    return found + changes(completed_keys(before["config"]), after["config"])
