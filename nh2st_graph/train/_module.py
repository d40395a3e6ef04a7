"""Parts of the training loop for Lightning: module, data and callbacks."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from rich.progress import Progress, TaskID
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torch_geometric.data import Data

from nh2st_graph._files import on_disk, stamp, written_aside
from nh2st_graph.config import TrainConfig
from nh2st_graph.metrics import pearson
from nh2st_graph.models import Network
from nh2st_graph.train._batches import Batch, SpotBatches, surroundings
from nh2st_graph.train._checkpoints import CHECKPOINT_FORMAT, ORIGIN, WRITTEN
from nh2st_graph.train._finite import check_gradients, check_loss, check_score, sections_of
from nh2st_graph.train._large import scored
from nh2st_graph.train._parallel import losses_of_pieces
from nh2st_graph.train._prepare import image_only

__all__ = [
    "LOG_COLUMNS",
    "Averaging",
    "EpochLog",
    "EpochProgress",
    "SectionData",
    "StopEarly",
    "TrainingModule",
    "columns_of",
    "log_columns",
    "read_rows",
    "stage_rows",
    "write_rows",
]

_TRAINING, _HELD_OUT = ("stage", "epoch", "step", "train_loss"), ("val_loss", "val_pcc")

#: Distance between the random numbers of processes that train together.
_APART = 2**40

#: Columns of every ``log.csv``, one row an epoch of a stage (a fold, or the final fit).
LOG_COLUMNS = _TRAINING + _HELD_OUT


class TrainingModule(L.LightningModule):
    """Optimise a model on training graphs and score it on held-out ones.

    Random numbers depend on the seed and on the number of the epoch (batches) or of the step (dropout) alone, so that a
    run that was killed and resumed gives the same model as an uninterrupted one.

    Parameters
    ----------
    model
        The model, whose weights are trained in place.
    config
        Settings of the training loop.
    seed
        Seed of this stage.
    origin
        What the weights rest on, for the checkpoint.
    """

    def __init__(self, model: Network, config: TrainConfig, seed: int, origin: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.model = model
        self.config, self.seed, self.origin = config, seed, dict(origin or {})
        self._steps: list[dict[str, Tensor]] = []
        self._scores: list[dict[str, Tensor]] = []
        self._sections: list[str] = []

    def configure_optimizers(self) -> Any:
        """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), at a rate that may fall in steps."""
        adam = torch.optim.AdamW(
            self.model.parameters(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            foreach=True,
        )
        if self.config.decay_epochs is None:
            return adam
        steps = torch.optim.lr_scheduler.StepLR(adam, self.config.decay_epochs, self.config.decay_factor)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": steps, "interval": "epoch"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note what the weights rest on."""
        checkpoint[ORIGIN], checkpoint[WRITTEN] = json.dumps(self.origin), json.dumps(stamp(CHECKPOINT_FORMAT))

    def on_train_start(self) -> None:
        """Show the model the spots that it compares all batches with."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, SectionData) and self.model.compared:
            self.model.compare_with([part.to(self.device) for part in data.cut(self.model.compared)])

    def on_train_end(self) -> None:
        """Let go of these spots."""
        self.model.compare_with([])

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Take one step, and stop the run if the loss is not finite."""
        # At every step: in the first epoch after resuming, Lightning's loaders draw from the generator at another time.
        _seed(self.seed * 1_000_003 + self.global_step + _APART * self.global_rank, self.device)
        share = self._share(batch)
        if isinstance(batch, Data):
            losses = self.model.losses(batch)
        else:
            losses = losses_of_pieces(self.model, batch, self.config.n_threads)
        check_loss(losses, batch, self.global_step, self.current_epoch)
        self._sections = sections_of(batch)
        self._steps.append({name: share * value.detach() for name, value in losses.items()})
        if self.trainer.is_last_batch:
            self._log_means()
        return share * losses["loss"]

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Stop the run if a gradient is not finite; of half precision, the scaler of the loss tries until it is."""
        del optimizer
        if self.trainer.precision != "16-mixed":
            check_gradients(self.model, self._sections, self.global_step, self.current_epoch)

    def _share(self, batch: Batch) -> float:
        """Weigh the losses of this process's batch, and note the sizes of all for losses over them.

        Losses are means over seeds, and gradients are averaged over processes: with these weights, they are those of
        the joined batch.
        """
        if self.trainer.world_size == 1:
            return 1.0
        parts = [batch] if isinstance(batch, Data) else batch
        own = [sum(len(part.seeds) for part in parts), int(isinstance(batch, Data))]
        told = self.trainer.strategy.all_gather(torch.tensor(own, device=self.device))
        sizes: list[int] = told[:, 0].tolist()
        # Pieces have their candidates in their own process; then no other process can have theirs.
        if isinstance(batch, Data) and told[:, 1].all():
            batch.seeds_of_ranks = sizes
        return sizes[self.global_rank] * len(sizes) / sum(sizes)

    def _log_means(self) -> None:
        """Log each part's mean over the steps that had it, once an epoch: Lightning takes long to log every step."""
        parts = dict.fromkeys(name for step in self._steps for name in step)
        means = {name: torch.stack([step[name] for step in self._steps if name in step]).mean() for name in parts}
        if self.trainer.world_size > 1:
            means = _joined(means)
        self._tell({"train_loss" if name == "loss" else name: mean for name, mean in means.items()})
        self._steps.clear()

    def _tell(self, means: Mapping[str, Tensor]) -> None:
        """Give an epoch's means to callbacks and the logger; Lightning's own log would take a millisecond for each."""
        self.trainer.callback_metrics.update(means)
        values = {**{name: float(mean) for name, mean in means.items()}, "epoch": self.current_epoch}
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=self.global_step)
            logger.save()

    def on_validation_epoch_start(self) -> None:
        """Let the model remember the training graphs, now that it has its averaged weights."""
        self._scores.clear()
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, SectionData):
            self.model.remember(data.train)

    def validation_step(self, section: Data, _: int) -> None:
        """Score a held-out graph like a test section: from its image, over all genes."""
        section = self.model.encoded(section)
        predicted = scored(section, self.model.predict(image_only(section)))
        observed = scored(section, section.y)
        scores = {
            "val_loss": float(torch.nn.functional.mse_loss(predicted, observed)),
            "val_pcc": float(np.mean(pearson(predicted.float().cpu().numpy(), observed.cpu().numpy()))),
            **{f"val_{name}": value for name, value in self.model.alignment(section).items()},
        }
        check_score(scores["val_loss"], section, self.global_step, self.current_epoch)
        self._scores.append({name: torch.tensor(score, dtype=torch.float32) for name, score in scores.items()})

    def on_validation_epoch_end(self) -> None:
        """Tell the means over the held-out graphs."""
        n = len(self._scores)
        means = {name: sum((each[name] for each in self._scores), torch.tensor(0.0)) / n for name in self._scores[0]}
        # All processes score all held-out graphs, and agree to the last digit by their mean.
        self._tell(_joined(means) if self.trainer.world_size > 1 else means)


def _joined(means: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Average over the processes that have a part."""
    told: list[dict[str, float]] = [{} for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(told, {name: float(mean) for name, mean in means.items()})
    names = dict.fromkeys(name for each in told for name in each)
    return {name: torch.tensor([each[name] for each in told if name in each]).mean() for name in names}


def _seed(seed: int, device: torch.device) -> None:
    """Seed the generators that a step on this device draws from.

    ``torch.manual_seed`` formats a stack trace for each kind of accelerator that is not in use: a millisecond a step.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class SectionData(L.LightningDataModule):
    """Training graphs in batches of spots, and whole validation graphs.

    Parameters
    ----------
    train, validation
        Graphs with targets; ``validation`` may be empty.
    batch_spots, hops, seed
        See :class:`SpotBatches`.
    """

    def __init__(
        self,
        train: Sequence[Data],
        validation: Sequence[Data],
        batch_spots: int | Literal["auto"],
        hops: int | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.batch_spots, self.hops, self.seed = batch_spots, hops, seed
        self._cut = [surroundings(section) for section in train]

    def cut(self, spots: Sequence[Tensor]) -> list[Data]:
        """Cut some spots out of each training graph, with their surroundings; see :class:`SpotBatches`."""
        return [each.cut(some, self.hops) for each, some in zip(self._cut, spots, strict=True)]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Give the batches of the current epoch; the trainer asks for them at every epoch."""
        trainer = self.trainer
        epoch, rank, ranks = (trainer.current_epoch, trainer.global_rank, trainer.world_size) if trainer else (0, 0, 1)
        batches = SpotBatches(self._cut, self.batch_spots, self.hops, self.seed, epoch, rank=rank, ranks=ranks)
        return DataLoader(batches, batch_size=None)

    def val_dataloader(self) -> Any:
        """Give the held-out graphs, whole."""
        # A list is a dataset, but torch's types do not say so.
        return DataLoader(list(self.validation), batch_size=None) if self.validation else []  # type: ignore[arg-type]


def log_columns(model: Network) -> tuple[str, ...]:
    """Columns of a network's ``log.csv``: those of every log, and beside them the network's own losses and scores."""
    return (*_TRAINING, *model.loss_parts, *_HELD_OUT, *(f"val_{name}" for name in model.alignment_parts))


class EpochLog(L.Callback):
    """Append one row an epoch to ``log.csv``, and keep the rows of its stage. A new part of the loss gets a new column.

    The rows are a part of the checkpoint, and results come from them: the file is for the eye, and may be old, cut off
    or changed. On resuming, rows of this stage in the file are replaced by those of the checkpoint.

    Attributes
    ----------
    rows
        The rows of this stage.
    """

    def __init__(self, path: Path, stage: str) -> None:
        self.path, self.stage = path, stage
        self.first: tuple[str, ...] = LOG_COLUMNS
        self.columns = list(self.first)
        self.rows: list[dict[str, Any]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep what other stages and earlier epochs wrote; only the first process writes."""
        if isinstance(pl_module, TrainingModule):
            self.first = log_columns(pl_module.model)
        there = read_rows(self.path)
        if not self.rows:  # a checkpoint of an earlier version has none
            self.rows = stage_rows(there, self.stage, trainer.current_epoch)
        if not trainer.is_global_zero:
            return
        self._rewrite([*(row for row in there if row["stage"] != self.stage), *self.rows])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the epoch's means."""
        values = {name: f"{float(value):.6g}" for name, value in trainer.callback_metrics.items()}
        row = {**values, "stage": self.stage, "epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        self.rows.append(row)
        if not trainer.is_global_zero:
            return
        if not row.keys() <= set(self.columns):
            self._rewrite([*read_rows(self.path), row])
            return
        with on_disk(self.path), self.path.open("a", newline="", encoding="utf-8") as handle:
            csv.DictWriter(handle, self.columns, lineterminator="\n").writerow(row)

    def state_dict(self) -> dict[str, Any]:
        """Save the rows of this stage."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows of this stage."""
        self.rows = [dict(row) for row in state_dict["rows"]]

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        """Write the whole log, with every column that a row has."""
        self.columns = columns_of(self.first, rows)
        with written_aside(self.path) as aside, aside.open("w", newline="", encoding="utf-8") as handle:
            write_rows(handle, self.columns, rows)


def columns_of(first: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the columns of a log: the first ones, and those that rows have besides."""
    return list(dict.fromkeys([*first, *(name for row in rows for name in row)]))


def write_rows(handle: TextIO, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a log with its header."""
    writer = csv.DictWriter(handle, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def stage_rows(rows: Sequence[Mapping[str, Any]], stage: str, epochs: int | None = None) -> list[dict[str, Any]]:
    """Take the rows of one stage, up to an epoch."""
    return [dict(r) for r in rows if r["stage"] == stage and (epochs is None or int(r["epoch"]) <= epochs)]


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a log, without a row that was cut off; none if there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as handle:
        return [row for row in csv.DictReader(handle) if None not in row.values()]


class StopEarly(EarlyStopping):
    """Early stopping that survives a resume: Lightning's checkpoints keep its count, but not that it stopped."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once if the checkpoint is from the epoch after which training stopped."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class Averaging(WeightAveraging):
    """Exponential moving average (EMA) of the weights, and its values at the lowest held-out error so far.

    Both are kept in memory and saved in the checkpoint, so that one file holds everything.

    Parameters
    ----------
    decay
        EMA decay: share of the average that remains after a step.
    monitor
        Logged value that is lowest at the best epoch; None if nothing is held out.
    """

    def __init__(self, decay: float, monitor: str | None = None) -> None:
        super().__init__(multi_avg_fn=_averaged_by(decay))
        self.monitor = monitor
        self.lowest = math.inf
        self.best: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the averaged weights if they are the best so far."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.monitor is None or float(trainer.callback_metrics[self.monitor]) >= self.lowest:
            return
        assert self._average_model is not None
        self.lowest = float(trainer.callback_metrics[self.monitor])
        state = self._average_model.module.state_dict()
        self.best = {name: value.detach().cpu().clone() for name, value in state.items()}

    def release(self) -> None:
        """Forget the average, which is a whole model, but not the best weights."""
        self._average_model = None

    def state_dict(self) -> dict[str, Any]:
        """Save the best weights beside the average."""
        return {**super().state_dict(), "lowest": self.lowest, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best weights beside the average."""
        super().load_state_dict(state_dict)
        self.lowest, self.best = state_dict["lowest"], state_dict["best"]


def _averaged_by(decay: float) -> Callable[[list[Tensor], list[Tensor], Any], None]:
    """Make the step of a moving average; whole numbers (an index, a count) are those of the last step."""
    average = get_ema_multi_avg_fn(decay)

    def update(averaged: list[Tensor], current: list[Tensor], n_averaged: Any) -> None:
        if averaged[0].is_floating_point():  # torch groups tensors by type
            average(averaged, current, n_averaged)
        else:
            for before, now in zip(averaged, current, strict=True):
                before.copy_(now)

    return update


class EpochProgress(L.Callback):
    """Advance a progress bar once an epoch, and show the latest score beside it."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the epoch that ended."""
        score = trainer.callback_metrics.get("val_pcc")
        note = f"held-out r {float(score):.3f}" if score is not None else ""
        self.progress.update(self.task, completed=trainer.current_epoch + 1, note=note)
