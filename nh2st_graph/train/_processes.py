"""The processes that train one model together, on one machine or several."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import distributed

from nh2st_graph._errors import ConfigError, RunError, reason, setting
from nh2st_graph.config import TrainConfig

__all__ = ["Processes", "quiet_lightning", "start_processes"]

T = TypeVar("T")

#: Others wait for the first process, which may compute image features for hours.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """The processes that train together, and which of them this is.

    Attributes
    ----------
    rank
        Number of this process.
    devices, nodes
        Number of processes on a machine, and of machines.
    """

    rank: int = 0
    devices: int = 1
    nodes: int = 1

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.devices * self.nodes

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, value: T) -> T:
        """Give the value that the first process has; all processes must ask.

        Raises
        ------
        RunError
            If another process has ended.
        """
        if self.size == 1:
            return value
        box = [value]
        try:
            distributed.broadcast_object_list(box)
        except RuntimeError as error:
            raise RunError("another process of this run has ended; its own message says why") from error
        return box[0]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the first process do the block, and then the others."""
        if not self.main:
            self.share(None)
        yield
        if self.main:
            self.share(None)

    def trainer_options(self) -> dict[str, Any]:
        """Give the arguments of Lightning's trainer that concern processes."""
        strategy = "auto" if self.size == 1 else _strategy()
        return {
            "devices": self.devices,
            "num_nodes": self.nodes,
            "strategy": strategy,
            "use_distributed_sampler": False,  # batches are shared where they are drawn
        }


def start_processes(config: TrainConfig) -> Processes:
    """Start the processes of a training run, or join those that torchrun or SLURM started.

    Without these, the processes of this machine run the command of this one again.

    Raises
    ------
    ConfigError
        If ``train.devices`` and ``train.nodes`` do not fit the processes that were started.
    """
    started = int(os.environ.get("WORLD_SIZE", 1)) if distributed.is_torchelastic_launched() else None
    devices = _devices(config)
    if started is not None and started != devices * config.nodes:
        raise ConfigError(
            f"{setting('train.devices', config.devices)} and {setting('train.nodes', config.nodes)} ask for "
            f"{devices * config.nodes} processes, but {started} were started; give the numbers that torchrun has"
        )
    return _join(config.device, devices, config.nodes) if devices * config.nodes > 1 else Processes()


def _devices(config: TrainConfig) -> int:
    """Count the processes of a machine; ``auto`` takes those that were started, or one for each GPU."""
    if config.devices != "auto":
        return config.devices
    if distributed.is_torchelastic_launched():
        return int(os.environ["LOCAL_WORLD_SIZE"])
    tasks = os.environ.get("SLURM_NTASKS_PER_NODE", "")
    if tasks.isdecimal():
        return int(tasks)
    return max(1, torch.cuda.device_count()) if config.device in {"auto", "cuda"} else 1


@cache
def _join(device: str, devices: int, nodes: int) -> Processes:
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy

    if not distributed.is_initialized():
        try:
            fabric = Fabric(
                accelerator="gpu" if device == "cuda" else device,
                devices=devices,
                num_nodes=nodes,
                strategy=DDPStrategy(timeout=_PATIENCE),
            )
            with quiet_lightning():
                fabric.launch()
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"{setting('train.devices', devices)}, {setting('train.nodes', nodes)} and "
                f"{setting('train.device', device)}: the processes cannot start ({reason(error)})"
            ) from error
    return Processes(distributed.get_rank(), devices, nodes)


def _strategy() -> Any:
    from lightning.pytorch.strategies import DDPStrategy

    # Some weights have no part in some losses.
    return DDPStrategy(find_unused_parameters=True, timeout=_PATIENCE)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's notes on hardware, processes and workers, which do not concern the user's data."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*deterministic.*")
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)
