"""Library builders that take multipliers of depth and width: what their authors mean by scaling their network.

Where there is one, a scaled library network is built by it rather than grown: it also deepens stages without residual
blocks, and keeps the widths that the authors keep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, SpaceError, did_you_mean
from .rules import Rounding, Scaling

if TYPE_CHECKING:
    from torch import nn

Build = Callable[[Scaling, int, int], "nn.Module"]
"""From multipliers, channels of the images and classes to the module."""


@dataclass(frozen=True)
class Builder:
    """A network that its library scales.

    Attributes:
        takes: dimensions that the builder multiplies.
        build: its module; the resolution is none of its business.
    """

    takes: tuple[str, ...]
    build: Build


def builder(name: str) -> Builder | None:
    """The builder of `timm:NAME`, `torchvision:NAME`, or NAME in either; None where there is none that scales it.

    Raises:
        ConfigError: an unknown library.
    """
    library, colon, bare = name.rpartition(":")
    if not colon:
        return builders().get(f"torchvision:{bare}") or builders().get(f"timm:{bare}")
    if library not in ("timm", "torchvision"):
        raise ConfigError(f"unknown library {library!r} of model {name!r}: timm and torchvision have builders")
    return builders().get(name)


def built(name: str, scaling: Scaling, *, input_shape: Sequence[int] = (3, 224, 224), classes: int = 1000) -> nn.Module:
    """A library's network of another depth and width, in evaluation mode, with random weights.

    Args:
        name: `timm:NAME`, `torchvision:NAME` or NAME; see `builders`.
        scaling: multipliers of what the name stands for: `mobilenetv2_050` at width 2 is `mobilenetv2_100`.
        input_shape: of one image; only its channels matter.

    Raises:
        ConfigError: no builder of this name, the library is not installed, or it cannot take so many channels.
        SpaceError: multipliers that the builder does not take.
    """
    found = builder(name)
    if found is None:
        known = [n.partition(":")[2] for n in builders()]
        raise ConfigError(f"no builder takes multipliers for {name!r}: {did_you_mean(name, known)}; grow its graph")
    for dimension in ("depth", "width", "resolution"):
        if getattr(scaling, dimension) != 1 and dimension not in found.takes:
            raise SpaceError(f"the builder of {name!r} takes {' and '.join(found.takes)}, not {dimension}")
    try:
        return found.build(scaling, int(input_shape[0]), classes).eval()
    except ImportError as e:
        raise ConfigError(f"model {name!r} needs its library (pip install timm torchvision): {e}") from None


def builders() -> dict[str, Builder]:
    """All builders, by library and name."""
    return _BUILDERS


# ---- timm ----------------------------------------------------------------------------------------------------


def _timm(
    module: str,
    generator: str,
    name: str,
    base: Scaling,
    settings: dict[str, Any],
    scaling: Scaling,
    channels: int,
    classes: int,
) -> nn.Module:
    from importlib import import_module

    how: dict[str, Any] = {"channel_multiplier": base.width * scaling.width, **settings}
    if base.depth * scaling.depth != 1:
        how["depth_multiplier"] = base.depth * scaling.depth
    make = getattr(import_module(f"timm.models.{module}"), f"_gen_{generator}")
    made: nn.Module = make(name, pretrained=False, num_classes=classes, in_chans=channels, **how)
    return made


_EFFICIENTNET = {  # width, depth (Tan and Le 2019, released)
    "b0": (1.0, 1.0),
    "b1": (1.0, 1.1),
    "b2": (1.1, 1.2),
    "b3": (1.2, 1.4),
    "b4": (1.4, 1.8),
    "b5": (1.6, 2.2),
    "b6": (1.8, 2.6),
    "b7": (2.0, 3.1),
}
_LITE = dict(zip(("0", "1", "2", "3", "4"), list(_EFFICIENTNET.values())[:5], strict=True))
_BOTH, _WIDTH = ("width", "depth"), ("width",)


def _timm_builders() -> dict[str, Builder]:
    found: dict[str, Builder] = {}

    def file(
        name: str, module: str, generator: str, width: float, depth: float = 1.0, deep: bool = True, **more: Any
    ) -> None:
        build = partial(_timm, module, generator, name, Scaling(depth, width), more)
        found[f"timm:{name}"] = Builder(_BOTH if deep else _WIDTH, build)

    for size, (width, depth) in _EFFICIENTNET.items():
        file(f"efficientnet_{size}", "efficientnet", "efficientnet", width, depth)
    for size, (width, depth) in _LITE.items():
        file(f"efficientnet_lite{size}", "efficientnet", "efficientnet_lite", width, depth)
    for percent in (35, 50, 75, 100, 140):
        file(f"mobilenetv2_{percent:03d}", "efficientnet", "mobilenet_v2", percent / 100)
    for percent, depth in ((110, 1.2), (120, 1.4)):
        file(f"mobilenetv2_{percent}d", "efficientnet", "mobilenet_v2", percent / 100, depth, fix_stem_head=True)
    for size, percents in (("large", (75, 100)), ("small", (50, 75, 100))):
        for percent in percents:
            file(f"mobilenetv3_{size}_{percent:03d}", "mobilenetv3", "mobilenet_v3", percent / 100)
    for percent in (50, 75, 100, 140):
        file(f"mnasnet_{percent:03d}", "efficientnet", "mnasnet_b1", percent / 100, deep=False)
        file(f"semnasnet_{percent:03d}", "efficientnet", "mnasnet_a1", percent / 100, deep=False)
    for percent in (35, 50, 75, 100, 150):
        file(f"lcnet_{percent:03d}", "mobilenetv3", "lcnet", percent / 100, deep=False)
    for size in ("small", "medium", "large"):
        file(f"mobilenetv4_conv_{size}", "mobilenetv3", "mobilenet_v4", 1.0, deep=False)
    return found


# ---- torchvision ---------------------------------------------------------------------------------------------


def _three(channels: int) -> None:
    if channels != 3:
        raise ConfigError(f"models of torchvision take images of 3 channels, not {channels}; take timm:NAME")


def _mobilenet_v2(scaling: Scaling, channels: int, classes: int) -> nn.Module:
    from torchvision.models import MobileNetV2

    _three(channels)
    made: nn.Module = MobileNetV2(num_classes=classes, width_mult=scaling.width)
    return made


def _mobilenet_v3(name: str, scaling: Scaling, channels: int, classes: int) -> nn.Module:
    from torchvision.models import mobilenetv3

    _three(channels)
    rows, last = mobilenetv3._mobilenet_v3_conf(name, width_mult=scaling.width)
    made: nn.Module = mobilenetv3.MobileNetV3(rows, last, num_classes=classes)
    return made


def _mnasnet(alpha: float, scaling: Scaling, channels: int, classes: int) -> nn.Module:
    from torchvision.models import MNASNet

    _three(channels)
    made: nn.Module = MNASNet(alpha * scaling.width, num_classes=classes)
    return made


def _efficientnet(name: str, scaling: Scaling, channels: int, classes: int) -> nn.Module:
    from torch import nn
    from torchvision.models import efficientnet

    _three(channels)
    size = name.rpartition("_")[2]
    width, depth = _EFFICIENTNET[size]
    rows, last = efficientnet._efficientnet_conf(
        name, width_mult=width * scaling.width, depth_mult=depth * scaling.depth
    )
    dropout = 0.2 + 0.1 * (int(size[1]) // 2)
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01) if size in ("b5", "b6", "b7") else None
    made: nn.Module = efficientnet.EfficientNet(rows, dropout, num_classes=classes, norm_layer=norm, last_channel=last)
    return made


def _densenet(
    growth: int, repeats: tuple[int, ...], first: int, scaling: Scaling, channels: int, classes: int
) -> nn.Module:
    """Width multiplies the growth rate and the first features, depth the layers of each dense block."""
    from torchvision.models import DenseNet

    _three(channels)
    rounding = Rounding()
    made: nn.Module = DenseNet(
        growth_rate=rounding.width(growth, scaling.width),
        block_config=tuple(rounding.depth(n, scaling.depth) for n in repeats),
        num_init_features=rounding.width(first, scaling.width),
        num_classes=classes,
    )
    return made


def _shufflenet(widths: tuple[int, ...], scaling: Scaling, channels: int, classes: int) -> nn.Module:
    """Width multiplies the stages, depth their blocks; the stem and the last convolution stay, as in the paper."""
    from torchvision.models import ShuffleNetV2

    _three(channels)
    rounding = Rounding(divisor=2)
    stages = [24, *(rounding.width(n, scaling.width) for n in widths), 1024 if widths[-1] < 976 else 2048]
    repeats = [rounding.depth(n, scaling.depth) for n in (4, 8, 4)]
    made: nn.Module = ShuffleNetV2(repeats, stages, num_classes=classes)
    return made


def _torchvision_builders() -> dict[str, Builder]:
    found = {"mobilenet_v2": Builder(_WIDTH, _mobilenet_v2)}
    for size in ("small", "large"):
        found[f"mobilenet_v3_{size}"] = Builder(_WIDTH, partial(_mobilenet_v3, f"mobilenet_v3_{size}"))
    for name, alpha in (("0_5", 0.5), ("0_75", 0.75), ("1_0", 1.0), ("1_3", 1.3)):
        found[f"mnasnet{name}"] = Builder(_WIDTH, partial(_mnasnet, alpha))
    for size in _EFFICIENTNET:
        found[f"efficientnet_{size}"] = Builder(_BOTH, partial(_efficientnet, f"efficientnet_{size}"))
    for name, growth, repeats, first in (
        ("121", 32, (6, 12, 24, 16), 64),
        ("161", 48, (6, 12, 36, 24), 96),
        ("169", 32, (6, 12, 32, 32), 64),
        ("201", 32, (6, 12, 48, 32), 64),
    ):
        found[f"densenet{name}"] = Builder(_BOTH, partial(_densenet, growth, repeats, first))
    for name, widths in (
        ("x0_5", (48, 96, 192)),
        ("x1_0", (116, 232, 464)),
        ("x1_5", (176, 352, 704)),
        ("x2_0", (244, 488, 976)),
    ):
        found[f"shufflenet_v2_{name}"] = Builder(_BOTH, partial(_shufflenet, widths))
    return {f"torchvision:{name}": one for name, one in found.items()}


_BUILDERS = {**_timm_builders(), **_torchvision_builders()}
