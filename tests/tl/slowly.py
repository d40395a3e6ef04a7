"""``nh2st-graph train`` in a process that a test kills: it imports little, and leaves the test the time."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor
from torch_geometric.data import Data

from nh2st_graph.cli import main
from nh2st_graph.train._module import TrainingModule


def train_slowly(arguments: list[str]) -> None:
    """Take longer for each step from the fourth epoch on."""
    step = TrainingModule.training_step

    def slow(self: TrainingModule, batch: Data, *args: Any) -> Tensor:
        time.sleep(0.1 * (self.current_epoch > 2))
        return step(self, batch, *args)

    TrainingModule.training_step = slow  # type: ignore[method-assign]
    main(arguments)
