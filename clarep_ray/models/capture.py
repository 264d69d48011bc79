"""Read the output of one layer and stop the forward pass there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class _Reached(Exception):
    """Carries the layer's output out of the forward pass."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def capture(module: nn.Module, layer: str, forward: Callable[[], Any]) -> Tensor:
    """Return the output of submodule `layer` during `forward()`; nothing after the layer is computed.

    Raises ValueError where the module has no such layer or the forward pass never reaches it.
    """
    try:
        target = module.get_submodule(layer)
    except AttributeError:
        valid = ", ".join(name for name, _ in module.named_children())
        raise ValueError(f"layer: {layer!r} is not part of the model; its top modules: {valid}") from None

    def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
        raise _Reached(output[0] if isinstance(output, tuple) else output)

    handle = target.register_forward_hook(leave)
    try:
        forward()
    except _Reached as reached:
        return reached.output
    finally:
        handle.remove()
    raise ValueError(f"layer: {layer!r} is not on the forward path")
