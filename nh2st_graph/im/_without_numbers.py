"""Build networks for their shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["without_numbers"]


@contextmanager
def without_numbers() -> Iterator[None]:
    """Let networks that are built in the block have shapes and no numbers, on the device ``meta``.

    Weights are not initialised: PyTorch goes through each step of it also where there is nothing to change, which takes
    five times as long as to build the network.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    tensor = torch.Tensor
    # Of these, timm, torch and transformers make what weights begin with.
    changes = {tensor.normal_, tensor.uniform_, tensor.erfinv_, tensor.clamp_, tensor.mul_, tensor.add_, tensor.fill_}
    changes.add(tensor.zero_)

    class Unchanged(TorchFunctionMode):
        def __torch_function__(
            self,
            func: Callable[..., Any],
            types: Sequence[type],
            args: Sequence[Any] = (),
            kwargs: Mapping[str, Any] | None = None,
        ) -> Any:
            if func in changes and args and args[0].is_meta:
                return args[0]
            return func(*args, **(kwargs or {}))

    with torch.device("meta"), Unchanged():
        yield
