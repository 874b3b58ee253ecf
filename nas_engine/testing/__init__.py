"""Contract tests that ship with the engine: inherit one class and a new component gets its checks.

    class TestMine(SpaceContract):
        space = make_space("mine")

The classes are collected by pytest under the name of the class that inherits them.
"""

try:
    import pytest
except ModuleNotFoundError:
    raise ModuleNotFoundError("nas_engine.testing needs pytest: pip install 'nas-engine[dev]'") from None

pytest.register_assert_rewrite(
    __name__ + ".criteria", __name__ + ".operators", __name__ + ".spaces", __name__ + ".supernets"
)

from .criteria import CriterionContract  # noqa: E402
from .operators import Example, OperatorContract, example  # noqa: E402
from .spaces import SpaceContract, StandaloneSpaceContract  # noqa: E402
from .supernets import SupernetContract  # noqa: E402

__all__ = [
    "CriterionContract",
    "Example",
    "OperatorContract",
    "SpaceContract",
    "StandaloneSpaceContract",
    "SupernetContract",
    "example",
]
