"""Mixed precision: forward passes in bfloat16 where a GPU has it, weights, losses and gradients in float32.

bfloat16 has float32's range, so losses need no scaling. CPUs without bf16 arithmetic emulate it, many times slower than
float32, so that it is refused on all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from search_spaces.errors import ConfigError

Precision = Literal["auto", "float32", "bfloat16"]
_AUTO = "take precision auto, or float32"


def working_type(precision: Precision, device: str | torch.device) -> torch.dtype | None:
    """The type that forward passes on a device run in, None for that of the weights.

    `auto` is bfloat16 on GPUs that have it and float32 elsewhere.

    Raises:
        ConfigError: bfloat16 on a device that has none.
    """
    kind = torch.device(device).type
    has = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "float32" or (precision == "auto" and not has):
        return None
    if not has:
        why = "it is slower there than float32, by far" if kind == "cpu" else "this GPU has no arithmetic for it"
        raise ConfigError(f"precision bfloat16 is not for device {kind!r}: {why}; {_AUTO}")
    return torch.bfloat16


@contextmanager
def mixed(module: nn.Module, kind: torch.dtype | None, device: str | torch.device) -> Iterator[None]:
    """Inside, forward passes of a module run in a type, as far as autocast finds that safe; outputs are float32.

    Only the forward passes: losses are formed in float32, and backward passes follow the types of the forward ones.
    """
    if kind is None:
        yield
        return
    entered: list[torch.autocast] = []

    def enter(part: nn.Module, inputs: Any) -> None:
        entered.append(torch.autocast(torch.device(device).type, dtype=kind))
        entered[-1].__enter__()

    def leave(part: nn.Module, inputs: Any, output: Any) -> Any:
        entered.pop().__exit__(None, None, None)
        return _whole(output)

    handles = (module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _whole(output: Any) -> Any:
    """Outputs as float32: a tensor, or tuples and lists of such; others as they are."""
    if isinstance(output, Tensor):
        return output.float() if output.is_floating_point() else output
    return type(output)(map(_whole, output)) if isinstance(output, tuple | list) else output
