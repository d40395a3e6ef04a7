"""Train in stages: folds choose the number of epochs, then the model learns from all training sections."""

from __future__ import annotations

import copy
import io
import json
import logging
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from rich.progress import TextColumn
from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph._errors import DataError, RunError, setting
from nh2st_graph._files import make_folder, on_disk, owned, write_text
from nh2st_graph._progress import bars
from nh2st_graph.confidence import HeldOut
from nh2st_graph.config import Config, TrainConfig
from nh2st_graph.metrics import best_predicted, highest_expressed, pearson
from nh2st_graph.models import Estimator, Network, check_device, find_method
from nh2st_graph.nn import PatchEncoder, blocks_of
from nh2st_graph.section import Key, say_same_sections
from nh2st_graph.train._checkpoints import (
    LAST,
    Kept,
    WholeCheckpoints,
    averaged_weights,
    own_names,
    read_kept,
    set_aside,
)
from nh2st_graph.train._encoder import patch_encoder
from nh2st_graph.train._familiar import learn_familiarity
from nh2st_graph.train._folds import Fold, each_fold
from nh2st_graph.train._held_out import (
    Tested,
    held_out,
    known_parts,
    named_in,
    say_rarely_detected,
    tested_networks,
    weigh,
)
from nh2st_graph.train._imputation import learn_imputation
from nh2st_graph.train._keep import Keep
from nh2st_graph.train._large import dense_graph, held_out_sample, scored
from nh2st_graph.train._lattice import training_lattice
from nh2st_graph.train._memory import give_back
from nh2st_graph.train._model import FittedModel, new_network
from nh2st_graph.train._module import (
    Averaging,
    EpochLog,
    EpochProgress,
    SectionData,
    StopEarly,
    TrainingModule,
    columns_of,
    log_columns,
    read_rows,
    stage_rows,
    write_rows,
)
from nh2st_graph.train._origin import mismatches, origin_of
from nh2st_graph.train._prepare import Learned, Preparation, PreparedSection, image_only
from nh2st_graph.train._processes import Processes, quiet_lightning, start_processes
from nh2st_graph.train._threads import one_thread

__all__ = ["check_precision", "fit_prepared"]

logger = logging.getLogger("nh2st_graph")

#: File that says that a stage is over.
_DONE = "done.json"


def fit_prepared(prepared: Learned, *, out: str | Path | None = None, resume: bool = False) -> FittedModel:
    """Train the method of a configuration on prepared sections; see :func:`nh2st_graph.tl.fit`."""
    inputs, config = _inputs(prepared), prepared.preparation.config
    method = find_method(config.model.name)
    processes = start_processes(config.train)
    with ExitStack() as stack:
        folder = Path(out) if out is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if processes.main:
            stack.enter_context(on_disk(folder))
            make_folder(folder)
            stack.enter_context(owned(folder, "folder"))
        if not config.features.finetune:
            stack.enter_context(one_thread())
        stack.enter_context(_settings_restored())
        stack.enter_context(quiet_lightning())
        if processes.main:
            say_rarely_detected(inputs.preparation.genes, inputs.graphs, config.data.panel)
        if issubclass(method, Estimator):
            learned = _fit_estimator(method, inputs, config)
        else:
            learned = _Stages(inputs, config, folder, resume, out is not None, processes).run()
    give_back()
    genes = inputs.preparation.genes
    sums = (rows.double().sum(dim=0) for graph in inputs.graphs for rows in blocks_of(graph.y))
    total = sum(sums, start=torch.zeros(len(genes), dtype=torch.float64))
    train_mean = (total / sum(len(graph.y) for graph in inputs.graphs)).numpy()
    return FittedModel(
        module=learned.module,
        config=config,
        genes=genes,
        standardize=inputs.preparation.standardize,
        n_features=int(inputs.graphs[0].x.shape[1]),
        heg50=highest_expressed(pd.Series(train_mean, index=genes)),
        hpg50=best_predicted(pd.Series(learned.held_out, index=genes)),
        train_sections=[each.name for each in prepared.train],
        selected_epochs=learned.epochs,
        log=learned.log,
        lattice=training_lattice(each.section for each in prepared.train),
        origin={name: value for name, value in inputs.origin.items() if name not in {"settings", "panel"}},
        stain=inputs.preparation.stain,
        confidence=weigh(prepared, inputs.graphs, learned.tested),
        imputation=learn_imputation(
            learned.tested.new, [] if learned.tested.alike else learned.tested.known, config.data
        ),
        folds=learned.folds if config.train.keep_folds else (),
        familiarity=learn_familiarity(prepared.train, inputs.graphs),
    )


class _Inputs(NamedTuple):
    """Training sections in order of their names, all graphs, those to predict later too, and what results rest on."""

    preparation: Preparation
    sections: list[PreparedSection]
    graphs: list[Data]
    tests: list[Data]
    origin: Mapping[str, Any]


class _Outcome(NamedTuple):
    """Result of learning.

    The model, its number of epochs, each gene's mean held-out r, the log, what was held out, and the folds' models.
    """

    module: Network | Estimator
    epochs: int
    held_out: NDArray[np.float64]
    log: pd.DataFrame
    tested: Tested
    folds: list[Any]


def _inputs(prepared: Learned) -> _Inputs:
    """Make the graphs, and refuse a section that lacks what the method needs before anything is trained."""
    method = find_method(prepared.preparation.config.model.name)
    graphs = [each.measured if method.reads_rows else dense_graph(each.measured) for each in prepared.train]
    tests = [each.graph for each in prepared.tests]
    for graph in [*graphs, *tests]:
        _check_needs(method, graph)
    origin = origin_of(prepared)
    say_same_sections({**origin["train"], **origin["tests"]})
    return _Inputs(prepared.preparation, prepared.train, graphs, tests, origin)


def _check_needs(method: type[Network] | type[Estimator], graph: Data) -> None:
    """Refuse a section that lacks what a method reads."""
    if "array" in method.needs and "array" not in graph:
        raise DataError(
            f"section {graph.section!r}: {method.__name__} needs array positions (obs['{Key.obs.array_row}'], "
            f"obs['{Key.obs.array_col}']), and there are none; choose another method in "
            f"{setting('model.name')}"
        )


def _fit_estimator(method: type[Estimator], inputs: _Inputs, config: Config) -> _Outcome:
    """Fit an estimator on each fold for held-out scores, and then on all sections."""
    parts: list[HeldOut] = []
    known: list[HeldOut] = []
    folds: list[Estimator] = []
    for fold in each_fold(inputs.graphs, config.train.validation, config.train.folds):
        estimator = method(config.model, config.seed)
        estimator.fit(fold.train)
        found = held_out(partial(_estimated, estimator), fold.validation, fold.name)
        parts += found
        known += known_parts(found, named_in(fold.train))
        folds.append(estimator)
    estimator = method(config.model, config.seed)
    estimator.fit(inputs.graphs)
    scores = [pearson(each.predicted, each.observed) for each in parts]
    return _Outcome(estimator, 0, np.mean(scores, axis=0), pd.DataFrame(), Tested(parts, known, True), folds)


def _estimated(estimator: Estimator, graph: Data) -> Tensor:
    return torch.as_tensor(estimator.predict(graph))


class _Stages:
    """The folds and the final fit, each a Lightning run with its own folder of checkpoints."""

    def __init__(
        self, inputs: _Inputs, config: Config, folder: Path, resume: bool, lasting: bool, processes: Processes
    ) -> None:
        self.inputs, self.config, self.folder, self.resume = inputs, config, folder, resume
        self.lasting, self.processes = lasting, processes
        self.encoder = _trained_encoder(inputs, config)
        # Checked before anything is trained; what a network needs may depend on its settings.
        module = self._new_network(inputs.graphs, config.seed)
        for graph in [*inputs.graphs, *inputs.tests]:
            module.check(image_only(graph))
        self.log_path = folder / "log.csv"
        self.rows: list[dict[str, Any]] = []
        self.kept = self.processes.share(self._read_kept() if resume and self.processes.main else {})
        if not resume and self.processes.main:
            self.log_path.unlink(missing_ok=True)
            for path in folder.glob(f"checkpoints/*/{_DONE}"):  # of an earlier fit
                path.unlink()
        columns = TextColumn("epochs"), TextColumn("{task.fields[note]}")
        self.progress = bars(*columns, shown=config.train.progress and self.processes.main)

    def run(self) -> _Outcome:
        """Fit every fold; with ``train.refit``, then fit all sections for as many epochs as suit the folds best."""
        train, graphs = self.config.train, self.inputs.graphs
        with self.progress:
            results, held_out_in, names, patients = [], [], [], []
            for i, fold in enumerate(each_fold(graphs, train.validation, train.folds)):
                names.append(fold.name)
                patients.append(named_in(fold.train))
                module, curve, sample = self._fold(i, fold)
                results.append((module, curve))
                held_out_in.append(sample)
                del fold  # or its graphs would stay while those of the next one are made
            if train.refit:
                shortest = min(len(curve) for _, curve in results)
                mean_curve = np.mean([curve[:shortest] for _, curve in results], axis=0)
                module, epochs = self._new_module(graphs, self.config.seed), int(np.argmin(mean_curve)) + 1
                self._train("all", module, graphs, [], self.config.seed, epochs)
                _remember(module, graphs)
            else:
                module, epochs = results[0][0], int(np.argmin(results[0][1])) + 1
        give_back()
        trained = [(network, sample) for (network, _), sample in zip(results, held_out_in, strict=True)]
        module.eval().settle(trained)
        held_out_r = np.mean([_held_out(network, sections) for network, sections in trained], axis=0)
        tested = tested_networks(trained, names, patients)
        return _Outcome(
            module, epochs, held_out_r, self._log(module), tested, [network.eval() for network, _ in results]
        )

    def _read_kept(self) -> dict[str, Kept]:
        """Read the checkpoints of all stages, by their folders, and refuse those that rest on something else.

        Checkpoints that cannot be read are set aside, and their stages begin anew.
        """
        found: dict[str, Kept] = {}
        for path in sorted(self.folder.glob(f"checkpoints/*/{LAST}")):
            try:
                found[path.parent.name] = read_kept(path)
            except ValueError as error:
                set_aside(path, str(error))
                (path.parent / _DONE).unlink(missing_ok=True)
        for kept in found.values():
            other = mismatches(kept.origin, self.inputs.origin) if kept.origin else []
            if other:
                raise RunError(
                    f"{self.folder} was begun with other data or settings: {'; '.join(other[:5])}; resume with the "
                    f"same, or train anew into another folder: {setting('out')}"
                )
        if any(not kept.origin for kept in found.values()):
            logger.warning(
                "%s: its checkpoints are of an earlier version, and whether they are of these data cannot be checked",
                self.folder,
            )
        return found

    def _log(self, module: Network) -> pd.DataFrame:
        """Give the log of all stages, as it is read from a file."""
        text = io.StringIO()
        write_rows(text, columns_of(log_columns(module), self.rows), self.rows)
        text.seek(0)
        return pd.read_csv(text)

    def _new_network(self, graphs: Sequence[Data], seed: int) -> Network:
        torch.manual_seed(seed)
        encoder = copy.deepcopy(self.encoder)
        return new_network(self.config, int(graphs[0].x.shape[1]), len(self.inputs.preparation.genes), encoder)

    def _new_module(self, graphs: Sequence[Data], seed: int) -> Network:
        give_back()
        module = self._new_network(graphs, seed)
        module.threads = self.config.train.n_threads
        module.prepare(graphs)
        give_back()
        return module

    def _fold(self, number: int, fold: Fold) -> tuple[Network, list[float], list[Data]]:
        """Train one fold; return its best model, its validation curve, and what was held out (a sample, if large)."""
        seed = self.config.seed + 1 + number
        module = self._new_module(fold.train, seed)
        held_out = [held_out_sample(section, module) for section in fold.validation]
        stage = f"fold{number + 1}:{fold.name}"
        rows = self._train(stage, module, fold.train, held_out, seed, self.config.train.max_epochs)
        # The log of a saved model has an empty cell for NaN.
        curve = [float(row["val_loss"] or "nan") for row in rows]
        _remember(module, fold.train)
        return module, curve, held_out

    def _train(
        self,
        stage: str,
        module: Network,
        train: Sequence[Data],
        validation: Sequence[Data],
        seed: int,
        max_epochs: int,
    ) -> list[dict[str, Any]]:
        """Train one stage, from its last checkpoint when resuming, and return its log.

        The model gets its averaged weights: those of the best epoch where something is held out, or the last.
        """
        config = self.config.train
        folder = self.folder / "checkpoints" / stage.partition(":")[0]
        done, last, kept = folder / _DONE, folder / LAST, self.kept.get(folder.name)
        rows = [] if kept is None else kept.rows or stage_rows(read_rows(self.log_path), stage)
        rows, finished = self.processes.share((rows, bool(rows) and done.is_file()))
        if not finished:
            train, validation = module.training_graphs(train), module.held_out_graphs(validation)
            callbacks = self._callbacks(stage, folder, bool(validation), max_epochs)
            trainer = L.Trainer(
                max_epochs=max_epochs,
                callbacks=callbacks,
                plugins=[WholeCheckpoints()],
                logger=self.lasting and TensorBoardLogger(self.folder / "tensorboard", name=folder.name, version=""),
                default_root_dir=self.folder,
                accelerator="gpu" if config.device == "cuda" else config.device,
                **self.processes.trainer_options(),
                precision=check_precision(config),
                gradient_clip_val=1.0,
                deterministic="warn",
                reload_dataloaders_every_n_epochs=1,
                num_sanity_val_steps=0,
                enable_progress_bar=False,
                enable_model_summary=False,
                log_every_n_steps=1,
            )
            data = SectionData(train, validation, config.batch_spots, module.receptive_hops, seed)
            resumed = None if kept is None else str(last)
            with _interruptible(callbacks):
                trainer.fit(
                    TrainingModule(module, config, seed, self.inputs.origin),
                    datamodule=data,
                    ckpt_path=resumed,
                    weights_only=True if resumed else None,
                )
            for task in self.progress.task_ids:
                self.progress.update(task, visible=False)
            # Trainer and callbacks refer to each other, and what they hold would stay until Python looks for circles.
            data.train, data.validation = [], []
            trainer.strategy.optimizers = []
            next(each for each in callbacks if isinstance(each, Averaging)).release()
            if self.lasting and self.processes.main:
                write_text(done, json.dumps({"epochs": trainer.current_epoch}) + "\n")
            rows = next(each.rows for each in callbacks if isinstance(each, EpochLog))
            if validation:
                best = next(each.best for each in callbacks if isinstance(each, Averaging))
                module.load_state_dict(own_names(best))
            elif resumed is not None:
                # A trainer that resumes after its last epoch leaves the weights before averaging.
                module.load_state_dict(averaged_weights(last))
        else:
            module.load_state_dict(averaged_weights(last, best=bool(validation)))
        self.rows += rows
        return rows

    def _callbacks(self, stage: str, folder: Path, watched: bool, max_epochs: int) -> list[L.Callback]:
        """Make the callbacks. The checkpoint comes last, so that it holds the others' state of the same epoch."""
        task = self.progress.add_task(f"train {stage}", total=max_epochs, note="")
        config = self.config.train
        callbacks: list[L.Callback] = [
            Averaging(config.ema_decay, "val_loss" if watched else None),
            EpochLog(self.log_path, stage),
            EpochProgress(self.progress, task),
        ]
        if watched:
            callbacks.append(StopEarly("val_loss", patience=config.patience))
        return [*callbacks, Keep(folder, config.checkpoint_seconds, self.lasting)]


def _trained_encoder(inputs: _Inputs, config: Config) -> PatchEncoder | None:
    """Make the encoder that is fine-tuned, if any; its output is standardised by the training sections' features."""
    encoder = patch_encoder(config.features, trained=True)
    if encoder is not None:
        features = [each.section.obsm[Key.obsm.image] for each in inputs.sections]
        encoder.set_scale(torch.from_numpy(np.vstack(features)))
    return encoder


@torch.no_grad()
def _remember(module: Network, graphs: Sequence[Data]) -> None:
    module.eval().remember(graphs)


@torch.no_grad()
def _held_out(network: Network, sections: Sequence[Data]) -> NDArray[np.float64]:
    """Score a fold's network on its held-out sections: each gene's mean r."""
    scores = [
        pearson(scored(each, network.predict(image_only(each))).numpy(), scored(each, each.y).numpy())
        for each in sections
    ]
    return np.asarray(np.mean(scores, axis=0))


def check_precision(config: TrainConfig) -> Any:
    """Choose the trainer's precision: mixed if the device supports it.

    Raises
    ------
    ConfigError
        If there is no such device, or it does not support the precision.
    """
    check_device(config.device, config.precision)
    if config.precision == "auto":
        cuda = config.device in {"auto", "cuda"} and torch.cuda.is_available()
        return ("bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed") if cuda else "32-true"
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[config.precision]


@contextmanager
def _settings_restored() -> Iterator[None]:
    """Restore torch's random state and its choice of algorithms after the block."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@contextmanager
def _interruptible(callbacks: Sequence[L.Callback]) -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C again: Lightning exits Python instead, and ignores Ctrl-C from then on.

    It says what is kept, where something is.
    """
    try:
        yield
    except SystemExit:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt(*(each.kept for each in callbacks if isinstance(each, Keep) and each.kept)) from None
