"""Read the outputs of layers and stop the forward pass at the last of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn


class _Reached(Exception):
    """Ends a forward pass that has gone far enough."""


def capture(module: nn.Module, layers: Sequence[str], forward: Callable[[], Any]) -> dict[str, Tensor]:
    """Return the outputs of several submodules during one `forward()`, which ends when all have been seen.

    Nothing after the last of them is computed; a layer that is named twice is read once. Raises ValueError where the
    module has no such layer or the forward pass never reaches it.
    """
    outputs: dict[str, Tensor] = {}
    wanted = dict.fromkeys(layers)  # in their order

    def keep(layer: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs[layer] = output[0] if isinstance(output, tuple) else output
        if len(outputs) == len(wanted):
            raise _Reached

    handles = [_find(module, layer).register_forward_hook(partial(keep, layer)) for layer in wanted]
    try:
        forward()
    except _Reached:
        return outputs
    finally:
        for handle in handles:
            handle.remove()
    missed = [layer for layer in wanted if layer not in outputs]
    raise ValueError(f"layer: {missed[0]!r} is not on the forward path")


def _find(module: nn.Module, layer: str) -> nn.Module:
    try:
        return module.get_submodule(layer)
    except AttributeError:
        valid = ", ".join(name for name, _ in module.named_children())
        raise ValueError(f"layer: {layer!r} is not part of the model; its top modules: {valid}") from None
