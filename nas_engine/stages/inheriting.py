"""Weights that a space brings: those of a trained network, its channels put in order of importance.

The order is written down as soon as it is known, so that a run that is killed while the shared weights are trained
further does not judge the channels again.
"""

from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from search_spaces.errors import ConfigError, SpaceError

from ..context import Context
from ..files import read_json, replacing, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces.network import Network
    from search_spaces.pruned import Pruned

    from ..compress.criteria import Criterion

_BATCH = 64  # images that a criterion sees at a time
_SAME = 1e-3  # relative change of outputs that rounding explains


def check_inheritance(context: Context) -> None:
    """Read the weights and look the criterion up, so that what does not fit is told before anything runs.

    Raises:
        EngineError: weights of another architecture, an unknown criterion, or a setting that it does not take.
    """
    _criterion(context)
    cast("Pruned", context.space).trained()


def _criterion(context: Context) -> Criterion:
    from ..compress.criteria import criteria
    from ..compress.request import made

    space = cast("Pruned", context.space)
    return made("criterion", criteria[space.criterion], space.criterion, space.settings, context.config.seed)


def inherited(context: Context) -> dict[str, Tensor]:
    """The shared weights to begin with; also in `supernet/given.safetensors`, their order in `supernet/order.json`."""
    from safetensors.torch import save_file

    from search_spaces.coupling.order import reorder

    from ..train.candidate import GIVEN

    space = cast("Pruned", context.space)
    network = space.trained()
    order = _order(context, network)
    state = reorder(network.state_dict(), space.coupling, order)
    _check_same(context, network, state)
    with replacing(context.path("supernet", GIVEN)) as path:
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    return state


def _order(context: Context, network: Network) -> np.ndarray:
    """(units,) which unit comes to the place of each; from the file where it was judged before."""
    from search_spaces.coupling.order import falling

    path = context.path("supernet", "order.json")
    space = cast("Pruned", context.space)
    if path.exists():
        return np.array(read_json(path)["order"], dtype=np.int64)
    scores = _scores(context, network)
    order = falling(space.coupling, scores)
    accuracy = _accuracy(context, network)
    kept = {"criterion": space.criterion, "settings": space.settings, "accuracy": accuracy}
    groups = {group.name: scores[group.units].tolist() for group in space.coupling.groups}
    write_json(path, {**kept, "order": order.tolist(), "scores": groups})
    return order


def _scores(context: Context, network: Network) -> np.ndarray:
    """(units,) what the criterion says, on training images as they are."""
    from search_spaces.coupling import Gated

    from ..compress.criteria import score

    space = cast("Pruned", context.space)
    device = context.config.device.name
    context.step(f"units judged by {space.criterion}", 0, space.coupling.count)
    walk = context.data.walk(context.data.train, _BATCH, seed=context.config.seed, device=device)
    batches = islice(walk, -(-space.images // _BATCH))
    units = score(_criterion(context), Gated(network.to(device), space.coupling), batches).units
    network.cpu()
    if units is None:
        raise ConfigError(
            f"criterion {space.criterion!r} does not judge channels; choose one that does, such as taylor"
        )
    return units


def _accuracy(context: Context, network: Network) -> float:
    """Of the network before anything is cut, on the validation part."""
    from ..evaluate import judge

    device = context.config.device.name
    accuracy = judge(network.to(device), context.data, context.data.validation, device=device).accuracy
    network.cpu()
    return accuracy


def _check_same(context: Context, network: Network, state: dict[str, Tensor]) -> None:
    """The network with units in another order must compute what it did."""
    import torch

    inputs = context.data.samples(_BATCH).cpu()
    with torch.inference_mode():
        before = network(inputs)
        network.load_state_dict(state)
        change = float((network(inputs) - before).norm() / before.norm())
    if not change < _SAME:
        raise SpaceError(
            f"model {cast('Pruned', context.space).model!r} gives other outputs (by {change:.1e}) when its channels "
            "change places, so it cannot be a space of cuts; search another model"
        )


def fingerprint(weights: str | None) -> str | None:
    """Tells the contents of two weights files apart; None where there is none."""
    if weights is None or not Path(weights).is_file():
        return None
    return hashlib.sha256(Path(weights).read_bytes()).hexdigest()[:16]
