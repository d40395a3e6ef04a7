"""Run a configuration, and write model, scores, predictions and figures into a folder."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from anndata import AnnData

from nh2st_graph import read
from nh2st_graph._errors import ConfigError, DataError, RunError, nearest, setting
from nh2st_graph._files import is_left_over, on_disk, owned, write_text
from nh2st_graph._progress import phase
from nh2st_graph._settings import CONFIG_FILE
from nh2st_graph.config import Config, stored_yaml
from nh2st_graph.section import Key, Need, section_digest
from nh2st_graph.tl._encode import encode_on
from nh2st_graph.tl._evaluate import Evaluation, evaluate, evaluate_prepared
from nh2st_graph.tl._figures import write_figures
from nh2st_graph.tl._folder import (
    absolute,
    check_begun,
    check_data_there,
    is_first,
    refuse_existing_sections,
    stored_config,
    without_test,
)
from nh2st_graph.tl._found import findings
from nh2st_graph.tl._named import check_root
from nh2st_graph.tl._predict_run import load_to_predict
from nh2st_graph.tl._report import evidence_table, write_report
from nh2st_graph.train import (
    FittedModel,
    Learned,
    Preparation,
    Processes,
    Standardizer,
    check_precision,
    fit_prepared,
    start_processes,
    use_threads,
)
from nh2st_graph.train._memory import give_back

__all__ = ["Run", "evaluate_run", "load_sections", "prepare_sections", "train_run"]

_METRICS = "metrics.json"
_PER_GENE = "metrics_per_gene.csv"
_PREDICTIONS = "predictions"
_FIGURES = "figures"
_REPORT, _GENES = "report.html", "genes.csv"
_TISSUE = "tissue"

#: What errors call the training and test sections of a configuration.
_TRAIN = setting("data.train", argument="train_sections")
_TEST = setting("data.test", argument="test_sections")


@dataclass
class Run:
    """A run: its folder, its model, and its scores if there was a test section.

    Attributes
    ----------
    fit_seconds
        Seconds of fitting, without computing features; None if the run was only evaluated.
    """

    folder: Path
    model: FittedModel
    evaluation: Evaluation | None
    fit_seconds: float | None = None

    def outputs(self) -> list[Path]:
        """List the files and folders that a user opens, as far as they exist."""
        names = (_REPORT, "model.safetensors", "log.csv", _METRICS, _PER_GENE, _GENES, _PREDICTIONS, _FIGURES)
        return [self.folder / name for name in names if (self.folder / name).exists()]

    @property
    def report(self) -> Path:
        """The page that shows everything."""
        return self.folder / _REPORT

    def findings(self) -> list[str]:
        """Say in plain words which genes can be read from which slides; sentences without a full stop."""
        return findings(self.model, self.evaluation)


def load_sections(config: Config, folder: str | Path | None = None) -> dict[str, AnnData]:
    """Read the sections that a configuration names.

    Parameters
    ----------
    config
        A configuration with ``data.format``, ``data.root``, ``data.options``, and the names in ``data.train`` and
        ``data.test``. Without ``data.train``, all sections are read.
    folder
        Folder for the images of synthetic tissue; needed for ``data.format: synthetic`` only.

    Returns
    -------
    Sections by name.

    Raises
    ------
    ConfigError
        If ``data.root`` is not set, or the format's reader does not have an option.
    DataError, ImageError
        If a section is unknown or breaks the contract.
    """
    data = config.data
    phase("reading sections" if data.format != "synthetic" else "making synthetic tissue")
    check_root(config)
    if data.format == "synthetic":
        return _synthetic(config, folder)
    assert data.root is not None
    wanted = [*data.train, *data.test] if data.train else None
    return read.sections(data.format, data.root, wanted, **read.check_options(data.format, data.options))


def _synthetic(config: Config, folder: str | Path | None) -> dict[str, AnnData]:
    from nh2st_graph.datasets import synthetic_tissue

    if folder is None:
        raise ConfigError(f"{setting('data.format', 'synthetic')} needs a folder for its images; give one")
    options = config.data.synthetic.model_dump()
    return synthetic_tissue(folder=folder, **options)


def _split(config: Config, sections: Mapping[str, AnnData]) -> tuple[dict[str, AnnData], dict[str, AnnData]]:
    """Split sections into training and test sections; without ``data.train``, the rest is trained on."""
    for key, names in ((_TRAIN, config.data.train), (_TEST, config.data.test)):
        for name in names:
            if name not in sections:
                raise DataError(f"{key}: there is no section {name!r}; {nearest(name, sections)}")
    test = {name: sections[name] for name in config.data.test}
    train = {name: sections[name] for name in config.data.train or [n for n in sections if n not in test]}
    if not train:
        raise DataError(f"no section is left to train on; {_TEST} names all of them: take some out")
    return train, test


def train_run(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    sections: Mapping[str, AnnData] | None = None,
    scheduler: str | None = None,
) -> Run:
    """Train on sections, score on others, and write everything into a folder.

    Parameters
    ----------
    config
        The configuration.
    out
        The run folder; must not exist, unless ``resume``.
    resume
        Go on with an interrupted run of the same configuration.
    sections
        The sections, if :func:`load_sections` has read them already; they do not change.
    scheduler
        Address of a Dask scheduler, or its file: its workers compute the features, a section each; see
        :func:`encode_on`.

    Returns
    -------
    The run. ``out`` holds ``config.yaml``, ``model.safetensors`` and ``model.json``, ``checkpoints/``, ``log.csv`` and
    ``tensorboard/``; ``genes.csv``, what held-out training data say of each gene; and ``report.html``, which says all
    of it in one page. If ``data.test`` names a section, it also holds ``metrics.json``, ``metrics_per_gene.csv``,
    ``predictions/{section}.h5ad`` and ``figures/``.

    Raises
    ------
    RunError
        If the folder exists, or another process works in it; or with ``resume``, if the folder has no run, another
        configuration, or a run on other data.
    ConfigError, DataError, ImageError
        If configuration or sections cannot be used. This shows before training.
    ModelError
        If the loss is not finite at some step of training.
    """
    out, config = Path(out), absolute(config)
    if is_first(config.train):
        check_begun(config, out, resume=resume)
    processes = start_processes(config.train)
    if not processes.main:
        return _join_run(config, out, processes, resume, sections)
    removed = nullcontext() if resume else _removed_on_bad_input(out)
    with on_disk(out), removed, owned(out, "run folder"), use_threads(config.train.n_threads):
        check_begun(config, out, resume=resume)  # again, now that no other process writes into it
        write_text(out / CONFIG_FILE, stored_yaml(config))
        loaded = load_sections(config, out / _TISSUE) if sections is None else sections
        with processes.main_first():
            if scheduler is not None:
                encode_on(scheduler, config)
            prepared = _prepare(config, loaded, checked=sections is None)
        give_back()
        phase("training")
        start = time.perf_counter()
        model = fit_prepared(prepared, out=out, resume=resume)
        seconds = time.perf_counter() - start
        phase("scoring")
        model.save(out)
        evaluation = evaluate_prepared(model, prepared.tests, prepared.train) if prepared.tests else None
        _write(model, evaluation, out)
    return Run(out, model, evaluation, seconds)


def _join_run(
    config: Config, out: Path, processes: Processes, resume: bool, sections: Mapping[str, AnnData] | None
) -> Run:
    """Train with the first process, which writes the run; features are in its cache by then."""
    with use_threads(config.train.n_threads):
        with tempfile.TemporaryDirectory() as folder, processes.main_first():
            loaded = load_sections(config, folder) if sections is None else sections
            prepared = _prepare(config, loaded, checked=sections is None)
        return Run(out, fit_prepared(prepared, out=out, resume=resume), None)


def _prepare(config: Config, sections: Mapping[str, AnnData], *, checked: bool) -> Learned:
    """Prepare training and test sections, so that bad input shows before training; a reader has ``checked`` its own."""
    check_precision(config.train)
    train, test = _split(config, sections)
    for name, section in test.items():
        if section.n_obs == 1:
            raise DataError(f"section {name!r}: one spot alone cannot be scored; choose another in {_TEST}")
    give_back()
    phase("computing image features and graphs")
    need: tuple[Need, ...] = ("genes", "image")
    prepared = Preparation.learn(config, train, test, need=need, test_need=need, checked=checked)
    for each in prepared.tests:
        each.observed  # noqa: B018 - raises now if the section cannot be scored, rather than after training
    return prepared


def evaluate_run(
    folder: str | Path,
    *,
    progress: bool = True,
    trust: bool = False,
    encoder: str | None = None,
    cache: str | Path | Literal[False] | None = None,
    embeddings: str | Path | None = None,
) -> Run:
    """Score a run again: read its sections, predict, and rewrite scores, predictions and figures.

    A warning names sections that are not as they were in training.

    Parameters
    ----------
    folder
        The run.
    progress
        Show a progress bar on a terminal, whatever the setting of the run.
    trust, encoder, cache, embeddings
        As for :func:`nh2st_graph.load`.

    Raises
    ------
    RunError
        If the folder is not a run, or the run has no test section, or another process works in it.
    ModelError
        If the model cannot be loaded, or needs your word.
    """
    folder = Path(folder)
    model = load_to_predict(folder, progress, trust=trust, encoder=encoder, cache=cache, embeddings=embeddings)
    config = stored_config(folder, trust)
    if not config.data.test:
        raise without_test(folder)
    if config.data.root is not None:
        check_data_there(folder, config.data.root)
    with on_disk(folder), owned(folder, "run folder"):
        train, test = _split(config, load_sections(config, folder / _TISSUE))
        phase("computing image features, predicting and scoring")
        evaluation = evaluate(test, model, train)
        _write(model, evaluation, folder)
    return Run(folder, model, evaluation)


def prepare_sections(
    config: Config, out: str | Path, *, resume: bool = False, scheduler: str | None = None
) -> list[Path]:
    """Read sections, compute their features and graph, and write them as h5ad.

    Parameters
    ----------
    config
        The configuration.
    out
        Folder of the files.
    resume
        Go on after an interruption, and keep the files that exist, if they hold the same sections and features.
    scheduler
        Address of a Dask scheduler, or its file: its workers compute the features, a section each; see
        :func:`encode_on`.

    Returns
    -------
    Paths of ``out/{section}.h5ad``, which ``data.format: h5ad`` reads.

    Raises
    ------
    RunError
        If one of the files exists, or with ``resume`` holds something else; or if another process writes into the
        folder.
    ConfigError
        If features need a stain reference, which is fitted in training.
    """
    out, config = Path(out), absolute(config)
    if config.features.stain != "none":
        raise ConfigError(
            f"{setting('features.stain', config.features.stain)} has no reference before training, which fits it on "
            f"the training sections and computes the features; prepare with {setting('features.stain', 'none')}"
        )
    made = nullcontext() if out.exists() else _removed_on_bad_input(out)
    with on_disk(out), made, owned(out, "folder"):
        sections = load_sections(config, out / _TISSUE)
        paths = {name: out / f"{name}.h5ad" for name in sections}
        if not resume:
            refuse_existing_sections(paths.values())
        if scheduler is not None:
            encode_on(scheduler, config)
        phase("computing image features and graphs")
        preparation = Preparation.of(config, [], Standardizer())
        prepared = {name: preparation.prepare(preparation.kept(section)) for name, section in sections.items()}
        # Only now, so that an error in one section leaves no file.
        there = [name for name, path in paths.items() if path.exists()]
        for name in there:
            _check_prepared(paths[name], prepared[name].section)
        for name, each in prepared.items():
            if name not in there:
                read.write_h5ad(each.section, paths[name])
    return list(paths.values())


def _check_prepared(path: Path, section: AnnData) -> None:
    """Refuse to keep a file that does not hold this section with these features and this graph."""
    kept = read.h5ad_section(path)
    image, graph = Key.obsm.image, Key.obsp.connectivities
    if (
        section_digest(kept) != section_digest(section)
        or not np.array_equal(kept.obsm.get(image, ()), section.obsm[image])
        or graph not in kept.obsp
        or abs(kept.obsp[graph] - section.obsp[graph]).nnz
    ):
        raise RunError(
            f"{path} holds another section, or other features or graph, and would be kept; give another "
            f"folder as {setting('out')}, or remove it"
        )


@contextmanager
def _removed_on_bad_input(folder: Path) -> Iterator[None]:
    """Make a new folder, and remove it again if the input cannot be used."""
    made = [folder, *(parent for parent in folder.parents if not parent.exists())]
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        if not is_left_over(folder):  # another process was a moment faster
            raise RunError(f"run folder {folder} exists already; give another as {setting('out')}") from None
    try:
        yield
    except (ConfigError, DataError):
        shutil.rmtree(folder)
        for parent in made[1:]:
            if any(parent.iterdir()):
                break
            parent.rmdir()
        raise


def _write(model: FittedModel, evaluation: Evaluation | None, out: Path) -> None:
    """Write predictions, figures, report and scores into the run folder."""
    figures = model.config.evaluate.figures
    if figures:
        phase("drawing figures")
    if evaluation is not None:
        for name, prediction in evaluation.predictions.items():
            read.write_h5ad(prediction, out / _PREDICTIONS / f"{name}.h5ad")
        if figures:
            write_figures(model, evaluation, out / _FIGURES)
        write_text(out / _PER_GENE, evaluation.per_gene.to_csv(float_format="%.6g"))
    if model.confidence is not None:
        write_text(out / _GENES, evidence_table(model.confidence).to_csv(float_format="%.6g"))
    write_report(model, evaluation, out / _REPORT, figures=figures)
    if evaluation is not None:
        # Written last: a run with metrics.json is complete.
        write_text(out / _METRICS, json.dumps(evaluation.metrics, indent=1, allow_nan=False) + "\n")
