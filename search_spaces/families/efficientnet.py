"""EfficientNet: B0, the table of coefficients that was released for B1 to L2, and what the formula itself gives.

The two differ: no whole phi of `alpha^phi, beta^phi, gamma^phi` has the released depths, widths and resolutions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from ..scaling.rules import Compound, Scaling
from ..space import Option
from ..spaces import register_space
from .family import Family, Member, file_family
from .mobilenet import InvertedResidualSpace
from .naming import timm_name
from .skeleton import Row, Skeleton

RELEASED: Mapping[str, tuple[float, float, int, float]] = {
    "efficientnet_b0": (1.0, 1.0, 224, 0.2),
    "efficientnet_b1": (1.0, 1.1, 240, 0.2),
    "efficientnet_b2": (1.1, 1.2, 260, 0.3),
    "efficientnet_b3": (1.2, 1.4, 300, 0.3),
    "efficientnet_b4": (1.4, 1.8, 380, 0.4),
    "efficientnet_b5": (1.6, 2.2, 456, 0.4),
    "efficientnet_b6": (1.8, 2.6, 528, 0.5),
    "efficientnet_b7": (2.0, 3.1, 600, 0.5),
    "efficientnet_b8": (2.2, 3.6, 672, 0.5),
    "efficientnet_l2": (4.3, 5.3, 800, 0.5),
}
"""Released members: multipliers of width and of depth, resolution in pixels, dropout before the classifier."""

_B0 = (  # repeats, kernel, stride of the first block, expansion, width
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_DROPOUT = 0.2, 0.5, 7  # of B0, at most, and at which phi (Tan and Le 2019, section 5.2)


def b0() -> Skeleton:
    """EfficientNet-B0 (Tan and Le 2019, table 1)."""
    rows = [Row("stem", "conv_bn_act", 32, stride=2, attributes={"kernel_size": 3, "activation": "silu"})]
    for i, (repeats, kernel, stride, expansion, width) in enumerate(_B0):
        attributes = {"kernel_size": kernel, "expansion": expansion, "se_ratio": 0.25, "activation": "silu"}
        rows.append(Row(f"stage{i}", "mbconv", width, repeats, stride, attributes))
    rows.append(Row("head", "conv_bn_act", 1280, attributes={"kernel_size": 1, "activation": "silu"}))
    rows.append(Row("classifier", "classifier", attributes={"dropout": _DROPOUT[0]}))
    return Skeleton("efficientnet_b0", tuple(rows), drop_path=0.2)


def released(name: str) -> Skeleton:
    """A member as it was released: the coefficients of `RELEASED`."""
    width, depth, resolution, dropout = RELEASED[name]
    table = b0().scaled(Scaling(depth, width))
    return _called(replace(table, resolution=resolution), name, dropout)


def formula(phi: float, rule: Compound | None = None) -> Skeleton:
    """The member that the paper's equation 3 gives: B0 scaled by `alpha^phi, beta^phi, gamma^phi`.

    Dropout rises with phi as the paper lets it rise from B0 to B7.

    Args:
        phi: need not be whole.
        rule: by default that of the paper, 1.2, 1.1, 1.15.
    """
    low, high, last = _DROPOUT
    dropout = min(high, max(0.0, low + (high - low) * phi / last))
    return _called(b0().scaled((rule or Compound()).scaling(phi)), f"efficientnet_phi_{phi:g}", round(dropout, 6))


def _called(table: Skeleton, name: str, dropout: float) -> Skeleton:
    classifier = table.row("classifier").with_(dropout=dropout)
    return replace(table.replaced({"classifier": classifier}), name=name)


def _original(member: str, name: str) -> str:
    return timm_name(released(member), name)


efficientnet = file_family(
    Family("efficientnet", {name: Member(partial(released, name), ("timm", name)) for name in RELEASED}, _original)
)


@register_space("efficientnet")
class EfficientNet(InvertedResidualSpace):
    """Networks like EfficientNet: kernel, expansion and squeeze-and-excite of each stage, beside depth and width.

    These are the choices of the search that found B0 (Tan et al. 2019, MnasNet, section 4.1). The first stage, which
    does not expand, stays so.
    """

    family = "efficientnet"
    default = "efficientnet_b0"
    varied: ClassVar[Mapping[str, Sequence[Option]]] = {
        "kernel_size": (3, 5),
        "expansion": (3, 4, 6),
        "se_ratio": (0.0, 0.25),
    }
