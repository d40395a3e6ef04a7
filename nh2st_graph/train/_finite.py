"""Stop training at the first number that is none, and say where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from nh2st_graph._errors import ModelError, setting
from nh2st_graph.train._batches import Batch

__all__ = ["check_gradients", "check_loss", "check_score", "sections_of"]


def sections_of(batch: Batch) -> list[str]:
    """Name the sections that a batch is of; graphs that were made by hand may have no name."""
    parts = [batch] if isinstance(batch, Data) else batch
    return list(dict.fromkeys(str(part.section) for part in parts if "section" in part))


def check_loss(losses: Mapping[str, Tensor], batch: Batch, step: int, epoch: int) -> None:
    """Refuse a loss that is not finite.

    Parameters
    ----------
    losses
        The loss and its parts, by name.
    batch
        What it was computed of.
    step, epoch
        Numbers of the step and the epoch, from 0.

    Raises
    ------
    ModelError
        If it is not; the message names the step, the section, and the tensor that is not finite: an input of the batch,
        or else a part of the loss.
    """
    loss = losses["loss"]
    if torch.isfinite(loss):
        return
    parts = [batch] if isinstance(batch, Data) else batch
    inputs = [
        f"input {name!r}"
        for part in parts
        for name, value in part.to_dict().items()
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all()
    ]
    wrong = [f"{name!r}" for name, value in losses.items() if name != "loss" and not torch.isfinite(value).all()]
    found = list(dict.fromkeys(inputs)) or wrong
    raise ModelError(
        f"training loss is {float(loss.detach())} {_place(sections_of(batch), step, epoch)}"
        + (f" (not finite: {', '.join(found)})" if found else "")
        + f"; {_cure()}"
    )


def check_gradients(model: nn.Module, sections: Iterable[str], step: int, epoch: int) -> None:
    """Refuse gradients that are not finite, before weights take a step by them.

    Parameters
    ----------
    model
        The model, after the backward pass.
    sections
        Names of the sections of the batch.
    step, epoch
        Numbers of the step and the epoch, from 0.

    Raises
    ------
    ModelError
        If a gradient is not; the message names the step, the section and the first such weight.
    """
    there = [weight.grad for weight in model.parameters() if weight.grad is not None]
    # One number tells of all; only if it is none, each is looked at: finite gradients may overflow in their norm.
    if not there or torch.isfinite(torch.stack(torch._foreach_norm(there)).sum()):
        return
    for name, weight in model.named_parameters():
        if weight.grad is not None and not torch.isfinite(weight.grad).all():
            raise ModelError(
                f"the gradient of weight {name!r} is not finite {_place(sections, step, epoch)}; {_cure()}"
            )


def check_score(value: float, section: Data, step: int, epoch: int) -> None:
    """Refuse the error of a held-out section that is not finite.

    Raises
    ------
    ModelError
        If it is not; the message names the section.
    """
    if value - value != 0:
        raise ModelError(f"the prediction is not finite {_place(sections_of(section), step, epoch)}; {_cure()}")


def _place(sections: Iterable[str], step: int, epoch: int) -> str:
    named = ", ".join(map(repr, sections))
    return f"at step {step} (epoch {epoch}){f' of section {named}' if named else ''}"


def _cure() -> str:
    return f"lower {setting('train.learning_rate')}, or check the features and counts of that section"
