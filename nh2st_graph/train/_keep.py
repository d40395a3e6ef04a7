"""Write checkpoints while training goes on, and at Ctrl-C and SIGTERM."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import ModelCheckpoint

from nh2st_graph.train._checkpoints import LAST

__all__ = ["Keep", "Signals"]

logger = logging.getLogger("nh2st_graph")

#: Clusters kill a process 10 to 30 s after SIGTERM.
_PATIENCE = 5.0


class Signals:
    """Hold the first Ctrl-C or SIGTERM back until somebody asks for it, or for some seconds. The second counts at once.

    Parameters
    ----------
    seconds
        How long a signal is held back, 5 by default; it is looked at after each batch.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = _PATIENCE if seconds is None else seconds
        self._before: dict[int, Callable[[int, Any], Any]] = {}
        self._got: int | None = None
        self._since = 0.0
        self._said = False

    @property
    def waiting(self) -> bool:
        """Whether a signal came."""
        return self._got is not None

    def begin(self) -> None:
        """Hold signals back from now on; those that are ignored, or end the process at once, do so still."""
        self._got, self._said = None, False
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(number)
            if callable(before):
                self._before[number] = before
                signal.signal(number, self._hold)

    def look(self) -> None:
        """Let a signal through that has waited for long; otherwise say once what it waits for."""
        if self._got is None:
            return
        if time.monotonic() - self._since >= self.seconds:
            self.let_through()
        elif not self._said:
            self._said = True
            logger.info("finishing the epoch, for %g s at most; Ctrl-C again ends it now", self.seconds)

    def let_through(self) -> None:
        """Do what the signal would have done; none, of another process, is Ctrl-C.

        Raises
        ------
        KeyboardInterrupt
            Unless the signal's own handler does something else.
        """
        number, handlers = self._got, dict(self._before)
        self.end()
        if number is None:
            raise KeyboardInterrupt
        handlers[number](number, None)

    def end(self) -> None:
        """Hold signals back no more, and forget one that came."""
        for number, before in self._before.items():
            if signal.getsignal(number) == self._hold:
                signal.signal(number, before)
        self._before, self._got = {}, None

    def _hold(self, number: int, _: object) -> None:
        if self._got is not None:
            self.let_through()
            return
        self._got, self._since = number, time.monotonic()


class Keep(ModelCheckpoint):
    """Write the checkpoint ``last`` after the last epoch, and before that whenever ``seconds`` have passed.

    On Ctrl-C or SIGTERM, a short epoch is finished and written, and then training ends. Into a folder that goes with
    the process, nothing is written.

    Parameters
    ----------
    folder
        Where the checkpoint is written.
    seconds
        Time between checkpoints.
    lasting
        Whether the folder is there after an interruption, so that there is something to write for.
    """

    def __init__(self, folder: Path, seconds: float, lasting: bool = True) -> None:
        super().__init__(folder, filename="last", save_top_k=1, enable_version_counter=False)
        self.seconds, self.lasting = seconds, lasting
        self.epochs, self.at_most = 0, 0
        self._written = time.monotonic()
        self._signals = Signals()

    @property
    def kept(self) -> str:
        """Say what a run that goes on has of this stage; nothing if it cannot go on."""
        if not self.lasting:
            return ""
        path = Path(str(self.dirpath)) / LAST
        holds = f"holds {self.epochs} of at most {self.at_most} epochs"
        return f"{path} {holds if self.epochs else 'is not written yet'}"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hold signals back; Lightning has set its own handlers by now."""
        super().on_train_start(trainer, pl_module)
        self.epochs, self.at_most = trainer.current_epoch, trainer.max_epochs or 0
        if self.lasting:
            self._signals.begin()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Let a signal through that has waited for long."""
        super().on_train_batch_end(trainer, *args, **kwargs)
        self._signals.look()

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """Let a signal through that has waited for long."""
        super().on_validation_batch_end(trainer, *args, **kwargs)
        self._signals.look()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write if it is time. This callback stands last, so that the others have finished the epoch."""
        if not self.lasting:
            return
        ends = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        due = time.monotonic() - self._written >= self.seconds
        # All processes take part in writing; their clocks differ, and a signal may have come to one of them.
        asked = trainer.strategy.reduce_boolean_decision(self._signals.waiting, all=False)
        if ends or asked or trainer.strategy.reduce_boolean_decision(due, all=False):
            super().on_train_epoch_end(trainer, pl_module)
            self._written, self.epochs = time.monotonic(), trainer.current_epoch + 1
        if asked:
            self._signals.let_through()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let a signal through that came after the last epoch."""
        super().on_train_end(trainer, pl_module)
        if self._signals.waiting:
            self._signals.let_through()
        self._signals.end()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Hold signals back no more."""
        super().on_exception(trainer, pl_module, exception)
        self._signals.end()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, even if the folder was moved."""
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})
