"""Published members of all families beside timm's and torchvision's: params, MACs, and logits on the same weights.

    python -m benchmarks.families [--only 'resnet*'] [--logits-below 3e7] [--size 64]

Params and MACs are counted on the meta device at the published resolution; logits of members that are not too large
are compared on the library's random weights with random batch-norm statistics.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import publish
from nas_engine.testing.measure import shake_statistics
from predictors.cost import check_guidelines
from search_spaces import Network
from search_spaces.families import Family, published, published_state, skeleton
from search_spaces.families.shufflenet import V1_PUBLISHED_MMACS

LIBRARIES = ("timm", "torchvision")
TOLERANCE = 1e-5
"""Largest difference of logits, relative to the largest logit, that counts as equal."""


def library_module(source: tuple[str, str]) -> nn.Module:
    """A published network as its library builds it, with random weights, in evaluation mode."""
    library, name = source
    if library == "timm":
        import timm

        return timm.create_model(name).eval()
    import torchvision

    module: nn.Module = torchvision.models.get_model(name, weights=None)
    return module.eval()


def library_cost(source: tuple[str, str], resolution: int) -> tuple[int, int]:
    """Params and MACs of the library's network, without memory."""
    with torch.device("meta"):
        module = library_module(source).requires_grad_(False)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(torch.empty(1, 3, resolution, resolution))
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops() // 2


def logits_difference(name: str, source: tuple[str, str], size: int, seed: int = 0) -> float:
    """Largest difference between our logits and the library's, relative to the largest logit.

    Args:
        name: of the published network.
        source: library and the name there.
        size: height and width of two random images.
        seed: of weights and images.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    module = library_module(source)
    shake_statistics(module, generator)
    network = Network(skeleton(name).graph((3, size, size))).eval()
    network.load_state_dict(published_state(name, module.state_dict()))
    images = torch.randn(2, 3, size, size, generator=generator)
    with torch.no_grad():
        ours, theirs = network(images), module(images)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def compared(family: Family, name: str, largest: float, size: int) -> dict[str, Any]:
    """The row of a member.

    Args:
        family: that it belongs to.
        name: of the member.
        largest: params up to which logits are compared.
        size: of the images for it.
    """
    source, table = family.members[name].source, skeleton(name)
    graph = table.graph()
    cost = graph.cost
    broken = [f.guideline for f in check_guidelines(graph) if f.broken]
    row: dict[str, Any] = {"name": name, "family": family.name, "params": cost.params, "macs": cost.macs}
    row |= {"resolution": table.resolution, "guidelines_broken": broken, "source": " ".join(source)}
    if source[0] not in LIBRARIES:
        if name in V1_PUBLISHED_MMACS:
            mmacs = (cost.macs - graph["classifier"].signature.cost.macs) / 1e6
            row |= {"published_mmacs": V1_PUBLISHED_MMACS[name], "equal": round(mmacs) == V1_PUBLISHED_MMACS[name]}
        return row
    params, macs = library_cost(source, table.resolution)
    row |= {"library_params": params, "library_macs": macs}
    equal = (params, macs) == (cost.params, cost.macs)
    if params <= largest:
        row["logits_difference"] = logits_difference(name, source, size)
        equal = equal and row["logits_difference"] <= TOLERANCE
    return {**row, "equal": equal}


def rows(pattern: str = "*", largest: float = 30e6, size: int = 64) -> Iterator[dict[str, Any]]:
    """One row for each member of each family whose name matches."""
    for name, family in published().items():
        if fnmatch.fnmatch(name, pattern):
            yield compared(family, name, largest, size)


def summary(table: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many members are equal to their library's, and how far logits are apart at most."""
    in_libraries = [row for row in table if "library_params" in row]
    in_paper = [row for row in table if "published_mmacs" in row]
    differences = [row["logits_difference"] for row in table if "logits_difference" in row]
    return {
        "rows": len(in_libraries),
        "equal": sum(row["equal"] for row in in_libraries),
        "logits_compared": len(differences),
        "logits_max_difference": max(differences, default=None),
        "rows_of_papers": len(in_paper),
        "equal_to_papers": sum(row["equal"] for row in in_paper),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", help="names of members, such as 'resnet*'")
    parser.add_argument("--logits-below", type=float, default=30e6, help="params up to which logits are compared")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images for logits")
    asked = parser.parse_args(arguments)
    table = []
    for row in rows(asked.only, asked.logits_below, asked.size):
        table.append(row)
        told = ("equal" if row["equal"] else "DIFFERENT") if "equal" in row else "nothing to compare with"
        print(f"{row['name']:28} {row['params']:>13,} {row['macs']:>15,}  {told}", file=sys.stderr)
    if asked.only == "*":
        libraries = {name: version(name) for name in LIBRARIES}
        publish("families", summary(table), {"libraries": libraries, "table": table})
    else:  # a part is no result to keep
        print(json.dumps(summary(table)))


if __name__ == "__main__":
    main()
