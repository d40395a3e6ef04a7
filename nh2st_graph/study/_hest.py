"""A task of HEST-Benchmark as a study: its genes, its folds with patients corrected, and what is wrong with samples."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nh2st_graph._errors import DataError, listed, setting
from nh2st_graph.config import Config
from nh2st_graph.study._plan import Fold

if TYPE_CHECKING:
    from anndata import AnnData

    from nh2st_graph.read import PublishedSplit

__all__ = ["completed", "corrected_folds", "is_task", "read_task", "task_name"]

logger = logging.getLogger("nh2st_graph")

_FORMAT = "hest_bench"
#: A fold of up to this number of test samples is named by all of them.
_NAMED = 3


def is_task(config: Config) -> bool:
    """Whether a configuration reads a task of HEST-Benchmark."""
    return config.data.format == _FORMAT and config.data.root is not None


def task_name(config: Config) -> str:
    """Name the task by its folder, such as ``IDC``."""
    assert config.data.root is not None
    return config.data.root.resolve().name


def completed(config: Config) -> Config:
    """Complete a configuration by what a task brings, if it reads one.

    A panel that is named without a folder is that of the task. With embeddings, images are not read: positions in files
    of embeddings are in pixels of the slide.

    Raises
    ------
    DataError
        If the panel is the benchmark's own file, and is not there.
    """
    if not is_task(config):
        return config
    from nh2st_graph.read import HEST_GENES, published_splits  # here: they load pandas, and other studies need it not

    root = config.data.root
    assert root is not None
    if config.features.embeddings is not None:
        config = config.change({"data.options": {"with_image": False, **config.data.options}})
    panel = Path(config.data.panel)
    inside = root / panel
    if inside.is_file() and panel.name == config.data.panel:
        return config.change({"data.panel": str(inside)})
    if panel.is_absolute() or panel.is_file():
        return config
    if config.data.panel == HEST_GENES:
        published_splits(root)  # says first what else is missing
        raise DataError(
            f"{root} has no {HEST_GENES}, the genes of the task; download it, or give genes of your own as "
            f"{setting('data.panel')}"
        )
    return config


def corrected_folds(config: Config) -> tuple[Fold, ...]:
    """Make the folds of a task: those that are published, with patients corrected and copies left out.

    A published test group that holds a sample whose patient is known to be wrong is split by patient. A sample whose
    patient is tested is not trained on, and of two samples with the same counts the second is left out. What differs
    from the published folds is logged.

    Raises
    ------
    DataError
        If the folder is not complete, or no fold is left.
    """
    from nh2st_graph.datasets import patients_of
    from nh2st_graph.read import KNOWN_SAMPLES, known_errors, published_splits

    assert config.data.root is not None
    splits, sections = published_splits(config.data.root), read_task(config, with_image=False)
    patients = patients_of(sections)
    for sentence in known_errors(sections, corrected=True):
        logger.warning("%s: %s", task_name(config), sentence)
    copies = _copies(sections)
    for name, first in copies.items():
        logger.warning(
            "%s: sample %s has the same counts as %s; it is left out of the corrected folds",
            task_name(config),
            name,
            first,
        )
    folds = []
    for split in splits:
        known = [name for name in split.test if (each := KNOWN_SAMPLES.get(name)) and each.patient]
        kept = [name for name in split.test if name not in copies]
        groups: dict[str, list[str]] = {}
        for name in kept:
            groups.setdefault(patients[name] if known else "", []).append(name)
        folds += [_fold(test, split, patients, copies, task_name(config)) for test in groups.values()]
    if not folds:
        raise DataError(f"{config.data.root}: no fold is left, since all test samples are copies; check the splits")
    if {_parts(each) for each in splits} != {_parts(each) for each in folds}:
        logger.warning(
            "%s: the repaired protocol and ours have %d folds with patients corrected, in place of the %d published",
            task_name(config),
            len(folds),
            len(splits),
        )
    return tuple(folds)


def _fold(
    test: Sequence[str], split: PublishedSplit, patients: Mapping[str, str], copies: Mapping[str, str], task: str
) -> Fold:
    tested = {patients[name] for name in test}
    others = [name for name in dict.fromkeys([*split.train, *split.test]) if name not in test and name not in copies]
    train = tuple(name for name in others if patients[name] not in tested)
    if not train:
        raise DataError(
            f"{task}: no sample is left to train on where {listed(test)} are tested: all are of the same patient; "
            "name the patients in ids.csv (sample_id,patient) beside adata"
        )
    name = "+".join(test) if len(test) <= _NAMED else f"{test[0]} and {len(test) - 1} more"
    return Fold(name, train, tuple(test), task)


def _parts(fold: PublishedSplit | Fold) -> tuple[frozenset[str], frozenset[str]]:
    return frozenset(fold.train), frozenset(fold.test)


def _copies(sections: Mapping[str, AnnData]) -> dict[str, str]:
    """Find samples with the counts of an earlier one, whatever their names are."""
    from nh2st_graph.read import KNOWN_SAMPLES
    from nh2st_graph.section import section_digest

    first: dict[str, str] = {}
    copies = {}
    for name, section in sections.items():
        known = KNOWN_SAMPLES.get(name)
        if known and known.same_as in sections:
            copies[name] = str(known.same_as)
            continue
        earlier = first.setdefault(section_digest(section)["counts"], name)
        if earlier != name:
            copies[name] = earlier
    return copies


def read_task(config: Config, **options: bool) -> dict[str, AnnData]:
    """Read all samples that the published folds name; ``options`` are those of the reader."""
    from nh2st_graph.read import check_options, published_splits, sections

    data = config.data
    assert data.root is not None
    names = {name: None for split in published_splits(data.root) for name in (*split.train, *split.test)}
    return sections(data.format, data.root, list(names), **check_options(data.format, data.options) | options)
