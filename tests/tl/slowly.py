"""``nh2st-graph train`` in a process that a test kills: it imports little, and waits for the signal."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph.cli import main
from nh2st_graph.train import EpochLog
from nh2st_graph.train._module import TrainingModule


def train_slowly(arguments: list[str], stage: str, epochs: int) -> None:
    """Wait before the next step when a stage has had so many epochs."""
    step = TrainingModule.training_step

    def slow(self: TrainingModule, batch: Data, *args: Any) -> Tensor:
        (log,) = (each for each in self.trainer.callbacks if isinstance(each, EpochLog))
        if log.stage.partition(":")[0] == stage and self.current_epoch >= epochs:
            time.sleep(60)
        return step(self, batch, *args)

    TrainingModule.training_step = slow  # type: ignore[method-assign]
    main(arguments)
